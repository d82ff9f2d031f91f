//! The project's own rules, which no lint knows.
//!
//! - **TD-1 (arrows).** A crate depends on others of the project only as [`ARROWS`] allows, which
//!   mirrors `ARCHITECTURE.md`; tensors and the async runtime stay in their crates.
//! - **TD-2 (map).** Every crate has an entry in `ARCHITECTURE.md`.
//! - **TD-3 (nothing unfinished).** No test is ignored and no macro marks missing or left-over work.
//! - **TD-4 (names).** No crate is named after nothing.
//! - **TD-5 (scenarios).** Every `configs/*.toml` begins with a comment that says what it is for.
//! - **TD-6 (image).** Cargo can read the workspace from the files that `cluster/Dockerfile` copies.
//! - **TD-7 (quotations).** Each message that `docs/operations.md` quotes is one that a source prints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::{image, process, quotes};

/// Each crate of the project with those it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("control", &["proto"]),
    ("transport", &["proto"]),
    ("tools", &["proto"]),
    ("judge", &["proto", "tools"]),
    ("store", &["proto"]),
    ("data", &["proto", "tools"]),
    ("eval", &["proto", "tools"]),
    (
        "actors",
        &["control", "judge", "proto", "store", "tools", "transport"],
    ),
    (
        "sim",
        &[
            "actors",
            "control",
            "judge",
            "proto",
            "store",
            "tools",
            "transport",
        ],
    ),
    ("nccl-abi", &[]),
    ("collective", &[]),
    ("model", &["proto"]),
    ("algo", &["proto"]),
    ("learner", &["algo", "collective", "model", "proto"]),
    ("sampler", &["model", "proto"]),
    ("web", &["proto", "store"]),
    (
        "cli",
        &[
            "actors",
            "algo",
            "collective",
            "control",
            "data",
            "eval",
            "judge",
            "learner",
            "model",
            "proto",
            "sampler",
            "store",
            "tools",
            "transport",
            "web",
        ],
    ),
    (
        "benches",
        &[
            "actors",
            "algo",
            "collective",
            "control",
            "data",
            "judge",
            "learner",
            "model",
            "proto",
            "sampler",
            "store",
            "tools",
            "transport",
        ],
    ),
    ("e2e", &["model", "store"]),
    ("xtask", &[]),
];

/// The crates that may use libtorch.
const WITH_TENSORS: &[&str] = &[
    "algo",
    "benches",
    "cli",
    "collective",
    "e2e",
    "learner",
    "model",
    "sampler",
];

/// Libraries that only these crates may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("tch", WITH_TENSORS),
    ("torch-sys", WITH_TENSORS),
    (
        "tokio",
        &[
            "actors",
            "benches",
            "cli",
            "collective",
            "e2e",
            "judge",
            "model",
            "sampler",
            "sim",
            "tools",
            "transport",
            "web",
        ],
    ),
    ("ractor", &["actors", "cli"]),
];

const NAMED_AFTER_NOTHING: [&str; 6] = ["common", "core", "helpers", "misc", "types", "utils"];

