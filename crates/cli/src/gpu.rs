//! GPUs that should be there, and GPUs that are gone.

use crate::console;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Exit code of a process whose GPU does not work any more: another start, or another machine, may help.
pub const GPU_LOST: u8 = 4;

/// Files by which NVIDIA's driver or device shows on Linux.
const SIGNS: [&str; 4] = [
    "dev/nvidia0",
    "dev/nvidiactl",
    "proc/driver/nvidia/version",
    "dev/dxg",
];

/// A sign that this machine has an NVIDIA GPU, whether libtorch can use it or not; `root` is `/`.
pub fn sign_of_nvidia(root: &Path) -> Option<String> {
    let found = SIGNS.iter().find(|sign| root.join(sign).exists());
    found.map(|sign| format!("/{sign}"))
}

/// Says that the CPU is computed on although there is a GPU, if that is so.
pub fn warn_of_cpu(root: &Path) -> Option<String> {
    let sign = sign_of_nvidia(root)?;
    Some(format!(
        "warning: {sign} says that there is an NVIDIA GPU, but libtorch finds none: this process \
         computes on the CPU. `swirl doctor` says more; with the device cuda:0 it would not start, and \
         with cluster.require_gpu a run does not take it."
    ))
}

/// Computes something small on a device.
///
/// # Errors
/// Answer of libtorch.
fn probe(device: Device) -> Result<(), String> {
    let ones = Tensor::f_ones([8], (Kind::Float, device));
    let sum = ones.and_then(|ones| ones.f_sum(Kind::Float));
    let sum = sum.and_then(f64::try_from);
    match sum {
        Ok(8.0) => Ok(()),
        Ok(other) => Err(format!("the sum of eight ones is {other}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a device that gives this answer to the least of computations is of no use any more. Memory
/// that is used up may be given back.
fn is_lost(probed: &Result<(), String>) -> bool {
    matches!(probed, Err(error) if !error.contains("out of memory"))
}

/// Behind an error on a GPU: ends the process if that does not compute at all any more. An error of
/// CUDA that broke its context stays for as long as the process, whose engines would answer everything
/// with it. To be called on the device's thread.
pub fn end_if_lost(device: Device, error: &str) {
    if !device.is_cuda() {
        return;
    }
    let probed = probe(device);
    if !is_lost(&probed) {
        return;
    }
    tracing::error!(?device, error, ?probed, "The GPU does not work any more.");
    console::remark(format_args!(
        "error: the GPU does not work any more, which another start may mend: {error}"
    ));
    std::process::exit(GPU_LOST.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_warned_of_only_where_a_gpu_should_be() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(warn_of_cpu(root.path()), None);
        for sign in SIGNS {
            let root = tempfile::tempdir().unwrap();
            let file = root.path().join(sign);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
            let said = warn_of_cpu(root.path()).unwrap();
            assert!(said.contains(&format!("/{sign} says")), "{said}");
        }
    }

    #[test]
    fn a_device_is_lost_when_it_computes_nothing_any_more() {
        assert_eq!(probe(Device::Cpu), Ok(()));
        end_if_lost(Device::Cpu, "an error of a CPU ends nothing");
        for (probed, expected) in [
            (Ok(()), false),
            (
                Err("CUDA error: an illegal memory access was encountered"),
                true,
            ),
            (Err("CUDA error: uncorrectable ECC error encountered"), true),
            (Err("the sum of eight ones is 7"), true),
            (Err("CUDA out of memory. Tried to allocate 2 MiB"), false),
            (Err("CUDA error: out of memory"), false),
        ] {
            assert_eq!(
                is_lost(&probed.map_err(str::to_owned)),
                expected,
                "{probed:?}"
            );
        }
    }
}
