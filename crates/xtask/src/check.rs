//! `cargo xtask test`: every check of the project, each timed.
//!
//! Lints come before tests: they read the dependencies' metadata only, and tell of an error
//! minutes earlier. Both share the build scripts, of which the C++ one of libtorch's bindings is
//! the longest. Tests are built once, together with the program that imports the model they need.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::swirl::{self, Build};
use crate::tally::Tally;
use crate::{process, setup, tidy};

/// One kind of check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// `cargo fmt --check`
    Fmt,
    /// The project's own rules: crate borders, banned macros, documented crates and configurations
    Tidy,
    /// `cargo clippy`, warnings are errors
    Lint,
    /// Unit, integration and documentation tests
    Unit,
    /// `cargo deny check`, when cargo-deny is installed
    Deny,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Fmt, Self::Tidy, Self::Lint, Self::Unit, Self::Deny];

    /// Whether the stage compiles what links libtorch.
    fn needs_libtorch(self) -> bool {
        matches!(self, Self::Lint | Self::Unit)
    }
}

/// Runs all stages, or the one asked for; a failure does not keep later stages from running.
///
/// # Errors
/// When a stage fails.
pub fn run(paths: &Paths, only: Option<Stage>) -> Result<()> {
    let stages: Vec<_> = Stage::ALL
        .into_iter()
        .filter(|s| only.is_none_or(|o| o == *s))
        .collect();
    let mut rows = Vec::new();
    if stages.iter().any(|stage| stage.needs_libtorch()) {
        println!("== setup");
        let start = Instant::now();
        setup::libtorch(paths, None)?;
        rows.push(("setup".to_owned(), "ok", start.elapsed()));
    }
    let mut tally = None;
    for stage in stages {
        let name = format!("{stage:?}").to_lowercase();
        println!("== {name}");
        let start = Instant::now();
        let result = perform(paths, stage, &mut tally);
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        rows.push((
            name,
            if result.is_ok() { "ok" } else { "FAILED" },
            start.elapsed(),
        ));
    }
    print!("{}", table(&rows));
    if let Some(tally) = tally {
        println!("{tally}");
    }
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| row.1 != "ok")
        .map(|row| row.0.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn perform(paths: &Paths, stage: Stage, tally: &mut Option<Tally>) -> Result<()> {
    match stage {
        Stage::Fmt => {
            let mut fmt = cargo(paths, &["fmt", "--all", "--check"]);
            process::run("formatting (`cargo fmt --all` mends it)", &mut fmt)
        }
        Stage::Tidy => tidy::run(paths),
        Stage::Lint => {
            let clippy = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ];
            process::run("clippy", &mut cargo(paths, &clippy))
        }
        Stage::Unit => tests(paths, tally),
        Stage::Deny if process::succeeds("cargo-deny", &["--version"]) => {
            process::run("cargo deny", &mut cargo(paths, &["deny", "check"]))
        }
        Stage::Deny => {
            println!("skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
            Ok(())
        }
    }
}

/// One row per stage, printed last, so that the figures stand together.
fn table(rows: &[(String, &str, Duration)]) -> String {
    let rows = rows
        .iter()
        .map(|(name, result, time)| format!("{name:<8}{result:<8}{:>14}\n", process::human(*time)));
    std::iter::once("\n".to_owned()).chain(rows).collect()
}

fn cargo(paths: &Paths, arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(&paths.root).args(arguments);
    cargo
}

fn tests(paths: &Paths, tally: &mut Option<Tally>) -> Result<()> {
    if std::env::var_os("SWIRL_TEST_DATA").is_none() {
        println!("SWIRL_TEST_DATA is not set: tests on real data sets are skipped");
    }
    if let Err(error) = setup::nccl(paths) {
        println!("tests that load NVIDIA's NCCL are skipped: {error:#}");
    }
    let program = swirl::build(paths, Build::DevWithTests)?;
    setup::model_with(paths, || Ok(program))?;
    let documented = with_doc_tests(&paths.root.join("crates"))?;
    let units = if process::succeeds("cargo-nextest", &["--version"]) {
        let run = [
            "nextest",
            "run",
            "--workspace",
            "--all-targets",
            "--no-fail-fast",
        ];
        process::run("tests", &mut cargo(paths, &run))
    } else {
        let tally = tally.get_or_insert_default();
        let run = [
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ];
        let mut command = cargo(paths, &run);
        command.args(["--no-fail-fast", "--", "--show-output"]);
        counted("tests", sleepy(&mut command), tally)
    };
    let docs = if documented.is_empty() {
        Ok(())
    } else {
        // The whole workspace, though few crates have any: for a selection of packages cargo would
        // choose other features for their dependencies and build those once more.
        let mut command = cargo(paths, &["test", "--doc", "--workspace", "--no-fail-fast"]);
        // nextest has counted the others in its own closing line.
        let mut apart = Tally::default();
        let counts = tally.as_mut().unwrap_or(&mut apart);
        counted("documentation tests", &mut command, counts)
    };
    units.and(docs)
}

/// Lets OpenMP's threads sleep while they wait: tests run side by side, each with a thread per core,
/// and threads that spin would take the cores from those that work.
fn sleepy(command: &mut Command) -> &mut Command {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if std::env::var_os(POLICY).is_none() {
        command.env(POLICY, "passive");
    }
    command
}

/// Runs tests, shows what is worth reading of their output and counts them.
fn counted(what: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| process::cannot_start(what, command))?;
    let output = child
        .stdout
        .take()
        .context("the output was asked for above")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("{what}: reading the output"))?;
        if let Some(line) = tally.line(&String::from_utf8_lossy(&line)) {
            println!("{line}");
        }
    }
    if !child.wait()?.success() {
        bail!("{what} failed");
    }
    Ok(())
}

