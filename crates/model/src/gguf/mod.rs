//! Import of GGUF files (llama.cpp's format, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>)
//! into Hugging Face folders.
//!
//! Llama, Qwen2 and Qwen3, Gemma 2 and Gemma 3; vocabularies of byte-level BPE and of
//! SentencePiece's BPE.

mod byte_level;
mod header;
mod metadata;
mod sentence_piece;
mod tensors;
mod vocabulary;

use crate::config::spec_from_config;
use crate::error::LoadError;
use crate::save::{Folder, SaveError, Stored};
use crate::slots;
use candle_core::quantized::gguf_file::Content;
use metadata::Metadata;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use tch::Kind;
use thiserror::Error;

/// Why a GGUF file cannot be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file cannot be opened.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no GGUF file, is cut off, or is damaged.
    #[error("{} is no complete GGUF file ({problem}): download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The file holds a model, tokenizer or tensor that the import does not know.
    #[error("{}: `{key}` {problem}: import another file, or take the model's safetensors", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The metadata key or the tensor.
        key: String,
        /// What is wrong, and what would be supported.
        problem: String,
    },
    /// The folder that the tokenizer is to be taken from holds another one.
    #[error("{}: {problem}: give the folder of the model's own tokenizer", path.display())]
    OtherTokenizer {
        /// Its `tokenizer.json`.
        path: PathBuf,
        /// The difference.
        problem: String,
    },
    /// The metadata describe no model that can be built.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The folder cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
}

/// What an import has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// `general.name` of the file.
    pub name: String,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Tensors by the type they were stored in, such as `("Q4_1", 210)`.
    pub stored_as: Vec<(String, usize)>,
}

/// Settings of an import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The type of the weights: `BFloat16`, `Half` or `Float`.
    pub kind: Kind,
    /// A Hugging Face folder to take tokenizer and chat template from, in the place of those that
    /// follow from the file's vocabulary. Both must give the same texts the same ids.
    pub tokenizer: Option<PathBuf>,
}

impl Default for ImportOptions {
    /// bf16, what the models were trained in. Quantised values that bf16 cannot hold are rounded.
    fn default() -> Self {
        Self {
            kind: Kind::BFloat16,
            tokenizer: None,
        }
    }
}

/// Imports a GGUF file as a Hugging Face folder.
///
/// # Errors
/// See [`ImportError`]. `out` appears complete or not at all, and must not exist before.
pub fn import_gguf(
    gguf: &Path,
    out: &Path,
    options: &ImportOptions,
) -> Result<ImportReport, ImportError> {
    let kind = options.kind;
    let mut file = open(gguf)?;
    header::check(gguf, &mut file)?;
    let mut file = open(gguf)?;
    let content = Content::read(&mut file).map_err(|error| ImportError::Damaged {
        path: gguf.to_owned(),
        problem: first_line(&error),
    })?;
    let metadata = Metadata::new(gguf, &content);
    let tied = !content.tensor_infos.contains_key("output.weight");
    let config = metadata::config(&metadata, tied, kind)?;
    let spec = spec_from_config(gguf, &config)?;
    let slots = slots(&spec);
    tensors::check(gguf, &content, &slots, &spec)?;
    let folder = Folder::begin(out)?;
    folder.write_json("config.json", &config)?;
    vocabulary::write(&metadata, &folder, options.tokenizer.as_deref())?;
    let mut stored = Vec::new();
    for slot in &slots {
        for part in &slot.parts {
            let mut shape = slot.shape.clone();
            shape[0] = part.rows;
            let tensor = tensors::read(gguf, &content, &mut file, &part.key, &shape, &spec)?;
            stored.push(Stored::new(part.key.clone(), tensor.to_kind(kind), kind));
        }
    }
    folder.write_weights(stored, kind)?;
    folder.finish()?;
    Ok(ImportReport {
        name: metadata.text("general.name").unwrap_or_default(),
        architecture: spec.model_type.clone(),
        parameters: spec.parameter_count() as u64,
        vocab_size: spec.vocab_size as usize,
        stored_as: tensors::types(&content),
    })
}

fn open(path: &Path) -> Result<BufReader<File>, ImportError> {
    let file = File::open(path).map_err(|source| ImportError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(BufReader::new(file))
}

/// candle adds a back trace to its messages.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
