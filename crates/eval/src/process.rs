//! The process score: how many of the steps a judge finds good.

use crate::{Interval, bootstrap_mean};
use proto::{Label, QuestionId, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One judge's process score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessScore {
    /// Mean share of good steps: the mean over each trajectory's judged steps, so that long ones do
    /// not weigh more, then over a question's trajectories, then over questions (EV-3). In [0, 1].
    pub score: f64,
    /// The score with its 95 % interval, from resampling questions.
    pub interval: Interval,
    /// Trajectories with a step this judge judged.
    pub trajectories: usize,
    /// Steps this judge judged.
    pub steps: usize,
    /// Share of all steps that this judge judged; the score says nothing of the others. In (0, 1].
    pub judged_share: f64,
}

/// The process score of every judge that judged a step, by the judge's name. Steps and trajectories
/// that a judge did not judge are not in its mean. `seed` decides the intervals' resamples.
pub fn process_scores<'a>(
    trajectories: impl IntoIterator<Item = &'a Trajectory>,
    seed: u64,
) -> BTreeMap<String, ProcessScore> {
    let mut all_steps = 0_usize;
    let mut counts: BTreeMap<&str, Vec<(&QuestionId, Counts)>> = BTreeMap::new();
    for trajectory in trajectories {
        all_steps += trajectory.steps.len();
        for (judge, found) in good_of_judged(trajectory) {
            let question = &trajectory.item.question;
            counts.entry(judge).or_default().push((question, found));
        }
    }
    let scores = counts.into_iter().filter_map(|(judge, counts)| {
        let by_question = by_question(&counts);
        let interval = bootstrap_mean(&by_question, seed)?;
        let interval = interval.of_values_alike(by_question.len(), [0.0, 1.0]);
        let steps = counts.iter().map(|(_, counts)| counts.judged).sum();
        let score = ProcessScore {
            score: interval.estimate,
            interval,
            trajectories: counts.len(),
            steps,
            judged_share: steps as f64 / all_steps.max(1) as f64,
        };
        Some((judge.to_owned(), score))
    });
    scores.collect()
}

/// Steps of one trajectory that a judge judged.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    good: usize,
    judged: usize,
}

/// The mean share of good steps of each question's trajectories.
fn by_question(counts: &[(&QuestionId, Counts)]) -> Vec<f64> {
    let mut sums: BTreeMap<&QuestionId, (f64, f64)> = BTreeMap::new();
    for (question, Counts { good, judged }) in counts {
        let (sum, count) = sums.entry(question).or_default();
        *sum += *good as f64 / *judged as f64;
        *count += 1.0;
    }
    sums.into_values().map(|(sum, count)| sum / count).collect()
}

/// Good steps and judged steps, by judge. A step that a judge judged twice counts once, by its last
/// verdict.
fn good_of_judged(trajectory: &Trajectory) -> BTreeMap<&str, Counts> {
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for step in &trajectory.steps {
        let latest: BTreeMap<&str, Label> = step
            .verdicts
            .iter()
            .map(|verdict| (verdict.judge.as_str(), verdict.label))
            .collect();
        for (judge, label) in latest {
            let found = counts.entry(judge).or_default();
            found.good += usize::from(label == Label::Good);
            found.judged += 1;
        }
    }
    counts
}
