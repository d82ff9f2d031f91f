//! The learner beside its peers: the same trajectories, in turn, in one run, each program in a
//! process of its own with the same threads, after comparing their gradients.
//!
//! `cargo xtask bench learner --peers` builds and runs it. Prints progress on stderr and one JSON
//! line on stdout.

mod compare;
mod program;
mod serve;
mod work;

use anyhow::{Context, Result, bail};
use benches::figures::median;
use clap::{Parser, Subcommand, ValueEnum};
use program::{Program, Request, gradient_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use work::{Size, Work};

/// As in the program `swirl`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has glibc keep large buffers: makes the peers faster than they come.
const PEER_ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592",
);

/// What two programs' gradients of the same step may differ by in f32, relative to their size.
const LARGEST_DIFFERENCE: f64 = 1e-3;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compare
    Run(Run),
    /// One of the compared programs
    #[command(hide = true)]
    Serve(serve::Serve),
}

/// What a program of ours trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Actions; what they share runs once
    Packed,
    /// Actions, each sequence alone
    Unpacked,
    /// Dialogues
    Sft,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The model's folder
    model: PathBuf,
    /// Trajectories to train on
    #[arg(long, default_value_t = 64)]
    trajectories: usize,
    /// Actions per state
    #[arg(long, default_value_t = 8)]
    actions: usize,
    /// Trajectories per step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Threads of each program
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of a forward and backward pass of ours
    #[arg(long, default_value_t = 2048)]
    micro_batch_tokens: usize,
    /// Recompute activations in ours
    #[arg(long)]
    activation_checkpointing: bool,
    /// Sequences of a forward and backward pass of the peers
    #[arg(long, default_value_t = 8)]
    peer_batch: usize,
    /// Decides everything drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A Python with what `benches/peers/requirements-learner.txt` lists
    #[arg(long, requires = "script")]
    python: Option<PathBuf>,
    /// `benches/peers/learner.py`
    #[arg(long)]
    script: Option<PathBuf>,
    /// Leave out our own policy steps on every sequence alone
    #[arg(long, conflicts_with = "only_sft")]
    skip_unpacked: bool,
    /// Supervised steps only
    #[arg(long, conflicts_with = "skip_sft")]
    only_sft: bool,
    /// Policy steps only
    #[arg(long)]
    skip_sft: bool,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Verb::Serve(arguments) => serve::serve(&arguments),
        Verb::Run(run) => run.all(),
    }
}

/// One kind of training, side by side.
struct Comparison<'a> {
    run: &'a Run,
    file: &'a Path,
    folder: &'a Path,
    /// Our programs; the first is what the others are measured against.
    ours: &'a [(&'static str, Kind)],
    /// The peer's name and what it is told to train.
    peer: (&'static str, &'static str),
}

/// One program's steps.
#[derive(Debug, Default)]
struct Steps {
    name: &'static str,
    seconds: Vec<f64>,
    sequences: usize,
    tokens: usize,
    peak_bytes: Option<u64>,
    /// What was expected of it before the first step; ours only.
    estimated_bytes: Option<f64>,
    /// Seconds by phase, summed, and other sums; ours only.
    values: BTreeMap<String, f64>,
}

