//! How long to wait before something is tried again: longer after each failure, up to a limit, and
//! not all at the same moment.

/// Doubles from `first_ms` to `longest_ms`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    failures: u32,
}

impl Backoff {
    /// Waits of `first_ms` to `longest_ms` milliseconds.
    pub fn new(first_ms: u64, longest_ms: u64) -> Self {
        Self {
            first_ms,
            longest_ms,
            failures: 0,
        }
    }

    /// The wait after another failure, in milliseconds. `share`, in [0, 1), is drawn by the caller
    /// and moves it over the upper half of its range, so that a thousand nodes that lost the same
    /// peer do not come back at once.
    pub fn failed(&mut self, share: f64) -> u64 {
        let doubled = 1u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        let whole = self.first_ms.saturating_mul(doubled).min(self.longest_ms);
        self.failures = self.failures.saturating_add(1);
        whole / 2 + ((whole - whole / 2) as f64 * share.clamp(0.0, 1.0)) as u64
    }

    /// It worked: the next wait is the first again.
    pub fn worked(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_again() {
        let mut backoff = Backoff::new(100, 5000);
        let waits: Vec<u64> = (0..8).map(|_| backoff.failed(0.999_999)).collect();
        assert_eq!(waits, [99, 199, 399, 799, 1599, 3199, 4999, 4999]);
        for _ in 0..200 {
            assert_eq!(backoff.failed(0.0), 2500);
        }
        backoff.worked();
        assert_eq!(backoff.failed(0.5), 75);
    }
}
