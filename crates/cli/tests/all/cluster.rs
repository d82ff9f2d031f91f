//! A run over several processes, certificates and all. `cargo xtask e2e --chaos` is the long form.

use crate::support::{Cluster, LIMIT, NODES, output, small_run, tiny_model, two_ports};
use e2e::chaos::{Fault, disturb, kill_head};
use e2e::results::Results;
use e2e::stage::HEAD;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn a_cluster_that_loses_nodes_and_its_controller_ends_as_one_process_does() {
    let longer = |model: &Path| {
        small_run(model)
            .replace("steps = 4\nstates_per_step", "steps = 150\nstates_per_step")
            .replace("checkpoint_every = 1", "checkpoint_every = 20")
    };
    let Some(mut cluster) = Cluster::new(longer, &NODES) else {
        return;
    };
    let alone = Results::read(&cluster.run_alone()).unwrap();
    let stage = &mut cluster.stage;
    stage.start_all().unwrap();
    stage.wait_for(HEAD, "swirl-seed1: ", 0, LIMIT).unwrap();
    disturb(stage, "s1", "sampler", Fault::KillAndRestart).unwrap();
    disturb(stage, "l1", "learner", Fault::KillAndRestart).unwrap();
    kill_head(stage, &[("l1", "learner"), ("s1", "sampler")]).unwrap();
    stage.finish(LIMIT).unwrap();
    cluster.compare(&alone);
}

#[test]
fn doctor_looks_at_every_host_and_the_ways_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = |name: &str, host: &str, roles: &str| {
        format!("[[nodes]]\nname = {name:?}\nhost = {host:?}\nroles = [{roles}]\n")
    };
    let hosts = format!(
        "controller = \"127.0.0.1\"\nport = {}\nswirl = {:?}\ndir = {:?}\n\
         ssh = [\"sh\", \"-c\", \"test $0 = here && exec bash -s\"]\n{}{}{}",
        two_ports(),
        env!("CARGO_BIN_EXE_swirl"),
        dir.path().join("nodes"),
        node("l1", "here", "\"learner\""),
        node("s1", "here", "\"sampler\""),
        node("s2", "gone", "\"sampler\""),
    );
    std::fs::write(dir.path().join("hosts.toml"), hosts).unwrap();
    let out = output(dir.path(), &["doctor", "--cluster", "hosts.toml", "--json"]);
    assert_eq!(out.status.code(), Some(1), "s2 is not there");
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let has = |what: &str, status: &str, says: &str| {
        let is_it = |f: &&serde_json::Value| {
            f["what"] == what
                && f["status"] == status
                && f["found"].as_str().unwrap().contains(says)
        };
        assert!(findings.iter().any(|f| is_it(&f)), "{what}: {json}");
    };
    has("s2", "problem", "could not be started");
    has("l1", "ok", "learner: ");
    has("s1 from here", "ok", "B/s");
    has("l1 from s1", "ok", "B/s");
    has("s1 from l1", "ok", "B/s");
    let pairs = json["cluster"]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    for pair in pairs {
        assert!(
            pair["way"]["Ok"]["bytes_per_second"].as_f64().unwrap() > 2e6,
            "{pair}"
        );
    }
}

/// A Slurm of this machine alone, as `cluster/slurm/one-machine.sh` makes it.
struct Slurm {
    script: PathBuf,
    folder: PathBuf,
}

impl Slurm {
    /// None where Debian's slurm-wlm and munge are not installed.
    fn start(folder: PathBuf) -> Option<Self> {
        let is_there = |program: &str| {
            let mut ask = Command::new("sh");
            ask.args(["-c", &format!("command -v {program}")]);
            ask.output().is_ok_and(|said| said.status.success())
        };
        if !["slurmctld", "slurmd", "munged", "sbatch"]
            .iter()
            .all(|p| is_there(p))
        {
            eprintln!("skipped: slurm-wlm and munge are not installed");
            return None;
        }
        let script = root().join("cluster/slurm/one-machine.sh");
        let slurm = Self { script, folder };
        assert!(slurm.is_done("start"), "one-machine.sh start");
        Some(slurm)
    }

    fn is_done(&self, what: &str) -> bool {
        let mut command = Command::new(&self.script);
        let status = command.arg(what).arg(&self.folder).status();
        status.is_ok_and(|status| status.success())
    }

    /// Submits a run and waits for its end.
    fn run(&self, folder: &Path, config: &str) -> Output {
        let mut sbatch = Command::new("sbatch");
        sbatch
            .args([
                "--wait",
                "--ntasks=5",
                "--cpus-per-task=1",
                "--output=job.log",
            ])
            .arg(root().join("cluster/slurm/job.sbatch"))
            .arg(config)
            .current_dir(folder)
            .env("SLURM_CONF", self.folder.join("slurm.conf"))
            .env("SWIRL", env!("CARGO_BIN_EXE_swirl"))
            .env("SWIRL_RANK_SH", root().join("cluster/slurm/rank.sh"));
        sbatch.output().unwrap()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if !self.is_done("stop") {
            eprintln!("Slurm may be left behind: {}", self.folder.display());
        }
    }
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

#[test]
fn a_job_of_slurm_ends_as_one_process_does() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(model), Some(slurm)) = (
        tiny_model(dir.path()),
        Slurm::start(dir.path().join("slurm")),
    ) else {
        return;
    };
    let (alone, job) = (dir.path().join("alone"), dir.path().join("job"));
    for folder in [&alone, &job] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("c.toml"), small_run(&model)).unwrap();
    }
    assert!(output(&alone, &["run", "c.toml"]).status.success());
    let done = slurm.run(&job, "c.toml");
    let log = std::fs::read_to_string(job.join("job.log")).unwrap_or_default();
    assert!(done.status.success(), "{done:?}\n{log}");
    let [alone, job] = [alone, job].map(|f| Results::read(&f.join("runs/small")).unwrap());
    println!("{}", alone.compare(&job, &model).unwrap());
}