impl Run {
    fn all(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let size = Size {
            trajectories: self.trajectories,
            actions: self.actions,
            seed: self.seed,
        };
        let work = Work::make(&self.model, size)?;
        let file = folder.path().join("work.json");
        std::fs::write(&file, serde_json::to_vec(&work)?)?;
        let sequences: usize = work.states.iter().map(|s| s.actions.len()).sum();
        let mean = work.tokens(Kind::Packed) as f64 / sequences as f64;
        eprintln!(
            "{} trajectories, {} states, {sequences} states × actions of {mean:.0} tokens",
            work.dialogues.len(),
            work.states.len(),
        );
        let mut result = json!({
            "trajectories": work.dialogues.len(),
            "states": work.states.len(),
            "sequences": sequences,
            "tokens_per_sequence": mean,
            "threads": self.threads,
        });
        let (file, folder) = (&*file, folder.path());
        if !self.only_sft {
            let comparison = Comparison {
                run: self,
                file,
                folder,
                ours: if self.skip_unpacked {
                    &[("packed", Kind::Packed)]
                } else {
                    &[("packed", Kind::Packed), ("unpacked", Kind::Unpacked)]
                },
                peer: ("trl", "grpo"),
            };
            let batches = in_batches(work.dialogues.len(), self.batch, |r| work.states_of(r));
            result["policy"] = comparison.run(&batches, work.states_of(0..1))?;
        }
        if !self.skip_sft {
            let comparison = Comparison {
                run: self,
                file,
                folder,
                ours: &[("packed", Kind::Sft)],
                peer: ("transformers", "sft"),
            };
            // A dialogue has fewer tokens than a trajectory's states with their actions.
            let batches = in_batches(work.dialogues.len(), self.batch * 4, Iterator::collect);
            let mut supervised = comparison.run(&batches, vec![0, 1])?;
            let parameters = model::spec_of(&self.model)?.parameter_count() as f64;
            let rate = supervised["matrix_gflops"]["median"].as_f64();
            let tokens = supervised["programs"]["packed"]["tokens_per_second"].as_f64();
            let (rate, tokens) = rate.zip(tokens).context("both were just measured")?;
            let share = 6.0 * parameters * tokens / (rate * 1e9);
            eprintln!("6·N·tokens is {:.0} % of the matrix rate", 100.0 * share);
            supervised["flop_share"] = json!(share);
            result["supervised"] = supervised;
        }
        println!("{result}");
        Ok(())
    }
}

/// The items of each step.
fn in_batches(
    trajectories: usize,
    batch: usize,
    items: impl Fn(std::ops::Range<usize>) -> Vec<usize>,
) -> Vec<Vec<usize>> {
    (0..trajectories)
        .step_by(batch)
        .map(|first| items(first..trajectories.min(first + batch)))
        .collect()
}

impl Comparison<'_> {
    fn run(&self, batches: &[Vec<usize>], few: Vec<usize>) -> Result<Value> {
        let exact = self.gradients(&few, true)?;
        let rounded = self.gradients(&few, false)?;
        let mut programs = self.start(false)?;
        let versions = programs.last().map(|p| p.hello.versions.clone());
        let (rates, steps) = rounds(&mut programs, batches)?;
        programs.into_iter().try_for_each(Program::quit)?;
        let mut result = summary(&steps, &rates);
        result["gradients_f32"] = exact;
        result["gradients_bf16"] = rounded;
        result["peer_versions"] = json!(versions);
        Ok(result)
    }

    fn start(&self, f32: bool) -> Result<Vec<Program>> {
        let run = self.run;
        let mut programs = Vec::new();
        for (name, kind) in self.ours {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve").arg(&run.model).arg(self.file);
            let kind = kind.to_possible_value().context("no kind is hidden")?;
            command.args(["--kind", kind.get_name()]);
            command.args(["--threads", &run.threads.to_string()]);
            command.args(["--micro-batch-tokens", &run.micro_batch_tokens.to_string()]);
            if run.activation_checkpointing {
                command.arg("--activation-checkpointing");
            }
            if f32 {
                command.arg("--f32");
            }
            programs.push(Program::start(name, command)?);
        }
        if let (Some(python), Some(script)) = (&run.python, &run.script) {
            let (name, kind) = self.peer;
            let mut command = Command::new(python);
            command.arg(script).arg(&run.model).arg(self.file);
            command.args(["--kind", kind, "--learning-rate", "1e-6"]);
            command.args(["--threads", &run.threads.to_string()]);
            command.args(["--batch", &run.peer_batch.to_string()]);
            command.args(["--dtype", if f32 { "f32" } else { "bf16" }]);
            command.env(PEER_ALLOCATOR.0, PEER_ALLOCATOR.1);
            programs.push(Program::start(name, command)?);
        }
        Ok(programs)
    }

    /// How far the programs' gradients of one step are from the first one's.
    fn gradients(&self, items: &[usize], f32: bool) -> Result<Value> {
        let mut programs = self.start(f32)?;
        let mut found = json!({});
        let mut first = None;
        for program in &mut programs {
            let out = gradient_file(self.folder, program.name);
            program.ask(&Request::Gradient {
                items: items.to_vec(),
                out: out.clone(),
            })?;
            let Some(first) = &first else {
                first = Some(out);
                continue;
            };
            let difference = compare::relative_difference(&out, first)?;
            let kind = if f32 { "f32" } else { "bf16" };
            eprintln!(
                "{}: gradient off by {difference:.1e} in {kind}",
                program.name
            );
            if f32 && difference > LARGEST_DIFFERENCE {
                bail!(
                    "{} computes another gradient (off by {difference:.1e} in f32): the programs do \
                     not do the same work",
                    program.name
                );
            }
            found[program.name] = json!(difference);
        }
        programs.into_iter().try_for_each(Program::quit)?;
        Ok(found)
    }
}

