//! This machine.

use super::finding::{Finding, Status};
use crate::machine_memory::{self, gib};
use crate::open_files;
use collective::nccl::Library;
use std::path::{Path, PathBuf};
use sysinfo::Disks;

/// Least free disk for a run of a small model with checkpoints.
pub const LEAST_DISK_BYTES: u64 = 5 << 30;

/// Least memory for SmolLM2-135M with sampler, learner and reference.
const LEAST_MEMORY_BYTES: u64 = 6 << 30;

/// What there is to say of it.
pub fn findings(model_dir: &Path) -> Vec<Finding> {
    vec![
        Finding::ok("swirl", crate::version::VERSION),
        libtorch(),
        cuda(),
        nccl(),
        cores(),
        bf16(),
        memory(),
        disk(),
        files(),
        model(model_dir),
        test_data(),
    ]
}

/// Bytes free on the disk of the current folder, where the system tells.
pub fn free_disk() -> Option<u64> {
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let disks = Disks::new_with_refreshed_list();
    let holds = disks.iter().filter(|d| here.starts_with(d.mount_point()));
    let disk = holds.max_by_key(|disk| disk.mount_point().as_os_str().len());
    disk.map(|disk| disk.available_space())
}

/// The folder of libtorch: that of the environment, else the one this program was built with.
fn libtorch_folder() -> Option<PathBuf> {
    std::env::var_os("LIBTORCH")
        .map(PathBuf::from)
        .or_else(|| option_env!("LIBTORCH").map(PathBuf::from))
}

fn libtorch() -> Finding {
    let sum = tch::Tensor::ones([2, 2], (tch::Kind::Float, tch::Device::Cpu)).sum(tch::Kind::Float);
    match f64::try_from(sum) {
        Ok(4.0) => {
            let version = libtorch_folder().and_then(|folder| libtorch_version(&folder));
            let version = version.unwrap_or_else(|| "of unknown version".into());
            Finding::ok("libtorch", format!("{version}, loaded, computes"))
        }
        other => Finding::but(
            "libtorch",
            Status::Problem,
            format!("2 + 2 gave {other:?}"),
            "Run `cargo xtask setup` again, or point LIBTORCH at an intact libtorch 2.13.",
        ),
    }
}

/// The version that libtorch's headers define; there is no call for it.
fn libtorch_version(folder: &Path) -> Option<String> {
    let headers = [
        "include/torch/headeronly/version.h",
        "include/torch/csrc/api/include/torch/version.h",
    ];
    headers.iter().find_map(|header| {
        let text = std::fs::read_to_string(folder.join(header)).ok()?;
        version_of(&text)
    })
}

fn version_of(header: &str) -> Option<String> {
    let part = |name: &str| {
        let line = header.lines().find_map(|line| {
            line.strip_prefix("#define TORCH_VERSION_")?
                .strip_prefix(name)
        });
        line?.trim().parse::<u32>().ok()
    };
    let (major, minor, patch) = (part("MAJOR ")?, part("MINOR ")?, part("PATCH ")?);
    Some(format!("{major}.{minor}.{patch}"))
}

fn cuda() -> Finding {
    let remedy = "With a GPU: install its driver, then run `cargo xtask setup --cuda`.";
    match (tch::Cuda::is_available(), tch::Cuda::device_count()) {
        (true, n) if n > 0 => {
            let cudnn = match tch::Cuda::cudnn_is_available() {
                true => "with cuDNN",
                false => "without cuDNN",
            };
            Finding::ok("CUDA", format!("{n} GPUs, {cudnn}"))
        }
        _ => Finding::but(
            "CUDA",
            Status::Note,
            "no GPU that libtorch can use; runs use the CPU",
            remedy,
        ),
    }
}

