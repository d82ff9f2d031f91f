//! Policy-gradient steps: REINFORCE on freshly sampled, judged actions.

use crate::batch::{Limits, actions, counts, packed};
use crate::config::LearnerConfig;
use crate::learner::Learner;
use crate::metrics::{PolicyMetrics, StepMetrics, timed};
use crate::pass::{StepError, score};
use algo::advantage::{Advantages, advantages, mean_and_std};
use algo::loss::{
    GlobalCounts, KlTerm, PolicyOptions, PolicyToken, TokenLoss, kl_estimates, policy_gradient,
};
use algo::pack::{Sequence, Target};
use proto::StateGroup;
use std::time::Instant;

impl Learner {
    /// One REINFORCE step: every token of every action is weighted by the action's advantage, and
    /// the policy is held near the reference as configured. The states themselves get no loss.
    ///
    /// Log-probabilities are compared under the full softmax at the configured temperature, so the
    /// sampler has to sample with top-p and top-k off.
    ///
    /// # Errors
    /// When a sample cannot be trained on, a reward is not finite, or there is no action (the
    /// weights are as before), or when too many steps in a row gave no finite gradient.
    pub fn rl_step(&mut self, groups: &[StateGroup]) -> Result<StepMetrics, StepError> {
        let start = Instant::now();
        let mut metrics = self.accumulate_policy(groups)?;
        self.apply(&mut metrics)?;
        metrics.seconds.total = start.elapsed().as_secs_f64();
        Ok(metrics)
    }

    /// Adds the gradient of `groups`.
    pub(crate) fn accumulate_policy(
        &mut self,
        groups: &[StateGroup],
    ) -> Result<StepMetrics, StepError> {
        let mut metrics = StepMetrics::default();
        let sequences = actions(groups, Limits::of(self.decoder().spec()))?;
        let (lengths, counts) = counts(sequences.iter().flatten());
        if counts.tokens == 0 {
            return Err(StepError::EmptyBatch);
        }
        metrics.trained_tokens = counts.tokens;
        let reference = self.reference_logprobs(groups, &sequences, &mut metrics)?;
        let advantages = regularised_advantages(groups, reference.as_deref(), self.config())?;
        let mut batch = PolicyBatch {
            behaviour: groups
                .iter()
                .flat_map(|g| &g.samples)
                .map(|s| &s.logprobs[..])
                .collect(),
            prompts: groups
                .iter()
                .flat_map(|g| g.samples.iter().map(|_| g.prompt.len()))
                .collect(),
            advantages: advantages.values.iter().flatten().copied().collect(),
            reference: reference.as_deref(),
            lengths,
            counts,
            seen: Differences::default(),
        };
        let sequences = batch.without_idle(sequences, self.config());
        let budget = self.config().micro_batch_tokens;
        let batches = timed(&mut metrics.seconds.pack, || packed(&sequences, budget))?;
        let config = self.config().clone();
        self.backward(
            &batches,
            f64::from(config.temperature),
            &mut metrics,
            |target, logprob| batch.loss(target, logprob, &config),
        );
        metrics.policy = Some(batch.metrics(groups, &advantages, self.config()));
        Ok(metrics)
    }

    /// Log-probabilities of every action's tokens under the reference; `None` without a KL term.
    fn reference_logprobs(
        &mut self,
        groups: &[StateGroup],
        sequences: &[Vec<Sequence>],
        metrics: &mut StepMetrics,
    ) -> Result<Option<Vec<Vec<f64>>>, StepError> {
        if self.config().kl.coefficient == 0.0 {
            return Ok(None);
        }
        let samples = groups
            .iter()
            .flat_map(|g| g.samples.iter().map(move |s| (g.prompt.len(), s)));
        let (prompts, mut logprobs): (Vec<usize>, Vec<Vec<f64>>) = samples
            .map(|(prompt, sample)| (prompt, vec![0.0; sample.tokens.len()]))
            .unzip();
        let batches = packed(sequences, self.config().micro_batch_tokens)?;
        let (temperature, chunk) = (
            f64::from(self.config().temperature),
            self.config().loss_chunk_tokens,
        );
        let reference = self.reference()?;
        timed(&mut metrics.seconds.reference, || {
            score(
                reference,
                &batches,
                temperature,
                chunk,
                |target, logprob| {
                    logprobs[target.sample][target.offset - prompts[target.sample]] = logprob;
                },
            );
        });
        Ok(Some(logprobs))
    }
}

