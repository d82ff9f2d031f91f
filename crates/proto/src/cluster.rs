//! What a controller and its nodes say to each other.

use crate::chunks::WeightOffer;
use crate::{
    Completion, GenerateRequest, NodeName, Question, Role, RunId, SftSample, SnapshotScope,
    StateGroup, StepView, ToolCall, WeightVersion,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The first message of a node, whatever builds the two sides are of: this layout never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The version of its program.
    pub version: String,
    /// A [`Join`] as that version encodes it.
    pub join: Vec<u8>,
}

/// A node joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its name; that of its certificate.
    pub name: NodeName,
    /// Drawn anew by each process.
    pub boot: u64,
    /// What it is ready to do.
    pub roles: BTreeSet<Role>,
    /// The hash of the configuration it was started for, if it knows one.
    pub config: Option<String>,
    /// Where it takes connections of other nodes, if it does.
    pub address: Option<String>,
    /// Its device: `cpu` or `cuda:N`.
    pub device: String,
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

/// How far a learner is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The epoch of the last group whose weights it took over; 0 before its first.
    pub epoch: u32,
    /// Steps made.
    pub steps: u64,
    /// Where other learners meet it.
    pub address: SocketAddr,
}

/// Why a learner did not meet the others. They stand in a ring: each dials the next one, and is dialled
/// by the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// In words.
    pub reason: String,
    /// The next one could not be dialled, or gave no answer.
    pub misses_next: bool,
    /// The one before did not come.
    pub misses_previous: bool,
    /// It would not meet anybody: what it needs for it does not work here.
    pub is_own_fault: bool,
    /// What it holds is as it was before.
    pub is_whole: bool,
}

/// The occupation of a learner at the moment when its group is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Occupation {
    /// Nothing that the group waits for.
    Idle,
    /// A computation of its own.
    Computing,
    /// A wait for other members.
    Waiting,
}

/// A learner's place in a group of replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The group's epoch.
    pub epoch: u32,
    /// The learner's rank. All take over the weights of rank 0.
    pub rank: u32,
    /// Where the members are met, by rank.
    pub members: Vec<SocketAddr>,
    /// All have the same weights as it is: nothing is taken over.
    pub is_level: bool,
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
    /// Of a learner: how far it is, and where others meet it.
    Standing,
    /// Of a learner: a group that it is to be in. It answers with its steps, or [`Unmet`].
    Meet(Place),
    /// Of a learner: this group and any before it are given up; the reason. It is heard at once,
    /// whatever the learner is at, and answered with its [`Occupation`].
    Abandon(u32, String),
    /// Of a learner in this group: its share of a supervised step.
    Supervised(u32, Vec<SftSample>),
    /// Of a learner in this group: its share of a policy-gradient step.
    Policy(u32, Vec<StateGroup>),
    /// Of a learner in the version's group: so much of its weights, as this version.
    Snapshot(WeightVersion, SnapshotScope),
    /// Of a learner in this group: a checkpoint.
    Checkpoint(u32),
    /// Of a learner in this group: its weights as a Hugging Face directory.
    Export(u32),
}

impl EngineRequest {
    /// The role it is for.
    pub fn role(&self) -> Role {
        match self {
            Self::Generate(_) | Self::Publish(..) => Role::Sampler,
            Self::Execute(_) => Role::Tool,
            Self::JudgeStep(..) | Self::JudgeOutcome(..) => Role::Judge,
            Self::Standing
            | Self::Meet(_)
            | Self::Abandon(..)
            | Self::Supervised(..)
            | Self::Policy(..)
            | Self::Snapshot(..)
            | Self::Checkpoint(_)
            | Self::Export(_) => Role::Learner,
        }
    }
}

/// What a sampler answers to [`EngineRequest::Generate`]: continuations by request and sample.
pub type Generated = Vec<Vec<Completion>>;
