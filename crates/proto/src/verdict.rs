//! What a judge says of a step or an answer.

use serde::{Deserialize, Serialize};

/// The judgement itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// A sensible step, or a right answer.
    Good,
    /// Not so.
    Bad,
}

/// A judgement with all that is needed to repeat it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judge's name in the configuration, such as `rules`.
    pub judge: String,
    /// The model that judged, or the judge's own version where none did.
    pub model: String,
    /// SHA-256, in hexadecimal, of the rubric or rules the judge followed.
    pub prompt_hash: String,
    /// Good or bad.
    pub label: Label,
    /// Probability that the step is good, in [0, 1]; 0 or 1 where the judge gives none.
    pub score: f32,
    /// Why, in the judge's words; may be empty.
    pub rationale: String,
}
