//! The phases of a run, and which comes next.
//!
//! - **RP-1 (order).** Phases are completed in the order of [`Phase::ALL`], each at most once, and
//!   only those the plan asks for.
//! - **RP-2 (same run).** A run is continued only with the configuration it was begun with.
//! - **RP-3 (no forged state).** A state that was read from a file and breaks RP-1 is refused.
//!
//! The state says what is complete. A phase that was under way when the run stopped begins anew, and
//! makes use of whatever it left behind.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Supervised training on dialogues, so that the model keeps the format of actions.
    WarmStart,
    /// Trajectories with tools, judged and stored.
    Generate,
    /// Choosing the trajectories that training uses.
    Filter,
    /// Step-wise reinforcement learning and what it is compared with.
    Train,
    /// Measuring every model.
    Evaluate,
    /// Writing the report.
    Report,
}

impl Phase {
    /// Every phase, in the order of a run.
    pub const ALL: [Self; 6] = [
        Self::WarmStart,
        Self::Generate,
        Self::Filter,
        Self::Train,
        Self::Evaluate,
        Self::Report,
    ];

    /// The phase's name in logs, reports and the state file.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmStart => "warm_start",
            Self::Generate => "generate",
            Self::Filter => "filter",
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Report => "report",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The phases that a configuration asks for, in the order of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Phase>", into = "Vec<Phase>")]
pub struct Plan(Vec<Phase>);

impl Plan {
    /// A plan of these phases, in whatever order they are given.
    pub fn new(phases: impl IntoIterator<Item = Phase>) -> Self {
        let mut phases: Vec<Phase> = phases.into_iter().collect();
        phases.sort_unstable();
        phases.dedup();
        Self(phases)
    }

    /// The phases in order.
    pub fn phases(&self) -> &[Phase] {
        &self.0
    }
}

impl From<Vec<Phase>> for Plan {
    fn from(phases: Vec<Phase>) -> Self {
        Self::new(phases)
    }
}

impl From<Plan> for Vec<Phase> {
    fn from(plan: Plan) -> Self {
        plan.0
    }
}

/// Why a run cannot go on as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhaseError {
    /// Another phase is due: a bug in whoever drives the run.
    #[error("phase {phase} cannot be completed now: {due} is due")]
    NotDue {
        /// The phase that was reported.
        phase: Phase,
        /// The phase that is due.
        due: Phase,
    },
    /// A phase was reported twice: a bug in whoever drives the run.
    #[error("phase {0} is already complete")]
    AlreadyComplete(Phase),
    /// The configuration does not ask for the phase.
    #[error("phase {0} is not part of this run")]
    NotPlanned(Phase),
    /// The run was begun with another configuration. Resume with the old one, which lies in the run
    /// folder, or begin a new run.
    #[error(
        "the run was begun with another configuration (hash {begun_with}, now {now}): resume it \
         with the config.toml in its folder, or choose another run name"
    )]
    OtherConfiguration {
        /// Hash of the configuration of the run.
        begun_with: String,
        /// Hash of the configuration at hand.
        now: String,
    },
    /// A state whose completed phases are not the first ones of its plan: the file was edited or
    /// is damaged.
    #[error("the completed phases [{completed}] are not the first of the plan [{plan}]")]
    Inconsistent {
        /// What is said to be complete.
        completed: String,
        /// What was planned.
        plan: String,
    },
}

/// How far a run is. Small enough to be written after each phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct RunState {
    config_hash: String,
    plan: Plan,
    completed: Vec<Phase>,
}

/// A state as read, before RP-3 is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    config_hash: String,
    plan: Plan,
    completed: Vec<Phase>,
}

impl TryFrom<Stored> for RunState {
    type Error = PhaseError;