/// The crates with a code block in a documentation comment of their library.
fn with_doc_tests(crates: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (path, text) in tidy::rust_files(crates)? {
        let Ok(inside) = path.strip_prefix(crates) else {
            continue;
        };
        let mut parts = inside.iter().map(|part| part.to_string_lossy());
        if let (Some(name), Some(src)) = (parts.next(), parts.next())
            && src == "src"
            && crates.join(&*name).join("src/lib.rs").exists()
            && has_doc_test(&text)
        {
            found.insert(name.into_owned());
        }
    }
    Ok(found)
}

/// Whether a doc comment has a block that rustdoc would run: fences alternate between opening and
/// closing, and one that opens with another language's name is only shown.
fn has_doc_test(text: &str) -> bool {
    const SHOWN_ONLY: [&str; 4] = ["text", "toml", "json", "console"];
    let fences = text.lines().map(str::trim_start).filter_map(|line| {
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))?;
        comment.trim_start().strip_prefix("```").map(str::trim)
    });
    fences
        .step_by(2)
        .any(|language| !SHOWN_ONLY.contains(&language))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_tests_are_found() {
        let cases = [
            (
                "/// Adds.\n///\n/// ```\n/// f();\n/// ```\nfn f() {}",
                true,
            ),
            ("    //! ```text\n    //! 1 + 1\n    //! ```\n", false),
            ("//! ```text\n//! ```\n/// ```no_run\n/// ```\n", true),
            ("// ```\nlet s = \"```\";", false),
            ("/// Adds `a`.", false),
        ];
        for (text, expected) in cases {
            assert_eq!(has_doc_test(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_table_has_one_row_per_stage() {
        let rows = [
            ("fmt".to_owned(), "ok", Duration::from_millis(1500)),
            ("unit".to_owned(), "FAILED", Duration::from_secs(61)),
        ];
        let expected = "\nfmt     ok               1.5 s\nunit    FAILED      1 min 01 s\n";
        assert_eq!(table(&rows), expected);
    }
}
