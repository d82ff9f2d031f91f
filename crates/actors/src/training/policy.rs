//! Step-wise reinforcement learning (SWiRL, arXiv 2504.04736, section 3): states from stored
//! trajectories, fresh actions from the current weights, a judge's verdict on each, one gradient
//! step. No tool runs, and nothing after the action is looked at.

use super::picker::{Picker, StateBalance};
use super::{Losses, TrainingError};
use crate::fleet::{Fleet, FleetError, LearnerHandle};
use crate::ports::StepReport;
use crate::publication::Published;
use crate::seeds;
use judge::StepContext;
use proto::{
    Action, Completion, GenerateRequest, RlSample, SamplingParams, StateGroup, StepView,
    Trajectory, Verdict, WeightVersion,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;
use tools::parser::{ActionTags, parse_action};

/// How often a state is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateWeighting {
    /// Each state alike: a trajectory counts by its number of steps.
    PerState,
    /// Each trajectory alike: one of its states at a time, so that long ones do not dominate.
    PerTrajectory,
}

/// A state: everything before step `step` of a stored trajectory.
#[derive(Debug, Clone)]
pub struct State {
    /// The trajectory.
    pub trajectory: Arc<Trajectory>,
    /// The step whose action is sampled afresh.
    pub step: usize,
}

/// Every state of the trajectories, grouped by trajectory.
pub fn states_of(trajectories: impl IntoIterator<Item = Trajectory>) -> Vec<Vec<State>> {
    trajectories
        .into_iter()
        .filter(|t| !t.steps.is_empty())
        .map(|t| {
            let trajectory = Arc::new(t);
            let state = |step| State {
                trajectory: trajectory.clone(),
                step,
            };
            (0..trajectory.steps.len()).map(state).collect()
        })
        .collect()
}

/// What to train on, and how.
#[derive(Debug, Clone)]
pub struct PolicyPlan {
    /// The states, grouped by trajectory.
    pub states: Vec<Vec<State>>,
    /// How often each is trained on.
    pub weighting: StateWeighting,
    /// Which kinds of states are drawn equally often.
    pub balance: StateBalance,
    /// Steps in all, those before a resume included; a multiple of `updates_per_batch`.
    pub steps: u64,
    /// Steps that are made of the same states and actions, one after the other; at least 1. What bounds
    /// the age of weights that actions are sampled from (TL-6): new ones are published after so many.
    pub updates_per_batch: u64,
    /// States per step.
    pub states_per_step: usize,
    /// Fresh actions per state.
    pub actions_per_state: u32,
    /// How actions are drawn.
    pub params: SamplingParams,
    /// The tags of actions.
    pub tags: ActionTags,
    /// Decides states and actions.
    pub seed: u64,
    /// Steps between checkpoints, which are written behind a whole batch; 0 writes none.
    pub checkpoint_every: u64,
    /// Largest mean of |log π − log μ| between learner and sampler, in nats, that the first step
    /// after a start or a resume may show (TL-4).
    pub max_logprob_difference: f64,
}

/// Trains until `plan.steps`; `on_step` is told of each.
///
/// # Errors
/// When there is no state, or an engine or judge fails for good: the failure is never taken for a
/// reward (AC-3).
pub async fn policy(
    fleet: &Fleet,
    plan: &PolicyPlan,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    let mut losses = Losses::default();
    loop {
        let (learner, mut reached) = (fleet.learner().await?, 0);
        let steps = with(fleet, &learner, plan, |report| {
            reached = report.step;
            on_step(report);
        });
        match steps.await {
            Err(error) if error.is_gone() => losses.another(reached)?,
            ended => return ended,
        }
    }
}

async fn with(
    fleet: &Fleet,
    learner: &LearnerHandle,
    plan: &PolicyPlan,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    let mut picker = Picker::new(plan)?;
    let mut step = learner.steps_done().await?;
    let first = step;
    let mut published = publish(fleet, learner, step).await?; // TL-2
    while step < plan.steps {
        let mut began = Instant::now();
        let batch = step / plan.updates_per_batch;
        let states = picker.of_batch(batch);
        let groups = actions(fleet, plan, batch, &states).await?;
        on_policy(&groups, published.version)?; // TL-3
        let sampled = began.elapsed().as_secs_f64();
        let (groups, well_formed) = judged(fleet, plan, &states, groups).await?;
        let judged = began.elapsed().as_secs_f64();
        let mut once = vec![
            ("sampling_seconds", sampled),
            ("judging_seconds", judged - sampled),
            ("well_formed_share", well_formed),
        ];
        once.extend(way_of(&published));
        // A learner that found back may have made a step whose report was lost: it goes on within the
        // batch, and the batch ends where it would have.
        let updates = plan.updates_per_batch - step % plan.updates_per_batch;
        for _ in 0..updates {
            once.extend(ages(&groups, step));
            let mut report = learner.policy_step(groups.clone()).await?;
            if step == first {
                agreement(&report, plan.max_logprob_difference)?; // TL-4
            }
            step += 1;
            if step.is_multiple_of(plan.updates_per_batch) {
                published = publish(fleet, learner, step).await?;
            }
            let took = std::mem::replace(&mut began, Instant::now()).elapsed();
            once.push(("cycle_seconds", took.as_secs_f64()));
            let once = once.drain(..).map(|(name, value)| (name.to_owned(), value));
            report.metrics.extend(once);
            on_step(&report);
        }
        // Behind a whole batch: a resumed run starts with fresh actions.
        let due = |step: u64| step.checked_div(plan.checkpoint_every);
        if due(step) != due(step - updates) {
            learner.checkpoint().await?;
        }
    }
    Ok(())
}

