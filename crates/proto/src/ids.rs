//! Identifiers. Newtypes, so that a question is never taken for a run.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

text_id!(
    /// The name of a run: the last part of its folder, `runs/<name>/`.
    RunId
);
text_id!(
    /// A question, unique within its data set.
    QuestionId
);

/// Which weights: 0 is what the run started from, and each publication adds one.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WeightVersion(pub u64);

impl WeightVersion {
    /// The weights that a learner has after `step` steps, in the `epoch`-th group of learners of the
    /// run. A group that starts again from a checkpoint repeats steps; its versions are higher than
    /// any before it all the same.
    pub fn of(epoch: u32, step: u64) -> Self {
        Self(u64::from(epoch) << 40 | step)
    }

    /// The learner's steps.
    pub fn step(self) -> u64 {
        self.0 & ((1 << 40) - 1)
    }
}

impl fmt::Display for WeightVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 >> 40, self.step()) {
            (0, step) => write!(f, "v{step}"),
            (epoch, step) => write!(f, "v{epoch}.{step}"),
        }
    }
}

/// One unit of rollout work: the `sample`-th try at a question. Stored exactly once per run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemId {
    /// The question.
    pub question: QuestionId,
    /// Which of the question's samples, from 0.
    pub sample: u32,
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.question, self.sample)
    }
}
