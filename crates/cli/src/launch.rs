//! `swirl launch`: a run whose nodes are started over ssh.
//!
//! This machine leads; each node's certificate is made here and sent along, so a host needs nothing
//! but ssh and the program. Whatever a signal or a broken connection ended is started again.

use crate::args::LaunchArgs;
use crate::config::{self, Config};
use crate::console;
use crate::usage::UsageError;
use anyhow::{Context, Result, bail};
use control::backoff::Backoff;
use proto::{NodeName, Role};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use transport::certs::{Authority, Validity};

/// Waits before something is started again, in milliseconds.
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = 30_000;

/// What ran for so long was no failure of its start.
const STEADY: Duration = Duration::from_secs(60);

/// Starts that may fail one after the other.
const STARTS: u32 = 10;

/// How long nodes may take to end once the run is done.
const DISMISSAL: Duration = Duration::from_secs(30);

/// The hosts of a run, as a file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    /// Where nodes reach this machine: a host name or an address.
    controller: String,
    /// UDP port of the control lane; data goes to the next.
    #[serde(default = "default_port")]
    port: u16,
    /// The program on every host.
    #[serde(default = "default_swirl")]
    swirl: String,
    /// What starts a command on a host: it gets the host and the command line.
    #[serde(default = "default_ssh")]
    ssh: Vec<String>,
    /// The folder of certificates on this machine.
    #[serde(default = "default_certs")]
    certs: PathBuf,
    /// The folder of a node on its host; a relative one is relative to the user's home.
    #[serde(default = "default_dir")]
    dir: String,
    /// The nodes.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: NodeName,
    /// What ssh is told: `gpu-1` or `user@10.0.0.7`.
    host: String,
    roles: BTreeSet<Role>,
    #[serde(default = "default_device")]
    device: String,
    #[serde(default)]
    threads: usize,
}

fn default_port() -> u16 {
    7400
}

fn default_swirl() -> String {
    "swirl".into()
}

fn default_ssh() -> Vec<String> {
    ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5"]
        .map(str::to_owned)
        .to_vec()
}

fn default_certs() -> PathBuf {
    "certs".into()
}

fn default_dir() -> String {
    ".cache/swirl/nodes".into()
}

fn default_device() -> String {
    "auto".into()
}

/// Runs the run to its end.
///
/// # Errors
/// When the hosts' file or the configuration is wrong, a certificate cannot be made, the controller
/// fails, or a node keeps failing.
pub async fn run(args: LaunchArgs) -> Result<ExitCode> {
    let hosts = Hosts::read(&args.hosts)?;
    let loaded = config::load(&args.configs, &args.set)?;
    check(&hosts, &loaded.config)?;
    hosts.certify()?;
    let mut tasks = JoinSet::new();
    for node in &hosts.nodes {
        tasks.spawn(keep_node(hosts.start_of(node)?));
    }
    let mut head = std::pin::pin!(keep_head(controller(&args, &hosts)?));
    let code = loop {
        tokio::select! {
            biased;
            code = &mut head => break code?,
            // A node that is refused, or cannot be started, is not there to be waited for.
            Some(ended) = tasks.join_next() => ended??,
        }
    };
    let rest = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DISMISSAL, rest).await.is_err() {
        console::remark(format_args!(
            "Some nodes did not end by themselves and are left."
        ));
    }
    Ok(code)
}

/// Refuses hosts that are not what the configuration waits for.
fn check(hosts: &Hosts, config: &Config) -> Result<(), UsageError> {
    let wanted = &config.cluster.wait_for;
    let wanted = [
        (Role::Sampler, wanted.sampler),
        (Role::Tool, wanted.tool),
        (Role::Judge, wanted.judge),
        (Role::Learner, wanted.learner),
    ];
    for (role, wanted) in wanted {
        let there = hosts
            .nodes
            .iter()
            .filter(|node| node.roles.contains(&role))
            .count();
        if there < wanted && !config.cluster.here.contains(&role) {
            return Err(UsageError::new(format!(
                "the run waits for {wanted} nodes with the role {role}, and the hosts' file has \
                 {there}: add some, set cluster.wait_for.{role}, or have this machine do it \
                 (cluster.here)"
            )));
        }
    }
    Ok(())
}

/// The controller's name in its certificate.
const HEAD: &str = "controller";

