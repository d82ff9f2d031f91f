//! Stage 1: trajectories with tools, judged and stored; then the filter.

use super::Run;
use crate::config::Config;
use crate::engine::{ChatTurns, Machine, SamplerPort};
use crate::judges;
use crate::machine_memory::{self, Load};
use crate::progress::Progress;
use crate::questions;
use actors::ports::Generator;
use actors::{Controller, FleetPlan, RolloutPlan, RolloutReport};
use anyhow::{Result, bail};
use control::ledger::LedgerConfig;
use control::rollout::Limits;
use judge::filter::{self, Filter, Yield};
use proto::{MalformedKind, Question, SamplingParams, Trajectory};
use sampler::EngineConfig;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use store::TrajectoryStore;
use tools::parser::{MalformedPolicies, MalformedPolicy};
use tools::registry::Registry;

/// How a set of questions is rolled out.
pub struct Rollouts<'a> {
    /// Title of the progress bar.
    pub title: &'a str,
    /// The model's Hugging Face directory.
    pub model: &'a Path,
    /// Where trajectories go.
    pub store: &'a Path,
    /// The questions.
    pub questions: Vec<Question>,
    /// Trajectories per question.
    pub samples: u32,
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Most probable tokens kept; 0 is off.
    pub top_k: u32,
    /// Actions per trajectory.
    pub max_steps: u32,
    /// Tokens per action.
    pub max_action_tokens: u32,
    /// Whether tools are offered.
    pub with_tools: bool,
    /// Seed of all draws.
    pub seed: u64,
}

/// Generates the trajectories of a run.
pub async fn trajectories(run: &Run) -> Result<()> {
    let settings = &run.config.rollout;
    let report = roll_out(
        &run.config,
        &run.machine,
        Rollouts {
            title: "trajectories",
            model: &run.start_model(),
            store: &run.folder.trajectories(),
            questions: questions::load(&run.config.questions)?,
            samples: settings.samples,
            temperature: settings.temperature,
            top_p: settings.top_p,
            top_k: settings.top_k,
            max_steps: settings.max_steps,
            max_action_tokens: settings.max_action_tokens,
            with_tools: true,
            seed: run.config.run.seed,
        },
    )
    .await?;
    refuse_failures(&report)
}

/// A run with missing items would be biased towards the easy ones: it stops and says so.
pub fn refuse_failures(report: &RolloutReport) -> Result<()> {
    let Some((item, reason)) = report.failed.first() else {
        return Ok(());
    };
    bail!(
        "{} of {} items failed for good, the first, {item}, with: {reason}. Nothing is lost: mend \
         the cause and go on with --resume",
        report.failed.len(),
        report.stored + report.failed.len() as u64
    )
}

