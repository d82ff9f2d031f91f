//! Automation of the project: provisions what a build needs and runs every check.
//!
//! `cargo xtask setup` brings libtorch and the default model, `cargo xtask test` runs every check,
//! `cargo xtask demo` runs the quickstart, `cargo xtask bench` measures, `cargo xtask fuzz` attacks the
//! decoders, `cargo xtask fixtures` makes the reference values of the decoder's tests anew, and
//! `cargo xtask check-export` compares a saved model with `transformers`. What is downloaded lands in
//! the user's cache folder, so that a second checkout downloads nothing.
//!
//! This crate builds before libtorch is there, hence in seconds: few dependencies, no tensors.

mod bench;
mod check;
mod cluster;
mod demo;
mod download;
mod e2e;
mod fixtures;
mod fuzz;
mod image;
mod libtorch;
mod model;
mod nccl;
mod npm;
mod paths;
mod platform;
mod process;
mod python;
mod quotes;
mod setup;
mod stamp;
mod swirl;
mod tally;
mod tidy;
mod unpack;
mod wheel;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::bench::Bench;
use crate::check::Stage;
use crate::libtorch::Device;
use crate::model::Known;
use crate::paths::Paths;
use crate::swirl::Build;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the swirl project")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Provision libtorch and the default model; a second run finds everything in place
    Setup {
        /// libtorch with CUDA (several GB) or without; by default, whether an NVIDIA GPU is found
        #[arg(long, value_enum)]
        device: Option<Device>,
        /// The same as `--device cuda`
        #[arg(long, conflicts_with = "device")]
        cuda: bool,
        /// NCCL, too (206 MB), for the tests that load it; libtorch with CUDA brings its own
        #[arg(long)]
        nccl: bool,
        /// This model, too
        #[arg(long, value_enum)]
        model: Option<Known>,
    },
    /// Set up whatever is missing, then run formatting, lints, all tests, licences and tidiness
    Test {
        /// Run one stage only
        #[arg(long, value_enum)]
        only: Option<Stage>,
    },
    /// Set up, build for speed and run `configs/quickstart.toml`
    Demo {
        /// Continue the run where it was interrupted
        #[arg(long, conflicts_with = "clean")]
        resume: bool,
        /// Discard an earlier run
        #[arg(long)]
        clean: bool,
    },
    /// Measure, optimised; takes up to two hours with peers, on an idle machine
    Bench {
        /// What to measure
        #[arg(value_enum)]
        what: Bench,
        /// Run the programs it is compared with, too, in an environment of their own
        #[arg(long)]
        peers: bool,
        /// The model, where one is measured; provided if it is not there
        #[arg(long, value_enum, default_value = "smollm2")]
        model: Known,
        /// Passed on to the benchmark, such as `--trajectories 8`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run real processes on several hosts (network namespaces) and compare with one process
    E2e {
        /// Kill every role in turn, cut links, slow and add nodes meanwhile, and before it have devices
        /// hang; about half an hour
        #[arg(long)]
        chaos: bool,
        /// Keep the run folders and logs here
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Send the decoders of what nodes say to each other whatever breaks them
    Fuzz {
        /// How long
        #[arg(long, default_value_t = 20)]
        minutes: u64,
    },
    /// Check what `cluster/` holds: scripts, Kubernetes manifests, Dockerfile, systemd units
    Cluster,
    /// Make the reference values of the decoder's tests with `transformers` in its own environment
    Fixtures,
    /// Check that `transformers` loads a saved model and continues prompts as swirl does
    CheckExport {
        /// The model's folder: below `models/` or `checkpoints/` of a run folder
        model: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let paths = Paths::of_this_checkout()?;
    match command {
        Command::Setup {
            device,
            cuda,
            nccl,
            model,
        } => {
            if nccl {
                setup::nccl(&paths)?;
            }
            setup::run(&paths, if cuda { Some(Device::Cuda) } else { device })?;
            model.map_or(Ok(()), |known| setup::model(&paths, known, Build::Dev))
        }
        Command::Test { only } => check::run(&paths, only),
        Command::Demo { resume, clean } => demo::run(&paths, resume, clean),
        Command::Bench {
            what,
            peers,
            model,
            arguments,
        } => bench::run(&paths, what, model, peers, &arguments),
        Command::E2e { chaos, keep } => e2e::run(&paths, chaos, keep.as_deref()),
        Command::Fuzz { minutes } => fuzz::run(&paths, minutes),
        Command::Cluster => cluster::check(&paths),
        Command::Fixtures => fixtures::run(&paths),
        Command::CheckExport { model } => fixtures::check_export(&paths, &model),
    }
}
