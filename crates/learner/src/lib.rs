//! One optimisation step on one device, alone or as one of several replicas: supervised, by policy
//! gradient or by preferences, of all weights or of low-rank adapters, with f32 master weights,
//! AdamW, and checkpoints that training resumes from exactly.
//!
//! [`Learner`] is the entry point. A step packs its batch into token tries, runs each micro-batch
//! forward and backward, sums gradients in one flat f32 buffer, and updates flat master weights.
//!
//! - **LE-1 (how it is cut does not matter).** Losses are normalised by counts of the whole batch,
//!   so micro-batching, packing and the number of replicas change the gradient by rounding only.
//! - **LE-2 (only actions are trained).** The tokens of a state or an observation get no loss.
//! - **LE-3 (a bad step changes nothing).** A step whose gradient is not finite leaves weights and
//!   moments as they were.
//! - **LE-4 (resume is exact).** On a CPU in f32 with `deterministic`, a resumed run makes the same
//!   weights, bit for bit, as one that was never stopped.
//! - **LE-5 (no half checkpoint).** A checkpoint's folder appears under its name only when it is
//!   complete and on disk.
//! - **LE-6 (sharded is the same).** Replicas that keep only shares of the optimizer's state make the
//!   steps that replicas make that keep all of it, and resume from the same checkpoints.
//! - **LE-7 (never on torn weights).** When new weights did not come from all replicas, no later step
//!   is made.
//!
//! Knows nothing about actors or nodes.

mod attention;
mod batch;
mod checkpoint;
mod config;
mod export;
mod files;
mod flat;
mod layers;
mod learner;
mod lora;
mod memory;
mod metrics;
mod objective;
mod open;
mod optimizer;
mod pass;
mod policy;
mod preference;
mod rate;
mod replica;
mod reuse;
mod schedule;
mod shards;
mod supervised;
mod sync;
#[cfg(test)]
mod tests;

pub use checkpoint::{CheckpointError, newest_checkpoint, prune_checkpoints};
pub use config::{ComputeType, ConfigError, GradientWire, LearnerConfig, cpu_has_fast_bf16};
pub use learner::Learner;
pub use lora::LoraConfig;
pub use memory::{BatchSize, MemoryNeed, Traffic};
pub use metrics::{PhaseSeconds, PolicyMetrics, PreferenceMetrics, StepMetrics, SurrogateMetrics};
pub use objective::{
    ImportanceConfig, ImportanceMode, KlConfig, LossConfig, LossKind, OldLogprobs,
};
pub use open::LearnerError;
pub use pass::StepError;
pub use schedule::Schedule;
