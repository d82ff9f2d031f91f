//! A hash of the program's code, without version control: an image is built from files alone.
//!
//! What nodes and controllers say to each other is laid out as their code says, in many crates, and
//! both compute the same things; so two builds fit each other when their code is the same. Comments,
//! empty lines and tests do not count.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Crates that nodes have no part in, and those that are not in the program.
const APART: [&str; 6] = ["data", "eval", "nccl-abi", "sim", "store", "xtask"];

/// The source folders that count, in order.
///
/// # Errors
/// When the folder of crates cannot be listed.
pub fn shared(crates: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(crates)? {
        let entry = entry?;
        let source = entry.path().join("src");
        let is_apart = APART.iter().any(|name| entry.file_name() == *name);
        if source.is_dir() && !is_apart {
            found.push(source);
        }
    }
    found.sort();
    Ok(found)
}

/// The hash of these folders, as 12 hexadecimal digits.
///
/// # Errors
/// When a file cannot be read.
pub fn hash(crates: &Path, folders: &[PathBuf]) -> io::Result<String> {
    let mut files = Vec::new();
    let mut folders = folders.to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(crates).unwrap_or(&path);
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == "rs") && !is_test(name) {
                files.push((name.to_owned(), path));
            }
        }
    }
    files.sort();
    let mut sum = Fnv::default();
    for (name, path) in files {
        let text = fs::read_to_string(&path)?;
        sum.line(&name.to_string_lossy());
        code(&text).for_each(|line| sum.line(line));
    }
    Ok(format!("{:012x}", sum.0 >> 16))
}

fn is_test(name: &Path) -> bool {
    name.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

/// The lines that make a difference. A module of tests ends its file.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {");
    let lines = text[..end.unwrap_or(text.len())].lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// FNV-1a of 64 bits: it tells builds apart that differ by accident, and guards against nobody.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn line(&mut self, line: &str) {
        for byte in line.bytes().chain([b'\n']) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
