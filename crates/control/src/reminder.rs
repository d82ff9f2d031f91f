//! When it is said that something is still waited for: after a while, and then ever more rarely.

/// One wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reminder {
    since_ms: u64,
    next_ms: u64,
    gap_ms: u64,
}

/// Time until the first word, in milliseconds.
const FIRST_MS: u64 = 30_000;

/// Greatest time between two, in milliseconds.
const LONGEST_MS: u64 = 3_600_000;

impl Reminder {
    /// A wait that begins now.
    pub fn new(now_ms: u64) -> Self {
        Self {
            since_ms: now_ms,
            next_ms: now_ms.saturating_add(FIRST_MS),
            gap_ms: FIRST_MS,
        }
    }

    /// When the wait began.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// When the next word is due.
    pub fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Whether a word is due: each one once. Returns how long it has been waited, in milliseconds.
    pub fn due(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms < self.next_ms {
            return None;
        }
        self.gap_ms = self.gap_ms.saturating_mul(2).min(LONGEST_MS);
        self.next_ms = now_ms.saturating_add(self.gap_ms);
        Some(now_ms.saturating_sub(self.since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_ever_more_rarely() {
        let mut reminder = Reminder::new(5_000);
        let mut said = Vec::new();
        for second in 0..5 * 3600 {
            said.extend(
                reminder
                    .due(5_000 + second * 1000)
                    .map(|waited| waited / 1000),
            );
        }
        let expected = [30, 90, 210, 450, 930, 1890, 3810, 7410, 11010, 14610];
        assert_eq!(said, expected);
        assert_eq!(reminder.since_ms(), 5_000);
    }

    #[test]
    fn a_word_that_was_late_is_said_once() {
        let mut reminder = Reminder::new(0);
        assert_eq!(reminder.due(29_999), None);
        assert_eq!(reminder.due(500_000), Some(500_000));
        assert_eq!(reminder.due(500_001), None);
        assert_eq!(reminder.next_ms(), 560_000);
    }
}
