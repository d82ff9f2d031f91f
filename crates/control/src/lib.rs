//! Decisions as pure state machines: no clock, I/O, randomness or await. Time is an argument, and
//! whatever a machine wants done it returns as data; the shells around it perform it.
//!
//! - [`backoff`]: how long to wait before something is tried again.
//! - [`launching`]: which nodes a launcher starts when, and when too few can be had.
//! - [`ledger`]: which rollout item is unleased, leased, done or failed.
//! - [`membership`]: which nodes belong to the run.
//! - [`openings`]: how long learners may take to open, and which process hangs.
//! - [`outage`]: whether a service can be asked, and how long callers wait while it is away.
//! - [`pace`]: how long a call may take, by the pace at which workers were seen to work.
//! - [`phases`]: which phase of a run comes next, and whether a stopped run may be continued.
//! - [`publication`]: how long new weights wait for samplers.
//! - [`quarantine`]: which workers are left out because they are sick, and when they come back.
//! - [`readmission`]: when a member that was left out is tried again.
//! - [`reminder`]: when it is said that something is still waited for.
//! - [`replicas`]: which learners train side by side, and which step counts when one is lost.
//! - [`rollout`]: the steps of one item, from its prompt to its trajectory.
//! - [`shares`]: how a batch of requests is divided among workers of unequal pace.
//! - [`spread`]: which node pulls new weights from which.
//! - [`tolerance`]: how much of a phase may be left out before it ends.

pub mod backoff;
pub mod launching;
pub mod ledger;
pub mod membership;
pub mod openings;
pub mod outage;
pub mod pace;
pub mod phases;
pub mod publication;
pub mod quarantine;
pub mod readmission;
pub mod reminder;
pub mod replicas;
pub mod rollout;
pub mod shares;
pub mod spread;
pub mod tolerance;
