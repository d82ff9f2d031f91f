//! libtorch in the user's cache folder, taken out of PyTorch's wheel.
//!
//! Without a GPU, the headers and a handful of libraries are taken; `libtorch_cpu.so` names two
//! libraries of CUDA as needed, which come from wheels of their own. With a GPU, the wheel is
//! installed with all its requirements and their libraries are linked together into one folder.
//! **The CUDA way has not been tried on a machine with a GPU.**

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths::{self, Link, Paths};
use crate::unpack::Selection;
use crate::wheel::{self, CUDA_RUNTIME, CUPTI, TORCH};
use crate::{platform, process, stamp};

/// What libtorch shall compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The processor alone: 0.5 GB.
    Cpu,
    /// NVIDIA's GPUs, too: several GB.
    Cuda,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl Device {
    fn folder_name(self) -> String {
        format!("libtorch-{}-{self}", TORCH.version)
    }

    /// The device of a folder that [`Device::folder_name`] named.
    fn of_folder(folder: &Path) -> Option<Self> {
        [Self::Cpu, Self::Cuda].into_iter().find(|device| {
            folder
                .file_name()
                .is_some_and(|name| *name == *device.folder_name())
        })
    }

    /// The libraries that prove a folder whole.
    fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &[
                "lib/libtorch.so",
                "lib/libtorch_cpu.so",
                "lib/libtorch_global_deps.so",
                "lib/libc10.so",
                "lib/libgomp.so.1",
                "lib/libcudart.so.13",
                "lib/libcupti.so.13",
                "include/torch/headeronly/version.h",
                "version.py",
            ],
            Self::Cuda => &[
                "lib/libtorch.so",
                "lib/libtorch_cpu.so",
                "lib/libtorch_cuda.so",
                "lib/libc10_cuda.so",
                "include/torch/headeronly/version.h",
                "version.py",
            ],
        }
    }

    fn recipe(self) -> String {
        let mut lines = vec![format!("libtorch {} {self}, layout 1", TORCH.version)];
        let wheels: &[_] = match self {
            Self::Cpu => &[TORCH, CUDA_RUNTIME, CUPTI],
            Self::Cuda => &[TORCH],
        };
        lines.extend(wheels.iter().map(wheel::Wheel::stamp_line));
        lines.join("\n")
    }
}

/// Sees to it that `.deps/libtorch` leads to a whole libtorch, or that the user's own one fits.
///
/// Without a wish for a device, an earlier choice stands; else a GPU decides.
pub fn ensure(paths: &Paths, device: Option<Device>) -> Result<()> {
    let at = paths.dep("libtorch");
    if let Some(own) = own_libtorch(std::env::var_os("LIBTORCH").map(PathBuf::from), &at)? {
        platform::check_libtorch(&own)?;
        println!("libtorch: your own, LIBTORCH={}", own.display());
        return Ok(());
    }
    platform::require_supported(
        std::env::consts::OS,
        std::env::consts::ARCH,
        platform::libc(),
    )?;
    let earlier = || {
        fs::read_link(&at)
            .ok()
            .and_then(|folder| Device::of_folder(&folder))
    };
    let device = device.or_else(earlier).unwrap_or_else(|| {
        if platform::has_nvidia_gpu() {
            Device::Cuda
        } else {
            Device::Cpu
        }
    });
    let folder = paths.cache.join(device.folder_name());
    if !stamp::is_valid(&device.recipe(), &folder, device.libraries()) {
        println!(
            "libtorch {} ({device}) into {}",
            TORCH.version,
            folder.display()
        );
        platform::require_tools()?;
        fs::create_dir_all(paths.downloads()).context("cannot make the folder of downloads")?;
        match device {
            Device::Cpu => provision_cpu(paths, &folder)?,
            Device::Cuda => provision_cuda(paths, &folder)?,
        }
    }
    link(paths, &at, &folder)?;
    println!("libtorch: {}", folder.display());
    Ok(())
}

/// The user's own libtorch: a LIBTORCH that is not the one `.cargo/config.toml` sets.
fn own_libtorch(variable: Option<PathBuf>, ours: &Path) -> Result<Option<PathBuf>> {
    match variable {
        None => Ok(None),
        Some(path) if path == ours => Ok(None),
        Some(path) if path.is_relative() => {
            bail!(
                "LIBTORCH={} is not an absolute path, as builds need it",
                path.display()
            )
        }
        Some(path) => Ok(Some(path)),
    }
}

