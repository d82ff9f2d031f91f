//! From a Hugging Face folder to a [`Decoder`].

use crate::adapted::{self, Opened};
use crate::error::LoadError;
use crate::lora::Adapters;
use crate::shards::Shards;
use crate::weights::Parameter;
use crate::{Decoder, DecoderSpec, Slot, slots, spec_of};
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Loads a Hugging Face folder: `config.json` and `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names. Weights are converted to `kind` one tensor at a time.
/// Adapters of a folder that holds adapters stay apart from their base ([`crate::base_of`]).
///
/// # Errors
/// Whatever is missing, damaged or not understood, in one sentence; see [`LoadError`].
pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<Decoder, LoadError> {
    let Opened { base, adapters } = adapted::open(dir)?;
    let mut decoder = load_base_with(&base, device, kind, |_, tensor| tensor)?;
    if let Some((lora, tensors)) = adapters {
        let computing = |tensor: Tensor| tensor.to_device(device).to_kind(kind);
        decoder.adapt(lora, tensors.into_iter().map(computing).collect());
    }
    Ok(decoder)
}

/// [`load`], with every parameter handed to `place` as soon as it is read: the decoder computes with
/// the tensor that comes back, of the same shape. So there is never a second copy of all weights.
/// Adapters of the folder are added in f32 before that.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    dir: &Path,
    device: Device,
    kind: Kind,
    mut place: impl FnMut(&Slot, Tensor) -> Tensor,
) -> Result<Decoder, LoadError> {
    let Opened { base, adapters } = adapted::open(dir)?;
    let Some((lora, tensors)) = adapters else {
        return load_base_with(&base, device, kind, place);
    };
    let tensors = tensors.into_iter().map(|t| t.to_device(device)).collect();
    let adapters = Adapters::new(lora, &spec_of(&base)?, tensors);
    load_base_with(&base, device, Kind::Float, |slot, tensor| {
        let parameter = Parameter {
            slot: slot.clone(),
            tensor,
        };
        let merged = tch::no_grad(|| adapters.merged(&parameter));
        let tensor = merged.unwrap_or(parameter.tensor);
        place(slot, tensor.to_kind(kind))
    })
}

/// [`load_with`] without the adapters: the weights in `dir` as they are.
///
/// # Errors
/// As [`load`].
pub fn load_base_with(
    dir: &Path,
    device: Device,
    kind: Kind,
    mut place: impl FnMut(&Slot, Tensor) -> Tensor,
) -> Result<Decoder, LoadError> {
    let spec = spec_of(dir)?;
    let shards = Shards::open(dir)?;
    let prefix = Prefix::of(&shards);
    let slots = slots(&spec);
    prefix.refuse_unexpected(&shards, &slots)?;
    prefix.refuse_another_head(&shards, &spec)?;
    crate::config::warn_of_dropout(dir)?;
    let tensors = slots
        .iter()
        .map(|slot| {
            let tensor = assemble(slot, &shards, &prefix, device, kind)?;
            Ok(place(slot, tensor))
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    tracing::info!(dir = %dir.display(), parameters = spec.parameter_count(), "loaded the model");
    Ok(Decoder::new(spec, tensors))
}

/// Memory that the weights take, in bytes; activations, caches and optimizers come on top.
pub fn estimate_bytes(spec: &DecoderSpec, kind: Kind) -> u64 {
    spec.parameter_count() as u64 * kind.elt_size_in_bytes() as u64
}

/// Fills one parameter from its parts.
fn assemble(
    slot: &Slot,
    shards: &Shards,
    prefix: &Prefix,
    device: Device,
    kind: Kind,
) -> Result<Tensor, LoadError> {
    let tensor = Tensor::f_empty(&slot.shape, (kind, device))?;
    for part in &slot.parts {
        let mut expected = slot.shape.clone();
        expected[0] = part.rows;
        let source = shards.read(&prefix.in_file(&part.key), &expected)?;
        tensor
            .f_narrow(0, part.start, part.rows)?
            .f_copy_(&source)?;
    }
    Ok(tensor)
}

/// How a file calls what is `model.…` here: multimodal checkpoints keep the language model apart.
struct Prefix(&'static str);

impl Prefix {
    fn of(shards: &Shards) -> Self {
        let known = ["language_model.model.", "model.language_model."];
        let found = known
            .into_iter()
            .find(|prefix| shards.keys().any(|key| key.starts_with(prefix)));
        Self(found.unwrap_or("model."))
    }

    fn in_file(&self, key: &str) -> String {
        match (key.strip_prefix("model."), self.0) {
            (Some(rest), prefix) => format!("{prefix}{rest}"),
            (None, "language_model.model.") => format!("language_model.{key}"),
            (None, _) => key.to_owned(),
        }
    }

    /// Where the output projection is the embedding, another one in the file is not to be ignored:
    /// transformers 4 computes with the embedding, 5 with the projection of the file.
    fn refuse_another_head(&self, shards: &Shards, spec: &DecoderSpec) -> Result<(), LoadError> {
        let head = self.in_file("lm_head.weight");
        if !spec.tied_embeddings || !shards.keys().any(|key| key == head) {
            return Ok(());
        }
        let shape = [spec.vocab_size, spec.hidden_size];
        let embedding = shards.read(&self.in_file("model.embed_tokens.weight"), &shape)?;
        let is_same =
            shards.read(&head, &shape)?.to_kind(Kind::Float) == embedding.to_kind(Kind::Float);
        match is_same {
            true => Ok(()),
            false => Err(LoadError::Contradiction {
                path: shards.file_of(&head).to_owned(),
                key: head,
                problem:
                    "differs from the embedding, but `tie_word_embeddings` of config.json is true \
                          (false computes with this tensor)"
                        .to_owned(),
            }),
        }
    }

    fn refuse_unexpected(&self, shards: &Shards, slots: &[Slot]) -> Result<(), LoadError> {
        let known: BTreeSet<String> = slots
            .iter()
            .flat_map(|slot| &slot.parts)
            .map(|part| self.in_file(&part.key))
            .collect();
        let multimodal = self.0 != "model.";
        // Some exporters store a tied output projection and the rotary frequencies as well.
        let harmless = |key: &str| {
            key.ends_with("lm_head.weight")
                || key.ends_with(".rotary_emb.inv_freq")
                || multimodal
                    && (key.contains("vision_tower.") || key.contains("multi_modal_projector."))
        };
        match shards
            .keys()
            .find(|key| !known.contains(*key) && !harmless(key))
        {
            Some(key) => Err(LoadError::UnexpectedTensor {
                path: shards.file_of(key).to_owned(),
                key: key.to_owned(),
            }),
            None => Ok(()),
        }
    }
}
