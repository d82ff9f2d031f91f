//! Steps of both kinds in turn, and a table of medians.

use crate::words::{Answer, Ask};
use crate::{Keeps, Run};
use anyhow::{Context, Result, bail};
use benches::figures::{median, shown};
use benches::program::Program;
use std::process::Command;

/// A step of all replicas.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Of the slowest.
    seconds: f64,
    /// How long the one waited for sums and weights that waited least: the others wait for it as well.
    waited: f64,
    /// Of the slowest.
    backward: f64,
}

pub fn run(run: &Run) -> Result<()> {
    if run.world < 2 {
        bail!("--world {}: a group has at least 2 members", run.world);
    }
    let both = [Keeps::Everything, Keeps::Shares];
    let chosen = both
        .into_iter()
        .filter(|keeps| run.keeps.is_none_or(|k| k == *keeps));
    println!(
        "| {} replicas, {} tokens each, median [least, most] of {} | step | backward pass | waited | share of the step |",
        run.world,
        run.sequences * run.length,
        run.rounds
    );
    println!("|---|---:|---:|---:|---:|");
    for keeps in chosen {
        measure(run, keeps)?;
    }
    Ok(())
}

fn measure(run: &Run, keeps: Keeps) -> Result<()> {
    let mut members = start(run, keeps)?;
    let mut found: [Vec<Step>; 2] = Default::default();
    // The first round warms up, and is not counted.
    for round in 0..=run.rounds {
        for (late, steps) in found.iter_mut().enumerate() {
            let step = step(&mut members, late == 1)?;
            if round > 0 {
                steps.push(step);
            }
        }
        eprintln!("{keeps:?}: round {round} of {} is done", run.rounds);
    }
    let _ = ask_all(&mut members, |_| Ask::Compare)?;
    let state = match keeps {
        Keeps::Everything => "all of the optimizer's state",
        Keeps::Shares => "shares of it",
    };
    for (when, steps) in ["beside the backward pass", "after it"].iter().zip(&found) {
        row(&format!("{state}, sums {when}"), steps);
    }
    Ok(())
}

fn row(name: &str, steps: &[Step]) {
    let figures = |of: fn(&Step) -> f64| steps.iter().map(of).collect::<Vec<f64>>();
    println!(
        "| {name} | {} s | {} s | {} s | {} % |",
        shown(&figures(|s| s.seconds)),
        shown(&figures(|s| s.backward)),
        shown(&figures(|s| s.waited)),
        shown(&figures(|s| 100.0 * s.waited / s.seconds)),
    );
    let all = |of: fn(&Step) -> f64| {
        let figures = figures(of);
        serde_json::json!({"all": figures, "median": median(&figures)})
    };
    eprintln!(
        "{}",
        serde_json::json!({
            "benchmark": "replicas",
            "name": name,
            "step_seconds": all(|s| s.seconds),
            "waited_seconds": all(|s| s.waited),
            "backward_seconds": all(|s| s.backward),
        })
    );
}

fn start(run: &Run, keeps: Keeps) -> Result<Vec<Program>> {
    let this = std::env::current_exe()?;
    let start = |rank: usize| {
        let mut command = Command::new(&this);
        command.arg("member").arg(&run.model);
        for (name, value) in [
            ("--rank", rank),
            ("--world", run.world),
            ("--threads", run.threads as usize),
            ("--sequences", run.sequences),
            ("--length", run.length),
        ] {
            command.args([name, &value.to_string()]);
        }
        if keeps == Keeps::Shares {
            command.arg("--shares");
        }
        Program::start(&format!("replica {rank}"), &mut command)
    };
    let mut members: Vec<Program> = (0..run.world).map(start).collect::<Result<_>>()?;
    let ready = ask_all(&mut members, |_| Ask::Ready)?;
    let addresses: Option<Vec<_>> = ready.iter().map(|answer| answer.address).collect();
    let addresses = addresses.context("every replica listens")?;
    let met = ask_all(&mut members, |rank| Ask::Meet {
        next: addresses[(rank + 1) % run.world],
    })?;
    eprintln!("{} replicas compute in {}", run.world, met[0].kind);
    Ok(members)
}

fn step(members: &mut [Program], late: bool) -> Result<Step> {
    let answers = ask_all(members, |_| Ask::Step { late })?;
    let of = |name: &'static str| {
        let value = |answer: &Answer| answer.values.get(name).copied().unwrap_or(f64::NAN);
        answers.iter().map(value).collect::<Vec<f64>>()
    };
    let most = |name| of(name).into_iter().fold(0.0, f64::max);
    Ok(Step {
        seconds: most("step_seconds"),
        waited: of("reduce_seconds")
            .into_iter()
            .fold(f64::INFINITY, f64::min),
        backward: most("backward_seconds"),
    })
}

fn ask_all(members: &mut [Program], ask: impl Fn(usize) -> Ask) -> Result<Vec<Answer>> {
    for (rank, member) in members.iter_mut().enumerate() {
        member.tell(&ask(rank))?;
    }
    members.iter_mut().map(Program::hear).collect()
}
