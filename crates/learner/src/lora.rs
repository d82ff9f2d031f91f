//! Where the low-rank adapters of a run start.

use crate::config::LoraConfig;
use crate::learner::LearnerError;
use model::{DecoderSpec, LoraSpec, Slot};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

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
