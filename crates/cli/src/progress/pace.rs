//! Time that a piece of work will still take: pure, with the time as an argument.
//!
//! - **PC-1 (no early guess).** There is no estimate before [`LEAST_TIME`] and [`LEAST_UNITS`], nor
//!   before as many units are finished as are worked on at once: those that end first are the short
//!   ones, and what is nearly done beside them does not show yet.
//! - **PC-2 (recent).** The distant past fades: a pace that changed is followed within a few of its
//!   own half-lives, a minute or the time of some units.
//! - **PC-3 (own work only).** Units that an earlier process finished do not count as this one's
//!   pace.

use std::time::Duration;

/// No estimate before so long: start-up and first allocations would be taken for the pace.
pub const LEAST_TIME: Duration = Duration::from_secs(10);

/// No estimate from fewer units.
pub const LEAST_UNITS: u64 = 3;

/// The time after which a unit counts half, in seconds, where units are short.
const HALF_LIFE_SECONDS: f64 = 60.0;

/// The same for long units, in arrivals.
const HALF_LIFE_ARRIVALS: f64 = 5.0;

/// The pace of one piece of work. Times are those since it began.
#[derive(Debug, Clone)]
pub struct Pace {
    total: u64,
    done: u64,
    /// Units that this process has to finish before an estimate means something.
    wave: u64,
    /// Units that this process finished.
    made: u64,
    /// When the last of them were.
    latest: Duration,
    recent: Recent,
}

/// Sums in which what was long ago fades.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    units: f64,
    /// Moments at which units were finished: several may be at once.
    arrivals: f64,
    seconds: f64,
}

impl Pace {
    /// Work of `total` units of which `done` are there already, and `at_once` are worked on at the
    /// same time.
    pub fn new(total: u64, done: u64, at_once: u64) -> Self {
        // A quarter of the work says enough, however much of it is under way at once.
        let quarter = total.saturating_sub(done).div_ceil(4);
        Self {
            total,
            done,
            wave: at_once.min(quarter).max(LEAST_UNITS),
            made: 0,
            latest: Duration::ZERO,
            recent: Recent::default(),
        }
    }

    /// All units.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Units that this process finished.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// `done` units are finished at `now`. Fewer than before is work that is to be repeated.
    pub fn observe(&mut self, done: u64, now: Duration) {
        let new = done.saturating_sub(self.done);
        self.done = done;
        if new > 0 {
            let gap = now.saturating_sub(self.latest).as_secs_f64();
            self.recent.add(new as f64, gap);
            self.made += new;
            self.latest = now;
        }
    }

    /// The time left at `now`; `None` as long as that would be a guess (PC-1).
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let units = self.total.saturating_sub(self.done);
        if units == 0 {
            return Some(Duration::ZERO);
        }
        if now < LEAST_TIME || self.made < self.wave {
            return None;
        }
        let Recent {
            units: made,
            arrivals,
            seconds,
        } = self.recent;
        // Between two arrivals the time left goes down as time passes. One that is overdue makes
        // the pace slower.
        let (gap, usual) = (
            now.saturating_sub(self.latest).as_secs_f64(),
            seconds / arrivals,
        );
        let overdue = (gap - 2.0 * usual).max(0.0);
        let left = units as f64 * (seconds + overdue) / made - gap.min(usual);
        Duration::try_from_secs_f64(left.max(0.0)).ok()
    }
}

