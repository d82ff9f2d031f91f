//! The folder of a run and what lies where in it.

use crate::config::Loaded;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The run folder holds a run already.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} holds a run already: go on with --resume, start anew with --clean, or choose another run.name",
    .0.display()
)]
pub struct FolderInUse(pub PathBuf);

/// What to do with a folder that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Refuse.
    Never,
    /// Go on where it stopped.
    Resume,
    /// Delete it first.
    Clean,
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes or reopens the folder and writes the resolved configuration into it.
    ///
    /// # Errors
    /// When it exists and `reuse` forbids that, or cannot be written.
    pub fn open(loaded: &Loaded, reuse: Reuse) -> Result<Self> {
        let path = loaded.config.run.folder();
        let is_used = path.join("config.toml").exists();
        match reuse {
            Reuse::Never if is_used => return Err(FolderInUse(path).into()),
            Reuse::Clean if is_used => std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot delete {}", path.display()))?,
            _ => {}
        }
        let folder = Self(path);
        for sub in ["logs", "models", "checkpoints"] {
            let sub = folder.0.join(sub);
            std::fs::create_dir_all(&sub)
                .with_context(|| format!("cannot create {}", sub.display()))?;
        }
        let file = folder.0.join("config.toml");
        std::fs::write(&file, &loaded.resolved)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(folder)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Logs of the run, all its resumptions included.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Trajectories of stage 1.
    pub fn trajectories(&self) -> PathBuf {
        self.0.join("trajectories")
    }

    /// Training checkpoints of an arm, `step_N` each.
    pub fn checkpoints(&self, arm: &str) -> PathBuf {
        self.0.join("checkpoints").join(arm)
    }

    /// The finished model of an arm: a Hugging Face directory.
    pub fn model(&self, arm: &str) -> PathBuf {
        self.0.join("models").join(arm)
    }

    /// Trajectories of an evaluation.
    pub fn evaluation(&self, arm: &str, set: &str) -> PathBuf {
        self.0.join("evaluations").join(arm).join(set)
    }

    /// Which phases are done.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// What was kept by the filter.
    pub fn yields(&self) -> PathBuf {
        self.0.join("filter.json")
    }
}
