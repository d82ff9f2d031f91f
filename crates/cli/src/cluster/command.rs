//! `swirl node`.

use super::head::credentials;
use super::network::{Giving, Sockets, ToController, address_towards};
use super::outfit::Outfit;
use super::replica::Berth;
use crate::args::NodeArgs;
use crate::config::{self, ModelSection};
use crate::console;
use crate::engine::Machine;
use crate::usage::UsageError;
use actors::node::{Contact, NodeEnd, NodePlan};
use anyhow::{Context, Result};
use proto::{NodeName, Role};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Pause before the controller's address is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Where launchers say which of a machine's processes this is.
const LOCAL_RANKS: [&str; 3] = ["SLURM_LOCALID", "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"];

/// Runs a node until its run is over.
///
/// # Errors
/// When its certificate, device or configuration cannot be used, or the run does not take it.
pub async fn run(args: NodeArgs) -> Result<ExitCode> {
    let first = *args.roles.first().context("clap asks for a role")?;
    if args.roles.contains(&Role::Controller) {
        return Err(UsageError::new(
            "a controller is started with `swirl run CONFIG --listen HOST:PORT`",
        )
        .into());
    }
    let credentials = credentials(&args.certs, first)?;
    let name = credentials.identity().name.clone();
    let config = match &args.config {
        Some(path) => {
            let loaded = config::load(std::slice::from_ref(path), &[])?;
            Some(config::Identity::of_settings(&loaded.config)?.hash())
        }
        None => None,
    };
    let folder = match args.dir {
        Some(folder) => folder,
        None => default_folder(&name)?,
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the node's folder {}", folder.display()))?;
    let machine = Machine::new(&ModelSection {
        device: device(&args.device),
        threads: args.threads,
        ..ModelSection::default()
    })?;
    let credentials = Arc::new(credentials);
    let berth = match args.roles.contains(&Role::Learner) {
        true => {
            let ip = own_address(args.address, &args.join).await?;
            Some(Arc::new(Berth::new(
                ip,
                args.ring_port,
                credentials.clone(),
            )?))
        }
        false => None,
    };
    let sockets = Sockets::new()?;
    let (contact, contacts) = watch::channel(Contact::default());
    if let Some(path) = args.health_file {
        tokio::spawn(keep_fresh(path, contacts));
    }
    console::remark(format_args!(
        "Node {name} looks for the controller at {}.",
        args.join
    ));
    let samples = args.roles.contains(&Role::Sampler);
    let plan = NodePlan {
        name,
        roles: args.roles.into_iter().collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config,
        boot: rand::random(),
        outfitter: Arc::new(Outfit {
            machine,
            folder,
            berth,
        }),
        dialler: Arc::new(ToController {
            join: args.join,
            credentials,
            sockets: sockets.handles(),
            way: Mutex::default(),
            giving: samples.then(|| Giving::at(args.address, args.weights_port)),
        }),
        contact,
    };
    match actors::node::run(plan, terminated()).await {
        NodeEnd::Dismissed(reason) => {
            console::remark(format_args!("The controller says: {reason}."));
            Ok(ExitCode::SUCCESS)
        }
        NodeEnd::Stopped => {
            console::remark(format_args!("The node left the run."));
            Ok(ExitCode::SUCCESS)
        }
        NodeEnd::Refused(reason) => {
            Err(anyhow::anyhow!("the run does not take this node: {reason}"))
        }
    }
}

/// Where other nodes reach this one. A controller that cannot be found yet is waited for.
async fn own_address(given: Option<IpAddr>, join: &str) -> Result<IpAddr> {
    if let Some(ip) = given {
        return Ok(ip);
    }
    loop {
        let found = tokio::net::lookup_host(join).await;
        match found.map(|mut found| found.find_map(|to| address_towards(to).ok())) {
            Ok(Some(ip)) => return Ok(ip),
            Ok(None) => tracing::warn!(join, "No network leads to the controller; still looking."),
            Err(error) => {
                tracing::warn!(join, %error, "The controller is not found; still looking.")
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The first GPU for the first process of a machine, the second for the second.
fn device(asked: &str) -> String {
    let gpus = tch::Cuda::device_count();
    let rank = LOCAL_RANKS
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse::<i64>().ok());
    match rank {
        Some(rank) if asked == "auto" && gpus > 0 => format!("cuda:{}", rank % gpus),
        _ => asked.to_owned(),
    }
}

/// `$XDG_CACHE_HOME/swirl/nodes/NAME`, or below `~/.cache`.
fn default_folder(name: &NodeName) -> Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => return Err(UsageError::new("there is no home folder: say --dir FOLDER").into()),
    };
    Ok(cache.join("swirl/nodes").join(name.as_str()))
}

/// Writes a file at each contact with the controller: probes look at its time.
async fn keep_fresh(path: PathBuf, mut contacts: watch::Receiver<Contact>) {
    while contacts.changed().await.is_ok() {
        let Contact::Joined(_) = *contacts.borrow_and_update() else {
            continue;
        };
        if let Err(error) = std::fs::write(&path, b"") {
            tracing::warn!(path = %path.display(), %error, "The health file cannot be written.");
        }
    }
}

/// Waits for SIGTERM: the node leaves the run then.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(error) => {
            tracing::warn!(%error, "SIGTERM ends this node without a word to the controller.");
            std::future::pending().await
        }
    }
}
