//! When a member that was left out is tried again: after a while, and after twice as long each time.

use std::collections::BTreeMap;

/// First wait, in milliseconds.
const FIRST_MS: u64 = 30_000;

/// Longest wait, in milliseconds. Whoever lasts longer than this after its return begins with the first
/// one again.
const LONGEST_MS: u64 = 600_000;

/// Those that were left out, by name.
#[derive(Debug)]
pub struct Readmission<K> {
    entries: BTreeMap<K, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Times in a row.
    times: u32,
    until_ms: u64,
    /// It has not been of use again since.
    is_on_trial: bool,
}

impl<K> Default for Readmission<K> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<K: Ord> Readmission<K> {
    /// A member is left out; the milliseconds after which it is tried again.
    pub fn leave_out(&mut self, who: K, now_ms: u64) -> u64 {
        let entry = self.entries.entry(who).or_insert(Entry {
            times: 0,
            until_ms: 0,
            is_on_trial: true,
        });
        if now_ms.saturating_sub(entry.until_ms) > LONGEST_MS {
            entry.times = 0;
        }
        let doubled = FIRST_MS.saturating_mul(1u64.checked_shl(entry.times).unwrap_or(u64::MAX));
        let wait = doubled.min(LONGEST_MS);
        entry.times += 1;
        entry.until_ms = now_ms.saturating_add(wait);
        entry.is_on_trial = true;
        wait
    }

    /// A member is left out that may not be at fault. The waits double only if it has not been of use
    /// since it was left out before.
    pub fn set_aside(&mut self, who: K, now_ms: u64) -> u64 {
        if !self.is_on_trial(&who)
            && let Some(entry) = self.entries.get_mut(&who)
        {
            entry.times = 0;
        }
        self.leave_out(who, now_ms)
    }

    /// Whether it may be tried now.
    pub fn may_return(&self, who: &K, now_ms: u64) -> bool {
        let entry = self.entries.get(who);
        entry.is_none_or(|entry| entry.until_ms <= now_ms)
    }

    /// Whether it was left out and has not been of use since.
    pub fn is_on_trial(&self, who: &K) -> bool {
        self.entries.get(who).is_some_and(|entry| entry.is_on_trial)
    }

    /// It is of use again.
    pub fn of_use(&mut self, who: &K) {
        if let Some(entry) = self.entries.get_mut(who) {
            entry.is_on_trial = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_when_a_member_lasts() {
        let mut left = Readmission::default();
        let mut now = 5;
        for wait in [30, 60, 120, 240, 480, 600, 600] {
            assert!(left.may_return(&1, now));
            assert_eq!(left.leave_out(1, now), 1000 * wait);
            now += 1000 * wait;
            assert!(!left.may_return(&1, now - 1));
        }
        assert!(left.may_return(&2, 0), "another one");
        assert_eq!(left.leave_out(1, now + 600_000), 600_000, "it did not last");
        now += 1_200_000;
        assert_eq!(left.leave_out(1, now + 600_001), 30_000, "it did");
    }

    #[test]
    fn one_that_may_be_well_waits_longer_only_if_it_fails_its_trial() {
        let mut left = Readmission::default();
        assert_eq!(left.set_aside(1, 0), 30_000);
        left.of_use(&1);
        assert_eq!(left.set_aside(1, 40_000), 30_000);
        assert_eq!(left.set_aside(1, 80_000), 60_000);
    }

    #[test]
    fn a_trial_ends_with_use() {
        let mut left = Readmission::default();
        assert!(!left.is_on_trial(&1));
        left.leave_out(1, 0);
        assert!(left.is_on_trial(&1));
        left.of_use(&1);
        assert!(!left.is_on_trial(&1));
        left.leave_out(1, 40_000);
        assert!(left.is_on_trial(&1));
    }
}
