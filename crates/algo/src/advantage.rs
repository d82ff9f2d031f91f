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

/// Advantages with statistics of the rewards behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// One for each sample, grouped as the rewards were.
    pub values: Vec<Vec<f64>>,
    /// Mean reward.
    pub reward_mean: f64,
    /// Standard deviation of the rewards, over all samples (divided by n).
    pub reward_std: f64,
    /// Groups whose rewards are all equal: under leave-one-out they teach nothing.
    pub zero_variance_groups: usize,
}

/// Advantages of `rewards`, one inner slice per state.
///
/// With `normalise_std` each is divided by the standard deviation (divided by n) plus
/// [`STD_EPSILON`] of the population its baseline is taken over: the group for leave-one-out, the
/// batch otherwise. The sample itself is part of that population, so no advantage exceeds
/// `g / √(g − 1)` for `g` samples: leaving it out of the deviation too would divide by 0 whenever
/// all others agree. A population whose rewards are all equal gives exactly 0 under every baseline
/// but [`Baseline::None`].
///
/// # Errors
/// When a reward is not finite: one such reward would spoil the whole batch.
pub fn advantages(
    rewards: &[Vec<f64>],
    baseline: Baseline,
    normalise_std: bool,
) -> Result<Advantages, RewardError> {
    for (group, rewards) in rewards.iter().enumerate() {
        if let Some(sample) = rewards.iter().position(|r| !r.is_finite()) {
            return Err(RewardError {
                group,
                sample,
                reward: rewards[sample],
            });
        }
    }
    let all: Vec<f64> = rewards.iter().flatten().copied().collect();
    let (mean, std) = mean_and_std(&all);
    let batch_scale = if normalise_std {
        std + STD_EPSILON
    } else {
        1.0
    };
    let values = rewards
        .iter()
        .map(|group| match baseline {
            Baseline::None if all_equal(&all) => group.clone(), // no deviation to divide by
            Baseline::None => group.iter().map(|r| r / batch_scale).collect(),
            Baseline::BatchMean if all_equal(&all) => vec![0.0; group.len()],
            Baseline::BatchMean => group.iter().map(|r| (r - mean) / batch_scale).collect(),
            Baseline::LeaveOneOut => leave_one_out(group, normalise_std),
        })
        .collect();
    Ok(Advantages {
        values,
        reward_mean: mean,
        reward_std: std,
        zero_variance_groups: rewards.iter().filter(|group| all_equal(group)).count(),
    })
}

fn leave_one_out(group: &[f64], normalise_std: bool) -> Vec<f64> {
    if all_equal(group) {
        return vec![0.0; group.len()]; // also a single sample; rounding must not leak in
    }
    let count = group.len() as f64;
    let (mean, std) = mean_and_std(group);
    let scale = if normalise_std {
        std + STD_EPSILON
    } else {
        1.0
    };
    // r − mean of the others = (r − mean of all) · n / (n − 1)
    group
        .iter()
        .map(|r| (r - mean) * count / (count - 1.0) / scale)
        .collect()
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

    #[test]
    fn tables() {
        let two = |a: &[f64], b: &[f64]| vec![a.to_vec(), b.to_vec()];
        let third = 1.0 / 3.0;
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
                two(&[1.0, -1.0], &[-1.0, 1.0]),
            ),
            (
                "empty group",
                two(&[], &[2.0]),
                LeaveOneOut,
                false,
                two(&[], &[0.0]),
            ),
        ] {
            let found = advantages(&rewards, baseline, std).unwrap().values;
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
        let found = advantages(&[group.to_vec()], LeaveOneOut, false)
            .unwrap()
            .values;
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
            let found = advantages(&[group], LeaveOneOut, true).unwrap().values;
            let bound = 8.0 / 7f64.sqrt() + 1e-9;
            assert!(
                found[0].iter().all(|a| a.abs() <= bound),
                "{outlier}: {found:?}"
            );
        }
    }

    #[test]
    fn a_reward_that_is_no_number_is_named() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = advantages(&[vec![0.0], vec![1.0, bad]], LeaveOneOut, false).unwrap_err();
            assert_eq!((error.group, error.sample), (1, 1));
        }
    }

    #[test]
    fn statistics() {
        let found = advantages(&[vec![1.0, 0.0], vec![0.5, 0.5]], LeaveOneOut, false).unwrap();
        assert_eq!(found.zero_variance_groups, 1);
        assert_eq!(found.reward_mean, 0.5);
        assert!((found.reward_std - 0.125f64.sqrt()).abs() < 1e-12);
    }
}
