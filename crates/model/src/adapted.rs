//! A model as its base and adapters apart: what training of adapters leaves.
//!
//! A small update does not survive being added to weights in bf16, which have 8 significant bits: an
//! element of 0.05 moves in steps of 0.0002. So base and adapters stay apart until someone asks for
//! them merged.
//!
//! The folder is a PEFT folder (`adapter_config.json` names the base, `adapter_model.safetensors`)
//! with tokenizer and chat template beside it, and `update.json`, which says which base it was, to the
//! byte. It has no `config.json`: for `transformers` that is the mark of a whole model with adapters
//! in one folder, which is read here, too.

use crate::error::{LoadError, read_json_if_there};
use crate::lora::{self, Adapters, CONFIG, LoraSpec, load_adapter};
use crate::save::{Folder, SaveError, save};
use crate::weights::Parameter;
use crate::{Decoder, load};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Within an adapted model's folder: its base, where it is taken along.
pub const BASE_FOLDER: &str = "base";

const UPDATE: &str = "update.json";

/// A folder's record of the adapters in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// CRC-32 of the base's weight files, in the order of their names.
    pub base_crc32: u32,
    /// The share of the trained update that is left where the adapters compute in the type that they
    /// were trained in: what sampling, evaluation and later phases see. Absent where it was not
    /// measured.
    #[serde(default)]
    pub kept_share: Option<f64>,
    /// The share that would be left if they were merged into the weights in bf16.
    #[serde(default)]
    pub merged_bf16_share: Option<f64>,
}

/// Result of merging.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The base.
    pub base: PathBuf,
    /// The share of the adapters' update that the merged weights have, of which 1 is all.
    pub kept_share: f64,
}

/// The folder of the weights that `dir`'s adapters belong to; `None` where `dir` is a model by itself.
///
/// # Errors
/// The base is not where the adapters say, or has adapters itself.
pub fn base_of(dir: &Path) -> Result<Option<PathBuf>, LoadError> {
    let Some(config) = read_json_if_there(&dir.join(CONFIG))? else {
        return Ok(None);
    };
    let inside = dir.join(BASE_FOLDER);
    let is_model = |folder: &Path| folder.join("config.json").exists();
    if is_model(dir) {
        return Ok(Some(dir.to_owned())); // a whole model with adapters in one folder
    }
    let base = match is_model(&inside) {
        true => inside,
        false => {
            let named = config["base_model_name_or_path"].as_str();
            PathBuf::from(named.unwrap_or_default())
        }
    };
    let odd = |problem| LoadError::Base {
        dir: dir.to_owned(),
        base: base.clone(),
        problem,
    };
    if !is_model(&base) {
        return Err(odd("is no model folder here"));
    }
    if base.join(CONFIG).exists() {
        return Err(odd("has adapters itself; merge them first"));
    }
    Ok(Some(base))
}

/// Where the `config.json` of a model's folder is: with the base of its adapters, if it has none itself.
///
/// # Errors
/// As [`base_of`].
pub(crate) fn config_of(dir: &Path) -> Result<PathBuf, LoadError> {
    let own = dir.join("config.json");
    if own.exists() {
        return Ok(own);
    }
    Ok(base_of(dir)?.map_or(own, |base| base.join("config.json")))
}

/// The record in `dir` of its adapters; `None` where there is none.
///
/// # Errors
/// The file cannot be read.
pub fn update_of(dir: &Path) -> Result<Option<Update>, LoadError> {
    let Some(found) = read_json_if_there(&dir.join(UPDATE))? else {
        return Ok(None);
    };
    let update = serde_json::from_value(found);
    update
        .map(Some)
        .map_err(|error| LoadError::json(&dir.join(UPDATE), error))
}

/// CRC-32 of the weight files of a model's folder, in the order of their names; adapters are none.
///
/// # Errors
/// The folder or a file cannot be read.
pub fn weights_crc32(dir: &Path) -> Result<u32, LoadError> {
    let io = |error| LoadError::io(dir, error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = entry_name(&path);
        if name.ends_with(".safetensors") && !name.starts_with("adapter_") {
            files.push(path);
        }
    }
    files.sort();
    let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
    for path in &files {
        let io = |error| LoadError::io(path, error);
        let mut file = File::open(path).map_err(io)?;
        loop {
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                read => sum.update(&buffer[..read]),
            }
        }
    }
    Ok(sum.finalize())
}

fn entry_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A model folder, opened as what it is.
pub(crate) struct Opened {
    /// Where the weights are.
    pub base: PathBuf,
    /// The adapters that belong to them, f32, by [`LoraSpec::slots`].
    pub adapters: Option<(LoraSpec, Vec<Tensor>)>,
}

