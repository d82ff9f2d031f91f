//! Time limits of work, by the times that such work took before.
//!
//! A constant limit fits no model: a step takes a second or half an hour. The limit is three times what
//! the same work took lately, and some more for what does not grow with it.

use std::collections::VecDeque;

/// Pieces of work that are remembered. Their median is the pace: one that was slow does not raise it.
const REMEMBERED: usize = 16;

/// A limit is so many times the pace.
const FACTOR: u64 = 3;

/// Added to each limit, in milliseconds: for transfers, garbage and a machine that is busy for a moment.
const FLOOR_MS: u64 = 30_000;

/// Doublings of the limit at most.
const DOUBLINGS: u32 = 6;

/// The pace of one kind of work.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Milliseconds, and how much work it was.
    done: VecDeque<(u64, u64)>,
    missed: u32,
}

impl Pace {
    /// So much work is done, in so many milliseconds. The unit of work is the caller's.
    pub fn done(&mut self, took_ms: u64, work: u64) {
        self.missed = 0;
        self.done.push_back((took_ms, work.max(1)));
        if self.done.len() > REMEMBERED {
            self.done.pop_front();
        }
    }

    /// Work was given up at its limit, and nobody is known to be at fault: the next limit is twice as
    /// long.
    pub fn missed(&mut self) {
        self.missed = (self.missed + 1).min(DOUBLINGS);
    }

    /// The one at fault is found: the limit is what the pace says.
    pub fn excuse(&mut self) {
        self.missed = 0;
    }

    /// Milliseconds that so much work may take: `unknown_ms` while there is no pace yet. More work than
    /// was measured has more time in proportion, less work has as much.
    pub fn limit_ms(&self, work: u64, unknown_ms: u64) -> u64 {
        let limit = self.by_pace(work).unwrap_or(unknown_ms);
        limit.saturating_mul(1 << self.missed)
    }

    fn by_pace(&self, work: u64) -> Option<u64> {
        if self.done.is_empty() {
            return None;
        }
        let scaled = |(took, of): &(u64, u64)| {
            let more = u128::from(*took) * u128::from(work.max(*of)) / u128::from(*of);
            u64::try_from(more).unwrap_or(u64::MAX)
        };
        let mut all: Vec<u64> = self.done.iter().map(scaled).collect();
        all.sort_unstable();
        let pace = all[all.len() / 2];
        Some(pace.saturating_mul(FACTOR).saturating_add(FLOOR_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(done: &[(u64, u64)]) -> Pace {
        let mut pace = Pace::default();
        done.iter().for_each(|(ms, work)| pace.done(*ms, *work));
        pace
    }

    #[test]
    fn limits_follow_what_the_work_took() {
        type Done = [(u64, u64)];
        let cases: [(&Done, u64, u64); 8] = [
            (&[], 1, 7),
            (&[(1000, 1)], 1, 33_000),
            (&[(1000, 1), (1000, 1)], 1, 33_000),
            // One that was slow changes nothing.
            (&[(1000, 1), (90_000, 1), (1000, 1)], 1, 33_000),
            // Alone with what eight did has eight times as long.
            (&[(1000, 10), (1000, 10)], 80, 54_000),
            (&[(8000, 80), (8000, 80)], 10, 54_000),
            // No work takes some time, too.
            (&[(1000, 0), (1000, 0)], 0, 33_000),
            (&[(u64::MAX, 1), (u64::MAX, 1)], 9, u64::MAX),
        ];
        for (done, work, limit) in cases {
            assert_eq!(pace(done).limit_ms(work, 7), limit, "{done:?}");
        }
    }

    #[test]
    fn a_limit_that_was_too_short_doubles_until_something_is_done() {
        let mut pace = pace(&[(10_000, 1), (10_000, 1)]);
        pace.missed();
        assert_eq!(pace.limit_ms(1, 7), 120_000);
        pace.missed();
        assert_eq!(pace.limit_ms(1, 7), 240_000);
        pace.excuse();
        assert_eq!(pace.limit_ms(1, 7), 60_000);
        pace.missed();
        pace.done(90_000, 1);
        assert_eq!(pace.limit_ms(1, 7), 60_000);
    }

    #[test]
    fn the_pace_is_that_of_late() {
        let mut pace = pace(&[(1000, 1); 16]);
        (0..16).for_each(|_| pace.done(2000, 1));
        assert_eq!(pace.limit_ms(1, 7), 36_000);
    }
}
