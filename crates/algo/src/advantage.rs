//! Advantages: how much better an action was than what was to be expected.

use serde::{Deserialize, Serialize};

/// Added to a standard deviation before dividing by it. Rewards are of the order of 1, so it only
/// matters for populations whose rewards are all but equal, where it keeps rounding from being
/// blown up to size 1.
pub const STD_EPSILON: f64 = 1e-6;

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Nothing: the advantage is the reward.
    None,
    /// The mean over all samples of the batch.
    BatchMean,
    /// The mean over all batches so far, a recent one weighing more: [`RewardHistory`]. It does not
    /// depend on the batch's own actions, hence unbiased (Williams 1992, "reinforcement
    /// comparison"). The first batch is compared with its own mean.
    RunningMean,
    /// The mean over all samples of the same state, the sample itself included: with
    /// `normalise_std` that of GRPO (Shao et al. 2024, arXiv 2402.03300), without that of Dr. GRPO
    /// (Liu et al. 2025, arXiv 2503.20783). `(g − 1) / g` times leave-one-out for `g` samples.
    GroupMean,
    /// The mean over the other samples of the same state (RLOO, Ahmadian et al. 2024, arXiv
    /// 2402.14740): independent of the sample itself, hence unbiased. 0 for a state with one
    /// sample, which has nothing to be compared with.
    #[default]
    LeaveOneOut,
}

/// A reward that is no number.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "group {group}, sample {sample}: the reward is {reward}; rewards must be finite, so leave the \
     sample out or judge it again"
)]
pub struct RewardError {
    /// Index of the group.
    pub group: usize,
    /// Index within the group.
    pub sample: usize,
    /// The reward.
    pub reward: f64,
}

/// A mean of batch means in which those of long ago fade.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardHistory {
    /// Of batch means, each times what is left of its weight.
    pub sum: f64,
    /// Of what is left of the weights.
    pub weight: f64,
}

impl RewardHistory {
    /// The mean; `None` before the first batch. The weights of what went in add up to 1 from the
    /// first batch on, so the beginning is not drawn towards 0.
    pub fn value(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Takes a batch's mean in; all before it fade by `decay`, in [0, 1).
    pub fn update(&mut self, mean: f64, decay: f64) {
        self.sum = decay * self.sum + (1.0 - decay) * mean;
        self.weight = decay * self.weight + (1.0 - decay);
    }
}

/// Statistics of the rewards of a whole batch, which may be spread over replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Population {
    /// How many rewards.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// The largest; −∞ of none.
    pub largest: f64,
    /// The smallest; ∞ of none.
    pub smallest: f64,
}

impl Population {
    /// That of some rewards.
    pub fn of(rewards: impl IntoIterator<Item = f64>) -> Self {
        let none = Self {
            count: 0.0,
            sum: 0.0,
            squares: 0.0,
            largest: f64::NEG_INFINITY,
            smallest: f64::INFINITY,
        };
        rewards.into_iter().fold(none, |all, reward| Self {
            count: all.count + 1.0,
            sum: all.sum + reward,
            squares: all.squares + reward * reward,
            largest: all.largest.max(reward),
            smallest: all.smallest.min(reward),
        })
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }

    /// Their standard deviation, divided by n; 0 of none, and exactly 0 of equals.
    pub fn std(&self) -> f64 {
        if self.is_constant() {
            return 0.0;
        }
        let mean = self.mean();
        (self.squares / self.count - mean * mean).max(0.0).sqrt()
    }

    fn is_constant(&self) -> bool {
        self.smallest >= self.largest
    }

    /// What advantages over it are divided by.
    fn scale(&self, normalise_std: bool) -> f64 {
        if !normalise_std || self.is_constant() {
            return 1.0; // also without a deviation to divide by
        }
        sample_scale(self.std(), self.count)
    }
}

/// The first reward that is not finite, if there is one.
///
/// # Errors
/// Names it: one such reward would spoil the whole batch.
pub fn check_rewards(rewards: &[Vec<f64>]) -> Result<(), RewardError> {
    for (group, rewards) in rewards.iter().enumerate() {
        if let Some(sample) = rewards.iter().position(|r| !r.is_finite()) {
            return Err(RewardError {
                group,
                sample,
                reward: rewards[sample],
            });
        }
    }
    Ok(())
}

