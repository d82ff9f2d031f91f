//! Python environments of their own, in the cache: for what is compared with Python's packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::{process, stamp};

/// The Python of the environment `name` with `requirements`, one to a line as pip reads them; made
/// when it is not there or not whole.
pub fn environment(paths: &Paths, name: &str, requirements: &str) -> Result<PathBuf> {
    let folder = paths.cache.join(name);
    let python = folder.join("bin/python");
    if stamp::is_valid(requirements, &folder, &["bin/python"]) {
        return Ok(python);
    }
    let size = match requirements.lines().any(|line| line.starts_with("torch==")) {
        true => " (about 5 GB: PyTorch's wheel comes with CUDA)",
        false => "",
    };
    println!("making a Python environment in {}{size}", folder.display());
    // It knows its own path and cannot be moved to its place; the stamp alone says it is whole.
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&folder);
    process::run("making a Python environment", &mut venv)
        .context("the package python3-venv of your system may be missing")?;
    let list = folder.join("requirements.txt");
    fs::write(&list, requirements).with_context(|| format!("cannot write {}", list.display()))?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]);
    // The wheel of libtorch is there already, and fits when this Python is 3.11.
    pip.arg("--find-links").arg(paths.downloads());
    pip.arg("-r").arg(&list);
    process::run("installing Python packages", &mut pip)?;
    stamp::write(requirements, &folder, &["bin/python"])?;
    Ok(python)
}
