//! The stamp of a finished folder: what it was made from, and the files that prove it whole.
//!
//! - **ST-1 (last).** A stamp is written when everything else is in place, so that a folder without
//!   a valid one is unfinished work and is made anew.
//! - **ST-2 (cheap).** Checking reads a few sizes, never the contents: contents were checked by
//!   hash before the stamp was written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const NAME: &str = ".swirl-stamp";

/// The text of a stamp: the recipe, then one line per file with its size in bytes.
fn text(recipe: &str, folder: &Path, files: &[&str]) -> Result<String> {
    let mut text = format!("{recipe}\n");
    for file in files {
        let size_bytes = fs::metadata(folder.join(file))
            .with_context(|| format!("{} lacks {file}", folder.display()))?
            .len();
        text += &format!("{size_bytes} {file}\n");
    }
    Ok(text)
}

/// Writes the stamp of a folder that is whole now.
///
/// # Errors
/// When one of `files` is missing.
pub fn write(recipe: &str, folder: &Path, files: &[&str]) -> Result<()> {
    let path = folder.join(NAME);
    fs::write(&path, text(recipe, folder, files)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Whether the folder was made from this recipe and its files are still there.
pub fn is_valid(recipe: &str, folder: &Path, files: &[&str]) -> bool {
    let written = fs::read_to_string(folder.join(NAME));
    let now = text(recipe, folder, files);
    matches!((written, now), (Ok(written), Ok(now)) if written == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn st_1_a_folder_counts_as_whole_only_with_its_own_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert!(
            write("v1", folder, &["a"]).is_err(),
            "a missing file cannot be stamped"
        );
        fs::write(folder.join("a"), "12345").unwrap();
        assert!(!is_valid("v1", folder, &["a"]), "no stamp yet");

        write("v1", folder, &["a"]).unwrap();
        assert!(is_valid("v1", folder, &["a"]));
        assert!(!is_valid("v2", folder, &["a"]), "another recipe");
        fs::write(folder.join("a"), "1234").unwrap();
        assert!(!is_valid("v1", folder, &["a"]), "cut short");
        fs::remove_file(folder.join("a")).unwrap();
        assert!(!is_valid("v1", folder, &["a"]), "removed");
    }
}
