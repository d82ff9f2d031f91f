//! What of the optimizer's state a replica keeps: all of it, or its own shares alone (ZeRO-1:
//! Rajbhandari et al. 2020, arXiv 1910.02054).
//!
//! Every bucket of the flat buffers (`sync`) has one share for each replica of a group. A replica that
//! keeps shares sums up their gradients, updates their weights, and has the other weights from those
//! who keep them. Moments, and master weights where they are not computed with, are there for its
//! shares only, one after the other in the order of buckets.

use crate::sync::Buckets;
use tch::Tensor;

/// A stretch of the flat buffers whose state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Its first element in buffers of everything.
    pub start: i64,
    pub length: i64,
    /// Its first element in buffers of what is kept.
    pub at: i64,
}

impl Stretch {
    pub(crate) fn end(self) -> i64 {
        self.start + self.length
    }

    /// Where the element `index` of everything lies in buffers of what is kept.
    pub(crate) fn place_of(self, index: i64) -> i64 {
        self.at + index - self.start
    }

    /// `length` elements of it from the element `start` of everything on.
    pub(crate) fn part(self, start: i64, length: i64) -> Self {
        Self {
            start,
            length,
            at: self.place_of(start),
        }
    }

    /// The stretch of a buffer of everything.
    pub(crate) fn of_all(self, all: &Tensor) -> Tensor {
        all.narrow(0, self.start, self.length)
    }

    /// The stretch of a buffer of what is kept.
    pub(crate) fn of_kept(self, kept: &Tensor) -> Tensor {
        kept.narrow(0, self.at, self.length)
    }
}

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept(Vec<Stretch>);

impl Kept {
    pub(crate) fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Buffers of `total` elements, as one stretch.
    pub(crate) fn all(total: i64) -> Self {
        Self(vec![Stretch {
            start: 0,
            length: total,
            at: 0,
        }])
    }

    /// The shares of `rank`, a stretch for each bucket, which may be empty.
    pub(crate) fn shares(buckets: &Buckets, world: usize, rank: usize) -> Self {
        let mut at = 0;
        let stretch = |share: std::ops::Range<i64>| {
            let length = share.end - share.start;
            at += length;
            Stretch {
                start: share.start,
                length,
                at: at - length,
            }
        };
        let shares = buckets.iter().map(|bucket| bucket.share(world, rank));
        Self(shares.map(stretch).collect())
    }

    pub(crate) fn stretches(&self) -> &[Stretch] {
        &self.0
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> i64 {
        self.0.iter().map(|stretch| stretch.length).sum()
    }

    /// A buffer of what is kept, cut out of a buffer of everything.
    pub(crate) fn cut_out(&self, all: &Tensor) -> Tensor {
        let parts: Vec<Tensor> = self.0.iter().map(|s| s.of_all(all)).collect();
        match parts.is_empty() {
            true => all.new_zeros([0], (all.kind(), all.device())),
            false => Tensor::cat(&parts, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::Layout;
    use crate::tests::{ARCHITECTURES, folder};

    /// Whatever the world, every element is kept once, and places in what is kept follow each other.
    #[test]
    fn shares_of_all_replicas_cover_everything_once() {
        for (name, json) in ARCHITECTURES {
            let home = folder(json);
            let spec = model::spec_of(&home.path().join("model")).unwrap();
            let layout = Layout::of(&spec, None, &[]);
            for (world, size) in [(1, 512), (2, 512), (3, 100), (4, 1 << 20), (70, 512)] {
                let buckets = Buckets::of_size(&layout, spec.layers.len(), size);
                let mut times = vec![0; layout.total as usize];
                for rank in 0..world {
                    let kept = Kept::shares(&buckets, world, rank);
                    let mut at = 0;
                    for stretch in kept.stretches() {
                        assert_eq!(stretch.at, at);
                        at += stretch.length;
                        (stretch.start..stretch.end()).for_each(|i| times[i as usize] += 1);
                    }
                    assert_eq!(kept.len(), at);
                }
                assert!(times.iter().all(|t| *t == 1), "{name} on {world}");
            }
        }
    }
}
