//! Rounds of all systems in turn, and a table of medians.

use crate::words::{Answer, Ask, BeatLane};
use anyhow::{Context, Result};
use benches::figures::shown;
use benches::program::Program;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Bytes of the object: SmolLM2-135M in bf16.
const OBJECT: u64 = 270_000_000;

/// Bytes of a large message.
const LARGE: usize = 64 << 10;

/// swirl's transport, and what the machine does with neither TLS nor frames.
const OURS: &str = "swirl";
const PLAIN: &str = "plain UDP or TCP";

/// Takes what is shown out of an answer.
type Figure = fn(&Ask, &Answer) -> Option<f64>;

struct Measurement {
    name: &'static str,
    ask: Ask,
    /// How many of its peers' messages are enough: they are slower, and keep what they cannot send.
    /// None where it is a question of ours alone.
    peers: Option<Ask>,
    /// What is shown of each answer, and in which unit.
    shown: &'static [(&'static str, Figure)],
}

const TIMES: &[(&str, Figure)] = &[
    ("p50, µs", |_, answer| answer.p50_us),
    ("p99, µs", |_, answer| answer.p99_us),
];

const RATE: &[(&str, Figure)] = &[("k/s", |ask, answer| match *ask {
    Ask::Pipelined { count, .. } | Ask::Oneway { count, .. } => {
        Some(count as f64 / answer.seconds? / 1e3)
    }
    _ => None,
})];

const BULK_RATE: &[(&str, Figure)] = &[("GB/s in all", |ask, answer| match *ask {
    Ask::Bulk { bytes, receivers } => Some(bytes as f64 * receivers as f64 / answer.seconds? / 1e9),
    _ => None,
})];

fn pipelined(size: usize, count: u64) -> Ask {
    Ask::Pipelined {
        size,
        count,
        window: 64,
    }
}

fn measurements(fewer: u64) -> Vec<Measurement> {
    let both = |name, shown, ask: fn(u64) -> Ask, ours: u64, peers: u64| Measurement {
        name,
        ask: ask(ours / fewer),
        peers: Some(ask(peers / fewer)),
        shown,
    };
    let beats = |name, lane, beside_bulk| Measurement {
        name,
        ask: Ask::Beats {
            count: 2_000 / fewer,
            lane,
            beside_bulk,
        },
        peers: None,
        shown: TIMES,
    };
    let (control, data) = (BeatLane::Control, BeatLane::Data);
    let sequential = |count| Ask::Sequential { size: 256, count };
    vec![
        both("call, 256 B", TIMES, sequential, 20_000, 2_000),
        both(
            "call, 64 KiB",
            TIMES,
            |count| Ask::Sequential { size: LARGE, count },
            4_000,
            1_000,
        ),
        both(
            "calls, 256 B, 64 in flight",
            RATE,
            |count| pipelined(256, count),
            200_000,
            10_000,
        ),
        both(
            "calls, 64 KiB, 64 in flight",
            RATE,
            |count| pipelined(LARGE, count),
            10_000,
            3_000,
        ),
        both(
            "one-way, 256 B",
            RATE,
            |count| Ask::Oneway { size: 256, count },
            2_000_000,
            20_000,
        ),
        both(
            "one-way, 64 KiB",
            RATE,
            |count| Ask::Oneway { size: LARGE, count },
            20_000,
            5_000,
        ),
        beats("heartbeat alone", control, false),
        beats("heartbeat beside full bulk", control, true),
        beats("call every 2 ms alone", data, false),
        beats("call every 2 ms beside full bulk", data, true),
        both(
            "270 MB to 1 receiver",
            BULK_RATE,
            |bytes| Ask::Bulk {
                bytes: bytes / 8 * 8,
                receivers: 1,
            },
            OBJECT,
            OBJECT,
        ),
        both(
            "270 MB to 4 receivers",
            BULK_RATE,
            |bytes| Ask::Bulk {
                bytes: bytes / 8 * 8,
                receivers: 4,
            },
            OBJECT,
            OBJECT,
        ),
    ]
}

fn start(name: &str, command: &mut Command) -> Result<Program> {
    let mut program = Program::start(name, command)?;
    let ready: Answer = program.ask(&Ask::Ready)?;
    eprintln!("{name} {} is ready", ready.version.unwrap_or_default());
    Ok(program)
}

fn checked(program: &mut Program, ask: &Ask) -> Result<Answer> {
    let answer: Answer = program.ask(ask)?;
    if answer.unsupported.is_none() {
        ask.check(&answer)
            .with_context(|| program.name().to_owned())?;
    }
    Ok(answer)
}

pub fn run(python: Option<(PathBuf, PathBuf)>, rounds: usize, fewer: u64) -> Result<()> {
    let this = std::env::current_exe()?;
    let mut peers = vec![
        start(OURS, Command::new(&this).arg("ours"))?,
        start(PLAIN, Command::new(&this).arg("plain"))?,
    ];
    if let Some((python, script)) = python {
        let scripts = script.parent().context("a script lies in a folder")?;
        for (name, script) in [("Ray", "net_ray.py"), ("Monarch", "net_monarch.py")] {
            let mut command = Command::new(&python);
            peers.push(start(name, command.arg(scripts.join(script)))?);
        }
    }
    let measurements = measurements(fewer);
    // By measurement, by what is shown of it, by system.
    let mut figures: BTreeMap<(usize, usize, usize), Vec<f64>> = BTreeMap::new();
    // The first round warms up, and is not counted.
    for round in 0..=rounds {
        for (m, measurement) in measurements.iter().enumerate() {
            for (p, peer) in peers.iter_mut().enumerate() {
                let ask = match peer.name() {
                    OURS => Some(&measurement.ask),
                    PLAIN => measurement.peers.is_some().then_some(&measurement.ask),
                    _ => measurement.peers.as_ref(),
                };
                let Some(ask) = ask else { continue };
                let answer = checked(peer, ask)?;
                for (f, (_, figure)) in measurement.shown.iter().enumerate() {
                    if let Some(figure) = figure(ask, &answer)
                        && round > 0
                    {
                        figures.entry((m, f, p)).or_default().push(figure);
                    }
                }
            }
        }
        eprintln!("round {round} of {rounds} is done");
    }
    let names: Vec<&str> = peers.iter().map(Program::name).collect();
    println!(
        "| median [least, most] of {rounds} | {} |",
        names.join(" | ")
    );
    println!("|---|{}", "---|".repeat(names.len()));
    for (m, measurement) in measurements.iter().enumerate() {
        for (f, (what, _)) in measurement.shown.iter().enumerate() {
            let cell = |p: usize| {
                let all = figures.get(&(m, f, p));
                all.map_or("–".to_owned(), |all| shown(all))
            };
            let cells: Vec<String> = (0..names.len()).map(cell).collect();
            println!("| {}, {what} | {} |", measurement.name, cells.join(" | "));
        }
    }
    let json: Vec<_> = figures
        .iter()
        .map(|((m, f, p), all)| {
            let measurement = &measurements[*m];
            let (what, shown) = (measurement.name, measurement.shown[*f].0);
            serde_json::json!({"what": what, "shown": shown, "system": names[*p], "figures": all})
        })
        .collect();
    println!(
        "{}",
        serde_json::json!({"benchmark": "net", "rounds": rounds, "figures": json})
    );
    Ok(())
}
