//! What a training loop does for others between its steps: it writes checkpoints, those that are due
//! and those that are wanted, and ends in order (TL-9).

use super::TrainingError;
use crate::fleet::{Fleet, FleetError, LearnerHandle};
use crate::stopping::{Saver, Stop};
use std::pin::pin;

/// Checkpoints of one learner, and the wish that training ends.
pub(super) struct Between<'a> {
    learner: &'a LearnerHandle,
    stop: Stop,
    saver: Saver,
    /// The step of the newest checkpoint; none where that is not known.
    saved: Option<u64>,
}

impl<'a> Between<'a> {
    /// Of a learner with `step` steps behind it.
    pub(super) fn of(fleet: &Fleet, learner: &'a LearnerHandle, step: u64) -> Self {
        Self {
            learner,
            stop: fleet.stop.clone(),
            saver: fleet.saving.enter(),
            saved: (!fleet.may_be_ahead() || step == 0).then_some(step),
        }
    }

    /// Whether there are steps that no checkpoint is known to hold.
    pub(super) fn is_unsaved(&self, step: u64) -> bool {
        self.saved != Some(step)
    }

    /// Writes a checkpoint, unless there is one.
    ///
    /// # Errors
    /// When the learner cannot write it, or is lost.
    pub(super) async fn save(&mut self, step: u64) -> Result<(), FleetError> {
        if self.is_unsaved(step) {
            self.learner.checkpoint().await?;
            self.saved = Some(step);
        }
        Ok(())
    }

    /// Looks whether training is to end, or to save what it has.
    ///
    /// # Errors
    /// [`TrainingError::Stopped`] once a checkpoint is written; or when it cannot be.
    pub(super) async fn look(&mut self, step: u64) -> Result<(), TrainingError> {
        if self.stop.is_asked() {
            self.save(step).await?;
            return Err(TrainingError::Stopped { step });
        }
        match self.saver.due() {
            Some(number) => Ok(self.fulfil(number, step).await?),
            None => Ok(()),
        }
    }

    /// Does something that needs no learner, and meanwhile saves what others want saved. `None` when
    /// training is to end first: the work is left undone.
    ///
    /// # Errors
    /// When a checkpoint cannot be written.
    pub(super) async fn during<T>(
        &mut self,
        step: u64,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, FleetError> {
        let mut work = pin!(work);
        loop {
            let number = tokio::select! {
                biased;
                () = self.stop.asked() => return Ok(None),
                number = self.saver.wanted() => number,
                done = &mut work => return Ok(Some(done)),
            };
            self.fulfil(number, step).await?;
        }
    }

    async fn fulfil(&mut self, number: u64, step: u64) -> Result<(), FleetError> {
        self.save(step).await?;
        self.saver.fulfilled(number);
        tracing::info!(step, "A checkpoint was written for a node that leaves.");
        Ok(())
    }
}
