//! `swirl eval`: one model on one file of questions.

use crate::args::EvalArgs;
use crate::config::{self, Config, EvaluationSection, Identity, ModelSection, QuestionSource};
use crate::config::{FilterSection, RolloutSection, RunSection};
use crate::console;
use crate::ending::in_order;
use crate::engine::Machine;
use crate::files::write_atomically;
use crate::folder::is_there;
use crate::progress::Overview;
use crate::prompt;
use crate::questions;
use crate::run::generate::{Rollouts, refuse_failures, roll_out, stored};
use crate::run::preflight::fits_context;
use crate::run::unjudged;
use crate::usage::UsageError;
use actors::Stop;
use anyhow::{Context, Result};
use eval::summarise;
use proto::Question;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What an evaluation that is continued must have been begun with; `eval.json` beside its
/// trajectories.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    /// The model's directory.
    model: PathBuf,
    /// Whether tools were offered.
    with_tools: bool,
    /// Hash of the questions, in their order.
    questions: String,
    /// Hash of all other settings that results depend on.
    settings: String,
}

/// Evaluates and prints a table.
///
/// # Errors
/// When the model or the questions cannot be loaded, or an item failed for good.
pub async fn run(args: EvalArgs) -> Result<ExitCode> {
    let config = configuration(&args)?;
    for remark in prompt::check_one(&config, !args.without_tools)? {
        console::remark(format_args!("warning: {remark}"));
    }
    let questions = questions::load(&config.questions)?;
    let spec = model::spec_of(&config.model.path)?;
    let context = u64::from(config.rollout.max_context_tokens);
    fits_context("rollout.max_context_tokens", context, &spec)?;
    let machine = Machine::new(&config.model)?;
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let folder = match &args.out {
        Some(out) => {
            claim(out, args.resume, &begun(&args, &config, &questions)?)?;
            out.clone()
        }
        None => scratch.path().join("trajectories"),
    };
    let overview = Overview::default();
    let stop = Stop::default();
    let rollouts = rollouts(&args, &config, &folder, questions, (&overview, &stop));
    let work = roll_out(&config, &machine, None, rollouts);
    let report = in_order(config.run.stop_grace.0, &stop, work).await?;
    refuse_failures(&report)?;
    let mut trajectories = stored(&folder)?;
    let dropped = unjudged::keep_common(&mut [&mut trajectories]);
    if dropped + report.unjudged.len() > 0 {
        console::remark(format_args!(
            "Questions with a trajectory that could not be judged are left out of the figures."
        ));
    }
    let summary = summarise(&trajectories)?;
    if args.json {
        console::print_line(&serde_json::to_string(&summary)?)?;
    } else {
        let name = config.model.path.display().to_string();
        console::print_line(&crate::run::report::summary_table(&[(name, summary)]))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rollouts<'a>(
    args: &EvalArgs,
    config: &'a Config,
    folder: &'a Path,
    questions: Vec<Question>,
    (overview, stop): (&'a Overview, &'a Stop),
) -> Rollouts<'a> {
    let settings = &config.evaluation;
    Rollouts {
        title: "evaluation",
        model: &config.model.path,
        store: folder,
        questions,
        samples: settings.samples,
        temperature: settings.temperature,
        top_p: 1.0,
        top_k: 0,
        max_steps: settings.max_steps,
        max_action_tokens: settings.max_action_tokens,
        with_tools: !args.without_tools,
        seed: config.run.seed,
        overview,
        stop,
    }
}

/// The settings of `--config`, over them those of `--set`, over all the command line's own flags.
fn configuration(args: &EvalArgs) -> Result<Config> {
    let files: Vec<PathBuf> = args.config.iter().cloned().collect();
    let text = |text: &str| toml::Value::String(text.to_owned());
    let flags = [
        ("questions.selection.split", args.split.as_deref().map(text)),
        (
            "questions.selection.limit",
            args.limit.map(|limit| toml::Value::Integer(limit as i64)),
        ),
        (
            "model.path",
            args.model.as_ref().map(|dir| text(&dir.to_string_lossy())),
        ),
        (
            "evaluation.samples",
            args.samples
                .map(|samples| toml::Value::Integer(samples.into())),
        ),
        (
            "evaluation.temperature",
            args.temperature.map(|t| toml::Value::Float(t.into())),
        ),
    ];
    let mut overrides = args.set.clone();
    for (key, value) in flags {
        overrides.extend(value.map(|value| format!("{key}={value}")));
    }
    Ok(config::load_for(&args.data, &files, &overrides)?)
}

fn begun(args: &EvalArgs, config: &Config, questions: &[Question]) -> Result<Begun> {
    let model = &config.model.path;
    let questions = serde_json::to_vec(questions)?;
    Ok(Begun {
        model: std::path::absolute(model)
            .with_context(|| format!("cannot resolve {}", model.display()))?,
        with_tools: !args.without_tools,
        questions: config::hex(&Sha256::digest(questions)),
        settings: Identity::of_settings(&of_evaluation(config))?.hash(),
    })
}

/// What of a configuration an evaluation depends on, model and questions aside.
fn of_evaluation(config: &Config) -> Config {
    Config {
        run: RunSection {
            name: String::new(),
            ..config.run.clone()
        },
        model: ModelSection {
            path: PathBuf::new(),
            ..config.model.clone()
        },
        questions: QuestionSource::default(),
        rollout: RolloutSection {
            max_context_tokens: config.rollout.max_context_tokens,
            ..RolloutSection::default()
        },
        filter: FilterSection::default(),
        warm_start: None,
        train: None,
        imitation: None,
        evaluation: EvaluationSection {
            sets: Vec::new(),
            base: true,
            without_tools: false,
            ..config.evaluation.clone()
        },
        ..config.clone()
    }
}

/// Makes the folder, or goes on with what it holds.
fn claim(out: &Path, resume: bool, now: &Begun) -> Result<()> {
    let place = out.display();
    let is_used = is_there(out)?
        && std::fs::read_dir(out)
            .with_context(|| format!("cannot list {place}"))?
            .next()
            .is_some();
    let file = out.join("eval.json");
    if !is_used {
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {place}"))?;
        return write_atomically(&file, serde_json::to_string_pretty(now)?.as_bytes());
    }
    if !resume {
        let message = format!("{place} is not empty: go on with --resume, or choose another --out");
        return Err(UsageError::new(message).into());
    }
    let text = std::fs::read_to_string(&file).map_err(|error| {
        UsageError::new(format!(
            "{place} holds no evaluation that could be continued ({}: {error}): choose another \
             --out",
            file.display()
        ))
    })?;
    let before: Begun =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    refuse_difference(out, &before, now)
}

fn refuse_difference(out: &Path, before: &Begun, now: &Begun) -> Result<()> {
    let differs = [
        ("another model", before.model != now.model),
        (
            "--without-tools given the other way",
            before.with_tools != now.with_tools,
        ),
        ("other questions", before.questions != now.questions),
        ("other settings", before.settings != now.settings),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(UsageError::new(format!(
            "the evaluation in {} was begun with {what}: continue it as it was begun, or choose \
             another --out",
            out.display()
        ))
        .into()),
        None => Ok(()),
    }
}
