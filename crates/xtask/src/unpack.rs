//! Takes files out of wheels and tar archives with Python's readers, which provisioning needs for pip
//! anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

const SCRIPT: &str = include_str!("unpack.py");

/// The entry of `compare` that says "differs", in `unpack.py`.
const DIFFERS: i32 = 3;

/// Files wanted of one archive.
pub struct Selection<'a> {
    /// The wheel, or the tar archive.
    pub archive: PathBuf,
    /// Pairs of a name in it and one in the destination; a name that ends in `/` is a folder
    /// with all below it.
    pub files: &'a [(&'a str, &'a str)],
}

impl Selection<'_> {
    fn command(&self, mode: &str, destination: &Path) -> Command {
        let mut command = Command::new("python3");
        // -I: neither the user's environment nor the current folder changes what is imported.
        command
            .args(["-I", "-c", SCRIPT, mode])
            .arg(destination)
            .arg(&self.archive);
        command.args(self.files.iter().map(|(from, to)| format!("{from}={to}")));
        command
    }

    /// Writes the files below `destination`.
    ///
    /// # Errors
    /// When the archive lacks one of them or the disk is full.
    pub fn take(&self, destination: &Path) -> Result<()> {
        let name = self.archive.file_name().unwrap_or_default().display();
        println!("  unpacking {name}");
        process::run(
            &format!("unpacking {name}"),
            &mut self.command("take", destination),
        )
    }

    /// Whether all these files are below `folder` already, with the same contents.
    pub fn matches(&self, folder: &Path) -> Result<bool> {
        let mut command = self.command("compare", folder);
        let status = command
            .status()
            .with_context(|| process::cannot_start("comparing", &command))?;
        match status.code() {
            Some(0) => Ok(true),
            Some(DIFFERS) => Ok(false),
            _ => anyhow::bail!("comparing {} with its wheel failed", folder.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A wheel with an entry for a folder, as real ones have.
    fn wheel(dir: &Path) -> PathBuf {
        let path = dir.join("x.whl");
        let script = "import sys, zipfile\n\
            with zipfile.ZipFile(sys.argv[1], 'w') as z:\n\
            \x20   z.writestr('t/include/', '')\n\
            \x20   z.writestr('t/include/deep/', '')\n\
            \x20   z.writestr('t/include/deep/a.h', 'header')\n\
            \x20   z.writestr('t/lib/a.so', 'library')\n\
            \x20   z.writestr('t/lib/b.so', 'unwanted')\n";
        let mut python = Command::new("python3");
        process::run("wheel", python.args(["-c", script]).arg(&path)).unwrap();
        path
    }

    #[test]
    fn wanted_files_are_taken_and_recognised_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let wanted = Selection {
            archive: wheel(dir.path()),
            files: &[("t/include/", "include/"), ("t/lib/a.so", "lib/a.so")],
        };
        assert!(!wanted.matches(&out).unwrap(), "nothing is there yet");
        wanted.take(&out).unwrap();
        assert_eq!(
            fs::read_to_string(out.join("include/deep/a.h")).unwrap(),
            "header"
        );
        assert_eq!(fs::read_to_string(out.join("lib/a.so")).unwrap(), "library");
        assert!(!out.join("lib/b.so").exists());
        assert!(wanted.matches(&out).unwrap());

        fs::write(out.join("lib/a.so"), "LIBRARY").unwrap();
        assert!(!wanted.matches(&out).unwrap(), "same size, other content");
        fs::write(out.join("lib/a.so"), "library").unwrap();
        fs::remove_file(out.join("include/deep/a.h")).unwrap();
        assert!(!wanted.matches(&out).unwrap(), "a file is missing");
    }

    #[test]
    fn a_tar_archive_gives_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tgz");
        let script = "import io, sys, tarfile\n\
            with tarfile.open(sys.argv[1], 'w:gz') as t:\n\
            \x20   for name in ('package/models/a.json', 'package/models/b.json'):\n\
            \x20       entry = tarfile.TarInfo(name)\n\
            \x20       entry.size = 4\n\
            \x20       t.addfile(entry, io.BytesIO(b'json'))\n";
        let mut python = Command::new("python3");
        process::run("archive", python.args(["-c", script]).arg(&path)).unwrap();
        let out = dir.path().join("out");
        let wanted = Selection {
            archive: path,
            files: &[("package/models/a.json", "a.json")],
        };
        wanted.take(&out).unwrap();
        assert_eq!(fs::read_to_string(out.join("a.json")).unwrap(), "json");
        assert!(!out.join("b.json").exists());
    }

    #[test]
    fn a_file_that_the_archive_lacks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Selection {
            archive: wheel(dir.path()),
            files: &[("t/lib/none.so", "lib/none.so")],
        };
        assert!(wanted.take(&dir.path().join("out")).is_err());
    }
}
