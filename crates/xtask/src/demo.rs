//! `cargo xtask demo`: the quickstart from nothing.

use std::process::Command;

use anyhow::Result;

use crate::paths::Paths;
use crate::swirl::{self, Build};
use crate::{process, setup};

const CONFIG: &str = "configs/quickstart.toml";

/// Where the run goes, below the checkout; given on the command line, which wins over the file.
const DIR: &str = "runs";
const NAME: &str = "quickstart";

/// Sets up, builds for speed, runs the quickstart and says where its folder is.
pub fn run(paths: &Paths, resume: bool, clean: bool) -> Result<()> {
    setup::libtorch(paths, None)?;
    let program = swirl::build(paths, Build::Release)?;
    setup::model_with(paths, || Ok(program.clone()))?;
    let mut command = Command::new(&program);
    command.current_dir(&paths.root).args(["run", CONFIG]);
    command.args([format!("run.dir={DIR}"), format!("run.name={NAME}")]);
    command.args(
        [("--resume", resume), ("--clean", clean)]
            .iter()
            .filter(|f| f.1)
            .map(|f| f.0),
    );
    process::run("the quickstart", &mut command)?;
    println!("run folder: {}", paths.root.join(DIR).join(NAME).display());
    Ok(())
}
