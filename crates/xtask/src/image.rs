//! Whether an image can be built from what the Dockerfile selects of the checkout, as far as that
//! shows without a container engine: cargo resolves the workspace from these files alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// Copies what `cluster/Dockerfile` copies, of what `.dockerignore` lets through, into `folder`, and
/// has cargo read the workspace there. What is wrong.
///
/// # Errors
/// When a file cannot be read or copied.
pub fn faults(root: &Path, folder: &Path) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path = root.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ignore = Ignore::of(&read(".dockerignore")?);
    let copies = copies(&read("cluster/Dockerfile")?);
    let mut faults = Vec::new();
    for (source, target) in copies {
        let copied = copy(root, &source, &folder.join(target), &ignore)?;
        if copied == 0 {
            let source = source.display();
            faults.push(format!(
                "cluster/Dockerfile: it copies {source}, of which .dockerignore sends nothing"
            ));
        }
    }
    let mut cargo = process::cargo();
    cargo.current_dir(folder).args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let output = cargo.output().context("cargo cannot be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        faults.push(format!(
            "cluster/Dockerfile: cargo cannot read the workspace from what it copies: {}",
            said.trim()
        ));
    }
    Ok(faults)
}

/// What a Dockerfile copies from the checkout, with the places below its working folder.
fn copies(dockerfile: &str) -> Vec<(PathBuf, PathBuf)> {
    let joined = dockerfile.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let mut words = line.split_whitespace();
        if !words
            .next()
            .is_some_and(|word| word == "COPY" || word == "ADD")
        {
            continue;
        }
        let (options, paths): (Vec<&str>, Vec<&str>) = words.partition(|w| w.starts_with("--"));
        if options.iter().any(|option| option.starts_with("--from=")) {
            continue;
        }
        let Some((target, sources)) = paths.split_last() else {
            continue;
        };
        for source in sources {
            let source = PathBuf::from(source.trim_start_matches("./"));
            let name = source.file_name().unwrap_or_default();
            // A folder's content goes to the target; several sources, or one with a slash, into it.
            let target = match target.ends_with('/') {
                true => Path::new(target).join(name),
                false => PathBuf::from(target),
            };
            found.push((source, target));
        }
    }
    found
}

/// Copies a file, or what a folder holds; the number of files.
fn copy(root: &Path, source: &Path, target: &Path, ignore: &Ignore) -> Result<usize> {
    let from = root.join(source);
    if !from.exists() {
        return Ok(0);
    }
    if !from.is_dir() {
        if ignore.keeps_out(source) {
            return Ok(0);
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&from, target).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(1);
    }
    let mut copied = 0;
    let entries = fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        copied += copy(root, &source.join(&name), &target.join(&name), ignore)?;
    }
    Ok(copied)
}

/// A `.dockerignore` of plain paths and `*`: of several lines that meet a path, the last one counts.
struct Ignore(Vec<(bool, PathBuf)>);

impl Ignore {
    fn of(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rules = lines.map(|line| match line.strip_prefix('!') {
            Some(path) => (false, path.into()),
            None => (true, line.into()),
        });
        Self(rules.collect())
    }

    fn keeps_out(&self, path: &Path) -> bool {
        let meets = |rule: &Path| rule == Path::new("*") || path.starts_with(rule);
        let last = self.0.iter().rev().find(|(_, rule)| meets(rule));
        last.is_some_and(|(is_out, _)| *is_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn td_6_the_image_has_all_that_cargo_reads() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(faults(&root, folder.path()).unwrap(), [""; 0]);
    }

    #[test]
    fn td_6_a_member_that_is_not_copied_or_not_sent_is_found() {
        let checkout = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = checkout.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let package = |name: &str| format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n");
        write("Cargo.toml", "[workspace]\nmembers = [\"a\", \"tests\"]\n");
        for name in ["a", "tests"] {
            write(&format!("{name}/Cargo.toml"), &package(name));
            write(&format!("{name}/src/lib.rs"), "");
        }
        let all = "COPY Cargo.toml ./\nCOPY a ./a\nCOPY \\\n  tests ./tests\n";
        let cases = [
            (all, "*\n!Cargo.toml\n!a\n!tests\n", 0),
            (
                "COPY Cargo.toml ./\nCOPY a ./a\n",
                "*\n!Cargo.toml\n!a\n!tests\n",
                1,
            ),
            (all, "*\n!Cargo.toml\n!a\n", 2),
            (all, "*\n!Cargo.toml\n!a\n!tests\ntests/src\n", 1),
        ];
        for (dockerfile, ignore, count) in cases {
            write("cluster/Dockerfile", dockerfile);
            write(".dockerignore", ignore);
            let folder = tempfile::tempdir().unwrap();
            let found = faults(checkout.path(), folder.path()).unwrap();
            assert_eq!(found.len(), count, "{dockerfile}{ignore}: {found:?}");
        }
    }

    #[test]
    fn only_what_comes_from_the_checkout_is_copied() {
        let text =
            "FROM a AS build\nCOPY --chown=1:1 ./x y ./\nCOPY --from=build /o /o\nCOPY z ./w\n";
        let found = copies(text);
        let expected = [("x", "./x"), ("y", "./y"), ("z", "./w")];
        let expected = expected.map(|(from, to)| (PathBuf::from(from), PathBuf::from(to)));
        assert_eq!(found, expected);
    }
}
