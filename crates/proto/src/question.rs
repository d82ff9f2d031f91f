//! A question with what is known of its solution.

use crate::QuestionId;
use serde::{Deserialize, Serialize};

/// A question, its answer key, and, where the data set has them, the steps of a known solution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Unique within the data set.
    pub id: QuestionId,
    /// The data set's name, such as `gsm8k`.
    pub dataset: String,
    /// The part of the data set, such as `train`.
    pub split: String,
    /// The question as it is put to the model.
    pub question: String,
    /// The answer key.
    pub answer: String,
    /// Other spellings of the answer that count as right.
    pub answer_aliases: Vec<String>,
    /// Steps of a known solution, in order; empty where the data set has none.
    pub reference_steps: Vec<ReferenceStep>,
}

/// One tool call of a known solution with its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceStep {
    /// The words that lead up to the call; may be empty.
    pub thought: String,
    /// The tool's name, such as `calculator`.
    pub tool: String,
    /// What the tool is asked, such as `48/2`.
    pub arguments: String,
    /// What the tool answers, such as `24`.
    pub result: String,
}
