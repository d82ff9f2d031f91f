//! How long a publication of weights waits for samplers: not for the slowest. Those that are behind
//! follow by themselves, and nothing is asked of them meanwhile.

/// Once half of the samplers serve the weights, the others have as long again, and at least this.
const LEAST_MS: u64 = 500;

/// One publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    samplers: usize,
    served: usize,
    /// When half of them served it.
    half_ms: Option<u64>,
}

impl Publication {
    /// To so many samplers, now.
    pub fn new(samplers: usize) -> Self {
        Self {
            samplers,
            served: 0,
            half_ms: None,
        }
    }

    /// One more serves the weights, so long after the beginning.
    pub fn served(&mut self, after_ms: u64) {
        self.served += 1;
        self.look(after_ms);
    }

    /// One is lost and will not: it does not count.
    pub fn lost(&mut self, after_ms: u64) {
        self.samplers -= 1;
        self.look(after_ms);
    }

    fn look(&mut self, after_ms: u64) {
        if self.served > 0 && 2 * self.served >= self.samplers {
            self.half_ms.get_or_insert(after_ms);
        }
    }

    /// Until when the others are waited for, counted from the beginning; `None` as long as fewer than
    /// half serve the weights.
    pub fn until_ms(&self) -> Option<u64> {
        self.half_ms.map(|half| half + half.max(LEAST_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_half_has_as_long_again() {
        for (samplers, half) in [(1, 1), (2, 1), (3, 2), (8, 4), (9, 5)] {
            let mut publication = Publication::new(samplers);
            for done in 1..half {
                publication.served(100 * done);
                assert_eq!(publication.until_ms(), None, "{samplers}");
            }
            publication.served(4000);
            assert_eq!(publication.until_ms(), Some(8000));
            publication.served(5000);
            assert_eq!(publication.until_ms(), Some(8000));
        }
    }

    #[test]
    fn who_is_lost_is_not_waited_for() {
        let mut publication = Publication::new(3);
        publication.served(1000);
        assert_eq!(publication.until_ms(), None);
        publication.lost(1500);
        assert_eq!(publication.until_ms(), Some(3000));
        let mut publication = Publication::new(2);
        publication.lost(1);
        publication.lost(2);
        assert_eq!(publication.until_ms(), None);
    }

    #[test]
    fn a_quick_half_leaves_the_others_some_time() {
        let mut publication = Publication::new(2);
        publication.served(3);
        assert_eq!(publication.until_ms(), Some(503));
    }
}