/// Advantages of `rewards`, one inner slice per state, which [`check_rewards`] has passed. `batch` is the
/// population of all replicas' rewards; `running` is what came before, which
/// [`Baseline::RunningMean`] alone looks at.
///
/// With `normalise_std` each is divided by the standard deviation (divided by n − 1, as TRL and verl
/// do) plus [`STD_EPSILON`] of the population its baseline is taken over: the group for group mean
/// and leave-one-out, the batch otherwise. The sample itself is part of that population, so no
/// advantage exceeds `√g` for `g` samples: leaving it out of the deviation too would divide by 0
/// whenever all others agree. A group whose rewards are all equal gives exactly 0 under group mean
/// and leave-one-out, a batch under batch mean.
pub fn advantages(
    rewards: &[Vec<f64>],
    baseline: Baseline,
    normalise_std: bool,
    batch: Population,
    running: RewardHistory,
) -> Vec<Vec<f64>> {
    let expected = match baseline {
        Baseline::RunningMean => running.value().unwrap_or(batch.mean()),
        Baseline::BatchMean => batch.mean(),
        Baseline::None | Baseline::GroupMean | Baseline::LeaveOneOut => 0.0,
    };
    match baseline {
        Baseline::BatchMean if batch.is_constant() => zeros(rewards), // rounding must not leak in
        Baseline::None | Baseline::RunningMean | Baseline::BatchMean => {
            let scale = batch.scale(normalise_std);
            let weigh = |group: &Vec<f64>| group.iter().map(|r| (r - expected) / scale).collect();
            rewards.iter().map(weigh).collect()
        }
        Baseline::GroupMean => rewards
            .iter()
            .map(|group| centred(group, 1.0, normalise_std))
            .collect(),
        Baseline::LeaveOneOut => rewards
            .iter()
            .map(|group| {
                // r − mean of the others = (r − mean of all) · n / (n − 1)
                let count = group.len() as f64;
                centred(group, count / (count - 1.0), normalise_std)
            })
            .collect(),
    }
}

/// Groups whose rewards are all equal: under leave-one-out and group mean they teach nothing.
pub fn zero_variance_groups(rewards: &[Vec<f64>]) -> usize {
    rewards.iter().filter(|group| all_equal(group)).count()
}

fn zeros(rewards: &[Vec<f64>]) -> Vec<Vec<f64>> {
    rewards.iter().map(|group| vec![0.0; group.len()]).collect()
}

/// `factor` · (r − mean of the group), scaled.
fn centred(group: &[f64], factor: f64, normalise_std: bool) -> Vec<f64> {
    if all_equal(group) {
        return vec![0.0; group.len()]; // also a single sample; rounding must not leak in
    }
    let (mean, std) = mean_and_std(group);
    let scale = if normalise_std {
        sample_scale(std, group.len() as f64)
    } else {
        1.0
    };
    group.iter().map(|r| factor * (r - mean) / scale).collect()
}

/// What advantages are divided by, from a deviation divided by n.
fn sample_scale(std: f64, count: f64) -> f64 {
    std * (count / (count - 1.0)).sqrt() + STD_EPSILON
}

