//! Who gets in, what a run of days meets at its door, and what nobody reads.

use crate::support::{Cluster, LIMIT, NODES, small_run, swirl, tiny_model, two_ports, wait_until};
use e2e::stage::HEAD;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process whose stderr is a pipe that nobody reads, and who has much to say.
fn unread(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = swirl(folder, arguments);
    command.env("SWIRL_LOG", "trace");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Ends what runs when a test fails.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_run_whose_stderr_nobody_reads_loses_no_node_and_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    let certs = |arguments: &[&str]| {
        let done = swirl(dir.path(), arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    certs(&["certs", "init"]);
    certs(&["certs", "issue", "head", "--role", "controller"]);
    let roles = "sampler,tool,judge,learner";
    certs(&["certs", "issue", "n-1", "--role", roles]);
    let at = format!("127.0.0.1:{}", two_ports());
    let head = ["run", "c.toml", "--listen", &at, "--certs", "certs/head"];
    let node = [
        "node",
        "--role",
        roles,
        "--join",
        &at,
        "--certs",
        "certs/n-1",
        "--dir",
        "node",
        "--threads",
        "1",
    ];
    let mut running = Running(vec![unread(dir.path(), &head), unread(dir.path(), &node)]);
    wait_until(
        || "the run hangs",
        || running.0[0].try_wait().unwrap().is_some(),
    );
    let status = running.0[0].wait().unwrap();
    let log = std::fs::read_to_string(dir.path().join("runs/small/logs/swirl.log")).unwrap();
    assert!(status.success(), "{log}");
    assert!(!log.contains("A node is lost."), "{log}");
    assert!(log.lines().all(|line| line.starts_with("head ")), "{log}");
}

#[test]
fn a_node_that_is_shut_out_ends_and_the_run_goes_on_with_another() {
    let longer = |model: &Path| {
        small_run(model).replace("steps = 4\nstates_per_step", "steps = 60\nstates_per_step")
    };
    let Some(mut cluster) = Cluster::new(longer, &NODES) else {
        return;
    };
    let stage = &mut cluster.stage;
    stage.start_all().unwrap();
    stage.wait_for(HEAD, "swirl-seed1: ", 0, LIMIT).unwrap();
    // A certificate that is renewed meanwhile disturbs nobody.
    stage.renew("l1").unwrap();
    stage.revoke("s1").unwrap();
    stage
        .wait_for(HEAD, "A certificate was shut out", 0, LIMIT)
        .unwrap();
    assert_ne!(stage.left("s1", LIMIT).unwrap(), Some(0));
    assert!(
        stage.tail("s1").contains("shut out"),
        "{}",
        stage.tail("s1")
    );
    stage.add("s2", "sampler").unwrap();
    stage.start("s2").unwrap();
    stage.finish(LIMIT).unwrap();
    let lost = "A node is lost. node=l1";
    assert_eq!(stage.count(HEAD, lost), 0, "{}", stage.log(HEAD));
}

#[test]
fn two_processes_do_not_share_a_node_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("node")).unwrap();
    let lock = std::fs::File::create(dir.path().join("node/lock")).unwrap();
    lock.lock().unwrap();
    for arguments in [
        &["certs", "init"][..],
        &["certs", "issue", "n-1", "--role", "tool"],
    ] {
        assert!(swirl(dir.path(), arguments).status().unwrap().success());
    }
    let mut command: Command = swirl(
        dir.path(),
        &[
            "node",
            "--role",
            "tool",
            "--join",
            "127.0.0.1:1",
            "--certs",
            "certs/n-1",
            "--dir",
            "node",
        ],
    );
    let mut running = Running(vec![command.stderr(Stdio::piped()).spawn().unwrap()]);
    let mut said = String::new();
    let mut stderr = std::io::BufReader::new(running.0[0].stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
    assert!(said.contains("in use by another process"), "{said}");
    // Once the other one has ended, it goes on.
    drop(lock);
    said.clear();
    std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
    assert!(said.contains("looks for the controller"), "{said}");
}

#[test]
fn lines_are_json_on_request_and_so_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let run = swirl(dir.path(), &["--log-format", "json", "run", "none.toml"]);
    let out = { run }.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(!text.is_empty() && out.status.code() == Some(2), "{text}");
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object["fields"]["message"].is_string(), "{line}");
    }
}
