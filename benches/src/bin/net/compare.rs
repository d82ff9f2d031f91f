//! Rounds of all systems in turn, and a table of medians.

use crate::peer::Peer;
use crate::words::{Answer, Ask};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Bytes of the object: SmolLM2-135M in bf16.
const OBJECT: u64 = 270_000_000;

/// Takes what is shown out of an answer.
type Figure = fn(&Ask, &Answer) -> Option<f64>;

struct Measurement {
    name: &'static str,
    ask: Ask,
    /// How many of its peers' messages are enough: they are slower, and keep what they cannot send.
    peers: Ask,
    unit: &'static str,
    figure: Figure,
}

fn measurements(fewer: u64) -> Vec<Measurement> {
    let rate = |ask: &Ask, answer: &Answer| {
        let count = match *ask {
            Ask::Pipelined { count, .. } | Ask::Oneway { count, .. } => count,
            _ => return None,
        };
        Some(count as f64 / answer.seconds? / 1e3)
    };
    let bulk_rate = |ask: &Ask, answer: &Answer| match *ask {
        Ask::Bulk { bytes, receivers } => {
            Some(bytes as f64 * receivers as f64 / answer.seconds? / 1e9)
        }
        _ => None,
    };
    let sequential = |size, count| Ask::Sequential {
        size,
        count: count / fewer,
    };
    let pipelined = |size, count| Ask::Pipelined {
        size,
        count: count / fewer,
        window: 64,
    };
    let oneway = |size, count| Ask::Oneway {
        size,
        count: count / fewer,
    };
    let bulk = |receivers| Ask::Bulk {
        bytes: OBJECT / fewer / 8 * 8,
        receivers,
    };
    let measure = |name, ask, peers, unit, figure| Measurement {
        name,
        ask,
        peers,
        unit,
        figure,
    };
    let beats = |beside_bulk| Ask::Beats {
        count: 2_000 / fewer,
        beside_bulk,
    };
    let (alone, beside) = (beats(false), beats(true));
    let p50: Figure = |_, answer| answer.p50_us;
    let p99: Figure = |_, answer| answer.p99_us;
    vec![
        measure(
            "call, 256 B, p50",
            sequential(256, 20_000),
            sequential(256, 2_000),
            "µs",
            p50,
        ),
        measure(
            "call, 256 B, p99",
            sequential(256, 20_000),
            sequential(256, 2_000),
            "µs",
            p99,
        ),
        measure(
            "call, 64 KiB, p50",
            sequential(65_536, 4_000),
            sequential(65_536, 1_000),
            "µs",
            p50,
        ),
        measure(
            "calls, 256 B, 64 in flight",
            pipelined(256, 200_000),
            pipelined(256, 10_000),
            "k/s",
            rate,
        ),
        measure(
            "calls, 64 KiB, 64 in flight",
            pipelined(65_536, 10_000),
            pipelined(65_536, 3_000),
            "k/s",
            rate,
        ),
        measure(
            "one-way, 256 B",
            oneway(256, 2_000_000),
            oneway(256, 20_000),
            "k/s",
            rate,
        ),
        measure(
            "one-way, 64 KiB",
            oneway(65_536, 20_000),
            oneway(65_536, 5_000),
            "k/s",
            rate,
        ),
        measure(
            "heartbeat alone, p50",
            alone.clone(),
            alone.clone(),
            "µs",
            p50,
        ),
        measure("heartbeat alone, p99", alone.clone(), alone, "µs", p99),
        measure(
            "heartbeat beside full bulk, p50",
            beside.clone(),
            beside.clone(),
            "µs",
            p50,
        ),
        measure(
            "heartbeat beside full bulk, p99",
            beside.clone(),
            beside,
            "µs",
            p99,
        ),
        measure("270 MB to 1 receiver", bulk(1), bulk(1), "GB/s", bulk_rate),
        measure(
            "270 MB to 4 receivers",
            bulk(4),
            bulk(4),
            "GB/s in all",
            bulk_rate,
        ),
    ]
}

pub fn run(python: Option<(PathBuf, PathBuf)>, rounds: usize, fewer: u64) -> Result<()> {
    let this = std::env::current_exe()?;
    let mut peers = vec![
        Peer::start("swirl", Command::new(&this).arg("ours"))?,
        Peer::start("TCP", Command::new(&this).arg("tcp"))?,
    ];
    if let Some((python, script)) = python {
        let scripts = script.parent().context("a script lies in a folder")?;
        for (name, script) in [("Ray", "net_ray.py"), ("Monarch", "net_monarch.py")] {
            peers.push(Peer::start(
                name,
                Command::new(&python).arg(scripts.join(script)),
            )?);
        }
    }
    let measurements = measurements(fewer);
    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    // The first round warms up, and is not counted.
    for round in 0..=rounds {
        for (m, measurement) in measurements.iter().enumerate() {
            for (p, peer) in peers.iter_mut().enumerate() {
                let ask = match peer.name {
                    "swirl" | "TCP" => &measurement.ask,
                    _ => &measurement.peers,
                };
                // What stands beside bulk is a question of ours alone.
                if matches!(ask, Ask::Beats { .. }) && peer.name != "swirl" {
                    continue;
                }
                let answer = peer.ask(ask)?;
                if let Some(figure) = (measurement.figure)(ask, &answer)
                    && round > 0
                {
                    figures.entry((m, p)).or_default().push(figure);
                }
            }
        }
        eprintln!("round {round} of {rounds} is done");
    }
    let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
    println!(
        "| median [least, most] of {rounds} | {} |",
        names.join(" | ")
    );
    println!("|---|{}", "---|".repeat(names.len()));
    for (m, measurement) in measurements.iter().enumerate() {
        let cell = |p: usize| {
            figures
                .get(&(m, p))
                .map_or("–".to_owned(), |all| shown(all))
        };
        let cells: Vec<String> = (0..names.len()).map(cell).collect();
        println!(
            "| {}, {} | {} |",
            measurement.name,
            measurement.unit,
            cells.join(" | ")
        );
    }
    let json: Vec<_> = figures
        .iter()
        .map(|((m, p), all)| {
            let (what, unit) = (measurements[*m].name, measurements[*m].unit);
            serde_json::json!({"what": what, "unit": unit, "system": names[*p], "figures": all})
        })
        .collect();
    println!(
        "{}",
        serde_json::json!({"benchmark": "net", "rounds": rounds, "figures": json})
    );
    Ok(())
}

fn shown(figures: &[f64]) -> String {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let digits = |value: f64| match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
    let median = sorted[sorted.len() / 2];
    format!("{} [{}, {}]", digits(median), digits(least), digits(most))
}
