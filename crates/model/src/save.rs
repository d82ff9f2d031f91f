//! Writing Hugging Face folders that `transformers` loads unchanged.
//!
//! - **SV-1 (whole or not at all).** A folder is written beside its place under another name,
//!   synced to disk, and renamed: under its own name it is never seen incomplete.

use crate::error::{LoadError, read_json};
use crate::shards::{dtype_of, host_bytes};
use crate::weights::Parameter;
use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use thiserror::Error;

/// The largest weights file, in bytes; what does not fit goes into another.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Files that are copied from the source folder as they are, where they exist.
const COPIED: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "NOTICE",
];

/// Why a model folder cannot be written.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The folder is there already; nothing is ever overwritten.
    #[error("{} exists already: remove it or choose another folder", .0.display())]
    Exists(PathBuf),
    /// The operating system refused; the disk is full, or the folder is not writable.
    #[error("cannot write {}: {source}; free space or choose another folder", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` of the source folder cannot be read.
    #[error("the folder that configuration and tokenizer are taken from is unfit: {0}")]
    Source(#[from] LoadError),
    /// Weights can be stored in bf16, f16 and f32 only.
    #[error("weights cannot be stored as {0:?}: choose BFloat16, Half or Float")]
    Kind(Kind),
}

/// Saves weights as a Hugging Face folder: `config.json` of `source` with the type adjusted, its
/// tokenizer, chat template and generation settings, and `model.safetensors` of type `kind` (with
/// an index where it exceeds 5 GB). Tied weights are stored once.
///
/// `parameters` are [`crate::Decoder::parameters`], or tensors of a learner under the same slots.
///
/// # Errors
/// `dir` exists, `source` has no readable `config.json`, or the disk is full. Nothing is left
/// behind (SV-1).
pub fn save(
    dir: &Path,
    parameters: &[Parameter],
    kind: Kind,
    source: &Path,
) -> Result<(), SaveError> {
    save_sharded(dir, parameters, kind, source, SHARD_BYTES)
}

pub(crate) fn save_sharded(
    dir: &Path,
    parameters: &[Parameter],
    kind: Kind,
    source: &Path,
    shard_bytes: u64,
) -> Result<(), SaveError> {
    let (_, dtype) = dtype_of(kind).ok_or(SaveError::Kind(kind))?;
    let config = read_json(
        &crate::adapted::config_of(source)?,
        "give the folder the model was loaded from",
    )?;
    let folder = Folder::begin(dir)?;
    folder.write_json("config.json", &with_dtype(&config, dtype))?;
    folder.copy_companions(source)?;
    let stored = parameters.iter().flat_map(|parameter| {
        parameter.slot.parts.iter().map(move |part| {
            Stored::new(
                part.key.clone(),
                parameter.tensor.narrow(0, part.start, part.rows),
                kind,
            )
        })
    });
    folder.write_shards(stored.collect(), kind, shard_bytes)?;
    folder.finish()
}

/// Newer configurations say `dtype`, older ones `torch_dtype`; both stay as they are called.
fn with_dtype(config: &Value, dtype: &str) -> Value {
    let mut config = crate::config::text_config(config);
    let key = if config.get("torch_dtype").is_some() {
        "torch_dtype"
    } else {
        "dtype"
    };
    config[key] = dtype.into();
    config
}

/// A tensor on its way into a file; converted only when its turn comes.
pub(crate) struct Stored {
    key: String,
    tensor: Tensor,
    kind: Kind,
    shape: Vec<usize>,
}

impl Stored {
    pub(crate) fn new(key: String, tensor: Tensor, kind: Kind) -> Self {
        let shape = tensor.size().into_iter().map(|n| n as usize).collect();
        Self {
            key,
            tensor,
            kind,
            shape,
        }
    }
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        dtype_of(self.kind)
            .expect("callers have checked the type")
            .0
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        host_bytes(&self.tensor, self.kind).into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.kind.elt_size_in_bytes()
    }
}

/// A folder under construction (SV-1). Dropped before [`Folder::finish`] it vanishes.
#[derive(Debug)]
pub(crate) struct Folder {
    partial: PathBuf,
    target: PathBuf,
}

impl Folder {
    /// Starts `target`, which must not exist.
    pub(crate) fn begin(target: &Path) -> Result<Self, SaveError> {
        if target.exists() {
            return Err(SaveError::Exists(target.to_owned()));
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = parent(target).join(format!(".{name}.{}.partial", std::process::id()));
        let folder = Self {
            partial,
            target: target.to_owned(),
        };
        // Left over from a process of the same id that was killed.
        let _ = std::fs::remove_dir_all(&folder.partial);
        std::fs::create_dir_all(&folder.partial).map_err(|error| io(&folder.partial, error))?;
        Ok(folder)
    }

    pub(crate) fn write_json(&self, name: &str, value: &Value) -> Result<(), SaveError> {
        let mut text =
            serde_json::to_string_pretty(value).expect("a JSON value is always writable");
        text.push('\n');
        let path = self.partial.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| io(&path, error))
    }

