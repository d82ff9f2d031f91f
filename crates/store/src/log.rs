//! The append-only log.
//!
//! - **LG-1 (acknowledged is durable).** `append_all` returns only after one flush to disk of all its
//!   records, and a new file's name is flushed to its folder before the first record goes in.
//! - **LG-2 (torn tail).** A crash can only leave a batch that nobody was told of at the end of the
//!   newest file incomplete. Opening keeps the complete records before the first damaged one, cuts
//!   the rest off, and reports it ([`Repair`]).
//! - **LG-3 (damage is not a tail).** A damaged record in front of anything that was flushed later,
//!   or in a file that is not the newest, is an error that names file and byte. It is never skipped.
//! - **LG-4 (full disk).** A record that could not be written in full is taken back, and the log
//!   goes on once there is room.
//!
//! Not promised: an acknowledged last batch that a failing disk destroys later looks like a torn one.
//!
//! Layout of a file, all numbers little-endian: `SWIRLLOG`, version (u32), then records: mark (u32),
//! length (u32), position of the first record of its batch (u64), CRC-32 of these two and of the
//! payload (u32), payload (a trajectory in `proto::codec`). The batch's position tells LG-2 from
//! LG-3: after a power cut, later records of a torn batch may be intact, but no record of a later
//! batch is.

mod frame;

use crate::error::{StoreError, io_error};
use crate::files::{self, Kind, sync_dir};
use frame::{FILE_HEADER, HeaderFault};
use proto::Trajectory;
use proto::codec;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
pub(crate) mod tests;

/// What opening cut off the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The log file.
    pub path: PathBuf,
    /// How many bytes were kept.
    pub bytes_kept: u64,
    /// How many bytes were dropped. None of them belonged to an acknowledged record.
    pub bytes_dropped: u64,
}

/// A file that records are appended to. A trait, so that tests can fill the disk.
pub(crate) trait LogFile: Send + Sync {
    /// Writes behind the end; may leave a part behind on failure.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to this length, durably.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl LogFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.sync_all()
    }
}

/// Opens a log file for appending, creating it if it is missing.
pub(crate) type OpenFile = Arc<dyn Fn(&Path) -> io::Result<Box<dyn LogFile>> + Send + Sync>;

/// Real files.
pub(crate) fn real_files() -> OpenFile {
    Arc::new(|path| {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Box::new(file))
    })
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) file: u64,
    pub(crate) offset: u64,
}

struct Active {
    number: u64,
    path: PathBuf,
    file: Box<dyn LogFile>,
    len: u64,
}

/// The log of a folder: numbered files, of which the newest is written.
pub(crate) struct Log {
    dir: PathBuf,
    /// A file of this size is followed by a new one.
    rotate_bytes: u64,
    open_file: OpenFile,
    numbers: Vec<u64>,
    active: Option<Active>,
    is_broken: bool,
}

impl Log {
    /// Opens the log of a folder, shows every record to `on_record`, and repairs the tail (LG-2).
    pub(crate) fn open(
        dir: &Path,
        rotate_bytes: u64,
        open_file: OpenFile,
        mut on_record: impl FnMut(Position, Trajectory),
    ) -> Result<(Self, Option<Repair>), StoreError> {
        let mut log = Self {
            dir: dir.to_owned(),
            rotate_bytes,
            open_file,
            numbers: Kind::Log.list(dir)?,
            active: None,
            is_broken: false,
        };
        let Some((&newest, older)) = log.numbers.split_last() else {
            return Ok((log, None));
        };
        for &number in older {
            let found = scan(&log.path(number), false, |offset, trajectory| {
                on_record(
                    Position {
                        file: number,
                        offset,
                    },
                    trajectory,
                );
            })?;
            debug_assert_eq!(
                found.kept, found.len,
                "a scan that must be complete was not"
            );
        }
        let found = scan(&log.path(newest), true, |offset, trajectory| {
            on_record(
                Position {
                    file: newest,
                    offset,
                },
                trajectory,
            );
        })?;
        let repair = log.resume(newest, found)?;
        Ok((log, repair))
    }

    /// Goes on with the newest file, without its torn tail. A file without a header goes.
    fn resume(&mut self, newest: u64, found: Scan) -> Result<Option<Repair>, StoreError> {
        let path = self.path(newest);
        if found.kept == 0 {
            files::remove(&path)?;
            sync_dir(&self.dir)?;
            self.numbers.pop();
        } else {
            let mut file = (self.open_file)(&path).map_err(io_error("open", &path))?;
            if found.kept < found.len {
                file.truncate(found.kept)
                    .map_err(io_error("repair", &path))?;
            }
            let active = Active {
                number: newest,
                path: path.clone(),
                file,
                len: found.kept,
            };
            self.active = Some(active);
        }
        let bytes_dropped = found.len - found.kept;
        let repair = Repair {
            path,
            bytes_kept: found.kept,
            bytes_dropped,
        };
        Ok((bytes_dropped > 0).then_some(repair))
    }

    /// Appends encoded records and returns where they lie, once all are on disk (LG-1). On failure
    /// none of them is kept (LG-4).
    pub(crate) fn append_all(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Position>, StoreError> {
        if payloads.is_empty() {
            return Ok(Vec::new());
        }
        let is_broken = self.is_broken;
        let active = self.writable()?;
        if is_broken {
            return Err(StoreError::Broken {
                path: active.path.clone(),
            });
        }
        let mut bytes = Vec::new();
        let mut positions = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let offset = active.len + bytes.len() as u64;
            positions.push(Position {
                file: active.number,
                offset,
            });
            frame::write(payload, active.len, &mut bytes);
        }
        let written = active.file.append(&bytes);
        let is_written = written.is_ok();
        match written.and_then(|()| active.file.sync()) {
            Ok(()) => active.len += bytes.len() as u64,
            Err(source) => {
                let path = active.path.clone();
                let is_restored = active.file.truncate(active.len).is_ok();
                // After a failed flush the system may have forgotten what is not on disk.
                self.is_broken = is_written || !is_restored;
                return Err(io_error("append to", &path)(source));
            }
        }
        Ok(positions)
    }

