//! Checkpoints: a Hugging Face folder with the training state in a folder of its own.
//!
//! `step_N/` holds what `transformers` loads; `step_N/training_state/` holds master weights and
//! moments as plain little-endian f32, `state.json`, and `manifest.json` with the size and SHA-256
//! of every other file of the checkpoint.

use crate::files::{self, at, files_below, write_folder};
use crate::flat::Layout;
use crate::learner::Learner;
use algo::advantage::RewardHistory;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor, no_grad};

const FOLDER: &str = "training_state";
const MANIFEST: &str = "training_state/manifest.json";
const STATE: &str = "training_state/state.json";
const FORMAT: u32 = 1;

/// Elements that are moved between a tensor and a file at once.
const PIECE: i64 = 1 << 20;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused: no space, no permission, no such folder.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The model's files could not be written.
    #[error("{0}")]
    Model(Box<dyn std::error::Error + Send + Sync>),
    /// A file is not what it was when the checkpoint was written.
    #[error(
        "checkpoint {}: {problem}; remove the folder to go on from the one before it",
        .folder.display()
    )]
    Damaged {
        /// The checkpoint.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The checkpoint is whole, but of a run with another setting.
    #[error("checkpoint {}: {problem}", .folder.display())]
    Mismatch {
        /// The checkpoint.
        folder: PathBuf,
        /// What differs, and what to do.
        problem: String,
    },
}

/// What a checkpoint keeps besides tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    step: u64,
    updates: u64,
    bad_steps: u32,
    #[serde(default)] // checkpoints of before there was a running baseline
    reward_history: RewardHistory,
    #[serde(default)] // and before there were adapters
    lora: Option<LoraState>,
    threads: i32,
    layout: Layout,
    rng: ChaCha8Rng,
    cursor: Vec<u8>,
}

/// What adapters are good for nothing without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LoraState {
    alpha: f64,
    /// CRC-32 of the weights they were trained on, in the compute type.
    base: u32,
}

/// One file of a checkpoint.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

type Manifest = BTreeMap<String, FileRecord>;

impl Learner {
    /// Writes `root/step_N` for the current step N, removes all but the newest `keep_last`
    /// checkpoints and those of every `keep_every`th step below `root`, and returns the folder.
    ///
    /// # Errors
    /// When it cannot be written; older checkpoints are as before then.
    pub fn save_checkpoint(&self, root: &Path) -> Result<PathBuf, CheckpointError> {
        let folder = root.join(format!("step_{}", self.step));
        write_folder(&folder, |part| {
            self.save_model(part)?;
            let state = part.join(FOLDER);
            fs::create_dir(&state).map_err(at(&state))?;
            for (name, tensor) in self.tensors() {
                write_tensor(&state.join(name), tensor)?;
            }
            write_json(&part.join(STATE), &self.state())?;
            write_json(&part.join(MANIFEST), &describe(part)?)
        })?;
        prune_checkpoints(root, self.config().keep_last, self.config().keep_every)?;
        Ok(folder)
    }

