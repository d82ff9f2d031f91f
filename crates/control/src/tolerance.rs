//! Part of a phase that may be left out before it ends.

/// Counts what is left out of a phase, and says when that is too much: more than a share of the whole,
/// where one thing is always allowed unless nothing is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    allowed: u64,
    left_out: u64,
}

impl Tolerance {
    /// Of `total` things a share, in [0, 1], may be left out, of which `left_out` are already.
    pub fn new(share: f64, total: u64, left_out: u64) -> Self {
        let allowed = match share > 0.0 {
            true => ((share * total as f64) as u64).max(1),
            false => 0,
        };
        Self { allowed, left_out }
    }

    /// Another one is left out. Whether that is still allowed.
    #[must_use]
    pub fn leave_out(&mut self) -> bool {
        self.left_out += 1;
        self.left_out <= self.allowed
    }

    /// Number of things that have been left out.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Number of things that may be left out.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_allowed_and_one_always_unless_none_is() {
        // share, total, how many are allowed
        let rows = [
            (0.005, 10, 1),
            (0.005, 399, 1),
            (0.005, 400, 2),
            (0.005, 10_000, 50),
            (0.0, 10_000, 0),
            (1.0, 3, 3),
            (0.5, 0, 1),
        ];
        for (share, total, allowed) in rows {
            let mut tolerance = Tolerance::new(share, total, 0);
            assert_eq!(tolerance.allowed(), allowed, "{share} of {total}");
            for _ in 0..allowed {
                assert!(tolerance.leave_out(), "{share} of {total}");
            }
            assert!(!tolerance.leave_out(), "{share} of {total}");
            assert_eq!(tolerance.left_out(), allowed + 1);
        }
        assert!(!Tolerance::new(0.005, 10, 1).leave_out(), "one was before");
    }
}
