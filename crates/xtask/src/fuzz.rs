//! `cargo xtask fuzz`: libFuzzer against what a peer can send.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::Paths;
use crate::process;

/// The programs of `tests/fuzz`; what each checks stands at its top.
const TARGETS: [&str; 3] = ["frames", "messages", "certificates"];

/// What libFuzzer watches, as the stable compiler can be told.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Longest input in bytes, and the memory in MB that a program may take with it.
const LONGEST: u32 = 1 << 16;
const MEMORY_MB: u32 = 1024;

/// Runs every fuzzer for so many minutes, side by side.
///
/// # Errors
/// When one finds an input that breaks what it checks; the input is kept beside its corpus.
pub fn run(paths: &Paths, minutes: u64) -> Result<()> {
    let target = paths.root.join("target/fuzz");
    let corpus = target.join("corpus");
    let cargo = |verb| {
        let mut cargo = process::cargo();
        cargo.current_dir(paths.root.join("tests/fuzz"));
        cargo.args([verb, "--release", "--target-dir"]).arg(&target);
        cargo
    };
    // Without what libFuzzer watches, which is of no use to it.
    let mut seeds = cargo("run");
    seeds.args(["--bin", "seeds", "--"]).arg(&corpus);
    process::run("the first inputs", &mut seeds)?;
    let triple = host()?;
    let mut build = cargo("build");
    // For the programs alone: with a target named, build scripts are not built with it.
    build.args(["--target", &triple]).env("RUSTFLAGS", COVERAGE);
    build.args(TARGETS.iter().flat_map(|name| ["--bin", name]));
    process::run("building the fuzzers", &mut build)?;
    let programs = target.join(&triple).join("release");
    let running: Vec<(&str, Child)> = TARGETS
        .into_iter()
        .map(|name| {
            Ok((
                name,
                start(&programs.join(name), &corpus.join(name), minutes)?,
            ))
        })
        .collect::<Result<_>>()?;
    let mut broken = Vec::new();
    for (name, mut child) in running {
        let status = child.wait()?;
        let log = fs::read_to_string(log_of(&corpus.join(name)))?;
        // The last lines are its statistics, or what went wrong.
        let last: Vec<&str> = log.lines().rev().take(12).collect();
        println!("{name}:");
        last.iter().rev().for_each(|line| println!("    {line}"));
        if !status.success() {
            broken.push(name);
        }
    }
    match broken[..] {
        [] => Ok(()),
        _ => bail!(
            "{} found something: the inputs lie in {}",
            broken.join(", "),
            corpus.display()
        ),
    }
}

fn log_of(corpus: &Path) -> std::path::PathBuf {
    corpus.with_extension("log")
}

fn start(program: &Path, corpus: &Path, minutes: u64) -> Result<Child> {
    let log = fs::File::create(log_of(corpus))?;
    Command::new(program)
        .arg(corpus)
        .arg(format!("-artifact_prefix={}-", corpus.display()))
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg("-print_final_stats=1")
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))
}

/// The platform that the compiler runs on, in its own words.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = process::output("asking the compiler", Command::new(rustc).arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("the compiler does not say what it runs on")?;
    ensure!(
        !host.is_empty(),
        "the compiler does not say what it runs on"
    );
    Ok(host.to_owned())
}
