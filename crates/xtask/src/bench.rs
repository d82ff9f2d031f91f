//! Benchmarks, alone or beside the programs that users would otherwise take.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::model::Known;
use crate::paths::Paths;
use crate::swirl::Build;
use crate::{model, process, python, setup, swirl};

/// Names the Python to use in the place of the environment made here; it needs the same packages.
const OWN_PYTHON: &str = "SWIRL_PEERS_PYTHON";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Sums over processes: beside torch's gloo
    Allreduce,
    /// Steps of the learner: policy steps beside TRL, supervised ones beside transformers
    Learner,
    /// Calls, messages and transfers between processes: beside Ray, Monarch and plain TCP
    Net,
    /// Steps of replicas in a ring, and how much of the sums over them is waited for
    Replicas,
    /// The controller with 10, 100 and 1,000 samplers that compute nothing
    Scale,
    /// New weights to 1, 4 and 16 samplers, and what steps change in them
    Weights,
}

/// The programs that a benchmark has beside ours.
struct Peers {
    /// Names what they need of Python.
    requirements: &'static str,
    /// The program; where there are several, one of them.
    script: &'static str,
}

impl Bench {
    fn program(self) -> &'static str {
        match self {
            Self::Allreduce => "bench-allreduce",
            Self::Learner => "bench-learner",
            Self::Net => "bench-net",
            Self::Replicas => "bench-replicas",
            Self::Scale => "bench-scale",
            Self::Weights => "bench-weights",
        }
    }

    /// What it is compared with, if there is anything.
    fn peers(self) -> Option<Peers> {
        match self {
            Self::Allreduce => Some(Peers {
                requirements: "allreduce",
                script: "allreduce_gloo.py",
            }),
            Self::Learner => Some(Peers {
                requirements: "learner",
                script: "learner.py",
            }),
            Self::Net => Some(Peers {
                requirements: "net",
                script: "net_ray.py",
            }),
            Self::Replicas | Self::Scale | Self::Weights => None,
        }
    }
}

/// Sets up, builds for speed and runs it with `arguments` on a model.
pub fn run(
    paths: &Paths,
    bench: Bench,
    known: Known,
    with_peers: bool,
    arguments: &[String],
) -> Result<()> {
    setup::run(paths, None)?;
    setup::model(paths, known, Build::Dev)?;
    let program = swirl::build_bench(paths, bench.program())?;
    let mut command = Command::new(&program);
    command.arg("run").arg(model::link_path(paths, known));
    if with_peers {
        let peers = bench.peers().context("this benchmark has no peers")?;
        let python = peer_python(paths, peers.requirements)?;
        command.arg("--python").arg(python);
        let folder = paths.root.join("benches/peers");
        command.arg("--script").arg(folder.join(peers.script));
    }
    process::run("the benchmark", command.args(arguments))
}

fn peer_python(paths: &Paths, name: &str) -> Result<PathBuf> {
    if let Some(own) = std::env::var_os(OWN_PYTHON) {
        return Ok(PathBuf::from(own));
    }
    let list = paths
        .root
        .join(format!("benches/peers/requirements-{name}.txt"));
    let requirements =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    python::environment(paths, &format!("peers-{name}"), &requirements)
}
