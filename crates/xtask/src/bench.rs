//! Benchmarks, alone or beside the programs that users would otherwise take.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::paths::Paths;
use crate::{model, process, python, setup, swirl};

/// Names the Python to use in the place of the environment made here; it needs the same packages.
const OWN_PYTHON: &str = "SWIRL_PEERS_PYTHON";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Steps of the learner: policy steps beside TRL, supervised ones beside transformers
    Learner,
    /// Calls, messages and transfers between processes: beside Ray, Monarch and plain TCP
    Net,
}

impl Bench {
    fn program(self) -> &'static str {
        match self {
            Self::Learner => "bench-learner",
            Self::Net => "bench-net",
        }
    }

    /// Names what is needed of Python.
    fn requirements(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Net => "net",
        }
    }

    /// The peer's program; where there are several, one of them.
    fn script(self) -> &'static str {
        match self {
            Self::Learner => "learner.py",
            Self::Net => "net_ray.py",
        }
    }
}

/// Sets up, builds for speed and runs it with `arguments`.
pub fn run(paths: &Paths, bench: Bench, with_peers: bool, arguments: &[String]) -> Result<()> {
    setup::run(paths, None)?;
    let program = swirl::build_bench(paths, bench.program())?;
    let mut command = Command::new(&program);
    command.arg("run").arg(model::link_path(paths));
    if with_peers {
        let peers = paths.root.join("benches/peers");
        command.arg("--python").arg(peer_python(paths, bench)?);
        let script = peers.join(bench.script());
        command.arg("--script").arg(script);
    }
    process::run("the benchmark", command.args(arguments))
}

fn peer_python(paths: &Paths, bench: Bench) -> Result<PathBuf> {
    if let Some(own) = std::env::var_os(OWN_PYTHON) {
        return Ok(PathBuf::from(own));
    }
    let name = bench.requirements();
    let list = paths
        .root
        .join(format!("benches/peers/requirements-{name}.txt"));
    let requirements =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    python::environment(paths, &format!("peers-{name}"), &requirements)
}
