//! Judges of steps and of answers, and the filters that act on what they say.
//!
//! - **JU-1 (nothing after the step).** A process judge sees the question, the steps before, and the
//!   step itself without its observation: [`StepContext`] strips what came after.
//! - **JU-2 (no failure is a reward).** A judge that cannot judge returns a [`JudgeError`]. There is
//!   no conversion from an error to a [`proto::Verdict`], and no default verdict.
//! - **JU-3 (repeatable).** Each verdict names its judge, the model or version that judged, and the
//!   SHA-256 of the rubric or rules it followed.
//! - **JU-4 (labels stay hidden).** Of the judges of steps only those whose
//!   [`ProcessJudge::uses_reference`] is true look at the answer key or at reference steps.
//!
//! Knows nothing about actors or tensors.

pub mod answer;
mod context;
mod error;
pub mod filter;
mod ledger;
pub mod llm;
mod numeric;
mod reference;
mod rules;
#[cfg(test)]
mod samples;
mod text;
mod verdict;

pub use answer::{AnswerMatch, answers_match};
pub use context::StepContext;
pub use error::{JudgeError, Obstacle};
pub use llm::{
    Exchange, Judgement, LlmEndpoint, LlmJudge, LlmJudgeConfig, LlmOutcomeJudge, LlmSetupError,
    MaxTokensField, RawReply, ReplyReading, Temperature,
};
pub use reference::ReferenceJudge;
pub use rules::{RulesConfig, RulesJudge};
pub use text::normalize_answer;
pub use verdict::Ruling;

use async_trait::async_trait;
use proto::{Question, Verdict};

/// Judges one step given what stood before it.
#[async_trait]
pub trait ProcessJudge: Send + Sync {
    /// The judge's name in the configuration and in its verdicts.
    fn name(&self) -> &str;

    /// Whether it looks at the answer key or at reference steps. Reports must say so.
    fn uses_reference(&self) -> bool;

    /// Whether it knows enough of the question to judge any step of its solution. Choose what to
    /// train on by it: a step that cannot be judged is an error there.
    fn can_judge(&self, _question: &Question) -> bool {
        true
    }

    /// Judges the step.
    ///
    /// # Errors
    /// When no judgement could be made; never to be turned into a reward (JU-2).
    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError>;

    /// The same, with whether a service was asked.
    ///
    /// # Errors
    /// As [`ProcessJudge::judge`].
    async fn rule(&self, context: &StepContext) -> Result<Ruling, JudgeError> {
        let verdict = self.judge(context).await?;
        let is_fresh = true;
        Ok(Ruling { verdict, is_fresh })
    }
}

/// Judges a final answer against the answer key.
#[async_trait]
pub trait OutcomeJudge: Send + Sync {
    /// The judge's name in the configuration and in its verdicts.
    fn name(&self) -> &str;

    /// Judges the answer; `None`, no answer at all, is BAD.
    ///
    /// # Errors
    /// When no judgement could be made; never to be turned into a reward (JU-2).
    async fn judge(&self, question: &Question, answer: Option<&str>)
    -> Result<Verdict, JudgeError>;

    /// The same, with whether a service was asked.
    ///
    /// # Errors
    /// As [`OutcomeJudge::judge`].
    async fn rule(&self, question: &Question, answer: Option<&str>) -> Result<Ruling, JudgeError> {
        let verdict = self.judge(question, answer).await?;
        let is_fresh = true;
        Ok(Ruling { verdict, is_fresh })
    }
}
