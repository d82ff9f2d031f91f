//! The binary `swirl`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 asked to end before it was done
//! (`ending`), 4 the GPU works no more (`gpu`). Results go to stdout, everything else to stderr.

#[cfg(target_os = "linux")]
mod allocator;
mod args;
mod certs_commands;
mod cluster;
mod config;
mod console;
mod data_commands;
mod doctor;
mod ending;
mod engine;
mod eval_command;
mod files;
mod folder;
mod gpu;
mod judges;
mod launch;
mod logs;
mod machine_memory;
mod metrics;
mod model_commands;
mod open_files;
mod progress;
mod prompt;
mod questions;
mod requests;
mod role_memory;
mod run;
mod try_commands;
mod usage;
mod version;

use actors::Stop;
use args::{Args, Command, RunArgs};
use clap::Parser;
use config::Loaded;
use folder::Reuse;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Pause between writes of the health file.
const HEALTH: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = Args::parse_from(args::with_settings(std::env::args_os()));
    // Dropped last: what is said at the end is out then.
    let _logging = match logs::init(args.log.as_deref(), args.log_format) {
        Ok(logging) => logging,
        Err(error) => {
            console::remark(format_args!("error: cannot start logging: {error}"));
            return ExitCode::from(1);
        }
    };
    if let Err(error) = open_files::raise() {
        tracing::warn!(%error, "The limit of open files stays as it was.");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            console::remark(format_args!(
                "error: cannot start the async runtime: {error}"
            ));
            return ExitCode::from(1);
        }
    };
    // What may take long ends in order; all else ends by a signal as any program does.
    let result = runtime.block_on(dispatch(args));
    // A device thread that is in the middle of a long step is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            console::remark(format_args!("error: {}", usage::message(&error)));
            ExitCode::from(usage::exit_code(&error))
        }
    }
}

async fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(run) => run_command(run).await,
        Command::Eval(eval) => eval_command::run(eval).await,
        Command::Data(data) => data_commands::run(data),
        Command::Try(command) => try_commands::run(command).await,
        Command::Model(model) => model_commands::run(model),
        Command::Launch(launch) => launch::run(launch).await,
        Command::Stop { run } => requests::stop(&run),
        Command::Drain { run, node } => requests::drain_command(&run, &node),
        Command::Node(node) => cluster::node_command(node).await,
        Command::Certs(certs) => certs_commands::run(certs),
        Command::Doctor(doctor) => doctor::run(&doctor).await,
    }
}

async fn run_command(args: RunArgs) -> anyhow::Result<ExitCode> {
    let loaded: Loaded = config::load(&args.configs, &settings(&args))?;
    for remark in &loaded.remarks {
        console::remark(format_args!("warning: {remark}"));
    }
    if args.dry_run {
        return dry_run(&loaded, args.json);
    }
    let reuse = match (args.resume, args.clean) {
        (true, _) => Reuse::Resume,
        (_, true) => Reuse::Clean,
        _ => Reuse::Never,
    };
    if let Some(path) = args.health_file {
        tokio::spawn(keep_fresh(path));
    }
    let stop = Stop::default();
    let work = run::run(&loaded, reuse, &stop);
    let report = ending::in_order(loaded.config.run.stop_grace.0, &stop, work).await?;
    if args.json {
        console::print_line(&serde_json::to_string(&report)?)?;
    } else {
        let folder = loaded.config.run.folder();
        let text = report.text();
        console::print(&format!("{text}\nRun folder: {}\n", folder.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file every few seconds.
async fn keep_fresh(path: PathBuf) {
    loop {
        if let Err(error) = std::fs::write(&path, b"") {
            tracing::warn!(path = %path.display(), %error, "The health file cannot be written.");
        }
        tokio::time::sleep(HEALTH).await;
    }
}

/// Checks what can be checked and prints the configuration.
fn dry_run(loaded: &Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let config = &loaded.config;
    let (sources, _) = questions::Sources::load(config)?.without(&config.run.skip, config)?;
    run::preflight::offline(config, &sources)?;
    // The model may lie where the run will be, and not here.
    if let Ok(spec) = ::model::spec_of(&config.model.path) {
        let items = (sources.questions.len() as u64).saturating_mul(config.rollout.samples.into());
        console::remark("Memory of each role, on nodes of its own:");
        for memory in role_memory::of(config, &spec, items) {
            console::remark(format_args!("{}", memory.text()));
        }
    }
    match json {
        true => {
            let table: toml::Table = loaded.resolved.parse()?;
            console::print_line(&serde_json::to_string(&table)?)?;
        }
        false => console::print(&loaded.resolved)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings of the command line, those with an argument of their own last.
fn settings(args: &RunArgs) -> Vec<String> {
    let quoted = |key: &str, value: String| format!("cluster.{key}={value:?}");
    let listen = args.listen.iter().map(|at| quoted("listen", at.clone()));
    let certs = args
        .certs
        .iter()
        .map(|dir| quoted("certs", dir.display().to_string()));
    args.set
        .iter()
        .cloned()
        .chain(listen)
        .chain(certs)
        .collect()
}
