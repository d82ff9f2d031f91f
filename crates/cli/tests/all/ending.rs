//! Runs and nodes that are asked to end, and go on.

use crate::support::{
    Cluster, LIMIT, NODES, output, said, send, small_run, swirl, tiny_model, wait_until,
};
use e2e::chaos::STOPPED;
use e2e::results::Results;
use e2e::stage::HEAD;
use std::path::Path;
use std::process::{Command, Stdio};

/// Steps of reinforcement learning, many more than are made before a checkpoint is due.
const STEPS: u64 = 150;

/// A small run that writes no checkpoint by itself while it trains.
fn without_checkpoints(model: &Path) -> String {
    let steps = format!("steps = {STEPS}\nstates_per_step");
    small_run(model)
        .replace("steps = 4\nstates_per_step", &steps)
        .replace("checkpoint_every = 1\n", "checkpoint_every = 100000\n")
}

/// The last step of the policy that was recorded; 0 before the first.
fn last_step(run: &Path) -> u64 {
    steps(run).last().copied().unwrap_or(0)
}

fn steps(run: &Path) -> Vec<u64> {
    let rows = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let rows = rows
        .lines()
        .filter_map(|row| serde_json::from_str::<serde_json::Value>(row).ok());
    let of_policy = rows.filter(|row| row["stage"] == "swirl-seed1");
    of_policy.filter_map(|row| row["step"].as_u64()).collect()
}

/// A checkpoint of the policy behind this step.
fn has_checkpoint(run: &Path, step: u64) -> bool {
    run.join(format!("checkpoints/swirl-seed1/step_{step}"))
        .exists()
}

#[test]
fn a_run_that_is_asked_to_end_goes_on_from_the_step_it_had_reached() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    for folder in [&whole, &stopped] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("c.toml"), without_checkpoints(&model)).unwrap();
    }
    assert!(output(&whole, &["run", "c.toml"]).status.success());

    let run = stopped.join("runs/small");
    let mut reached = 0;
    for how in ["TERM", "HUP", "INT", "swirl stop"] {
        let process = swirl(&stopped, &["run", "c.toml", "--resume"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| how, || last_step(&run) >= reached + 5);
        match how {
            "swirl stop" => {
                let asked = output(&stopped, &["stop", "runs/small"]);
                assert!(asked.status.success(), "{}", said(&asked));
                assert!(said(&asked).contains("Nothing works on runs/small any more"));
            }
            signal => send(signal, process.id()),
        }
        let ended = process.wait_with_output().unwrap();
        let text = said(&ended);
        assert_eq!(ended.status.code(), Some(STOPPED), "{how}: {text}");
        let now = last_step(&run);
        assert!(now >= reached + 5 && now < STEPS, "{how}: {now}");
        let expected = format!("stopped behind step {now}: go on with --resume");
        assert!(text.contains(&expected), "{how}: {text}");
        assert!(has_checkpoint(&run, now), "{how}: step {now}");
        reached = now;
    }
    assert!(
        output(&stopped, &["run", "c.toml", "--resume"])
            .status
            .success()
    );
    assert_eq!(
        steps(&run),
        (1..=STEPS).collect::<Vec<_>>(),
        "each step once"
    );
    let [whole, stopped] =
        [whole, stopped].map(|folder| Results::read(&folder.join("runs/small")).unwrap());
    println!("{}", whole.compare(&stopped, &model).unwrap());
}

#[test]
fn a_hangup_that_was_ignored_ends_nothing_and_a_run_that_is_over_cannot_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), without_checkpoints(&model)).unwrap();
    let run = dir.path().join("runs/small");
    // As nohup does.
    let process = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" run c.toml"])
        .arg(env!("CARGO_BIN_EXE_swirl"))
        .current_dir(dir.path())
        .env("OMP_NUM_THREADS", "1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| "it trains", || last_step(&run) >= 3);
    send("HUP", process.id());
    let before = last_step(&run);
    wait_until(|| "it goes on", || last_step(&run) >= before + 5);
    send("TERM", process.id());
    assert_eq!(
        process.wait_with_output().unwrap().status.code(),
        Some(STOPPED)
    );

    let refused = output(dir.path(), &["stop", "runs/small"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("no process works on runs/small"));
    let refused = output(dir.path(), &["stop", "runs/other"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("there is no run folder runs/other"));
}

#[test]
fn a_cluster_loses_no_step_when_its_learner_or_its_controller_is_asked_to_end() {
    let mut nodes = NODES.to_vec();
    nodes.push(("s2", "sampler"));
    let Some(mut cluster) = Cluster::new(without_checkpoints, &nodes) else {
        return;
    };
    let alone = Results::read(&cluster.run_alone()).unwrap();
    cluster.stage.start_all().unwrap();
    let run = cluster.stage.run_folder();
    wait_until(|| "it trains", || last_step(&run) >= 5);

    // The only learner: the controller has a checkpoint before it goes.
    let code = cluster.stage.end("l1", "TERM", LIMIT).unwrap();
    assert_eq!(code, Some(STOPPED), "{}", cluster.stage.tail("l1"));
    let kept = (5..=STEPS).rev().find(|step| has_checkpoint(&run, *step));
    let kept = kept.expect("a checkpoint was written");
    // The report of the step that the checkpoint is of may come after it.
    let made = last_step(&run).max(kept);
    assert!(made - kept <= 2, "{made} steps, and a checkpoint of {kept}");
    cluster.stage.start("l1").unwrap();
    wait_until(|| "it goes on", || last_step(&run) >= made + 5);
    assert!(!steps(&run).windows(2).any(|pair| pair[1] != pair[0] + 1));

    // A sampler, by an operator.
    let drained = cluster.ask(&["drain", "runs/small", "s2"]);
    assert!(drained.status.success(), "{}", said(&drained));
    assert_eq!(cluster.stage.left("s2", LIMIT).unwrap(), Some(0));
    assert!(cluster.stage.log("s2").contains("this node was drained"));
    let unknown = cluster.ask(&["drain", "runs/small", "s7"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("these are: "), "{}", said(&unknown));

    // The controller; the nodes wait for it.
    let before = last_step(&run);
    wait_until(|| "it goes on", || last_step(&run) >= before + 5);
    let code = cluster.stage.end(HEAD, "TERM", LIMIT).unwrap();
    assert_eq!(code, Some(STOPPED), "{}", cluster.stage.tail(HEAD));
    let reached = last_step(&run);
    assert!(has_checkpoint(&run, reached), "{reached}");
    cluster.stage.start_head().unwrap();
    wait_until(|| "it goes on", || last_step(&run) > reached);
    cluster.stage.finish(LIMIT).unwrap();
    assert_eq!(
        steps(&run),
        (1..=STEPS).collect::<Vec<_>>(),
        "each step once"
    );
    cluster.compare(&alone);
}