/// Every batch by every program, each round beginning with another one; after a round that does not
/// count. Returns rates of matrix products too, one per round.
fn rounds(programs: &mut [Program], batches: &[Vec<usize>]) -> Result<(Vec<f64>, Vec<Steps>)> {
    let mut steps: Vec<Steps> = programs
        .iter()
        .map(|program| Steps {
            name: program.name,
            ..Default::default()
        })
        .collect();
    let first = batches.first().context("there is no work")?;
    for program in programs.iter_mut() {
        let items = first[..first.len().min(2)].to_vec();
        program.ask(&Request::Step { items })?;
    }
    let mut rates = Vec::new();
    for (round, batch) in batches.iter().enumerate() {
        rates.push(programs[0].ask(&Request::Rate)?.flops);
        for turn in 0..programs.len() {
            let index = (round + turn) % programs.len();
            let answer = programs[index].ask(&Request::Step {
                items: batch.clone(),
            })?;
            let of = &mut steps[index];
            of.seconds.push(answer.seconds);
            of.sequences += answer.sequences;
            of.tokens += answer.tokens;
            for (name, value) in answer.values {
                *of.values.entry(name).or_default() += value;
            }
        }
        let last = |s: &Steps| format!("{} {:.1} s", s.name, s.seconds.last().unwrap_or(&0.0));
        let seconds: Vec<String> = steps.iter().map(last).collect();
        eprintln!("{} of {}: {}", round + 1, batches.len(), seconds.join(", "));
    }
    for (program, steps) in programs.iter().zip(&mut steps) {
        steps.peak_bytes = program.peak_bytes();
        steps.estimated_bytes = program.hello.values.get("estimated_bytes").copied();
    }
    Ok((rates, steps))
}

fn summary(steps: &[Steps], rates: &[f64]) -> Value {
    let mut programs = json!({});
    let base = &steps[0];
    for of in steps {
        let total: f64 = of.seconds.iter().sum();
        // Of the same batch, how much longer than the first program.
        let slower: Vec<f64> = of
            .seconds
            .iter()
            .zip(&base.seconds)
            .map(|(a, b)| a / b)
            .collect();
        let mut entry = json!({
            "sequences_per_second": of.sequences as f64 / total,
            "tokens_per_second": of.tokens as f64 / total,
            "seconds": total,
            "times_packed": spread(&slower),
            "peak_bytes": of.peak_bytes,
            "estimated_bytes": of.estimated_bytes,
        });
        if !of.values.is_empty() {
            let sum = |name: &str| of.values.get(name).copied().unwrap_or_default();
            entry["token_saving"] = json!(sum("sequence_tokens") / sum("packed_tokens"));
            let phases = of
                .values
                .iter()
                .filter(|(name, _)| name.ends_with("_seconds"));
            entry["phases"] = json!(phases.collect::<BTreeMap<_, _>>());
        }
        let peak = of.peak_bytes.unwrap_or_default() as f64 / 1e9;
        let estimated = |bytes: f64| format!(" ({:.2} estimated)", bytes / 1e9);
        let estimated = of.estimated_bytes.map_or(String::new(), estimated);
        eprintln!(
            "{}: {:.2} sequences/s, {:.0} tokens/s, {:.2} times the time of packed, peak {peak:.2} GB{estimated}",
            of.name,
            of.sequences as f64 / total,
            of.tokens as f64 / total,
            median(&slower),
        );
        programs[of.name] = entry;
    }
    let rates: Vec<f64> = rates.iter().map(|r| r / 1e9).collect();
    json!({"programs": programs, "matrix_gflops": spread(&rates)})
}

fn spread(values: &[f64]) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    json!({"median": median(values), "least": least, "most": most})
}
