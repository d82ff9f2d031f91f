//! Policy steps: advantages and their losses on freshly sampled, judged actions.

use crate::batch::{Counts, Limits, actions, counts, packed};
use crate::config::LearnerConfig;
use crate::learner::Learner;
use crate::metrics::{PolicyMetrics, StepMetrics, SurrogateMetrics, timed};
use crate::objective::LossKind;
use crate::pass::{StepError, score};
use crate::reuse::{LastBatch, OldLogprobs, key_of};
use algo::advantage::{Population, advantages, check_rewards, zero_variance_groups};
use algo::logprob::Drawn;
use algo::loss::{Clip, KlTerm, PolicyToken, TokenLoss, kl_estimates, policy_loss};
use algo::pack::{Sequence, Target};
use collective::Reduce;
use model::Decoder;
use proto::StateGroup;

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
        self.measured(|learner| {
            let (mut metrics, batch) = learner.run_policy(groups)?;
            learner.apply(&mut metrics)?;
            learner.take_in(batch);
            Ok(metrics)
        })
    }

    /// RU-1.
    fn take_in(&mut self, Batch { batch, mean }: Batch) {
        if batch.key != self.last_batch.key {
            let decay = self.config().baseline_decay;
            self.reward_history.update(mean, decay);
        }
        self.last_batch = batch;
    }

    /// Makes the gradient that of `groups`, all replicas' shares together.
    pub(crate) fn accumulate_policy(
        &mut self,
        groups: &[StateGroup],
    ) -> Result<StepMetrics, StepError> {
        self.run_policy(groups).map(|(metrics, _)| metrics)
    }

    /// [`Learner::accumulate_policy`], with what the learner remembers of the batch once the step is
    /// made.
    fn run_policy(&mut self, groups: &[StateGroup]) -> Result<(StepMetrics, Batch), StepError> {
        self.ready()?;
        let mut metrics = StepMetrics::default();
        let limits = Limits::of(self.decoder().spec());
        let prepared = timed(&mut metrics.seconds.pack, || {
            let sequences = actions(groups, limits)?;
            let rewards = rewards(groups);
            check_rewards(&rewards).map_err(|error| StepError::Reward {
                state: groups[error.group].state_id.clone(),
                error,
            })?;
            Ok((sequences, rewards))
        });
        let (sequences, rewards) = self.agree(prepared)?;
        let mut counts = counts(&sequences);
        self.count_all(&mut counts.global)?;
        if counts.global.tokens == 0 {
            return Err(StepError::EmptyBatch);
        }
        let mut key = key_of(groups);
        self.add_up(key.each_mut())?;
        let mut policy = self.reward_metrics(&rewards)?;
        let mut batch = Batch {
            batch: self.last_batch.or_new(key, self.reward_history),
            mean: policy.reward_mean,
        };
        match self.config().loss.kind {
            LossKind::Reinforce | LossKind::PpoClip => {
                metrics.trained_tokens = counts.global.tokens;
                let share = Share {
                    groups,
                    sequences,
                    rewards,
                    counts,
                };
                self.accumulate_surrogate(share, &mut batch, &mut metrics, &mut policy)?;
            }
            LossKind::Dpo => {
                self.accumulate_preferences(groups, sequences, &mut metrics, &mut policy)?;
            }
        }
        metrics.policy = Some(policy);
        Ok((metrics, batch))
    }

    /// What the judge's rewards say, over all replicas.
    fn reward_metrics(&mut self, rewards: &[Vec<f64>]) -> Result<PolicyMetrics, StepError> {
        let population = self.population(rewards)?;
        let mut numbers = [zero_variance_groups(rewards) as f64, rewards.len() as f64];
        self.add_up(numbers.each_mut())?;
        Ok(PolicyMetrics {
            actions: population.count as usize,
            reward_mean: population.mean(),
            reward_std: population.std(),
            zero_variance_share: numbers[0] / numbers[1].max(1.0),
            ..Default::default()
        })
    }

    fn accumulate_surrogate(
        &mut self,
        share: Share,
        Batch { batch: last, mean }: &mut Batch,
        metrics: &mut StepMetrics,
        policy: &mut PolicyMetrics,
    ) -> Result<(), StepError> {
        let Share {
            groups,
            sequences,
            mut rewards,
            counts,
        } = share;
        let reference = match self.config().kl.coefficient {
            0.0 => None,
            _ => Some(self.reference_logprobs(groups, &sequences, metrics)?),
        };
        let config = self.config().clone();
        if let (Some(reference), KlTerm::K1Reward) = (&reference, config.kl.term) {
            penalise(groups, reference, config.kl.coefficient, &mut rewards);
        }
        let population = self.population(&rewards)?;
        *mean = population.mean();
        let (baseline, std) = (config.baseline, config.normalise_std);
        let advantages = advantages(&rewards, baseline, std, population, last.before);
        let mut batch = PolicyBatch {
            behaviour: groups
                .iter()
                .flat_map(|g| &g.samples)
                .map(|s| &s.logprobs[..])
                .collect(),
            prompts: prompts(groups),
            advantages: advantages.concat(),
            reference: reference.as_deref(),
            old: config.recomputes_old().then(|| last.old_logprobs(groups)),
            counts,
            seen: Differences::default(),
        };
        let sequences = batch.without_idle(sequences, &config);
        let batches = timed(&mut metrics.seconds.pack, || {
            packed(&sequences, config.micro_batch_tokens)
        })?;
        let temperature = f64::from(config.temperature);
        self.backward(&batches, temperature, metrics, |target, drawn| {
            batch.loss(target, drawn, &config)
        })?;
        let PolicyBatch { old, mut seen, .. } = batch;
        last.keep(old.unwrap_or_default());
        self.add_up(seen.numbers())?;
        self.reduce([&mut seen.max], Reduce::Max)?;
        let advantages = self.population(&advantages)?;
        seen.describe(advantages, reference.is_some(), policy);
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
        let seconds = &mut metrics.seconds.reference;
        let found = self.reference().and_then(|reference| {
            timed(seconds, || {
                action_logprobs(reference, &config, groups, sequences)
            })
        });
        self.agree(found)
    }
}

