//! A folder of trajectories.
//!
//! - **ST-1 (once).** Each item is stored at most once; what is acknowledged comes back from every
//!   later open, whatever killed the process.
//! - **ST-2 (compaction moves, never loses).** A record leaves the log only after a segment that
//!   reads back as the same bytes is on disk under its final name. In between it is in both, and
//!   counts once.
//! - **ST-3 (valid).** Only trajectories that keep the rules of their type are stored.

mod compact;

use crate::error::{StoreError, io_error};
use crate::files::{self, Kind};
use crate::log::{Log, LogReader, OpenFile, Position, Repair, real_files};
use crate::segment;
use proto::codec::{self, CodecError, MAX_VALUE_BYTES};
use proto::{ItemId, Trajectory};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// How a store keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// A log file of at least this many bytes is followed by a new one. Default: 64 MiB. Opening
    /// reads one such file into memory at a time.
    pub rotate_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            rotate_bytes: 64 << 20,
        }
    }
}

/// What was found when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// How many trajectories.
    pub records: usize,
    /// What was cut off the log's end, if a crash had left half a record there.
    pub repaired: Option<Repair>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Segment { number: u64, row: usize },
    Log(Position),
}

/// The trajectories of a folder. Belongs to one process at a time.
pub struct TrajectoryStore {
    dir: PathBuf,
    log: Log,
    segments: Vec<u64>,
    index: BTreeMap<ItemId, Place>,
    opened: Opened,
    /// Held until the store is dropped.
    _lock: File,
}

impl std::fmt::Debug for TrajectoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrajectoryStore")
            .field("dir", &self.dir)
            .field("len", &self.index.len())
            .finish_non_exhaustive()
    }
}

impl TrajectoryStore {
    /// Opens a folder, which is created if it is missing; repairs what a crash left behind.
    ///
    /// # Errors
    /// When another process has it open, a file is damaged, or the system refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(dir, StoreOptions::default())
    }

    /// [`TrajectoryStore::open`] with other options.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(dir.as_ref(), options, real_files())
    }

    pub(crate) fn open_on(
        dir: &Path,
        options: StoreOptions,
        open_file: OpenFile,
    ) -> Result<Self, StoreError> {
        files::create_dir(dir)?;
        let lock = files::lock(dir)?;
        files::remove_unfinished(dir)?;
        let segments = Kind::Segment.list(dir)?;
        let mut index = BTreeMap::new();
        for &number in &segments {
            let items = segment::items(&Kind::Segment.path(dir, number))?;
            for (row, item) in items.into_iter().enumerate() {
                index.entry(item).or_insert(Place::Segment { number, row });
            }
        }
        let mut useful = BTreeSet::new();
        let (log, repaired) = Log::open(
            dir,
            options.rotate_bytes,
            open_file,
            |position, trajectory| {
                if let Entry::Vacant(entry) = index.entry(trajectory.item) {
                    entry.insert(Place::Log(position));
                    useful.insert(position.file);
                }
            },
        )?;
        if let Some(Repair {
            path,
            bytes_dropped,
            ..
        }) = &repaired
        {
            let path = path.display();
            tracing::warn!(%path, bytes_dropped, "A log ended in half a record, which was cut off.");
        }
        let opened = Opened {
            records: index.len(),
            repaired,
        };
        let dir = dir.to_owned();
        let mut store = Self {
            dir,
            log,
            segments,
            index,
            opened,
            _lock: lock,
        };
        store.remove_logs(|number| !useful.contains(&number))?;
        Ok(store)
    }

    /// What was found when the store was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Stores a trajectory; returns once it is on disk.
    ///
    /// # Errors
    /// As [`TrajectoryStore::append_all`].
    pub fn append(&mut self, trajectory: &Trajectory) -> Result<(), StoreError> {
        self.append_all(std::slice::from_ref(trajectory))
    }

    /// Stores trajectories with one flush for all; returns once they are on disk.
    ///
    /// # Errors
    /// When one is invalid or stored already, or the disk refuses. None of them is stored then.
    pub fn append_all(&mut self, trajectories: &[Trajectory]) -> Result<(), StoreError> {
        let mut batch = BTreeSet::new();
        let mut payloads = Vec::with_capacity(trajectories.len());
        for trajectory in trajectories {
            let item = &trajectory.item;
            if self.index.contains_key(item) || !batch.insert(item) {
                return Err(StoreError::Duplicate { item: item.clone() });
            }
            payloads.push(payload(trajectory)?);
        }
        let positions = self.log.append_all(&payloads)?;
        for (trajectory, position) in trajectories.iter().zip(positions) {
            self.index
                .insert(trajectory.item.clone(), Place::Log(position));
        }
        Ok(())
    }

    /// Streams every trajectory, each once: segments first, then the log, each in the order of
    /// writing.
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            store: self,
            segments: self.segments.iter(),
            reading: None,
            log: self.in_log(),
        }
    }

    /// The items stored.
    pub fn ids(&self) -> BTreeSet<ItemId> {
        self.index.keys().cloned().collect()
    }

    /// Whether a trajectory of the item is stored.
    pub fn contains(&self, item: &ItemId) -> bool {
        self.index.contains_key(item)
    }

    /// The trajectory of an item.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn get(&self, item: &ItemId) -> Result<Option<Trajectory>, StoreError> {
        match self.index.get(item) {
            None => Ok(None),
            Some(Place::Log(position)) => self
                .log
                .reader(position.file)?
                .read(position.offset)
                .map(Some),
            Some(&Place::Segment { number, row }) => segment::row(&self.segment(number), row),
        }
    }

    /// How many trajectories are stored.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn segment(&self, number: u64) -> PathBuf {
        Kind::Segment.path(&self.dir, number)
    }

    /// Trajectories that only the log holds, in the order of writing.
    fn in_log(&self) -> LogIter<'_> {
        let mut positions: Vec<Position> = self
            .index
            .values()
            .filter_map(|place| match place {
                Place::Log(position) => Some(*position),
                Place::Segment { .. } => None,
            })
            .collect();
        positions.sort_unstable();
        LogIter {
            log: &self.log,
            positions: positions.into_iter(),
            reader: None,
        }
    }

    /// Removes log files, oldest first.
    fn remove_logs(&mut self, is_done: impl Fn(u64) -> bool) -> Result<(), StoreError> {
        let numbers: Vec<u64> = self
            .log
            .numbers()
            .iter()
            .copied()
            .filter(|&number| is_done(number))
            .collect();
        if numbers.is_empty() {
            return Ok(());
        }
        for number in numbers {
            self.log.remove_file(number)?;
        }
        self.log.sync_removals()
    }
}

