//! Whether a model fits, asked before it is loaded.

use anyhow::{Result, bail};
use learner::{BatchSize, LearnerConfig, MemoryNeed};
use model::DecoderSpec;
use serde::{Deserialize, Serialize};
use std::path::Path;
use sysinfo::System;
use tch::{Device, Kind};

/// Share of the available memory that may be planned for: activations and buffers need the rest.
const USABLE_SHARE: f64 = 0.9;

/// What a phase holds at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Samplers, if any.
    pub sampling: Option<Sampling>,
    /// A learner, if any.
    pub learning: Option<Learning>,
}

/// Samplers with their caches.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// How many, each with weights of its own.
    pub samplers: u64,
    /// Sequences that one of them decodes together or keeps the keys of.
    pub sequences: u64,
    /// Longest sequence, in tokens.
    pub context_tokens: u64,
    /// The type of weights and caches.
    pub kind: Kind,
    /// Whether the output matrix is there in f32, too.
    pub f32_head: bool,
}

/// A learner.
#[derive(Debug, Clone, Copy)]
pub struct Learning {
    /// The type it computes in.
    pub kind: Kind,
    /// What it holds at its peak.
    pub need: MemoryNeed,
    /// Learners that train side by side, this one included.
    pub replicas: usize,
    /// Whether each keeps its share of the optimizer's state only.
    pub keeps_shares: bool,
}

/// What a learner is asked for, as far as its memory follows from it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Demand {
    /// The largest step.
    pub batch: BatchSize,
    /// Whether a frozen model is compared with.
    pub has_reference: bool,
}

impl Learning {
    /// One of `replicas` learners of a model.
    pub fn of(
        spec: &DecoderSpec,
        config: &LearnerConfig,
        device: Device,
        demand: Demand,
        replicas: usize,
    ) -> Self {
        let Demand {
            batch,
            has_reference,
        } = demand;
        Self {
            kind: config.dtype.kind(device),
            need: MemoryNeed::of(spec, config, device, batch, has_reference, replicas),
            replicas,
            keeps_shares: config.shard_optimizer,
        }
    }
}

/// Bytes that `load` takes: samplers with their caches, and a learner at its peak. A number too large
/// for 64 bits is the largest of them.
pub fn bytes(spec: &DecoderSpec, load: Load) -> u64 {
    let sampling = load.sampling.map_or(0, |load| sampling_bytes(spec, load));
    let learning = load.learning.map_or(0, |load| learning_bytes(spec, load));
    sampling.saturating_add(learning)
}

fn parameters(spec: &DecoderSpec) -> u64 {
    u64::try_from(spec.parameter_count()).unwrap_or(u64::MAX)
}

