//! `swirl node`.

use super::certificates;
use super::head::credentials;
use super::network::{Giving, Sockets, ToController, address_towards};
use super::outfit::{MODELS, Outfit};
use super::replica::Berth;
use crate::args::NodeArgs;
use crate::config::{self, ModelSection};
use crate::console;
use crate::ending::{SICK, STOPPED, Stopped, in_order};
use crate::engine::Machine;
use crate::files::empty_folder;
use crate::folder;
use crate::logs;
use crate::usage::UsageError;
use crate::version::VERSION;
use actors::Stop;
use actors::node::{Contact, NodeEnd, NodePlan};
use actors::remote::{EXPORTS, clear_leftovers};
use anyhow::{Context, Result};
use proto::{NodeName, Role};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Pause before the controller's address is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Time limit for another process of the same folder to end: one that is started again at once may
/// find the one before it still there.
const TAKE_LIMIT: Duration = Duration::from_secs(30);

/// Pause between looks at whether it has.
const TAKE_AGAIN: Duration = Duration::from_millis(200);

/// Where launchers say which of a machine's processes this is.
const LOCAL_RANKS: [&str; 3] = ["SLURM_LOCALID", "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"];

/// Time beyond its grace period that a node may take to close its engines.
const CLOSING: Duration = Duration::from_secs(10);

/// Runs a node until its run is over, or it is asked to leave by a signal.
///
/// # Errors
/// When its certificate, device or configuration cannot be used, or the run does not take it.
pub async fn run(args: NodeArgs) -> Result<ExitCode> {
    let stop = Stop::default();
    let grace = args.stop_grace + CLOSING;
    in_order(grace, &stop, take_part(args, &stop)).await
}

async fn take_part(args: NodeArgs, stop: &Stop) -> Result<ExitCode> {
    let first = *args.roles.first().context("clap asks for a role")?;
    if args.roles.contains(&Role::Controller) {
        return Err(UsageError::new(
            "a controller is started with `swirl run CONFIG --listen HOST:PORT`",
        )
        .into());
    }
    let credentials = credentials(&args.certs, first)?;
    let name = credentials.get().identity().name.clone();
    logs::name(name.as_str());
    tokio::spawn(certificates::keep(credentials.clone()));
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
    let folder = NodeFolder::take(folder, TAKE_LIMIT).await?;
    let machine = Machine::new(&ModelSection {
        device: device(&args.device),
        threads: args.threads,
        ..ModelSection::default()
    })?;
    let berth = match args.roles.contains(&Role::Learner) {
        true => {
            let ip = stop.unless(own_address(args.address, &args.join)).await;
            let ip = ip.ok_or(Stopped::InOrder)??;
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
        "Node {name} looks for the controller at {}; it computes on {}.",
        args.join,
        machine.name()
    ));
    let pulls = [Role::Sampler, Role::Learner].map(|role| args.roles.contains(&role));
    let plan = NodePlan {
        name,
        roles: args.roles.into_iter().collect(),
        version: VERSION.to_owned(),
        config,
        boot: rand::random(),
        device: machine.name(),
        outfitter: Arc::new(Outfit {
            machine,
            folder: folder.path.clone(),
            berth,
        }),
        dialler: Arc::new(ToController {
            join: args.join,
            credentials,
            sockets: sockets.handles(),
            way: Mutex::default(),
            failures: AtomicUsize::default(),
            giving: pulls
                .contains(&true)
                .then(|| Giving::at(args.address, args.weights_port)),
        }),
        contact,
    };
    match actors::node::run_with(plan, stop.asked(), args.stop_grace).await {
        NodeEnd::Dismissed(reason) => {
            console::remark(format_args!("The controller says: {reason}."));
            Ok(ExitCode::SUCCESS)
        }
        NodeEnd::Stopped => {
            console::remark(format_args!("The node left the run."));
            Ok(ExitCode::from(STOPPED))
        }
        NodeEnd::Refused(reason) => {
            Err(anyhow::anyhow!("the run does not take this node: {reason}"))
        }
        NodeEnd::Sick(reason) => {
            tracing::error!(
                reason,
                "An engine of this node stays sick: its process ends with exit code {SICK}, to be started \
                 again."
            );
            // What hangs in a driver would keep an orderly end waiting.
            std::process::exit(SICK.into())
        }
    }
}

/// A node's folder, which belongs to this process until it ends.
#[derive(Debug)]
struct NodeFolder {
    path: PathBuf,
    _lock: File,
}

impl NodeFolder {
    /// Takes a folder for this process, and clears what one that was ended left half made in it.
    ///
    /// # Errors
    /// When it cannot be made, or another process has it and keeps it for so long.
    async fn take(path: PathBuf, limit: Duration) -> Result<Self> {
        let place = path.display().to_string();
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the node's folder {place}"))?;
        let until = tokio::time::Instant::now() + limit;
        let mut is_said = false;
        let lock = loop {
            if let Some(lock) = folder::try_lock(&path)? {
                break lock;
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < until,
                "{place} is in use by another process{}: end that one, or say another --dir",
                folder::holder(&path).map_or_else(String::new, |who| format!(" ({who})"))
            );
            if !std::mem::replace(&mut is_said, true) {
                console::remark(format_args!(
                    "{place} is in use by another process; waiting for it to end."
                ));
            }
            tokio::time::sleep(TAKE_AGAIN).await;
        };
        let cleared = empty_folder(&path.join(EXPORTS));
        let cleared = cleared.and_then(|()| clear_leftovers(&path.join(MODELS)));
        cleared.with_context(|| format!("cannot clear the node's folder {place}"))?;
        Ok(Self { path, _lock: lock })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_has_its_folder_to_itself_and_clears_what_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu-1");
        for left in ["exports/x/model", "models/.m.part-abc", "models/whole"] {
            std::fs::create_dir_all(path.join(left)).unwrap();
        }
        let first = NodeFolder::take(path.clone(), TAKE_LIMIT).await.unwrap();
        let is_there = |name: &str| path.join(name).exists();
        assert!(!is_there("exports/x") && !is_there("models/.m.part-abc"));
        assert!(is_there("models/whole"));
        let second = NodeFolder::take(path.clone(), TAKE_LIMIT).await;
        let error = format!("{:#}", second.unwrap_err());
        assert!(
            error.contains("in use") && error.contains("--dir"),
            "{error}"
        );
        // It is waited for, for a while.
        let waiting = NodeFolder::take(path.clone(), TAKE_LIMIT);
        let ending = async {
            tokio::time::sleep(TAKE_LIMIT / 2).await;
            drop(first);
        };
        let (taken, ()) = tokio::join!(waiting, ending);
        taken.unwrap();
    }
}
