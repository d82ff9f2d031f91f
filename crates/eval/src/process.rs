//! The process score: how many of the steps a judge finds good.

use proto::{Label, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One judge's process score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessScore {
    /// Mean share of good steps: the mean over each trajectory's judged steps, then over
    /// trajectories, so that long ones do not weigh more. In [0, 1].
    pub score: f64,
    /// Trajectories with a step this judge judged.
    pub trajectories: usize,
    /// Steps this judge judged.
    pub steps: usize,
}

/// The process score of every judge that judged a step, by the judge's name. Steps and trajectories
/// that a judge did not judge are not in its mean.
pub fn process_scores(trajectories: &[Trajectory]) -> BTreeMap<String, ProcessScore> {
    let mut shares: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for trajectory in trajectories {
        for (judge, counts) in good_of_judged(trajectory) {
            shares.entry(judge).or_default().push(counts);
        }
    }
    let score = |counts: Vec<(usize, usize)>| ProcessScore {
        score: counts
            .iter()
            .map(|(good, judged)| *good as f64 / *judged as f64)
            .sum::<f64>()
            / counts.len() as f64,
        trajectories: counts.len(),
        steps: counts.iter().map(|(_, judged)| judged).sum(),
    };
    shares
        .into_iter()
        .map(|(judge, counts)| (judge.to_owned(), score(counts)))
        .collect()
}

/// Good steps and judged steps, by judge.
fn good_of_judged(trajectory: &Trajectory) -> BTreeMap<&str, (usize, usize)> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for verdict in trajectory.steps.iter().flat_map(|step| &step.verdicts) {
        let (good, judged) = counts.entry(&verdict.judge).or_default();
        *good += usize::from(verdict.label == Label::Good);
        *judged += 1;
    }
    counts
}