fn provision_cpu(paths: &Paths, folder: &Path) -> Result<()> {
    let selections = [
        Selection {
            archive: TORCH.fetch(paths)?,
            files: &[
                ("torch/include/", "include/"),
                ("torch/lib/libtorch.so", "lib/libtorch.so"),
                ("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
                (
                    "torch/lib/libtorch_global_deps.so",
                    "lib/libtorch_global_deps.so",
                ),
                ("torch/lib/libc10.so", "lib/libc10.so"),
                ("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
                ("torch/version.py", "version.py"),
            ],
        },
        Selection {
            archive: CUDA_RUNTIME.fetch(paths)?,
            files: &[("nvidia/cu13/lib/libcudart.so.13", "lib/libcudart.so.13")],
        },
        Selection {
            archive: CUPTI.fetch(paths)?,
            files: &[("nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.13")],
        },
    ];
    let whole = || stamp_folder(Device::Cpu, folder);
    if folder.exists() && all_match(&selections, folder)? {
        return whole();
    }
    let fresh = paths::partial(folder);
    for selection in &selections {
        selection.take(&fresh)?;
    }
    stamp_folder(Device::Cpu, &fresh)?;
    paths::replace_folder(&fresh, folder)
}

fn stamp_folder(device: Device, folder: &Path) -> Result<()> {
    stamp::write(&device.recipe(), folder, device.libraries())
}

fn all_match(selections: &[Selection], folder: &Path) -> Result<bool> {
    for selection in selections {
        if !selection.matches(folder)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The whole wheel with its requirements; not tried on a machine with a GPU.
fn provision_cuda(paths: &Paths, folder: &Path) -> Result<()> {
    let torch = TORCH.fetch(paths)?;
    let fresh = paths::partial(folder);
    println!("  installing the wheel with all its requirements (several GB)");
    let mut pip = wheel::pip(&["install", "--no-cache-dir", "--disable-pip-version-check"]);
    pip.arg("--target")
        .arg(fresh.join("site"))
        .args(wheel::FOR_EVERY_MACHINE)
        .arg(torch);
    process::run("installing libtorch with CUDA", &mut pip)?;
    join_site(&fresh)?;
    stamp_folder(Device::Cuda, &fresh)?;
    paths::replace_folder(&fresh, folder)
}

/// Gives `folder/site`, as pip fills it, the shape of libtorch: `include`, and one `lib` with links
/// to PyTorch's and NVIDIA's libraries, which look for each other in the folder they lie in.
fn join_site(folder: &Path) -> Result<()> {
    symlink("site/torch/include", folder.join("include"))?;
    symlink("site/torch/version.py", folder.join("version.py"))?;
    let lib = folder.join("lib");
    fs::create_dir(&lib)?;
    let mut sources = vec![PathBuf::from("site/torch/lib")];
    if let Ok(packages) = fs::read_dir(folder.join("site/nvidia")) {
        for package in packages {
            sources.push(
                Path::new("site/nvidia")
                    .join(package?.file_name())
                    .join("lib"),
            );
        }
    }
    for source in sources.iter().filter(|source| folder.join(source).is_dir()) {
        for file in fs::read_dir(folder.join(source))? {
            let name = file?.file_name();
            if !is_library(&name.to_string_lossy()) {
                continue;
            }
            // Relative, because the folder is moved to its place afterwards.
            symlink(Path::new("..").join(source).join(&name), lib.join(&name))
                .with_context(|| format!("cannot link {}", name.display()))?;
        }
    }
    Ok(())
}

/// `libx.so` and `libx.so.13`.
fn is_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.")
}

fn link(paths: &Paths, at: &Path, folder: &Path) -> Result<()> {
    let Link::Moved(old) = paths::link(at, folder)? else {
        return Ok(());
    };
    // The path that builds see is still the same, and so cargo would not link anew.
    if old.file_name() != folder.file_name() {
        println!(
            "libtorch changed from {}: what is linked to it is built anew",
            old.display()
        );
        for profile in ["dev", "release"] {
            let mut clean = process::cargo();
            clean.current_dir(&paths.root);
            clean.args([
                "clean",
                "--quiet",
                "--package",
                "torch-sys",
                "--profile",
                profile,
            ]);
            process::run("discarding the build of torch-sys", &mut clean)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_foreign_libtorch_is_the_users_own() {
        let ours = Path::new("/checkout/.deps/libtorch");
        let own = |value: Option<&str>| own_libtorch(value.map(PathBuf::from), ours);
        assert_eq!(own(None).unwrap(), None);
        assert_eq!(own(Some("/checkout/.deps/libtorch")).unwrap(), None);
        assert_eq!(
            own(Some("/opt/libtorch")).unwrap(),
            Some(PathBuf::from("/opt/libtorch"))
        );
        assert!(
            own(Some("libtorch")).is_err(),
            "a relative path means another folder per package"
        );
    }

    #[test]
    fn a_folder_tells_its_device() {
        for device in [Device::Cpu, Device::Cuda] {
            let folder = Path::new("/cache").join(device.folder_name());
            assert_eq!(Device::of_folder(&folder), Some(device));
        }
        assert_eq!(
            Device::of_folder(Path::new("/cache/libtorch-1.0.0-cpu")),
            None
        );
        assert_ne!(Device::Cpu.recipe(), Device::Cuda.recipe());
    }

    #[test]
    fn the_libraries_of_an_installation_come_together_in_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        for file in [
            "site/torch/include/a.h",
            "site/torch/lib/libtorch.so",
            "site/torch/lib/notes.txt",
            "site/torch/version.py",
            "site/nvidia/cu13/lib/libcudart.so.13",
            "site/nvidia/nccl/lib/libnccl.so.2",
            "site/nvidia/nccl/include/nccl.h",
        ] {
            let path = made.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        join_site(&made).unwrap();
        let folder = dir.path().join("moved");
        fs::rename(&made, &folder).unwrap();

        let mut names: Vec<_> = fs::read_dir(folder.join("lib"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["libcudart.so.13", "libnccl.so.2", "libtorch.so"]);
        for (file, source) in [
            (
                "lib/libcudart.so.13",
                "site/nvidia/cu13/lib/libcudart.so.13",
            ),
            ("lib/libtorch.so", "site/torch/lib/libtorch.so"),
            ("include/a.h", "site/torch/include/a.h"),
        ] {
            assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), source);
        }
    }
}
