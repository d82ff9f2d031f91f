//! Stage 1: trajectories with tools, judged and stored; then the filter.

use super::{Run, arms, preflight, unjudged};
use crate::cluster::{Elsewhere, Head, JudgeOrder, SamplerOrder, ToolOrder};
use crate::config::{Config, ImitationSection};
use crate::console;
use crate::ending::Stopped;
use crate::engine::{ChatTurns, Machine};
use crate::judges;
use crate::machine_memory;
use crate::progress::{Overview, Progress};
use crate::prompt;
use actors::{Controller, FleetPlan, RolloutPlan, RolloutReport, Stop};
use anyhow::{Context, Result, bail};
use control::ledger::LedgerConfig;
use control::rollout::Limits;
use judge::filter::{self, Filter, StateFilter, Yield};
use proto::{MalformedKind, Question, Role, SamplingParams, Trajectory};
use sampler::EngineConfig;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use store::TrajectoryStore;
use tokio::sync::watch;
use tools::parser::{ActionTags, MalformedPolicies, MalformedPolicy};
use tools::registry::Registry;

/// The title of stage 1 in progress lines.
pub const TRAJECTORIES: &str = "trajectories";

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
    /// The run that this is a piece of.
    pub overview: &'a Overview,
    /// Asked when it is to end: what is stored stays.
    pub stop: &'a Stop,
}

