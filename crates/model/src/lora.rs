//! Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), in the layout of PEFT.
//!
//! A projection `y = W · x` becomes `y = W · x + (alpha / rank) · B · A · x`, with `A` of
//! `[rank, in]` and `B` of `[out, rank]`. `W` stays as it is; `B` starts at zero, so an adapted
//! decoder starts as the one it was.

use crate::adapter_config;
use crate::error::{LoadError, read_json};
use crate::save::{Folder, Stored};
use crate::shards::{Shards, dtype_of};
use crate::weights::{Parameter, Part, Slot};
use crate::{DecoderSpec, SaveError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use tch::{Kind, Tensor};

pub(crate) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A projection that can have an adapter, by its name in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Out of attention.
    OProj,
    /// The gate of the feed-forward layer.
    GateProj,
    /// Up into the feed-forward layer.
    UpProj,
    /// Down from it.
    DownProj,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Its name in checkpoints, such as `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The one of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    fn block(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// `(in, out)`.
    fn widths(self, spec: &DecoderSpec) -> (i64, i64) {
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        match self {
            Self::QProj => (hidden, queries),
            Self::KProj | Self::VProj => (hidden, keys),
            Self::OProj => (queries, hidden),
            Self::GateProj | Self::UpProj => (hidden, inner),
            Self::DownProj => (inner, hidden),
        }
    }
}

/// Which adapters a decoder has.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// Columns of `B` and rows of `A`; at least 1.
    pub rank: i64,
    /// Adapters are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The projections of every layer that have one, without repetition.
    pub targets: Vec<Projection>,
}

impl LoraSpec {
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Every adapter tensor of a decoder: by layer, by target in the order of
    /// [`Projection::ALL`], `A` before `B`. Names are like `layers.3.q_proj.lora_a`.
    pub fn slots(&self, spec: &DecoderSpec) -> Vec<Slot> {
        let mut slots = Vec::new();
        for layer in 0..spec.layers.len() {
            for target in self.ordered() {
                let (width, out) = target.widths(spec);
                let name = target.name();
                let key = format!("model.layers.{layer}.{}.{name}", target.block());
                for (role, shape) in [("A", [self.rank, width]), ("B", [out, self.rank])] {
                    slots.push(Slot {
                        name: format!("layers.{layer}.{name}.lora_{}", role.to_lowercase()),
                        shape: shape.to_vec(),
                        parts: vec![Part {
                            key: format!("base_model.model.{key}.lora_{role}.weight"),
                            start: 0,
                            rows: shape[0],
                        }],
                    });
                }
            }
        }
        slots
    }

    fn ordered(&self) -> impl Iterator<Item = Projection> {
        Projection::ALL
            .into_iter()
            .filter(|target| self.targets.contains(target))
    }
}

/// The two matrices of one projection.
#[derive(Debug)]
struct Pair {
    a: Tensor,
    b: Tensor,
}

/// The adapters of a decoder.
#[derive(Debug)]
pub(crate) struct Adapters {
    pub spec: LoraSpec,
    pub parameters: Vec<Parameter>,
    /// By layer, in the order of [`Projection::ALL`].
    layers: Vec<[Option<Pair>; 7]>,
}

impl Adapters {
    /// `tensors` follow [`LoraSpec::slots`].
    pub(crate) fn new(spec: LoraSpec, decoder: &DecoderSpec, tensors: Vec<Tensor>) -> Self {
        let parameters = Parameter::pair(spec.slots(decoder), tensors);
        let mut pairs = parameters.chunks_exact(2).map(|pair| Pair {
            a: pair[0].tensor.shallow_clone(),
            b: pair[1].tensor.shallow_clone(),
        });
        let mut of_layer = |_| {
            Projection::ALL.map(|target| {
                let is_target = spec.targets.contains(&target);
                is_target.then(|| pairs.next().expect("slots() lists it"))
            })
        };
        let layers = (0..decoder.layers.len()).map(&mut of_layer).collect();
        Self {
            spec,
            parameters,
            layers,
        }
    }

    /// What an adapter adds to its projection of `x` (`[.., in]`), `[.., out]`.
    pub(crate) fn delta(&self, layer: usize, target: Projection, x: &Tensor) -> Option<Tensor> {
        let pair = self.layers[layer][target as usize].as_ref()?;
        let low = x.linear(&pair.a, None::<&Tensor>) * self.spec.scale(); // [.., rank]
        Some(low.linear(&pair.b, None::<&Tensor>))
    }

    /// `parameter` with its adapters added, in f32; `None` if it has none.
    pub(crate) fn merged(&self, parameter: &Parameter) -> Option<Tensor> {
        let mut merged: Option<Tensor> = None;
        for part in &parameter.slot.parts {
            let Some(pair) = self.pair_of(&part.key) else {
                continue;
            };
            let merged = merged.get_or_insert_with(|| {
                let wide = parameter.tensor.to_kind(Kind::Float);
                wide.copy() // the weights themselves stay as they are
            });
            let [a, b] = [&pair.a, &pair.b].map(|t| t.to_kind(Kind::Float));
            let mut rows = merged.narrow(0, part.start, part.rows);
            rows += b.matmul(&a) * self.spec.scale();
        }
        merged
    }

    /// The adapter of the checkpoint tensor `key`, such as `model.layers.3.mlp.up_proj.weight`.
    fn pair_of(&self, key: &str) -> Option<&Pair> {
        let mut words = key.strip_prefix("model.layers.")?.split('.');
        let layer: usize = words.next()?.parse().ok()?;
        let target = Projection::of_name(words.nth(1)?)?;
        match words.next()? {
            "weight" => self.layers.get(layer)?[target as usize].as_ref(),
            _ => None, // a bias
        }
    }
}

/// Reads a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`. Tensors are f32.
///
/// # Errors
/// What is missing, damaged, or of a kind that adapters here do not have.
pub fn load_adapter(
    dir: &Path,
    decoder: &DecoderSpec,
) -> Result<(LoraSpec, Vec<Tensor>), LoadError> {
    let path = dir.join(CONFIG);
    let config = read_json(
        &path,
        "give the folder that `save_pretrained` of PEFT wrote",
    )?;
    let spec = adapter_config::spec_of(&config).map_err(|problem| LoadError::Adapter {
        path: path.clone(),
        problem,
    })?;
    let shards = Shards::open_file(&dir.join(WEIGHTS))?;
    let slots = spec.slots(decoder);
    if let Some(key) = shards
        .keys()
        .find(|key| !slots.iter().any(|slot| slot.parts[0].key == **key))
    {
        return Err(LoadError::UnexpectedTensor {
            path: shards.file_of(key).to_owned(),
            key: key.to_owned(),
        });
    }
    let tensors = slots.iter().map(|slot| {
        let found = shards.read(&slot.parts[0].key, &slot.shape)?;
        Ok(found.to_kind(Kind::Float))
    });
    Ok((spec, tensors.collect::<Result<_, LoadError>>()?))
}

/// Writes a PEFT folder that `peft` loads unchanged. `base` is what it says it belongs to.
///
/// # Errors
/// `dir` exists, or the disk is full; nothing is left behind then.
pub fn save_adapter(
    dir: &Path,
    spec: &LoraSpec,
    parameters: &[Parameter],
    kind: Kind,
    base: &Path,
) -> Result<(), SaveError> {
    let folder = Folder::begin(dir)?;
    write_adapter(&folder, spec, parameters, kind, base)?;
    folder.finish()
}

/// Puts the two files of PEFT into a folder under construction.
pub(crate) fn write_adapter(
    folder: &Folder,
    spec: &LoraSpec,
    parameters: &[Parameter],
    kind: Kind,
    base: &Path,
) -> Result<(), SaveError> {
    dtype_of(kind).ok_or(SaveError::Kind(kind))?;
    let targets: Vec<&str> = spec.ordered().map(Projection::name).collect();
    folder.write_json(
        CONFIG,
        &json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.display().to_string(),
            "r": spec.rank,
            "lora_alpha": spec.alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
        }),
    )?;
    let stored = parameters.iter().map(|parameter| {
        let key = parameter.slot.parts[0].key.clone();
        Stored::new(key, parameter.tensor.shallow_clone(), kind)
    });
    folder.write_shard(WEIGHTS, &stored.collect::<Vec<_>>())
}
