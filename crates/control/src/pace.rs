//! Upper bounds on calls, by the pace at which workers were seen to work.
//!
//! A call that samples up to `n` tokens may take `factor` times as long as the slowest worker takes for
//! `n` tokens, and `floor_ms` more. Speed is counted by the longest continuation of each call: short
//! ones end first, and what they take says nothing of the long ones.

use std::collections::BTreeMap;

/// Share of what is known that is kept at each further call.
const MEMORY: f64 = 0.95;

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceConfig {
    /// Multiple of the slowest worker's time.
    pub factor: u32,
    /// Added to it, in milliseconds.
    pub floor_ms: u64,
    /// The bound before any worker was measured, in milliseconds.
    pub unknown_ms: u64,
    /// The greatest bound, in milliseconds.
    pub longest_ms: u64,
}

/// Sums over the calls of a worker; older ones count less.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    ms: f64,
    tokens: f64,
}

/// Speeds of the workers of one role.
#[derive(Debug)]
pub struct Pace<W> {
    config: PaceConfig,
    seen: BTreeMap<W, Seen>,
}

impl<W: Ord + Clone> Pace<W> {
    /// Nothing is known yet.
    pub fn new(config: PaceConfig) -> Self {
        Self {
            config,
            seen: BTreeMap::new(),
        }
    }

    /// A worker has answered a call in `ms`; its longest continuation has `tokens`.
    pub fn took(&mut self, worker: &W, tokens: usize, ms: u64) {
        let seen = self.seen.entry(worker.clone()).or_default();
        seen.ms = seen.ms * MEMORY + ms as f64;
        seen.tokens = seen.tokens * MEMORY + tokens.max(1) as f64;
    }

    /// A worker is gone, or sick: nobody waits as long as it took.
    pub fn forget(&mut self, worker: &W) {
        self.seen.remove(worker);
    }

    /// Milliseconds for a token at the slowest worker, if any was measured.
    pub fn slowest_ms(&self) -> Option<f64> {
        let speeds = self.seen.values().map(|seen| seen.ms / seen.tokens);
        speeds.max_by(f64::total_cmp)
    }

    /// Upper bound on a call that samples up to `tokens` tokens in one go, in milliseconds.
    pub fn limit_ms(&self, tokens: u32) -> u64 {
        let Some(slowest) = self.slowest_ms() else {
            return self.config.unknown_ms;
        };
        let whole = slowest * f64::from(tokens) * f64::from(self.config.factor);
        let limit = (whole as u64).saturating_add(self.config.floor_ms);
        limit.min(self.config.longest_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: PaceConfig = PaceConfig {
        factor: 3,
        floor_ms: 1000,
        unknown_ms: 7777,
        longest_ms: 1_000_000,
    };

    #[test]
    fn the_bound_follows_the_slowest_that_is_well() {
        let mut pace = Pace::new(CONFIG);
        assert_eq!(pace.limit_ms(100), 7777);
        pace.took(&1, 10, 100); // 10 ms a token
        assert_eq!(pace.limit_ms(100), 3 * 1000 + 1000);
        pace.took(&2, 5, 200); // 40 ms a token
        assert_eq!(pace.limit_ms(100), 3 * 4000 + 1000);
        assert_eq!(pace.limit_ms(10), 3 * 400 + 1000);
        pace.forget(&2);
        assert_eq!(pace.limit_ms(100), 3 * 1000 + 1000);
        assert_eq!(pace.limit_ms(u32::MAX), 1_000_000);
        pace.forget(&1);
        assert_eq!(pace.limit_ms(100), 7777);
    }

    /// The first answers are those of short continuations.
    #[test]
    fn short_answers_do_not_shorten_the_bound_of_long_ones() {
        let mut pace = Pace::new(CONFIG);
        pace.took(&1, 2, 60);
        assert!(pace.limit_ms(1000) >= 3 * 30 * 1000);
        pace.took(&1, 0, 60); // nothing was said: it took its time all the same
        assert!(pace.limit_ms(1000) >= 3 * 30 * 1000);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pace = Pace::new(CONFIG);
        pace.took(&1, 10, 100_000);
        for _ in 0..300 {
            pace.took(&1, 10, 100);
        }
        let slowest = pace.slowest_ms().unwrap();
        assert!((9.9..10.5).contains(&slowest), "{slowest}");
    }

    proptest! {
        /// A worker that goes on as it did is never too late, whatever the others do.
        #[test]
        fn nobody_is_late_at_its_own_pace(
            calls in proptest::collection::vec((0..4u8, 1..500usize, 1..100u64), 1..100),
            tokens in 1..500u32,
        ) {
            let mut pace = Pace::new(CONFIG);
            for (worker, tokens, each_ms) in &calls {
                pace.took(worker, *tokens, *each_ms * *tokens as u64);
            }
            for worker in 0..4u8 {
                let own = calls.iter().filter(|(w, ..)| *w == worker);
                let Some(quickest) = own.map(|(_, _, each_ms)| *each_ms).min() else {
                    continue;
                };
                let takes = quickest * u64::from(tokens);
                prop_assert!(takes < pace.limit_ms(tokens));
            }
        }
    }
}
