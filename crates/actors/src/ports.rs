//! What the actors ask of engines that live outside of them.

use async_trait::async_trait;
use proto::cluster::{Occupation, Place, Standing, Unmet};
use proto::{
    Completion, GenerateRequest, Question, SftSample, SnapshotScope, StateGroup, WeightSnapshot,
    WeightVersion,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An engine could not do what it was asked. The words are its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Generates continuations: an engine in this process or behind a connection.
#[async_trait]
pub trait Generator: Send + Sync + 'static {
    /// Samples `request.samples` continuations of each request, in the order of requests and
    /// samples. Requests of one call reach the engine together and in order, so that what is
    /// batched with what does not depend on scheduling.
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError>;

    /// Serves these weights from now on. What was asked before ends with the weights it began with.
    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError>;
}

/// Turns a dialogue into token ids, append-only: later turns never change earlier ids.
pub trait Turns: Send + Sync + 'static {
    /// The ids of the first prompt, up to where the model's turn begins.
    fn prompt(&self, question: &Question) -> Vec<u32>;

    /// The ids between the end of a sampled action and the model's next turn, around `text`.
    /// `sampled` are the action's ids: the turn is closed only if the model has not done so.
    fn observation(&self, text: &str, sampled: &[u32]) -> Vec<u32>;
}

/// What one optimisation step reports, by metric name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// How many steps the learner has made, this one included.
    pub step: u64,
    /// Values in base units.
    pub metrics: BTreeMap<String, f64>,
}

/// A learner did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LearnerFault {
    /// It cannot, and says why.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its group of replicas fell apart over it, or is not the one that was meant: the next group can
    /// be asked again.
    #[error("{0}")]
    Apart(String),
    /// The learners that there are now have other steps behind them than those before.
    #[error("the learner was lost, and the next one has other steps behind it")]
    Behind,
}

/// Makes optimisation steps and gives the weights out.
#[async_trait]
pub trait Trainer: Send + Sync + 'static {
    /// How many steps are done: 0, or more after a resume.
    async fn steps_done(&self) -> Result<u64, EngineError>;

    /// One supervised step over the whole batch; in a group of replicas, over its share.
    async fn supervised_step(&self, batch: Vec<SftSample>) -> Result<StepReport, LearnerFault>;

    /// One policy-gradient step over the whole batch; in a group of replicas, over its share.
    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault>;

    /// So much of the current weights, checksummed.
    async fn snapshot(
        &self,
        version: WeightVersion,
        scope: SnapshotScope,
    ) -> Result<WeightSnapshot, EngineError>;

    /// Writes a checkpoint that training can be resumed from.
    async fn checkpoint(&self) -> Result<PathBuf, EngineError>;

    /// Writes the weights alone, as a Hugging Face directory.
    async fn export(&self, folder: PathBuf) -> Result<(), EngineError>;
}

/// A learner that can be one of several: they have the same weights, and add their gradients up.
#[async_trait]
pub trait Replica: Trainer {
    /// How far it is, and where others meet it.
    async fn standing(&self) -> Result<Standing, EngineError>;

    /// Leaves the group it is in, and meets the members of another one. All take over weights,
    /// moments and steps of rank 0; returns the steps.
    ///
    /// # Errors
    /// When there is no group; says whom it misses, as far as it knows.
    async fn meet(&self, place: Place) -> Result<u64, Unmet>;

    /// Writes a checkpoint together with the other members, where they keep shares of the optimizer's
    /// state; `None` on those who only gave their shares.
    async fn checkpoint_together(&self) -> Result<Option<PathBuf>, LearnerFault>;

    /// Gives this group and all before it up, at once: a step under way ends without new weights, and
    /// a meeting without a group. Says what it was at.
    fn abandon(&self, epoch: u32, reason: &str) -> Occupation;
}
