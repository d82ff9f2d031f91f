//! Imitation of dialogues: the warm start, and the baseline on the model's own trajectories.

use super::between::Between;
use super::{Losses, TrainingError, batches::Batches, next_learner};
use crate::fleet::{Fleet, LearnerHandle};
use crate::ports::StepReport;
use proto::SftSample;

/// What to imitate, and for how long.
#[derive(Debug, Clone)]
pub struct SupervisedPlan {
    /// The dialogues.
    pub samples: Vec<SftSample>,
    /// Steps in all, those before a resume included.
    pub steps: u64,
    /// Dialogues per step.
    pub batch: usize,
    /// Decides the order.
    pub seed: u64,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: u64,
}

/// Trains until `plan.steps`; `on_step` is told of each.
///
/// # Errors
/// When there is nothing to imitate, or the learner fails.
pub async fn supervised(
    fleet: &Fleet,
    plan: &SupervisedPlan,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    if plan.samples.is_empty() {
        return Err(TrainingError::Empty(
            "no dialogue was made from the questions",
        ));
    }
    let mut losses = Losses::default();
    loop {
        let (learner, mut reached) = (next_learner(fleet).await?, 0);
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
    plan: &SupervisedPlan,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(), TrainingError> {
    let mut batches = Batches::new(plan.seed, plan.samples.len());
    let first = learner.steps_done().await?;
    let mut between = Between::of(fleet, learner, first);
    for step in first..plan.steps {
        between.look(step).await?; // TL-9
        let chosen = batches.of_step(step, plan.batch);
        let batch = chosen
            .into_iter()
            .map(|i| plan.samples[i].clone())
            .collect();
        let report = learner.supervised_step(batch).await?;
        on_step(&report);
        if plan.checkpoint_every > 0 && (step + 1) % plan.checkpoint_every == 0 {
            between.save(step + 1).await?;
        }
    }
    between.look(first.max(plan.steps)).await
}
