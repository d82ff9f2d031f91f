//! `cargo xtask bench weights`: how long new weights, and the files of a model, take to reach samplers.
//!
//! A real controller publishes to nodes over QUIC with mutual TLS; each node is a process of its own,
//! checks every chunk and the whole, and gives on what others pull from it. Only the engines are made
//! up: they keep the weights. Then a real learner makes policy steps on actions that a real engine
//! samples, and its weights go to a node as what has changed since the step before; and the engine says
//! how long it stands still while it takes them over.

mod controller;
mod learned;
mod node;

use anyhow::{Context, Result};
use benches::figures::{median, shown};
use clap::{Parser, Subcommand};
use controller::{Case, Rounds};
use std::path::PathBuf;

/// As in the program `swirl`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure.
    Run(Job),
    /// A node; not for people.
    #[command(hide = true)]
    Node(node::Node),
}

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Job {
    /// A Hugging Face directory: what is trained for deltas.
    model: PathBuf,
    /// Numbers of samplers.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    samplers: Vec<usize>,
    /// Publications of each; one before them does not count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of the weights. The default is what SmolLM2-135M has in bf16.
    #[arg(long, default_value_t = 270_000_000)]
    bytes: usize,
    /// Nodes that each one gives to.
    #[arg(long, default_value_t = 4)]
    fan_out: usize,
    /// Learning rates whose steps are published as deltas.
    #[arg(long, value_delimiter = ',', default_values_t = [1e-6, 1e-5])]
    learning_rates: Vec<f64>,
    /// Steps at each of them; 0 leaves them out.
    #[arg(long, default_value_t = 4)]
    steps: usize,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Verb::Run(job) => run(&job),
        Verb::Node(node) => node::run(&node),
    }
}

fn run(job: &Job) -> Result<()> {
    println!(
        "{} bytes of weights; median [least, most] of {} publications\n",
        job.bytes, job.rounds
    );
    let spread = table(job, "serve them", controller::spread)?;
    println!("\nA model of as many bytes, in files that nodes write down and flush, is ordered:\n");
    let files = table(job, "have opened it", controller::files)?;
    let learned = match job.steps {
        0 => Vec::new(),
        _ => learned::run(job)?,
    };
    println!(
        "{}",
        serde_json::json!({
            "benchmark": "weights", "spread": spread, "files": files, "learned": learned
        })
    );
    Ok(())
}

fn table(
    job: &Job,
    until: &str,
    measure: impl Fn(&Job, Case) -> Result<Rounds>,
) -> Result<Vec<serde_json::Value>> {
    println!(
        "| samplers | fan-out | until all {until}, s | GB/s in all | bytes the controller gave, over those of one |"
    );
    println!("|---|---|---|---|---|");
    let mut all = Vec::new();
    for &samplers in &job.samplers {
        // Beside the tree, all from the controller, where that makes a difference.
        let star = (samplers > job.fan_out).then_some(samplers);
        for fan_out in std::iter::once(job.fan_out).chain(star) {
            let case = Case { samplers, fan_out };
            let rounds = measure(job, case).with_context(|| format!("with {case:?}"))?;
            row(job, case, &rounds);
            all.push(serde_json::json!({"case": case, "rounds": rounds}));
        }
    }
    Ok(all)
}

fn row(job: &Job, case: Case, rounds: &Rounds) {
    let Case { samplers, fan_out } = case;
    let bytes = (job.bytes * samplers) as f64;
    let rates: Vec<f64> = rounds.seconds.iter().map(|s| bytes / s / 1e9).collect();
    let given = median(&rounds.given_bytes) / job.bytes as f64;
    println!(
        "| {samplers} | {fan_out} | {} | {} | {given:.2} |",
        shown(&rounds.seconds),
        shown(&rates),
    );
}
