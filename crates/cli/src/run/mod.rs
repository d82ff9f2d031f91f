//! A run: warm start, trajectories, filter, training, evaluation, report. Each phase leaves what it
//! made in the run folder, so that `--resume` goes on with the first that is not complete.

mod arms;
mod evaluate;
mod gains;
pub mod generate;
mod outline;
mod overlap;
pub mod preflight;
pub mod report;
mod state;
pub mod unjudged;

use crate::cluster::{Elsewhere, Head};
use crate::config::{Config, Identity, Loaded};
use crate::console;
use crate::ending::{self, Stopped};
use crate::engine::Machine;
use crate::folder::{Claim, Reuse, RunFolder};
use crate::metrics::MetricsFile;
use crate::progress::Overview;
use crate::questions::{Skipped, Sources};
use crate::requests::Requests;
use actors::{FleetPlan, Stop};
use anyhow::{Context, Result};
use control::phases::{Phase, RunState};
use overlap::Overlap;
use proto::Role;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What every phase needs.
pub struct Run {
    /// The configuration.
    pub config: Config,
    /// Where everything is written.
    pub folder: RunFolder,
    /// The device.
    pub machine: Machine,
    /// Where nodes join, if there are any.
    pub head: Option<Head>,
    /// The questions, without those that `run.skip` names.
    pub sources: Sources,
    /// Numbers of questions that `run.skip` left out, by source.
    pub skipped: Vec<Skipped>,
    /// Questions that are trained on and measured on, where that is allowed.
    pub overlaps: Vec<Overlap>,
    /// Progress of the whole run.
    pub overview: Overview,
    /// Asked when the run is to end in order.
    pub stop: Stop,
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

    fn metrics(&self) -> MutexGuard<'_, MetricsFile> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the actors of a role live in this process.
    pub fn is_here(&self, role: Role) -> bool {
        self.config.cluster.is_here(role)
    }

    /// The fleet, with what nodes do in it if there are any.
    fn fleet(&self, plan: FleetPlan, elsewhere: Elsewhere) -> FleetPlan {
        let stop = self.stop.clone();
        Head::extend(self.head.as_ref(), FleetPlan { stop, ..plan }, elsewhere)
    }

    /// Writes a step down. One that was made before, by a learner that is lost, is void, and with it
    /// all that followed.
    fn record(&self, stage: &str, report: &actors::ports::StepReport) {
        if self
            .metrics()
            .last_step(stage)
            .is_some_and(|last| last >= report.step)
        {
            self.rewind(stage, report.step - 1);
        }
        self.metrics().write(stage, report);
    }

    /// Training of `stage` goes on behind step `done`: what was recorded of later ones is void.
    fn rewind(&self, stage: &str, done: u64) {
        if let Err(error) = self.metrics().rewind(stage, done) {
            let error = format!("{error:#}");
            tracing::warn!(%error, stage, "Metrics of steps that are repeated were not removed.");
        }
    }
}

/// Runs all phases of a configuration; returns the report. Ends in order once `stop` is asked, which
/// `swirl stop` does, too.
///
/// # Errors
/// The first failure, or that it was stopped. Everything finished before it is kept: mend the cause
/// and resume.
pub async fn run(loaded: &Loaded, reuse: Reuse, stop: &Stop) -> Result<report::Report> {
    let config = &loaded.config;
    let claim = Claim::on(config.run.folder(), reuse)?;
    let all = Sources::load(config)?;
    let settings = Identity::of_settings(config)?;
    let nodes_hash = settings.hash();
    let identity = settings.with_contents(config, &all)?;
    // A run that cannot be resumed is refused before minutes are spent.
    let begun = match claim.resumes() {
        true => state::stored(claim.path(), &identity)?,
        false => None,
    };
    let due = state::due(config, begun.as_ref());
    let (sources, skipped) = all.without(&config.run.skip, config)?;
    let overlaps = preflight::offline(config, &sources)?;
    let machine = preflight::all(config, &due).await?;
    // Wrong certificates and a port that is taken are no reason to make or to clean a folder.
    let head = Head::start(config, &nodes_hash, claim.path())?;
    let folder = claim.open()?;
    folder.clear_leftovers()?;
    let mut state = state::begin(&folder, loaded, &identity)?;
    crate::logs::to_file(&folder.logs()).context("cannot write the log")?;
    let metrics = MetricsFile::open(folder.path()).context("cannot open metrics.jsonl")?;
    let cluster = head.as_ref().map(Head::cluster);
    let requests = Requests::take(folder.path(), stop.clone(), cluster);
    if let Err(error) = &requests {
        tracing::warn!(%error, "`swirl stop` does not reach this run: signals do.");
    }
    let run = Run {
        config: config.clone(),
        overview: Overview::of(outline::of(config, &sources, &state)),
        folder,
        machine,
        head,
        sources,
        skipped,
        overlaps,
        stop: stop.clone(),
        metrics: Mutex::new(metrics),
    };
    let done = phases(&run, &mut state).await;
    if let Some(head) = &run.head {
        match &done {
            Ok(()) => head.dismiss().await,
            // They look for the controller until it is back.
            Err(error) if ending::is_stop(error) => head.leave().await,
            Err(_) => {}
        }
    }
    done?;
    report::read(&run.folder)
}

async fn phases(run: &Run, state: &mut RunState) -> Result<()> {
    let stopped = || Stopped::InOrder;
    if let Some(head) = &run.head
        && state.next().is_some()
    {
        run.stop.unless(head.gather()).await.ok_or_else(stopped)??;
    }
    while let Some(phase) = state.next() {
        if run.stop.is_asked() {
            return Err(stopped().into());
        }
        announce(state, phase);
        perform(run, phase).await?;
        state.complete(phase)?;
        state::save(&run.folder, state)?;
    }
    Ok(())
}

fn announce(state: &RunState, phase: Phase) {
    // For the log file: stderr is told below, whatever its filter.
    tracing::info!(target: "phases", phase = phase.name(), "A phase begins.");
    let number = state.completed().len() + 1;
    let all = state.plan().phases().len();
    let name = phase.name().replace('_', " ");
    console::remark(format_args!("Phase {number} of {all}: {name}"));
}

async fn perform(run: &Run, phase: Phase) -> Result<()> {
    match phase {
        Phase::WarmStart => arms::warm_start(run).await,
        Phase::Generate => generate::trajectories(run).await,
        Phase::Filter => generate::filter(run),
        Phase::Train => arms::train(run).await,
        Phase::Evaluate => evaluate::all(run).await,
        Phase::Report => report::write(run),
    }
}