    fn tensors(&self) -> [(&'static str, &Tensor); 3] {
        [
            ("master.f32", &self.flat.master),
            ("exp_avg.f32", &self.optimizer.exp_avg),
            ("exp_avg_sq.f32", &self.optimizer.exp_avg_sq),
        ]
    }

    fn state(&self) -> State {
        State {
            format: FORMAT,
            step: self.step,
            updates: self.optimizer.updates,
            bad_steps: self.bad_steps,
            reward_history: self.reward_history,
            lora: self.lora_state(),
            threads: tch::get_num_threads(),
            layout: self.flat.layout.clone(),
            rng: self.rng.clone(),
            cursor: self.cursor.clone(),
        }
    }

    fn lora_state(&self) -> Option<LoraState> {
        let decoder = self.decoder();
        Some(LoraState {
            alpha: decoder.lora()?.alpha,
            base: model::checksum(decoder.parameters(), decoder.kind()),
        })
    }

    /// Takes over the training state of a checkpoint that [`verify`] has passed.
    pub(crate) fn restore(&mut self, folder: &Path) -> Result<(), CheckpointError> {
        let state: State = read_json(folder, STATE)?;
        self.check_fits(folder, &state)?;
        for (name, tensor) in self.tensors() {
            read_tensor(&folder.join(FOLDER).join(name), tensor)?;
        }
        self.flat.refresh();
        self.step = state.step;
        self.bad_steps = state.bad_steps;
        self.reward_history = state.reward_history;
        self.optimizer.updates = state.updates;
        self.rng = state.rng;
        self.cursor = state.cursor;
        Ok(())
    }

    fn check_fits(&self, folder: &Path, state: &State) -> Result<(), CheckpointError> {
        let threads = tch::get_num_threads();
        let problem = if state.format != FORMAT {
            format!(
                "its format is {}, this program reads {FORMAT}",
                state.format
            )
        } else if state.layout != self.flat.layout {
            "it trains other parameters; resume with the model, learner.freeze and learner.lora it \
             began with"
                .into()
        } else if state.lora != self.lora_state() {
            "its adapters belong to other weights, another compute type or another alpha; resume \
             with the start model, learner.dtype and learner.lora it began with"
                .into()
        } else if self.config().deterministic && state.threads != threads {
            let before = state.threads;
            format!(
                "it was made with {before} threads and this run has {threads}, which changes sums; \
                 use {before} or turn learner.deterministic off"
            )
        } else {
            return Ok(());
        };
        Err(CheckpointError::Mismatch {
            folder: folder.to_owned(),
            problem,
        })
    }
}

/// The checkpoint with the most steps below `root`; `None` if there is none.
///
/// # Errors
/// When `root` exists and cannot be read.
pub fn newest_checkpoint(root: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    Ok(checkpoints(root)?.pop().map(|(_, folder)| folder))
}

/// Checkpoints below `root` by step. A folder has its name only when it is complete.
fn checkpoints(root: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(root).map_err(at(root))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(root))?;
        let name = entry.file_name();
        if let Some(step) = name
            .to_str()
            .and_then(|n| n.strip_prefix("step_")?.parse().ok())
        {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep_last`, and those whose step is a multiple of `keep_every`.
///
/// # Errors
/// When the folder cannot be read, or a checkpoint not removed.
pub fn prune_checkpoints(
    root: &Path,
    keep_last: usize,
    keep_every: u64,
) -> Result<(), CheckpointError> {
    let mut found = checkpoints(root)?;
    found.truncate(found.len().saturating_sub(keep_last));
    found
        .iter()
        .filter(|(step, _)| keep_every == 0 || !step.is_multiple_of(keep_every))
        .try_for_each(|(_, folder)| files::remove(folder))
}

/// Checks every file of a checkpoint against its manifest.
pub(crate) fn verify(folder: &Path) -> Result<(), CheckpointError> {
    let damaged = |problem| {
        Err(CheckpointError::Damaged {
            folder: folder.to_owned(),
            problem,
        })
    };
    let manifest: Manifest = read_json(folder, MANIFEST)?;
    for (name, expected) in &manifest {
        let path = folder.join(name);
        if !path.exists() {
            return damaged(format!("{name} is missing"));
        }
        let found = record(&path)?;
        if found.bytes != expected.bytes {
            return damaged(format!(
                "{name} has {} bytes instead of {}",
                found.bytes, expected.bytes
            ));
        }
        if found != *expected {
            return damaged(format!("{name} does not match its SHA-256"));
        }
    }
    Ok(())
}

fn describe(folder: &Path) -> Result<Manifest, CheckpointError> {
    let mut manifest = Manifest::new();
    for path in files_below(folder)? {
        let name = path
            .strip_prefix(folder)
            .expect("it lies below")
            .to_string_lossy()
            .into_owned();
        manifest.insert(name, record(&path)?);
    }
    Ok(manifest)
}

fn record(path: &Path) -> Result<FileRecord, CheckpointError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut hash = Sha256::new();
    let bytes = std::io::copy(&mut file, &mut hash).map_err(at(path))?;
    let sha256 = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(FileRecord { bytes, sha256 })
}

fn write_tensor(path: &Path, tensor: &Tensor) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(at(path))?;
    let mut bytes = Vec::new();
    for piece in tensor.split(PIECE, 0) {
        let values = Vec::<f32>::try_from(&piece).expect("flat buffers are f32 in one dimension");
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes).map_err(at(path))?;
    }
    Ok(())
}

fn read_tensor(path: &Path, tensor: &Tensor) -> Result<(), CheckpointError> {
    let mut file = BufReader::new(File::open(path).map_err(at(path))?);
    for mut piece in tensor.split(PIECE, 0) {
        let mut bytes = vec![0; piece.numel() * Kind::Float.elt_size_in_bytes()];
        file.read_exact(&mut bytes).map_err(at(path))?;
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of 4")))
            .collect();
        no_grad(|| piece.copy_(&Tensor::from_slice(&values)));
    }
    Ok(())
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CheckpointError> {
    let text = serde_json::to_vec_pretty(value).expect("plain records with text keys");
    fs::write(path, text).map_err(at(path))
}

fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T, CheckpointError> {
    let path = folder.join(name);
    let text = fs::read(&path).map_err(at(&path))?;
    serde_json::from_slice(&text).map_err(|error| CheckpointError::Damaged {
        folder: folder.to_owned(),
        problem: format!("{name}: {error}"),
    })
}
