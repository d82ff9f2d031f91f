//! Supervised steps: imitate the trained tokens of dialogues.

use crate::batch::{Limits, counts, dialogues, packed};
use crate::learner::Learner;
use crate::metrics::{StepMetrics, timed};
use crate::pass::StepError;
use algo::loss::cross_entropy;
use proto::SftSample;

impl Learner {
    /// One step on the cross-entropy of the trained tokens of `samples`: the whole batch, cut into
    /// micro-batches as memory wants.
    ///
    /// # Errors
    /// When a sample cannot be trained on or none has a trained token (the weights are as before),
    /// or when too many steps in a row gave no finite gradient.
    pub fn sft_step(&mut self, samples: &[SftSample]) -> Result<StepMetrics, StepError> {
        self.measured(|learner| {
            let mut metrics = learner.accumulate_supervised(samples)?;
            learner.apply(&mut metrics)?;
            Ok(metrics)
        })
    }

    /// Adds the gradient of `samples`.
    pub(crate) fn accumulate_supervised(
        &mut self,
        samples: &[SftSample],
    ) -> Result<StepMetrics, StepError> {
        self.ready()?;
        let mut metrics = StepMetrics::default();
        let limits = Limits::of(self.decoder().spec());
        let budget = self.config().micro_batch_tokens;
        let prepared = timed(&mut metrics.seconds.pack, || {
            let sequences = dialogues(samples, limits)?;
            let groups: Vec<_> = sequences.into_iter().map(|s| vec![s]).collect();
            Ok((counts(&groups), packed(&groups, budget)?))
        });
        let (mut counts, batches) = self.agree(prepared)?;
        self.count_all(&mut counts.global)?;
        if counts.global.tokens == 0 {
            return Err(StepError::EmptyBatch);
        }
        metrics.trained_tokens = counts.global.tokens;
        let normalisation = self.config().normalisation;
        self.backward(&batches, 1.0, &mut metrics, |target, drawn| {
            let weight = normalisation.weight(counts.global, counts.own[target.sample]);
            cross_entropy(drawn.logprob).weighted(weight)
        })?;
        Ok(metrics)
    }
}
