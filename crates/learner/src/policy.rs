//! Policy steps: advantages and their losses on freshly sampled, judged actions.

use crate::batch::{Counts, Limits, actions, counts, packed};
use crate::config::{LearnerConfig, LossKind};
use crate::learner::Learner;
use crate::metrics::{PolicyMetrics, StepMetrics, SurrogateMetrics, timed};
use crate::pass::{StepError, score};
use algo::advantage::{Advantages, RewardHistory, advantages, mean_and_std};
use algo::logprob::Drawn;
use algo::loss::{Clip, KlTerm, PolicyToken, TokenLoss, kl_estimates, policy_loss};
use algo::pack::{Sequence, Target};
use model::Decoder;
use proto::StateGroup;
use std::time::Instant;

impl Learner {
    /// One policy step with the configured loss. Every token of every action counts; the states
    /// themselves get no loss. Actions of one state, and states of one trajectory, share what they
    /// have in common.
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
        match self.config().loss.kind {
            LossKind::Reinforce | LossKind::PpoClip => {
                self.accumulate_surrogate(groups, sequences, &mut metrics)?;
            }
            LossKind::Dpo => self.accumulate_preferences(groups, sequences, &mut metrics)?,
        }
        Ok(metrics)
    }

    fn accumulate_surrogate(
        &mut self,
        groups: &[StateGroup],
        sequences: Vec<Vec<Sequence>>,
        metrics: &mut StepMetrics,
    ) -> Result<(), StepError> {
        let counts = counts(&sequences);
        if counts.global.tokens == 0 {
            return Err(StepError::EmptyBatch);
        }
        metrics.trained_tokens = counts.global.tokens;
        let reference = match self.config().kl.coefficient {
            0.0 => None,
            _ => Some(self.reference_logprobs(groups, &sequences, metrics)?),
        };
        let mut history = self.reward_history;
        let advantages =
            regularised_advantages(groups, reference.as_deref(), self.config(), &mut history)?;
        let mut batch = PolicyBatch {
            behaviour: groups
                .iter()
                .flat_map(|g| &g.samples)
                .map(|s| &s.logprobs[..])
                .collect(),
            prompts: prompts(groups),
            advantages: advantages.values.iter().flatten().copied().collect(),
            reference: reference.as_deref(),
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
            metrics,
            |target, drawn| batch.loss(target, drawn, &config),
        );
        metrics.policy = Some(batch.metrics(groups, &advantages));
        self.reward_history = history;
        Ok(())
    }

    /// [`action_logprobs`] under the reference.
    pub(crate) fn reference_logprobs(
        &mut self,
        groups: &[StateGroup],
        sequences: &[Vec<Sequence>],
        metrics: &mut StepMetrics,
    ) -> Result<Vec<Vec<f64>>, StepError> {
        let config = self.config().clone();
        let reference = self.reference()?;
        timed(&mut metrics.seconds.reference, || {
            action_logprobs(reference, &config, groups, sequences)
        })
    }
}

/// Log-probabilities of the tokens of every action in `sequences` under `decoder`, by the action's
/// number; zeros for the actions that are not in `sequences`.
pub(crate) fn action_logprobs(
    decoder: &Decoder,
    config: &LearnerConfig,
    groups: &[StateGroup],
    sequences: &[Vec<Sequence>],
) -> Result<Vec<Vec<f64>>, StepError> {
    let prompts = prompts(groups);
    let mut logprobs: Vec<Vec<f64>> = groups
        .iter()
        .flat_map(|g| &g.samples)
        .map(|sample| vec![0.0; sample.tokens.len()])
        .collect();
    let batches = packed(sequences, config.micro_batch_tokens)?;
    let (temperature, chunk) = (f64::from(config.temperature), config.loss_chunk_tokens);
    score(decoder, &batches, temperature, chunk, |target, logprob| {
        logprobs[target.sample][target.offset - prompts[target.sample]] = logprob;
    });
    Ok(logprobs)
}

/// How many tokens come before each action, by its number.
pub(crate) fn prompts(groups: &[StateGroup]) -> Vec<usize> {
    let of_group = |g: &StateGroup| std::iter::repeat_n(g.prompt.len(), g.samples.len());
    groups.iter().flat_map(of_group).collect()
}

/// The rewards of the judge, one inner slice per state.
pub(crate) fn rewards(groups: &[StateGroup]) -> Vec<Vec<f64>> {
    let of_group = |g: &StateGroup| g.samples.iter().map(|s| f64::from(s.reward)).collect();
    groups.iter().map(of_group).collect()
}

