//! What a step reports.

use crate::pass::PassSums;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// Where the time of a step went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Checking and packing.
    pub pack: f64,
    /// Scoring under the reference model.
    pub reference: f64,
    /// Forward passes up to the last hidden state.
    pub forward: f64,
    /// Logits, losses, and their gradients by hidden states and output matrix.
    pub loss: f64,
    /// Backward passes.
    pub backward: f64,
    /// Waiting for the gradients of other replicas, and for the weights that they keep.
    pub reduce: f64,
    /// Gradient norm and AdamW.
    pub optimizer: f64,
    /// The whole step.
    pub total: f64,
}

/// Runs `work` and adds how long it took.
pub(crate) fn timed<R>(seconds: &mut f64, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    *seconds += start.elapsed().as_secs_f64();
    result
}

/// What a policy-gradient step reports beyond the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyMetrics {
    /// Actions in the batch.
    pub actions: usize,
    /// Mean reward, as the judge gave it.
    pub reward_mean: f64,
    /// Standard deviation of the rewards.
    pub reward_std: f64,
    /// Share of states whose actions were all rewarded alike.
    pub zero_variance_share: f64,
    /// Estimate k3 of KL(policy ‖ reference) in nats per token, over the tokens that were run
    /// (under `k1_reward`, actions without advantage are not); `None` without a reference.
    pub kl: Option<f64>,
    /// Tokens that were run, whose log-probabilities of sampler and learner were compared. None where
    /// no action has an advantage, or for a preference loss no state a pair, and nothing else in the
    /// loss asks for a token.
    pub compared_tokens: usize,
    /// Mean |log π − log μ| between learner and sampler, in nats, over the tokens that were run.
    pub logprob_difference_mean: f64,
    /// The largest of them. Large values on fresh actions mean that sampler and learner disagree.
    pub logprob_difference_max: f64,
    /// Losses that weigh actions by advantages only.
    pub surrogate: Option<SurrogateMetrics>,
    /// Preference losses only.
    pub preference: Option<PreferenceMetrics>,
}

/// What a step reports that weighs actions by their advantages. Shares are of the tokens that were
/// run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SurrogateMetrics {
    /// Mean advantage over actions.
    pub advantage_mean: f64,
    /// Standard deviation of the advantages.
    pub advantage_std: f64,
    /// Mean importance weight of the tokens; 1 with importance off.
    pub importance_weight_mean: f64,
    /// Share of tokens whose importance weight was truncated or masked.
    pub importance_bounded_share: f64,
    /// Share of tokens without a pull because their probability fell below `1 − clip_low` times
    /// what it was.
    pub clip_low_share: f64,
    /// The same above `1 + clip_high` times.
    pub clip_high_share: f64,
    /// Share of tokens held by the dual clip.
    pub clip_dual_share: f64,
}

/// What a step on preferences reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// States with a better and a worse action.
    pub pairs: usize,
    /// Mean of log π/π_ref of the better action less that of the worse one, in nats, before the
    /// step.
    pub margin_mean: f64,
    /// Share of pairs in which that is above 0.
    pub accuracy: f64,
}

/// What a step reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps made, this one included.
    pub step: u64,
    /// The loss that was descended, normalised over the batch.
    pub loss: f64,
    /// Mean entropy in nats of the distribution that each trained token is drawn from, over the
    /// tokens that were run.
    pub entropy: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Whether the gradient was scaled down.
    pub clipped: bool,
    /// Whether the step was left out because its gradient was not finite.
    pub skipped: bool,
    /// Whether replicas compared their weights after it, and found them the same.
    pub compared: bool,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens with a loss, in the whole batch.
    pub trained_tokens: usize,
    /// Tokens that ran through the model.
    pub packed_tokens: usize,
    /// Tokens that would have run without sharing prefixes.
    pub sequence_tokens: usize,
    /// Forward and backward passes.
    pub micro_batches: usize,
    /// Where the time went.
    pub seconds: PhaseSeconds,
    /// Floating-point operations that the tokens that ran stand for: 6 per parameter and token, 4
    /// under LoRA, whose weights have no gradient. Attention is left out, as is usual, and the
    /// output matrix is counted for tokens that predict nothing, too.
    pub model_flops: f64,
    /// What a replica's share of them per second is of the rate of large matrix products, which is
    /// measured before the first step.
    pub flop_share: f64,
    /// Policy-gradient steps only.
    pub policy: Option<PolicyMetrics>,
}

