//! Trajectories: what was sampled, what the environment answered, and what judges said of it.
//!
//! - **TR-1 (ids are the truth).** `tokens` holds the ids the model saw and sampled, once and flat;
//!   text fields are decoded from them and never encoded back.
//! - **TR-2 (mask).** A token is trained on only if it lies in the `sampled` span of a step.
//! - **TR-3 (prefix).** The prompt of step *i* is `tokens[..steps[i].sampled.start]`: each step's
//!   prompt extends the last step's prompt and action exactly.

use crate::{ItemId, Question, RunId, Verdict, WeightVersion, generation::FinishReason};
use serde::{Deserialize, Serialize};

/// A half-open range of token positions within a trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First position.
    pub start: u32,
    /// One past the last position.
    pub end: u32,
}

impl Span {
    /// The number of tokens.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the span holds no token.
    pub fn is_empty(self) -> bool {
        self.end == self.start
    }

    /// The span as a range of indices.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A call of one tool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name in the registry.
    pub tool: String,
    /// The text between the tags, or a JSON object for tools with several parameters.
    pub arguments: String,
}

/// Why the text of a step is not exactly one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MalformedKind {
    /// Neither a call nor an answer.
    NoAction,
    /// More than one call, or more than one answer.
    SeveralActions,
    /// A call and an answer in one step.
    CallAndAnswer,
    /// A tag was opened and the turn ended before it was closed, or closed without being opened.
    UnclosedTag,
    /// The length limit cut the text off before the action was complete.
    Truncated,
}

impl MalformedKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 5] = [
        Self::NoAction,
        Self::SeveralActions,
        Self::CallAndAnswer,
        Self::UnclosedTag,
        Self::Truncated,
    ];

    /// The kind's name in metrics, reports and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAction => "no_action",
            Self::SeveralActions => "several_actions",
            Self::CallAndAnswer => "call_and_answer",
            Self::UnclosedTag => "unclosed_tag",
            Self::Truncated => "truncated",
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Asks a tool.
    Call(ToolCall),
    /// Gives the final answer.
    Answer(String),
    /// Cannot be read as exactly one action.
    Malformed(MalformedKind),
}

/// What the environment put into the context after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The tool's result or the error message, without template tokens.
    pub text: String,
    /// The tokens it became, template tokens of the turn included. Never trained on.
    pub span: Span,
    /// Whether `text` is an error message.
    pub is_error: bool,
    /// How long the tool took, in microseconds.
    pub latency_us: u64,
}

/// One action of the model and what followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The tokens that the model sampled.
    pub sampled: Span,
    /// Log-probability of each sampled token, in nats, under the distribution it was drawn from.
    pub logprobs: Vec<f32>,
    /// The weights that sampled it.
    pub weight_version: WeightVersion,
    /// Why sampling stopped.
    pub finish: FinishReason,
    /// The sampled tokens as text, special tokens left out.
    pub text: String,
    /// The part of `text` before the action.
    pub thought: String,
    /// What the step does.
    pub action: Action,
    /// What the environment answered; `None` after the last step.
    pub observation: Option<Observation>,
    /// What judges said of the step, each judge once.
    pub verdicts: Vec<Verdict>,
}

/// Why a trajectory ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrajectoryEnd {
    /// The model answered.
    Answered,
    /// An action could not be read, and the configuration ends trajectories there.
    Malformed,
    /// The limit of steps was reached without an answer.
    StepLimit,
    /// The context has no room for another step.
    ContextLimit,
}

impl TrajectoryEnd {
    /// The reason's name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Malformed => "malformed",
            Self::StepLimit => "step_limit",
            Self::ContextLimit => "context_limit",
        }
    }
}

/// One sample of a question, complete. The record that is stored and exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// The run that made it.
    pub run: RunId,
    /// Question and sample.
    pub item: ItemId,
    /// The question as it was when the trajectory was made.
    pub question: Question,
    /// The model's name or folder.
    pub model: String,
    /// Prompt, sampled tokens and observations, once and flat.
    pub tokens: Vec<u32>,
    /// The actions in order.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub end: TrajectoryEnd,
    /// What the outcome judge said of the answer; `None` until judged.
    pub outcome: Option<Verdict>,
}

impl Trajectory {
    /// The final answer, if one was given.
    pub fn answer(&self) -> Option<&str> {
        match &self.steps.last()?.action {
            Action::Answer(text) => Some(text),
            _ => None,
        }
    }

    /// The prompt of step `index`: every token before the first one it sampled (TR-3).
    pub fn prompt(&self, index: usize) -> &[u32] {
        &self.tokens[..self.steps[index].sampled.start as usize]
    }

    /// 1 where the token was sampled, 0 elsewhere (TR-2). Length: `tokens.len()`.
    pub fn loss_mask(&self) -> Vec<u8> {
        let mut mask = vec![0; self.tokens.len()];
        for step in &self.steps {
            mask[step.sampled.range()].fill(1);
        }
        mask
    }

    /// Checks what holds for every complete trajectory.
    ///
    /// # Errors
    /// Names the first rule that is broken; such a record is never stored.
    pub fn validate(&self) -> Result<(), String> {
        let mut position = 0;
        for (index, step) in self.steps.iter().enumerate() {
            let span = step.sampled;
            if span.start < position || span.end < span.start {
                return Err(format!(
                    "step {index}: sampled span {span:?} is out of order"
                ));
            }
            if span.end as usize > self.tokens.len() {
                return Err(format!(
                    "step {index}: sampled span {span:?} runs past the tokens"
                ));
            }
            if step.logprobs.len() != span.len() {
                return Err(format!(
                    "step {index}: {} log-probabilities for {} sampled tokens",
                    step.logprobs.len(),
                    span.len()
                ));
            }
            if let Some(bad) = step.logprobs.iter().find(|p| !p.is_finite()) {
                return Err(format!("step {index}: log-probability {bad} is not finite"));
            }
            position = span.end;
            if let Some(observation) = &step.observation {
                if observation.span.start != span.end || observation.span.end < span.end {
                    return Err(format!(
                        "step {index}: the observation does not follow the action"
                    ));
                }
                position = observation.span.end;
            }
        }
        if position as usize > self.tokens.len() {
            return Err("the last span runs past the tokens".to_owned());
        }
        Ok(())
    }
}

/// A step as a judge sees it: text only, and of the step under judgement nothing that came after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// The sampled text.
    pub text: String,
    /// The part of the text before the action.
    pub thought: String,
    /// What the step does.
    pub action: Action,
    /// What the environment answered; `None` for the step under judgement.
    pub observation: Option<String>,
}

impl From<&Step> for StepView {
    fn from(step: &Step) -> Self {
        Self {
            text: step.text.clone(),
            thought: step.thought.clone(),
            action: step.action.clone(),
            observation: step.observation.as_ref().map(|o| o.text.clone()),
        }
    }
}

impl StepView {
    /// The same step as its judge sees it: without what came after it.
    #[must_use]
    pub fn without_observation(mut self) -> Self {
        self.observation = None;
        self
    }
}
