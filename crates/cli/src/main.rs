//! The binary `swirl`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Results go to stdout, everything
//! else to stderr.

mod args;
mod config;
mod data_commands;
mod doctor;
mod engine;
mod eval_command;
mod files;
mod folder;
mod judges;
mod logs;
mod machine_memory;
mod metrics;
mod model_commands;
mod progress;
mod questions;
mod run;

use args::{Args, Command, RunArgs};
use clap::Parser;
use config::{ConfigError, Loaded};
use folder::{FolderInUse, Reuse};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse_from(args::with_settings(std::env::args()));
    logs::init(args.log.as_deref());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = dispatch(args) => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!(
                "interrupted; everything acknowledged is on disk, go on with --resume"
            )),
        }
    });
    // A device thread that is in the middle of a long step is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 where the user can mend it in the configuration or on the command line.
fn exit_code(error: &anyhow::Error) -> u8 {
    let is_usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<FolderInUse>()
            || cause.is::<data::DataError>()
            || cause.is::<data::SelectError>()
            || cause.is::<data::GenerateError>()
            || cause.is::<learner::ConfigError>()
            || cause.is::<tools::registry::UnknownTool>()
            || cause.is::<control::phases::PhaseError>()
    });
    if is_usage { 2 } else { 1 }
}

async fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(run) => run_command(run).await,
        Command::Eval(eval) => eval_command::run(eval).await,
        Command::Data(data) => data_commands::run(data),
        Command::Model(model) => model_commands::run(model),
        Command::Doctor(doctor) => Ok(doctor::run(&doctor)),
    }
}

async fn run_command(args: RunArgs) -> anyhow::Result<ExitCode> {
    let loaded: Loaded = config::load(&args.configs, &args.overrides())?;
    if args.dry_run {
        print!("{}", loaded.resolved);
        return Ok(ExitCode::SUCCESS);
    }
    let reuse = match (args.resume, args.clean) {
        (true, _) => Reuse::Resume,
        (_, true) => Reuse::Clean,
        _ => Reuse::Never,
    };
    let report = run::run(&loaded, reuse).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.text());
        println!("Run folder: {}", loaded.config.run.folder().display());
    }
    Ok(ExitCode::SUCCESS)
}
