//! `cargo xtask bench allreduce`: sums over processes of one machine, beside torch's gloo.
//!
//! Every member of a group is a program of its own. The groups of all systems are asked in turn for the
//! same sums; every member checks what it got against a sum in f64.

mod compare;
mod member;
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
        /// The Python with torch.
        #[arg(long, requires = "script")]
        python: Option<PathBuf>,
        /// The script that answers with gloo.
        #[arg(long)]
        script: Option<PathBuf>,
        /// Rounds of each measurement.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Members of a group.
        #[arg(long, value_delimiter = ',', default_values_t = [2, 4])]
        worlds: Vec<usize>,
        /// Leaves out tensors of more bytes.
        #[arg(long, default_value_t = u64::MAX)]
        most: u64,
        /// Bytes of our frames.
        #[arg(long, default_value_t = collective::ring::Options::default().frame)]
        frame: usize,
    },
    /// A member of a group; not for people.
    Member(member::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run {
            python,
            script,
            rounds,
            worlds,
            most,
            frame,
            ..
        } => compare::run(python.zip(script), rounds, &worlds, most, frame),
        Command::Member(arguments) => member::answer(&arguments),
    }
}
