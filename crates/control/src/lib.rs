//! Decisions as pure state machines: no clock, I/O, randomness or await. Time is an argument, and
//! whatever a machine wants done it returns as data; the shells around it perform it.
//!
//! - [`ledger`]: which rollout item is unleased, leased, done or failed.
//! - [`phases`]: which phase of a run comes next, and whether a stopped run may be continued.
//! - [`rollout`]: the steps of one item, from its prompt to its trajectory.

pub mod ledger;
pub mod phases;
pub mod rollout;
