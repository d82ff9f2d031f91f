//! The loops that drive a learner: imitation of dialogues, and step-wise reinforcement learning.
//!
//! - **TL-1 (resume).** What step *n* trains on follows from the seed and *n* alone, so a run that
//!   is resumed at *n* goes on as if it had never stopped.
//! - **TL-2 (publish first).** Weights are published before the first action is asked for, after a
//!   resume too.
//! - **TL-3 (on policy).** An action of other weights than those its batch begins with ends training:
//!   it would count as if these had sampled it.
//! - **TL-4 (one distribution).** The first step after a start or a resume that compares tokens ends
//!   training when sampler and learner give them different probabilities: then the two do not hold the
//!   same weights, or divide by different temperatures. A step without a token to compare leaves the
//!   check to the next; later steps beyond the limit warn.
//! - **TL-5 (a lost learner costs steps, not the run).** When the learner is lost with its node,
//!   training waits for the next one and goes on from the steps that one has behind it.
//! - **TL-6 (bounded age).** The weights that an action was sampled from are at most
//!   `updates_per_batch − 1` steps older than those it trains; each step says by how many.
//! - **TL-7 (nothing lost).** Training that ends because actions cannot be sampled or judged any more
//!   writes a checkpoint of the steps it has made first. While the judges are away, it waits, with the
//!   actions that are sampled, as long as the fleet's plan has patience.
//! - **TL-8 (no verdict, no reward).** A state with an action that cannot be judged is left out with all
//!   its actions, counted, and reported; more than the share that the plan allows ends training.
//! - **TL-9 (an end in order).** Training that is asked to end finishes the batch whose steps have
//!   begun, leaves one undone that is being sampled or judged, writes a checkpoint of all steps it has
//!   made, whatever `checkpoint_every` is, and ends. A node that leaves has one written before it goes.

mod agreement;
mod batch;
mod batches;
mod between;
mod judging;
mod picker;
mod policy;
mod supervised;

pub use picker::StateBalance;
pub use policy::{PolicyPlan, State, StateWeighting, policy, states_of};
pub use supervised::{SupervisedPlan, supervised};

use crate::fleet::{Fleet, FleetError, LearnerHandle};
use proto::WeightVersion;

/// Why a training loop stopped early. The last checkpoint is good; mend the cause and resume.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// There is nothing to train on.
    #[error("there is nothing to train on: {0}")]
    Empty(&'static str),
    /// A sampler serves other weights than it was given; a defect of the sampler.
    #[error("an action was sampled from weights {found} where {expected} were published")]
    Stale {
        /// The version that was published.
        expected: WeightVersion,
        /// The version that sampled.
        found: WeightVersion,
    },
    /// Sampler and learner do not compute the same thing.
    #[error(
        "sampler and learner disagree by {found:.3} nats a token over {tokens} tokens, {limit} is the \
         limit (train.max_logprob_difference): give both the same model.dtype"
    )]
    Disagreement {
        /// Mean difference of log-probabilities in nats.
        found: f64,
        /// The tokens that were compared.
        tokens: u64,
        /// The limit.
        limit: f64,
    },
    /// More states have to be left out than may be.
    #[error(
        "{left_out} states have an action that cannot be judged, and judge.max_unjudged_share allows \
         {allowed}; the last is {state}: {reason}. Mend the cause, or raise the share, and resume"
    )]
    Unjudged {
        /// States left out so far.
        left_out: u64,
        /// Number of states that may be left out.
        allowed: u64,
        /// The last of them.
        state: String,
        /// Why it cannot be judged.
        reason: String,
    },
    /// It was asked to end. A checkpoint holds all steps that were made.
    #[error("training was stopped behind step {step}: go on with --resume")]
    Stopped {
        /// Steps made.
        step: u64,
    },
    /// It was asked to end while there was no learner. What the last one made since its newest
    /// checkpoint is made again.
    #[error("training was stopped while no learner was there: go on with --resume")]
    StoppedWithout,
    /// Learners came and went without getting one step further.
    #[error("{0} learners were lost one after the other at step {1}")]
    NoProgress(u32, u64),
    /// A call to an actor failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

impl TrainingError {
    /// Whether the learner was lost with its node.
    fn is_gone(&self) -> bool {
        matches!(self, Self::Fleet(error) if error.is_gone())
    }

    /// Whether it ended because it was asked to.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::StoppedWithout)
    }

    /// Whether weights are wrong: then nothing of them is saved.
    fn is_of_weights(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::Disagreement { .. })
    }
}

/// The learner there is, or the next to come; none is waited for where training is to end.
async fn next_learner(fleet: &Fleet) -> Result<LearnerHandle, TrainingError> {
    let stopped = TrainingError::StoppedWithout;
    let learner = fleet.stop.unless(fleet.learner()).await;
    Ok(learner.ok_or(stopped)??)
}

/// Learners that may be lost one after the other before one gets further than all before it.
const LOST_LEARNERS: u32 = 5;

/// How often learners were lost, and how far they came (TL-5).
#[derive(Debug, Default)]
struct Losses {
    furthest: u64,
    lost: u32,
}

impl Losses {
    /// Another one was lost, with `step` steps behind it.
    fn another(&mut self, step: u64) -> Result<(), TrainingError> {
        self.lost = if step > self.furthest {
            1
        } else {
            self.lost + 1
        };
        self.furthest = self.furthest.max(step);
        if self.lost >= LOST_LEARNERS {
            return Err(TrainingError::NoProgress(self.lost, self.furthest));
        }
        tracing::warn!(step, "The learner was lost; training waits for the next.");
        Ok(())
    }
}
