//! Why the store refuses.

use parquet::errors::ParquetError;
use proto::ItemId;
use proto::codec::CodecError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a store failed. Whatever was acknowledged before stays stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// One process at a time: wait for the other, or end it.
    #[error("{} is in use by another process: wait for it to end, or stop it", dir.display())]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The disk or quota is full. The record that did not fit was taken back; everything before it
    /// is safe. Free some space and try again.
    #[error(
        "no space is left for {}: free some and continue; everything stored before is safe",
        path.display()
    )]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A flush or the removal of half a record failed earlier, so that nobody knows what is on disk.
    /// Open the store again: that repairs it.
    #[error("{} takes no more records after a failed write: open the store again", path.display())]
    Broken {
        /// The log file.
        path: PathBuf,
    },
    /// A log file is damaged where it was once intact: no crash does that. Restore it, or move it
    /// away: the items it held will be generated again.
    #[error(
        "{} is damaged at byte {offset} ({detail}), and not just at its end: restore the file from \
         a copy, or move it out of the folder to give up its records and have them generated again",
        path.display()
    )]
    Damaged {
        /// The log file.
        path: PathBuf,
        /// Where the first damaged record begins.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// A file that bears the name of a log is none, or is of a newer version. Move it away, or use
    /// the version of the program that wrote it.
    #[error("{} cannot be used as a log: {detail}", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A Parquet file is damaged or of another layout. Restore it, or move it away: the items it
    /// held will be generated again.
    #[error(
        "{} cannot be read as trajectories ({detail}): restore the file from a copy, or move it out \
         of the folder to give up its records and have them generated again",
        path.display()
    )]
    Segment {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A Parquet file could not be written, or did not read back as what was written. The log still
    /// holds every record.
    #[error("cannot compact the log into {}: {detail}; the log is kept", path.display())]
    Compaction {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The record breaks a rule that every trajectory keeps: a bug in whoever made it.
    #[error("trajectory {item} is not stored: {reason}")]
    Invalid {
        /// The record's item.
        item: ItemId,
        /// The rule.
        reason: String,
    },
    /// The store holds a trajectory of this item already, and keeps the first.
    #[error("a trajectory of {item} is already stored")]
    Duplicate {
        /// The item.
        item: ItemId,
    },
    /// The record cannot be encoded: a bug.
    #[error("trajectory {item} is not stored: {source}")]
    Encode {
        /// The record's item.
        item: ItemId,
        /// The codec's reason.
        source: CodecError,
    },
    /// A line of imported JSON is no trajectory. Lines before it may have been stored; importing the
    /// mended file again skips them.
    #[error("line {line} is no trajectory: {detail}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// Why.
        detail: String,
    },
    /// The text to import or the place to export to failed.
    #[error("cannot {action} JSON lines: {source}")]
    Jsonl {
        /// `read` or `write`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Makes an [`StoreError`] of an I/O error; a full disk gets a variant of its own.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { path }
            }
            _ => StoreError::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// Makes a [`StoreError`] of a failed Parquet write.
pub(crate) fn write_error(path: &Path) -> impl FnOnce(ParquetError) -> StoreError {
    move |error| match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(source) => io_error("write", path)(*source),
            Err(other) => compaction(path, &other),
        },
        other => compaction(path, &other),
    }
}

/// Something other than the disk kept a segment from being written.
pub(crate) fn compaction(path: &Path, detail: &impl ToString) -> StoreError {
    StoreError::Compaction {
        path: path.to_owned(),
        detail: detail.to_string(),
    }
}

/// A segment cannot be read.
pub(crate) fn unreadable(path: &Path, detail: &impl ToString) -> StoreError {
    StoreError::Segment {
        path: path.to_owned(),
        detail: detail.to_string(),
    }
}