/// Advantages of the rewards, less the KL penalty where that is part of the reward. The statistics
/// of rewards are those of the judge's.
fn regularised_advantages(
    groups: &[StateGroup],
    reference: Option<&[Vec<f64>]>,
    config: &LearnerConfig,
) -> Result<Advantages, StepError> {
    let judged: Vec<Vec<f64>> = groups
        .iter()
        .map(|g| g.samples.iter().map(|s| f64::from(s.reward)).collect())
        .collect();
    let weigh = |rewards: &[Vec<f64>]| {
        advantages(rewards, config.baseline, config.normalise_std).map_err(|error| {
            StepError::Reward {
                state: groups[error.group].state_id.clone(),
                error,
            }
        })
    };
    let plain = weigh(&judged)?;
    let (Some(reference), KlTerm::K1Reward) = (reference, config.kl.term) else {
        return Ok(plain);
    };
    let mut penalties =
        groups
            .iter()
            .flat_map(|g| &g.samples)
            .zip(reference)
            .map(|(s, reference)| {
                let k1: f64 = s
                    .logprobs
                    .iter()
                    .zip(reference)
                    .map(|(l, r)| f64::from(*l) - r)
                    .sum();
                config.kl.coefficient * k1
            });
    let mut penalised = judged;
    for reward in penalised.iter_mut().flatten() {
        *reward -= penalties.next().expect("one penalty per sample");
    }
    Ok(Advantages {
        values: weigh(&penalised)?.values,
        ..plain
    })
}

/// What the tokens of a policy batch are weighted by. Samples are numbered through all groups.
struct PolicyBatch<'a> {
    behaviour: Vec<&'a [f32]>,
    prompts: Vec<usize>,
    advantages: Vec<f64>,
    reference: Option<&'a [Vec<f64>]>,
    lengths: Vec<usize>,
    counts: GlobalCounts,
    seen: Differences,
}

/// Sums over the tokens that were run.
#[derive(Default)]
struct Differences {
    tokens: usize,
    sum: f64,
    max: f64,
    capped: usize,
    kl: f64,
}

impl PolicyBatch<'_> {
    /// Drops the actions that cannot move the weights: no advantage, and no KL term in the loss.
    /// They still count in the normalisation.
    fn without_idle(
        &self,
        groups: Vec<Vec<Sequence>>,
        config: &LearnerConfig,
    ) -> Vec<Vec<Sequence>> {
        if self.reference.is_some() && config.kl.term != KlTerm::K1Reward {
            return groups;
        }
        let moves = |sequence: &Sequence| self.advantages[sequence.sample] != 0.0;
        groups
            .into_iter()
            .map(|group| group.into_iter().filter(moves).collect())
            .collect()
    }

    /// The weighted loss of one token, which is recorded.
    fn loss(&mut self, target: &Target, logprob: f64, config: &LearnerConfig) -> TokenLoss {
        let (sample, index) = (target.sample, target.offset - self.prompts[target.sample]);
        let token = PolicyToken {
            logprob,
            behaviour: f64::from(self.behaviour[sample][index]),
            reference: self.reference.map(|reference| reference[sample][index]),
            advantage: self.advantages[sample],
        };
        let options = PolicyOptions {
            importance: config.importance.weighting(),
            kl_coefficient: config.kl.coefficient,
            kl: config.kl.term,
        };
        self.seen.record(token, options);
        let loss = policy_gradient(token, options);
        let weight = config
            .normalisation
            .weight(self.counts, self.lengths[sample]);
        TokenLoss {
            value: weight * loss.value,
            derivative: weight * loss.derivative,
        }
    }

    fn metrics(
        &self,
        groups: &[StateGroup],
        advantages: &Advantages,
        config: &LearnerConfig,
    ) -> PolicyMetrics {
        let (advantage_mean, advantage_std) = mean_and_std(&self.advantages);
        let tokens = self.seen.tokens.max(1) as f64;
        let has_reference = config.kl.coefficient > 0.0;
        PolicyMetrics {
            actions: self.advantages.len(),
            reward_mean: advantages.reward_mean,
            reward_std: advantages.reward_std,
            advantage_mean,
            advantage_std,
            zero_variance_share: advantages.zero_variance_groups as f64 / groups.len() as f64,
            kl: has_reference.then_some(self.seen.kl / tokens),
            logprob_difference_mean: self.seen.sum / tokens,
            logprob_difference_max: self.seen.max,
            importance_capped_share: self.seen.capped as f64 / tokens,
        }
    }
}

impl Differences {
    fn record(&mut self, token: PolicyToken, options: PolicyOptions) {
        let difference = (token.logprob - token.behaviour).abs();
        let (_, capped) = options.importance.weight(token.logprob, token.behaviour);
        self.tokens += 1;
        self.sum += difference;
        self.max = self.max.max(difference);
        self.capped += usize::from(capped);
        self.kl += token
            .reference
            .map_or(0.0, |r| kl_estimates(token.logprob, r).k3);
    }
}
