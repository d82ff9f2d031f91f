//! Gradients of replicas, added up while the backward pass still runs.
//!
//! The flat gradient is cut into buckets. A bucket starts to be reduced as soon as the last
//! micro-batch has passed the lowest of its parameters; the optimizer waits for all of them.

use crate::flat::Layout;
use crate::pass::StepError;
use collective::{CollectiveError, Communicator, Pending, Reduce};
use std::collections::VecDeque;
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

/// A stretch of the flat gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    start: i64,
    length: i64,
    /// When it is complete.
    after: Passed,
}

/// The stretches in the order they are complete in.
#[derive(Debug)]
pub(crate) struct Buckets(Vec<Bucket>);

impl Buckets {
    pub(crate) fn new(layout: &Layout, layers: usize) -> Self {
        Self::of_size(layout, layers, BUCKET)
    }

    fn of_size(layout: &Layout, layers: usize, size: i64) -> Self {
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

/// The reduction of one step's gradient.
pub(crate) struct GradientSync<'a> {
    communicator: &'a mut dyn Communicator,
    gradient: &'a Tensor,
    waiting: VecDeque<Bucket>,
    pending: Vec<Pending>,
    failure: Option<CollectiveError>,
}

impl<'a> GradientSync<'a> {
    pub(crate) fn new(
        communicator: &'a mut dyn Communicator,
        buckets: &Buckets,
        gradient: &'a Tensor,
    ) -> Self {
        Self {
            communicator,
            gradient,
            waiting: buckets.0.iter().copied().collect(),
            pending: Vec::new(),
            failure: None,
        }
    }

    /// The last micro-batch has come so far: starts what is complete.
    pub(crate) fn passed(&mut self, passed: Passed) {
        while self.waiting.front().is_some_and(|b| b.after <= passed)
            && let Some(bucket) = self.waiting.pop_front()
        {
            if self.failure.is_some() {
                continue;
            }
            let part = self.gradient.narrow(0, bucket.start, bucket.length);
            match self.communicator.all_reduce(&part, Reduce::Sum) {
                Ok(pending) => self.pending.push(pending),
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// Starts what is left, and waits until the gradient holds the sum over all replicas.
    pub(crate) fn finish(mut self) -> Result<(), StepError> {
        self.passed(Passed::Embedding);
        let mut failure = self.failure;
        // All of them: none may still be writing when this returns.
        for pending in self.pending {
            failure = pending.wait().err().or(failure);
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
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