    fn try_from(stored: Stored) -> Result<Self, PhaseError> {
        let Stored {
            config_hash,
            plan,
            completed,
        } = stored;
        if !plan.0.starts_with(&completed) {
            let list = |phases: &[Phase]| {
                phases
                    .iter()
                    .map(|p| p.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return Err(PhaseError::Inconsistent {
                completed: list(&completed),
                plan: list(&plan.0),
            });
        }
        Ok(Self {
            config_hash,
            plan,
            completed,
        })
    }
}

impl RunState {
    /// A run that has not begun.
    pub fn new(plan: Plan, config_hash: impl Into<String>) -> Self {
        Self {
            config_hash: config_hash.into(),
            plan,
            completed: Vec::new(),
        }
    }

    /// Continues a stored run with the configuration of this hash.
    ///
    /// # Errors
    /// [`PhaseError::OtherConfiguration`] if the run was begun with another one (RP-2).
    pub fn resume(self, config_hash: &str) -> Result<Self, PhaseError> {
        if self.config_hash == config_hash {
            return Ok(self);
        }
        let now = config_hash.to_owned();
        Err(PhaseError::OtherConfiguration {
            begun_with: self.config_hash,
            now,
        })
    }

    /// The same run under another hash of its configuration, for a caller who has seen that the two
    /// mean the same.
    pub fn of_configuration(self, config_hash: impl Into<String>) -> Self {
        Self {
            config_hash: config_hash.into(),
            ..self
        }
    }

    /// The phase that is due; `None` once the run is finished.
    pub fn next(&self) -> Option<Phase> {
        self.plan.0.get(self.completed.len()).copied()
    }

    /// Marks the phase that is due as complete.
    ///
    /// # Errors
    /// If it is not due; the state stays as it was (RP-1).
    pub fn complete(&mut self, phase: Phase) -> Result<(), PhaseError> {
        match (self.next(), phase) {
            (Some(due), phase) if due == phase => {
                self.completed.push(phase);
                Ok(())
            }
            (_, phase) if self.completed.contains(&phase) => {
                Err(PhaseError::AlreadyComplete(phase))
            }
            (Some(due), phase) if self.plan.0.contains(&phase) => {
                Err(PhaseError::NotDue { phase, due })
            }
            (Some(_) | None, phase) => Err(PhaseError::NotPlanned(phase)),
        }
    }

    /// The phases done so far, in order.
    pub fn completed(&self) -> &[Phase] {
        &self.completed
    }

    /// The phases of this run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Phase::{Evaluate, Filter, Generate, Report, Train, WarmStart};
    use proptest::prelude::*;

    fn state() -> RunState {
        RunState::new(Plan::new([Report, Generate, Train, Generate]), "abc")
    }

    #[test]
    fn rp_1_phases_come_in_order_and_skip_what_is_not_planned() {
        let mut state = state();
        let mut seen = Vec::new();
        while let Some(phase) = state.next() {
            seen.push(phase);
            state.complete(phase).unwrap();
        }
        assert_eq!(seen, [Generate, Train, Report]);
        assert_eq!(state.completed(), seen);
        assert!(state.is_finished());
    }

    #[test]
    fn rp_1_every_other_event_is_refused_and_changes_nothing() {
        let begun = {
            let mut state = state();
            state.complete(Generate).unwrap();
            state
        };
        let mut finished = begun.clone();
        finished.complete(Train).unwrap();
        finished.complete(Report).unwrap();
        for (state, phase, error) in [
            (&begun, Generate, PhaseError::AlreadyComplete(Generate)),
            (
                &begun,
                Report,
                PhaseError::NotDue {
                    phase: Report,
                    due: Train,
                },
            ),
            (&begun, WarmStart, PhaseError::NotPlanned(WarmStart)),
            (&begun, Evaluate, PhaseError::NotPlanned(Evaluate)),
            (&finished, Report, PhaseError::AlreadyComplete(Report)),
            (&finished, Filter, PhaseError::NotPlanned(Filter)),
        ] {
            let mut after = state.clone();
            assert_eq!(after.complete(phase), Err(error));
            assert_eq!(&after, state);
        }
    }

    #[test]
    fn rp_2_another_configuration_is_refused_with_both_hashes() {
        assert_eq!(state().resume("abc"), Ok(state()));
        let message = state().resume("xyz").unwrap_err().to_string();
        assert!(message.contains("hash abc, now xyz"), "{message}");
    }

    #[test]
    fn rp_3_a_forged_state_is_refused() {
        for (completed, accepted) in [
            (r#"[]"#, true),
            (r#"["generate"]"#, true),
            (r#"["generate","train","report"]"#, true),
            (r#"["train"]"#, false),
            (r#"["generate","generate"]"#, false),
            (r#"["generate","train","report","report"]"#, false),
            (r#"["generate","evaluate"]"#, false),
            (r#"["sleep"]"#, false),
        ] {
            let text = format!(
                r#"{{"config_hash":"abc","plan":["generate","train","report"],"completed":{completed}}}"#
            );
            let read = serde_json::from_str::<RunState>(&text);
            assert_eq!(read.is_ok(), accepted, "{completed}: {read:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_state_file() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
        assert!(Phase::ALL.is_sorted());
    }

    fn phase() -> impl Strategy<Value = Phase> {
        (0..Phase::ALL.len()).prop_map(|index| Phase::ALL[index])
    }

    proptest! {
        #[test]
        fn rp_1_holds_under_any_events_and_restarts(
            planned in proptest::collection::vec(phase(), 0..8),
            reports in proptest::collection::vec((phase(), any::<bool>()), 0..40),
        ) {
            let plan = Plan::new(planned.clone());
            let mut state = RunState::new(plan.clone(), "h");
            for (phase, restarts) in reports {
                let (due, before) = (state.next(), state.clone());
                match state.complete(phase) {
                    Ok(()) => prop_assert_eq!(due, Some(phase)),
                    Err(_) => {
                        prop_assert_ne!(due, Some(phase));
                        prop_assert_eq!(&state, &before);
                    }
                }
                prop_assert!(plan.phases().starts_with(state.completed()));
                if restarts {
                    let text = serde_json::to_string(&state).unwrap();
                    let read: RunState = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(&read.resume("h").unwrap(), &state);
                }
            }
            while let Some(phase) = state.next() {
                state.complete(phase).unwrap();
            }
            prop_assert_eq!(state.completed(), plan.phases());
            prop_assert!(planned.iter().all(|p| state.completed().contains(p)));
        }
    }
}