/// Generates the trajectories of a run.
pub async fn trajectories(run: &Run) -> Result<()> {
    let settings = &run.config.rollout;
    let report = roll_out(
        &run.config,
        &run.machine,
        run.head.as_ref(),
        Rollouts {
            title: TRAJECTORIES,
            model: &run.start_model(),
            store: &run.folder.trajectories(),
            questions: run.sources.questions.clone(),
            samples: settings.samples,
            temperature: settings.temperature,
            top_p: settings.top_p,
            top_k: settings.top_k,
            max_steps: settings.max_steps,
            max_action_tokens: settings.max_action_tokens,
            with_tools: true,
            seed: run.config.run.seed,
            overview: &run.overview,
            stop: &run.stop,
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
         the cause and go on with --resume, or leave such questions out for good with --resume \
         'run.skip=[{:?}]', which the report repeats",
        report.failed.len(),
        report.stored + report.failed.len() as u64,
        item.question.0,
    )
}

/// Rolls the questions out with one model, until every item is stored. Nodes of `head` do what the
/// configuration has them do.
pub async fn roll_out(
    config: &Config,
    machine: &Machine,
    head: Option<&Head>,
    rollouts: Rollouts<'_>,
) -> Result<RolloutReport> {
    let load = preflight::rollout_load(config, machine);
    machine_memory::check(rollouts.title, rollouts.model, machine.device, load)?;
    let enabled: &[String] = match rollouts.with_tools {
        true => &config.tools.enabled,
        false => &[],
    };
    let registry = Arc::new(Registry::builtin(enabled, config.tools.limits.clone())?);
    let (sender, receiver) = tokio::sync::watch::channel(actors::Progress::default());
    let plan = rollout_plan(config, &rollouts, registry.tags(), sender)?;
    let engine = EngineConfig {
        max_batch: config.rollout.items_per_sampler as usize,
        max_context_tokens: config.rollout.max_context_tokens as usize,
        kept_sequences: config.rollout.kept_sequences as usize,
        ..EngineConfig::default()
    };
    let store = TrajectoryStore::open(rollouts.store)?;
    let here = |role| config.cluster.is_here(role);
    let samplers = if here(Role::Sampler) {
        config.actors.samplers
    } else {
        0
    };
    let fleet = FleetPlan {
        samplers: machine
            .samplers(
                rollouts.model,
                &config.model.template_arguments,
                engine,
                samplers,
            )
            .await?,
        registry: here(Role::Tool).then_some(registry),
        tool_executors: config.actors.tools,
        judges: match here(Role::Judge) {
            true => Some(judges::build(&config.judge, enabled)?),
            false => None,
        },
        judge_actors: config.actors.judges,
        judge_patience: config.judge.patience.0,
        quarantine_after: config.actors.quarantine_after,
        patience: config.actors.patience.0,
        ..FleetPlan::default()
    };
    let elsewhere = Elsewhere {
        sampler: (!here(Role::Sampler)).then(|| SamplerOrder {
            model: rollouts.model.to_owned(),
            template_arguments: config.model.template_arguments.clone(),
            dtype: config.model.dtype,
            f32_head: config.model.f32_head,
            engine,
        }),
        tools: (!here(Role::Tool)).then(|| ToolOrder::new(config, enabled)),
        judges: match here(Role::Judge) {
            true => None,
            false => Some(JudgeOrder::new(config, enabled)?),
        },
        learner: None,
    };
    let controller = Controller::start(Head::extend(head, fleet, elsewhere)).await?;
    let total = plan.questions.len() as u64 * u64::from(plan.samples);
    let at_once = u64::from(config.rollout.items_per_sampler)
        .saturating_mul(config.expected_samplers() as u64);
    let done = store.len() as u64;
    let progress = Progress::new(rollouts.title, total, done, at_once, rollouts.overview);
    let work = watched(controller.rollouts(plan, store), receiver, progress);
    let ended = rollouts.stop.unless(work).await;
    controller.stop().await;
    let (report, mut store) = ended.ok_or(Stopped::InOrder)??;
    store.compact()?;
    match report.unjudged.first() {
        None => unjudged::remove(rollouts.store)?,
        Some((item, reason)) => console::remark(format_args!(
            "{}: {} of {total} trajectories are left out, for the judge gave no verdict on them; the \
             first is {item}: {reason}",
            rollouts.title,
            report.unjudged.len(),
        )),
    }
    Ok(report)
}

fn rollout_plan(
    config: &Config,
    rollouts: &Rollouts<'_>,
    tags: ActionTags,
    progress: watch::Sender<actors::Progress>,
) -> Result<RolloutPlan> {
    let system = prompt::system(config, rollouts.with_tools)?;
    let turns = ChatTurns::load(rollouts.model, &config.model, &system)?;
    let tags = tags.with_thinking(turns.thinking().cloned());
    Ok(RolloutPlan {
        run: config.run.name.as_str().into(),
        model: rollouts.model.display().to_string(),
        questions: rollouts.questions.clone(),
        samples: rollouts.samples,
        params: SamplingParams {
            temperature: rollouts.temperature,
            top_p: rollouts.top_p,
            top_k: rollouts.top_k,
            max_tokens: rollouts.max_action_tokens,
            stop: tags.close_tags(),
            thinking: tags.thinking().cloned(),
        },
        seed: rollouts.seed,
        limits: Limits {
            max_steps: rollouts.max_steps,
            max_context_tokens: config.rollout.max_context_tokens,
            max_action_tokens: rollouts.max_action_tokens,
            ends_on: ends_on(&config.malformed),
        },
        tags,
        turns: Arc::new(turns),
        items_per_sampler: config.rollout.items_per_sampler,
        ledger: LedgerConfig {
            lease_ms: config.rollout.lease_ms,
            max_tries: config.rollout.max_tries,
            max_losses: config.rollout.max_losses,
            straggler_factor: config.rollout.straggler_factor,
        },
        max_unjudged_share: config.judge.max_unjudged_share,
        unjudged: Some(unjudged::folder(rollouts.store)),
        progress,
    })
}

/// Shows the progress of `work` until it ends.
async fn watched<E: Into<anyhow::Error>>(
    work: impl Future<Output = Result<(RolloutReport, TrajectoryStore), E>>,
    mut receiver: watch::Receiver<actors::Progress>,
    mut progress: Progress,
) -> Result<(RolloutReport, TrajectoryStore)> {
    tokio::pin!(work);
    let (report, store) = loop {
        tokio::select! {
            ended = &mut work => break ended.map_err(Into::into)?,
            Ok(()) = receiver.changed() => {
                let now = *receiver.borrow_and_update();
                progress.set(now.stored, &note(now));
            }
        }
    };
    let failed = report.failed.len();
    progress.finish(&format!("{} stored, {failed} failed", report.stored));
    Ok((report, store))
}

fn note(progress: actors::Progress) -> String {
    match progress.unjudged {
        0 => format!("{} failed", progress.failed),
        unjudged => format!("{} failed, {unjudged} not judged", progress.failed),
    }
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
    /// How many states of these each filter of states keeps, by name.
    pub states: BTreeMap<String, usize>,
    /// Trajectories that are left out because the judge gave no verdict on them.
    #[serde(default)]
    pub unjudged: usize,
}

/// Measures the yield of every filter and writes it down.
///
/// # Errors
/// When a filter leaves too little for the training that is to follow.
pub fn filter(run: &Run) -> Result<()> {
    let all = trajectories_of(run)?;
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    let judge = judges.process.name();
    let yields = Filter::ALL
        .into_iter()
        .map(|filter| {
            (
                filter.name().to_owned(),
                filter::yields(&all, judge, filter),
            )
        })
        .collect();
    // Training asks for the same again, an hour later.
    if run.config.train.is_some() && arms::states(run, judges.process.as_ref())?.is_empty() {
        bail!(
            "the filter leaves no state to train on of {} trajectories: choose another filter.keep \
             or judge.process, or generate more",
            all.len()
        );
    }
    if let Some(section) = &run.config.imitation {
        imitated(run, section)?;
    }
    let kept = kept(run, run.config.filter.keep, "filter.keep")?;
    let states = |filter: StateFilter| {
        let each = kept
            .iter()
            .map(|trajectory| filter.states(trajectory, judge));
        (filter.name().to_owned(), each.sum())
    };
    let filtered = Filtered {
        yields,
        kept: kept.len(),
        states: StateFilter::ALL.into_iter().map(states).collect(),
        unjudged: unjudged::count(&run.folder.trajectories())?,
    };
    let text = serde_json::to_string_pretty(&filtered)?;
    crate::files::write_atomically(&run.folder.yields(), text.as_bytes())
}

/// The trajectories that are imitated.
///
/// # Errors
/// When there is none, or fewer than `filter.limit`.
pub fn imitated(run: &Run, section: &ImitationSection) -> Result<Vec<Trajectory>> {
    let (keep, key) = match section.keep {
        Some(keep) => (keep, "imitation.keep"),
        None => (run.config.filter.keep, "filter.keep"),
    };
    let mut kept = kept(run, keep, key)?;
    // One without a step has nothing to imitate.
    kept.retain(|trajectory| !trajectory.steps.is_empty());
    if kept.is_empty() {
        bail!("the filter leaves no trajectory to imitate: choose another {key}, or generate more");
    }
    Ok(kept)
}

/// The trajectories that a filter keeps, at most `filter.limit` of them. `key` is the setting that
/// chose it.
///
/// # Errors
/// When there are fewer than `filter.limit`.
pub fn kept(run: &Run, keep: Filter, key: &str) -> Result<Vec<Trajectory>> {
    let mut all = trajectories_of(run)?;
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    all.retain(|trajectory| filter::keep(trajectory, judges.process.name(), keep));
    match run.config.filter.limit {
        Some(limit) => filter::subsample(all, |t| &t.item, limit, run.config.run.seed)
            .with_context(|| format!("{key} = {:?} leaves too few for filter.limit", keep.name())),
        None => Ok(all),
    }
}

/// The trajectories of stage 1, by item, without those of questions that are left out by now.
fn trajectories_of(run: &Run) -> Result<Vec<Trajectory>> {
    let mut all = stored(&run.folder.trajectories())?;
    all.retain(|trajectory| !run.config.run.skip.contains(&trajectory.item.question));
    Ok(all)
}

/// Every trajectory of a store, by item.
pub fn stored(folder: &Path) -> Result<Vec<Trajectory>> {
    let store = TrajectoryStore::open(folder)?;
    let mut all = store.iter().collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a.item.cmp(&b.item));
    Ok(all)
}
