//! ractor shells around what decides (`control`), judges, calls tools, stores, samples and learns.
//!
//! The [`Controller`] supervises every other actor and runs rollouts; the loops in [`training`]
//! drive a learner through the same handles. Engines are reached through the traits in [`ports`]:
//! nothing here knows of libtorch or of sockets.
//!
//! [`cluster`] has engines of other nodes take part: a [`node`] joins the controller, opens what it is
//! told to, and an actor here stands for each of its engines ([`remote`]).
//!
//! - **AC-1 (no lost item).** A panic of a tool executor restarts that actor and the call is made
//!   again, as one that a judge panics at is; an item whose driver fails goes back to the ledger.
//! - **AC-2 (acknowledged means stored).** An item counts as stored only once the store has
//!   written it through to disk.
//! - **AC-3 (failure is not a reward).** A call that cannot be completed ends in an error, never in
//!   an observation, a verdict or a reward.
//! - **AC-4 (an outage pauses).** While the judges are away, what needs them waits, as long as the
//!   plan's patience says; what was sampled is kept, and nothing is sampled twice.
//! - **AC-5 (bounded loss).** What cannot be judged is left out and reported, up to the share that the
//!   plan allows.
//! - **AC-6 (the sick are left out).** A worker that fails again and again, or gives no answer in time,
//!   is left out until it works again; what it was given goes to others, and nobody waits for it.

mod blocking;
pub mod cluster;
mod controller;
mod fleet;
mod newest;
pub mod node;
mod patience;
mod pool;
pub mod ports;
mod publication;
pub mod remote;
mod replicas;
mod rollouts;
mod sampling;
pub mod seeds;
mod stopping;
pub mod told;
pub mod training;
mod vitals;
mod workers;

pub use controller::Controller;
pub use fleet::{Fleet, FleetError, FleetPlan, Judges, LearnerHandle, RestartCounts};
pub use pool::CallError;
pub use publication::Published;
pub use rollouts::{Progress, RolloutError, RolloutPlan, RolloutReport};
pub use stopping::Stop;