fn controller(args: &LaunchArgs, hosts: &Hosts) -> Result<Vec<std::ffi::OsString>> {
    let mut words: Vec<std::ffi::OsString> = vec!["run".into()];
    words.extend(args.configs.iter().map(|path| path.as_os_str().to_owned()));
    for setting in &args.set {
        words.extend(["--set".into(), setting.into()]);
    }
    words.extend(["--listen".into(), hosts.listen().into()]);
    let certs = hosts.controller_certs().into_os_string();
    words.extend(["--certs".into(), certs, "--resume".into()]);
    Ok(words)
}

/// Runs the controller; again, where a signal ended it.
async fn keep_head(words: Vec<std::ffi::OsString>) -> Result<ExitCode> {
    let program = std::env::current_exe()?;
    let mut backoff = Backoff::new(FIRST_WAIT_MS, LONGEST_WAIT_MS);
    for _ in 0..STARTS {
        let mut command = Command::new(&program);
        let status = command.args(&words).kill_on_drop(true).status().await?;
        if let Some(code) = status.code() {
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        console::remark(format_args!(
            "The controller ended ({status}) and is started again."
        ));
        tokio::time::sleep(Duration::from_millis(backoff.failed(1.0))).await;
    }
    bail!("the controller was ended by a signal {STARTS} times")
}

/// What starts something on a host.
pub struct Start {
    /// The node that it is.
    pub name: NodeName,
    ssh: Vec<String>,
    /// Puts the certificate, which it reads as lines of shell, where it belongs; then runs it.
    script: String,
}

impl Hosts {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there, or not what is expected of it.
    pub fn read(path: &Path) -> Result<Self, UsageError> {
        let usage =
            |error: &dyn std::fmt::Display| UsageError::new(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| usage(&error))?;
        let hosts: Self = toml::from_str(&text).map_err(|error| usage(&error))?;
        hosts.check().map_err(|error| usage(&error))?;
        Ok(hosts)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for node in &self.nodes {
            let name = &node.name;
            if !names.insert(name) {
                return Err(format!("two nodes are called {name}"));
            }
            if node.roles.is_empty() || node.roles.contains(&Role::Controller) {
                return Err(format!(
                    "{name}: roles are one or more of sampler, tool, judge and learner"
                ));
            }
        }
        match self.ssh.is_empty() {
            true => Err("ssh: name a command".to_owned()),
            false => Ok(()),
        }
    }

    /// Makes what is missing of the authority and the certificates.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn certify(&self) -> Result<()> {
        let authority = match self.certs.join("ca.pem").exists() {
            true => Authority::open(&self.certs)?,
            false => Authority::create(&self.certs, Validity::of_days(Validity::AUTHORITY_DAYS))?,
        };
        let head: NodeName = HEAD.parse()?;
        let head = (head, BTreeSet::from([Role::Controller]));
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.roles.clone()));
        for (name, roles) in nodes.chain([head]) {
            if !authority.node_folder(&name).exists() {
                authority.issue(&name, &roles, Validity::of_days(Validity::NODE_DAYS))?;
            }
        }
        Ok(())
    }

    /// Where this machine listens.
    pub fn listen(&self) -> String {
        format!("0.0.0.0:{}", self.port)
    }

    /// The folder of this machine's certificate.
    pub fn controller_certs(&self) -> PathBuf {
        self.certs.join(HEAD)
    }

    /// The names of the nodes.
    pub fn names(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.name.to_string())
            .collect()
    }

    /// What has every host checked.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn doctors(&self) -> Result<Vec<Start>> {
        let doctor = |node: &Node| {
            let (dir, join) = (self.dir_of(node), self.join());
            let certs = quoted(&format!("{dir}/certs"));
            let command = format!("doctor --join {} --certs {certs}", quoted(&join));
            self.start(node, &command)
        };
        self.nodes.iter().map(doctor).collect()
    }

    fn join(&self) -> String {
        format!("{}:{}", self.controller, self.port)
    }

    fn dir_of(&self, node: &Node) -> String {
        format!("{}/{}", self.dir, node.name)
    }

    fn start_of(&self, node: &Node) -> Result<Start> {
        let dir = self.dir_of(node);
        let roles: Vec<&str> = node.roles.iter().map(|role| role.name()).collect();
        let command = format!(
            "node --role {} --join {} --certs {} --dir {} --device {} --threads {}",
            roles.join(","),
            quoted(&self.join()),
            quoted(&format!("{dir}/certs")),
            quoted(&dir),
            quoted(&node.device),
            node.threads
        );
        self.start(node, &command)
    }

    fn start(&self, node: &Node, command: &str) -> Result<Start> {
        let name = &node.name;
        let folder = self.certs.join(name.as_str());
        let dir = self.dir_of(node);
        let mut script = format!("set -e; umask 077; mkdir -p {0}/certs\n", quoted(&dir));
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            let path = folder.join(file);
            let pem = std::fs::read_to_string(&path);
            let pem = pem.with_context(|| format!("cannot read {}", path.display()))?;
            script += &format!(
                "cat > {} <<'END-OF-PEM'\n{}\nEND-OF-PEM\n",
                quoted(&format!("{dir}/certs/{file}")),
                pem.trim_end()
            );
        }
        script += &format!("exec {} {command}\n", quoted(&self.swirl));
        let mut ssh = self.ssh.clone();
        ssh.extend([node.host.clone(), "bash -s".to_owned()]);
        Ok(Start {
            name: name.clone(),
            ssh,
            script,
        })
    }
}

