//! What a controller and its nodes say to each other.

use crate::chunks::WeightOffer;
use crate::{
    Completion, GenerateRequest, NodeName, Question, Role, RunId, SftSample, StateGroup, StepView,
    ToolCall, WeightVersion,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A node joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its name; that of its certificate.
    pub name: NodeName,
    /// Drawn anew by each process.
    pub boot: u64,
    /// What it is ready to do.
    pub roles: BTreeSet<Role>,
    /// The version of its program.
    pub version: String,
    /// The hash of the configuration it was started for, if it knows one.
    pub config: Option<String>,
    /// Where it takes connections of other nodes, if it does.
    pub address: Option<String>,
}

/// It may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The number of its stay.
    pub node: u64,
    /// The run.
    pub run: RunId,
    /// The hash of the run's configuration.
    pub config: String,
    /// The UDP port of all lanes but control, on the same host.
    pub data_port: u16,
    /// How often the node is to be heard of, in milliseconds.
    pub heartbeat_ms: u64,
}

/// What a node is to do from now on; engines that are not named are closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The engines.
    pub engines: Vec<EngineOrder>,
}

/// An engine that a node is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineOrder {
    /// For which role.
    pub role: Role,
    /// An engine that was opened for the same key is kept as it is.
    pub key: String,
    /// How to open it, in the words of the program that opens it.
    pub order: Vec<u8>,
}

/// An engine that is open, or why it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// For which role.
    pub role: Role,
    /// How many calls it takes at once, or what went wrong.
    pub credits: Result<u32, String>,
}

/// Bytes that lie at their owner and can be pulled from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its number at the owner.
    pub id: u64,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 (IEEE) of all of it.
    pub crc32: u32,
}

/// The files of a folder, by their paths within it, to be pulled from their owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// Relative paths with forward slashes.
    pub files: BTreeMap<String, BlobRef>,
}

/// What is asked of an engine on another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EngineRequest {
    /// Of a sampler: continuations.
    Generate(Vec<GenerateRequest>),
    /// Of a sampler: serve these weights from now on.
    Publish(Box<WeightOffer>),
    /// Of a tool executor.
    Execute(ToolCall),
    /// Of a judge: question, steps before, the step under judgement.
    JudgeStep(Box<Question>, Vec<StepView>, Box<StepView>),
    /// Of a judge: question and answer.
    JudgeOutcome(Box<Question>, Option<String>),
    /// Of a learner: how many steps it has made.
    StepsDone,
    /// Of a learner: a supervised step.
    Supervised(Vec<SftSample>),
    /// Of a learner: a policy-gradient step.
    Policy(Vec<StateGroup>),
    /// Of a learner: its weights, as this version.
    Snapshot(WeightVersion),
    /// Of a learner: a checkpoint.
    Checkpoint,
    /// Of a learner: its weights as a Hugging Face directory.
    Export,
}

impl EngineRequest {
    /// The role it is for.
    pub fn role(&self) -> Role {
        match self {
            Self::Generate(_) | Self::Publish(..) => Role::Sampler,
            Self::Execute(_) => Role::Tool,
            Self::JudgeStep(..) | Self::JudgeOutcome(..) => Role::Judge,
            Self::StepsDone
            | Self::Supervised(_)
            | Self::Policy(_)
            | Self::Snapshot(_)
            | Self::Checkpoint
            | Self::Export => Role::Learner,
        }
    }
}

/// What a sampler answers to [`EngineRequest::Generate`]: continuations by request and sample.
pub type Generated = Vec<Vec<Completion>>;
