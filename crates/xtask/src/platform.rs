//! What this machine is: whether the wheels fit it, whether it has a GPU and the build's tools.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process;

/// The first part of libtorch's version that the `tch` crate was written for.
pub const LIBTORCH_SERIES: (u32, u32) = (2, 13);

/// Refuses machines that the wheels were not built for.
pub fn require_supported(os: &str, arch: &str, libc: &str) -> Result<()> {
    if (os, arch, libc) == ("linux", "x86_64", "gnu") {
        return Ok(());
    }
    let (major, minor) = LIBTORCH_SERIES;
    bail!(
        "libtorch is provisioned for Linux on x86_64 with glibc only, and this is {os} on {arch} \
         ({libc}): install libtorch {major}.{minor} yourself and set LIBTORCH to its folder, the \
         one that holds `include` and `lib`"
    )
}

/// The C library this program was built for.
pub const fn libc() -> &'static str {
    if cfg!(target_env = "gnu") {
        "gnu"
    } else if cfg!(target_env = "musl") {
        "musl"
    } else {
        "other"
    }
}

/// Whether a GPU of NVIDIA's is at hand: its driver is loaded, or its tool lists one.
pub fn has_nvidia_gpu() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
        || process::succeeds("nvidia-smi", &["--list-gpus"])
}

/// Checks the programs that provisioning and the build of libtorch's bindings and of the
/// allocator need.
pub fn require_tools() -> Result<()> {
    if !process::succeeds("python3", &["-m", "pip", "--version"]) {
        bail!(
            "python3 with pip is needed to download libtorch and the model: install the packages \
             python3 and python3-pip of your system"
        );
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if !process::succeeds(&compiler, &["--version"]) {
        bail!("a C++ compiler is needed and `{compiler}` does not run: install g++, or set CXX");
    }
    if !process::succeeds("make", &["--version"]) {
        bail!("the allocator is built with `make`, which does not run: install make");
    }
    Ok(())
}

/// Checks a libtorch that the user brought: its headers' version and its main library.
pub fn check_libtorch(folder: &Path) -> Result<()> {
    let (major, minor) = LIBTORCH_SERIES;
    let remedy = format!(
        "point LIBTORCH to a libtorch {major}.{minor}, or unset it to have one provisioned"
    );
    let found = read_version(folder)
        .with_context(|| format!("LIBTORCH={} holds no libtorch: {remedy}", folder.display()))?;
    if found != LIBTORCH_SERIES {
        bail!(
            "LIBTORCH={} is libtorch {}.{}: {remedy}",
            folder.display(),
            found.0,
            found.1
        );
    }
    let lib = folder.join("lib");
    if !["libtorch_cpu.so", "libtorch_cpu.dylib"]
        .iter()
        .any(|name| lib.join(name).exists())
    {
        bail!(
            "LIBTORCH={} has no lib/libtorch_cpu.so: {remedy}",
            folder.display()
        );
    }
    Ok(())
}

/// The header moved between releases.
const VERSION_HEADERS: [&str; 2] = [
    "include/torch/headeronly/version.h",
    "include/torch/csrc/api/include/torch/version.h",
];

fn read_version(folder: &Path) -> Result<(u32, u32)> {
    for header in VERSION_HEADERS {
        let text = std::fs::read_to_string(folder.join(header)).unwrap_or_default();
        if let Some(version) = parse_version(&text) {
            return Ok(version);
        }
    }
    bail!("{} does not name a version", VERSION_HEADERS[0])
}

/// `(major, minor)` out of the text of libtorch's `version.h`.
fn parse_version(header: &str) -> Option<(u32, u32)> {
    let number = |name| {
        header.lines().find_map(|line| {
            let rest = line.strip_prefix("#define ")?.strip_prefix(name)?;
            rest.strip_prefix(' ')?.trim().parse().ok()
        })
    };
    Some((
        number("TORCH_VERSION_MAJOR")?,
        number("TORCH_VERSION_MINOR")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_linux_on_x86_64_with_glibc_is_provisioned() {
        let cases = [
            ("linux", "x86_64", "gnu", true),
            ("linux", "x86_64", "musl", false),
            ("linux", "aarch64", "gnu", false),
            ("macos", "aarch64", "other", false),
        ];
        for (os, arch, libc, supported) in cases {
            let answer = require_supported(os, arch, libc);
            assert_eq!(answer.is_ok(), supported, "{os} {arch} {libc}");
            if let Err(error) = answer {
                let text = error.to_string();
                assert!(
                    text.contains("set LIBTORCH") && text.contains(arch),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_version_header_is_read() {
        let cases = [
            (
                "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n",
                Some((2, 13)),
            ),
            ("#pragma once\n#define TORCH_VERSION_MAJOR 2\n", None),
            (
                "#define TORCH_VERSION_MAJORS 2\n#define TORCH_VERSION_MINOR 13\n",
                None,
            ),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_libtorch_of_ones_own_is_checked_and_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let refusal = || check_libtorch(folder).unwrap_err().to_string();
        assert!(refusal().contains("holds no libtorch"), "{}", refusal());

        let header = folder.join(VERSION_HEADERS[1]);
        std::fs::create_dir_all(header.parent().unwrap()).unwrap();
        let text = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 9\n";
        std::fs::write(&header, text).unwrap();
        assert!(
            refusal().contains("is libtorch 2.9: point LIBTORCH to"),
            "{}",
            refusal()
        );

        std::fs::write(&header, text.replace('9', "13")).unwrap();
        assert!(
            refusal().contains("has no lib/libtorch_cpu.so"),
            "{}",
            refusal()
        );

        std::fs::create_dir(folder.join("lib")).unwrap();
        std::fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        check_libtorch(folder).unwrap();
    }
}