/// State that a step leaves behind for later updates of its batch, once it is made.
struct Batch {
    batch: LastBatch,
    /// Mean reward, penalties taken off.
    mean: f64,
}

/// One replica's share of a batch, checked.
struct Share<'a> {
    groups: &'a [StateGroup],
    sequences: Vec<Vec<Sequence>>,
    rewards: Vec<Vec<f64>>,
    counts: Counts,
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
    let options = config.head_options(f64::from(config.temperature));
    score(decoder, &batches, options, |target, logprob| {
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

/// Takes the KL penalty off the rewards.
fn penalise(
    groups: &[StateGroup],
    reference: &[Vec<f64>],
    coefficient: f64,
    rewards: &mut [Vec<f64>],
) {
    let samples = groups.iter().flat_map(|g| &g.samples).zip(reference);
    for (reward, (sample, reference)) in rewards.iter_mut().flatten().zip(samples) {
        let pairs = sample.logprobs.iter().zip(reference);
        let k1: f64 = pairs.map(|(l, r)| f64::from(*l) - r).sum();
        *reward -= coefficient * k1;
    }
}

/// What the tokens of a policy batch are weighted by. Samples are numbered through all groups.
struct PolicyBatch<'a> {
    behaviour: Vec<&'a [f32]>,
    prompts: Vec<usize>,
    advantages: Vec<f64>,
    reference: Option<&'a [Vec<f64>]>,
    /// Where the old log-probabilities are not the sampler's.
    old: Option<Vec<OldLogprobs>>,
    counts: Counts,
    seen: Differences,
}

/// Sums over the tokens that were run.
#[derive(Default)]
struct Differences {
    tokens: f64,
    sum: f64,
    max: f64,
    weights: f64,
    bounded: f64,
    clipped_low: f64,
    clipped_high: f64,
    clipped_dual: f64,
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
        let behaviour = f64::from(self.behaviour[sample][index]);
        let old = self.old.as_mut();
        let old = old.map_or(behaviour, |old| old[sample].at(index, drawn.logprob));
        let token = PolicyToken {
            logprob: drawn.logprob,
            old,
            behaviour,
            reference: self.reference.map(|reference| reference[sample][index]),
            advantage: self.advantages[sample],
            entropy: drawn.entropy,
        };
        let options = config.policy_options();
        let (loss, clip) = policy_loss(token, options);
        let importance = options.surrogate.importance(token, options.importance);
        self.seen.record(token, clip, importance);
        let weight = config
            .normalisation
            .weight(self.counts.global, self.counts.own[sample]);
        loss.weighted(weight)
    }
}

impl Differences {
    fn record(&mut self, token: PolicyToken, clip: Clip, (weight, bounded): (f64, bool)) {
        let difference = (token.logprob - token.behaviour).abs();
        self.tokens += 1.0;
        self.sum += difference;
        self.max = self.max.max(difference);
        self.weights += weight;
        self.bounded += f64::from(u8::from(bounded));
        match clip {
            Clip::None => {}
            Clip::Low => self.clipped_low += 1.0,
            Clip::High => self.clipped_high += 1.0,
            Clip::Dual => self.clipped_dual += 1.0,
        }
        self.kl += token
            .reference
            .map_or(0.0, |r| kl_estimates(token.logprob, r).k3);
    }

    /// All but the largest.
    fn numbers(&mut self) -> [&mut f64; 8] {
        [
            &mut self.tokens,
            &mut self.sum,
            &mut self.weights,
            &mut self.bounded,
            &mut self.clipped_low,
            &mut self.clipped_high,
            &mut self.clipped_dual,
            &mut self.kl,
        ]
    }

    fn describe(&self, advantages: Population, has_reference: bool, policy: &mut PolicyMetrics) {
        let share = |count: f64| count / self.tokens.max(1.0);
        policy.kl = has_reference.then(|| share(self.kl));
        policy.compared_tokens = self.tokens as usize;
        policy.logprob_difference_mean = share(self.sum);
        policy.logprob_difference_max = self.max;
        policy.surrogate = Some(SurrogateMetrics {
            advantage_mean: advantages.mean(),
            advantage_std: advantages.std(),
            importance_weight_mean: share(self.weights),
            importance_bounded_share: share(self.bounded),
            clip_low_share: share(self.clipped_low),
            clip_high_share: share(self.clipped_high),
            clip_dual_share: share(self.clipped_dual),
        });
    }
}
