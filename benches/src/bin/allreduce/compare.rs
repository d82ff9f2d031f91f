//! Rounds of all systems in turn, and a table of medians.

use crate::words::{Answer, Ask};
use anyhow::{Context, Result, bail};
use benches::figures::{median, shown};
use benches::program::Program;
use proto::Role;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use transport::certs::{Authority, Validity};

/// Names, elements, and sums in a round. The last is the gradient of SmolLM2-135M.
const SIZES: [(&str, u64, u64); 4] = [
    ("1 KB", 250, 1000),
    ("1 MB", 250_000, 50),
    ("100 MB", 25_000_000, 2),
    ("540 MB", 135_000_000, 1),
];

/// Largest difference to an average in f64 that is rounding: of numbers below 1, and of bf16.
const CLOSE: f64 = 1e-6;
const CLOSE_BF16: f64 = 1e-2;

/// A group of processes.
struct System {
    name: &'static str,
    close: f64,
    members: Vec<Program>,
}

impl System {
    fn start(
        name: &'static str,
        close: f64,
        world: usize,
        command: impl Fn(usize) -> Command,
    ) -> Result<Self> {
        let members = (0..world).map(|rank| Program::start(name, &mut command(rank)));
        let mut members: Vec<Program> = members.collect::<Result<_>>()?;
        let ready: Vec<Answer> = ask_all(&mut members, |_| Ask::Ready)?;
        let next = |rank: usize| ready[(rank + 1) % world].address;
        let _: Vec<Answer> = ask_all(&mut members, |rank| Ask::Meet { next: next(rank) })?;
        let version = ready[0].version.as_deref().unwrap_or_default();
        eprintln!("{name} {version}: {world} members have met");
        Ok(Self {
            name,
            close,
            members,
        })
    }

    /// Seconds of one sum: of the slowest member.
    fn measure(&mut self, elements: u64, repeats: u64) -> Result<f64> {
        let ask = Ask::Average { elements, repeats };
        let answers = ask_all(&mut self.members, |_| ask.clone())?;
        for answer in &answers {
            if answer.difference.is_nan() || answer.difference > self.close {
                bail!("{}: an average is {} off", self.name, answer.difference);
            }
        }
        let slowest = answers.iter().map(|answer| answer.seconds);
        Ok(slowest.fold(0.0, f64::max) / repeats as f64)
    }
}

fn ask_all(members: &mut [Program], ask: impl Fn(usize) -> Ask) -> Result<Vec<Answer>> {
    for (rank, member) in members.iter_mut().enumerate() {
        member.tell(&ask(rank))?;
    }
    members.iter_mut().map(Program::hear).collect()
}

pub fn run(
    peer: Option<(PathBuf, PathBuf)>,
    rounds: usize,
    worlds: &[usize],
    most: u64,
    frame: usize,
) -> Result<()> {
    let sizes: Vec<_> = SIZES
        .into_iter()
        .filter(|(_, elements, _)| 4 * elements <= most)
        .collect();
    if let Some(few) = worlds.iter().find(|world| **world < 2) {
        bail!("--worlds {few}: a group has at least 2 members");
    }
    for &world in worlds {
        let mut systems = systems(peer.as_ref(), world, frame)?;
        let mut seconds = vec![vec![Vec::new(); systems.len()]; sizes.len()];
        // The first round warms up, and is not counted.
        for round in 0..=rounds {
            for (size, (_, elements, repeats)) in sizes.iter().enumerate() {
                for (s, system) in systems.iter_mut().enumerate() {
                    let taken = system.measure(*elements, *repeats)?;
                    if round > 0 {
                        seconds[size][s].push(taken);
                    }
                }
            }
            eprintln!("{world} members: round {round} of {rounds} is done");
        }
        let names: Vec<&str> = systems.iter().map(|system| system.name).collect();
        println!(
            "\n| {world} members, median [least, most] of {rounds} | {} |",
            names.join(" | ")
        );
        println!("|---|{}", "---|".repeat(names.len()));
        for ((name, elements, _), seconds) in sizes.iter().zip(&seconds) {
            let cells: Vec<String> = seconds.iter().map(|s| cell(*elements, s)).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
        let figures: Vec<_> = sizes
            .iter()
            .zip(&seconds)
            .flat_map(|((size, ..), of)| {
                let figure = move |(name, seconds): (&&str, &Vec<f64>)| {
                    serde_json::json!({"size": size, "system": name, "seconds": seconds, "median": median(seconds)})
                };
                names.iter().zip(of).map(figure).collect::<Vec<_>>()
            })
            .collect();
        println!(
            "{}",
            serde_json::json!({"benchmark": "allreduce", "world": world, "figures": figures})
        );
    }
    Ok(())
}

/// Small ones by their time, large ones by their rate: bytes of the tensor, however often they travel.
fn cell(elements: u64, seconds: &[f64]) -> String {
    let bytes = 4.0 * elements as f64;
    let scaled: Vec<f64> = match elements < 100_000 {
        true => seconds.iter().map(|s| s * 1e6).collect(),
        false => seconds.iter().map(|s| bytes / s / 1e9).collect(),
    };
    let unit = if elements < 100_000 { "µs" } else { "GB/s" };
    format!("{} {unit}", shown(&scaled))
}

fn systems(peer: Option<&(PathBuf, PathBuf)>, world: usize, frame: usize) -> Result<Vec<System>> {
    let this = std::env::current_exe()?;
    let certs = tempfile::tempdir().context("no temporary folder")?;
    let authority = Authority::create(&certs.path().join("ca"), Validity::of_days(2))?;
    let node = "learner".parse()?;
    authority.issue(
        &node,
        &BTreeSet::from([Role::Learner]),
        Validity::of_days(1),
    )?;
    let folder = authority.node_folder(&node);
    let ours = |more: &[&str]| {
        let (this, more) = (this.clone(), more.iter().map(ToString::to_string));
        let more: Vec<String> = more.collect();
        move |rank: usize| {
            let mut command = Command::new(&this);
            command.arg("member").args(&more);
            command.args(["--rank", &rank.to_string(), "--world", &world.to_string()]);
            command.args(["--frame", &frame.to_string()]);
            command
        }
    };
    let folder = folder.to_string_lossy();
    let mut systems = vec![
        System::start("ring", CLOSE, world, ours(&[]))?,
        System::start("ring, TCP", CLOSE, world, ours(&["--tcp"]))?,
        System::start("TCP, bf16", CLOSE_BF16, world, ours(&["--tcp", "--bf16"]))?,
        System::start("TCP, TLS", CLOSE, world, ours(&["--certs", &folder]))?,
    ];
    if let Some((python, script)) = peer {
        systems.push(gloo(python, script, world)?);
    }
    Ok(systems)
}

fn gloo(python: &Path, script: &Path, world: usize) -> Result<System> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let store = folder.path().join("store");
    System::start("torch gloo", CLOSE, world, |rank| {
        let mut command = Command::new(python);
        command.arg(script).arg("--store").arg(&store);
        command.args(["--rank", &rank.to_string(), "--world", &world.to_string()]);
        command
    })
}
