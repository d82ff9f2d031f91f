//! `cargo xtask bench replicas`: steps of replicas in a ring of processes, and how much of the sums
//! over them is waited for.
//!
//! Each replica is a process with libtorch threads of its own. Every round makes a step as it is and one
//! whose sums begin only when somebody waits for them, after the backward pass; with all of the
//! optimizer's state on each replica, and with shares of it.

mod compare;
mod late;
mod member;
mod words;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
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
    /// Measure.
    Run(Run),
    /// A replica; not for people.
    Member(member::Arguments),
}

/// What of the optimizer's state a replica keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keeps {
    /// All of it.
    Everything,
    /// Shares (`learner.shard_optimizer`).
    Shares,
}

#[derive(clap::Args)]
struct Run {
    /// The model's folder.
    model: PathBuf,
    /// Replicas.
    #[arg(long, default_value_t = 2)]
    world: usize,
    /// Steps of each kind that count; one goes before them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sequences of a step, of each replica.
    #[arg(long, default_value_t = 4)]
    sequences: usize,
    /// Tokens of a sequence.
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// Threads of libtorch, of each replica.
    #[arg(long, default_value_t = 1)]
    threads: i32,
    /// One of the two only.
    #[arg(long)]
    keeps: Option<Keeps>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run(run) => compare::run(&run),
        Command::Member(arguments) => member::answer(&arguments),
    }
}
