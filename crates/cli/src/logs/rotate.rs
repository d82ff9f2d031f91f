//! A log file of bounded size (LO-2).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Size of a piece in bytes: some 500,000 lines.
const PIECE_BYTES: u64 = 64 << 20;

/// Pieces that are kept beside the one that is written: `swirl.log.1` is the newest.
const PIECES: u32 = 4;

/// A file that is put aside once it is large, and goes on anew.
pub struct Rotating {
    path: PathBuf,
    file: File,
    written: u64,
    piece_bytes: u64,
}

impl Rotating {
    /// Goes on behind what the file holds.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        Self::of_pieces(path, PIECE_BYTES)
    }

    fn of_pieces(path: PathBuf, piece_bytes: u64) -> io::Result<Self> {
        let file = append_to(&path)?;
        Ok(Self {
            written: file.metadata()?.len(),
            path,
            file,
            piece_bytes,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..PIECES).rev() {
            let (from, to) = (
                numbered(&self.path, number),
                numbered(&self.path, number + 1),
            );
            match fs::rename(from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        self.file = append_to(&self.path)?;
        Ok(())
    }
}

impl Write for Rotating {
    /// Takes whole lines: a piece begins with one.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let is_full = self.written + lines.len() as u64 > self.piece_bytes;
        if is_full && self.written > 0 {
            // Where a piece cannot be put aside, the file grows by another one before the next try.
            self.written = 0;
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.written += lines.len() as u64;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// `swirl.log.1`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lo_2_old_pieces_go_and_no_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swirl.log");
        let line = |n: usize| format!("{n:03}\n");
        // Twice, as by two runs of one folder: ten lines to a piece.
        for half in [0..33, 33..66] {
            let mut log = Rotating::of_pieces(path.clone(), 40).unwrap();
            for n in half {
                log.write_all(line(n).as_bytes()).unwrap();
            }
        }
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(path.clone()), (60..66).map(line).collect::<String>());
        for number in 1..=4 {
            let first = 60 - 10 * number as usize;
            let expected: String = (first..first + 10).map(line).collect();
            assert_eq!(read(numbered(&path, number)), expected);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }
}
