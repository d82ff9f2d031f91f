//! The label-free judge: rules that need neither a model nor an answer key.
//!
//! It is a weak judge on purpose: it tells grounded, forward-moving steps from ungrounded or idle
//! ones, and cannot tell a sensible calculation from a senseless one with the same numbers.

use crate::answer::read;
use crate::ledger::{Fingerprint, call, is_calculation, shown_value};
use crate::numeric::{Amount, agrees, decimals};
use crate::text::{contains_words, words};
use crate::verdict::{Signature, hash};
use crate::{JudgeError, ProcessJudge, StepContext};
use async_trait::async_trait;
use num_traits::{One, Signed};
use proto::{Action, StepView, ToolCall, Verdict};
use serde::{Deserialize, Serialize};
use tools::calculator::{evaluate, operands};
use tools::number::{Rational, format_number, number_words, numbers_in};

const VERSION: &str = "rules/2";
const RULES: &str = "\
rules/2
1. A step that is not exactly one action is BAD.
2. A calculation must have a value.
3. It must calculate something: a lone number, its sign aside, is no calculation.
4. Each of its operands must be grounded: a number or number word of the question, a result shown
   earlier (also rounded), the rest or the excess that belongs to a share (1-x, 1+x, and 100-p for
   p percent), or a constant of conversion.
5. It must not repeat an earlier calculation: same value from the same operands.
6. A search must say something, share a word of at least four letters, or a number, with the
   question or with what was found, and not repeat an earlier search.
7. An answer must follow from the last result: be the number the calculator showed last, or words
   found by a search, or yes or no after a search. After a failed call, or a number without any
   call, there is too little evidence.";

/// Numerators and denominators of the constants that need not be grounded, with what they convert.
const CONSTANTS: [(i64, i64); 16] = [
    (1, 1),    // the whole, the next
    (2, 1),    // halves, both, there and back
    (4, 1),    // weeks in a month, quarters
    (7, 1),    // days in a week
    (10, 1),   // tenths, dimes
    (12, 1),   // months, dozens, inches in a foot
    (16, 1),   // ounces in a pound
    (24, 1),   // hours in a day
    (30, 1),   // days in a month
    (52, 1),   // weeks in a year
    (60, 1),   // minutes, seconds
    (100, 1),  // percent, cents
    (365, 1),  // days in a year
    (1000, 1), // metres, grams
    (3600, 1), // seconds in an hour
    (1, 100),  // percent, cents
];

/// Options of the [`RulesJudge`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesConfig {
    /// Whether an answer may be given without any tool call. Default false: nothing seen so far
    /// supports it, which is too little evidence. Set it for evaluation without tools.
    pub allow_answer_without_call: bool,
}

/// Judges by rules over the question's text and the steps so far. Label-free.
#[derive(Debug, Clone)]
pub struct RulesJudge {
    config: RulesConfig,
    signature: Signature,
}

impl RulesJudge {
    /// The judge with these options.
    pub fn new(config: RulesConfig) -> Self {
        let constants = format!("{CONSTANTS:?}");
        let prompt_hash = hash(&[RULES, &constants, &format!("{config:?}")]);
        Self {
            config,
            signature: Signature {
                judge: "rules",
                version: VERSION,
                prompt_hash,
            },
        }
    }

    /// The verdict; this judge cannot fail.
    pub fn verdict(&self, context: &StepContext) -> Verdict {
        self.signature.verdict(match &context.step.action {
            Action::Malformed(kind) => Err(format!("malformed: {}", kind.name())),
            Action::Call(call) if is_calculation(call) => judge_calculation(call, context),
            Action::Call(call) => judge_search(call, context),
            Action::Answer(answer) => self.judge_answer(answer, &context.history),
        })
    }

    fn judge_answer(&self, answer: &str, history: &[StepView]) -> Result<String, String> {
        if answer.trim().is_empty() {
            return Err("answer: it is empty".to_owned());
        }
        let Some((step, last)) = history
            .iter()
            .rev()
            .find_map(|step| Some((step, call(step)?)))
        else {
            return match self.config.allow_answer_without_call {
                true => Ok("answered without a call, as the configuration allows".to_owned()),
                false => Err("answer: nothing was asked, too little evidence".to_owned()),
            };
        };
        if is_calculation(last) {
            return answer_from_value(answer, step);
        }
        answer_from_text(answer, history)
    }
}

impl Default for RulesJudge {
    fn default() -> Self {
        Self::new(RulesConfig::default())
    }
}

#[async_trait]
impl ProcessJudge for RulesJudge {
    fn name(&self) -> &str {
        self.signature.judge
    }

    fn uses_reference(&self) -> bool {
        false
    }

    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        Ok(self.verdict(context))
    }
}

