//! The newest weights, as any sampler can be brought to them (PU-3).

use proto::{WeightManifest, WeightSnapshot, WeightVersion};

/// Snapshots that bring any sampler to the newest weights.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// The newest snapshot that is complete by itself.
    complete: Option<WeightSnapshot>,
    /// The newest adapters that belong to its base, where they came alone, later.
    adapters: Option<WeightSnapshot>,
}

/// Weights that a sampler serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serves {
    version: WeightVersion,
    /// Checksum of the weights that its adapters belong to.
    base: Option<u32>,
}

impl Serves {
    pub(crate) fn of(weights: &WeightSnapshot) -> Self {
        let WeightManifest { version, base, .. } = &*weights.manifest;
        Self {
            version: *version,
            base: base.map(|base| base.checksum),
        }
    }
}

impl Newest {
    /// Takes in what is newest from now on. False, and nothing is changed, where it is adapters of
    /// weights that were not published before.
    pub(crate) fn put(&mut self, weights: WeightSnapshot) -> bool {
        let Some(needed) = weights.manifest.needed_base() else {
            (self.complete, self.adapters) = (Some(weights), None);
            return true;
        };
        let held = self.complete.as_ref().map(Serves::of);
        let is_known = held.is_some_and(|serves| serves.base == Some(needed));
        if is_known {
            self.adapters = Some(weights);
        }
        is_known
    }

    /// The next snapshot for a sampler that serves `serves`; `None` when it has the newest, or
    /// there is none.
    pub(crate) fn next(&self, serves: Option<Serves>) -> Option<&WeightSnapshot> {
        let complete = self.complete.as_ref()?;
        let newest = self.adapters.as_ref().unwrap_or(complete);
        match (serves, newest.manifest.needed_base()) {
            (Some(serves), _) if serves == Serves::of(newest) => None,
            (Some(serves), Some(needed)) if serves.base == Some(needed) => Some(newest),
            (_, Some(_)) => Some(complete),
            (_, None) => Some(newest),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proto::BaseEntry;
    use std::sync::Arc;

    pub(crate) fn weights(version: u64) -> WeightSnapshot {
        WeightSnapshot {
            manifest: Arc::new(WeightManifest {
                version: WeightVersion(version),
                tensors: Vec::new(),
                adapter: None,
                base: None,
                checksum: 0,
            }),
            bytes: Arc::default(),
        }
    }

    /// Weights with adapters of the base `base`, or these alone.
    pub(crate) fn adapted(version: u64, base: u32, is_included: bool) -> WeightSnapshot {
        let mut weights = weights(version);
        let manifest = Arc::make_mut(&mut weights.manifest);
        manifest.base = Some(BaseEntry {
            checksum: base,
            is_included,
        });
        weights
    }

    #[test]
    fn pu_3_what_comes_next_follows_from_what_is_served() {
        let version = |weights: Option<&WeightSnapshot>| weights.map(|w| w.manifest.version.0);
        let serves = |version, base| {
            Some(Serves {
                version: WeightVersion(version),
                base,
            })
        };
        let mut newest = Newest::default();
        assert_eq!(version(newest.next(None)), None);
        assert!(!newest.put(adapted(1, 7, false)), "nothing to belong to");
        assert!(newest.put(adapted(2, 7, true)));
        assert!(!newest.put(adapted(3, 8, false)), "of another base");
        assert_eq!(version(newest.next(None)), Some(2));
        assert_eq!(version(newest.next(serves(2, Some(7)))), None);
        assert!(newest.put(adapted(3, 7, false)));
        let cases = [
            (None, Some(2)),               // begins with the base
            (serves(2, Some(7)), Some(3)), // has it
            (serves(1, Some(8)), Some(2)), // has another
            (serves(1, None), Some(2)),    // has none
            (serves(3, Some(7)), None),
        ];
        for (serves, expected) in cases {
            assert_eq!(version(newest.next(serves)), expected, "{serves:?}");
        }
        assert!(newest.put(weights(4)));
        assert_eq!(version(newest.next(serves(3, Some(7)))), Some(4));
        assert!(!newest.put(adapted(5, 7, false)), "the base is gone");
    }
}
