//! The folder of a run and what lies where in it.
//!
//! - **RF-1 (one process).** From [`Claim::on`] an existing run belongs to this process until it
//!   ends, by a lock on `lock`: nothing of a live run is deleted or written by another.
//! - **RF-2 (only runs are deleted).** A folder that holds something else is neither used nor
//!   cleaned.
//! - **RF-3 (the folder stays).** Cleaning empties a folder and never replaces it: it may be a mount
//!   point, the target of a link, or below a folder that cannot be written. Links inside it are
//!   removed, not followed.

use crate::usage::UsageError;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const STATE: &str = "state.json";
const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";

/// Where the process that works on a run takes requests.
pub const SOCKET: &str = "control.sock";

/// Ends the name of a file that is not complete yet.
const PARTIAL: &str = ".partial";

/// Begins the name of the folder inside a run folder that the old run is moved into.
const DELETED: &str = ".deleted-";

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
    if !is_there(path)? {
        return Ok(Occupant::Nothing);
    }
    let mut occupant = Occupant::Nothing;
    for name in names(path)? {
        let name = name.to_string_lossy();
        match &*name {
            CONFIG | STATE => return Ok(Occupant::Run),
            // Written before both.
            IDENTITY | LOCK | SOCKET => {}
            name if name.ends_with(PARTIAL) || name.starts_with(DELETED) => {}
            _ => occupant = Occupant::Foreign,
        }
    }
    Ok(occupant)
}

/// Whether the folder `path` exists, links followed.
///
/// # Errors
/// When something else lies there, or a link on the way leads nowhere: no folder can be made there.
pub fn is_there(path: &Path) -> Result<bool> {
    let place = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(UsageError::new(format!(
            "{place} is not a folder: choose another name or folder, or move it away"
        ))
        .into()),
        Err(error) if error.kind() == ErrorKind::NotFound => match dangling(path) {
            Some((link, target)) => Err(UsageError::new(format!(
                "{} is a link to {}, which does not exist: make that folder, or remove the link",
                link.display(),
                target.display()
            ))
            .into()),
            None => Ok(false),
        },
        Err(error) => Err(error).with_context(|| format!("cannot look at {place}")),
    }
}

/// The first link on the way to `path` that leads nowhere, and where it leads.
fn dangling(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut ways: Vec<&Path> = path.ancestors().collect();
    ways.reverse();
    let broken = ways
        .into_iter()
        .find(|way| way.is_symlink() && !way.exists())?;
    Some((broken.to_owned(), fs::read_link(broken).ok()?))
}

fn names(folder: &Path) -> Result<Vec<OsString>> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    });
    listed.with_context(|| format!("cannot list {}", folder.display()))
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

    /// Makes the folder, or empties it of the old run if that is to be deleted (RF-3).
    ///
    /// # Errors
    /// When the system refuses, or another process was faster.
    pub fn open(self) -> Result<RunFolder> {
        let lock = match (self.lock, self.reuse) {
            (Some(lock), Reuse::Resume) => lock,
            (Some(lock), _) => {
                empty(&self.path)?;
                lock
            }
            (None, _) => create(&self.path)?,
        };
        Ok(RunFolder {
            path: self.path,
            _lock: lock,
        })
    }
}

/// Empties a run folder of all but its lock. A crash in the middle leaves a run that begins with its
/// first phase, or what is taken for an empty folder: the state goes first, the configuration last,
/// and what takes long to delete has been moved aside before.
fn empty(folder: &Path) -> Result<()> {
    let failed = || format!("cannot delete what {} holds", folder.display());
    let aside = folder.join(format!("{DELETED}{}", std::process::id()));
    fs::create_dir_all(&aside).with_context(failed)?;
    let mut found = names(folder)?;
    let (leftovers, mut old): (Vec<_>, Vec<_>) = found
        .drain(..)
        .filter(|name| name != LOCK)
        .partition(|name| name.to_string_lossy().starts_with(DELETED));
    old.sort_by_key(|name| match name.to_str() {
        Some(STATE) => 0,
        Some(CONFIG) => 2,
        _ => 1,
    });
    for name in old {
        fs::rename(folder.join(&name), aside.join(&name)).with_context(failed)?;
    }
    for name in leftovers {
        fs::remove_dir_all(folder.join(name)).with_context(failed)?;
    }
    Ok(())
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
    let who = holder(path).map_or_else(String::new, |who| format!(" ({who})"));
    UsageError::new(format!(
        "{place} is in use by another process{who}: wait for it to end, stop it (swirl stop \
         {place}), or choose another run.name"
    ))
    .into()
}

/// The process that works on a run folder, in words: its number and its machine. None where nothing
/// does, or does not say so.
pub fn holder(folder: &Path) -> Option<String> {
    let path = folder.join(LOCK);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let said = fs::read_to_string(&path).ok()?;
    let said = said.trim();
    (!said.is_empty()).then(|| said.to_owned())
}

/// Notes whose a lock is, for [`holder`]. Nothing is decided by it.
fn sign(mut file: &File) {
    let host = sysinfo::System::host_name().unwrap_or_default();
    let text = format!("process {} on {host}\n", std::process::id());
    let _ = file
        .set_len(0)
        .and_then(|()| file.write_all(text.as_bytes()));
}

/// Takes the folder of a run.
fn lock(folder: &Path) -> Result<File> {
    try_lock(folder)?.ok_or_else(|| in_use(folder))
}