    /// Copies tokenizer, chat template and the like, as far as they are there.
    pub(crate) fn copy_companions(&self, source: &Path) -> Result<(), SaveError> {
        COPIED.iter().try_for_each(|name| self.copy(source, name))
    }

    pub(crate) fn copy(&self, source: &Path, name: &str) -> Result<(), SaveError> {
        let (from, to) = (source.join(name), self.partial.join(name));
        if !from.exists() {
            return Ok(());
        }
        let copy = || std::fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all());
        copy().map_err(|error| io(&to, error))
    }

    pub(crate) fn write_weights(&self, tensors: Vec<Stored>, kind: Kind) -> Result<(), SaveError> {
        self.write_shards(tensors, kind, SHARD_BYTES)
    }

    fn write_shards(&self, tensors: Vec<Stored>, kind: Kind, limit: u64) -> Result<(), SaveError> {
        dtype_of(kind).ok_or(SaveError::Kind(kind))?;
        let shards = distribute(tensors, limit);
        if let [only] = &shards[..] {
            return self.write_shard("model.safetensors", only);
        }
        let (mut places, mut total) = (BTreeMap::new(), 0);
        for (number, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            self.write_shard(&name, shard)?;
            for tensor in shard {
                places.insert(tensor.key.clone(), name.clone());
                total += tensor.data_len();
            }
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
        self.write_json("model.safetensors.index.json", &index)
    }

    pub(crate) fn write_shard(&self, name: &str, tensors: &[Stored]) -> Result<(), SaveError> {
        let path = self.partial.join(name);
        // `transformers` refuses files without it.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let views = tensors.iter().map(|tensor| (tensor.key.as_str(), tensor));
        safetensors::serialize_to_file(views, Some(metadata), &path)
            .map_err(|error| match error {
                safetensors::SafeTensorError::IoError(error) => error,
                other => std::io::Error::other(other),
            })
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(|error| io(&path, error))
    }

    /// Puts the folder in its place.
    pub(crate) fn finish(self) -> Result<(), SaveError> {
        let rename = || {
            File::open(&self.partial)?.sync_all()?;
            std::fs::rename(&self.partial, &self.target)?;
            File::open(parent(&self.target))?.sync_all()
        };
        rename().map_err(|error| io(&self.target, error))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // After finish() there is nothing under this name.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

fn io(path: &Path, source: std::io::Error) -> SaveError {
    SaveError::Io {
        path: path.to_owned(),
        source,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Tensors in order, as many to a shard as fit; a larger one gets a shard of its own.
fn distribute(tensors: Vec<Stored>, limit: u64) -> Vec<Vec<Stored>> {
    let (mut shards, mut size) = (vec![Vec::new()], 0);
    for tensor in tensors {
        let bytes = (&tensor).data_len() as u64;
        if size > 0 && size + bytes > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        shards.last_mut().expect("there is always one").push(tensor);
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn large_checkpoints_are_split_and_load_again() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gemma3_text");
        let decoder = crate::load(&source, Device::Cpu, Kind::Float).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("saved");
        save_sharded(&out, decoder.parameters(), Kind::Float, &source, 40_000).unwrap();

        let index = read_json(&out.join("model.safetensors.index.json"), "").unwrap();
        let names = index["weight_map"].as_object().unwrap();
        let files: std::collections::BTreeSet<_> =
            names.values().filter_map(Value::as_str).collect();
        assert!(files.len() > 2, "{files:?}");
        let parameters = decoder.spec().parameter_count() as u64;
        assert_eq!(index["metadata"]["total_size"], parameters * 4);
        for file in files {
            let size = std::fs::metadata(out.join(file)).unwrap().len();
            assert!(
                size < 40_000 + 4_000,
                "{file}: {size} bytes with its header"
            );
        }
        let again = crate::load(&out, Device::Cpu, Kind::Float).unwrap();
        for (a, b) in decoder.parameters().iter().zip(again.parameters()) {
            assert_eq!(a.tensor, b.tensor, "{}", a.slot.name);
        }
    }

    #[test]
    fn tensors_fill_shards_in_order() {
        let tensor = |n: i64| {
            Stored::new(
                n.to_string(),
                Tensor::zeros([n], (Kind::Float, Device::Cpu)),
                Kind::Float,
            )
        };
        let cases: [(&[i64], &[usize]); 5] = [
            (&[], &[0]),
            (&[10, 10], &[2]),
            (&[10, 16, 5], &[1, 1, 1]),
            (&[100, 1], &[1, 1]),
            (&[1, 100, 1], &[1, 1, 1]),
        ];
        for (sizes, expected) in cases {
            let shards = distribute(sizes.iter().map(|&n| tensor(n)).collect(), 80);
            let counts: Vec<usize> = shards.iter().map(Vec::len).collect();
            assert_eq!(counts, expected, "{sizes:?}");
        }
    }
}
