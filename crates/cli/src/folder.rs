//! The folder of a run and what lies where in it.
//!
//! - **RF-1 (one process).** From [`Claim::on`] an existing run belongs to this process until it
//!   ends, by a lock on `lock`: nothing of a live run is deleted or written by another.
//! - **RF-2 (only runs are deleted).** A folder that holds something else is neither used nor
//!   cleaned.

use crate::usage::UsageError;
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const STATE: &str = "state.json";
const LOCK: &str = "lock";

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

/// What lies where a run is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occupant {
    /// Nothing, or what is left of a start that wrote nothing.
    Nothing,
    Run,
    Foreign,
}

fn occupant(path: &Path) -> Result<Occupant> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Occupant::Nothing),
        entries => entries.with_context(|| format!("cannot list {}", path.display()))?,
    };
    let mut occupant = Occupant::Nothing;
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        match &*name {
            CONFIG | STATE => return Ok(Occupant::Run),
            LOCK => {}
            name if name.ends_with(".partial") => {}
            _ => occupant = Occupant::Foreign,
        }
    }
    Ok(occupant)
}

/// The right to use a run folder; an existing run is locked, a new folder is not yet made.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// Of the run that is there already.
    lock: Option<File>,
    reuse: Reuse,
}

impl Claim {
    /// Claims `path` for this process; nothing that is there changes.
    ///
    /// # Errors
    /// When `reuse` forbids what is there, or another process uses it.
    pub fn on(path: PathBuf, reuse: Reuse) -> Result<Self> {
        let place = path.display();
        let lock = match (occupant(&path)?, reuse) {
            (Occupant::Nothing, _) => None,
            (Occupant::Foreign, _) => {
                return Err(UsageError::new(format!(
                    "{place} holds files that are not those of a run: choose another run.name or \
                     run.dir, or move them away"
                ))
                .into());
            }
            (Occupant::Run, Reuse::Never) => {
                return Err(UsageError::new(format!(
                    "{place} holds a run already: go on with --resume, start anew with --clean, or \
                     choose another run.name"
                ))
                .into());
            }
            (Occupant::Run, Reuse::Resume | Reuse::Clean) => Some(lock(&path)?),
        };
        Ok(Self { path, lock, reuse })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a run lies there that is to be continued.
    pub fn resumes(&self) -> bool {
        self.lock.is_some() && self.reuse == Reuse::Resume
    }

    /// Makes the folder, without the old run if that is to be deleted.
    ///
    /// # Errors
    /// When the system refuses, or another process was faster.
    pub fn open(self) -> Result<RunFolder> {
        let lock = match (self.lock, self.reuse) {
            (Some(lock), Reuse::Resume) => lock,
            (Some(old), _) => {
                let new = replace(&self.path)?;
                drop(old);
                new
            }
            (None, _) => create(&self.path)?,
        };
        Ok(RunFolder {
            path: self.path,
            _lock: lock,
        })
    }
}

/// Puts an empty, locked folder in the place of an old run. The run is moved aside first: a crash
/// in the middle of deleting leaves no half of it to resume.
fn replace(path: &Path) -> Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.deleted-{}", std::process::id()));
    let failed = || format!("cannot delete {}", path.display());
    fs::rename(path, &aside).with_context(failed)?;
    let lock = create(path)?;
    fs::remove_dir_all(&aside).with_context(failed)?;
    Ok(lock)
}

fn create(path: &Path) -> Result<File> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    let lock = lock(path)?;
    // Another process may have come and gone since this one looked.
    match occupant(path)? {
        Occupant::Nothing => Ok(lock),
        _ => Err(in_use(path)),
    }
}

fn in_use(path: &Path) -> anyhow::Error {
    let place = path.display();
    UsageError::new(format!(
        "{place} is in use by another process: wait for it to end, stop it, or choose another \
         run.name"
    ))
    .into()
}

/// Takes the folder; the lock ends with the file, at the latest with the process.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let failed = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(folder)),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

/// Where the configuration of a run lies.
pub fn config_of(run: &Path) -> PathBuf {
    run.join(CONFIG)
}

/// Where it is written which phases of a run are done.
pub fn state_of(run: &Path) -> PathBuf {
    run.join(STATE)
}

/// The folder of a run, for as long as this process works on it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folders that a run fills. Before this, the folder holds nothing but what says whose
    /// it is.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn make_rooms(&self) -> Result<()> {
        for sub in ["logs", "models", "checkpoints"] {
            let sub = self.path.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot create {}", sub.display()))?;
        }
        Ok(())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Logs of the run, all its resumptions included.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Trajectories of stage 1.
    pub fn trajectories(&self) -> PathBuf {
        self.path.join("trajectories")
    }

    /// Training checkpoints of an arm, `step_N` each.
    pub fn checkpoints(&self, arm: &str) -> PathBuf {
        self.path.join("checkpoints").join(arm)
    }

    /// The finished model of an arm: a Hugging Face directory.
    pub fn model(&self, arm: &str) -> PathBuf {
        self.path.join("models").join(arm)
    }

    /// Trajectories of an evaluation.
    pub fn evaluation(&self, arm: &str, set: &str) -> PathBuf {
        self.path.join("evaluations").join(arm).join(set)
    }

    /// What was kept by the filter.
    pub fn yields(&self) -> PathBuf {
        self.path.join("filter.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        dir
    }

    #[test]
    fn what_lies_in_a_folder_decides_what_may_be_done_with_it() {
        let cases: [(&[&str], Reuse, Result<(), &str>); 9] = [
            (&[], Reuse::Never, Ok(())),
            (&["lock"], Reuse::Never, Ok(())),
            (&["lock", "config.toml.partial"], Reuse::Resume, Ok(())),
            (&["config.toml"], Reuse::Never, Err("holds a run already")),
            (&["state.json"], Reuse::Never, Err("holds a run already")),
            (&["config.toml", "a"], Reuse::Resume, Ok(())),
            (&["config.toml", "a"], Reuse::Clean, Ok(())),
            (&["thesis.tex"], Reuse::Clean, Err("not those of a run")),
            (&["thesis.tex"], Reuse::Never, Err("not those of a run")),
        ];
        for (files, reuse, expected) in cases {
            let dir = holding(files);
            let claimed = Claim::on(dir.path().to_owned(), reuse).map(|_| ());
            match (claimed, expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(says)) if error.to_string().contains(says) => {
                    assert_eq!(crate::usage::exit_code(&error), 2);
                }
                (claimed, _) => panic!("{files:?} {reuse:?}: {claimed:?}"),
            }
        }
    }

    #[test]
    fn rf_1_a_live_run_is_neither_resumed_nor_cleaned() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let live = Claim::on(path.clone(), Reuse::Never)
            .unwrap()
            .open()
            .unwrap();
        fs::write(config_of(&path), "x").unwrap();
        for reuse in [Reuse::Resume, Reuse::Clean] {
            let error = Claim::on(path.clone(), reuse).unwrap_err();
            assert!(error.to_string().contains("in use by another process"));
        }
        assert!(config_of(&path).exists());
        drop(live);
        Claim::on(path, Reuse::Resume).unwrap();
    }

    #[test]
    fn cleaning_leaves_an_empty_folder_and_nothing_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        fs::create_dir_all(path.join("models")).unwrap();
        fs::write(state_of(&path), "x").unwrap();
        let folder = Claim::on(path.clone(), Reuse::Clean)
            .unwrap()
            .open()
            .unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["lock"]);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
