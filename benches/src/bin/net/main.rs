//! `cargo xtask bench net`: calls, one-way messages and bulk transfers between processes, beside Ray
//! and Monarch and beside plain sockets.
//!
//! Every system is a program of its own that is asked by JSON lines, so that rounds of all of them
//! take turns on the same machine in one run. Each counts what arrived and sums it up; a round whose
//! sum is wrong ends the benchmark.

mod compare;
mod ours;
mod plain;
mod words;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// As in the program `swirl`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and compare where peers are given.
    Run {
        /// For the common way of starting benchmarks; this one needs no model.
        model: Option<PathBuf>,
        /// The Python with the peers' packages.
        #[arg(long, requires = "script")]
        python: Option<PathBuf>,
        /// One of the peers' scripts; the others lie beside it.
        #[arg(long)]
        script: Option<PathBuf>,
        /// Rounds of each measurement.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Divides every count: for a quick look.
        #[arg(long, default_value_t = 1)]
        fewer: u64,
    },
    /// Answers with swirl's transport; not for people.
    Ours,
    /// The process at the other end; not for people.
    Child { certs: PathBuf },
    /// Answers with plain sockets; not for people.
    Plain,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run {
            python,
            script,
            rounds,
            fewer,
            ..
        } => compare::run(python.zip(script), rounds, fewer.max(1)),
        Command::Ours => ours::answer(),
        Command::Child { certs } => ours::child(&certs),
        Command::Plain => plain::answer(),
    }
}
