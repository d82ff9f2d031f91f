//! Low-rank adapters, as settings, and where they start.

use crate::open::LearnerError;
use model::{DecoderSpec, LoraSpec, Projection, Slot};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// Low-rank adapters, trained in the place of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapters; at least 1.
    pub rank: u32,
    /// They are multiplied by `alpha / rank`; above 0.
    pub alpha: f64,
    /// The projections of every layer that get one.
    pub targets: Vec<Projection>,
    /// A PEFT folder to start from, of this rank, alpha and targets; fresh adapters otherwise.
    pub start: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: Projection::ALL.to_vec(),
            start: None,
        }
    }
}

impl LoraConfig {
    pub(crate) fn spec(&self) -> LoraSpec {
        LoraSpec {
            rank: i64::from(self.rank),
            alpha: self.alpha,
            targets: self.targets.clone(),
        }
    }

    pub(crate) fn names_targets_once(&self) -> bool {
        let once = |target: &Projection| self.targets.iter().filter(|t| *t == target).count() == 1;
        !self.targets.is_empty() && self.targets.iter().all(once)
    }
}

/// Which adapters, and their f32 tensors by [`LoraSpec::slots`]: those of the folder that the
/// configuration names, or fresh ones, which change nothing yet.
pub(crate) fn start(
    config: &LoraConfig,
    spec: &DecoderSpec,
    seed: u64,
) -> Result<(LoraSpec, Vec<Tensor>), LearnerError> {
    let lora = config.spec();
    let Some(folder) = &config.start else {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1); // the learner's own numbers stay what they are without adapters
        let slots = lora.slots(spec);
        let tensors = slots.iter().map(|slot| fresh(slot, &mut rng)).collect();
        return Ok((lora, tensors));
    };
    let (found, tensors) = model::load_adapter(folder, spec)?;
    let same_targets = |a: &LoraSpec, b: &LoraSpec| a.slots(spec) == b.slots(spec);
    if found.alpha != lora.alpha || !same_targets(&found, &lora) {
        return Err(LearnerError::OtherAdapter {
            folder: folder.clone(),
            rank: found.rank,
            alpha: found.alpha,
            targets: found
                .targets
                .iter()
                .map(|t| t.name())
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    Ok((lora, tensors))
}

/// `A` uniform within ±1/√in as PEFT draws it, `B` zero.
fn fresh(slot: &Slot, rng: &mut ChaCha8Rng) -> Tensor {
    if slot.name.ends_with("lora_b") {
        return Tensor::zeros(&slot.shape[..], (Kind::Float, Device::Cpu));
    }
    let bound = 1.0 / (slot.shape[1] as f32).sqrt();
    let count: i64 = slot.shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| rng.random_range(-bound..bound))
        .collect();
    Tensor::from_slice(&values).view(&slot.shape[..])
}