impl Start {
    /// Runs it and waits for its end.
    ///
    /// # Errors
    /// When what starts things on hosts cannot be started itself.
    pub async fn run(&self) -> Result<ExitStatus> {
        let mut command = Command::new(&self.ssh[0]);
        command
            .args(&self.ssh[1..])
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let mut child: Child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.ssh[0]))?;
        if let Some(mut input) = child.stdin.take() {
            // A host that cannot be reached says so by its exit code.
            let _ = input.write_all(self.script.as_bytes()).await;
        }
        Ok(child.wait().await?)
    }
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs a node until it is dismissed; again, when it or the connection to its host breaks.
///
/// # Errors
/// When it cannot be started many times in a row.
async fn keep_node(start: Start) -> Result<()> {
    let mut backoff = Backoff::new(FIRST_WAIT_MS, LONGEST_WAIT_MS);
    let mut failures = 0;
    while failures < STARTS {
        let began = Instant::now();
        let status = start.run().await?;
        if status.success() {
            return Ok(());
        }
        // A node whose engine stays sick gets work ever more rarely: it is started again without end.
        if began.elapsed() >= STEADY || status.code() == Some(crate::cluster::SICK) {
            (failures, backoff) = (0, Backoff::new(FIRST_WAIT_MS, LONGEST_WAIT_MS));
        }
        failures += 1;
        let name = &start.name;
        console::remark(format_args!(
            "Node {name} ended ({status}) and is started again."
        ));
        tokio::time::sleep(Duration::from_millis(backoff.failed(1.0))).await;
    }
    bail!(
        "node {} could not be started {STARTS} times in a row: see what was said above",
        start.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = r#"
        controller = "10.0.0.1"
        [[nodes]]
        name = "gpu-1"
        host = "user@gpu-1"
        roles = ["sampler", "tool", "judge", "learner"]
    "#;

    fn config(set: &[&str]) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[run]\nname = \"r\"\n[questions]\npath = \"q\"\n").unwrap();
        let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
        config::load(&[file], &set).unwrap().config
    }

    #[test]
    fn a_file_of_hosts_is_checked_before_anything_is_started() {
        let hosts: Hosts = toml::from_str(HOSTS).unwrap();
        assert!(check(&hosts, &config(&[])).is_ok());
        let two = config(&["cluster.wait_for.sampler=2"]);
        let error = check(&hosts, &two).unwrap_err().to_string();
        assert!(
            error.contains("waits for 2") && error.contains("has 1"),
            "{error}"
        );
        let here = config(&["cluster.wait_for.sampler=2", "cluster.here=[\"sampler\"]"]);
        assert!(check(&hosts, &here).is_ok());
        let mut twice: Hosts = toml::from_str(HOSTS).unwrap();
        twice.nodes.push(twice.nodes[0].clone());
        assert!(twice.check().is_err());
        assert!(toml::from_str::<Hosts>(&HOSTS.replace("host =", "hst =")).is_err());
        assert!(
            toml::from_str::<Hosts>(
                &HOSTS.replace("gpu-1\"\n        host", "GPU 1\"\n        host")
            )
            .is_err()
        );
    }

    #[test]
    fn words_for_a_shell_stay_words() {
        let run = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted("a 'b' $(c) \"d\""))])
            .output()
            .unwrap();
        assert_eq!(run.stdout, b"a 'b' $(c) \"d\"");
    }
}
