//! Why a group stops working.

use crate::nccl::LoadError;
use std::time::Duration;

/// What is said to whoever joins a group that is given up meanwhile.
pub(crate) const GIVEN_UP: &str = "the group was given up before it met";

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
    /// Nothing came from a member for so long: it hangs, or what it waits for does.
    #[error("nothing came from replica {rank} for {} s; form a new group without it", .after.as_secs_f64())]
    TimedOut {
        /// The member before this one.
        rank: usize,
        /// The limit.
        after: Duration,
    },
    /// A member's bytes make no sense.
    #[error("replica {rank} does not keep to the protocol: {reason}")]
    Protocol {
        /// The member.
        rank: usize,
        /// What was wrong.
        reason: String,
    },
    /// Members do not begin from the same state. Open all of them anew from the same place.
    #[error(
        "the replicas do not begin from the same state: {0}; open all of them from the same checkpoint"
    )]
    Unlike(String),
    /// This side gave the group up.
    #[error("the group was given up: {0}")]
    Aborted(String),
    /// An operation through NCCL was not over in time: some member does not call for it, hangs, or
    /// cannot be reached. NCCL cannot say which.
    #[error(
        "replica {rank} of group {epoch}: {call} was not over within {} s; form a new group without \
         those that hang", .after.as_secs_f64()
    )]
    Overdue {
        /// The member that waited.
        rank: usize,
        /// Its group.
        epoch: u64,
        /// What it called for.
        call: String,
        /// The limit.
        after: Duration,
    },
    /// NCCL failed, here or at another member.
    #[error(
        "replica {rank} of group {epoch}: {call} failed in NCCL: {reason} (code {code}); form a new \
         group, and if it fails again set NCCL_DEBUG=INFO"
    )]
    Nccl {
        /// The member that NCCL told.
        rank: usize,
        /// Its group.
        epoch: u64,
        /// What it called for.
        call: String,
        /// `ncclResult_t`; 6 is the failure of another member.
        code: u32,
        /// What NCCL says of it.
        reason: String,
    },
    /// The driver of a member's GPU failed.
    #[error(
        "replica {rank} of group {epoch}: {call} failed on its GPU: {reason}; form a new group without it"
    )]
    Gpu {
        /// The member.
        rank: usize,
        /// Its group.
        epoch: u64,
        /// The driver's function.
        call: String,
        /// The driver's name for what went wrong.
        reason: String,
    },
    /// A library that this back end needs is not there.
    #[error(transparent)]
    Unavailable(#[from] LoadError),
    /// This group cannot do that to tensors of this kind.
    #[error("{0}")]
    Unsupported(String),
}
