//! NVIDIA's NCCL in the user's cache folder: the build that PyTorch's wheel with CUDA requires, for the
//! tests that load the real library. It loads, and makes unique ids, without a GPU too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::paths::{self, Paths};
use crate::unpack::Selection;
use crate::wheel::NCCL;
use crate::{platform, stamp};

const LIBRARY: &str = "lib/libnccl.so.2";

/// Sees to it that `.deps/nccl` leads to NCCL.
///
/// # Errors
/// On machines that the wheel is not for, and when it cannot be downloaded.
pub fn ensure(paths: &Paths) -> Result<()> {
    let folder = paths.cache.join(format!("nccl-{}", NCCL.version));
    if !stamp::is_valid(&recipe(), &folder, &[LIBRARY]) {
        platform::require_supported(
            std::env::consts::OS,
            std::env::consts::ARCH,
            platform::libc(),
        )?;
        println!("NCCL {} into {}", NCCL.version, folder.display());
        fs::create_dir_all(paths.downloads()).context("cannot make the folder of downloads")?;
        provision(paths, &folder)?;
    }
    paths::link(&paths.dep("nccl"), &folder)?;
    println!("NCCL: {}", folder.display());
    Ok(())
}

fn recipe() -> String {
    format!("NCCL {}, layout 1\n{}", NCCL.version, NCCL.stamp_line())
}

fn provision(paths: &Paths, folder: &Path) -> Result<()> {
    let selection = Selection {
        archive: NCCL.fetch(paths)?,
        files: &[("nvidia/nccl/lib/libnccl.so.2", LIBRARY)],
    };
    let fresh = paths::partial(folder);
    selection.take(&fresh)?;
    stamp::write(&recipe(), &fresh, &[LIBRARY])?;
    paths::replace_folder(&fresh, folder)
}
