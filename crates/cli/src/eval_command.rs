//! `swirl eval`: one model on one file of questions.

use crate::args::EvalArgs;
use crate::config::{self, Config};
use crate::engine::Machine;
use crate::folder::FolderInUse;
use crate::questions;
use crate::run::generate::{Rollouts, refuse_failures, roll_out, stored};
use anyhow::{Context, Result, ensure};
use eval::summarise;
use std::path::PathBuf;
use std::process::ExitCode;

/// Evaluates and prints a table.
///
/// # Errors
/// When the model or the questions cannot be loaded, or an item failed for good.
pub async fn run(args: EvalArgs) -> Result<ExitCode> {
    ensure!(
        args.samples == 1 || args.temperature > 0.0,
        "--samples {} with temperature 0 would give the same answer each time: set --temperature",
        args.samples
    );
    let config = configuration(&args)?;
    let questions = questions::load(&config.questions)?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| scratch.path().join("trajectories"));
    if folder.exists() && !args.resume {
        return Err(FolderInUse(folder).into());
    }
    let machine = Machine::new(&config.model)?;
    let settings = &config.evaluation;
    let rollouts = Rollouts {
        title: "evaluation",
        model: &args.model,
        store: &folder,
        questions,
        samples: args.samples,
        temperature: args.temperature,
        top_p: 1.0,
        top_k: 0,
        max_steps: settings.max_steps,
        max_action_tokens: settings.max_action_tokens,
        with_tools: !args.without_tools,
        seed: config.run.seed,
    };
    let report = roll_out(&config, &machine, rollouts).await?;
    refuse_failures(&report)?;
    let summary = summarise(&stored(&folder)?)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{}",
            crate::run::report::summary_table(&[(args.model.display().to_string(), summary)])
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings of `--config`, with the command line's questions.
fn configuration(args: &EvalArgs) -> Result<Config> {
    let files: Vec<PathBuf> = args.config.iter().cloned().collect();
    let mut overrides = Vec::new();
    if let Some(split) = &args.split {
        let split = toml::Value::String(split.clone());
        overrides.push(format!("questions.selection.split={split}"));
    }
    if let Some(limit) = args.limit {
        overrides.push(format!("questions.selection.limit={limit}"));
    }
    overrides.extend(args.set.iter().cloned());
    Ok(config::load_for(&args.data, &files, &overrides)?.config)
}
