//! Several samples of each question.

use crate::{EvalError, Scores, scores::right, text::normalise};
use proto::{QuestionId, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What several samples of each question give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleScores {
    /// Samples per question.
    pub samples: usize,
    /// Mean share of right samples.
    pub mean: f64,
    /// Share of questions whose most frequent answer is right.
    pub majority: f64,
    /// `pass_at[k]` for k = 1, 2, 4, … and the number of samples.
    pub pass_at: BTreeMap<usize, f64>,
}

impl SampleScores {
    /// Scores the samples of an evaluation.
    ///
    /// # Errors
    /// As [`Scores::of`].
    pub fn of(trajectories: &[Trajectory]) -> Result<Self, EvalError> {
        let scores = Scores::of(trajectories)?;
        let n = scores.samples();
        let powers = std::iter::successors(Some(1_usize), |k| k.checked_mul(2));
        let ks = powers.take_while(|k| *k < n).chain([n]);
        Ok(Self {
            samples: n,
            mean: mean(&scores.shares()),
            majority: majority(trajectories)?,
            pass_at: ks
                .map(|k| Ok((k, mean_pass_at(&scores, k)?)))
                .collect::<Result<_, EvalError>>()?,
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_pass_at(scores: &Scores, k: usize) -> Result<f64, EvalError> {
    let each: Result<Vec<f64>, EvalError> = scores
        .iter()
        .map(|(_, samples)| pass_at_k(samples.len(), right(samples), k))
        .collect();
    Ok(mean(&each?))
}

/// The unbiased estimate of the probability that at least one of `k` samples is right, from `c`
/// right ones among `n`: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language
/// Models Trained on Code", equation 1).
///
/// # Errors
/// Unless 1 ≤ k ≤ n.
///
/// # Panics
/// When `c` is more than `n`, which is a bug of the caller.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Result<f64, EvalError> {
    assert!(c <= n, "{c} right samples of {n}");
    if k == 0 || k > n {
        return Err(EvalError::BadK { k, n });
    }
    if n - c < k {
        return Ok(1.0);
    }
    let all_wrong: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    Ok(1.0 - all_wrong)
}

/// Share of questions whose most frequent answer is right (self-consistency, Wang et al. 2022).
/// Answers are grouped in normal form, numbers by value; of equally frequent ones the one sampled
/// first counts. Samples without an answer do not vote.
///
/// # Errors
/// As [`Scores::of`].
pub fn majority(trajectories: &[Trajectory]) -> Result<f64, EvalError> {
    Scores::of(trajectories)?;
    let mut by_question: BTreeMap<&QuestionId, Vec<&Trajectory>> = BTreeMap::new();
    for trajectory in trajectories {
        by_question
            .entry(&trajectory.item.question)
            .or_default()
            .push(trajectory);
    }
    let mut won = 0_usize;
    for samples in by_question.values_mut() {
        samples.sort_by_key(|trajectory| trajectory.item.sample);
        if let Some(winner) = vote(samples) {
            won += usize::from(crate::is_right(winner)?);
        }
    }
    Ok(won as f64 / by_question.len() as f64)
}

/// The first sample that gives the most frequent answer.
fn vote<'a>(samples: &[&'a Trajectory]) -> Option<&'a Trajectory> {
    let mut counts: Vec<(String, usize, &Trajectory)> = Vec::new();
    for trajectory in samples {
        let Some(answer) = trajectory.answer() else {
            continue;
        };
        let key = vote_key(answer);
        match counts.iter_mut().find(|(other, _, _)| *other == key) {
            Some((_, count, _)) => *count += 1,
            None => counts.push((key, 1, trajectory)),
        }
    }
    // `max_by_key` takes the last of equals, so the order is turned round.
    counts
        .into_iter()
        .rev()
        .max_by_key(|(_, count, _)| *count)
        .map(|(_, _, winner)| winner)
}

/// `$1,000.0` and `1000` vote together.
fn vote_key(answer: &str) -> String {
    let plain: String = answer
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '$' | ','))
        .collect();
    match plain.parse::<f64>() {
        Ok(value) if value.is_finite() => value.to_string(),
        _ => normalise(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pass_at_k_has_the_known_values() {
        for (n, c, k, expected) in [
            (10, 0, 1, 0.0),
            (10, 3, 1, 0.3),
            (10, 3, 5, 1.0 - 21.0 / 252.0),
            (5, 2, 2, 0.7),
            (4, 2, 3, 1.0),
            (4, 4, 1, 1.0),
        ] {
            let found = pass_at_k(n, c, k).unwrap();
            assert!((found - expected).abs() < 1e-12, "{n} {c} {k}: {found}");
        }
        assert_eq!(pass_at_k(4, 2, 5), Err(EvalError::BadK { k: 5, n: 4 }));
        assert_eq!(pass_at_k(4, 2, 0), Err(EvalError::BadK { k: 0, n: 4 }));
    }

    #[test]
    fn votes_are_counted_by_value() {
        for (one, two, together) in [
            ("$1,000", "1000.0", true),
            ("The Nile", "nile.", true),
            ("10", "-10", false),
            ("nan", "NaN", true),
        ] {
            assert_eq!(vote_key(one) == vote_key(two), together, "{one} / {two}");
        }
    }

    proptest! {
        #[test]
        fn pass_at_k_rises_with_k_and_starts_at_the_share(n in 1..60_usize, c in 0..60_usize) {
            let c = c.min(n);
            let all: Vec<f64> = (1..=n).map(|k| pass_at_k(n, c, k).unwrap()).collect();
            prop_assert!((all[0] - c as f64 / n as f64).abs() < 1e-9);
            prop_assert!(all.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            prop_assert_eq!(all[n - 1] > 0.5, c > 0);
        }
    }
}
