//! Communicators: replicas of one computation that add their tensors up.
//!
//! Every member of a group makes the same calls in the same order; a call starts an operation and
//! returns at once, and [`Pending::wait`] says when its tensor holds the result. [`Solo`] is a group
//! of one. [`threads`] makes a group within one process.
//!
//! - **CO-1 (the same bits).** Every member ends up with the same result, bit for bit, and a result
//!   does not depend on who came first: sums run in the order of ranks.
//! - **CO-2 (nobody waits for the dead).** When a member is dropped, whoever waits for it, or would
//!   wait for it later, gets [`CollectiveError::Gone`].
//! - **CO-3 (no silent nonsense).** Members whose calls do not fit each other all get
//!   [`CollectiveError::Mismatch`].
//!
//! Knows nothing about nodes, actors, or what is being computed.

mod solo;
mod threads;

pub use solo::Solo;
pub use threads::{ThreadMember, threads};

use std::fmt::Debug;
use tch::Tensor;

/// How the members' tensors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Element by element, their sum.
    Sum,
    /// Element by element, the largest.
    Max,
}

/// Why an operation has no result. The group cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A member left the group, or its thread or process ended.
    #[error("replica {rank} left the group; form a new one without it")]
    Gone {
        /// The first that left.
        rank: usize,
    },
    /// Members called for different things: they run different programs or configurations.
    #[error(
        "replica {rank} called for {found} where another one called for {expected}; give all \
         replicas the same program and configuration"
    )]
    Mismatch {
        /// The member that differs.
        rank: usize,
        /// What it called for.
        found: String,
        /// What was called for before.
        expected: String,
    },
}

/// An operation under way.
#[must_use = "the tensor holds the result only after waiting"]
pub struct Pending(Box<dyn FnOnce() -> Result<(), CollectiveError> + Send>);

impl Pending {
    /// An operation that `wait` blocks for.
    pub fn new(wait: impl FnOnce() -> Result<(), CollectiveError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// An operation that is over.
    pub fn done() -> Self {
        Self::new(|| Ok(()))
    }

    /// Blocks until the tensor holds the result.
    ///
    /// # Errors
    /// When there will be none.
    pub fn wait(self) -> Result<(), CollectiveError> {
        (self.0)()
    }
}

impl Debug for Pending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pending")
    }
}

/// One member of a group.
pub trait Communicator: Debug + Send {
    /// Its number, from 0.
    fn rank(&self) -> usize;

    /// How many members there are.
    fn world(&self) -> usize;

    /// Starts to replace `tensor`, in place, by the reduction over all members. It must have the
    /// same shape and type everywhere, be contiguous, and be left alone until the wait is over.
    ///
    /// # Errors
    /// When the group cannot be used any more.
    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError>;

    /// Starts to replace `tensor`, in place, by that of the member `root`.
    ///
    /// # Errors
    /// When the group cannot be used any more.
    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError>;

    /// Returns when every member has called it.
    ///
    /// # Errors
    /// When the group cannot be used any more.
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let nothing = Tensor::zeros([1], (tch::Kind::Double, tch::Device::Cpu));
        self.all_reduce(&nothing, Reduce::Sum)?.wait()
    }

    /// Replaces host numbers by their reduction.
    ///
    /// # Errors
    /// When the group cannot be used any more.
    fn all_reduce_numbers(
        &mut self,
        numbers: &mut [f64],
        reduce: Reduce,
    ) -> Result<(), CollectiveError> {
        let tensor = Tensor::from_slice(numbers);
        self.all_reduce(&tensor, reduce)?.wait()?;
        tensor.copy_data(numbers, numbers.len());
        Ok(())
    }
}
