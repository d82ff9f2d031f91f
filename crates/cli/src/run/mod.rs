//! A run: warm start, trajectories, filter, training, evaluation, report. Each phase leaves what it
//! made in the run folder, so that `--resume` goes on with the first that is not complete.

mod arms;
mod evaluate;
pub mod generate;
pub mod report;

use crate::config::{Config, Loaded};
use crate::engine::Machine;
use crate::folder::{Reuse, RunFolder};
use crate::metrics::MetricsFile;
use crate::questions;
use anyhow::{Context, Result};
use control::phases::{Phase, Plan, RunState};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Mutex;
use tools::registry::Registry;

/// What every phase needs.
pub struct Run {
    /// The configuration.
    pub config: Config,
    /// Where everything is written.
    pub folder: RunFolder,
    /// The device.
    pub machine: Machine,
    metrics: Mutex<MetricsFile>,
}

impl Run {
    /// The model that trajectories are generated with and training starts from.
    pub fn start_model(&self) -> PathBuf {
        match self.config.warm_start {
            Some(_) => self.folder.model(arms::WARM_START),
            None => self.config.model.path.clone(),
        }
    }

    fn record(&self, stage: &str, report: &actors::ports::StepReport) {
        self.metrics
            .lock()
            .unwrap_or_else(|p| p.into_inner())
            .write(stage, report);
    }
}

/// Runs all phases of a configuration; returns the report as text.
///
/// # Errors
/// The first failure. Everything finished before it is kept: mend the cause and resume.
pub async fn run(loaded: &Loaded, reuse: Reuse) -> Result<report::Report> {
    let machine = preflight(&loaded.config).await?;
    let folder = RunFolder::open(loaded, reuse)?;
    crate::logs::to_file(&folder.logs()).context("cannot write the log")?;
    let config = loaded.config.clone();
    let mut state = open_state(&folder, loaded)?;
    let metrics = Mutex::new(MetricsFile::open(folder.path())?);
    let run = Run {
        config,
        folder,
        machine,
        metrics,
    };
    while let Some(phase) = state.next() {
        tracing::info!(phase = phase.name(), "A phase begins.");
        match phase {
            Phase::WarmStart => arms::warm_start(&run).await?,
            Phase::Generate => generate::trajectories(&run).await?,
            Phase::Filter => generate::filter(&run)?,
            Phase::Train => arms::train(&run).await?,
            Phase::Evaluate => evaluate::all(&run).await?,
            Phase::Report => report::write(&run)?,
        }
        state.complete(phase)?;
        save_state(&run.folder, &state)?;
    }
    report::read(&run.folder)
}

/// Finds what would stop the run later, before a folder is made or an hour is spent: the device,
/// the model, the tools, every question source, the judge.
async fn preflight(config: &Config) -> Result<Machine> {
    let machine = Machine::new(&config.model)?;
    model::spec_of(&config.model.path)?;
    Registry::builtin(&config.tools.enabled, config.tools.limits.clone())?;
    let warm_start = config.warm_start.iter().map(|warm| &warm.questions);
    let sets = config.evaluation.sets.iter().map(|set| &set.questions);
    for source in std::iter::once(&config.questions)
        .chain(warm_start)
        .chain(sets)
    {
        questions::load(source)?;
    }
    let learners = [
        config.warm_start.as_ref().map(|section| &section.learner),
        config.train.as_ref().map(|section| &section.learner),
        config.imitation.as_ref().map(|section| &section.learner),
    ];
    for learner in learners.into_iter().flatten() {
        learner.validate()?;
    }
    crate::judges::probe(&config.judge).await?;
    Ok(machine)
}

fn plan(config: &Config) -> Plan {
    let mut phases = vec![
        Phase::Generate,
        Phase::Filter,
        Phase::Evaluate,
        Phase::Report,
    ];
    if config.warm_start.is_some() {
        phases.push(Phase::WarmStart);
    }
    if config.train.is_some() || config.imitation.is_some() {
        phases.push(Phase::Train);
    }
    Plan::new(phases)
}

fn open_state(folder: &RunFolder, loaded: &Loaded) -> Result<RunState> {
    let hash = hex(&Sha256::digest(loaded.resolved.as_bytes()));
    let path = folder.state();
    if !path.exists() {
        return Ok(RunState::new(plan(&loaded.config), hash));
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let state: RunState = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is damaged: delete it to repeat the check of every phase",
            path.display()
        )
    })?;
    Ok(state.resume(&hash)?)
}

fn save_state(folder: &RunFolder, state: &RunState) -> Result<()> {
    let text = serde_json::to_string_pretty(state)?;
    crate::files::write_atomically(&folder.state(), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
