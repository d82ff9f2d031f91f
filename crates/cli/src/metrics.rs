//! `metrics.jsonl`: one line per optimisation step, appended and flushed at once.
//!
//! - **MF-1 (once).** A step of a stage has one line: where training goes back to a checkpoint, the
//!   lines of the steps after it go.
//! - **MF-2 (whole lines).** What a crash left half written is cut off when the file is opened.

use crate::files::write_atomically;
use actors::ports::StepReport;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The open file.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    /// The newest step of each stage that this process wrote.
    last: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: f64,
    stage: &'a str,
    step: u64,
    #[serde(flatten)]
    metrics: &'a BTreeMap<String, f64>,
}

/// What says whose line it is.
#[derive(Deserialize)]
struct Place {
    stage: String,
    step: u64,
}

impl MetricsFile {
    /// Opens the file of a run for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(run: &Path) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let file = append(&path)?;
        let bytes = std::fs::read(&path)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
        }
        let last = BTreeMap::new();
        Ok(Self { path, file, last })
    }

    /// Drops the lines of `stage` behind step `done`: that is where it goes on.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn rewind(&mut self, stage: &str, done: u64) -> Result<()> {
        self.last.remove(stage);
        let text = std::fs::read_to_string(&self.path)?;
        let stays = |line: &&str| {
            let place: Result<Place, _> = serde_json::from_str(line);
            !place.is_ok_and(|place| place.stage == stage && place.step > done)
        };
        let kept: String = text.split_inclusive('\n').filter(stays).collect();
        if kept.len() < text.len() {
            write_atomically(&self.path, kept.as_bytes())?;
            self.file = append(&self.path)?;
        }
        Ok(())
    }

    /// The sum of a metric over all steps of a stage.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sum(&self, stage: &str, metric: &str) -> Result<f64> {
        let text = std::fs::read_to_string(&self.path)?;
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let of_stage = lines.filter(|line: &Value| line["stage"] == stage);
        Ok(of_stage.filter_map(|line| line[metric].as_f64()).sum())
    }

    /// The newest step of a stage that was written since its last rewind.
    pub fn last_step(&self, stage: &str) -> Option<u64> {
        self.last.get(stage).copied()
    }

    /// Appends a step. A metric that cannot be written (a full disk, say) is no reason to lose the
    /// training: it is logged.
    pub fn write(&mut self, stage: &str, report: &StepReport) {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64());
        let line = Line {
            time,
            stage,
            step: report.step,
            metrics: &report.metrics,
        };
        if let Err(error) = self.append_line(&line) {
            tracing::warn!(%error, "A line of metrics could not be written.");
        }
        self.last.insert(stage.to_owned(), report.step);
    }

    fn append_line(&mut self, line: &Line<'_>) -> std::io::Result<()> {
        let text = serde_json::to_string(line)?;
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(format!("{text}\n").as_bytes());
        if written.is_err() {
            self.file.set_len(before)?;
        }
        written
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let places = text.lines().map(|line| {
            let place: Place = serde_json::from_str(line).unwrap();
            format!("{} {}", place.stage, place.step)
        });
        places.collect()
    }

    fn write(file: &mut MetricsFile, stage: &str, step: u64) {
        let metrics = BTreeMap::from([("loss".to_owned(), 0.5)]);
        file.write(stage, &StepReport { step, metrics });
    }

    #[test]
    fn a_metric_is_summed_over_the_steps_of_its_stage() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(dir.path()).unwrap();
        for (stage, step) in [("a", 1), ("a", 2), ("b", 1)] {
            write(&mut file, stage, step);
        }
        assert_eq!(file.sum("a", "loss").unwrap(), 1.0);
        assert_eq!(file.sum("a", "kl").unwrap(), 0.0);
        assert_eq!(file.sum("c", "loss").unwrap(), 0.0);
    }

    #[test]
    fn mf_1_a_step_that_is_repeated_has_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(dir.path()).unwrap();
        for (stage, step) in [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)] {
            write(&mut file, stage, step);
        }
        file.rewind("b", 1).unwrap();
        file.rewind("c", 0).unwrap();
        write(&mut file, "b", 2);
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(steps(&path), ["a 1", "a 2", "b 1", "b 2"]);
    }

    #[test]
    fn mf_2_an_unfinished_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        for (text, expected) in [
            ("", ["a 7"].as_slice()),
            ("{\"sta", &["a 7"]),
            (
                "{\"stage\":\"a\",\"step\":6}\n{\"stage\":\"a\",\"st",
                &["a 6", "a 7"],
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            write(&mut MetricsFile::open(dir.path()).unwrap(), "a", 7);
            assert_eq!(steps(&path), expected, "{text:?}");
        }
    }
}
