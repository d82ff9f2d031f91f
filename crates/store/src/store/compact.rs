//! The log's records become a Parquet file.

use super::{Place, StoreError, TrajectoryStore, io_error};
use crate::error::compaction;
use crate::files;
use crate::segment;
use proto::{ItemId, Trajectory, codec};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// What a compaction has done. A crash after any of these loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The segment is on disk under a name that opening removes.
    Written,
    /// The segment was read back.
    Verified,
    /// The segment has its final name, durably.
    Renamed,
    /// One more log file is gone.
    LogRemoved,
}

impl TrajectoryStore {
    /// Turns the log into a Parquet segment. Does nothing if the log is empty.
    ///
    /// # Errors
    /// When the disk is full or refuses, or the segment does not read back as it was written. The
    /// log is kept then, and the store goes on.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        self.compact_observed(&mut |_| ControlFlow::Continue(()))
    }

    /// Compacts, and tells `observe` of each step; on `Break` it stops there as if it were killed.
    pub(super) fn compact_observed(
        &mut self,
        observe: &mut dyn FnMut(Done) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if self.in_log().next().is_none() {
            return Ok(());
        }
        let number = self.segments.last().map_or(1, |last| last + 1);
        let path = self.segment(number);
        let unfinished = files::unfinished(&path);
        let items = match self.write_segment(&unfinished, observe) {
            Ok(ControlFlow::Continue(items)) => items,
            Ok(ControlFlow::Break(())) => return Ok(()),
            Err(error) => {
                // Opening removes it too.
                let _ = fs::remove_file(&unfinished);
                return Err(error);
            }
        };
        fs::rename(&unfinished, &path).map_err(io_error("rename", &unfinished))?;
        self.segments.push(number);
        for (row, item) in items.into_iter().enumerate() {
            self.index.insert(item, Place::Segment { number, row });
        }
        // Until this returns, the log must stay: the new name may not survive a power cut.
        files::sync_dir(&self.dir)?;
        if observe(Done::Renamed).is_break() {
            return Ok(());
        }
        for file in self.log.numbers().to_vec() {
            self.log.remove_file(file)?;
            if observe(Done::LogRemoved).is_break() {
                return Ok(());
            }
        }
        self.log.sync_removals()
    }

    /// Writes and verifies a segment of what only the log holds; returns its items in order.
    fn write_segment(
        &self,
        path: &Path,
        observe: &mut dyn FnMut(Done) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Vec<ItemId>>, StoreError> {
        segment::write(path, self.in_log())?;
        if observe(Done::Written).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let items = self.verify(path)?;
        Ok(match observe(Done::Verified) {
            ControlFlow::Continue(()) => ControlFlow::Continue(items),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    /// Compares a segment with the log, byte by byte of each record's encoding.
    pub(super) fn verify(&self, path: &Path) -> Result<Vec<ItemId>, StoreError> {
        let bytes = |trajectory: &Trajectory| {
            codec::encode(trajectory).map_err(|error| compaction(path, &error))
        };
        let mut items = Vec::new();
        let mut written = segment::read(path)?;
        for expected in self.in_log() {
            let expected = expected?;
            let found = written.next().transpose()?;
            let is_same = match &found {
                Some(found) => bytes(found)? == bytes(&expected)?,
                None => false,
            };
            if !is_same {
                let detail = format!("{} did not read back as it was written", expected.item);
                return Err(compaction(path, &detail));
            }
            items.push(expected.item);
        }
        match written.next() {
            None => Ok(items),
            Some(_) => Err(compaction(
                path,
                &"it has more rows than were written".to_owned(),
            )),
        }
    }
}
