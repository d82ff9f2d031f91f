//! Learners on three nodes, of which one is killed in the middle of a sum, one comes, and one is cut off;
//! one that others cannot dial; and learners that keep shares of the optimizer's state, of which one is
//! killed.

use crate::support::{Cluster, LIMIT, NODES, small_run, wait_until};
use e2e::results::Results;
use e2e::stage::{HEAD, Stage};
use std::path::Path;
use std::time::{Duration, Instant};

/// How far losses of the same step may be apart where sums are rounded otherwise.
const NOISE: f64 = 1e-4;

/// Steps of the arm.
const STEPS: usize = 300;

/// The arm that is disturbed.
const ARM: &str = "warm_start";

/// A value of every step of the arm.
fn curve(run: &Path, value: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        (row["stage"] == ARM).then(|| row[value].as_f64().unwrap_or(f64::NAN))
    });
    rows.collect()
}

/// Waits until more steps are made than now; how long that took.
fn next_step(stage: &Stage) -> Duration {
    let steps = || curve(&stage.run_folder(), "loss").len();
    let (before, began) = (steps(), Instant::now());
    let what = || format!("no step is made:\n{}", stage.tail(HEAD));
    wait_until(what, || steps() > before);
    began.elapsed()
}

/// How often a group of these many learners has formed.
fn groups(stage: &Stage, size: usize) -> usize {
    let log = stage.log(HEAD);
    let groups = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("A group of learners stands.")?;
        rest.split_once("replicas=")
    });
    groups
        .filter(|(_, names)| names.split(", ").count() == size)
        .count()
}

fn wait_for_group(stage: &Stage, size: usize, seen: usize) {
    let what = || format!("no group of {size}:\n{}", stage.tail(HEAD));
    wait_until(what, || groups(stage, size) > seen);
}

/// A training of one learner, and the same on three nodes.
struct Training {
    alone: (Results, Vec<f64>),
    cluster: Cluster,
}

impl Training {
    /// Trains alone, and begins on three nodes; `None` without a model to train.
    fn begin(checkpoint_every: u32, settings: &str) -> Option<Self> {
        let longer = |model: &Path| {
            let section = "[warm_start.learner]";
            small_run(model)
                .replace(
                    "steps = 4\nbatch = 2\ncheckpoint_every = 2",
                    &format!("steps = {STEPS}\nbatch = 4\ncheckpoint_every = {checkpoint_every}"),
                )
                .replace(section, &format!("{section}\n{settings}"))
        };
        let mut nodes = NODES.to_vec();
        nodes.extend([("l2", "learner"), ("l3", "learner")]);
        let mut cluster = Cluster::new(longer, &nodes)?;
        let run = cluster.run_alone();
        let alone = (Results::read(&run).unwrap(), curve(&run, "loss"));
        cluster.stage.start_all().unwrap();
        wait_for_group(&cluster.stage, 3, 0);
        next_step(&cluster.stage);
        Some(Self { alone, cluster })
    }

    /// How often groups of two and of three have formed.
    fn seen(&self) -> (usize, usize) {
        (
            groups(&self.cluster.stage, 2),
            groups(&self.cluster.stage, 3),
        )
    }

    /// To its end, which is that of the training alone, by steps of two and of three.
    fn finish(&mut self) {
        let steps = curve(&self.cluster.stage.run_folder(), "loss").len();
        assert!(
            steps < STEPS,
            "the run was faster than its faults: make it longer"
        );
        self.cluster.stage.finish(LIMIT).unwrap();
        let run = self.cluster.stage.run_folder();
        let found = Results::read(&run).unwrap();
        let apart = self.alone.0.apart(&found, &self.cluster.model).unwrap();
        println!("of their training, models are apart: {apart:?}");
        assert!(apart[ARM] <= NOISE, "{apart:?}");
        let losses = curve(&run, "loss");
        assert_eq!(losses.len(), STEPS, "each step once");
        for (step, (loss, alone)) in losses.iter().zip(&self.alone.1).enumerate() {
            let is_close = (loss - alone).abs() <= NOISE;
            assert!(is_close, "step {step}: {loss} and {alone}");
        }
        let replicas = curve(&run, "replicas");
        for size in [2.0, 3.0] {
            assert!(replicas.contains(&size), "no step of {size}: {replicas:?}");
        }
    }
}

#[test]
fn learners_that_are_lost_and_come_back_train_as_one_does() {
    let Some(mut training) = Training::begin(50, "compare_replicas_every = 1") else {
        return;
    };
    // In mid sum: the others cannot end a step without it, and are killed from by then.
    let seen = training.seen();
    let stage = &mut training.cluster.stage;
    stage.signal("l2", "STOP").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    stage.kill("l2").unwrap();
    let on = next_step(stage);
    wait_for_group(stage, 2, seen.0);
    stage.start("l2").unwrap();
    wait_for_group(stage, 3, seen.1);
    println!(
        "two go on {:.1} s after the loss of the third",
        on.as_secs_f64()
    );

    if stage.hosts().are_apart() {
        let seen = training.seen();
        let stage = &mut training.cluster.stage;
        stage.hosts().set_link("l1", false).unwrap();
        wait_for_group(stage, 2, seen.0);
        next_step(stage);
        stage.hosts().set_link("l1", true).unwrap();
        wait_for_group(stage, 3, seen.1);
    }
    training.finish();
    let compared = curve(&training.cluster.stage.run_folder(), "replicas_compared");
    let compared = compared.iter().filter(|compared| **compared == 1.0).count();
    assert!(
        compared > STEPS / 2,
        "{compared} comparisons of all weights"
    );
}

/// It gives an address that leads nowhere (RFC 5737): both others name it in the end, whatever its rank.
#[test]
fn a_learner_that_others_cannot_dial_is_left_out() {
    let Some(mut training) = Training::begin(50, "compare_replicas_every = 1") else {
        return;
    };
    let seen = training.seen();
    let stage = &mut training.cluster.stage;
    stage.kill("l2").unwrap();
    wait_for_group(stage, 2, seen.0);
    stage.start_with("l2", "--address 192.0.2.1").unwrap();
    let began = Instant::now();
    let said = "The other learners cannot meet one";
    let what = || format!("nobody is left out:\n{}", stage.tail(HEAD));
    wait_until(what, || stage.count(HEAD, said) > 0);
    next_step(stage);
    println!(
        "it is left out after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let log = stage.log(HEAD);
    let mut lines = log.lines().filter(|line| line.contains(said));
    assert!(lines.all(|line| line.contains("node=l2")), "{log}");
    training.finish();
}

/// Nobody has the whole of the optimizer's state: all begin again from the newest checkpoint, and one
/// that comes is let in at the next.
#[test]
fn learners_that_keep_shares_go_on_from_a_checkpoint() {
    let Some(mut training) = Training::begin(20, "shard_optimizer = true") else {
        return;
    };
    let run = training.cluster.stage.run_folder();
    let what = || "30 steps are not made";
    wait_until(what, || curve(&run, "loss").len() >= 30);
    let seen = training.seen();
    let stage = &mut training.cluster.stage;
    stage.kill("l2").unwrap();
    wait_for_group(stage, 2, seen.0);
    stage.start("l2").unwrap();
    wait_for_group(stage, 3, seen.1);
    training.finish();
}
