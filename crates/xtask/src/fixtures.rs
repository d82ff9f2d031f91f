//! Makes the reference values of the decoder's tests with `transformers`, in a Python environment
//! of their own in the cache (about 5 GB: PyTorch's wheel comes with CUDA).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::model::Known;
use crate::paths::Paths;
use crate::{model, process, python, setup, swirl};

/// Pinned, so that the same values come out again.
const REQUIREMENTS: [&str; 7] = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "safetensors==0.8.0",
    "numpy==2.4.6",
    "gguf==0.19.0",
    "peft==0.21.2",
    "sentencepiece==0.2.3",
];

/// Names the Python to use in the place of the environment made here; it needs the same packages.
const OWN_PYTHON: &str = "SWIRL_FIXTURES_PYTHON";

/// Runs every `make_*.py` of the fixtures' folder with that folder, the model's directory, and that of
/// Gemma 3 where it is provisioned.
pub fn run(paths: &Paths) -> Result<()> {
    let folder = folder(paths);
    let scripts = scripts(&folder)?;
    setup::run(paths, None)?;
    let python = python(paths)?;
    for script in scripts {
        println!("running {}", script.display());
        let mut command = Command::new(&python);
        command
            .current_dir(&paths.root)
            .arg(&script)
            .arg(&folder)
            .arg(model::link_path(paths, Known::Smollm2))
            .args(model::linked(paths, Known::Gemma3));
        process::run("making fixtures", &mut command)?;
    }
    Ok(())
}

/// Has `transformers` load the model in `model` and compare its greedy text with swirl's.
pub fn check_export(paths: &Paths, model: &Path) -> Result<()> {
    let model = fs::canonicalize(model)
        .with_context(|| format!("there is no model folder {}", model.display()))?;
    setup::libtorch(paths, None)?;
    let greedy = swirl::build_example(paths, "greedy")?;
    let python = python(paths)?;
    let mut command = Command::new(&python);
    command
        .arg(folder(paths).join("check_export.py"))
        .arg(&model)
        .arg(&greedy);
    process::run("the comparison with transformers", &mut command)
}

fn folder(paths: &Paths) -> PathBuf {
    paths.root.join("crates/model/tests/fixtures")
}

fn python(paths: &Paths) -> Result<PathBuf> {
    match std::env::var_os(OWN_PYTHON) {
        Some(own) => Ok(PathBuf::from(own)),
        None => python::environment(paths, "fixtures-python", &REQUIREMENTS.join("\n")),
    }
}

/// The scripts in the order of their names.
fn scripts(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut scripts = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("make_") && name.ends_with(".py") {
            scripts.push(entry.path());
        }
    }
    if scripts.is_empty() {
        bail!("{} holds no make_*.py", folder.display());
    }
    scripts.sort();
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scripts_that_make_fixtures_run_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert!(scripts(dir.path()).is_err());
        for name in ["make_b.py", "make_a.py", "shared.py", "make_a.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = scripts(dir.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["make_a.py", "make_b.py"]);
    }
}