fn judge_calculation(call: &ToolCall, context: &StepContext) -> Result<String, String> {
    let fail = |error| format!("calculation: it has no value ({error})");
    let value = evaluate(&call.arguments).map_err(fail)?;
    let operands = operands(&call.arguments).map_err(fail)?;
    if operands.is_empty() || matches!(operands.as_slice(), [only] if only.abs() == value.abs()) {
        return Err("calculation: it calculates nothing".to_owned());
    }
    let known = Known::of(context);
    if let Some(stranger) = operands.iter().find(|operand| !known.grounds(operand)) {
        let stranger = format_number(stranger);
        return Err(format!("operand: {stranger} is neither given nor found"));
    }
    refuse_repetition(call, &context.history)?;
    Ok("its operands are grounded and it is new".to_owned())
}

fn refuse_repetition(new: &ToolCall, history: &[StepView]) -> Result<(), String> {
    let new = Fingerprint::of(new);
    let earlier = history.iter().filter_map(call).map(Fingerprint::of);
    match new.is_some() && earlier.into_iter().any(|earlier| earlier == new) {
        true => Err("repetition: an earlier call was the same".to_owned()),
        false => Ok(()),
    }
}

/// Numbers that a calculation may use.
struct Known {
    /// As the question gives them, with the shares that follow from them.
    given: Vec<Rational>,
    /// Results shown earlier: these may be written rounded.
    found: Vec<Rational>,
}

impl Known {
    fn of(context: &StepContext) -> Self {
        let constants = CONSTANTS
            .iter()
            .map(|(numer, denom)| Rational::new((*numer).into(), (*denom).into()));
        let mut given = numbers_of(&context.question.question);
        given.extend(constants);
        let mut found = vec![];
        for step in &context.history {
            match call(step) {
                Some(call) if is_calculation(call) => found.extend(shown_value(step)),
                Some(_) => given.extend(numbers_of(step.observation.as_deref().unwrap_or(""))),
                None => {}
            }
        }
        Self { given, found }
    }

    fn grounds(&self, operand: &Rational) -> bool {
        let places = decimals(operand).unwrap_or(0);
        self.given.contains(operand)
            || self
                .found
                .iter()
                .any(|value| agrees(operand, places, value))
    }
}

/// The numbers of a text, and the rest and the excess of each that is a share.
fn numbers_of(text: &str) -> Vec<Rational> {
    let mut numbers = numbers_in(text);
    numbers.extend(number_words(text));
    let (one, hundred) = (Rational::one(), Rational::from_integer(100.into()));
    let is_share = |share: &&Rational| **share > Rational::from_integer(0.into()) && **share < one;
    let derived: Vec<_> = numbers
        .iter()
        .filter(is_share)
        .flat_map(|share| {
            let percent = share * &hundred;
            [
                &one - share,
                &one + share,
                &hundred - &percent,
                &hundred + &percent,
            ]
        })
        .collect();
    numbers.extend(derived);
    numbers
}

fn judge_search(call: &ToolCall, context: &StepContext) -> Result<String, String> {
    let query = words(&call.arguments);
    if query.is_empty() {
        return Err("search: it asks nothing".to_owned());
    }
    let observations = context
        .history
        .iter()
        .filter_map(|step| step.observation.as_deref());
    let mut known = words(&context.question.question);
    known.extend(observations.flat_map(words));
    let telling = |word: &&String| word.chars().count() >= 4 || word.parse::<u64>().is_ok();
    if !query
        .iter()
        .filter(telling)
        .any(|word| known.contains(word))
    {
        return Err("search: it has no word of the question or of what was found".to_owned());
    }
    refuse_repetition(call, &context.history)?;
    Ok("it is about the question and new".to_owned())
}

fn answer_from_value(answer: &str, last: &StepView) -> Result<String, String> {
    let Some(value) = shown_value(last) else {
        return Err("answer: the last call brought no result".to_owned());
    };
    let reading = read(answer);
    let Some(amount) = reading.amount() else {
        return Err("answer: it does not say one number".to_owned());
    };
    let result = format_number(&value);
    match amount.agrees(&Amount::exact(value)) {
        true => Ok(format!("it is the last result, {result}")),
        false => Err(format!("answer: it is not the last result, {result}")),
    }
}

fn answer_from_text(answer: &str, history: &[StepView]) -> Result<String, String> {
    let searches = history
        .iter()
        .filter(|step| call(step).is_some_and(|c| !is_calculation(c)));
    let found: Vec<_> = searches
        .filter_map(|step| step.observation.as_deref())
        .map(words)
        .collect();
    let said = words(answer);
    let is_yes_or_no = matches!(said.first().map(String::as_str), Some("yes" | "no"));
    if !found.is_empty() && is_yes_or_no {
        return Ok("it is yes or no after a search".to_owned());
    }
    match found.iter().any(|text| contains_words(text, &said)) {
        true => Ok("its words were found".to_owned()),
        false => Err("answer: its words were not found by any search".to_owned()),
    }
}

#[cfg(test)]
mod tests;