/// Finds base and adapters of `dir`.
///
/// # Errors
/// The base is missing or not the one that the adapters were trained on; the adapters cannot be used.
pub(crate) fn open(dir: &Path) -> Result<Opened, LoadError> {
    let Some(base) = base_of(dir)? else {
        return Ok(Opened {
            base: dir.to_owned(),
            adapters: None,
        });
    };
    if let Some(update) = update_of(dir)?
        && update.base_crc32 != weights_crc32(&base)?
    {
        return Err(LoadError::Base {
            dir: dir.to_owned(),
            base,
            problem: "has other weights than the adapters were trained on",
        });
    }
    let adapters = load_adapter(dir, &crate::spec_of(&base)?)?;
    Ok(Opened {
        base,
        adapters: Some(adapters),
    })
}

/// Writes a folder of adapters that [`crate::load`] takes for a model, and PEFT for its own. `base` is
/// where the weights are they belong to; the tokenizer comes from `source`.
///
/// # Errors
/// `dir` exists, or the disk is full; nothing is left behind then.
pub fn save_adapted(
    dir: &Path,
    spec: &LoraSpec,
    parameters: &[Parameter],
    base: &Path,
    update: &Update,
    source: &Path,
) -> Result<(), SaveError> {
    let folder = Folder::begin(dir)?;
    folder.copy_companions(source)?;
    lora::write_adapter(&folder, spec, parameters, Kind::Float, base)?;
    let update = serde_json::to_value(update).expect("numbers are JSON");
    folder.write_json(UPDATE, &update)?;
    folder.finish()
}

/// Merges the adapters of `dir` into their base, in f32, and saves the sum as `kind`.
///
/// # Errors
/// `dir` has no adapters, or its base is not to be had; or `out` cannot be written.
pub fn merge(dir: &Path, out: &Path, kind: Kind) -> Result<Merged, SaveError> {
    let Some(base) = base_of(dir)? else {
        return Err(LoadError::NoFile {
            path: dir.join(CONFIG),
            remedy: "there is nothing to merge; give a folder that training of adapters left",
        }
        .into());
    };
    let decoder = load(dir, Device::Cpu, Kind::Float)?;
    save(out, &decoder.merged_parameters(), kind, dir)?;
    Ok(Merged {
        base,
        kept_share: decoder.merged_share(kind),
    })
}

/// Share of an update that is left in another one: ⟨update, left⟩ / ⟨update, update⟩.
#[derive(Debug, Default)]
struct Share {
    left: f64,
    whole: f64,
}

impl Share {
    fn add(&mut self, update: &Tensor, left: &Tensor) {
        let product = |other: &Tensor| (update * other).sum(Kind::Double).double_value(&[]);
        self.left += product(left);
        self.whole += product(update);
    }

    /// 1 where there was no update to lose.
    fn value(&self) -> f64 {
        match self.whole > 0.0 {
            true => self.left / self.whole,
            false => 1.0,
        }
    }
}

impl Decoder {
    /// The share of the adapters' update that would be left of it if it were merged into the weights
    /// and these stored as `kind`; 1 without adapters.
    pub fn merged_share(&self, kind: Kind) -> f64 {
        let mut share = Share::default();
        tch::no_grad(|| {
            for (before, after) in self.parameters().iter().zip(self.merged_lazily()) {
                let Some(after) = after else { continue };
                let before = before.tensor.to_kind(Kind::Float);
                let stored = after.to_kind(kind).to_kind(Kind::Float);
                share.add(&(&after - &before), &(stored - before));
            }
        });
        share.value()
    }

    /// Every parameter with its adapters added, in f32, one at a time; `None` for those without.
    pub(crate) fn merged_lazily(&self) -> impl Iterator<Item = Option<Tensor>> {
        let adapters: Option<&Adapters> = self.adapters();
        let parameters = self.parameters().iter();
        parameters.map(move |parameter| adapters.and_then(|a| a.merged(parameter)))
    }
}

/// The share of the update of the adapters `exact` that is left in `seen`, the same adapters in another
/// type; both by [`LoraSpec::slots`].
pub fn adapters_share(exact: &[Tensor], seen: &[Tensor]) -> f64 {
    let wide = |t: &Tensor| t.to_device(Device::Cpu).to_kind(Kind::Double);
    let mut share = Share::default();
    tch::no_grad(|| {
        for (exact, seen) in exact.chunks_exact(2).zip(seen.chunks_exact(2)) {
            let [a, b] = [&exact[0], &exact[1]].map(wide);
            let [low_a, low_b] = [&seen[0], &seen[1]].map(wide);
            // ⟨B·A, b·a⟩ = ⟨Bᵀ·b, A·aᵀ⟩, of rank × rank.
            let product = |x: &Tensor, y: &Tensor| {
                let products = b.tr().matmul(y) * a.matmul(&x.tr());
                products.sum(Kind::Double).double_value(&[])
            };
            share.left += product(&low_a, &low_b);
            share.whole += product(&a, &b);
        }
    });
    share.value()
}
