//! A run over several processes, certificates and all. `cargo xtask e2e --chaos` is the long form.

use crate::support::{output, small_run, tiny_model};
use e2e::chaos::{Fault, disturb, kill_head};
use e2e::hosts::Hosts;
use e2e::results::Results;
use e2e::stage::{HEAD, Stage};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_cluster_that_loses_nodes_and_its_controller_ends_as_one_process_does() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let config = dir.path().join("c.toml");
    let longer =
        small_run(&model).replace("steps = 4\nstates_per_step", "steps = 150\nstates_per_step");
    std::fs::write(
        &config,
        longer.replace("checkpoint_every = 1", "checkpoint_every = 20"),
    )
    .unwrap();
    let alone = output(dir.path(), &["run", "c.toml"]);
    assert!(alone.status.success());
    let alone = Results::read(&dir.path().join("runs/small")).unwrap();

    let program = Path::new(env!("CARGO_BIN_EXE_swirl"));
    let folder = dir.path().join("cluster");
    let mut stage = Stage::new(program, &folder, &config, Hosts::new()).unwrap();
    for (name, role) in [
        ("s1", "sampler"),
        ("t1", "tool"),
        ("j1", "judge"),
        ("l1", "learner"),
    ] {
        stage.add(name, role).unwrap();
    }
    stage.start_all().unwrap();
    stage.wait_for(HEAD, "swirl-seed1: ", 0, LIMIT).unwrap();
    disturb(&mut stage, "s1", "sampler", Fault::KillAndRestart).unwrap();
    disturb(&mut stage, "l1", "learner", Fault::KillAndRestart).unwrap();
    kill_head(&mut stage, &[("l1", "learner"), ("s1", "sampler")]).unwrap();
    stage.finish(LIMIT).unwrap();
    let found = Results::read(&stage.run_folder()).unwrap();
    println!("{}", alone.compare(&found, &model).unwrap());
}
