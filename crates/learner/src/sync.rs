//! Gradients of replicas, added up while the backward pass still runs.
//!
//! The flat gradient is cut into buckets. A bucket starts to be reduced as soon as the last
//! micro-batch has passed the lowest of its parameters; the optimizer waits for all of them. Replicas
//! that keep shares of the optimizer's state (`shards`) reduce each to its owner.

use crate::flat::Layout;
use crate::pass::StepError;
use collective::{CollectiveError, Communicator, Pending, Reduce, share};
use std::collections::VecDeque;
use std::ops::Range;
use tch::Tensor;

/// Elements of a bucket, about: 32 MiB of f32, which a link of 10 Gbit/s moves in 27 ms.
const BUCKET: i64 = 8 << 20;

/// How far a backward pass has come. In the order of passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Passed {
    /// The output matrix, where it is not the embedding.
    Output,
    Norm,
    /// A layer, by how many are above it.
    Layer(usize),
    Embedding,
}

impl Passed {
    fn when(name: &str, layers: usize) -> Self {
        let layer = || {
            name.strip_prefix("layers.")?
                .split('.')
                .next()?
                .parse::<usize>()
                .ok()
        };
        match name {
            "output" => Self::Output,
            "norm" => Self::Norm,
            _ => layer().map_or(Self::Embedding, |index| Self::Layer(layers - 1 - index)),
        }
    }
}

/// A stretch of the flat buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub start: i64,
    length: i64,
    /// When its gradient is complete.
    after: Passed,
}

impl Bucket {
    /// The elements of it that are `rank`'s among `world` replicas.
    pub(crate) fn share(&self, world: usize, rank: usize) -> Range<i64> {
        let share = share(self.length as usize, world, rank);
        self.start + share.start as i64..self.start + share.end as i64
    }

    /// The stretch of a buffer of everything.
    pub(crate) fn of(&self, all: &Tensor) -> Tensor {
        all.narrow(0, self.start, self.length)
    }
}

/// The stretches in the order they are complete in.
#[derive(Debug)]
pub(crate) struct Buckets(Vec<Bucket>);

impl Buckets {
    pub(crate) fn new(layout: &Layout, layers: usize) -> Self {
        Self::of_size(layout, layers, BUCKET)
    }

    /// In the order their gradients are complete in, the same on every replica.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bucket> {
        self.0.iter()
    }

    pub(crate) fn of_size(layout: &Layout, layers: usize, size: i64) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        let ends = layout.entries.iter().skip(1).map(|entry| entry.offset);
        let ends = ends.chain([layout.total]);
        for (entry, end) in layout.entries.iter().zip(ends) {
            let after = Passed::when(&entry.name, layers);
            match buckets.last_mut() {
                Some(bucket) if end - bucket.start <= size => {
                    bucket.length = end - bucket.start;
                    bucket.after = bucket.after.max(after);
                }
                _ => buckets.push(Bucket {
                    start: entry.offset,
                    length: end - entry.offset,
                    after,
                }),
            }
        }
        buckets.sort_by_key(|bucket| bucket.after); // stable: the same order on every replica
        Self(buckets)
    }
}

/// Operations that were started one after the other.
#[derive(Debug, Default)]
pub(crate) struct Started {
    pending: Vec<Pending>,
    failure: Option<CollectiveError>,
}

impl Started {
    /// Starts one more, unless one has failed.
    pub(crate) fn start(&mut self, start: impl FnOnce() -> Result<Pending, CollectiveError>) {
        if self.failure.is_some() {
            return;
        }
        match start() {
            Ok(pending) => self.pending.push(pending),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Waits for all of them: none may still be writing when this returns.
    pub(crate) fn finish(self) -> Result<(), CollectiveError> {
        let mut failure = self.failure;
        for pending in self.pending {
            failure = pending.wait().err().or(failure);
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The reduction of one step's gradient.
pub(crate) struct GradientSync<'a> {
    communicator: &'a mut dyn Communicator,
    gradient: &'a Tensor,
    is_sharded: bool,
    waiting: VecDeque<Bucket>,
    started: Started,
}

impl<'a> GradientSync<'a> {
    /// `is_sharded` says whether sums are needed of this replica's shares only.
    pub(crate) fn new(
        communicator: &'a mut dyn Communicator,
        buckets: &Buckets,
        gradient: &'a Tensor,
        is_sharded: bool,
    ) -> Self {
        Self {
            communicator,
            gradient,
            is_sharded,
            waiting: buckets.iter().copied().collect(),
            started: Started::default(),
        }
    }

    /// The last micro-batch has come so far: starts what is complete.
    pub(crate) fn passed(&mut self, passed: Passed) {
        while self.waiting.front().is_some_and(|b| b.after <= passed)
            && let Some(bucket) = self.waiting.pop_front()
        {
            let part = bucket.of(self.gradient);
            let communicator = &mut *self.communicator;
            self.started.start(|| match self.is_sharded {
                true => communicator.reduce_scatter(&part, Reduce::Sum),
                false => communicator.all_reduce(&part, Reduce::Sum),
            });
        }
    }

    /// Whether there will be no sum.
    pub(crate) fn is_over(&self) -> bool {
        self.communicator.is_over()
    }

    /// Starts what is left, and waits until the gradient holds the sum over all replicas.
    pub(crate) fn finish(mut self) -> Result<(), StepError> {
        self.passed(Passed::Embedding);
        Ok(self.started.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::Entry;

    fn layout(entries: &[(&str, i64)]) -> Layout {
        let mut total = 0;
        let entries = entries
            .iter()
            .map(|(name, length)| {
                let offset = total;
                total += length;
                Entry {
                    name: (*name).to_owned(),
                    shape: vec![*length],
                    offset,
                }
            })
            .collect();
        Layout {
            entries,
            decayed: total,
            total,
        }
    }

    #[test]
    fn buckets_cover_everything_once_and_the_top_comes_first() {
        let layout = layout(&[
            ("embedding", 100),
            ("layers.0.qkv", 30),
            ("layers.0.down", 30),
            ("layers.1.qkv", 30),
            ("layers.1.down", 30),
            ("output", 100),
            ("layers.0.mlp_norm", 2),
            ("norm", 2),
        ]);
        let buckets = Buckets::of_size(&layout, 2, 60).0;
        let found: Vec<_> = buckets
            .iter()
            .map(|b| (b.start, b.length, b.after))
            .collect();
        assert_eq!(
            found,
            [
                (220, 100, Passed::Output),
                (160, 60, Passed::Layer(0)),
                (100, 60, Passed::Layer(1)),
                (320, 4, Passed::Layer(1)),
                (0, 100, Passed::Embedding),
            ]
        );
    }
}
