//! Communicators: replicas of one computation that add their tensors up.
//!
//! Every member of a group makes the same calls in the same order; a call starts an operation and
//! returns at once, and [`Pending::wait`] says when its tensor holds the result. [`Solo`] is a group
//! of one, [`threads`] makes a group within one process, a [`Ring`] is one of several processes, and
//! [`Nccl`] one of GPUs.
//!
//! - **CO-1 (the same bits).** Every member ends up with the same result, bit for bit, and a result
//!   does not depend on who came first: the order of a sum follows from ranks and places.
//! - **CO-2 (nobody waits for the dead).** When a member is dropped or its process ends, whoever waits
//!   for it, or would wait for it later, gets [`CollectiveError::Gone`].
//! - **CO-3 (no silent nonsense).** Members whose calls do not fit each other all get
//!   [`CollectiveError::Mismatch`].
//! - **CO-4 (left alone).** When a wait is over, with or without a result, nothing writes to the tensor
//!   any more.
//!
//! Knows nothing about nodes, actors, or what is being computed.

mod call;
mod error;
pub mod nccl;
pub mod ring;
mod solo;
mod threads;
mod watched;

pub use call::{Reduce, share};
pub use error::CollectiveError;
pub use nccl::Nccl;
pub use ring::Ring;
pub use solo::Solo;
pub use threads::{ThreadMember, threads};
pub use watched::{Waits, Watched};

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use tch::Tensor;

/// A member's place in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The member's number, from 0.
    pub rank: usize,
    /// How many members there are.
    pub world: usize,
    /// Which of the run's groups this is: a group that replaces another one has a higher number.
    pub epoch: u64,
}

impl Group {
    /// The rank after this one, in a ring.
    pub fn next(&self) -> usize {
        (self.rank + 1) % self.world
    }

    /// The rank before this one, in a ring.
    pub fn previous(&self) -> usize {
        (self.rank + self.world - 1) % self.world
    }
}

/// Gives a group up from another thread.
#[derive(Clone)]
pub struct Abort(Arc<dyn Fn(&str) + Send + Sync>);

impl Abort {
    /// What is done with the reason.
    pub fn new(abort: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Ends operations under way, here and at the other members, and all later ones: here with
    /// [`CollectiveError::Aborted`].
    pub fn abort(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl Debug for Abort {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Abort")
    }
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
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pending")
    }
}

/// One member of a group. Tensors have the same elements and type everywhere, are contiguous, and are
/// left alone until the wait is over.
pub trait Communicator: Debug + Send {
    /// Its place.
    fn group(&self) -> Group;

    /// Its number, from 0.
    fn rank(&self) -> usize {
        self.group().rank
    }

    /// How many members there are.
    fn world(&self) -> usize {
        self.group().world
    }

    /// Starts to replace `tensor`, in place, by the reduction over all members.
    ///
    /// # Errors
    /// When the group cannot be used any more, here and below.
    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError>;

    /// The same for this member's [`share`] of the elements alone. What becomes of the others is not
    /// said.
    ///
    /// # Errors
    /// As above.
    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError>;

    /// Starts to replace every member's [`share`] of the elements, in place, by what that member has
    /// there.
    ///
    /// # Errors
    /// As above.
    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError>;

    /// Starts to replace `tensor`, in place, by that of the member `root`.
    ///
    /// # Errors
    /// As above.
    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError>;

    /// A handle that gives the group up, for whoever learns that a member is lost.
    fn aborter(&self) -> Abort;

    /// Whether the group is known to be over: whoever computes for it may as well stop.
    fn is_over(&self) -> bool {
        false
    }

    /// Returns when every member has called it.
    ///
    /// # Errors
    /// As above.
    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let nothing = Tensor::zeros([1], (tch::Kind::Double, tch::Device::Cpu));
        self.all_reduce(&nothing, Reduce::Sum)?.wait()
    }

    /// Replaces host numbers by their reduction.
    ///
    /// # Errors
    /// As above.
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
