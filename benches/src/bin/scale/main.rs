//! `cargo xtask bench scale`: how the controller grows with the cluster.
//!
//! A real controller hands out items to real nodes over QUIC with mutual TLS, every item is sampled,
//! has its tool called, is judged step by step and stored. Only the samplers are made up: each takes
//! its time and computes nothing. The controller is a process of its own, so that its processor time
//! and memory are its alone; nodes share a few processes, for a thousand of their own do not fit on
//! one machine.

mod controller;
mod made_up;
mod nodes;
mod usage;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use controller::{Job, Measured};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use transport::certs::{Authority, Validity};

/// As in the program `swirl`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure
    Run {
        /// For the common way of starting benchmarks; this one needs no model.
        model: Option<PathBuf>,
        /// Sizes of the cluster.
        #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
        samplers: Vec<usize>,
        #[command(flatten)]
        job: Job,
        /// Processes that the nodes share.
        #[arg(long, default_value_t = 4)]
        processes: usize,
    },
    /// The controller; not for people.
    #[command(hide = true)]
    Controller {
        #[arg(long)]
        certs: PathBuf,
        #[arg(long)]
        samplers: usize,
        #[command(flatten)]
        job: Job,
    },
    /// Some nodes; not for people.
    #[command(hide = true)]
    Nodes(nodes::Nodes),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Verb::Run {
            samplers,
            job,
            processes,
            ..
        } => run(&samplers, &job, processes.max(1)),
        Verb::Controller {
            certs,
            samplers,
            job,
        } => controller::run(&certs, samplers, &job),
        Verb::Nodes(nodes) => nodes::run(&nodes),
    }
}

/// A process that is spoken to by lines; ended when it is dropped.
struct Helper {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Helper {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("it was asked for above")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line)?;
        ensure!(read > 0, "a process ended early: see what it said above");
        Ok(line.trim().to_owned())
    }

    fn go_on(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut();
        Ok(writeln!(input.context("it was asked for above")?)?)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(sizes: &[usize], job: &Job, processes: usize) -> Result<()> {
    let largest = sizes.iter().copied().max().context("--samplers is empty")?;
    let certs = tempfile::tempdir()?;
    eprintln!("issuing {largest} certificates");
    let authority = Authority::create(&certs.path().join("ca"), Validity::of_days(2))?;
    authority.issue(
        &"controller".parse()?,
        &[proto::Role::Controller].into(),
        Validity::of_days(1),
    )?;
    for number in 0..largest {
        let name = nodes::name(number);
        authority.issue(&name, &nodes::roles(), Validity::of_days(1))?;
    }
    let mut all = Vec::new();
    for &size in sizes {
        let (measured, per_node) = one(&authority, size, job, processes)
            .with_context(|| format!("with {size} samplers"))?;
        all.push((size, measured, per_node));
    }
    println!(
        "| samplers | items in flight, most | items | items/s | controller: µs of processor an item \
         | memory, idle | memory, most | a heartbeat's µs of processor | an idle node's memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (size, m, per_node) in &all {
        println!(
            "| {size} | {} | {} | {:.0} | {:.0} | {:.0} MB | {:.0} MB | {:.0} | {:.0} KB |",
            m.most_in_flight,
            m.items,
            m.items as f64 / m.seconds,
            m.busy_seconds / m.items as f64 * 1e6,
            m.idle_bytes as f64 / 1e6,
            m.most_bytes as f64 / 1e6,
            m.idle_busy_share / (*size as f64 * controller::BEATS_PER_SECOND) * 1e6,
            per_node / 1e3,
        );
    }
    let json: Vec<_> = all
        .iter()
        .map(|(size, measured, per_node)| {
            serde_json::json!({"samplers": size, "controller": measured, "node_bytes": per_node})
        })
        .collect();
    println!(
        "{}",
        serde_json::json!({"benchmark": "scale", "sizes": json})
    );
    Ok(())
}

/// Measures a cluster of one size: the controller's figures, and the bytes of an idle node.
fn one(authority: &Authority, size: usize, job: &Job, processes: usize) -> Result<(Measured, f64)> {
    let this = std::env::current_exe()?;
    let mut controller = Command::new(&this);
    controller.arg("controller").arg("--certs");
    controller.arg(authority.node_folder(&"controller".parse()?));
    controller.args(["--samplers", &size.to_string()]);
    controller.args(job.arguments());
    let mut controller = Helper::start(&mut controller)?;
    let address = controller.line()?;
    let mut hosts = Vec::new();
    for process in 0..processes.min(size) {
        let (first, end) = (size * process / processes, size * (process + 1) / processes);
        hosts.push(host(&this, authority, &address, first..end, job)?);
    }
    let before: Vec<u64> = hosts.iter_mut().map(resident).collect::<Result<_>>()?;
    for host in &mut hosts {
        host.go_on()?;
    }
    ensure!(
        controller.line()? == "idle",
        "the controller is out of step"
    );
    let after: Vec<u64> = hosts
        .iter_mut()
        .map(|host| Ok(usage::resident(host.child.id())?))
        .collect::<Result<_>>()?;
    controller.go_on()?;
    let measured: Measured = serde_json::from_str(&controller.line()?)?;
    let grown = after.iter().sum::<u64>() as f64 - before.iter().sum::<u64>() as f64;
    eprintln!("{size} samplers: {measured:?}");
    Ok((measured, grown / size as f64))
}

fn host(
    program: &Path,
    authority: &Authority,
    address: &str,
    numbers: std::ops::Range<usize>,
    job: &Job,
) -> Result<Helper> {
    let mut command = Command::new(program);
    command.args(["nodes", "--join", address]);
    command.args(["--first", &numbers.start.to_string()]);
    command.args(["--end", &numbers.end.to_string()]);
    command.args(["--takes-ms", &job.takes_ms.to_string()]);
    command.args(["--credits", &job.items_per_sampler.to_string()]);
    let any = authority.node_folder(&nodes::name(0));
    command.arg("--certs");
    command.arg(any.parent().context("a certificate lies in a folder")?);
    Helper::start(&mut command)
}

/// What a host's process holds in memory before it has a node.
fn resident(host: &mut Helper) -> Result<u64> {
    ensure!(host.line()? == "ready", "a host is out of step");
    Ok(usage::resident(host.child.id())?)
}
