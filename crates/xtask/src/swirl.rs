//! Builds the program `swirl` and says where cargo put it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::process;

/// How the program is built: each way shares its work with what the user does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// As plain `cargo build` does.
    Dev,
    /// Together with every test, as `cargo test` needs them.
    DevWithTests,
    /// Optimised, for real runs.
    Release,
}

impl Build {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &["--workspace", "--bin", "swirl"],
            Self::DevWithTests => &["--workspace", "--all-targets"],
            Self::Release => &["--workspace", "--bin", "swirl", "--release"],
        }
    }
}

/// Builds it; warnings, errors and progress go to the terminal.
pub fn build(paths: &Paths, build: Build) -> Result<PathBuf> {
    println!("building swirl ({build:?}; libtorch's bindings alone take minutes the first time)");
    built(paths, build.arguments(), "bin", "swirl")
}

/// Builds the program that runs whole runs of real processes.
pub fn build_e2e(paths: &Paths) -> Result<PathBuf> {
    println!("building e2e");
    built(paths, &["--workspace", "--bin", "e2e"], "bin", "e2e")
}

/// Builds a benchmark, optimised.
pub fn build_bench(paths: &Paths, bench: &str) -> Result<PathBuf> {
    println!("building {bench} (libtorch's bindings alone take minutes the first time)");
    let arguments = ["--workspace", "--bin", bench, "--release"];
    built(paths, &arguments, "bin", bench)
}

/// Builds an example as plain `cargo build` does, with the same features as the rest
/// of the workspace, so that nothing is built twice.
pub fn build_example(paths: &Paths, example: &str) -> Result<PathBuf> {
    println!("building the example {example}");
    let arguments = ["--workspace", "--example", example];
    built(paths, &arguments, "example", example)
}

fn built(paths: &Paths, arguments: &[&str], kind: &str, name: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo
        .current_dir(&paths.root)
        .args(["build", "--message-format=json-render-diagnostics"]);
    cargo.args(arguments);
    let messages = process::output(&format!("building {name}"), &mut cargo)?;
    executable(&messages, kind, name)
        .with_context(|| format!("cargo named no program called {name} in what it built"))
}

/// The path of a program in cargo's messages, wherever the target folder is.
fn executable(messages: &str, kind: &str, name: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let target = message.get("target")?;
        let is_program = target.get("kind")?.as_array()?.iter().any(|of| of == kind);
        // The tests of the program bear its name, too.
        let is_test = message.get("profile")?.get("test")?.as_bool()?;
        (is_program && !is_test && target.get("name")? == name)
            .then(|| message.get("executable")?.as_str().map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let artifact = |name: &str, kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let messages = [
            r#"{"reason":"build-script-executed","package_id":"x"}"#.to_owned(),
            artifact("swirl", "lib", false, "null"),
            artifact("swirl", "bin", true, r#""/t/debug/deps/swirl-1""#),
            artifact("xtask", "bin", false, r#""/t/debug/xtask""#),
            artifact("swirl", "bin", false, r#""/t/debug/swirl""#),
        ];
        assert_eq!(
            executable(&messages.join("\n"), "bin", "swirl"),
            Some(PathBuf::from("/t/debug/swirl"))
        );
        assert_eq!(executable(&messages[..4].join("\n"), "bin", "swirl"), None);
        let example = artifact("greedy", "example", false, r#""/t/debug/examples/greedy""#);
        assert_eq!(
            executable(&example, "example", "greedy"),
            Some(PathBuf::from("/t/debug/examples/greedy"))
        );
    }
}
