//! Trajectories and states that are left out because no verdict on them can be had.

use anyhow::Result;
use proto::{QuestionId, Trajectory};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use store::TrajectoryStore;

/// Where a folder of trajectories keeps those without verdicts.
pub fn folder(trajectories: &Path) -> PathBuf {
    trajectories.join("unjudged")
}

/// Removes the folder of trajectories without verdicts once it is of no use: all have theirs.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(trajectories: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder(trajectories)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Number of trajectories left out of a folder of them.
///
/// # Errors
/// When a store cannot be read.
pub fn count(trajectories: &Path) -> Result<usize> {
    if !folder(trajectories).is_dir() {
        return Ok(0);
    }
    let judged = TrajectoryStore::open(trajectories)?.ids();
    let sampled = TrajectoryStore::open(folder(trajectories))?.ids();
    Ok(sampled.difference(&judged).count())
}

/// Keeps the questions of which every model has all its samples, so that models are compared on the
/// same ones; how many are dropped.
pub fn keep_common(models: &mut [&mut Vec<Trajectory>]) -> usize {
    let samples_of = |all: &[Trajectory]| {
        let mut samples: BTreeMap<QuestionId, usize> = BTreeMap::new();
        for trajectory in all {
            *samples.entry(trajectory.item.question.clone()).or_default() += 1;
        }
        samples
    };
    let counts: Vec<_> = models.iter().map(|all| samples_of(all)).collect();
    let full = counts.iter().flat_map(BTreeMap::values).max().copied();
    let full = full.unwrap_or_default();
    let is_whole = |question: &QuestionId| {
        let mut each = counts.iter();
        each.all(|samples| samples.get(question) == Some(&full))
    };
    let known: std::collections::BTreeSet<_> = counts.iter().flat_map(BTreeMap::keys).collect();
    let dropped = known.iter().filter(|question| !is_whole(question)).count();
    for all in models {
        all.retain(|trajectory| is_whole(&trajectory.item.question));
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ItemId, Question, TrajectoryEnd};

    fn sample(question: &str, sample: u32) -> Trajectory {
        Trajectory {
            run: "r".into(),
            item: ItemId {
                question: question.into(),
                sample,
            },
            question: Question {
                id: question.into(),
                dataset: "d".into(),
                split: "s".into(),
                question: String::new(),
                answer: String::new(),
                answer_aliases: Vec::new(),
                reference_steps: Vec::new(),
            },
            model: "m".into(),
            tokens: vec![1],
            steps: Vec::new(),
            end: TrajectoryEnd::ContextLimit,
            outcome: None,
        }
    }

    #[test]
    fn models_are_compared_on_the_questions_that_all_have_whole() {
        let all = |items: &[(&str, u32)]| -> Vec<Trajectory> {
            items.iter().map(|&(q, s)| sample(q, s)).collect()
        };
        let mut first = all(&[("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0), ("c", 1)]);
        let mut second = all(&[("a", 0), ("a", 1), ("b", 1), ("d", 0), ("d", 1)]);
        assert_eq!(keep_common(&mut [&mut first, &mut second]), 3);
        assert_eq!(first, all(&[("a", 0), ("a", 1)]));
        assert_eq!(second, first);
        assert_eq!(keep_common(&mut [&mut first, &mut second]), 0);
        assert_eq!(keep_common(&mut []), 0);
    }

    #[test]
    fn what_is_left_out_is_what_only_the_folder_of_the_unjudged_holds() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(count(dir.path()).unwrap(), 0);
        let store = |path: &Path, samples: &[u32]| {
            let mut store = TrajectoryStore::open(path).unwrap();
            for &n in samples {
                store.append(&sample("a", n)).unwrap();
            }
        };
        store(dir.path(), &[0, 1]);
        store(&folder(dir.path()), &[1, 2, 3]);
        assert_eq!(count(dir.path()).unwrap(), 2);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(count(dir.path()).unwrap(), 0);
    }
}
