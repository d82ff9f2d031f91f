//! What earlier calls asked and what they brought.

use crate::text::words;
use proto::{Action, StepView, ToolCall};
use tools::calculator::{Calculator, evaluate, operands};
use tools::number::{Rational, format_number, parse_number};

/// The call that a step makes, if it makes one.
pub(crate) fn call(step: &StepView) -> Option<&ToolCall> {
    match &step.action {
        Action::Call(call) => Some(call),
        Action::Answer(_) | Action::Malformed(_) => None,
    }
}

/// Whether the arguments are an expression; all other tools are judged as searches in words.
pub(crate) fn is_calculation(call: &ToolCall) -> bool {
    call.tool == Calculator::NAME
}

/// The values of the calculations among these steps that can be calculated, in order.
pub(crate) fn values(steps: &[StepView]) -> Vec<Rational> {
    let calls = steps
        .iter()
        .filter_map(call)
        .filter(|call| is_calculation(call));
    calls
        .filter_map(|call| evaluate(&call.arguments).ok())
        .collect()
}

/// The value of a calculation as far as the model was shown it: the exact value if the observation
/// is that value as the calculator writes it, else the number that the observation says. `None`
/// where the observation is missing or an error message.
pub(crate) fn shown_value(step: &StepView) -> Option<Rational> {
    let call = call(step).filter(|call| is_calculation(call))?;
    let shown = shown_result(step)?;
    match evaluate(&call.arguments) {
        Ok(value) if format_number(&value) == shown => Some(value),
        _ => parse_number(shown),
    }
}

/// The result in an observation, which may repeat the query: `48/2 -> 24`.
fn shown_result(step: &StepView) -> Option<&str> {
    let observation = step.observation.as_deref()?;
    Some(
        observation
            .rsplit_once("->")
            .map_or(observation, |(_, result)| result)
            .trim(),
    )
}

/// What makes two calls the same: a calculation's value with its operands in any order, or a
/// search's words.
#[derive(Debug, PartialEq)]
pub(crate) enum Fingerprint {
    Calculation {
        value: Rational,
        operands: Vec<Rational>,
    },
    Search {
        tool: String,
        words: Vec<String>,
    },
}

impl Fingerprint {
    /// `None` for a calculation that cannot be calculated: repeating an error is not this matter.
    pub fn of(call: &ToolCall) -> Option<Self> {
        if !is_calculation(call) {
            return Some(Self::Search {
                tool: call.tool.clone(),
                words: words(&call.arguments),
            });
        }
        let value = evaluate(&call.arguments).ok()?;
        let mut operands = operands(&call.arguments).ok()?;
        operands.sort();
        Some(Self::Calculation { value, operands })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn the_value_shown_is_what_the_observation_says() {
        let rows = [
            ("48/2", "24", Some("24")),
            ("48/2", "48/2 -> 24", Some("24")),
            ("10/3", "3.33333333333", Some("10/3")),
            ("10/3", "10/3 -> 3.33333333333", Some("10/3")),
            ("48/2", "25", Some("25")),
            ("1/0", "error: division by zero", None),
            ("48/2", "error: timed out after 5 s", None),
            ("48/2", "", None),
        ];
        for (arguments, observation, wanted) in rows {
            let found = shown_value(&samples::call(arguments, observation));
            assert_eq!(
                found.map(|v| v.to_string()).as_deref(),
                wanted,
                "{arguments} {observation}"
            );
        }
        assert_eq!(shown_value(&samples::call_of("search", "48/2", "24")), None);
        assert_eq!(shown_value(&samples::answer("24")), None);
    }

    #[test]
    fn the_same_call_in_other_words() {
        let of = |tool: &str, arguments: &str| {
            let call = ToolCall {
                tool: tool.into(),
                arguments: arguments.into(),
            };
            Fingerprint::of(&call)
        };
        let rows = [
            ("calculator", "48+24", "24 + 48", true),
            ("calculator", "48+24", "(48)+24.0", true),
            ("calculator", "48+24", "48+25", false),
            ("calculator", "6*2", "24/2", false),
            ("calculator", "4-2", "2-4", false),
            ("search", "Eiffel Tower", "the eiffel tower?", true),
            ("search", "Eiffel Tower", "tower", false),
        ];
        for (tool, one, other, same) in rows {
            assert_eq!(of(tool, one) == of(tool, other), same, "{one} / {other}");
            assert!(of(tool, one).is_some());
        }
        assert_eq!(of("calculator", "1/0"), None);
    }
}
