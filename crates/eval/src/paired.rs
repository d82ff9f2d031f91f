//! Is one model better than another on the same questions?

use crate::{EvalError, Interval, Scores, interval::bootstrap_mean};
use serde::{Deserialize, Serialize};

/// McNemar's test (McNemar 1947) in its exact form: of the questions on which the two differ, is the
/// share that the second wins compatible with a fair coin?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Right in the first evaluation only.
    pub only_first: usize,
    /// Right in the second evaluation only.
    pub only_second: usize,
    /// Two-sided p-value, in (0, 1]; 1 where the two never differ.
    pub p: f64,
}

/// The second evaluation against the first, on the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The number of questions.
    pub questions: usize,
    /// Accuracy of the second less that of the first, with its paired bootstrap interval.
    pub difference: Interval,
    /// The exact test; `None` where a question has several samples, as its score is then no longer
    /// right or wrong.
    pub mcnemar: Option<McNemar>,
}

/// Compares two evaluations of one id list. `seed` decides the bootstrap's resamples.
///
/// # Errors
/// When the id lists differ.
pub fn compare(first: &Scores, second: &Scores, seed: u64) -> Result<Paired, EvalError> {
    first.check_same_ids(second)?;
    let single = first.samples() == 1 && second.samples() == 1;
    Ok(Paired {
        questions: first.questions(),
        difference: paired_bootstrap(first, second, seed)?,
        mcnemar: if single {
            Some(test(first, second))
        } else {
            None
        },
    })
}

/// The difference of the two accuracies, second less first, with the percentile interval from
/// resampling questions with replacement (Efron and Tibshirani 1993, chapter 13).
///
/// # Errors
/// When the id lists differ.
pub fn paired_bootstrap(first: &Scores, second: &Scores, seed: u64) -> Result<Interval, EvalError> {
    first.check_same_ids(second)?;
    let differences: Vec<f64> = first
        .shares()
        .iter()
        .zip(second.shares())
        .map(|(one, two)| two - one)
        .collect();
    let interval = bootstrap_mean(&differences, seed).ok_or(EvalError::Empty)?;
    Ok(interval.of_values_alike(differences.len(), [-1.0, 1.0]))
}

fn test(first: &Scores, second: &Scores) -> McNemar {
    let pairs = || {
        first
            .iter()
            .zip(second.iter())
            .map(|((_, one), (_, two))| (one[0], two[0]))
    };
    let only_first = pairs().filter(|pair| *pair == (true, false)).count();
    let only_second = pairs().filter(|pair| *pair == (false, true)).count();
    McNemar {
        only_first,
        only_second,
        p: mcnemar(only_first, only_second),
    }
}

/// The two-sided exact p-value for two counts of discordant pairs: twice the probability of at most
/// the smaller count among their sum in fair coin tosses, and at most 1.
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let (fewer, n) = (only_first.min(only_second), only_first + only_second);
    // ln C(n, i), step by step; in logarithms, as 2^-n is 0 in floating point from n = 1075.
    let ln_half_n = n as f64 * 0.5_f64.ln();
    let mut ln_choose = 0.0_f64;
    let mut tail = 0.0;
    for i in 0..=fewer {
        tail += (ln_choose + ln_half_n).exp();
        ln_choose += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    // A table so lopsided that p is below the smallest float is still possible under the coin.
    (2.0 * tail).clamp(f64::MIN_POSITIVE, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mcnemar_has_the_known_values() {
        // Twice the binomial tail, by hand: (1+5)/2^5*2 = .375, 2/2^6 = .03125, and so on.
        for (b, c, p) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (1, 4, 0.375),
            (0, 6, 0.03125),
            (2, 10, 0.038_574_218_75),
            (5, 5, 1.0),
            (6, 16, 0.052_478_790_283_203_125),
        ] {
            assert!(
                (mcnemar(b, c) - p).abs() < 1e-12,
                "{b}, {c}: {}",
                mcnemar(b, c)
            );
        }
    }

    #[test]
    fn mcnemar_does_not_underflow_on_large_tables() {
        assert!(mcnemar(1000, 1000) > 0.99);
        let p = mcnemar(2000, 2200);
        assert!((0.0020..0.0024).contains(&p), "{p}");
        assert!(mcnemar(0, 5000) > 0.0);
    }

    proptest! {
        #[test]
        fn mcnemar_is_symmetric_and_falls_with_the_difference(b in 0..300_usize, c in 0..300_usize) {
            let p = mcnemar(b, c);
            prop_assert!(p > 0.0 && p <= 1.0);
            prop_assert_eq!(p, mcnemar(c, b));
            prop_assert!(mcnemar(b.min(c), b.max(c) + 1) <= p + 1e-12);
        }
    }
}
