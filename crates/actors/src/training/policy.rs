//! Step-wise reinforcement learning (SWiRL, arXiv 2504.04736, section 3): states from stored
//! trajectories, fresh actions from the current weights, a judge's verdict on each, one gradient
//! step. No tool runs, and nothing after the action is looked at.

use super::agreement::{Agreement, Finding};
use super::batch::{Batch, Maker};
use super::between::Between;
use super::picker::{Picker, StateBalance};
use super::{Losses, TrainingError, next_learner};
use crate::fleet::{Fleet, FleetError, LearnerHandle};
use crate::ports::StepReport;
use crate::publication::Published;
use control::tolerance::Tolerance;
use proto::{SamplingParams, SnapshotScope, StateGroup, Trajectory};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;
use tools::parser::ActionTags;

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

impl State {
    /// The state's name in batches and logs.
    pub(super) fn id(&self) -> String {
        format!("{} step {}", self.trajectory.item, self.step)
    }
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
    /// Further draws of states for a batch, at most, to replace those whose actions are all rewarded
    /// alike and teach nothing; 0: none is replaced.
    pub refill: u32,
    /// How actions are drawn.
    pub params: SamplingParams,
    /// The tags of actions.
    pub tags: ActionTags,
    /// Decides states and actions.
    pub seed: u64,
    /// Steps between checkpoints, which are written behind a whole batch; 0 writes none.
    pub checkpoint_every: u64,
    /// Largest mean of |log π − log μ| between learner and sampler, in nats, that the first step with
    /// tokens to compare may show after a start or a resume, and later ones without a warning (TL-4).
    pub max_logprob_difference: f64,
    /// The share of all states' groups, in [0, 1], that may be left out because an action cannot be
    /// judged; unless it is 0, one always may (TL-8).
    pub max_unjudged_share: f64,
    /// Groups that were left out before a resume.
    pub unjudged_before: u64,
}

impl PolicyPlan {
    /// Counts the groups that are left out of the whole training.
    fn tolerance(&self) -> Tolerance {
        let batches = self.steps / self.updates_per_batch.max(1);
        let groups = batches * self.states_per_step as u64;
        Tolerance::new(self.max_unjudged_share, groups, self.unjudged_before)
    }
}

/// Trains until `plan.steps`; `on_step` is told of each.
///
/// # Errors
/// When there is no state, or an engine or judge fails for good: the failure is never taken for a
/// reward (AC-3). Where no step is at fault, a checkpoint is written first (TL-7).
pub async fn policy(
    fleet: &Fleet,
    plan: &PolicyPlan,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    let mut losses = Losses::default();
    let mut tolerance = plan.tolerance();
    loop {
        let (learner, mut reached) = (next_learner(fleet).await?, 0);
        let steps = with(fleet, &learner, plan, &mut tolerance, |report| {
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
    tolerance: &mut Tolerance,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    let mut picker = Picker::new(plan)?;
    let mut step = learner.steps_done().await?;
    let first = step;
    let mut between = Between::of(fleet, learner, step);
    let mut agreement = Agreement::new(plan.max_logprob_difference);
    // TL-2. All of them: what the samplers hold is not known.
    let publishing = publish(fleet, learner, step, SnapshotScope::All);
    let Some(published) = between.during(step, publishing).await? else {
        return between.look(step).await;
    };
    let mut published = published?;
    while step < plan.steps {
        between.look(step).await?; // TL-9
        let mut began = Instant::now();
        let batch = step / plan.updates_per_batch;
        let maker = Maker {
            fleet,
            plan,
            version: published.version,
        };
        let making = maker.batch(&mut picker, batch, tolerance);
        let Some(made) = between.during(step, making).await? else {
            continue; // to its end
        };
        let Batch { groups, mut once } = match made {
            Ok(made) => made,
            Err(error) => {
                if between.is_unsaved(step) && !error.is_gone() && !error.is_of_weights() {
                    save_what_there_is(&mut between, step).await; // TL-7
                }
                return Err(error);
            }
        };
        once.extend(way_of(&published));
        // A learner that found back may have made a step whose report was lost: it goes on within the
        // batch, and the batch ends where it would have.
        let updates = plan.updates_per_batch - step % plan.updates_per_batch;
        for update in 0..updates {
            once.extend(ages(&groups, step));
            let mut report = learner.policy_step(groups.clone()).await?;
            if update == 0 {
                compare(&mut agreement, &report)?; // TL-4
            }
            step += 1;
            if step.is_multiple_of(plan.updates_per_batch) {
                let publishing = publish(fleet, learner, step, SnapshotScope::Adapters);
                // Where training is to end, nobody samples from them any more.
                if let Some(new) = between.during(step, publishing).await? {
                    published = new?;
                }
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
            between.save(step).await?;
        }
    }
    if step > first && !agreement.is_held() {
        tracing::warn!(
            "Sampler and learner were never compared: no step had a token with an advantage."
        );
    }
    between.look(step).await
}

/// TL-7: the error that ends training is told even where nothing can be saved.
async fn save_what_there_is(between: &mut Between<'_>, step: u64) {
    match between.save(step).await {
        Ok(()) => tracing::info!(step, "A checkpoint was written before training ends."),
        Err(error) => {
            let error = error.to_string();
            tracing::warn!(
                step,
                error,
                "No checkpoint could be written before training ends."
            );
        }
    }
}

/// TL-4: sampler and learner speak of the same distribution.
fn compare(agreement: &mut Agreement, report: &StepReport) -> Result<(), TrainingError> {
    if let Finding::Drifted { found, tokens } = agreement.look(&report.metrics)? {
        tracing::warn!(
            step = report.step,
            logprob_difference_mean = found,
            tokens,
            limit = agreement.limit(),
            "Sampler and learner disagree on fresh actions by more than train.max_logprob_difference."
        );
    }
    Ok(())
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
fn way_of(published: &Published) -> [(&'static str, f64); 7] {
    let pulled = &published.pulled;
    [
        ("publication_seconds", published.seconds),
        ("snapshot_bytes", published.snapshot_bytes as f64),
        ("publication_bytes", pulled.bytes as f64),
        ("publication_saved_bytes", pulled.saved_bytes as f64),
        ("publication_node_bytes", pulled.from_nodes_bytes as f64),
        ("publication_repaired_chunks", pulled.repaired as f64),
        ("samplers_behind", published.behind as f64),
    ]
}

/// Gives the samplers so much of the weights after `step` steps; how they came there.
async fn publish(
    fleet: &Fleet,
    learner: &LearnerHandle,
    step: u64,
    scope: SnapshotScope,
) -> Result<Published, FleetError> {
    let weights = learner.snapshot(step, scope).await?;
    fleet.publish(weights).await
}
