//! Direct preference optimisation on the best and the worst action of each state.
//!
//! A token's derivative depends on the log-probabilities of both whole actions, which may lie in
//! different micro-batches: a pass without gradients scores them all first.

use crate::batch::packed;
use crate::learner::Learner;
use crate::metrics::{PolicyMetrics, PreferenceMetrics, StepMetrics, timed};
use crate::pass::StepError;
use crate::policy::{action_logprobs, prompts, rewards};
use algo::loss::{ActionLogprob, TokenLoss, preference_loss};
use algo::pack::Sequence;
use collective::Reduce;
use proto::StateGroup;
use std::collections::HashSet;

/// Numbers of two actions of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    better: usize,
    worse: usize,
}

impl Learner {
    /// Adds the gradient of the mean preference loss over the states whose actions were not all
    /// rewarded alike; without one there is nothing to add.
    pub(crate) fn accumulate_preferences(
        &mut self,
        groups: &[StateGroup],
        sequences: Vec<Vec<Sequence>>,
        metrics: &mut StepMetrics,
        policy_metrics: &mut PolicyMetrics,
    ) -> Result<(), StepError> {
        let pairs = pairs(&rewards(groups));
        let sequences = in_pairs(sequences, &pairs);
        let mut numbers = [
            pairs.len() as f64,
            sequences
                .iter()
                .flatten()
                .map(Sequence::trained_tokens)
                .sum::<usize>() as f64,
        ];
        self.add_up(numbers.each_mut())?;
        let [all_pairs, tokens] = numbers;
        metrics.trained_tokens = tokens as usize;
        let reference = self.reference_logprobs(groups, &sequences, metrics)?;
        let scored = timed(&mut metrics.seconds.forward, || {
            action_logprobs(self.decoder(), self.config(), groups, &sequences)
        });
        let policy = self.agree(scored)?;
        let action = |number: usize| ActionLogprob {
            policy: policy[number].iter().sum(),
            reference: reference[number].iter().sum(),
        };
        let losses: Vec<TokenLoss> = pairs
            .iter()
            .map(|pair| {
                let options = self.config().loss.preference();
                preference_loss(action(pair.better), action(pair.worse), options)
                    .weighted(1.0 / all_pairs)
            })
            .collect();

        // Every token of an action has the derivative of the action's log-probability; the value
        // goes to the first token of the better one.
        let mut of_action = vec![(0.0, 0.0); policy.len()];
        for (pair, loss) in pairs.iter().zip(&losses) {
            of_action[pair.better] = (loss.value, loss.derivative);
            of_action[pair.worse] = (0.0, -loss.derivative);
        }
        let prompts = prompts(groups);
        let config = self.config().clone();
        let batches = timed(&mut metrics.seconds.pack, || {
            packed(&sequences, config.micro_batch_tokens)
        })?;
        self.backward(
            &batches,
            f64::from(config.temperature),
            metrics,
            |target, _| {
                let (value, derivative) = of_action[target.sample];
                let is_first = target.offset == prompts[target.sample];
                TokenLoss {
                    value: if is_first { value } else { 0.0 },
                    derivative,
                    by_entropy: 0.0,
                }
            },
        )?;

        let margins = pairs.iter().map(|pair| {
            let gain = |a: ActionLogprob| a.policy - a.reference;
            gain(action(pair.better)) - gain(action(pair.worse))
        });
        let mut seen = [0.0; 4];
        for margin in margins {
            seen[0] += margin;
            seen[1] += f64::from(u8::from(margin > 0.0));
        }
        let mut largest: f64 = 0.0;
        for difference in differences(groups, &policy, &sequences) {
            seen[2] += difference;
            seen[3] += 1.0;
            largest = largest.max(difference);
        }
        self.add_up(seen.each_mut())?;
        self.reduce([&mut largest], Reduce::Max)?;
        let count = all_pairs.max(1.0);
        policy_metrics.compared_tokens = seen[3] as usize;
        policy_metrics.logprob_difference_mean = seen[2] / seen[3].max(1.0);
        policy_metrics.logprob_difference_max = largest;
        policy_metrics.preference = Some(PreferenceMetrics {
            pairs: all_pairs as usize,
            margin_mean: seen[0] / count,
            accuracy: seen[1] / count,
        });
        Ok(())
    }
}

/// The first of the best and the first of the worst actions of each state whose actions differ.
fn pairs(rewards: &[Vec<f64>]) -> Vec<Pair> {
    let mut first = 0;
    let mut pairs = Vec::new();
    for group in rewards {
        // Of equals, the first: `max_by` would take the last.
        let best = (0..group.len())
            .rev()
            .max_by(|a, b| group[*a].total_cmp(&group[*b]));
        let worst = (0..group.len()).min_by(|a, b| group[*a].total_cmp(&group[*b]));
        if let (Some(best), Some(worst)) = (best, worst)
            && group[best] > group[worst]
        {
            pairs.push(Pair {
                better: first + best,
                worse: first + worst,
            });
        }
        first += group.len();
    }
    pairs
}

fn in_pairs(trajectories: Vec<Vec<Sequence>>, pairs: &[Pair]) -> Vec<Vec<Sequence>> {
    let wanted: HashSet<usize> = pairs.iter().flat_map(|p| [p.better, p.worse]).collect();
    let wanted = |sequence: &Sequence| wanted.contains(&sequence.sample);
    trajectories
        .into_iter()
        .map(|sequences| sequences.into_iter().filter(wanted).collect())
        .collect()
}

/// |log π − log μ| of every token in `sequences`.
fn differences(
    groups: &[StateGroup],
    policy: &[Vec<f64>],
    sequences: &[Vec<Sequence>],
) -> Vec<f64> {
    let samples: Vec<_> = groups.iter().flat_map(|g| &g.samples).collect();
    sequences
        .iter()
        .flatten()
        .flat_map(|sequence| {
            let behaviour = &samples[sequence.sample].logprobs;
            let pairs = policy[sequence.sample].iter().zip(behaviour);
            pairs.map(|(l, b)| (l - f64::from(*b)).abs())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_the_first_best_and_worst_of_states_that_differ() {
        let rewards = [
            vec![0.5, 0.5],
            vec![],
            vec![0.0, 1.0, 1.0, 0.0],
            vec![1.0],
            vec![0.3, -0.2, 0.9],
        ];
        let pair = |better, worse| Pair { better, worse };
        assert_eq!(pairs(&rewards), [pair(3, 2), pair(9, 8)]);
    }
}
