//! Low-rank adapters, as settings, and where they start.

use crate::open::LearnerError;
use model::{DecoderSpec, LoraSpec, Projection, Slot};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
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
    /// A PEFT folder to start from; otherwise training goes on with the adapters of the model that it
    /// starts from, or with fresh ones where that has none. Adapters of a smaller rank or fewer targets
    /// become part of the larger ones.
    pub start: Option<PathBuf>,
    /// Place of the base that saved adapters name. Not a setting: the program sets it where the
    /// base lies elsewhere than the learner reads it.
    #[serde(skip)]
    pub base_name: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: Projection::ALL.to_vec(),
            start: None,
            base_name: None,
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
/// configuration names or of the model `start`, or fresh ones, which change nothing yet.
pub(crate) fn start(
    config: &LoraConfig,
    spec: &DecoderSpec,
    seed: u64,
    start: &Path,
) -> Result<(LoraSpec, Vec<Tensor>), LearnerError> {
    let lora = config.spec();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(1); // the learner's own numbers stay what they are without adapters
    let slots = lora.slots(spec);
    let fresh = slots.iter().map(|slot| fresh(slot, &mut rng)).collect();
    let Some(folder) = start_folder(config, start)? else {
        return Ok((lora, fresh));
    };
    let (found, tensors) = model::load_adapter(folder, spec)?;
    let is_part = found.rank <= lora.rank && found.targets.iter().all(|t| lora.targets.contains(t));
    if !is_part {
        return Err(LearnerError::OtherAdapter {
            folder: folder.to_owned(),
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
    let grown = grown(&found, tensors, &lora, fresh, spec);
    Ok((lora, grown))
}

/// Whether training starts from adapters that change something.
pub(crate) fn starts_adapted(config: &LoraConfig, start: &Path) -> Result<bool, LearnerError> {
    Ok(start_folder(config, start)?.is_some())
}

fn start_folder<'a>(
    config: &'a LoraConfig,
    start: &'a Path,
) -> Result<Option<&'a Path>, LearnerError> {
    let of_model = model::base_of(start)?.map(|_| start);
    match (&config.start, of_model) {
        (Some(named), Some(model)) => Err(LearnerError::TwoAdapters {
            model: model.to_owned(),
            named: named.clone(),
        }),
        (Some(named), None) => Ok(Some(named)),
        (None, of_model) => Ok(of_model),
    }
}

/// `fresh` adapters with those of `found` in them: the sum is the same, and nothing else moves yet,
/// since a fresh `B` is zero. The scale of `found` goes into its `B`.
fn grown(
    found: &LoraSpec,
    tensors: Vec<Tensor>,
    lora: &LoraSpec,
    fresh: Vec<Tensor>,
    spec: &DecoderSpec,
) -> Vec<Tensor> {
    let scale = (found.alpha / found.rank as f64) / (lora.alpha / lora.rank as f64);
    let slots = found.slots(spec);
    let mut known = slots.iter().zip(tensors).peekable();
    lora.slots(spec)
        .iter()
        .zip(fresh)
        .map(|(slot, fresh)| {
            let Some((_, tensor)) = known.next_if(|(old, _)| old.name == slot.name) else {
                return fresh;
            };
            let (rank_dimension, scale) = match slot.name.ends_with("lora_b") {
                true => (1, scale),
                false => (0, 1.0),
            };
            let mut place = fresh.narrow(rank_dimension, 0, found.rank);
            place.copy_(&(tensor * scale)); // times 1 is to the bit
            fresh
        })
        .collect()
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
