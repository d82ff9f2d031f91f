//! Folders that are there whole or not at all.

use crate::checkpoint::CheckpointError;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Adds the path to an I/O error.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError + '_ {
    move |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Lets `fill` make a folder under another name beside `folder`, brings it to disk, and then gives
/// it its name (LE-5). A folder that is there already is replaced.
pub(crate) fn write_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let part = Part::begin(folder)?;
    fill(part.path())?;
    part.finish()
}

/// A folder under way, under another name. It vanishes when it is dropped before it is finished.
#[derive(Debug)]
pub(crate) struct Part {
    folder: PathBuf,
    part: PathBuf,
}

impl Part {
    /// Clears the place beside `folder`; the folder itself is made by whoever fills it.
    pub(crate) fn begin(folder: &Path) -> Result<Self, CheckpointError> {
        let parent = parent(folder);
        let part = beside(folder, "part");
        fs::create_dir_all(parent).map_err(at(parent))?;
        for leftover in [&part, &beside(folder, "old")] {
            remove(leftover)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            part,
        })
    }

    /// Where it is filled.
    pub(crate) fn path(&self) -> &Path {
        &self.part
    }

    /// Brings it to disk and gives it its name. A folder that has it already is replaced.
    pub(crate) fn finish(self) -> Result<(), CheckpointError> {
        let folder = &self.folder;
        let old = beside(folder, "old");
        sync_all(&self.part)?;
        if folder.exists() {
            fs::rename(folder, &old).map_err(at(folder))?;
        }
        fs::rename(&self.part, folder).map_err(at(folder))?;
        sync(parent(folder))?;
        remove(&old)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = remove(&self.part); // what failed is the news, not what is left of it
    }
}

fn parent(folder: &Path) -> &Path {
    folder
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `.name.suffix` in the folder of `folder`; the leading dot keeps it from being taken for whole.
fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

/// Removes a folder if it is there.
pub(crate) fn remove(folder: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(folder)(error)),
        _ => Ok(()),
    }
}

/// Every file below `folder`, in a fixed order.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(at(folder))?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn sync_all(folder: &Path) -> Result<(), CheckpointError> {
    for file in files_below(folder)? {
        sync(&file)?;
        if let Some(parent) = file.parent() {
            sync(parent)?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), CheckpointError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(at(path))
}
