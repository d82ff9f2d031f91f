//! Seeds for everything that is drawn, each from the run's seed and the name of the draw, so that a
//! resumed or re-tried piece of work draws the same again.

use sha2::{Digest, Sha256};

/// A seed for the draw that `parts` name.
pub fn derive(seed: u64, parts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    u64::from_le_bytes(
        digest[..8]
            .try_into()
            .expect("a SHA-256 digest has 32 bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_every_part_and_by_where_parts_end() {
        let all = [
            derive(0, &["a"]),
            derive(1, &["a"]),
            derive(0, &["b"]),
            derive(0, &["a", "b"]),
            derive(0, &["ab"]),
            derive(0, &["ab", ""]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(derive(7, &["x", "1"]), derive(7, &["x", "1"]));
    }
}
