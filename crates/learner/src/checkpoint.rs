//! Checkpoints: a Hugging Face folder with the training state in a folder of its own.
//!
//! `step_N/` holds what `transformers` loads; `step_N/training_state/` holds master weights and
//! moments as plain little-endian f32, `state.json`, and `manifest.json` with the size and SHA-256
//! of every other file of the checkpoint.

use crate::files::{self, Part, at, files_below};
use crate::flat::Layout;
use crate::learner::Learner;
use crate::open::Origin;
use crate::shards::{Kept, Stretch};
use crate::sync::Bucket;
use algo::advantage::RewardHistory;
use collective::{CollectiveError, Reduce};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor, no_grad};

const FOLDER: &str = "training_state";
const MANIFEST: &str = "training_state/manifest.json";
const STATE: &str = "training_state/state.json";
const FORMAT: u32 = 1;

const MASTER: &str = "master.f32";
const EXP_AVG: &str = "exp_avg.f32";
const EXP_AVG_SQ: &str = "exp_avg_sq.f32";

/// Elements that are moved between a tensor and a file at once. Few in tests, whose tensors are small.
const PIECE: i64 = if cfg!(test) { 100 } else { 1 << 20 };

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
    /// The model's files could not be written, or not read once more.
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
    /// Weights are of two steps: [`crate::StepError::Torn`].
    #[error(
        "new weights of other replicas did not come ({0}): there is nothing whole to save; open all \
         replicas anew from a checkpoint"
    )]
    Torn(CollectiveError),
    /// Another replica could not do its part in a checkpoint, and says why itself.
    #[error("another replica could not do its part in the checkpoint; see what it reports")]
    Replica,
    /// The replicas can no longer work together.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
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
    /// Replicas that keep shares of the optimizer's state (`shard_optimizer`) all have to call it.
    /// Rank 0 writes; the others send it what they keep, a few MB at a time, and get `None`. In every
    /// other case there is a folder.
    ///
    /// # Errors
    /// When it cannot be written; older checkpoints are as before then. Of replicas with shares, all
    /// get one when one does.
    pub fn save_checkpoint(&mut self, root: &Path) -> Result<Option<PathBuf>, CheckpointError> {
        self.refuse_torn().map_err(CheckpointError::Torn)?;
        self.settle()?;
        let writes = !self.is_sharded() || self.communicator.rank() == 0;
        let folder = root.join(format!("step_{}", self.step));
        let begun = match writes {
            true => self.begin(&folder).map(Some),
            false => Ok(None),
        };
        let part = self.agree_on(begun)?;
        self.write_tensors(part.as_ref())?;
        let saved = match part {
            Some(part) => self.finish(part, root).map(|()| Some(folder)),
            None => Ok(None),
        };
        self.agree_on(saved)
    }

    fn begin(&self, folder: &Path) -> Result<Part, CheckpointError> {
        let part = Part::begin(folder)?;
        self.save_model(part.path())?;
        let state = part.path().join(FOLDER);
        fs::create_dir(&state).map_err(at(&state))?;
        Ok(part)
    }

    fn finish(&self, part: Part, root: &Path) -> Result<(), CheckpointError> {
        write_json(&part.path().join(STATE), &self.state())?;
        write_json(&part.path().join(MANIFEST), &describe(part.path())?)?;
        part.finish()?;
        prune_checkpoints(root, self.config().keep_last, self.config().keep_every)
    }

    /// An error of one replica is one of all that write a checkpoint together.
    fn agree_on<T>(&mut self, local: Result<T, CheckpointError>) -> Result<T, CheckpointError> {
        if !self.is_sharded() {
            return local;
        }
        let mut failed = [f64::from(u8::from(local.is_err()))];
        self.communicator
            .all_reduce_numbers(&mut failed, Reduce::Max)?;
        match local {
            Ok(_) if failed[0] > 0.0 => Err(CheckpointError::Replica),
            local => local,
        }
    }

    /// Writes master weights and moments into `part`, where there is one, with what others keep.
    fn write_tensors(&mut self, part: Option<&Part>) -> Result<(), CheckpointError> {
        let (flat, moments) = (&self.flat, &self.optimizer);
        let is_shared = self.is_sharded();
        let tensors = [
            (MASTER, &flat.master, is_shared && !flat.computes_in_f32()),
            (EXP_AVG, &moments.exp_avg, is_shared),
            (EXP_AVG_SQ, &moments.exp_avg_sq, is_shared),
        ];
        for (name, tensor, is_shared) in tensors.map(|(n, t, s)| (n, t.shallow_clone(), s)) {
            let mut file = TensorFile::of(part.map(|part| part.path().join(FOLDER).join(name)));
            match is_shared {
                true => self.collect(&tensor, |piece| file.write(piece))?,
                false => tensor.split(PIECE, 0).iter().for_each(|p| file.write(p)),
            }
            self.agree_on(file.finish())?;
        }
        Ok(())
    }

    /// Hands a buffer of everything to `use_piece`, in order, of which each replica has what it keeps
    /// in `kept`. Every replica sees every piece, and holds one at a time.
    fn collect(
        &mut self,
        kept: &Tensor,
        mut use_piece: impl FnMut(&Tensor),
    ) -> Result<(), CollectiveError> {
        let (world, rank) = (self.communicator.world(), self.communicator.rank());
        let stretches = self.flat.kept.stretches();
        let mut parts: Vec<(&Bucket, &Stretch)> = self.buckets.iter().zip(stretches).collect();
        parts.sort_by_key(|(bucket, _)| bucket.start);
        let room = kept.new_zeros([PIECE], (kept.kind(), kept.device()));
        for (bucket, stretch) in parts {
            for owner in 0..world {
                let share = bucket.share(world, owner);
                for start in share.clone().step_by(PIECE as usize) {
                    let length = PIECE.min(share.end - start);
                    let mut piece = room.narrow(0, 0, length);
                    if owner == rank {
                        piece.copy_(&stretch.part(start, length).of_kept(kept));
                    }
                    self.communicator.broadcast(&piece, owner)?.wait()?;
                    use_piece(&piece);
                }
            }
        }
        Ok(())
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
        // What computes follows from the master weights, whoever will keep them.
        let all = Kept::all(self.flat.layout.total);
        let folder = folder.to_owned();
        read_tensor(&folder.join(FOLDER).join(MASTER), &all, &self.flat.compute)?;
        self.later = Some(Origin::Checkpoint(folder));
        self.step = state.step;
        self.bad_steps = state.bad_steps;
        self.reward_history = state.reward_history;
        self.optimizer.updates = state.updates;
        self.rng = state.rng;
        self.cursor = state.cursor;
        match self.config.shard_optimizer {
            true => Ok(()),
            false => self.settle(),
        }
    }

    /// Reads the state that is kept of a checkpoint.
    pub(crate) fn read_kept(&self, folder: &Path) -> Result<(), CheckpointError> {
        let (flat, moments) = (&self.flat, &self.optimizer);
        let state = folder.join(FOLDER);
        if !flat.computes_in_f32() {
            read_tensor(&state.join(MASTER), &flat.kept, &flat.master)?;
        }
        read_tensor(&state.join(EXP_AVG), &flat.kept, &moments.exp_avg)?;
        read_tensor(&state.join(EXP_AVG_SQ), &flat.kept, &moments.exp_avg_sq)
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

/// A file of f32 that is written piece by piece. After an error nothing more is written, and the
/// error comes at the end.
struct TensorFile {
    /// `None`: another replica has the file.
    path: Option<PathBuf>,
    file: Result<Option<File>, CheckpointError>,
}

impl TensorFile {
    fn of(path: Option<PathBuf>) -> Self {
        let create = |path: &PathBuf| File::create(path).map_err(at(path));
        Self {
            file: path.as_ref().map(create).transpose(),
            path,
        }
    }

    fn write(&mut self, piece: &Tensor) {
        let (Ok(Some(file)), Some(path)) = (&mut self.file, &self.path) else {
            return;
        };
        let values = Vec::<f32>::try_from(piece).expect("flat buffers are f32 in one dimension");
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        if let Err(error) = file.write_all(&bytes) {
            self.file = Err(at(path)(error));
        }
    }

    fn finish(self) -> Result<(), CheckpointError> {
        self.file.map(|_| ())
    }
}

/// Fills a buffer of what is `kept`, of any type, from a file of everything.
fn read_tensor(path: &Path, kept: &Kept, tensor: &Tensor) -> Result<(), CheckpointError> {
    let mut file = BufReader::new(File::open(path).map_err(at(path))?);
    for stretch in kept.stretches() {
        let first = stretch.start as u64 * Kind::Float.elt_size_in_bytes() as u64;
        file.seek(SeekFrom::Start(first)).map_err(at(path))?;
        for mut piece in stretch.of_kept(tensor).split(PIECE, 0) {
            let mut bytes = vec![0; piece.numel() * Kind::Float.elt_size_in_bytes()];
            file.read_exact(&mut bytes).map_err(at(path))?;
            let values: Vec<f32> = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of 4")))
                .collect();
            no_grad(|| piece.copy_(&Tensor::from_slice(&values)));
        }
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
