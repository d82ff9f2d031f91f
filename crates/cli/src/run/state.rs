//! Which phases of a run are done, and for which configuration.

use crate::config::{self, Config, Difference, Identity, Loaded};
use crate::files::write_atomically;
use crate::folder::{RunFolder, config_of, identity_of, state_of};
use crate::questions::Sources;
use crate::usage::UsageError;
use anyhow::{Context, Result};
use control::phases::{Phase, PhaseError, Plan, RunState};
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
/// When it is damaged, or the run was begun with another configuration than that of `now`, whose
/// settings are named.
pub fn stored(folder: &Path, now: &Identity) -> Result<Option<RunState>> {
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
        return resumed(folder, state, now).map(Some);
    }
    if !config_of(folder).exists() {
        return Ok(None);
    }
    // Where the state was deleted, what lies there is still of the configuration beside it.
    let before = begun_with(folder)?;
    let state = RunState::new(plan(&before.config), before.identity.hash());
    resumed(folder, state, now).map(Some)
}

/// Goes on with `state` where it is of the same configuration, or of one that differs in settings
/// alone which the program that began it did not have.
fn resumed(folder: &Path, state: RunState, now: &Identity) -> Result<RunState> {
    match state.clone().resume(&now.hash()) {
        Ok(state) => Ok(state),
        Err(PhaseError::OtherConfiguration { begun_with, .. }) => {
            match is_earlier_programs(folder, &begun_with, now) {
                true => Ok(state.of_configuration(now.hash())),
                false => Err(other_configuration(folder, now)),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the run in `folder`, of the configuration with this `hash`, differs from `now` by nothing
/// but settings that were not known when it began, each at its default now.
fn is_earlier_programs(folder: &Path, hash: &str, now: &Identity) -> bool {
    let reread = |before: &Before| Identity::of_settings(&before.config).ok();
    begun_with(folder).is_ok_and(|before| {
        before.identity.hash() == hash
            && reread(&before).is_some_and(|reread| {
                let before = before.identity.with_later_settings(&reread);
                before.differences(now).is_empty()
            })
    })
}

/// The most settings that an error names.
const NAMED: usize = 8;

/// Names what differs from what the run was begun with.
fn other_configuration(folder: &Path, now: &Identity) -> anyhow::Error {
    let what = match begun_with(folder) {
        Ok(before) => named(&before.identity.differences(now)),
        Err(error) => format!(
            "which cannot be read any more ({})",
            crate::usage::message(&error)
        ),
    };
    UsageError::new(format!(
        "the run was begun with another configuration: {what}. Resume it as it was begun ({} has \
         its settings), or choose another run.name",
        config_of(folder).display()
    ))
    .into()
}

fn named(differences: &[Difference]) -> String {
    let first = differences.iter().take(NAMED);
    let mut named: Vec<String> = first.map(ToString::to_string).collect();
    match differences.len() {
        0 => named.push("its state was edited, or is another program version's".to_owned()),
        all if all > NAMED => named.push(format!("{} more settings differ", all - NAMED)),
        _ => {}
    }
    named.join("; ")
}

/// Configuration and identity that a run was begun with.
struct Before {
    config: Config,
    identity: Identity,
}

/// Reads what the run in `folder` was begun with. Where only its settings are left, the questions
/// and models that they name count as they are now.
fn begun_with(folder: &Path) -> Result<Before> {
    let config = config::load(&[config_of(folder)], &[])?.config;
    let path = identity_of(folder);
    let identity = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: delete it", path.display()))?,
        Err(_) => {
            let sources = Sources::load(&config)?;
            Identity::of_settings(&config)?.with_contents(&config, &sources)?
        }
    };
    Ok(Before { config, identity })
}

/// Begins the run of `folder`, or goes on with it: state and configuration are on disk before the
/// first phase begins, so that whatever that phase leaves is never taken for another
/// configuration's.
///
/// # Errors
/// As [`stored`], or when the files cannot be written. Where it refuses, nothing was written.
pub fn begin(folder: &RunFolder, loaded: &Loaded, identity: &Identity) -> Result<RunState> {
    let state = stored(folder.path(), identity)?;
    let state = state.unwrap_or_else(|| RunState::new(plan(&loaded.config), identity.hash()));
    let text = serde_json::to_string_pretty(identity)?;
    write_if_new(&identity_of(folder.path()), &text)?;
    // The settings that a resumed run may change are part of it too.
    write_if_new(&config_of(folder.path()), &loaded.resolved)?;
    save(folder, &state)?;
    folder.make_rooms()?;
    Ok(state)
}

fn write_if_new(path: &Path, text: &str) -> Result<()> {
    match std::fs::read_to_string(path).ok().as_deref() == Some(text) {
        true => Ok(()),
        false => write_atomically(path, text.as_bytes()),
    }
}

/// Writes the state down.
///
/// # Errors
/// When the file cannot be written.
pub fn save(folder: &RunFolder, state: &RunState) -> Result<()> {
    let text = serde_json::to_string_pretty(state)?;
    write_atomically(&state_of(folder.path()), text.as_bytes())
}
