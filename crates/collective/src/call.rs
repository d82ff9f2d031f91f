//! What members call for, and how a tensor is shared out among them.

use crate::CollectiveError;
use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use tch::{Kind, Tensor};

/// How the members' tensors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Element by element, their sum.
    Sum,
    /// Element by element, the largest.
    Max,
}

/// One operation of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    AllReduce(Reduce),
    ReduceScatter(Reduce),
    AllGather,
    Broadcast { root: usize },
}

impl Operation {
    /// Whether a group of `world` can do it.
    pub(crate) fn check(self, world: usize) -> Result<(), CollectiveError> {
        match self {
            Self::Broadcast { root } if root >= world => Err(CollectiveError::Unsupported(
                format!("there is no replica {root} in a group of {world}"),
            )),
            _ => Ok(()),
        }
    }
}

/// What a member asks for; all members of a group have to ask for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub operation: Operation,
    pub elements: usize,
    pub kind: Kind,
}

impl Call {
    pub(crate) fn on(operation: Operation, tensor: &Tensor) -> Self {
        Self {
            operation,
            elements: tensor.numel(),
            kind: tensor.kind(),
        }
    }
}

impl Display for Call {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::AllReduce(reduce) => write!(formatter, "all-reduce ({reduce:?})"),
            Operation::ReduceScatter(reduce) => write!(formatter, "reduce-scatter ({reduce:?})"),
            Operation::AllGather => write!(formatter, "all-gather"),
            Operation::Broadcast { root } => write!(formatter, "broadcast from {root}"),
        }?;
        write!(
            formatter,
            " of {} elements of {:?}",
            self.elements, self.kind
        )
    }
}

/// Shares begin at multiples of so many elements: a cache line of f32, and more.
const SHARE_ALIGNMENT: usize = 64;

/// The part of a flat tensor of `elements` that is `rank`'s among `world` members: the same size for
/// all but the last ones, which may have less, or nothing.
pub fn share(elements: usize, world: usize, rank: usize) -> Range<usize> {
    let size = elements.div_ceil(world).next_multiple_of(SHARE_ALIGNMENT);
    let start = (rank * size).min(elements);
    start..(start + size).min(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_cover_everything_once(elements in 0usize..100_000, world in 1usize..40) {
            let mut end = 0;
            for rank in 0..world {
                let share = share(elements, world, rank);
                prop_assert_eq!(share.start, end);
                end = share.end;
            }
            prop_assert_eq!(end, elements);
        }
    }
}
