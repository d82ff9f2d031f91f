//! Folders that are there whole or not at all, whenever the process is ended.
//!
//! A folder is filled under another name beside its place, brought to disk, and renamed. One that has
//! its name already steps aside by a rename, for Linux cannot rename a folder over one with files in
//! it. What a process that was ended leaves behind is known by its name ([`clear_leftovers`]).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// In the name of a folder that is being filled: `.NAME.part-XXXXXX`.
const PARTIAL: &str = ".part-";

/// Ends the name of one that a learner of this process fills: `.NAME.part`.
const FILLED: &str = ".part";

/// Ends the name of a folder that another one is about to replace: `.NAME.old`.
const ASIDE: &str = ".old";

/// Mode of a folder that is whole; until then it is its process's alone.
const WHOLE: u32 = 0o755;

/// A folder to be filled, beside `folder`. It vanishes when it is dropped before it is whole.
pub(super) fn begin(folder: &Path) -> io::Result<TempDir> {
    let parent = parent(folder);
    fs::create_dir_all(parent)?;
    let name = name(folder)?;
    tempfile::Builder::new()
        .prefix(&format!(".{name}{PARTIAL}"))
        .tempdir_in(parent)
}

/// Gives a folder that was filled its name. One that has it is replaced, and stays where that fails.
/// The files in it are on disk already. Blocks.
pub(super) fn finish(partial: TempDir, folder: &Path) -> io::Result<()> {
    sync_folders(partial.path())?;
    fs::set_permissions(partial.path(), Permissions::from_mode(WHOLE))?;
    let aside = parent(folder).join(format!(".{}{ASIDE}", name(folder)?));
    remove(&aside)?;
    let is_there = folder.exists();
    if is_there {
        fs::rename(folder, &aside)?;
    }
    if let Err(error) = fs::rename(partial.path(), folder) {
        if is_there {
            fs::rename(&aside, folder)?;
        }
        return Err(error);
    }
    // It has another name now: nothing is left to vanish.
    let _ = partial.keep();
    sync(parent(folder))?;
    remove(&aside)
}

/// Clears what processes that were ended left in a folder of such folders: what was half filled goes,
/// and what stepped aside takes its place again where nothing came into it. Blocks.
///
/// # Errors
/// When the system refuses.
pub fn clear_leftovers(root: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(hidden) = name.strip_prefix('.') else {
            continue;
        };
        if hidden.contains(PARTIAL) || hidden.ends_with(FILLED) {
            tracing::info!(path = %path.display(), "What was half brought is removed.");
            remove(&path)?;
        } else if let Some(whole) = hidden.strip_suffix(ASIDE) {
            let whole = root.join(whole);
            match whole.exists() {
                true => remove(&path)?,
                false => fs::rename(&path, whole)?,
            }
        }
    }
    sync(root)
}

fn name(folder: &Path) -> io::Result<&str> {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| {
        let reason = format!("{} names no folder", folder.display());
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    })
}

fn parent(folder: &Path) -> &Path {
    let parent = folder.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a folder, and in those below it, last.
fn sync_folders(folder: &Path) -> io::Result<()> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        sync(&next)?;
    }
    Ok(())
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(folder: &Path, text: &str) -> TempDir {
        let partial = begin(folder).unwrap();
        fs::create_dir(partial.path().join("sub")).unwrap();
        fs::write(partial.path().join("sub/file"), text).unwrap();
        partial
    }

    fn holds(folder: &Path, text: &str) {
        assert_eq!(fs::read_to_string(folder.join("sub/file")).unwrap(), text);
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_replaced_by_renames_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("step_5");
        for text in ["1", "2"] {
            finish(filled(&folder, text), &folder).unwrap();
            holds(&folder, text);
            assert_eq!(names(dir.path()), ["step_5"]);
        }
        drop(filled(&folder, "half"));
        holds(&folder, "2");
        assert_eq!(names(dir.path()), ["step_5"]);
    }

    #[test]
    fn whenever_a_process_is_ended_a_whole_folder_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("step_5");
        let aside = dir.path().join(".step_5.old");
        finish(filled(&folder, "1"), &folder).unwrap();
        // While it is filled.
        let _ = filled(&folder, "half").keep();
        fs::create_dir(dir.path().join(".step_6.part")).unwrap();
        assert_eq!(names(dir.path()).len(), 3);
        clear_leftovers(dir.path()).unwrap();
        holds(&folder, "1");
        assert_eq!(names(dir.path()), ["step_5"]);
        // Between the two renames.
        let _ = filled(&folder, "2").keep();
        fs::rename(&folder, &aside).unwrap();
        clear_leftovers(dir.path()).unwrap();
        holds(&folder, "1");
        assert_eq!(names(dir.path()), ["step_5"]);
        // Before the old one is removed.
        fs::rename(&folder, &aside).unwrap();
        finish_without_clearing(filled(&folder, "3"), &folder);
        clear_leftovers(dir.path()).unwrap();
        holds(&folder, "3");
        assert_eq!(names(dir.path()), ["step_5"]);
        // What else lies there is nobody's business here.
        fs::write(dir.path().join(".mine"), "").unwrap();
        clear_leftovers(dir.path()).unwrap();
        clear_leftovers(&dir.path().join("none")).unwrap();
        assert_eq!(names(dir.path()), [".mine", "step_5"]);
    }

    fn finish_without_clearing(partial: TempDir, folder: &Path) {
        fs::rename(partial.keep(), folder).unwrap();
    }

    #[test]
    fn a_place_without_a_name_is_refused() {
        for place in ["/", ".."] {
            assert!(begin(Path::new(place)).is_err(), "{place}");
        }
    }
}
