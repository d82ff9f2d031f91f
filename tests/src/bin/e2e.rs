//! The same small run on one host, on several, and with `--chaos` on several that are disturbed: all
//! leave the same items and, up to rounding, the same trajectories and models behind.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::chaos::{self, Fault, Recovery, disturb, kill_head};
use e2e::hosts::Hosts;
use e2e::relay;
use e2e::results::Results;
use e2e::stage::{HEAD, Stage};
use e2e::tiny::{endless_generation, endless_training, longer_run, tiny_model};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Longer than any of the runs takes.
const LIMIT: Duration = Duration::from_secs(1200);

#[derive(Parser)]
struct Arguments {
    /// The program.
    #[arg(long)]
    swirl: PathBuf,
    /// Disturb the run in every way.
    #[arg(long)]
    chaos: bool,
    /// Leave out the undisturbed run over several hosts.
    #[arg(long, requires = "chaos")]
    only_chaos: bool,
    /// Keep everything in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let folder = arguments
        .keep
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let model = tiny_model(&folder).context("the default model is missing: cargo xtask setup")?;
    let config = folder.join("run.toml");
    std::fs::write(&config, longer_run(&model))?;
    let program = arguments.swirl.canonicalize()?;

    if arguments.chaos {
        let felt = sick(&program, &folder, &model)?;
        println!("sick nodes:\n\n{}", chaos::table(&felt));
    }
    let alone = alone(&program, &folder.join("alone"), &config)?;
    println!("one process: done");
    if !arguments.only_chaos {
        let calm = cluster(&program, &folder.join("calm"), &config, |_| Ok(Vec::new()))?;
        println!("six hosts: {}", alone.compare(&calm.0, &model)?);
    }
    if arguments.chaos {
        let (found, recoveries) = cluster(&program, &folder.join("chaos"), &config, storm)?;
        println!("disturbed: {}", alone.compare(&found, &model)?);
        println!("\n{}", chaos::table(&recoveries));
    }
    Ok(())
}

/// The run in one process.
fn alone(program: &Path, folder: &Path, config: &Path) -> Result<Results> {
    std::fs::create_dir_all(folder)?;
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg(config)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1");
    let run = command.output()?;
    ensure!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    Results::read(&folder.join("runs/small"))
}

/// The run on six hosts, disturbed by `faults`.
fn cluster(
    program: &Path,
    folder: &Path,
    config: &Path,
    faults: impl FnOnce(&mut Stage) -> Result<Vec<Recovery>>,
) -> Result<(Results, Vec<Recovery>)> {
    let mut stage = Stage::new(program, folder, config, Hosts::new())?;
    let nodes = [
        ("s1", "sampler"),
        ("s2", "sampler"),
        ("t1", "tool"),
        ("j1", "judge"),
        ("l1", "learner"),
    ];
    for (name, role) in nodes {
        stage.add(name, role)?;
    }
    stage.start_all()?;
    let recoveries = faults(&mut stage)?;
    stage.finish(LIMIT)?;
    Ok((Results::read(&stage.run_folder())?, recoveries))
}

/// Nodes that stay connected and do not work: samplers while trajectories are made, learners while they
/// train. What is wrong shows after minutes: these runs last for as long as it takes, and are ended then.
fn sick(program: &Path, folder: &Path, model: &Path) -> Result<Vec<Recovery>> {
    let mut felt = Vec::new();
    let cases = [
        ("sampler", "s2", endless_generation(model), "trajectories: "),
        ("learner", "l2", endless_training(model), "warm_start: "),
    ];
    for (role, name, text, progress) in cases {
        let config = folder.join(format!("sick-{role}.toml"));
        std::fs::write(&config, text)?;
        let at = folder.join(format!("sick-{role}"));
        let mut stage = Stage::new(program, &at, &config, Hosts::new())?;
        for (name, role) in [
            ("s1", "sampler"),
            ("s2", "sampler"),
            ("t1", "tool"),
            ("j1", "judge"),
            ("l1", "learner"),
            ("l2", "learner"),
        ] {
            stage.add(name, role)?;
        }
        stage.start_all()?;
        for fault in [Fault::Hang, Fault::HangAgain] {
            // By then it is known how long things take: the first of two lines may be of the beginning.
            let seen = stage.count(HEAD, progress) + 1;
            stage.wait_for(HEAD, progress, seen, LIMIT)?;
            felt.push(disturb(&mut stage, name, role, fault)?);
        }
    }
    Ok(felt)
}

fn storm(stage: &mut Stage) -> Result<Vec<Recovery>> {
    let mut felt = Vec::new();
    let engine = |role: &str, name: &str| {
        format!("An engine of another node joins. role={role} node={name}")
    };
    // Trajectories.
    stage.wait_for(HEAD, "phase=\"generate\"", 0, LIMIT)?;
    stage.wait_for(HEAD, &engine("sampler", "s1"), 0, LIMIT)?;
    for (name, role) in [("s1", "sampler"), ("t1", "tool"), ("j1", "judge")] {
        felt.push(disturb(stage, name, role, Fault::Kill)?);
    }
    felt.push(disturb(stage, "s2", "sampler", Fault::KillAndRestart)?);
    let all = [
        ("s1", "sampler"),
        ("s2", "sampler"),
        ("t1", "tool"),
        ("j1", "judge"),
    ];
    felt.push(kill_head(stage, &all)?);
    stage.add("s3", "sampler")?;
    felt.push(disturb(stage, "s3", "sampler", Fault::Add)?);
    stage.add("s4", "sampler")?;
    let far_away = relay::Path::new(Duration::from_millis(20), 10_000);
    stage.join_over("s4", Arc::new(far_away))?;
    felt.push(disturb(stage, "s4", "sampler", Fault::AddFarAway)?);
    if stage.hosts().are_apart() {
        felt.push(disturb(stage, "s2", "sampler", Fault::Cut)?);
    }
    felt.push(disturb(stage, "s1", "sampler", Fault::Slow)?);
    ensure!(
        stage.count(HEAD, "phase=\"filter\"") == 0,
        "the run was faster than its faults: make it longer"
    );
    felt.push(disturb(stage, "s3", "sampler", Fault::Leave)?);
    // Training, by one learner and then by two.
    stage.wait_for(HEAD, "imitation: ", 0, LIMIT)?;
    felt.push(disturb(stage, "l1", "learner", Fault::Kill)?);
    stage.wait_for(HEAD, "swirl-seed1: ", 0, LIMIT)?;
    felt.push(disturb(stage, "l1", "learner", Fault::KillAndRestart)?);
    stage.add("l2", "learner")?;
    felt.push(disturb(stage, "l2", "learner", Fault::Add)?);
    felt.push(disturb(stage, "l1", "learner", Fault::Kill)?);
    felt.push(disturb(stage, "s1", "sampler", Fault::Kill)?);
    let all = [("l1", "learner"), ("l2", "learner"), ("s1", "sampler")];
    felt.push(kill_head(stage, &all)?);
    if stage.hosts().are_apart() {
        felt.push(disturb(stage, "l2", "learner", Fault::Cut)?);
    }
    ensure!(
        stage.count(HEAD, "phase=\"evaluate\"") == 0,
        "training was faster than its faults: make it longer"
    );
    Ok(felt)
}