/// Advantages of the rewards, less the KL penalty where that is part of the reward. The statistics
/// of rewards are those of the judge's. What was rewarded goes into `history` afterwards.
fn regularised_advantages(
    groups: &[StateGroup],
    reference: Option<&[Vec<f64>]>,
    config: &LearnerConfig,
    history: &mut RewardHistory,
) -> Result<Advantages, StepError> {
    let judged = rewards(groups);
    let weigh = |rewards: &[Vec<f64>], history: RewardHistory| {
        advantages(rewards, config.baseline, config.normalise_std, history).map_err(|error| {
            StepError::Reward {
                state: groups[error.group].state_id.clone(),
                error,
            }
        })
    };
    let plain = weigh(&judged, *history)?;
    let (Some(reference), KlTerm::K1Reward) = (reference, config.kl.term) else {
        history.update(plain.reward_mean, config.baseline_decay);
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
    let regularised = weigh(&penalised, *history)?;
    history.update(regularised.reward_mean, config.baseline_decay);
    Ok(Advantages {
        values: regularised.values,
        ..plain
    })
}

/// What the tokens of a policy batch are weighted by. Samples are numbered through all groups.
struct PolicyBatch<'a> {
    behaviour: Vec<&'a [f32]>,
    prompts: Vec<usize>,
    advantages: Vec<f64>,
    reference: Option<&'a [Vec<f64>]>,
    counts: Counts,
    seen: Differences,
}

/// Sums over the tokens that were run.
#[derive(Default)]
struct Differences {
    tokens: usize,
    sum: f64,
    max: f64,
    bounded: usize,
    clipped_low: usize,
    clipped_high: usize,
    clipped_dual: usize,
    kl: f64,
}

impl PolicyBatch<'_> {
    /// Drops the actions that cannot move the weights: no advantage, and no KL or entropy term in
    /// the loss.
    /// They still count in the normalisation.
    fn without_idle(
        &self,
        groups: Vec<Vec<Sequence>>,
        config: &LearnerConfig,
    ) -> Vec<Vec<Sequence>> {
        let by_kl = self.reference.is_some() && config.kl.term != KlTerm::K1Reward;
        if by_kl || config.loss.entropy != 0.0 {
            return groups;
        }
        let moves = |sequence: &Sequence| self.advantages[sequence.sample] != 0.0;
        groups
            .into_iter()
            .map(|group| group.into_iter().filter(moves).collect())
            .collect()
    }

    /// The weighted loss of one token, which is recorded.
    fn loss(&mut self, target: &Target, drawn: Drawn, config: &LearnerConfig) -> TokenLoss {
        let (sample, index) = (target.sample, target.offset - self.prompts[target.sample]);
        let token = PolicyToken {
            logprob: drawn.logprob,
            behaviour: f64::from(self.behaviour[sample][index]),
            reference: self.reference.map(|reference| reference[sample][index]),
            advantage: self.advantages[sample],
            entropy: drawn.entropy,
        };
        let options = config.policy_options();
        let (loss, clip) = policy_loss(token, options);
        let (_, bounded) = options.importance.weight(token.logprob, token.behaviour);
        self.seen.record(token, clip, bounded);
        let weight = config
            .normalisation
            .weight(self.counts.global, self.counts.own[sample]);
        loss.weighted(weight)
    }

    fn metrics(&self, groups: &[StateGroup], advantages: &Advantages) -> PolicyMetrics {
        let (advantage_mean, advantage_std) = mean_and_std(&self.advantages);
        let seen = &self.seen;
        let tokens = seen.tokens.max(1) as f64;
        let share = |count: usize| count as f64 / tokens;
        PolicyMetrics {
            actions: self.advantages.len(),
            reward_mean: advantages.reward_mean,
            reward_std: advantages.reward_std,
            zero_variance_share: advantages.zero_variance_groups as f64 / groups.len() as f64,
            kl: self.reference.map(|_| seen.kl / tokens),
            logprob_difference_mean: seen.sum / tokens,
            logprob_difference_max: seen.max,
            surrogate: Some(SurrogateMetrics {
                advantage_mean,
                advantage_std,
                importance_bounded_share: share(seen.bounded),
                clip_low_share: share(seen.clipped_low),
                clip_high_share: share(seen.clipped_high),
                clip_dual_share: share(seen.clipped_dual),
            }),
            preference: None,
        }
    }
}

impl Differences {
    fn record(&mut self, token: PolicyToken, clip: Clip, bounded: bool) {
        let difference = (token.logprob - token.behaviour).abs();
        self.tokens += 1;
        self.sum += difference;
        self.max = self.max.max(difference);
        self.bounded += usize::from(bounded);
        match clip {
            Clip::None => {}
            Clip::Low => self.clipped_low += 1,
            Clip::High => self.clipped_high += 1,
            Clip::Dual => self.clipped_dual += 1,
        }
        self.kl += token
            .reference
            .map_or(0.0, |r| kl_estimates(token.logprob, r).k3);
    }
}
