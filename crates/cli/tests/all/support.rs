//! The binary under test, and clusters of it.

use e2e::hosts::Hosts;
use e2e::results::Results;
use e2e::stage::Stage;
pub use e2e::tiny::{real_model, small_run, tiny_model};
use std::fmt::Display;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than any of these runs takes, with others beside it.
pub const LIMIT: Duration = Duration::from_secs(300);

/// One node of each role.
pub const NODES: [(&str, &str); 4] = [
    ("s1", "sampler"),
    ("t1", "tool"),
    ("j1", "judge"),
    ("l1", "learner"),
];

/// The binary, to be run in `folder`.
pub fn swirl(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swirl"));
    command
        .args(args)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .env_remove("SWIRL_LOG");
    command
}

/// Runs the binary to its end.
pub fn output(folder: &Path, args: &[&str]) -> Output {
    swirl(folder, args).output().unwrap()
}

/// A UDP port that is free, and so is the next.
pub fn two_ports() -> u16 {
    let bind = |port| UdpSocket::bind(("127.0.0.1", port));
    loop {
        let socket = bind(0).unwrap();
        let port = socket.local_addr().unwrap().port();
        if port < u16::MAX && bind(port + 1).is_ok() {
            return port;
        }
    }
}

/// Polls until something is so, or fails with what `what` says.
pub fn wait_until<S: Display>(what: impl Fn() -> S, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a process.
pub fn send(signal: &str, id: u32) {
    let words = [format!("-{signal}"), id.to_string()];
    let sent = Command::new("kill").args(words).status();
    assert!(sent.unwrap().success());
}

/// Text of a program's stderr.
pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A configuration, and a cluster of real processes to run it on.
pub struct Cluster {
    /// The model that the run starts from.
    pub model: PathBuf,
    /// The processes; none is started yet.
    pub stage: Stage,
    dir: TempDir,
}

impl Cluster {
    /// Of a controller and these nodes, each on a host of its own; `None` without a model.
    pub fn new(
        config: impl FnOnce(&Path) -> String,
        nodes: &[(&str, &'static str)],
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let model = tiny_model(dir.path())?;
        let path = dir.path().join("c.toml");
        std::fs::write(&path, config(&model)).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_swirl"));
        let folder = dir.path().join("cluster");
        let mut stage = Stage::new(program, &folder, &path, Hosts::new()).unwrap();
        for (name, role) in nodes {
            stage.add(name, role).unwrap();
        }
        Some(Self { model, stage, dir })
    }

    /// Runs the same configuration in one process; its run folder.
    pub fn run_alone(&self) -> PathBuf {
        let alone = output(self.dir.path(), &["run", "c.toml"]);
        assert!(alone.status.success(), "{}", said(&alone));
        self.dir.path().join("runs/small")
    }

    /// A command of the binary where the cluster's run folder is `runs/small`; its end.
    pub fn ask(&self, args: &[&str]) -> Output {
        output(&self.dir.path().join("cluster"), args)
    }

    /// The cluster's run, which has ended, is held against one in a single process.
    pub fn compare(&self, alone: &Results) {
        let found = Results::read(&self.stage.run_folder()).unwrap();
        println!("{}", alone.compare(&found, &self.model).unwrap());
    }
}
