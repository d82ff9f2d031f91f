//! The files of a folder, one behind the other.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the bytes of each file lie among those of all, in the order of their paths.
#[derive(Debug)]
pub(super) struct Joined(Vec<(String, Range<u64>)>);

/// A part of one file.
struct Part {
    /// Number of the file.
    file: usize,
    /// Its first byte within the file.
    at: u64,
    /// Its bytes within what was asked for.
    within: Range<usize>,
}

impl Joined {
    /// The lengths were checked: together they are a number of bytes.
    pub(super) fn new(files: &BTreeMap<String, u64>) -> Self {
        let mut end = 0u64;
        let placed = files.iter().map(|(path, len)| {
            let start = end;
            end = end.saturating_add(*len);
            (path.clone(), start..end)
        });
        Self(placed.collect())
    }

    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Part> {
        let first = self.0.partition_point(|(_, file)| file.end <= range.start);
        let files = self.0.iter().enumerate().skip(first);
        let touched = files.take_while({
            let end = range.end;
            move |(_, (_, file))| file.start < end
        });
        touched.filter_map(move |(number, (_, file))| {
            let (start, end) = (file.start.max(range.start), file.end.min(range.end));
            let within = (start - range.start) as usize..(end.max(start) - range.start) as usize;
            (!within.is_empty()).then(|| Part {
                file: number,
                at: start - file.start,
                within,
            })
        })
    }

    /// Reads a range; `open` gives the file of a number. Blocks.
    pub(super) fn read<F: Borrow<File>>(
        &self,
        range: Range<u64>,
        open: impl Fn(usize) -> io::Result<F>,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut left = bytes.len();
        for part in self.parts(range) {
            left -= part.within.len();
            let file = open(part.file)?;
            file.borrow()
                .read_exact_at(&mut bytes[part.within], part.at)?;
        }
        match left {
            0 => Ok(bytes),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes bytes that begin at `start`. Blocks.
    pub(super) fn write(&self, files: &[Arc<File>], start: u64, bytes: &[u8]) -> io::Result<()> {
        for part in self.parts(start..start + bytes.len() as u64) {
            files[part.file].write_all_at(&bytes[part.within], part.at)?;
        }
        Ok(())
    }

    pub(super) fn path(&self, number: usize) -> &str {
        &self.0[number].0
    }
}

/// Two files of the same stamp hold the same bytes, unless somebody sets clocks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            len: file.len(),
            inode: (file.dev(), file.ino()),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the last change was so long ago.
    pub(super) fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed.max(self.modified);
        let since = u64::try_from(seconds).map_or(Duration::ZERO, Duration::from_secs);
        let since = since + Duration::from_nanos(nanoseconds.unsigned_abs());
        SystemTime::UNIX_EPOCH + since + age <= now
    }
}

/// The paths of all files below a folder, relative to it, with forward slashes. Blocks.
pub(super) fn paths_below(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(folder).map_err(io::Error::other)?;
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            found.push(parts.join("/"));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_reach_over_the_borders_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let files: BTreeMap<String, u64> = [("a", 3), ("b", 0), ("c", 4), ("d", 1)]
            .map(|(path, len)| (path.to_owned(), len))
            .into();
        let joined = Joined::new(&files);
        let open = |path: &str| File::create_new(dir.path().join(path)).unwrap();
        let opened: Vec<_> = files.keys().map(|path| Arc::new(open(path))).collect();
        joined.write(&opened, 0, b"01").unwrap();
        joined.write(&opened, 2, b"23456").unwrap();
        joined.write(&opened, 7, b"7").unwrap();
        for (path, text) in [("a", "012"), ("b", ""), ("c", "3456"), ("d", "7")] {
            let held = std::fs::read_to_string(dir.path().join(path)).unwrap();
            assert_eq!(held, text, "{path}");
        }
        let read = |range| joined.read(range, |n| File::open(dir.path().join(joined.path(n))));
        for range in [0..8usize, 0..0, 2..3, 2..4, 3..7, 7..8, 1..8] {
            let got = read(range.start as u64..range.end as u64).map_err(|e| e.to_string());
            assert_eq!(got.unwrap(), b"01234567"[range.clone()], "{range:?}");
        }
        assert!(read(7..9).is_err());
        assert_eq!(paths_below(dir.path()).unwrap(), ["a", "b", "c", "d"]);
    }
}
