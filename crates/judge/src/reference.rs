//! The judge that knows an annotated solution, for machines without a judge model.
//!
//! It uses labels, which SWiRL's process judge does not: every report must say so
//! ([`ProcessJudge::uses_reference`]).

use crate::answer::read_key;
use crate::ledger::{call, is_calculation, values};
use crate::numeric::Amount;
use crate::text::{contains_words, words};
use crate::verdict::{Signature, hash};
use crate::{AnswerMatch, JudgeError, ProcessJudge, StepContext};
use async_trait::async_trait;
use proto::{Action, Question, ReferenceStep, StepView, ToolCall, Verdict};
use tools::calculator::evaluate;
use tools::number::{Rational, format_number};

const VERSION: &str = "reference/2";
const RULES: &str = "\
reference/2
1. A step that is not exactly one action is BAD.
2. A calculation is GOOD if its value is the result of a reference calculation that no earlier call
   has obtained; each result counts as often as it occurs.
3. Once the answer has been obtained, as often as it occurs among the results, every further
   calculation is BAD.
4. A search is GOOD if it has the words of a reference search of the same tool, or contains them,
   and no earlier search stands for that one.
5. An answer is GOOD if it matches the key, by answer_match/2.
6. Results agree if equal, or within one millionth and one thousandth where one has more than two
   decimals, or if the value has more than two decimals and rounds to the reference at the decimals
   it is written with.";

/// Judges steps against the annotated solution and the answer key.
///
/// What it cannot see: a step that is right on another way to the answer is BAD.
#[derive(Debug, Clone)]
pub struct ReferenceJudge(Signature);

impl Default for ReferenceJudge {
    fn default() -> Self {
        Self::new()
    }
}

impl ReferenceJudge {
    /// The judge; it has no options.
    pub fn new() -> Self {
        let prompt_hash = hash(&[RULES]);
        Self(Signature {
            judge: "reference",
            version: VERSION,
            prompt_hash,
        })
    }

    /// The verdict.
    ///
    /// # Errors
    /// [`JudgeError::NoReference`] for a call where no solution is annotated.
    pub fn verdict(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        let question = &context.question;
        let finding = match &context.step.action {
            Action::Malformed(kind) => Err(format!("malformed: {}", kind.name())),
            Action::Answer(answer) => judge_answer(question, answer),
            Action::Call(_) if !self.can_judge(question) => {
                return Err(JudgeError::NoReference {
                    question: question.id.to_string(),
                });
            }
            Action::Call(call) if is_calculation(call) => {
                judge_calculation(call, question, &context.history)
            }
            Action::Call(call) => judge_search(call, question, &context.history),
        };
        Ok(self.0.verdict(finding))
    }
}

#[async_trait]
impl ProcessJudge for ReferenceJudge {
    fn name(&self) -> &str {
        self.0.judge
    }

    fn uses_reference(&self) -> bool {
        true
    }

    /// Whether the question's solution is annotated, so that its calls can be judged.
    fn can_judge(&self, question: &Question) -> bool {
        !question.reference_steps.is_empty()
    }

    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        self.verdict(context)
    }
}

fn judge_answer(question: &Question, answer: &str) -> Result<String, String> {
    match AnswerMatch::matches(question, answer) {
        true => Ok("answer: it matches the key".to_owned()),
        false => Err("answer: it differs from the key".to_owned()),
    }
}

fn judge_calculation(
    call: &ToolCall,
    question: &Question,
    history: &[StepView],
) -> Result<String, String> {
    let value = evaluate(&call.arguments)
        .map_err(|error| format!("calculation: it has no value ({error})"))?;
    let obtained = values(history);
    let mut open: Vec<Amount> = of_tool(question, &call.tool)
        .filter_map(|step| read_key(&step.result).amount().cloned())
        .collect();
    refuse_needless(question, &open, &obtained)?;
    for earlier in &obtained {
        take(&mut open, |result| is(result, earlier));
    }
    match take(&mut open, |result| is(result, &value)) {
        true => Ok(format!(
            "calculation: {} is a step of the solution",
            format_number(&value)
        )),
        false => Err(format!(
            "calculation: {} is no open step",
            format_number(&value)
        )),
    }
}

/// Rule 3: the answer is there already.
fn refuse_needless(
    question: &Question,
    results: &[Amount],
    obtained: &[Rational],
) -> Result<(), String> {
    let Some(key) = read_key(&question.answer).amount().cloned() else {
        return Ok(());
    };
    let wanted = results
        .iter()
        .filter(|result| is(&key, &result.value))
        .count()
        .max(1);
    match obtained.iter().filter(|value| is(&key, value)).count() >= wanted {
        true => Err("calculation: the answer had been obtained already".to_owned()),
        false => Ok(()),
    }
}

fn is(written: &Amount, value: &Rational) -> bool {
    written.agrees(&Amount::exact(value.clone()))
}

fn of_tool<'a>(question: &'a Question, tool: &'a str) -> impl Iterator<Item = &'a ReferenceStep> {
    question
        .reference_steps
        .iter()
        .filter(move |step| step.tool == tool)
}

/// Removes the first item that fits; whether there was one.
fn take<T>(items: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> bool {
    let found = items.iter().position(fits);
    found.map(|index| items.remove(index)).is_some()
}

fn judge_search(
    new: &ToolCall,
    question: &Question,
    history: &[StepView],
) -> Result<String, String> {
    let mut open: Vec<_> = of_tool(question, &new.tool)
        .map(|s| words(&s.arguments))
        .collect();
    if open.is_empty() {
        return Err(format!("search: the solution does not use {}", new.tool));
    }
    for earlier in history
        .iter()
        .filter_map(call)
        .filter(|earlier| earlier.tool == new.tool)
    {
        let query = words(&earlier.arguments);
        take(&mut open, |wanted| contains_words(&query, wanted));
    }
    let query = words(&new.arguments);
    match take(&mut open, |wanted| contains_words(&query, wanted)) {
        true => Ok("search: it is a step of the solution".to_owned()),
        false => Err("search: it is no open step of the solution".to_owned()),
    }
}

#[cfg(test)]
mod tests;