/// In two parts each, so that this file does not break the rule itself.
const UNFINISHED: [&str; 4] = [
    concat!("#[", "ignore"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

/// A package of the workspace and what its library and programs depend on (not its tests).
#[derive(Debug)]
struct Package {
    name: String,
    dependencies: Vec<String>,
}

/// Checks all rules.
///
/// # Errors
/// When one is broken; each break is printed before.
pub fn run(paths: &Paths) -> Result<()> {
    let packages = packages(paths)?;
    // Without the map, no crate has an entry in it.
    let map = fs::read_to_string(paths.root.join("ARCHITECTURE.md")).unwrap_or_default();
    let mut breaks = arrows(&packages);
    breaks.extend(unmapped(&packages, &map));
    breaks.extend(badly_named(&packages));
    for folder in ["crates", "tests", "benches"] {
        for (path, text) in rust_files(&paths.root.join(folder))? {
            breaks.extend(unfinished(&shown(paths, &path), &text));
        }
    }
    for (path, text) in files(&paths.root.join("configs"), "toml")? {
        breaks.extend(uncommented(&shown(paths, &path), &text));
    }
    breaks.extend(image_faults(paths)?);
    breaks.extend(quotations(paths)?);
    for line in &breaks {
        println!("{line}");
    }
    if !breaks.is_empty() {
        bail!("tidy: {} rule(s) broken", breaks.len());
    }
    Ok(())
}

/// TD-6.
fn image_faults(paths: &Paths) -> Result<Vec<String>> {
    let folder = paths.root.join("target/image");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    image::faults(&paths.root, &folder)
}

/// TD-7. The automation speaks to those who build, and not to operators.
fn quotations(paths: &Paths) -> Result<Vec<String>> {
    const PAGE: &str = "docs/operations.md";
    let page = fs::read_to_string(paths.root.join(PAGE));
    let page = page.with_context(|| format!("cannot read {PAGE}"))?;
    let mut messages = Vec::new();
    for (path, text) in rust_files(&paths.root.join("crates"))? {
        let path = path.strip_prefix(&paths.root).unwrap_or(&path);
        if quotes::is_spoken(path) && !path.starts_with("crates/xtask") {
            messages.extend(quotes::messages(&text));
        }
    }
    Ok(quotes::unfounded(PAGE, &page, &messages))
}

fn shown(paths: &Paths, path: &Path) -> String {
    path.strip_prefix(&paths.root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn packages(paths: &Paths) -> Result<Vec<Package>> {
    let mut cargo = process::cargo();
    cargo
        .current_dir(&paths.root)
        .args(["metadata", "--no-deps", "--format-version", "1"]);
    parse_metadata(&process::output("cargo metadata", &mut cargo)?)
}

fn parse_metadata(json: &str) -> Result<Vec<Package>> {
    let metadata: serde_json::Value = serde_json::from_str(json)?;
    let name = |value: &serde_json::Value| value["name"].as_str().map(str::to_owned);
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let package = |value: &serde_json::Value| {
        let all = value["dependencies"].as_array()?;
        let used = all.iter().filter(|dependency| dependency["kind"] != "dev");
        Some(Package {
            name: name(value)?,
            dependencies: used.filter_map(name).collect(),
        })
    };
    packages
        .iter()
        .map(|value| package(value).context("cargo metadata lists a package without a name"))
        .collect()
}

/// TD-1.
fn arrows(packages: &[Package]) -> Vec<String> {
    let mut breaks = Vec::new();
    for Package { name, dependencies } in packages {
        let Some(allowed) = lookup(ARROWS, name) else {
            breaks.push(format!(
                "crates/{name}: give it a place in ARCHITECTURE.md and in the table of \
                 crates/xtask/src/tidy.rs"
            ));
            continue;
        };
        for dependency in dependencies {
            let forbidden = match lookup(RESERVED, dependency) {
                Some(users) => !users.contains(&name.as_str()),
                None => {
                    lookup(ARROWS, dependency).is_some() && !allowed.contains(&dependency.as_str())
                }
            };
            if forbidden {
                breaks.push(format!(
                    "crates/{name}/Cargo.toml: it must not depend on `{dependency}` \
                     (ARCHITECTURE.md)"
                ));
            }
        }
    }
    breaks
}

fn lookup(table: &[(&str, &'static [&'static str])], key: &str) -> Option<&'static [&'static str]> {
    table
        .iter()
        .find(|(name, _)| *name == key)
        .map(|(_, values)| *values)
}

/// TD-2: an entry is a row, an item or a heading that starts with the name in backticks.
fn unmapped(packages: &[Package], map: &str) -> Vec<String> {
    let entries: Vec<_> = map
        .lines()
        .filter(|line| line.starts_with(['|', '-', '*', '#']))
        .filter_map(|line| {
            line.trim_start_matches(['|', '-', '*', '#', ' '])
                .strip_prefix('`')?
                .split('`')
                .next()
        })
        .map(|entry| entry.trim_start_matches("crates/").trim_end_matches('/'))
        .collect();
    let missing = packages
        .iter()
        .filter(|package| !entries.contains(&package.name.as_str()));
    missing
        .map(|package| format!("ARCHITECTURE.md: no entry for `{}`", package.name))
        .collect()
}

/// TD-3.
fn unfinished(path: &str, text: &str) -> Vec<String> {
    let mut breaks = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for mark in UNFINISHED.iter().filter(|mark| code.contains(**mark)) {
            breaks.push(format!("{path}:{}: `{mark}` is left over", number + 1));
        }
    }
    breaks
}

/// TD-4.
fn badly_named(packages: &[Package]) -> Vec<String> {
    let bad = packages
        .iter()
        .filter(|p| NAMED_AFTER_NOTHING.contains(&p.name.as_str()));
    bad.map(|p| format!("crates/{}: name it after what it does", p.name))
        .collect()
}

/// TD-5.
fn uncommented(path: &str, text: &str) -> Option<String> {
    let comment = text.lines().next().and_then(|line| line.strip_prefix('#'));
    let said = comment.is_some_and(|comment| !comment.trim().is_empty());
    (!said).then(|| format!("{path}:1: say in a comment what this configuration is for"))
}

/// All Rust sources below a folder with their texts; none when there is no such folder.
pub fn rust_files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    files(folder, "rs")
}

