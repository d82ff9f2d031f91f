//! Files that are either complete or not there.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Replaces `path` by `bytes`; whoever reads it sees the old or the new content, also after a
/// crash.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| Ok(file.write_all(bytes)?))
}

/// Replaces `path` by what `write` writes; where that fails, `path` stays as it was.
///
/// # Errors
/// What `write` returns, or that the folder cannot be written.
pub fn write_with<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T>,
) -> Result<T> {
    let temporary = partial(path);
    let written = replace(path, &temporary, write);
    if written.is_err() {
        // What is half written is of no use, and takes room where a full disk may be the cause.
        let _ = std::fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn replace<T>(
    path: &Path,
    temporary: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T>,
) -> Result<T> {
    let mut file = BufWriter::new(File::create(temporary)?);
    let value = write(&mut file)?;
    let file = file.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    File::open(folder_of(path))?.sync_all()?;
    Ok(value)
}

/// Removes all that a folder holds, and not the folder, which may be a link. Links inside are removed,
/// not followed. A folder that is not there holds nothing.
///
/// # Errors
/// When the system refuses.
pub fn empty_folder(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The folder that a file lies in; that of a bare name is the current one.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What a file is called while it is written.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_file() {
        let cases = [("q.jsonl", "."), ("a/q.jsonl", "a"), ("/q.jsonl", "/")];
        for (path, folder) in cases {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }

    #[test]
    fn a_folder_is_emptied_through_a_link_and_links_in_it_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["real/sub", "kept"] {
            std::fs::create_dir_all(at(folder)).unwrap();
            std::fs::write(at(folder).join("f"), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("kept"), at("real/out")).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        empty_folder(&at("link")).unwrap();
        assert!(at("link").is_symlink() && at("kept/f").exists());
        assert_eq!(std::fs::read_dir(at("real")).unwrap().count(), 0);
        empty_folder(&at("none")).unwrap();
    }

    #[test]
    fn what_fails_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"old").unwrap();
        let failed: Result<()> = write_with(&path, |file| {
            file.write_all(b"new")?;
            anyhow::bail!("no more")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("no more"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
