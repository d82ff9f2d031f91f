//! Estimates with 95 % intervals.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the standard normal distribution: two-sided 95 %.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Resamples of a bootstrap: enough for two stable digits of a 95 % limit.
pub const RESAMPLES: usize = 10_000;

/// An estimate and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower limit, at most the estimate.
    pub low: f64,
    /// Upper limit, at least the estimate.
    pub high: f64,
}

impl Interval {
    /// The same, or where it has no width because all of `n` values were alike, as wide as `n` values
    /// without a single exception leave open: as [`wilson`] has it for none of `n`. Never beyond
    /// `range`.
    #[must_use]
    pub(crate) fn of_values_alike(self, n: usize, range: [f64; 2]) -> Self {
        const ROUNDING: f64 = 1e-9;
        match wilson(0, n) {
            Some(none) if self.high - self.low < ROUNDING => Self {
                estimate: self.estimate,
                low: (self.estimate - none.high).max(range[0]).min(self.estimate),
                high: (self.estimate + none.high).min(range[1]).max(self.estimate),
            },
            _ => self,
        }
    }
}

/// The Wilson score interval (Wilson 1927, "Probable Inference, the Law of Succession, and
/// Statistical Inference") of `successes` among `n` independent trials; stays within [0, 1] and is
/// sensible at 0 and at `n`, where the normal interval is not. `None` for `n = 0`.
///
/// # Panics
/// When there are more successes than trials, which is a bug of the caller.
pub fn wilson(successes: usize, n: usize) -> Option<Interval> {
    assert!(successes <= n, "{successes} successes in {n} trials");
    if n == 0 {
        return None;
    }
    let (trials, z2) = (n as f64, Z_95 * Z_95);
    let p = successes as f64 / trials;
    let center = (p + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
    let spread = (p * (1.0 - p) / trials + z2 / (4.0 * trials * trials)).sqrt();
    let half = Z_95 * spread / (1.0 + z2 / trials);
    // Rounding must not put the estimate outside at 0 and n, where a limit equals it.
    let low = if successes == 0 {
        0.0
    } else {
        (center - half).clamp(0.0, p)
    };
    let high = if successes == n {
        1.0
    } else {
        (center + half).clamp(p, 1.0)
    };
    Some(Interval {
        estimate: p,
        low,
        high,
    })
}

/// The percentile bootstrap (Efron 1979) of the mean of `values`, with [`RESAMPLES`] resamples;
/// the same for the same seed on every platform. `None` for no values.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let n = u32::try_from(values.len()).ok()?;
    let mean = |sum: f64| sum / f64::from(n);
    let estimate = mean(values.iter().sum());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        mean(
            (0..n)
                .map(|_| values[rng.random_range(0..n) as usize])
                .sum(),
        )
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    let (low, high) = (means[tail - 1], means[RESAMPLES - tail]);
    Some(Interval {
        estimate,
        low: low.min(estimate),
        high: high.max(estimate),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wilson_has_the_known_values() {
        // The last is the textbook case of Newcombe 1998, "Two-sided confidence intervals for the
        // single proportion".
        for (successes, n, low, high) in [
            (8, 10, 0.4902, 0.9433),
            (0, 10, 0.0, 0.2775),
            (10, 10, 0.7225, 1.0),
            (1, 1, 0.2065, 1.0),
            (50, 100, 0.4038, 0.5962),
            (81, 263, 0.2553, 0.3662),
        ] {
            let found = wilson(successes, n).unwrap();
            assert!((found.low - low).abs() < 5e-5, "{successes}/{n}: {found:?}");
            assert!(
                (found.high - high).abs() < 5e-5,
                "{successes}/{n}: {found:?}"
            );
        }
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn values_that_are_all_alike_leave_something_open() {
        let alike = |estimate| Interval {
            estimate,
            low: estimate,
            high: estimate,
        };
        for (estimate, n, range, low, high) in [
            (0.0, 10, [0.0, 1.0], 0.0, 0.2775),
            (1.0, 10, [0.0, 1.0], 0.7225, 1.0),
            (0.0, 10, [-1.0, 1.0], -0.2775, 0.2775),
            (0.0, 400, [-1.0, 1.0], -0.0095, 0.0095),
        ] {
            let found = alike(estimate).of_values_alike(n, range);
            let near = (found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5;
            assert!(near, "{estimate} of {n}: {found:?}");
        }
        let wide = Interval {
            estimate: 0.1,
            low: 0.05,
            high: 0.15,
        };
        assert_eq!(wide.of_values_alike(10, [0.0, 1.0]), wide);
    }

    #[test]
    fn the_bootstrap_of_a_constant_has_no_width_and_of_a_coin_the_normal_one() {
        assert_eq!(
            bootstrap_mean(&[0.3; 7], 1)
                .map(|i| ((i.high - i.low).abs() < 1e-12, i.estimate < 0.31)),
            Some((true, true))
        );
        let coin: Vec<f64> = (0..400).map(|n| f64::from(n % 2)).collect();
        let found = bootstrap_mean(&coin, 3).unwrap();
        assert!(
            (found.low - 0.451).abs() < 0.004 && (found.high - 0.549).abs() < 0.004,
            "{found:?}"
        );
        assert_eq!(bootstrap_mean(&coin, 3), bootstrap_mean(&coin, 3));
        assert_eq!(bootstrap_mean(&[], 0), None);
    }

    proptest! {
        #[test]
        fn wilson_contains_the_estimate_and_mirrors(n in 1..2000_usize, share in 0.0..=1.0_f64) {
            let successes = (share * n as f64) as usize;
            let one = wilson(successes, n).unwrap();
            prop_assert!(0.0 <= one.low && one.low <= one.estimate);
            prop_assert!(one.estimate <= one.high && one.high <= 1.0);
            let other = wilson(n - successes, n).unwrap();
            prop_assert!((one.low - (1.0 - other.high)).abs() < 1e-9);
            prop_assert!((one.high - (1.0 - other.low)).abs() < 1e-9);
        }

        #[test]
        fn wilson_narrows_with_more_trials(n in 1..500_usize, share in 0.0..=1.0_f64) {
            let successes = (share * n as f64) as usize;
            let width = |i: Interval| i.high - i.low;
            prop_assert!(width(wilson(successes * 4, n * 4).unwrap()) < width(wilson(successes, n).unwrap()));
        }
    }
}
