//! A cluster of real processes.

use crate::hang::Hang;
use crate::hosts::Hosts;
use crate::relay;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often something is looked for.
const POLL: Duration = Duration::from_millis(50);

/// The controller's name.
pub const HEAD: &str = "head";

/// The processes of a run, their hosts and files.
pub struct Stage {
    program: PathBuf,
    folder: PathBuf,
    hosts: Hosts,
    port: u16,
    config: PathBuf,
    nodes: BTreeMap<String, Node>,
    head: Option<Child>,
    /// Relays run as long as they are here.
    relays: Vec<tokio::runtime::Runtime>,
}

struct Node {
    role: &'static str,
    /// Where it finds the controller.
    join: Ipv4Addr,
    process: Option<Child>,
}

impl Stage {
    /// A stage in a folder, with the certificates of a controller.
    ///
    /// # Errors
    /// When hosts or certificates cannot be made.
    pub fn new(program: &Path, folder: &Path, config: &Path, mut hosts: Hosts) -> Result<Self> {
        std::fs::create_dir_all(folder.join("logs"))?;
        hosts.add(HEAD)?;
        let stage = Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            port: free_ports()?,
            hosts,
            config: config.to_owned(),
            nodes: BTreeMap::new(),
            head: None,
            relays: Vec::new(),
        };
        stage.swirl(&["certs", "init", "--dir", "certs"])?;
        stage.issue(HEAD, "controller")?;
        Ok(stage)
    }

    /// Adds a node, on a host of its own.
    ///
    /// # Errors
    /// When its host or its certificate cannot be made.
    pub fn add(&mut self, name: &str, role: &'static str) -> Result<()> {
        self.hosts.add(name)?;
        self.issue(name, role)?;
        let node = Node {
            role,
            join: self.hosts.address(HEAD)?,
            process: None,
        };
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Has a node find the controller over a path of its own, which a relay makes worse.
    ///
    /// # Errors
    /// When there is no such node, or the relay cannot be started.
    pub fn join_over(&mut self, name: &str, path: Arc<relay::Path>) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        // On the loopback it needs another address for the same ports.
        let at = match self.hosts.are_apart() {
            true => self.hosts.outside(),
            false => Ipv4Addr::new(127, 0, 0, 2),
        };
        let head = self.hosts.address(HEAD)?;
        for port in [self.port, self.port + 1] {
            runtime.block_on(relay::relay(at, head, port, path.clone()))?;
        }
        self.relays.push(runtime);
        self.node(name)?.join = at;
        Ok(())
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The run folder.
    pub fn run_folder(&self) -> PathBuf {
        self.folder.join("runs/small")
    }

    /// What a process has logged so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    fn issue(&self, name: &str, role: &str) -> Result<()> {
        self.swirl(&["certs", "issue", name, "--role", role, "--dir", "certs"])
    }

    fn swirl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        let run = command.args(arguments).current_dir(&self.folder).output()?;
        ensure!(
            run.status.success(),
            "swirl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&run.stderr)
        );
        Ok(())
    }

    fn node(&mut self, name: &str) -> Result<&mut Node> {
        let node = self.nodes.get_mut(name);
        node.with_context(|| format!("there is no node {name}"))
    }

    fn spawn(&self, name: &str, arguments: &[String]) -> Result<Child> {
        let log = || -> Result<File> {
            let path = self.log_path(name);
            Ok(OpenOptions::new().create(true).append(true).open(path)?)
        };
        let mut command = self.hosts.command(name, &self.program);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("OMP_NUM_THREADS", "1")
            .env("SWIRL_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?);
        Ok(command.spawn()?)
    }

    /// Starts the controller; on a folder where it was before, it goes on.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_head(&mut self) -> Result<()> {
        let at = match self.hosts.are_apart() {
            true => Ipv4Addr::UNSPECIFIED,
            false => Ipv4Addr::LOCALHOST,
        };
        let (port, config) = (self.port, self.config.display());
        let words = format!("run {config} --listen {at}:{port} --certs certs/{HEAD} --resume");
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        self.head = Some(self.spawn(HEAD, &words)?);
        Ok(())
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.start_with(name, "")
    }

    /// Starts a node with more arguments.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_with(&mut self, name: &str, more: &str) -> Result<()> {
        let port = self.port;
        let Node { role, join, .. } = *self.node(name)?;
        let words = format!(
            "node --role {role} --join {join}:{port} --certs certs/{name} --dir nodes/{name} \
             --threads 1 {more}"
        );
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let process = self.spawn(name, &words)?;
        self.node(name)?.process = Some(process);
        Ok(())
    }

    /// Starts everything.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        self.start_head()?;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        names.iter().try_for_each(|name| self.start(name))
    }

    /// Kills a process without a word (SIGKILL).
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let process = match name {
            HEAD => self.head.take(),
            name => self.node(name)?.process.take(),
        };
        let mut process = process.with_context(|| format!("{name} is not running"))?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&mut self, name: &str, signal: &str) -> Result<()> {
        let process = self.node(name)?.process.as_ref();
        let id = process
            .with_context(|| format!("{name} is not running"))?
            .id();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id.to_string()])
            .status()?;
        ensure!(sent.success(), "{name} takes no SIG{signal}");
        Ok(())
    }

    /// Has the device of a node hang, until what is returned is dropped.
    ///
    /// # Errors
    /// When it is not running, or the system does not let its threads be held.
    pub fn hang(&mut self, name: &str) -> Result<Hang> {
        let process = self.node(name)?.process.as_ref();
        Hang::of(
            process
                .with_context(|| format!("{name} is not running"))?
                .id(),
        )
    }

    /// Asks a process to end, by a signal, and waits until it has; its exit code.
    ///
    /// # Errors
    /// When it is not running, or does not end within `limit`.
    pub fn end(&mut self, name: &str, signal: &str, limit: Duration) -> Result<Option<i32>> {
        let process = match name {
            HEAD => self.head.take(),
            name => self.node(name)?.process.take(),
        };
        let process = process.with_context(|| format!("{name} is not running"))?;
        let id = process.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status()?;
        ensure!(sent.success(), "{name} takes no SIG{signal}");
        self.ended(name, process, limit)
    }

    /// Waits until a node has ended by itself; its exit code.
    ///
    /// # Errors
    /// When it is not running, or does not end within `limit`.
    pub fn left(&mut self, name: &str, limit: Duration) -> Result<Option<i32>> {
        let process = self.node(name)?.process.take();
        let process = process.with_context(|| format!("{name} is not running"))?;
        self.ended(name, process, limit)
    }

    fn ended(&self, name: &str, mut process: Child, limit: Duration) -> Result<Option<i32>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() >= end {
                process.kill()?;
                process.wait()?;
                let seconds = limit.as_secs();
                bail!(
                    "{name} did not end within {seconds} s:\n{}",
                    self.tail(name)
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a process has logged `text` more than `seen` times.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or the controller ended.
    pub fn wait_for(&mut self, name: &str, text: &str, seen: usize, limit: Duration) -> Result<()> {
        let what = format!("{text:?}");
        self.wait_for_lines(name, &what, |line| line.contains(text), seen, limit)
    }

    /// Waits until a process has logged more than `seen` lines of a kind, which `what` says in words.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or the controller ended.
    pub fn wait_for_lines(
        &mut self,
        name: &str,
        what: &str,
        is_one: impl Fn(&str) -> bool,
        seen: usize,
        limit: Duration,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while self.count_lines(name, &is_one) <= seen {
            if let Some(head) = &mut self.head
                && let Some(status) = head.try_wait()?
            {
                bail!("the controller ended ({status}):\n{}", self.tail(HEAD));
            }
            if Instant::now() >= end {
                bail!(
                    "{name} did not log {what} within {} s:\n{}\nthe controller:\n{}",
                    limit.as_secs(),
                    self.tail(name),
                    self.tail(HEAD)
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Number of lines a process has logged that hold `text`.
    pub fn count(&self, name: &str, text: &str) -> usize {
        self.count_lines(name, |line| line.contains(text))
    }

    /// Number of lines of a kind that a process has logged.
    pub fn count_lines(&self, name: &str, is_one: impl Fn(&str) -> bool) -> usize {
        self.log(name).lines().filter(|line| is_one(line)).count()
    }

    /// The end of a log.
    pub fn tail(&self, name: &str) -> String {
        let log = self.log(name);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Shuts a node out of the run.
    ///
    /// # Errors
    /// When the list of those shut out cannot be written.
    pub fn revoke(&self, name: &str) -> Result<()> {
        self.swirl(&["certs", "revoke", name, "--dir", "certs"])
    }

    /// Makes a node another certificate, in the place of the one it runs with.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renew(&self, name: &str) -> Result<()> {
        self.swirl(&["certs", "renew", name, "--dir", "certs"])
    }

    /// Whether the controller is done.
    ///
    /// # Errors
    /// When it failed.
    pub fn is_done(&mut self) -> Result<bool> {
        let head = self
            .head
            .as_mut()
            .context("the controller is not running")?;
        match head.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("the controller failed ({status}):\n{}", self.tail(HEAD)),
        }
    }

    /// Waits until the run is done and every node has been dismissed.
    ///
    /// # Errors
    /// When it fails, a node does not end well, or it takes longer than `limit`.
    pub fn finish(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.is_done()? {
            if Instant::now() >= end {
                let seconds = limit.as_secs();
                bail!(
                    "the run was not done within {seconds} s:\n{}",
                    self.tail(HEAD)
                );
            }
            std::thread::sleep(POLL);
        }
        self.head = None;
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let Some(mut process) = self.node(&name)?.process.take() else {
                continue;
            };
            let end = Instant::now() + Duration::from_secs(30);
            let status = loop {
                if let Some(status) = process.try_wait()? {
                    break status;
                }
                if Instant::now() >= end {
                    process.kill()?;
                    bail!("{name} was not dismissed:\n{}", self.tail(&name));
                }
                std::thread::sleep(POLL);
            };
            ensure!(
                status.success(),
                "{name} ended with {status}:\n{}",
                self.tail(&name)
            );
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let nodes = self
            .nodes
            .values_mut()
            .filter_map(|node| node.process.as_mut());
        for process in self.head.iter_mut().chain(nodes) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Two UDP ports in a row that nobody uses, on the loopback.
fn free_ports() -> Result<u16> {
    for _ in 0..100 {
        let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        let next = port.checked_add(1);
        if let Some(next) = next
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, next)).is_ok()
        {
            return Ok(port);
        }
    }
    bail!("no two UDP ports in a row are free")
}