/// ST-3, and the record's bytes.
fn payload(trajectory: &Trajectory) -> Result<Vec<u8>, StoreError> {
    let item = &trajectory.item;
    let invalid = |reason: String| StoreError::Invalid {
        item: item.clone(),
        reason,
    };
    trajectory.validate().map_err(invalid)?;
    if trajectory.question.id != item.question {
        return Err(invalid(format!(
            "its question is {}",
            trajectory.question.id
        )));
    }
    let steps = trajectory.steps.iter().flat_map(|step| &step.verdicts);
    if let Some(bad) = steps
        .chain(&trajectory.outcome)
        .find(|v| !v.score.is_finite())
    {
        return Err(invalid(format!(
            "judge {} gave the score {}",
            bad.judge, bad.score
        )));
    }
    let encode = |source: CodecError| StoreError::Encode {
        item: item.clone(),
        source,
    };
    let bytes = codec::encode(trajectory).map_err(encode)?;
    match bytes.len() > MAX_VALUE_BYTES {
        true => Err(invalid(format!(
            "{} bytes are more than {MAX_VALUE_BYTES}",
            bytes.len()
        ))),
        false => Ok(bytes),
    }
}

struct LogIter<'a> {
    log: &'a Log,
    positions: std::vec::IntoIter<Position>,
    reader: Option<(u64, LogReader)>,
}

impl LogIter<'_> {
    fn read(&mut self, position: Position) -> Result<Trajectory, StoreError> {
        let reader = match self.reader.take() {
            Some((number, reader)) if number == position.file => reader,
            _ => self.log.reader(position.file)?,
        };
        self.reader
            .insert((position.file, reader))
            .1
            .read(position.offset)
    }
}

impl Iterator for LogIter<'_> {
    type Item = Result<Trajectory, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let position = self.positions.next()?;
        Some(self.read(position))
    }
}

/// See [`TrajectoryStore::iter`].
pub struct Iter<'a> {
    store: &'a TrajectoryStore,
    segments: std::slice::Iter<'a, u64>,
    /// The segment being read, and its rows from the next one on.
    reading: Option<(u64, std::iter::Enumerate<segment::Reader>)>,
    log: LogIter<'a>,
}

impl Iterator for Iter<'_> {
    type Item = Result<Trajectory, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((number, rows)) = &mut self.reading else {
                let Some(&number) = self.segments.next() else {
                    return self.log.next();
                };
                match segment::read(&self.store.segment(number)) {
                    Ok(rows) => self.reading = Some((number, rows.enumerate())),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            match rows.next() {
                None => self.reading = None,
                Some((_, Err(error))) => return Some(Err(error)),
                Some((row, Ok(trajectory))) => {
                    let place = Place::Segment {
                        number: *number,
                        row,
                    };
                    if self.store.index.get(&trajectory.item) == Some(&place) {
                        return Some(Ok(trajectory));
                    }
                }
            }
        }
    }
}
