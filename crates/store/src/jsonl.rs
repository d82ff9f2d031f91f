//! Trajectories as JSON lines: one object a line, fields named as in the Rust types.

use crate::error::StoreError;
use crate::store::TrajectoryStore;
use proto::Trajectory;
use std::collections::BTreeSet;
use std::io::{BufRead, Write};

/// Trajectories that are stored with one flush.
const BATCH: usize = 256;

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Trajectories that were stored.
    pub added: usize,
    /// Trajectories of items that were stored before, or twice in the input: left as they were.
    pub already_stored: usize,
}

impl TrajectoryStore {
    /// Writes every trajectory as a line of JSON. Returns how many.
    ///
    /// # Errors
    /// When a file of the store cannot be read or `out` refuses.
    pub fn export_jsonl(&self, mut out: impl Write) -> Result<usize, StoreError> {
        let failed = |source| StoreError::Jsonl {
            action: "write",
            source,
        };
        let mut count = 0;
        for trajectory in self.iter() {
            serde_json::to_writer(&mut out, &trajectory?).map_err(|e| failed(e.into()))?;
            out.write_all(b"\n").map_err(failed)?;
            count += 1;
        }
        out.flush().map_err(failed)?;
        Ok(count)
    }

    /// Stores the trajectories of JSON lines; blank lines are skipped.
    ///
    /// # Errors
    /// At the first line that is no valid trajectory, and when the disk refuses. What came before
    /// may be stored; importing again goes on from there.
    pub fn import_jsonl(&mut self, input: impl BufRead) -> Result<Imported, StoreError> {
        let mut imported = Imported::default();
        let mut batch: Vec<Trajectory> = Vec::new();
        let mut waiting = BTreeSet::new();
        for (index, line) in input.lines().enumerate() {
            let line = line.map_err(|source| StoreError::Jsonl {
                action: "read",
                source,
            })?;
            if line.trim().is_empty() {
                continue;
            }
            let trajectory: Trajectory =
                serde_json::from_str(&line).map_err(|e| StoreError::Line {
                    line: index + 1,
                    detail: e.to_string(),
                })?;
            if self.contains(&trajectory.item) || !waiting.insert(trajectory.item.clone()) {
                imported.already_stored += 1;
                continue;
            }
            batch.push(trajectory);
            if batch.len() == BATCH {
                self.append_all(&batch)?;
                imported.added += batch.len();
                batch.clear();
                waiting.clear();
            }
        }
        self.append_all(&batch)?;
        imported.added += batch.len();
        Ok(imported)
    }
}
