//! The choice of rows from a loaded file.

use proto::{Question, QuestionId};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Which questions to take. The default takes all, in the file's order.
///
/// Applied in this order: `split` and the two step limits leave rows out; `ids` picks rows in the
/// order of the list; `shuffle_seed` shuffles; `offset` passes over rows; `limit` stops.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Only rows of this split.
    pub split: Option<String>,
    /// Only rows with these ids, in this order.
    pub ids: Option<Vec<QuestionId>>,
    /// At least this many known steps; 1 leaves out rows without a known solution.
    pub min_reference_steps: Option<usize>,
    /// At most this many known steps. Rows without a known solution count as 0 and stay in.
    pub max_reference_steps: Option<usize>,
    /// Shuffles with this seed, the same on every platform; `None` keeps the order.
    pub shuffle_seed: Option<u64>,
    /// Passes over this many rows.
    pub offset: usize,
    /// Takes at most this many rows.
    pub limit: Option<usize>,
}

/// Why a selection cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// No row has the split: choose one that is there.
    #[error("no question has split `{split}`; the splits here are {present}")]
    UnknownSplit {
        /// The split that was asked for.
        split: String,
        /// Those that are there.
        present: String,
    },
    /// The id list was made for other data, or other filters leave the row out.
    #[error("question `{0}` of the id list is not among the rows that the other filters keep")]
    UnknownId(QuestionId),
    /// The id list names a question twice, which would count it twice.
    #[error("question `{0}` is twice in the id list")]
    RepeatedId(QuestionId),
    /// Everything was filtered out: loosen the filters.
    #[error(
        "the selection leaves none of {0} questions; loosen split, ids, steps, offset or limit"
    )]
    Nothing(usize),
}

/// Takes the questions that a selection names.
///
/// # Errors
/// When a split or id is not there, or nothing is left.
pub fn select(
    questions: Vec<Question>,
    selection: &Selection,
) -> Result<Vec<Question>, SelectError> {
    let total = questions.len();
    if let Some(split) = &selection.split {
        check_split(&questions, split)?;
    }
    let mut kept: Vec<Question> = questions
        .into_iter()
        .filter(|q| selection.keeps(q))
        .collect();
    if let Some(ids) = &selection.ids {
        kept = in_order(kept, ids)?;
    }
    if let Some(seed) = selection.shuffle_seed {
        kept.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    let limit = selection.limit.unwrap_or(usize::MAX);
    let taken: Vec<Question> = kept
        .into_iter()
        .skip(selection.offset)
        .take(limit)
        .collect();
    if taken.is_empty() {
        Err(SelectError::Nothing(total))
    } else {
        Ok(taken)
    }
}

impl Selection {
    fn keeps(&self, question: &Question) -> bool {
        let steps = question.reference_steps.len();
        self.split
            .as_ref()
            .is_none_or(|split| *split == question.split)
            && self.min_reference_steps.is_none_or(|min| steps >= min)
            && self.max_reference_steps.is_none_or(|max| steps <= max)
    }
}

fn check_split(questions: &[Question], split: &str) -> Result<(), SelectError> {
    let present: BTreeSet<&str> = questions.iter().map(|q| q.split.as_str()).collect();
    if present.contains(split) {
        return Ok(());
    }
    let present: Vec<String> = present.iter().map(|name| format!("`{name}`")).collect();
    Err(SelectError::UnknownSplit {
        split: split.to_owned(),
        present: present.join(", "),
    })
}

fn in_order(questions: Vec<Question>, ids: &[QuestionId]) -> Result<Vec<Question>, SelectError> {
    let mut seen = BTreeSet::new();
    if let Some(id) = ids.iter().find(|id| !seen.insert(*id)) {
        return Err(SelectError::RepeatedId(id.clone()));
    }
    let mut by_id: HashMap<QuestionId, Question> = questions
        .into_iter()
        .map(|question| (question.id.clone(), question))
        .collect();
    ids.iter()
        .map(|id| {
            by_id
                .remove(id)
                .ok_or_else(|| SelectError::UnknownId(id.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ReferenceStep;

    fn rows() -> Vec<Question> {
        let step = ReferenceStep {
            thought: String::new(),
            tool: "calculator".into(),
            arguments: "1+1".into(),
            result: "2".into(),
        };
        (0..10)
            .map(|n| Question {
                id: QuestionId(format!("q{n}")),
                dataset: "d".into(),
                split: if n < 6 { "train" } else { "val" }.into(),
                question: "?".into(),
                answer: "2".into(),
                answer_aliases: vec![],
                reference_steps: vec![step.clone(); n],
            })
            .collect()
    }

    fn ids(selection: &Selection) -> Result<Vec<String>, SelectError> {
        Ok(select(rows(), selection)?
            .into_iter()
            .map(|q| q.id.0)
            .collect())
    }

    #[test]
    fn filters_apply_in_the_documented_order() {
        let all = Selection::default();
        let some = |names: &[&str]| Some(names.iter().map(|n| QuestionId::from(*n)).collect());
        let cases: Vec<(Selection, &[&str])> = vec![
            (
                Selection {
                    split: Some("val".into()),
                    ..all.clone()
                },
                &["q6", "q7", "q8", "q9"],
            ),
            (
                Selection {
                    offset: 8,
                    ..all.clone()
                },
                &["q8", "q9"],
            ),
            (
                Selection {
                    offset: 2,
                    limit: Some(2),
                    ..all.clone()
                },
                &["q2", "q3"],
            ),
            (
                Selection {
                    max_reference_steps: Some(1),
                    ..all.clone()
                },
                &["q0", "q1"],
            ),
            (
                Selection {
                    min_reference_steps: Some(1),
                    limit: Some(1),
                    ..all.clone()
                },
                &["q1"],
            ),
            (
                Selection {
                    ids: some(&["q7", "q1"]),
                    ..all.clone()
                },
                &["q7", "q1"],
            ),
        ];
        for (selection, expected) in cases {
            assert_eq!(ids(&selection).unwrap(), expected, "{selection:?}");
        }
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_the_same_on_every_platform() {
        let shuffled = |seed| {
            ids(&Selection {
                shuffle_seed: Some(seed),
                ..Default::default()
            })
            .unwrap()
        };
        assert_eq!(
            shuffled(1),
            ["q3", "q8", "q5", "q2", "q7", "q9", "q6", "q0", "q4", "q1"]
        );
        assert_ne!(shuffled(1), shuffled(2));
        let mut sorted = shuffled(2);
        sorted.sort();
        assert_eq!(sorted, ids(&Selection::default()).unwrap());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let split = Selection {
            split: Some("test".into()),
            ..Default::default()
        };
        assert!(
            ids(&split)
                .unwrap_err()
                .to_string()
                .contains("`train`, `val`")
        );
        let id = |names: &[&str]| Selection {
            ids: Some(names.iter().map(|n| QuestionId::from(*n)).collect()),
            ..Default::default()
        };
        assert_eq!(
            ids(&id(&["q1", "zz"])),
            Err(SelectError::UnknownId("zz".into()))
        );
        assert_eq!(
            ids(&id(&["q1", "q1"])),
            Err(SelectError::RepeatedId("q1".into()))
        );
        let past_the_end = Selection {
            offset: 10,
            ..Default::default()
        };
        assert_eq!(ids(&past_the_end), Err(SelectError::Nothing(10)));
    }
}
