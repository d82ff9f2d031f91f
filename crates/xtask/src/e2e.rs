//! `cargo xtask e2e`: whole runs of real processes.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::paths::Paths;
use crate::swirl::{self, Build};
use crate::{process, setup};

/// Runs them; with `chaos`, disturbed too.
///
/// # Errors
/// When a run fails, or leaves something else behind than one process does.
pub fn run(paths: &Paths, chaos: bool, keep: Option<&Path>) -> Result<()> {
    setup::libtorch(paths, None)?;
    let program = swirl::build(paths, Build::Dev)?;
    setup::model_with(paths, || Ok(program.clone()))?;
    let mut e2e = Command::new(swirl::build_e2e(paths)?);
    e2e.arg("--swirl").arg(&program);
    if chaos {
        e2e.arg("--chaos");
    }
    if let Some(folder) = keep {
        e2e.arg("--keep").arg(folder);
    }
    process::run("e2e", &mut e2e)
}
