//! The loops that drive a learner: imitation of dialogues, and step-wise reinforcement learning.
//!
//! - **TL-1 (resume).** What step *n* trains on follows from the seed and *n* alone, so a run that
//!   is resumed at *n* goes on as if it had never stopped.
//! - **TL-2 (publish first).** Weights are published before the first action is asked for, after a
//!   resume too.

mod batches;
mod policy;
mod supervised;

pub use policy::{PolicyPlan, State, StateWeighting, policy, states_of};
pub use supervised::{SupervisedPlan, supervised};

use crate::fleet::FleetError;

/// Why a training loop stopped early. The last checkpoint is good; mend the cause and resume.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// There is nothing to train on.
    #[error("there is nothing to train on: {0}")]
    Empty(&'static str),
    /// A call to an actor failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}
