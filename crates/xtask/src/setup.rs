//! Provisions what the project needs beyond Rust: libtorch, then the model.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::libtorch::{self, Device};
use crate::model::Known;
use crate::paths::Paths;
use crate::swirl::{self, Build};
use crate::{model, nccl, process};

/// Everything, for plain `cargo build` and `cargo test` afterwards.
pub fn run(paths: &Paths, device: Option<Device>) -> Result<()> {
    let start = std::time::Instant::now();
    libtorch(paths, device)?;
    model(paths, Known::Smollm2, Build::Dev)?;
    println!("setup is complete ({})", process::human(start.elapsed()));
    Ok(())
}

/// libtorch alone: what a build needs.
pub fn libtorch(paths: &Paths, device: Option<Device>) -> Result<()> {
    let _lock = lock(&paths.cache)?;
    libtorch::ensure(paths, device)
}

/// NCCL, for the tests that load it.
pub fn nccl(paths: &Paths) -> Result<()> {
    let _lock = lock(&paths.cache)?;
    nccl::ensure(paths)
}

/// A model, imported by the project's own program, which is built for it when it is needed.
pub fn model(paths: &Paths, known: Known, build: Build) -> Result<()> {
    imported(paths, known, || swirl::build(paths, build))
}

/// The default model, imported by the program that `program` answers with.
pub fn model_with(paths: &Paths, program: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    imported(paths, Known::Smollm2, program)
}

fn imported(paths: &Paths, known: Known, program: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    if model::is_there(paths, known) {
        return model::link(paths, known);
    }
    let program = program()?;
    let _lock = lock(&paths.cache)?;
    model::ensure(paths, known, &program)
}

/// One setup at a time works on the cache; the lock ends with the returned file.
fn lock(cache: &Path) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| {
        format!(
            "cannot make the cache folder {}: set SWIRL_CACHE to another",
            cache.display()
        )
    })?;
    let path = cache.join("lock");
    let cannot = || format!("cannot lock {}", path.display());
    let file = File::create(&path).with_context(cannot)?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        println!(
            "waiting for another setup that works in {}",
            cache.display()
        );
    }
    file.lock().with_context(cannot)?;
    for folder in [
        cache.to_path_buf(),
        cache.join("downloads"),
        cache.join("models"),
    ] {
        sweep(&folder)?;
    }
    Ok(file)
}

/// Removes what interrupted setups left behind. Only under the lock: nobody else is at work.
fn sweep(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if is_leftover(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove the leftover {}", path.display()))?;
        }
    }
    Ok(())
}

fn is_leftover(name: &str) -> bool {
    [".partial-", ".old-"].iter().any(|mark| {
        name.rsplit_once(mark)
            .is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::partial;

    #[test]
    fn leftovers_of_interrupted_setups_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let keep = [
            "libtorch-2.13.0-cpu",
            "x.partial-",
            "x.partial-note",
            "x.older-12",
        ];
        for name in keep {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let leftover = partial(&dir.path().join("libtorch-2.13.0-cpu"));
        fs::create_dir_all(leftover.join("lib")).unwrap();
        fs::create_dir(dir.path().join("libtorch-2.13.0-cpu.old-17")).unwrap();

        drop(lock(dir.path()).unwrap());

        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lock")
            .collect();
        left.sort();
        let mut keep = keep.map(str::to_owned);
        keep.sort();
        assert_eq!(left, keep);
    }
}
