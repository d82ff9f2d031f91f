//! Everything that is reported of one evaluation.

use crate::{
    EvalError, Interval, ProcessScore, SampleScores, Scores, StepGroup, by_steps,
    interval::{bootstrap_mean, wilson},
    process_scores,
    scores::right,
    text::{best, exact_match, token_f1},
};
use proto::{Action, MalformedKind, Step, Trajectory, TrajectoryEnd};
use serde::Serialize;
use std::collections::BTreeMap;

/// The resamples of every interval that needs them; fixed, so that a report can be repeated.
const BOOTSTRAP_SEED: u64 = 0;

/// Every reason to end, in the order of reports.
const ENDS: [TrajectoryEnd; 4] = [
    TrajectoryEnd::Answered,
    TrajectoryEnd::Malformed,
    TrajectoryEnd::StepLimit,
    TrajectoryEnd::ContextLimit,
];

/// One evaluation in numbers. Shares are in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Questions.
    pub questions: usize,
    /// Trajectories: questions × samples.
    pub trajectories: usize,
    /// Share of right answers: Wilson's interval for one sample a question, else a bootstrap over
    /// questions (EV-3).
    pub accuracy: Interval,
    /// Mean, majority vote and pass@k; for one sample a question all are the accuracy.
    pub samples: SampleScores,
    /// Share of answers equal to the key as text, in SQuAD's normal form.
    pub exact_match: f64,
    /// Mean token F1 against the key as text.
    pub token_f1: f64,
    /// Mean number of tool calls of a trajectory.
    pub calls_per_question: f64,
    /// Mean number of steps of a trajectory, the answer included.
    pub steps_per_question: f64,
    /// Share of steps that are exactly one action.
    pub well_formed: f64,
    /// Steps that are not, by kind; each kind is listed.
    pub malformed: BTreeMap<&'static str, usize>,
    /// Trajectories by why they ended; each reason is listed.
    pub ends: BTreeMap<&'static str, usize>,
    /// Share of tool calls that were answered by an error; 0 without any call.
    pub tool_error_share: f64,
    /// Process score by judge; empty where no step was judged.
    pub process: BTreeMap<String, ProcessScore>,
    /// The same by steps of the known solutions; empty where none is known.
    pub by_steps: Vec<StepGroup>,
    /// Sampled tokens in all.
    pub sampled_tokens: usize,
    /// Mean number of sampled tokens of a trajectory.
    pub sampled_tokens_per_question: f64,
    /// Mean length of a trajectory in tokens, prompt and observations included.
    pub mean_length_tokens: f64,
}

/// Summarises an evaluation.
///
/// # Errors
/// When there is no trajectory, an answer is not judged (EV-1), an item is there twice, or questions
/// have different numbers of samples.
pub fn summarise(trajectories: &[Trajectory]) -> Result<Summary, EvalError> {
    let scores = Scores::of(trajectories)?;
    let steps: Vec<&Step> = trajectories.iter().flat_map(|t| &t.steps).collect();
    let per_trajectory = |total: usize| total as f64 / trajectories.len() as f64;
    let malformed = malformed(&steps);
    let calls = steps
        .iter()
        .filter(|step| matches!(step.action, Action::Call(_)))
        .count();
    let sampled_tokens = steps.iter().map(|step| step.sampled.len()).sum();
    let text_metric = |metric: &dyn Fn(&str, &str) -> f64| mean_text(trajectories, metric);
    Ok(Summary {
        questions: scores.questions(),
        trajectories: trajectories.len(),
        accuracy: accuracy(&scores)?,
        samples: SampleScores::of(trajectories)?,
        exact_match: text_metric(&|answer, key| f64::from(u8::from(exact_match(answer, key)))),
        token_f1: text_metric(&token_f1),
        calls_per_question: per_trajectory(calls),
        steps_per_question: per_trajectory(steps.len()),
        well_formed: 1.0 - share(malformed.values().sum(), steps.len()),
        malformed,
        ends: ends(trajectories),
        tool_error_share: tool_error_share(&steps, calls),
        process: process_scores(trajectories, BOOTSTRAP_SEED),
        by_steps: by_steps(trajectories, BOOTSTRAP_SEED)?,
        sampled_tokens,
        sampled_tokens_per_question: per_trajectory(sampled_tokens),
        mean_length_tokens: per_trajectory(trajectories.iter().map(|t| t.tokens.len()).sum()),
    })
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 / of as f64
    }
}

pub(crate) fn accuracy(scores: &Scores) -> Result<Interval, EvalError> {
    let interval = if scores.samples() == 1 {
        wilson(
            scores.iter().map(|(_, samples)| right(samples)).sum(),
            scores.questions(),
        )
    } else {
        bootstrap_mean(&scores.shares(), BOOTSTRAP_SEED)
    };
    interval.ok_or(EvalError::Empty)
}

/// A trajectory without an answer scores 0.
fn mean_text(trajectories: &[Trajectory], metric: &dyn Fn(&str, &str) -> f64) -> f64 {
    let one = |trajectory: &Trajectory| match trajectory.answer() {
        Some(answer) => best(&trajectory.question, |key| metric(answer, key)),
        None => 0.0,
    };
    trajectories.iter().map(one).sum::<f64>() / trajectories.len() as f64
}

fn malformed(steps: &[&Step]) -> BTreeMap<&'static str, usize> {
    let count = |kind| {
        steps
            .iter()
            .filter(|step| step.action == Action::Malformed(kind))
            .count()
    };
    MalformedKind::ALL
        .into_iter()
        .map(|kind| (kind.name(), count(kind)))
        .collect()
}

fn ends(trajectories: &[Trajectory]) -> BTreeMap<&'static str, usize> {
    let count = |end| {
        trajectories
            .iter()
            .filter(|trajectory| trajectory.end == end)
            .count()
    };
    ENDS.into_iter()
        .map(|end| (end.name(), count(end)))
        .collect()
}

/// Error messages after malformed actions are not the tools' doing and are counted as malformed.
fn tool_error_share(steps: &[&Step], calls: usize) -> f64 {
    let failed = |step: &&&Step| {
        let error = step
            .observation
            .as_ref()
            .is_some_and(|observation| observation.is_error);
        error && matches!(step.action, Action::Call(_))
    };
    share(steps.iter().filter(failed).count(), calls)
}
