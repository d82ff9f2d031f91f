//! Right and wrong, question by question.

use crate::EvalError;
use proto::{Label, QuestionId, Trajectory};
use std::collections::{BTreeMap, HashSet};

/// Whether the trajectory's answer is right, as its outcome judge said.
///
/// # Errors
/// When there is an answer and no verdict (EV-1).
pub fn is_right(trajectory: &Trajectory) -> Result<bool, EvalError> {
    match (trajectory.answer(), &trajectory.outcome) {
        (None, _) => Ok(false),
        (Some(_), Some(verdict)) => Ok(verdict.label == Label::Good),
        (Some(_), None) => Err(EvalError::Unjudged(trajectory.item.clone())),
    }
}

/// Each question's samples, right or wrong, in the order of their sample numbers. Every question has
/// the same number of samples, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scores {
    by_question: BTreeMap<QuestionId, Vec<bool>>,
    samples: usize,
}

impl Scores {
    /// Collects the verdicts of an evaluation, in whatever order it is stored.
    ///
    /// # Errors
    /// When there is no trajectory, an answer is not judged, an item is there twice, or questions
    /// have different numbers of samples.
    pub fn of<'a>(
        trajectories: impl IntoIterator<Item = &'a Trajectory>,
    ) -> Result<Self, EvalError> {
        let mut seen = HashSet::new();
        let mut by_question: BTreeMap<QuestionId, Vec<(u32, bool)>> = BTreeMap::new();
        for trajectory in trajectories {
            if !seen.insert(&trajectory.item) {
                return Err(EvalError::Duplicate(trajectory.item.clone()));
            }
            let right = (trajectory.item.sample, is_right(trajectory)?);
            by_question
                .entry(trajectory.item.question.clone())
                .or_default()
                .push(right);
        }
        let expected = by_question.values().next().ok_or(EvalError::Empty)?.len();
        for (question, samples) in &by_question {
            if samples.len() != expected {
                let (question, found) = (question.clone(), samples.len());
                return Err(EvalError::UnevenSamples {
                    question,
                    found,
                    expected,
                });
            }
        }
        let in_order = |mut samples: Vec<(u32, bool)>| {
            samples.sort_unstable();
            samples.into_iter().map(|(_, right)| right).collect()
        };
        let by_question = by_question
            .into_iter()
            .map(|(id, s)| (id, in_order(s)))
            .collect();
        Ok(Self {
            by_question,
            samples: expected,
        })
    }

    /// Samples per question.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The questions in order of their ids, each with its samples.
    pub fn iter(&self) -> impl Iterator<Item = (&QuestionId, &[bool])> {
        self.by_question
            .iter()
            .map(|(id, samples)| (id, samples.as_slice()))
    }

    /// The number of questions.
    pub fn questions(&self) -> usize {
        self.by_question.len()
    }

    /// Each question's share of right samples, in order of ids.
    pub fn shares(&self) -> Vec<f64> {
        self.iter()
            .map(|(_, samples)| right(samples) as f64 / samples.len() as f64)
            .collect()
    }

    /// Checks that two evaluations are over the same questions (EV-2).
    ///
    /// # Errors
    /// Names the first question, in order of ids, that only one of them has.
    pub fn check_same_ids(&self, other: &Self) -> Result<(), EvalError> {
        let only = |one: &Self, two: &Self| {
            one.by_question
                .keys()
                .find(|id| !two.by_question.contains_key(*id))
                .cloned()
        };
        let (question, side) = match (only(self, other), only(other, self)) {
            (None, None) => return Ok(()),
            (Some(a), Some(b)) if b < a => (b, "second"),
            (Some(a), _) => (a, "first"),
            (None, Some(b)) => (b, "second"),
        };
        Err(EvalError::DifferentIds { question, side })
    }
}

/// How many of a question's samples are right.
pub(crate) fn right(samples: &[bool]) -> usize {
    samples.iter().filter(|right| **right).count()
}
