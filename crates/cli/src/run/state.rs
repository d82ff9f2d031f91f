//! Which phases of a run are done, and for which configuration.

use crate::config::{self, Config, Loaded};
use crate::files::write_atomically;
use crate::folder::{RunFolder, config_of, state_of};
use anyhow::{Context, Result};
use control::phases::{Phase, Plan, RunState};
use std::path::Path;

/// The phases that a configuration asks for.
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

/// The phases that are still to come, of a run that was begun or of a new one.
pub fn due(config: &Config, begun: Option<&RunState>) -> Vec<Phase> {
    match begun {
        Some(state) => state.plan().phases()[state.completed().len()..].to_vec(),
        None => plan(config).phases().to_vec(),
    }
}

/// The state of the run in `folder`, if there is one.
///
/// # Errors
/// When it is damaged, or the run was begun with another configuration than that of `hash`.
pub fn stored(folder: &Path, hash: &str) -> Result<Option<RunState>> {
    let path = state_of(folder);
    if path.exists() {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let state: RunState = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged: delete it to repeat the check of every phase",
                path.display()
            )
        })?;
        return Ok(Some(state.resume(hash)?));
    }
    let path = config_of(folder);
    if !path.exists() {
        return Ok(None);
    }
    // Where the state was deleted, what lies there is still of the configuration beside it.
    let begun_with = config::load(&[path], &[])?.config;
    let state = RunState::new(plan(&begun_with), config::fingerprint(&begun_with)?);
    Ok(Some(state.resume(hash)?))
}

/// Begins the run of `folder`, or goes on with it: state and configuration are on disk before the
/// first phase begins, so that whatever that phase leaves is never taken for another
/// configuration's.
///
/// # Errors
/// As [`stored`], or when the files cannot be written. Where it refuses, nothing was written.
pub fn begin(folder: &RunFolder, loaded: &Loaded, hash: &str) -> Result<RunState> {
    let state = stored(folder.path(), hash)?;
    let state = state.unwrap_or_else(|| RunState::new(plan(&loaded.config), hash));
    let path = config_of(folder.path());
    // The settings that a resumed run may change are part of it too.
    if std::fs::read_to_string(&path).ok().as_deref() != Some(&loaded.resolved) {
        write_atomically(&path, loaded.resolved.as_bytes())?;
    }
    save(folder, &state)?;
    folder.make_rooms()?;
    Ok(state)
}

/// Writes the state down.
///
/// # Errors
/// When the file cannot be written.
pub fn save(folder: &RunFolder, state: &RunState) -> Result<()> {
    let text = serde_json::to_string_pretty(state)?;
    write_atomically(&state_of(folder.path()), text.as_bytes())
}