fn nccl() -> Finding {
    match Library::find() {
        Ok(library) => {
            let path = library.path().display();
            Finding::ok("NCCL", format!("{}, {path}", library.version()))
        }
        Err(error) => Finding::but(
            "NCCL",
            Status::Note,
            error.to_string(),
            "Only learners on several GPUs need it.",
        ),
    }
}

fn cores() -> Finding {
    let n = std::thread::available_parallelism().map_or(1, |n| n.get());
    Finding::ok("cores", n.to_string())
}

fn bf16() -> Finding {
    match learner::cpu_has_fast_bf16() {
        true => Finding::ok("bf16", "multiplied in hardware by this CPU"),
        false => Finding::but(
            "bf16",
            Status::Note,
            "not multiplied in hardware by this CPU; runs on it compute in f32",
            "A CPU with AVX-512 BF16 or AMX, or a GPU, is about four times faster.",
        ),
    }
}

fn memory() -> Finding {
    let (available, total) = machine_memory::available_of_total();
    let found = format!("{} of {} available", gib(available), gib(total));
    if available >= LEAST_MEMORY_BYTES {
        return Finding::ok("memory", found);
    }
    Finding::but(
        "memory",
        Status::Problem,
        found,
        "SmolLM2-135M with sampler, learner and reference takes about 6 GiB: close other programs.",
    )
}

fn disk() -> Finding {
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let Some(free) = free_disk() else {
        return Finding::but(
            "disk",
            Status::Note,
            "cannot tell how much is free here",
            "",
        );
    };
    let found = format!("{} free at {}", gib(free), here.display());
    if free >= LEAST_DISK_BYTES {
        return Finding::ok("disk", found);
    }
    Finding::but(
        "disk",
        Status::Problem,
        found,
        "A run with checkpoints takes several GiB: free some, or set run.dir to another disk.",
    )
}

/// The limit was raised as far as it may be when this process started.
fn files() -> Finding {
    match open_files::limit() {
        None => Finding::ok("open files", "without a limit"),
        Some(limit) if limit >= open_files::ENOUGH => {
            Finding::ok("open files", format!("{limit} at most"))
        }
        Some(limit) => Finding::but(
            "open files",
            Status::Note,
            format!("{limit} at most, which is few"),
            "Raise the hard limit (`ulimit -Hn` says it): in /etc/security/limits.conf, by LimitNOFILE= \
             of a systemd unit, or in the settings of the container engine.",
        ),
    }
}

fn model(dir: &Path) -> Finding {
    match model::spec_of(dir) {
        Ok(spec) => Finding::ok(
            "model",
            format!(
                "{} ({}, {} M parameters)",
                dir.display(),
                spec.model_type,
                spec.parameter_count() / 1_000_000
            ),
        ),
        Err(error) => Finding::but(
            "model",
            Status::Problem,
            error.to_string(),
            "Run `cargo xtask setup`, or name another model with --model DIR.",
        ),
    }
}

fn test_data() -> Finding {
    let remedy = "Set SWIRL_TEST_DATA to a folder with gsm8k_train.jsonl and svamp_dev.jsonl for \
                  configs/gsm8k-smollm2.toml and for the tests on real data.";
    match std::env::var("SWIRL_TEST_DATA") {
        Ok(folder) if Path::new(&folder).join("gsm8k_train.jsonl").exists() => {
            Finding::ok("data", folder)
        }
        Ok(folder) => Finding::but(
            "data",
            Status::Problem,
            format!("{folder} has no gsm8k_train.jsonl"),
            remedy,
        ),
        Err(_) => Finding::but("data", Status::Note, "built-in questions only", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_header() {
        let header = "#pragma once\n#define TORCH_VERSION_MAJOR 2\n/// Minor.\n\
                      #define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 0\n\
                      #define TORCH_VERSION_ABI_TAG 0\n";
        assert_eq!(version_of(header).as_deref(), Some("2.13.0"));
        assert_eq!(version_of("#define TORCH_VERSION \"2.13\"\n"), None);
    }
}
