//! Runs many simulations: `cargo run -p sim -- --seeds 2000`.

use clap::Parser;
use sim::{Outcome, simulate};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Simulates clusters with faults and says which seeds break an invariant.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// How many at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run each twice: the two have to be alike.
    #[arg(long)]
    twice: bool,
    /// Print what happens in each.
    #[arg(long)]
    log: bool,
}

#[derive(Default)]
struct Sums {
    failed: Vec<u64>,
    stored: u64,
    steps: u64,
    shared_steps: u64,
    given_on: u64,
    files_given_on: u64,
    saved: u64,
    faults: BTreeMap<&'static str, u64>,
    longest_step: (Duration, u64),
    took: Duration,
    slowest: (Duration, u64),
}

struct Work {
    args: Args,
    next: AtomicU64,
    sums: Mutex<Sums>,
}

impl Work {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().expect("no holder panics")
    }

    fn run(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.args.start + self.args.seeds {
                return;
            }
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.one(seed)));
            let mut sums = self.sums();
            sums.slowest = sums.slowest.max((began.elapsed(), seed));
            match outcome {
                Ok(outcome) => self.add(&mut sums, outcome),
                Err(_) => {
                    println!("seed {seed}: a panic");
                    sums.failed.push(seed);
                }
            }
        }
    }

    fn one(&self, seed: u64) -> Outcome {
        let mut outcome = simulate(seed);
        if self.args.twice && simulate(seed).hash != outcome.hash {
            outcome
                .breaks
                .push("SI-9: a second run took another course".to_owned());
        }
        outcome
    }

    fn add(&self, sums: &mut Sums, outcome: Outcome) {
        sums.stored += outcome.stored;
        sums.steps += outcome.steps;
        sums.shared_steps += outcome.shared_steps;
        sums.given_on += outcome.given_on;
        sums.files_given_on += outcome.files_given_on;
        sums.saved += outcome.saved;
        sums.took += outcome.took;
        sums.longest_step = sums.longest_step.max((outcome.longest_step, outcome.seed));
        for (kind, count) in outcome.faults {
            *sums.faults.entry(kind).or_default() += count;
        }
        if self.args.log {
            outcome.log.iter().for_each(|line| println!("{line}"));
        }
        if let Some(first) = outcome.breaks.first() {
            println!("seed {}: {first}", outcome.seed);
            sums.failed.push(outcome.seed);
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "off".into());
    let writer = std::io::stderr;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_writer(writer)
        .init();
    let began = Instant::now();
    let (jobs, seeds) = (args.jobs.max(1), args.seeds);
    let work = Work {
        next: AtomicU64::new(args.start),
        args,
        sums: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work.run());
        }
    });
    let sums = work.sums();
    let faults: Vec<String> = sums
        .faults
        .iter()
        .map(|(kind, n)| format!("{kind} {n}"))
        .collect();
    println!(
        "{seeds} seeds, {} failed; {} items stored, {} steps ({} parts in shared ones); {:.1} virtual \
         hours in {:.1} s (slowest: seed {}, {:.1} s)",
        sums.failed.len(),
        sums.stored,
        sums.steps,
        sums.shared_steps,
        sums.took.as_secs_f64() / 3600.0,
        began.elapsed().as_secs_f64(),
        sums.slowest.1,
        sums.slowest.0.as_secs_f64(),
    );
    println!(
        "weights: {} bytes from nodes, {} saved by deltas; files: {} bytes from nodes",
        sums.given_on, sums.saved, sums.files_given_on
    );
    println!("faults: {}", faults.join(", "));
    let (longest, seed) = sums.longest_step;
    println!(
        "learners that are half there, and nothing else: the longest step took {:.0} s (seed {seed})",
        longest.as_secs_f64()
    );
    match sums.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            println!("failed seeds: {:?}", sums.failed);
            ExitCode::FAILURE
        }
    }
}
