//! Where things lie: the checkout, the user's cache folder, and the links between them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folders that automation works on.
pub struct Paths {
    /// The checkout: the folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// What is downloaded or derived from downloads, shared by all checkouts of the user.
    pub cache: PathBuf,
}

impl Paths {
    /// The checkout this program was built from, and the user's cache folder.
    pub fn of_this_checkout() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("xtask lies in crates/xtask of the checkout")?;
        Ok(Self {
            root: root.to_path_buf(),
            cache: cache_dir(|name| std::env::var_os(name))?,
        })
    }

    /// Finished downloads.
    pub fn downloads(&self) -> PathBuf {
        self.cache.join("downloads")
    }

    /// A name under the checkout's `.deps`, which holds nothing but links into the cache.
    pub fn dep(&self, name: &str) -> PathBuf {
        self.root.join(".deps").join(name)
    }
}

/// `$SWIRL_CACHE`, else `$XDG_CACHE_HOME/swirl`, else `~/.cache/swirl`.
fn cache_dir(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let dir = if let Some(dir) = set("SWIRL_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = set("XDG_CACHE_HOME") {
        PathBuf::from(dir).join("swirl")
    } else if let Some(home) = set("HOME") {
        PathBuf::from(home).join(".cache/swirl")
    } else {
        bail!("HOME is not set: set SWIRL_CACHE to a folder for downloads (about 1.5 GB)");
    };
    if dir.is_relative() {
        bail!(
            "the cache folder {} is not an absolute path: mend SWIRL_CACHE or XDG_CACHE_HOME",
            dir.display()
        );
    }
    Ok(dir)
}

/// What [`link`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Link {
    /// It pointed to the target already.
    Kept,
    /// There was none.
    Made,
    /// It pointed to the folder given here.
    Moved(PathBuf),
}

/// Makes `at` a symbolic link to `target`, in one step when another link is there.
///
/// # Errors
/// When something that is not a link stands at `at`: it is never removed.
pub fn link(at: &Path, target: &Path) -> Result<Link> {
    let before = match fs::symlink_metadata(at) {
        Err(_) => Link::Made,
        Ok(meta) if !meta.file_type().is_symlink() => bail!(
            "{} is not a symbolic link: move it away, then run `cargo xtask setup` again",
            at.display()
        ),
        Ok(_) => match fs::read_link(at)? {
            old if old == target => return Ok(Link::Kept),
            old => Link::Moved(old),
        },
    };
    let folder = at.parent().context("a link lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let fresh = partial(at);
    symlink(target, &fresh).with_context(|| format!("cannot link {}", at.display()))?;
    fs::rename(&fresh, at).with_context(|| format!("cannot link {}", at.display()))?;
    Ok(before)
}

/// A name beside `path` for work in progress, of this process alone.
pub fn partial(path: &Path) -> PathBuf {
    beside(path, "partial")
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{what}-{}", std::process::id()));
    path.with_file_name(name)
}

/// Puts the finished folder `fresh` in the place of `at`, whatever was there before.
pub fn replace_folder(fresh: &Path, at: &Path) -> Result<()> {
    let old = beside(at, "old");
    let had_one = at.exists();
    if had_one {
        fs::rename(at, &old).with_context(|| format!("cannot move {} away", at.display()))?;
    }
    fs::rename(fresh, at).with_context(|| format!("cannot put {} in place", at.display()))?;
    if had_one {
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_the_first_variable_that_is_set() {
        let cases = [
            ("SWIRL_CACHE=/a XDG_CACHE_HOME=/b HOME=/c", Some("/a")),
            ("XDG_CACHE_HOME=/b HOME=/c", Some("/b/swirl")),
            ("HOME=/c", Some("/c/.cache/swirl")),
            ("SWIRL_CACHE= HOME=/c", Some("/c/.cache/swirl")),
            ("SWIRL_CACHE=relative", None),
            ("", None),
        ];
        for (variables, expected) in cases {
            let found = cache_dir(|name| {
                let mut pairs = variables.split(' ').filter_map(|pair| pair.split_once('='));
                pairs
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            });
            assert_eq!(
                found.ok().as_deref(),
                expected.map(Path::new),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn a_link_is_made_kept_and_repaired_and_never_replaces_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (at, one, two) = (
            dir.path().join("deps/x"),
            dir.path().join("one"),
            dir.path().join("two"),
        );
        assert_eq!(
            link(&at, &one).unwrap(),
            Link::Made,
            "the target need not exist yet"
        );
        assert_eq!(link(&at, &one).unwrap(), Link::Kept);
        assert_eq!(link(&at, &two).unwrap(), Link::Moved(one));
        assert_eq!(fs::read_link(&at).unwrap(), two);

        let folder = dir.path().join("deps/folder");
        fs::create_dir(&folder).unwrap();
        let error = link(&folder, &two).unwrap_err().to_string();
        assert!(error.contains("not a symbolic link"), "{error}");
        assert!(folder.is_dir());
    }

    #[test]
    fn a_finished_folder_replaces_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("libtorch-2.13.0-cpu");
        for content in ["first", "second"] {
            let fresh = partial(&at);
            fs::create_dir(&fresh).unwrap();
            fs::write(fresh.join("file"), content).unwrap();
            replace_folder(&fresh, &at).unwrap();
            assert_eq!(fs::read_to_string(at.join("file")).unwrap(), content);
        }
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }
}
