//! `metrics.jsonl`: one line per optimisation step, appended and flushed at once.

use actors::ports::StepReport;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The open file.
pub struct MetricsFile {
    file: File,
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

impl MetricsFile {
    /// Opens the file of a run for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(run: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(run.join("metrics.jsonl"))?;
        Ok(Self { file })
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
        let written = serde_json::to_string(&line)
            .map_err(std::io::Error::from)
            .and_then(|text| writeln!(self.file, "{text}"));
        if let Err(error) = written {
            tracing::warn!(%error, "A line of metrics could not be written.");
        }
    }
}