fn files(folder: &Path, extension: &str) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                found.push((path, text));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        Package {
            name: name.to_owned(),
            dependencies,
        }
    }

    #[test]
    fn td_1_arrows_point_downward() {
        let cases: [(&str, &[&str], usize); 9] = [
            ("judge", &["proto", "tools", "serde", "tokio"], 0),
            ("cli", &["actors", "learner", "tch", "tokio"], 0),
            ("tools", &["judge"], 1),
            ("actors", &["tch", "model", "sampler", "learner"], 4),
            ("control", &["tokio"], 1),
            ("proto", &["tokio", "tch"], 2),
            ("model", &["tch", "learner"], 1),
            ("proto", &["xtask"], 1),
            ("newcomer", &["proto"], 1),
        ];
        for (name, dependencies, breaks) in cases {
            let found = arrows(&[package(name, dependencies)]);
            assert_eq!(found.len(), breaks, "{name} {dependencies:?}: {found:?}");
        }
    }

    #[test]
    fn td_1_the_table_itself_has_no_cycle() {
        // Rows whose targets are all placed are placed in turn; a cycle never is.
        let mut placed: Vec<&str> = Vec::new();
        for _ in ARROWS {
            for (name, targets) in ARROWS {
                if !placed.contains(name) && targets.iter().all(|t| placed.contains(t)) {
                    placed.push(name);
                }
            }
        }
        assert_eq!(placed.len(), ARROWS.len(), "only {placed:?} can be placed");
    }

    #[test]
    fn td_1_dependencies_of_tests_are_not_arrows() {
        let json = r#"{"packages": [{"name": "data", "dependencies": [
            {"name": "proto", "kind": null}, {"name": "tools", "kind": "dev"},
            {"name": "cc", "kind": "build"}]}]}"#;
        let packages = parse_metadata(json).unwrap();
        assert_eq!(packages[0].name, "data");
        assert_eq!(packages[0].dependencies, ["proto", "cc"]);
        assert!(parse_metadata("{}").is_err());
    }

    #[test]
    fn td_2_every_crate_is_on_the_map() {
        let map = "# Map\nAbout `store` in passing.\n| `proto` | records |\n- `tools`: a trait\n\
                   ### `crates/judge/`\n";
        let packages = ["proto", "tools", "judge", "store"].map(|name| package(name, &[]));
        assert_eq!(
            unmapped(&packages, map),
            ["ARCHITECTURE.md: no entry for `store`"]
        );
    }

    #[test]
    fn td_3_unfinished_work_is_found_in_code_only() {
        for mark in UNFINISHED {
            let found = unfinished("a.rs", &format!("fn f() {{\n    {mark}\"x\"); }}"));
            assert_eq!(found, [format!("a.rs:2: `{mark}` is left over")]);
            assert!(unfinished("a.rs", &format!("// {mark}")).is_empty());
        }
    }

    #[test]
    fn td_4_names_say_something() {
        assert_eq!(
            badly_named(&[package("utils", &[]), package("tools", &[])]).len(),
            1
        );
    }

    #[test]
    fn td_5_configurations_begin_with_a_comment() {
        let cases = [
            ("# Quickstart.\nseed = 1", false),
            ("seed = 1", true),
            ("#\n", true),
            ("", true),
        ];
        for (text, is_break) in cases {
            assert_eq!(uncommented("a.toml", text).is_some(), is_break, "{text:?}");
        }
    }
}