fn all_equal(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// Mean and population standard deviation; zeros for no values.
pub fn mean_and_std(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Baseline::*;

    fn advantages(
        rewards: &[Vec<f64>],
        baseline: Baseline,
        normalise_std: bool,
        running: RewardHistory,
    ) -> Vec<Vec<f64>> {
        let batch = Population::of(rewards.iter().flatten().copied());
        super::advantages(rewards, baseline, normalise_std, batch, running)
    }

    #[test]
    fn tables() {
        let two = |a: &[f64], b: &[f64]| vec![a.to_vec(), b.to_vec()];
        let (third, root) = (1.0 / 3.0, 0.75f64.sqrt());
        for (name, rewards, baseline, std, expected) in [
            (
                "none",
                two(&[1.0, 0.0], &[0.5]),
                None,
                false,
                two(&[1.0, 0.0], &[0.5]),
            ),
            (
                "none, std, zero variance",
                two(&[1.0, 1.0], &[1.0]),
                None,
                true,
                two(&[1.0, 1.0], &[1.0]),
            ),
            (
                "batch mean",
                two(&[1.0, 0.0], &[0.0, 1.0]),
                BatchMean,
                false,
                two(&[0.5, -0.5], &[-0.5, 0.5]),
            ),
            (
                "leave one out",
                two(&[1.0, 0.0, 0.0, 0.0], &[1.0, 0.0]),
                LeaveOneOut,
                false,
                two(&[1.0, -third, -third, -third], &[1.0, -1.0]),
            ),
            (
                "single sample",
                two(&[1.0], &[0.3]),
                LeaveOneOut,
                false,
                two(&[0.0], &[0.0]),
            ),
            (
                "zero variance",
                two(&[0.1; 3], &[0.7; 3]),
                LeaveOneOut,
                true,
                two(&[0.0; 3], &[0.0; 3]),
            ),
            (
                "zero variance batch",
                two(&[0.1; 3], &[0.1]),
                BatchMean,
                true,
                two(&[0.0; 3], &[0.0]),
            ),
            (
                "batch mean, std",
                two(&[1.0, 0.0], &[0.0, 1.0]),
                BatchMean,
                true,
                two(&[root, -root], &[-root, root]), // √¾: the deviation is √⅓
            ),
            (
                "group mean",
                two(&[1.0, 0.0, 0.0, 0.0], &[1.0, 0.0]),
                GroupMean,
                false,
                two(&[0.75, -0.25, -0.25, -0.25], &[0.5, -0.5]),
            ),
            (
                "group mean, std",
                two(&[1.0, 0.0, 0.0, 0.0], &[0.3; 2]),
                GroupMean,
                true,
                two(&[1.5, -0.5, -0.5, -0.5], &[0.0; 2]),
            ),
            (
                "no batch before",
                two(&[1.0, 0.0], &[0.0, 1.0]),
                RunningMean,
                false,
                two(&[0.5, -0.5], &[-0.5, 0.5]),
            ),
            (
                "empty group",
                two(&[], &[2.0]),
                LeaveOneOut,
                false,
                two(&[], &[0.0]),
            ),
        ] {
            let found = advantages(&rewards, baseline, std, RewardHistory::default());
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found} for {expected}"
                );
                assert!(
                    *expected != 0.0 || *found == 0.0,
                    "{name}: {found} is not exactly 0"
                );
            }
        }
    }

    #[test]
    fn leave_one_out_is_the_mean_of_the_others() {
        let group = [0.3, 0.9, 0.1, 0.45];
        let found = advantages(
            &[group.to_vec()],
            LeaveOneOut,
            false,
            RewardHistory::default(),
        );
        for (i, value) in found[0].iter().enumerate() {
            let others = (group.iter().sum::<f64>() - group[i]) / 3.0;
            assert!((value - (group[i] - others)).abs() < 1e-12);
        }
    }

    #[test]
    fn leave_one_out_with_std_stays_bounded() {
        // All others agree: a deviation without the sample itself would be 0 here.
        for outlier in [1.0, 1e-4, 1e6] {
            let mut group = vec![0.0; 7];
            group.push(outlier);
            let found = advantages(&[group], LeaveOneOut, true, RewardHistory::default());
            let bound = 8f64.sqrt() + 1e-9;
            assert!(
                found[0].iter().all(|a| a.abs() <= bound),
                "{outlier}: {found:?}"
            );
        }
    }

    #[test]
    fn a_running_mean_forgets_and_starts_at_the_first_batch() {
        let mut running = RewardHistory::default();
        assert_eq!(running.value(), Option::None);
        running.update(0.4, 0.9);
        assert!((running.value().unwrap() - 0.4).abs() < 1e-12);
        running.update(0.8, 0.9);
        let expected = (0.9 * 0.4 + 0.8) / 1.9;
        assert!((running.value().unwrap() - expected).abs() < 1e-12);
        let found = advantages(&[vec![1.0, 0.0]], RunningMean, false, running);
        assert!((found[0][0] - (1.0 - expected)).abs() < 1e-12);
        for _ in 0..500 {
            running.update(-1.0, 0.9);
        }
        assert!((running.value().unwrap() + 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_reward_that_is_no_number_is_named() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = check_rewards(&[vec![0.0], vec![1.0, bad]]).unwrap_err();
            assert_eq!((error.group, error.sample), (1, 1));
        }
    }

    #[test]
    fn statistics() {
        let rewards = [vec![1.0, 0.0], vec![0.5, 0.5]];
        assert_eq!(zero_variance_groups(&rewards), 1);
        let batch = Population::of(rewards.concat());
        assert_eq!(batch.mean(), 0.5);
        assert!((batch.std() - 0.125f64.sqrt()).abs() < 1e-12);
        assert_eq!(Population::of([]).std(), 0.0);
        assert_eq!(Population::of([0.1; 3]).std(), 0.0);
    }
}
