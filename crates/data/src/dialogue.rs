//! Supervised dialogues: an annotated solution played out as the model would have used the tool.

use crate::{CALCULATOR, expression};
use proto::{Question, QuestionId, ReferenceStep};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tools::{calculator, number};

/// One turn after the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// What the model says: trained on.
    Assistant(String),
    /// What the environment answers, as `48/2 -> 24`: never trained on.
    Observation(String),
}

/// How dialogues are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DialogueOptions {
    /// Whether a call is led up to by the words of the solution.
    pub thoughts: bool,
    /// A longer thought is left out whole, in words: half a sentence would teach bad endings.
    pub max_thought_words: usize,
    /// The tag around a call of the calculator.
    pub tag: String,
    /// Solutions with more calls give no dialogue.
    pub max_steps: usize,
}

impl Default for DialogueOptions {
    fn default() -> Self {
        Self {
            thoughts: true,
            max_thought_words: 40,
            tag: "math_exp".to_owned(),
            max_steps: 10,
        }
    }
}

/// Why a solution gives no dialogue.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The solution has no annotated step.
    #[error("no annotated step")]
    NoSteps,
    /// A step uses another tool, whose observation only its environment can give.
    #[error("a step that is not for the calculator")]
    OtherTool,
    /// More calls than [`DialogueOptions::max_steps`].
    #[error("too many steps")]
    TooManySteps,
    /// The calculator refuses an annotated expression.
    #[error("an expression that the calculator refuses")]
    NotEvaluable,
    /// The calculator's result is not the annotated one: the solution rounded, or is wrong.
    #[error("a result that differs from the calculator's")]
    ResultDiffers,
    /// The last result is not the answer.
    #[error("a last result that is not the answer")]
    AnswerDiffers,
}

/// The dialogues of many questions, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialogues {
    /// Each usable question with its turns, in the order of the questions.
    pub kept: Vec<(QuestionId, Vec<Turn>)>,
    /// How many questions gave no dialogue, by reason.
    pub skipped: BTreeMap<SkipReason, usize>,
}

/// The dialogue of a question with default options; `None` where its solution gives none.
pub fn dialogue(question: &Question) -> Option<Vec<Turn>> {
    dialogue_with(question, &DialogueOptions::default()).ok()
}

/// The dialogues of all questions whose solutions give one.
pub fn dialogues(questions: &[Question], options: &DialogueOptions) -> Dialogues {
    let mut out = Dialogues::default();
    for question in questions {
        match dialogue_with(question, options) {
            Ok(turns) => out.kept.push((question.id.clone(), turns)),
            Err(reason) => *out.skipped.entry(reason).or_default() += 1,
        }
    }
    out
}

/// Plays a question's known steps out: for each a turn `thought <math_exp>48/2</math_exp>` and the
/// observation `48/2 -> 24` in the calculator's own words, then a turn `<answer>72</answer>`.
///
/// # Errors
/// Says why the solution cannot be played out truthfully.
pub fn dialogue_with(
    question: &Question,
    options: &DialogueOptions,
) -> Result<Vec<Turn>, SkipReason> {
    let steps = &question.reference_steps;
    if steps.len() > options.max_steps {
        return Err(SkipReason::TooManySteps);
    }
    let mut turns = Vec::with_capacity(2 * steps.len() + 1);
    let mut last = None;
    for step in steps {
        let (call, result) = checked(step)?;
        turns.push(Turn::Assistant(action(step, &call, options)));
        turns.push(Turn::Observation(format!("{call} -> {result}")));
        last = Some(result);
    }
    let last = last.ok_or(SkipReason::NoSteps)?;
    if !same_number(&last, &question.answer) {
        return Err(SkipReason::AnswerDiffers);
    }
    turns.push(Turn::Assistant(format!("<answer>{last}</answer>")));
    Ok(turns)
}

/// The step's expression as the calculator takes it, and the calculator's result.
fn checked(step: &ReferenceStep) -> Result<(String, String), SkipReason> {
    if step.tool != CALCULATOR {
        return Err(SkipReason::OtherTool);
    }
    let call = expression::clean(&step.arguments);
    let result = expression::evaluate(&call).ok_or(SkipReason::NotEvaluable)?;
    if same_number(&result, &step.result) {
        Ok((call, result))
    } else {
        Err(SkipReason::ResultDiffers)
    }
}

fn same_number(left: &str, right: &str) -> bool {
    let value = |text: &str| {
        let calculated = calculator::evaluate(&expression::clean_number(text)).ok();
        calculated.or_else(|| number::parse_quantity(text))
    };
    value(left).is_some_and(|left| value(right) == Some(left))
}

fn action(step: &ReferenceStep, call: &str, options: &DialogueOptions) -> String {
    let tag = &options.tag;
    let call = format!("<{tag}>{call}</{tag}>");
    let thought = step.thought.trim();
    let words = thought.split_whitespace().count();
    // An angle bracket could be read as a tag of its own.
    let usable = options.thoughts
        && (1..=options.max_thought_words).contains(&words)
        && !thought.contains(['<', '>']);
    if usable {
        format!("{thought} {call}")
    } else {
        call
    }
}
