//! Whether a model fits, asked before it is loaded.

use anyhow::{Result, bail};
use model::DecoderSpec;
use std::path::Path;
use sysinfo::System;
use tch::{Device, Kind};

/// Share of the available memory that may be planned for: activations and buffers need the rest.
const USABLE_SHARE: f64 = 0.9;

/// What is to be held at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Samplers, each with weights in the compute type.
    pub samplers: u64,
    /// Sequences that one sampler decodes together.
    pub sequences: u64,
    /// Longest sequence, in tokens.
    pub context_tokens: u64,
    /// Learners: compute weights and gradients, and four f32 buffers.
    pub learners: u64,
    /// Frozen reference models.
    pub references: u64,
}

/// Bytes that `load` takes: weights, caches and optimizer state; not activations.
pub fn bytes(spec: &DecoderSpec, kind: Kind, load: Load) -> u64 {
    let weights = model::estimate_bytes(spec, kind);
    let element = kind.elt_size_in_bytes() as u64;
    let parameters = spec.parameter_count() as u64;
    let per_token = 2 * spec.layers.len() as u64 * (spec.kv_heads * spec.head_dim) as u64 * element;
    let cache = load.sequences * load.context_tokens * per_token;
    // Compute weights and their gradients; master, both moments and the summed gradient in f32.
    let learner = 2 * weights + 4 * 4 * parameters;
    // A snapshot of the weights is in flight when they are published.
    let snapshot = if load.learners > 0 { weights } else { 0 };
    load.samplers * (weights + cache)
        + load.learners * learner
        + load.references * weights
        + snapshot
}

/// Refuses a load that does not fit this machine's memory.
///
/// # Errors
/// Names what is needed, what there is, and which settings to change.
pub fn check(dir: &Path, device: Device, kind: Kind, load: Load) -> Result<()> {
    if device.is_cuda() {
        return Ok(()); // libtorch has no call for a GPU's free memory; loading fails cleanly there.
    }
    let spec = model::spec_of(dir)?;
    let needed = bytes(&spec, kind, load);
    let mut system = System::new();
    system.refresh_memory();
    let available = system.available_memory();
    if needed as f64 > available as f64 * USABLE_SHARE {
        bail!(
            "{} does not fit: it needs about {} and {} is available. Use a smaller model, \
             model.dtype = \"bf16\", fewer actors.samplers, a smaller rollout.items_per_sampler or \
             rollout.max_context_tokens{}",
            dir.display(),
            gib(needed),
            gib(available),
            if load.references > 0 {
                ", or train.learner.kl.coefficient = 0"
            } else {
                ""
            }
        );
    }
    Ok(())
}

/// A number of bytes for people.
pub fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}
