//! A trajectory as a row of columns.

use proto::{
    Action, FinishReason, ItemId, MalformedKind, Observation, Question, QuestionId, ReferenceStep,
    RunId, Span, Step, ToolCall, Trajectory, TrajectoryEnd, Verdict, WeightVersion,
};
use serde::{Deserialize, Serialize};

/// One row; the order of the fields is the order of the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    run: RunId,
    question_id: QuestionId,
    sample: u32,
    dataset: String,
    split: String,
    question: String,
    answer: String,
    answer_aliases: Vec<String>,
    reference_steps: Vec<ReferenceStep>,
    model: String,
    tokens: Vec<u32>,
    loss_mask: Vec<u8>,
    end: TrajectoryEnd,
    outcome: Option<Verdict>,
    steps: Vec<StepRow>,
}

/// What a row is known by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IdRow {
    question_id: QuestionId,
    sample: u32,
}

impl IdRow {
    /// Names of its columns.
    pub(crate) const COLUMNS: [&'static str; 2] = ["question_id", "sample"];

    pub(crate) fn into_item(self) -> ItemId {
        ItemId {
            question: self.question_id,
            sample: self.sample,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StepRow {
    sampled_start: u32,
    sampled_end: u32,
    logprobs: Vec<f32>,
    weight_version: WeightVersion,
    finish: FinishReason,
    text: String,
    thought: String,
    action_kind: ActionKind,
    /// Of a call.
    tool: Option<String>,
    /// Of a call.
    arguments: Option<String>,
    /// Of an answer.
    answer: Option<String>,
    /// Of a malformed action.
    malformed: Option<MalformedKind>,
    observation: Option<String>,
    observation_start: Option<u32>,
    observation_end: Option<u32>,
    is_error: Option<bool>,
    latency_us: Option<u64>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionKind {
    Call,
    Answer,
    Malformed,
}

impl From<Trajectory> for Row {
    fn from(trajectory: Trajectory) -> Self {
        let loss_mask = trajectory.loss_mask();
        let Trajectory {
            run,
            item,
            question,
            model,
            tokens,
            steps,
            end,
            outcome,
        } = trajectory;
        Self {
            run,
            question_id: item.question,
            sample: item.sample,
            dataset: question.dataset,
            split: question.split,
            question: question.question,
            answer: question.answer,
            answer_aliases: question.answer_aliases,
            reference_steps: question.reference_steps,
            model,
            tokens,
            loss_mask,
            end,
            outcome,
            steps: steps.into_iter().map(StepRow::from).collect(),
        }
    }
}

impl TryFrom<Row> for Trajectory {
    type Error = String;

    fn try_from(row: Row) -> Result<Self, String> {
        let steps = row
            .steps
            .into_iter()
            .map(Step::try_from)
            .collect::<Result<_, _>>()?;
        let trajectory = Self {
            run: row.run,
            item: ItemId {
                question: row.question_id.clone(),
                sample: row.sample,
            },
            question: Question {
                id: row.question_id,
                dataset: row.dataset,
                split: row.split,
                question: row.question,
                answer: row.answer,
                answer_aliases: row.answer_aliases,
                reference_steps: row.reference_steps,
            },
            model: row.model,
            tokens: row.tokens,
            steps,
            end: row.end,
            outcome: row.outcome,
        };
        trajectory.validate()?;
        match trajectory.loss_mask() == row.loss_mask {
            true => Ok(trajectory),
            false => Err(format!(
                "{}: the loss mask is not that of the steps",
                trajectory.item
            )),
        }
    }
}

impl From<Step> for StepRow {
    fn from(step: Step) -> Self {
        let (action_kind, tool, arguments, answer, malformed) = match step.action {
            Action::Call(call) => (
                ActionKind::Call,
                Some(call.tool),
                Some(call.arguments),
                None,
                None,
            ),
            Action::Answer(answer) => (ActionKind::Answer, None, None, Some(answer), None),
            Action::Malformed(kind) => (ActionKind::Malformed, None, None, None, Some(kind)),
        };
        let seen = step.observation.as_ref();
        Self {
            sampled_start: step.sampled.start,
            sampled_end: step.sampled.end,
            logprobs: step.logprobs,
            weight_version: step.weight_version,
            finish: step.finish,
            text: step.text,
            thought: step.thought,
            action_kind,
            tool,
            arguments,
            answer,
            malformed,
            observation_start: seen.map(|o| o.span.start),
            observation_end: seen.map(|o| o.span.end),
            is_error: seen.map(|o| o.is_error),
            latency_us: seen.map(|o| o.latency_us),
            observation: step.observation.map(|o| o.text),
            verdicts: step.verdicts,
        }
    }
}

impl TryFrom<StepRow> for Step {
    type Error = String;

    fn try_from(row: StepRow) -> Result<Self, String> {
        let action = match (
            row.action_kind,
            row.tool,
            row.arguments,
            row.answer,
            row.malformed,
        ) {
            (ActionKind::Call, Some(tool), Some(arguments), None, None) => {
                Action::Call(ToolCall { tool, arguments })
            }
            (ActionKind::Answer, None, None, Some(answer), None) => Action::Answer(answer),
            (ActionKind::Malformed, None, None, None, Some(kind)) => Action::Malformed(kind),
            (kind, ..) => return Err(format!("the columns of an action do not fit {kind:?}")),
        };
        let seen = (
            row.observation,
            row.observation_start,
            row.observation_end,
            row.is_error,
            row.latency_us,
        );
        let observation = match seen {
            (Some(text), Some(start), Some(end), Some(is_error), Some(latency_us)) => {
                Some(Observation {
                    text,
                    span: Span { start, end },
                    is_error,
                    latency_us,
                })
            }
            (None, None, None, None, None) => None,
            _ => return Err("the columns of an observation are incomplete".to_owned()),
        };
        Ok(Self {
            sampled: Span {
                start: row.sampled_start,
                end: row.sampled_end,
            },
            logprobs: row.logprobs,
            weight_version: row.weight_version,
            finish: row.finish,
            text: row.text,
            thought: row.thought,
            action,
            observation,
            verdicts: row.verdicts,
        })
    }
}