/// TL-3: every action was sampled from the weights that its batch begins with.
fn on_policy(groups: &[Vec<Completion>], expected: WeightVersion) -> Result<(), TrainingError> {
    match groups
        .iter()
        .flatten()
        .find(|completion| completion.weight_version != expected)
    {
        Some(stale) => Err(TrainingError::Stale {
            expected,
            found: stale.weight_version,
        }),
        None => Ok(()),
    }
}

/// TL-4: sampler and learner speak of the same distribution.
fn agreement(report: &StepReport, limit: f64) -> Result<(), TrainingError> {
    match report.metrics.get("logprob_difference_mean") {
        Some(&found) if found > limit => Err(TrainingError::Disagreement { found, limit }),
        _ => Ok(()),
    }
}

/// TL-6: how many steps the learner has made since the weights that each action was sampled from.
fn ages(groups: &[StateGroup], step: u64) -> [(&'static str, f64); 2] {
    let samples = groups.iter().flat_map(|group| &group.samples);
    let ages = samples.map(|sample| step.saturating_sub(sample.weight_version.step()));
    let (mut sum, mut count, mut most) = (0, 0, 0);
    for age in ages {
        (sum, count, most) = (sum + age, count + 1, age.max(most));
    }
    [
        (
            "weight_age_steps_mean",
            sum as f64 / f64::from(count.max(1)),
        ),
        ("weight_age_steps_max", most as f64),
    ]
}

/// How the weights came to the samplers that a batch's actions are from.
fn way_of(published: &Published) -> [(&'static str, f64); 6] {
    let pulled = &published.pulled;
    [
        ("publication_seconds", published.seconds),
        ("publication_bytes", pulled.bytes as f64),
        ("publication_saved_bytes", pulled.saved_bytes as f64),
        ("publication_node_bytes", pulled.from_nodes_bytes as f64),
        ("publication_repaired_chunks", pulled.repaired as f64),
        ("samplers_behind", published.behind as f64),
    ]
}

/// Gives the samplers the weights after `step` steps; how they came there.
async fn publish(
    fleet: &Fleet,
    learner: &LearnerHandle,
    step: u64,
) -> Result<Published, FleetError> {
    let weights = learner.snapshot(step).await?;
    fleet.publish(weights).await
}

/// Fresh actions of every state, all asked for at once.
async fn actions(
    fleet: &Fleet,
    plan: &PolicyPlan,
    batch: u64,
    states: &[&State],
) -> Result<Vec<Vec<Completion>>, FleetError> {
    let requests = states.iter().enumerate().map(|(position, state)| {
        let parts = ["action", &batch.to_string(), &position.to_string()];
        GenerateRequest {
            prompt: state.trajectory.prompt(state.step).to_vec(),
            samples: plan.actions_per_state,
            params: plan.params.clone(),
            seed: seeds::derive(plan.seed, &parts),
        }
    });
    fleet.sample_all(requests.collect()).await
}

/// The groups with their rewards, and the share of actions that could be read.
async fn judged(
    fleet: &Fleet,
    plan: &PolicyPlan,
    states: &[&State],
    completions: Vec<Vec<Completion>>,
) -> Result<(Vec<StateGroup>, f64), FleetError> {
    let (mut readable, mut total) = (0u64, 0u64);
    let mut groups = Vec::with_capacity(states.len());
    for (state, completions) in states.iter().zip(completions) {
        let views: Vec<StepView> = completions.iter().map(|c| view(c, &plan.tags)).collect();
        total += views.len() as u64;
        readable += views
            .iter()
            .filter(|v| !matches!(v.action, Action::Malformed(_)))
            .count() as u64;
        let verdicts = views
            .into_iter()
            .map(|step| fleet.judge_step(context(state, step)));
        let verdicts = futures::future::try_join_all(verdicts).await?;
        groups.push(group(state, completions, &verdicts));
    }
    Ok((groups, readable as f64 / total.max(1) as f64))
}

fn view(completion: &Completion, tags: &ActionTags) -> StepView {
    let parsed = parse_action(&completion.text, completion.finish, tags);
    StepView {
        text: completion.text.clone(),
        thought: parsed.thought,
        action: parsed.action,
        observation: None,
    }
}

fn context(state: &State, step: StepView) -> StepContext {
    let history = state.trajectory.steps[..state.step]
        .iter()
        .map(StepView::from)
        .collect();
    StepContext::new(state.trajectory.question.clone(), history, step)
}

fn group(state: &State, completions: Vec<Completion>, verdicts: &[Verdict]) -> StateGroup {
    let samples = completions
        .into_iter()
        .zip(verdicts)
        .map(|(completion, verdict)| RlSample {
            tokens: completion.tokens,
            logprobs: completion.logprobs,
            reward: verdict.score,
            weight_version: completion.weight_version,
        })
        .collect();
    StateGroup {
        state_id: format!("{} step {}", state.trajectory.item, state.step),
        trajectory_id: state.trajectory.item.to_string(),
        prompt: state.trajectory.prompt(state.step).to_vec(),
        samples,
    }
}