/// Takes a folder, unless another process has it; the lock ends with the file, at the latest with the
/// process.
///
/// # Errors
/// When the system refuses.
pub fn try_lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(LOCK);
    let failed = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {
            sign(&file);
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
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

/// The file with all that the results of a run depend on.
pub fn identity_of(run: &Path) -> PathBuf {
    run.join(IDENTITY)
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

    /// Removes what a process that was ended left half made among checkpoints and models.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn clear_leftovers(&self) -> Result<()> {
        let mut places = vec![self.path.join("models")];
        let checkpoints = self.path.join("checkpoints");
        if checkpoints.is_dir() {
            places.extend(names(&checkpoints)?.iter().map(|arm| checkpoints.join(arm)));
        }
        for place in places.iter().filter(|place| place.is_dir()) {
            actors::remote::clear_leftovers(place)
                .with_context(|| format!("cannot clear {}", place.display()))?;
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
    use std::os::unix::fs::{MetadataExt, symlink};

    fn holding(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        dir
    }

    #[test]
    fn what_lies_in_a_folder_decides_what_may_be_done_with_it() {
        let cases: [(&[&str], Reuse, Result<(), &str>); 10] = [
            (&[], Reuse::Never, Ok(())),
            (&["lock"], Reuse::Never, Ok(())),
            (&["lock", "control.sock"], Reuse::Never, Ok(())),
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
            let error = error.to_string();
            let own = format!(
                "in use by another process (process {} on ",
                std::process::id()
            );
            assert!(error.contains(&own), "{error}");
        }
        assert!(config_of(&path).exists());
        drop(live);
        assert_eq!(holder(&path), None);
        Claim::on(path, Reuse::Resume).unwrap();
    }

    /// A run with a sub-folder, a link out of it, and what an interrupted cleaning left.
    fn old_run(path: &Path, elsewhere: &Path) {
        fs::create_dir_all(path.join("models/m")).unwrap();
        fs::create_dir_all(path.join(".deleted-1/models")).unwrap();
        fs::write(state_of(path), "x").unwrap();
        fs::write(config_of(path), "x").unwrap();
        fs::create_dir_all(elsewhere).unwrap();
        fs::write(elsewhere.join("kept"), "x").unwrap();
        symlink(elsewhere, path.join("checkpoints")).unwrap();
    }

    fn listed(folder: &Path) -> Vec<OsString> {
        let mut found = names(folder).unwrap();
        found.sort();
        found
    }

    #[test]
    fn rf_3_cleaning_empties_the_folder_that_a_path_leads_to() {
        for (what, links) in [("plain", 0), ("a link", 1), ("a link to a link", 2)] {
            let home = tempfile::tempdir().unwrap();
            let at = |name: &str| home.path().join(name);
            old_run(&at("0"), &at("elsewhere"));
            let inode = fs::metadata(at("0")).unwrap().ino();
            for n in 0..links {
                symlink(n.to_string(), at(&(n + 1).to_string())).unwrap();
            }
            let path = at(&links.to_string());
            let beside = listed(home.path());
            let folder = Claim::on(path.clone(), Reuse::Clean)
                .unwrap()
                .open()
                .unwrap();
            folder.make_rooms().unwrap();
            assert_eq!(
                listed(folder.path()),
                ["checkpoints", "lock", "logs", "models"],
                "{what}"
            );
            assert_eq!(listed(&at("0")), listed(&path), "{what}");
            assert_eq!(fs::metadata(at("0")).unwrap().ino(), inode, "{what}");
            assert_eq!(listed(home.path()), beside, "{what}");
            assert_eq!(listed(&at("elsewhere")), ["kept"], "{what}");
            fs::write(config_of(&path), "x").unwrap();
            let error = Claim::on(at("0"), Reuse::Clean).unwrap_err();
            assert!(
                error.to_string().contains("in use by another process"),
                "{what}: {error}"
            );
        }
    }

    #[test]
    fn a_crash_while_cleaning_leaves_nothing_that_passes_for_finished_work() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        for (left, expected) in [
            (&["config.toml", "models", ".deleted-7"][..], Occupant::Run),
            (&["config.toml", ".deleted-7"], Occupant::Run),
            (&["lock", ".deleted-7"], Occupant::Nothing),
        ] {
            for name in left {
                fs::create_dir_all(path.join(name)).unwrap();
            }
            assert_eq!(occupant(&path).unwrap(), expected, "{left:?}");
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn a_path_that_cannot_become_a_folder_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        symlink("file", at("to a file")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("dangling", at("to a dangling one")).unwrap();
        let cases = [
            ("file", "is not a folder"),
            ("to a file", "is not a folder"),
            (
                "dangling",
                "dangling is a link to nowhere, which does not exist",
            ),
            (
                "to a dangling one",
                "is a link to dangling, which does not exist",
            ),
            (
                "dangling/run",
                "dangling is a link to nowhere, which does not exist",
            ),
        ];
        for (name, says) in cases {
            for reuse in [Reuse::Never, Reuse::Resume, Reuse::Clean] {
                let error = Claim::on(at(name), reuse).unwrap_err();
                assert!(error.to_string().contains(says), "{name}: {error:#}");
                assert_eq!(crate::usage::exit_code(&error), 2, "{name}");
            }
        }
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
        assert!(!at("nowhere").exists());
    }
}