fn product(factors: [u64; 4]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

fn sampling_bytes(spec: &DecoderSpec, load: Sampling) -> u64 {
    let element = load.kind.elt_size_in_bytes() as u64;
    let weights = parameters(spec).saturating_mul(element);
    let width = |size: i64| u64::try_from(size).unwrap_or(u64::MAX);
    let head = match load.f32_head && load.kind != Kind::Float {
        true => product([4, width(spec.vocab_size), width(spec.hidden_size), 1]),
        false => 0,
    };
    let weights = weights.saturating_add(head);
    let keys = product([
        spec.layers.len() as u64,
        width(spec.kv_heads),
        width(spec.head_dim),
        element,
    ]);
    let cache = product([2, keys, load.sequences, load.context_tokens]);
    load.samplers.saturating_mul(weights.saturating_add(cache))
}

fn learning_bytes(spec: &DecoderSpec, load: Learning) -> u64 {
    // The snapshot that is in flight when weights are published is there between steps, when
    // activations and logits are not.
    let snapshot = parameters(spec).saturating_mul(load.kind.elt_size_in_bytes() as u64);
    let passing = load.need.activations.saturating_add(load.need.logits);
    let lasting = load.need.total().saturating_sub(passing);
    lasting.saturating_add(passing.max(snapshot))
}

/// Refuses a load that does not fit this machine's memory.
///
/// # Errors
/// Names what is needed, what there is, and which settings to change.
pub fn check(phase: &str, dir: &Path, device: Device, load: Load) -> Result<()> {
    if device.is_cuda() {
        return Ok(()); // libtorch has no call for a GPU's free memory; loading fails cleanly there.
    }
    let spec = model::spec_of(dir)?;
    refuse(phase, dir, load, bytes(&spec, load), available())
}

/// Bytes that this process can still take.
pub fn available() -> u64 {
    available_of_total().0
}

/// Bytes that this process can still take, and those of the machine, or of its container.
pub fn available_of_total() -> (u64, u64) {
    let mut system = System::new();
    system.refresh_memory();
    let (mut left, mut total) = (system.available_memory(), system.total_memory());
    if let Some(limits) = system.cgroup_limits() {
        // What files take of a limit makes way for what programs need.
        left = left.min(limits.total_memory.saturating_sub(limits.rss));
        total = limits.total_memory;
    }
    (left.saturating_add(freed()), total)
}

/// Bytes of the pages that this process has freed, and that its allocator keeps for it
/// (`.cargo/config.toml`).
fn freed() -> u64 {
    #[cfg(target_os = "linux")]
    {
        crate::allocator::freed().unwrap_or_else(|error| {
            tracing::debug!(%error, "The allocator does not say what it keeps.");
            0
        })
    }
    #[cfg(not(target_os = "linux"))]
    0
}

fn refuse(phase: &str, dir: &Path, load: Load, needed: u64, available: u64) -> Result<()> {
    if needed as f64 <= available as f64 * USABLE_SHARE {
        return Ok(());
    }
    let mut advice = vec!["a smaller model", "model.dtype = \"bf16\""];
    if let Some(Sampling { samplers, .. }) = load.sampling {
        if samplers > 1 {
            advice.push("fewer actors.samplers");
        }
        advice.push("a smaller rollout.max_context_tokens");
    }
    match (load.sampling, load.learning) {
        (Some(_), None) => {
            advice.push("a smaller rollout.items_per_sampler or rollout.kept_sequences");
        }
        (Some(_), Some(_)) => advice.push("fewer train.states_per_step or train.actions_per_state"),
        (None, _) => {}
    }
    if let Some(learning) = load.learning {
        let need = learning.need;
        if need.activations > need.training / 4 {
            advice.push("learner.activation_checkpointing = true");
            advice.push("a smaller learner.micro_batch_tokens");
        }
        if need.logits > need.training / 4 {
            advice.push("a smaller learner.loss_chunk_tokens");
        }
        if need.training > need.weights {
            match (learning.keeps_shares, learning.replicas) {
                (true, _) => {
                    advice.push("more learner nodes, which makes each one's share smaller")
                }
                (false, 2..) => advice.push("learner.shard_optimizer = true"),
                (false, _) => {}
            }
            advice.push("learner.lora, which trains adapters only");
        }
        if need.reference > 0 {
            advice.push("train.learner.kl.coefficient = 0");
        }
    }
    bail!(
        "{} does not fit: the {phase} needs about {} of memory and {} is available. Use {}",
        dir.display(),
        gib(needed),
        gib(available),
        advice.join(", or ")
    );
}

/// A number of bytes for people.
pub fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use learner::{BatchSize, ComputeType, LearnerConfig};

    /// The configuration of SmolLM2-135M: 134,515,008 parameters.
    pub(crate) fn smollm2_folder() -> tempfile::TempDir {
        let config = r#"{
            "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_theta": 100000, "hidden_act": "silu", "tie_word_embeddings": true
        }"#;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        dir
    }

    fn smollm2() -> DecoderSpec {
        model::spec_of(smollm2_folder().path()).unwrap()
    }

    fn sampling(samplers: u64, sequences: u64) -> Load {
        Load {
            sampling: Some(Sampling {
                samplers,
                sequences,
                context_tokens: 1024,
                kind: Kind::BFloat16,
                f32_head: false,
            }),
            learning: None,
        }
    }

    fn learning(dtype: ComputeType, has_reference: bool) -> Load {
        let config = LearnerConfig {
            dtype,
            ..Default::default()
        };
        let demand = Demand {
            batch: BatchSize {
                tokens: 1 << 20,
                longest: 512,
            },
            has_reference,
        };
        Load {
            sampling: None,
            learning: Some(Learning::of(&smollm2(), &config, Device::Cpu, demand, 1)),
        }
    }

    #[test]
    fn bytes_of_a_known_model() {
        const P: u64 = 134_515_008;
        // Keys and values of 30 layers × 3 heads × 64, two bytes each.
        const TOKEN: u64 = 2 * 30 * 3 * 64 * 2;
        let both = Load {
            sampling: sampling(1, 64).sampling,
            learning: learning(ComputeType::F32, false).learning,
        };
        let alone = bytes(&smollm2(), learning(ComputeType::F32, false));
        let cases = [
            (Load::default(), 0),
            (sampling(1, 64), 2 * P + 64 * 1024 * TOKEN),
            (sampling(2, 1), 2 * (2 * P + 1024 * TOKEN)),
            (both, 2 * P + 64 * 1024 * TOKEN + alone),
        ];
        for (load, expected) in cases {
            assert_eq!(bytes(&smollm2(), load), expected, "{load:?}");
        }
        // Master, gradient, moments and weights to compute with; activations and logits on top.
        let bf16 = bytes(&smollm2(), learning(ComputeType::Bf16, false));
        assert!(
            (18 * P + (1 << 30)..18 * P + (2 << 30)).contains(&bf16),
            "{bf16}"
        );
        let referred = bytes(&smollm2(), learning(ComputeType::Bf16, true));
        assert_eq!(referred, bf16 + 2 * P);
    }

    /// A phase that follows another must not be refused for what that one has given back.
    #[test]
    fn what_was_freed_can_be_taken_again() {
        const BYTES: usize = 1 << 30;
        let touched = vec![1u8; BYTES];
        let before = freed();
        assert_eq!(std::hint::black_box(touched)[BYTES - 1], 1);
        let after = freed();
        assert!(
            after >= before + BYTES as u64 * 9 / 10,
            "{before} and then {after} bytes"
        );
    }

    fn refusal(load: Load) -> String {
        let needed = bytes(&smollm2(), load);
        let refused = refuse("training", Path::new("m"), load, needed, 1 << 30);
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_names_the_knobs_that_help() {
        let load = learning(ComputeType::Bf16, true);
        let error = refusal(load);
        for knob in [
            "learner.activation_checkpointing = true",
            "learner.micro_batch_tokens",
            "learner.lora",
            "kl.coefficient = 0",
        ] {
            assert!(error.contains(knob), "{knob}: {error}");
        }
        let elsewhere = ["shard_optimizer", "more learner nodes"];
        assert!(
            elsewhere.iter().all(|knob| !error.contains(knob)),
            "{error}"
        );
        let beside = |keeps_shares| {
            let learning = load.learning.map(|alone| Learning {
                replicas: 4,
                keeps_shares,
                ..alone
            });
            refusal(Load { learning, ..load })
        };
        assert!(beside(false).contains("learner.shard_optimizer = true"));
        assert!(beside(true).contains("more learner nodes"));
    }

    #[test]
    fn shares_are_counted_for_the_learners_there_will_be() {
        let config = LearnerConfig {
            shard_optimizer: true,
            ..Default::default()
        };
        let demand = Demand {
            batch: BatchSize {
                tokens: 1 << 20,
                longest: 512,
            },
            has_reference: false,
        };
        let needs = [1, 2, 8].map(|replicas| {
            let learning = Learning::of(&smollm2(), &config, Device::Cpu, demand, replicas);
            let load = Load {
                sampling: None,
                learning: Some(learning),
            };
            bytes(&smollm2(), load)
        });
        assert!(needs.is_sorted_by(|more, less| more > less), "{needs:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused_also_where_the_number_has_no_room() {
        let dir = Path::new("m");
        let fits = |load| refuse("evaluation", dir, load, bytes(&smollm2(), load), 8 << 30);
        fits(sampling(1, 64)).unwrap();
        for load in [sampling(1, 100_000_000), sampling(u64::MAX, u64::MAX)] {
            let error = fits(load).unwrap_err().to_string();
            assert!(error.contains("rollout.items_per_sampler"), "{error}");
        }
        assert_eq!(bytes(&smollm2(), sampling(u64::MAX, u64::MAX)), u64::MAX);
    }
}
