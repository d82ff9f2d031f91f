//! Supervised steps: imitate the trained tokens of dialogues.

use crate::batch::{Limits, counts, dialogues, packed};
use crate::learner::Learner;
use crate::metrics::{StepMetrics, timed};
use crate::pass::StepError;
use algo::loss::cross_entropy;
use proto::SftSample;
use std::time::Instant;

impl Learner {
    /// One step on the cross-entropy of the trained tokens of `samples`: the whole batch, cut into
    /// micro-batches as memory wants.
    ///
    /// # Errors
    /// When a sample cannot be trained on or none has a trained token (the weights are as before),
    /// or when too many steps in a row gave no finite gradient.
    pub fn sft_step(&mut self, samples: &[SftSample]) -> Result<StepMetrics, StepError> {
        let start = Instant::now();
        let mut metrics = self.accumulate_supervised(samples)?;
        self.apply(&mut metrics)?;
        metrics.seconds.total = start.elapsed().as_secs_f64();
        Ok(metrics)
    }

    /// Adds the gradient of `samples`.
    pub(crate) fn accumulate_supervised(
        &mut self,
        samples: &[SftSample],
    ) -> Result<StepMetrics, StepError> {
        let mut metrics = StepMetrics::default();
        let sequences = dialogues(samples, Limits::of(self.decoder().spec()))?;
        // Each dialogue is a tree of its own: they share little but the system prompt, which is
        // less than one tree of them all would spend on masked scores.
        let groups: Vec<_> = sequences
            .into_iter()
            .map(|sequence| vec![sequence])
            .collect();
        let counts = counts(&groups);
        let budget = self.config().micro_batch_tokens;
        let batches = timed(&mut metrics.seconds.pack, || packed(&groups, budget))?;
        if counts.global.tokens == 0 {
            return Err(StepError::EmptyBatch);
        }
        metrics.trained_tokens = counts.global.tokens;
        let normalisation = self.config().normalisation;
        self.backward(&batches, 1.0, &mut metrics, |target, drawn| {
            let weight = normalisation.weight(counts.global, counts.own[target.sample]);
            cross_entropy(drawn.logprob).weighted(weight)
        });
        Ok(metrics)
    }
}
