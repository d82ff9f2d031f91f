//! Names, locks and flushes in a store's folder.

use crate::error::{StoreError, io_error};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Kinds of numbered file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Log,
    Segment,
}

impl Kind {
    fn affixes(self) -> (&'static str, &'static str) {
        match self {
            Self::Log => ("log-", ".swl"),
            Self::Segment => ("segment-", ".parquet"),
        }
    }

    /// The file of this number. Numbers are padded so that names sort as numbers do.
    pub(crate) fn path(self, dir: &Path, number: u64) -> PathBuf {
        let (prefix, suffix) = self.affixes();
        dir.join(format!("{prefix}{number:08}{suffix}"))
    }

    fn number(self, name: &str) -> Option<u64> {
        let (prefix, suffix) = self.affixes();
        let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// Numbers of the files there are, in order.
    pub(crate) fn list(self, dir: &Path) -> Result<Vec<u64>, StoreError> {
        let names = names(dir)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| self.number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// What a segment is called while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("parquet.unfinished")
}

/// Removes what a crash left half written.
pub(crate) fn remove_unfinished(dir: &Path) -> Result<(), StoreError> {
    for name in names(dir)?
        .iter()
        .filter(|name| name.ends_with(".parquet.unfinished"))
    {
        remove(&dir.join(name))?;
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs::read_dir(dir).map_err(io_error("list", dir))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()
        .map_err(io_error("list", dir))
}

/// Makes the folder if it is missing, and makes its name durable.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes created, renamed and removed names of a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(io_error("flush the folder", dir))
}

pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(io_error("remove", path))
}

/// Takes the folder for this process; the lock ends with the file, at the latest with the process.
pub(crate) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}
