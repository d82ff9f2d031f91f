//! Why a checkpoint cannot be read.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a model folder cannot be loaded. Every message names the file and what to do.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The path is no folder: mistyped, or the model was never provisioned.
    #[error(
        "there is no model folder {}: give a folder with config.json, model.safetensors and tokenizer.json",
        .0.display()
    )]
    NoFolder(PathBuf),
    /// A file of the checkpoint is absent.
    #[error("{} is missing: {remedy}", path.display())]
    NoFile {
        /// The absent file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The operating system refused a read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no JSON, or JSON of another layout.
    #[error("{} is not the JSON it should be ({problem}): download or copy it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        problem: String,
    },
    /// The adapter is of a kind that cannot be used.
    #[error("{}: {problem}: make an adapter without it, or merge it into its model", path.display())]
    Adapter {
        /// `adapter_config.json`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The weights that a folder's adapters belong to.
    #[error(
        "{}: the adapters' base {} {problem}: set base_model_name_or_path in adapter_config.json to \
         the folder of the model they were trained on",
        dir.display(),
        base.display()
    )]
    Base {
        /// The folder with the adapters.
        dir: PathBuf,
        /// Where their base is said to be.
        base: PathBuf,
        /// The problem with it.
        problem: &'static str,
    },
    /// A required key is absent or of the wrong type.
    #[error("{}: `{key}` {problem}: this configuration describes no model that can be built", path.display())]
    Config {
        /// `config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration asks for something that the decoder does not compute.
    #[error("{}: `{key}` = {value} is not supported (supported: {supported}): choose another checkpoint", path.display())]
    Unsupported {
        /// `config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be understood.
        supported: &'static str,
    },
    /// Two places say different things, and programs differ in which of them they follow.
    #[error("{}: `{key}` {problem}: keep the one that is meant, remove the other", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The key or the tensor.
        key: String,
        /// The contradiction.
        problem: String,
    },
    /// The chat template cannot be read.
    #[error("{}: {problem}: mend the template, or put another into chat_template.jinja", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// The problem with it.
        problem: String,
    },
    /// The weights file is cut off or damaged.
    #[error("{} is damaged ({problem}): download or copy it again", path.display())]
    Damaged {
        /// The safetensors file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The configuration calls for a tensor that no weights file holds.
    #[error("{} lacks the tensor `{key}` that config.json calls for: the two belong to different models", path.display())]
    MissingTensor {
        /// The weights file or index.
        path: PathBuf,
        /// The tensor.
        key: String,
    },
    /// A weights file holds a tensor that the configuration has no place for.
    #[error("{} holds the tensor `{key}` that config.json has no place for: the two belong to different models, or it is an adapter to be merged first", path.display())]
    UnexpectedTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        key: String,
    },
    /// A tensor is of another shape than the configuration says.
    #[error("{}: the tensor `{key}` is {found:?} where config.json calls for {expected:?}: the two belong to different models", path.display())]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that fits.
        expected: Vec<i64>,
    },
    /// A tensor is neither `F32`, `F16` nor `BF16`.
    #[error("{}: the tensor `{key}` is of type {found}, not F32, F16 or BF16: choose an unquantised checkpoint", path.display())]
    ElementType {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its type.
        found: String,
    },
    /// libtorch failed, most often for lack of device memory.
    #[error("libtorch cannot hold the weights: {0}")]
    Torch(#[from] tch::TchError),
}

impl LoadError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn json(path: &Path, problem: impl ToString) -> Self {
        Self::Json {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// Reads a JSON file of a model folder; `remedy` is for when it is absent.
pub(crate) fn read_json(path: &Path, remedy: &'static str) -> Result<serde_json::Value, LoadError> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => LoadError::NoFile {
            path: path.to_owned(),
            remedy,
        },
        _ => LoadError::io(path, error),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| LoadError::json(path, error))
}

/// As [`read_json`], `None` where the file is absent.
pub(crate) fn read_json_if_there(path: &Path) -> Result<Option<serde_json::Value>, LoadError> {
    match read_json(path, "") {
        Ok(value) => Ok(Some(value)),
        Err(LoadError::NoFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