    /// The file to append to: a new one if there is none or the last is full.
    fn writable(&mut self) -> Result<&mut Active, StoreError> {
        let is_full = |active: &Active| active.len >= self.rotate_bytes;
        let active = match self.active.take() {
            Some(active) if self.is_broken || !is_full(&active) => active,
            Some(active) => match self.begin_file(active.number + 1) {
                Ok(next) => next,
                Err(error) => {
                    self.active = Some(active);
                    return Err(error);
                }
            },
            None => self.begin_file(self.numbers.last().map_or(1, |last| last + 1))?,
        };
        Ok(self.active.insert(active))
    }

    fn begin_file(&mut self, number: u64) -> Result<Active, StoreError> {
        let path = self.path(number);
        let mut file = (self.open_file)(&path).map_err(io_error("create", &path))?;
        // An earlier attempt on a full disk may have left a piece of a header.
        let begun = file
            .truncate(0)
            .and_then(|()| file.append(&FILE_HEADER))
            .and_then(|()| file.sync());
        let begun = begun
            .map_err(io_error("create", &path))
            .and_then(|()| sync_dir(&self.dir));
        if let Err(error) = begun {
            // If this fails too, opening finds a file without a header and removes it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.numbers.push(number);
        Ok(Active {
            number,
            path,
            file,
            len: FILE_HEADER.len() as u64,
        })
    }

    /// Removes a file whose records are stored elsewhere. Call [`Log::sync_removals`] afterwards.
    pub(crate) fn remove_file(&mut self, number: u64) -> Result<(), StoreError> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.number == number)
        {
            self.active = None;
            self.is_broken = false;
        }
        files::remove(&self.path(number))?;
        self.numbers.retain(|&n| n != number);
        Ok(())
    }

    /// Makes removals durable.
    pub(crate) fn sync_removals(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir)
    }

    /// Numbers of the log's files, in order.
    pub(crate) fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    pub(crate) fn reader(&self, number: u64) -> Result<LogReader, StoreError> {
        LogReader::open(self.path(number))
    }

    fn path(&self, number: u64) -> PathBuf {
        Kind::Log.path(&self.dir, number)
    }
}

/// Reads records of one file at known places, best in order.
pub(crate) struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
}

impl LogReader {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = File::open(&path).map_err(io_error("open", &path))?;
        Ok(Self {
            path,
            file: BufReader::new(file),
            at: 0,
        })
    }

    pub(crate) fn read(&mut self, offset: u64) -> Result<Trajectory, StoreError> {
        let payload = self.payload(offset).map_err(io_error("read", &self.path))?;
        let checked = payload.and_then(|bytes| codec::decode(&bytes).map_err(|e| e.to_string()));
        checked.map_err(|detail| StoreError::Damaged {
            path: self.path.clone(),
            offset,
            detail,
        })
    }

    fn payload(&mut self, offset: u64) -> io::Result<Result<Vec<u8>, String>> {
        let distance = i64::try_from(offset).map_err(io::Error::other)? - self.at as i64;
        self.file.seek_relative(distance)?;
        let mut bytes = vec![0; frame::HEADER_BYTES];
        self.file.read_exact(&mut bytes)?;
        self.at = offset + bytes.len() as u64;
        let len = match frame::payload_len(&bytes) {
            Ok(len) => len,
            Err(detail) => return Ok(Err(detail)),
        };
        bytes.resize(frame::HEADER_BYTES + len, 0);
        self.file.read_exact(&mut bytes[frame::HEADER_BYTES..])?;
        self.at += len as u64;
        Ok(frame::read(&bytes, 0).map(|frame| frame.payload.to_vec()))
    }
}

/// How much of a file is intact, in bytes.
struct Scan {
    kept: u64,
    len: u64,
}

/// Reads a whole file. `is_newest`: its tail may be torn.
fn scan(
    path: &Path,
    is_newest: bool,
    mut on_record: impl FnMut(u64, Trajectory),
) -> Result<Scan, StoreError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let len = bytes.len() as u64;
    match frame::check_header(&bytes) {
        Ok(()) => {}
        Err(HeaderFault::Torn) if is_newest => return Ok(Scan { kept: 0, len }),
        Err(fault) => {
            return Err(StoreError::NotALog {
                path: path.to_owned(),
                detail: fault.to_string(),
            });
        }
    }
    let damaged = |offset: usize, detail: String| StoreError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
        detail,
    };
    let mut at = FILE_HEADER.len();
    while at < bytes.len() {
        let frame = match frame::read(&bytes, at) {
            Ok(frame) => frame,
            Err(_) if is_newest && !frame::later_batch_follows(&bytes, at) => break,
            Err(detail) => return Err(damaged(at, detail)),
        };
        // The checksum holds, so these bytes were written so: by another version, or by a bug.
        let trajectory =
            codec::decode(frame.payload).map_err(|error| damaged(at, error.to_string()))?;
        on_record(at as u64, trajectory);
        at = frame.end;
    }
    Ok(Scan {
        kept: at as u64,
        len,
    })
}