impl Recent {
    /// Takes in what was finished in the last `gap` seconds, as if evenly over them.
    fn add(&mut self, units: f64, gap: f64) {
        let usual = (self.seconds + gap) / (self.arrivals + 1.0);
        let half_life = HALF_LIFE_SECONDS.max(HALF_LIFE_ARRIVALS * usual);
        let rate = std::f64::consts::LN_2 / half_life;
        let kept = (-rate * gap).exp();
        // The mean weight of a moment of the gap: ∫ exp(−rate·t) dt / gap.
        let weight = match gap > 0.0 {
            true => (1.0 - kept) / (rate * gap),
            false => 1.0,
        };
        *self = Self {
            units: self.units * kept + units * weight,
            arrivals: self.arrivals * kept + weight,
            seconds: self.seconds * kept + gap * weight,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `(done, at)` each; the estimate at `now`, in seconds.
    fn left(mut pace: Pace, seen: &[(u64, u64)], now: u64) -> Option<u64> {
        for &(done, seconds) in seen {
            pace.observe(done, at(seconds));
        }
        pace.left(at(now))
            .map(|left| left.as_secs_f64().round() as u64)
    }

    #[test]
    fn pc_1_an_estimate_begins_when_it_means_something() {
        // The first three of 64 that are under way say nothing of the others.
        let batch = || Pace::new(200, 0, 64);
        let cases = [
            (batch(), &[(3, 45)][..], 45, None),
            (batch(), &[(3, 45)], 300, None),
            (batch(), &[(3, 45), (49, 60)], 60, None),
            (batch(), &[(3, 45), (50, 60)], 60, Some(168)),
            // Steps come one by one.
            (Pace::new(32, 0, 1), &[(1, 8), (2, 16)], 16, None),
            (
                Pace::new(32, 0, 1),
                &[(1, 8), (2, 16), (3, 24)],
                24,
                Some(232),
            ),
            (
                Pace::new(100, 0, 1),
                &[(1, 1), (2, 2), (3, 3), (4, 4)],
                9,
                None,
            ),
            (Pace::new(2, 0, 1), &[(1, 60)], 60, None),
            (Pace::new(2, 0, 1), &[(1, 60), (2, 90)], 90, Some(0)),
            (Pace::new(5, 5, 1), &[], 0, Some(0)),
        ];
        for (pace, seen, now, expected) in cases {
            assert_eq!(left(pace, seen, now), expected, "{seen:?} at {now}");
        }
    }

    #[test]
    fn a_steady_pace_is_told_exactly_and_counts_down_between_units() {
        let seen: Vec<(u64, u64)> = (1..=10).map(|n| (n, 20 * n)).collect();
        for (now, expected) in [(200, 1800), (207, 1793), (220, 1780), (235, 1780)] {
            assert_eq!(
                left(Pace::new(100, 0, 1), &seen, now),
                Some(expected),
                "{now}"
            );
        }
        // 64 at once, once a minute.
        let waves: Vec<(u64, u64)> = (1..=4).map(|n| (64 * n, 60 * n)).collect();
        assert_eq!(left(Pace::new(640, 0, 64), &waves, 240), Some(360));
    }

    #[test]
    fn pc_2_the_recent_pace_counts() {
        // Ten minutes of one unit in 60 s, then one in 6 s: 10 minutes later the old pace is past.
        let mut seen: Vec<(u64, u64)> = (1..=10).map(|n| (n, 60 * n)).collect();
        seen.extend((1..=100).map(|n| (10 + n, 600 + 6 * n)));
        let found = left(Pace::new(210, 0, 1), &seen, 1200).unwrap();
        assert!((600..=660).contains(&found), "{found} s, right are 600");
        // The mean over all would say 1091.
        let halfway = left(Pace::new(210, 0, 1), &seen[..60], 900).unwrap();
        assert!(
            (900..=1200).contains(&halfway),
            "{halfway} s, right are 900"
        );
    }

    #[test]
    fn work_that_stands_still_is_seen() {
        let seen: Vec<(u64, u64)> = (1..=10).map(|n| (n, 10 * n)).collect();
        let pace = || Pace::new(20, 0, 1);
        let stalls = [100, 110, 130, 200, 400].map(|now| left(pace(), &seen, now).unwrap());
        assert_eq!(stalls[..2], [100, 90]);
        assert!(
            stalls[1..].windows(2).all(|pair| pair[0] < pair[1]),
            "{stalls:?}"
        );
    }

    #[test]
    fn pc_3_what_was_there_before_is_no_pace() {
        let resumed = [(91, 10), (92, 20), (93, 30)];
        assert_eq!(left(Pace::new(100, 90, 1), &resumed, 30), Some(70));
        // A learner that was lost: steps 4 and 5 are made twice.
        let repeated = [(4, 40), (5, 50), (3, 55), (4, 60), (5, 70)];
        let found = left(Pace::new(10, 3, 1), &repeated, 70).unwrap();
        assert!((45..=85).contains(&found), "{found}");
    }
}
