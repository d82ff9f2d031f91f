//! Why a group stops working.

use std::time::Duration;

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
    /// This group cannot do that to tensors of this kind.
    #[error("{0}")]
    Unsupported(String),
}
