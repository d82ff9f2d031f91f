//! What every part of swirl says to every other: identifiers, questions, trajectories, verdicts,
//! generation requests, weight manifests, and the one wire codec.
//!
//! Knows nothing about I/O, async runtimes or tensors.

pub mod chunks;
pub mod cluster;
pub mod codec;
pub mod files;
pub mod generation;
pub mod ids;
pub mod node;
pub mod question;
pub mod training;
pub mod trajectory;
pub mod verdict;
pub mod weights;

pub use generation::{Completion, FinishReason, GenerateRequest, SamplingParams, Thinking};
pub use ids::{ItemId, QuestionId, RunId, WeightVersion};
pub use node::{Identity, NodeName, Role};
pub use question::{Question, ReferenceStep};
pub use training::{RlSample, SftSample, StateGroup};
pub use trajectory::{
    Action, MalformedKind, Observation, Span, Step, StepView, ToolCall, Trajectory, TrajectoryEnd,
};
pub use verdict::{Label, Verdict};
pub use weights::{
    AdapterEntry, BaseEntry, SnapshotScope, TensorEntry, WeightManifest, WeightSnapshot,
};
