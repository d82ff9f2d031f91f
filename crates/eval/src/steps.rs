//! Results by the number of steps that a known solution takes. One mean over all questions hides a
//! model that gains on those of one step by doing one step on all.

use crate::{EvalError, Interval, ProcessScore, Scores, process_scores, summary};
use proto::{Action, QuestionId, Trajectory};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Questions with this number of steps or more are one group.
pub const LAST_GROUP: usize = 6;

/// Results on the questions whose known solutions take equally many steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepGroup {
    /// Steps of the known solutions; [`LAST_GROUP`] stands for that many or more, 0 for questions
    /// without a known solution.
    pub steps: usize,
    /// Questions.
    pub questions: usize,
    /// Share of right answers, as in [`crate::Summary`].
    pub accuracy: Interval,
    /// Mean number of tool calls of a trajectory.
    pub calls_per_question: f64,
    /// Process score by judge.
    pub process: BTreeMap<String, ProcessScore>,
}

impl StepGroup {
    /// The group's name, such as `2 steps`.
    pub fn name(steps: usize) -> String {
        match steps {
            0 => "steps unknown".to_owned(),
            1 => "1 step".to_owned(),
            LAST_GROUP.. => format!("{LAST_GROUP} steps or more"),
            steps => format!("{steps} steps"),
        }
    }
}

/// The group that a trajectory's question belongs to.
pub fn group_of(trajectory: &Trajectory) -> usize {
    trajectory.question.reference_steps.len().min(LAST_GROUP)
}

/// The questions of each group, by steps.
pub fn groups(trajectories: &[Trajectory]) -> BTreeMap<usize, BTreeSet<&QuestionId>> {
    let mut groups: BTreeMap<usize, BTreeSet<&QuestionId>> = BTreeMap::new();
    for trajectory in trajectories {
        let group = groups.entry(group_of(trajectory)).or_default();
        group.insert(&trajectory.item.question);
    }
    groups
}

/// Results by group, in order of steps; none where no question has a known solution.
///
/// # Errors
/// As [`crate::summarise`].
pub fn by_steps(trajectories: &[Trajectory], seed: u64) -> Result<Vec<StepGroup>, EvalError> {
    let mut groups: BTreeMap<usize, Vec<&Trajectory>> = BTreeMap::new();
    for trajectory in trajectories {
        let group = groups.entry(group_of(trajectory)).or_default();
        group.push(trajectory);
    }
    if groups.keys().all(|steps| *steps == 0) {
        return Ok(Vec::new());
    }
    let group = |(steps, trajectories): (usize, Vec<&Trajectory>)| {
        let scores = Scores::of(trajectories.iter().copied())?;
        let calls = trajectories.iter().flat_map(|t| &t.steps);
        let calls = calls.filter(|step| matches!(step.action, Action::Call(_)));
        Ok(StepGroup {
            steps,
            questions: scores.questions(),
            accuracy: summary::accuracy(&scores)?,
            calls_per_question: calls.count() as f64 / trajectories.len() as f64,
            process: process_scores(trajectories.iter().copied(), seed),
        })
    };
    groups.into_iter().map(group).collect()
}