/// Rolls the questions out with one model, until every item is stored.
pub async fn roll_out(
    config: &Config,
    machine: &Machine,
    rollouts: Rollouts<'_>,
) -> Result<RolloutReport> {
    let system = match rollouts.with_tools {
        true => &config.prompt.system,
        false => &config.prompt.system_without_tools,
    };
    let turns = Arc::new(ChatTurns::load(rollouts.model, system)?);
    let enabled: &[String] = if rollouts.with_tools {
        &config.tools.enabled
    } else {
        &[]
    };
    let registry = Arc::new(Registry::builtin(enabled, config.tools.limits.clone())?);
    let tags = registry.tags();
    let total = rollouts.questions.len() as u64 * u64::from(rollouts.samples);
    let load = Load {
        samplers: config.actors.samplers as u64,
        sequences: u64::from(config.rollout.items_per_sampler),
        context_tokens: u64::from(config.rollout.max_context_tokens),
        ..Load::default()
    };
    machine_memory::check(rollouts.model, machine.device, machine.kind, load)?;
    let mut engines: Vec<Arc<dyn Generator>> = Vec::new();
    for _ in 0..config.actors.samplers {
        let engine = EngineConfig {
            max_batch: config.rollout.items_per_sampler as usize,
            max_context_tokens: config.rollout.max_context_tokens as usize,
            ..EngineConfig::default()
        };
        engines.push(Arc::new(SamplerPort(
            machine.sampler(rollouts.model, engine).await?,
        )));
    }
    let opened = TrajectoryStore::open(rollouts.store)?;
    let mut progress = Progress::new(rollouts.title, total, opened.len() as u64);
    let controller = Controller::start(FleetPlan {
        samplers: engines,
        registry,
        tool_executors: config.actors.tools,
        judges: judges::build(&config.judge)?,
        judge_actors: config.actors.judges,
        learner: None,
    })
    .await?;
    let (sender, mut receiver) = tokio::sync::watch::channel(actors::Progress::default());
    let plan = RolloutPlan {
        run: config.run.name.as_str().into(),
        model: rollouts.model.display().to_string(),
        questions: rollouts.questions,
        samples: rollouts.samples,
        params: SamplingParams {
            temperature: rollouts.temperature,
            top_p: rollouts.top_p,
            top_k: rollouts.top_k,
            max_tokens: rollouts.max_action_tokens,
            stop: tags.close_tags(),
        },
        seed: rollouts.seed,
        limits: Limits {
            max_steps: rollouts.max_steps,
            max_context_tokens: config.rollout.max_context_tokens,
            max_action_tokens: rollouts.max_action_tokens,
            ends_on: ends_on(&config.malformed),
        },
        tags,
        turns,
        items_per_sampler: config.rollout.items_per_sampler,
        ledger: LedgerConfig {
            lease_ms: config.rollout.lease_ms,
            max_tries: config.rollout.max_tries,
        },
        progress: sender,
    };
    let (report, mut store) = {
        let work = controller.rollouts(plan, opened);
        tokio::pin!(work);
        loop {
            tokio::select! {
                ended = &mut work => break ended?,
                Ok(()) = receiver.changed() => {
                    let now = *receiver.borrow_and_update();
                    progress.set(now.stored, format!("{} failed", now.failed));
                }
            }
        }
    };
    progress.finish(&format!(
        "{} stored, {} failed",
        report.stored,
        report.failed.len()
    ));
    controller.stop().await;
    store.compact()?;
    Ok(report)
}

/// The kinds of unreadable action that end a trajectory.
fn ends_on(policies: &MalformedPolicies) -> BTreeSet<MalformedKind> {
    let ends = |kind: &MalformedKind| policies.of(*kind) == MalformedPolicy::End;
    MalformedKind::ALL.into_iter().filter(ends).collect()
}

/// What the filter kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filtered {
    /// Yield of every filter, by name, so that they can be compared.
    pub yields: BTreeMap<String, Yield>,
    /// Trajectories that training uses.
    pub kept: usize,
}

/// Measures the yield of every filter and writes it down.
pub fn filter(run: &Run) -> Result<()> {
    let all = stored(&run.folder.trajectories())?;
    let judge = judge_name(run)?;
    let yields = Filter::ALL
        .into_iter()
        .map(|filter| {
            (
                filter.name().to_owned(),
                filter::yields(&all, &judge, filter),
            )
        })
        .collect();
    let kept = kept(run, run.config.filter.keep)?.len();
    if kept == 0 && (run.config.train.is_some() || run.config.imitation.is_some()) {
        bail!(
            "the filter kept none of {} trajectories: choose another filter.keep, or generate more",
            all.len()
        );
    }
    let text = serde_json::to_string_pretty(&Filtered { yields, kept })?;
    crate::files::write_atomically(&run.folder.yields(), text.as_bytes())
}

/// The trajectories that a filter keeps, at most `filter.limit` of them.
pub fn kept(run: &Run, keep: Filter) -> Result<Vec<Trajectory>> {
    let mut all = stored(&run.folder.trajectories())?;
    let judge = judge_name(run)?;
    all.retain(|trajectory| filter::keep(trajectory, &judge, keep));
    Ok(match run.config.filter.limit {
        Some(limit) => filter::subsample(all, |t| &t.item, limit, run.config.run.seed)?,
        None => all,
    })
}

/// The process judge whose verdicts filters go by.
fn judge_name(run: &Run) -> Result<String> {
    Ok(judges::build(&run.config.judge)?.process.name().to_owned())
}

/// Every trajectory of a store, by item.
pub fn stored(folder: &Path) -> Result<Vec<Trajectory>> {
    let store = TrajectoryStore::open(folder)?;
    let mut all = store.iter().collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a.item.cmp(&b.item));
    Ok(all)
}