impl StepMetrics {
    /// Takes over what the passes of all replicas summed up.
    pub(crate) fn add(&mut self, sums: &PassSums) {
        self.loss = sums.loss;
        self.entropy = sums.entropy / sums.targets.max(1.0);
        self.packed_tokens = sums.packed_tokens as usize;
        self.sequence_tokens = sums.sequence_tokens as usize;
        self.micro_batches = sums.micro_batches as usize;
    }

    /// How many times fewer tokens ran than without sharing prefixes; 1 if nothing ran.
    pub fn sharing_factor(&self) -> f64 {
        if self.packed_tokens == 0 {
            return 1.0;
        }
        self.sequence_tokens as f64 / self.packed_tokens as f64
    }

    /// Tokens per second that ran through the model; 0 before the step is over.
    pub fn tokens_per_second(&self) -> f64 {
        if self.seconds.total == 0.0 {
            return 0.0;
        }
        self.packed_tokens as f64 / self.seconds.total
    }

    /// Everything as numbers by name, in base units; flags are 0 or 1.
    pub fn values(&self) -> BTreeMap<String, f64> {
        let flag = |on: bool| f64::from(u8::from(on));
        let seconds = &self.seconds;
        let mut values = vec![
            ("loss", self.loss),
            ("entropy_nats", self.entropy),
            ("grad_norm", self.grad_norm),
            ("clipped", flag(self.clipped)),
            ("skipped", flag(self.skipped)),
            ("replicas_compared", flag(self.compared)),
            ("learning_rate", self.learning_rate),
            ("trained_tokens", self.trained_tokens as f64),
            ("packed_tokens", self.packed_tokens as f64),
            ("sequence_tokens", self.sequence_tokens as f64),
            ("sharing_factor", self.sharing_factor()),
            ("micro_batches", self.micro_batches as f64),
            ("tokens_per_second", self.tokens_per_second()),
            ("model_flops", self.model_flops),
            ("flop_share", self.flop_share),
            ("pack_seconds", seconds.pack),
            ("reference_seconds", seconds.reference),
            ("forward_seconds", seconds.forward),
            ("loss_seconds", seconds.loss),
            ("backward_seconds", seconds.backward),
            ("reduce_seconds", seconds.reduce),
            ("optimizer_seconds", seconds.optimizer),
            ("step_seconds", seconds.total),
        ];
        if let Some(policy) = &self.policy {
            values.extend([
                ("actions", policy.actions as f64),
                ("reward_mean", policy.reward_mean),
                ("reward_std", policy.reward_std),
                ("zero_variance_share", policy.zero_variance_share),
                ("compared_tokens", policy.compared_tokens as f64),
                ("logprob_difference_mean", policy.logprob_difference_mean),
                ("logprob_difference_max", policy.logprob_difference_max),
            ]);
            if let Some(surrogate) = &policy.surrogate {
                values.extend([
                    ("advantage_mean", surrogate.advantage_mean),
                    ("advantage_std", surrogate.advantage_std),
                    ("importance_weight_mean", surrogate.importance_weight_mean),
                    (
                        "importance_bounded_share",
                        surrogate.importance_bounded_share,
                    ),
                    ("clip_low_share", surrogate.clip_low_share),
                    ("clip_high_share", surrogate.clip_high_share),
                    ("clip_dual_share", surrogate.clip_dual_share),
                ]);
            }
            if let Some(preference) = &policy.preference {
                values.extend([
                    ("preference_pairs", preference.pairs as f64),
                    ("preference_margin", preference.margin_mean),
                    ("preference_accuracy", preference.accuracy),
                ]);
            }
            values.extend(policy.kl.map(|kl| ("kl", kl)));
        }
        values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
