//! Arithmetic as data sets write it, brought into the form the calculator tool takes.

use crate::CALCULATOR;
use proto::ReferenceStep;
use tools::{calculator, number};

/// What the calculator answers to an expression, in its own notation; `None` where it refuses.
pub fn evaluate(expression: &str) -> Option<String> {
    calculator::evaluate(expression)
        .ok()
        .map(|value| number::format_number(&value))
}

/// Removes currency signs, thousands separators and the blanks that separate nothing, writes `*`,
/// `/` and `-` for their typographic forms and `x` between numbers, and puts a zero before a bare
/// decimal point. A blank between two numbers or words stays: `3 1/2` is no `31/2`.
pub fn clean(expression: &str) -> String {
    let chars: Vec<char> = expression.trim().chars().collect();
    let mut out = String::with_capacity(chars.len());
    for (index, &c) in chars.iter().enumerate() {
        let tail = &chars[index + 1..];
        let next = tail.iter().copied().find(|c| !c.is_whitespace());
        let before = out.chars().next_back();
        let digit_before = before.is_some_and(|b| b.is_ascii_digit());
        match c {
            '$' | '€' | '£' => {}
            ',' if digit_before && is_group(tail) => {}
            '×' | '·' => push_operator('*', &mut out),
            '÷' => push_operator('/', &mut out),
            _ if number::is_minus(c) => push_operator('-', &mut out),
            'x' | 'X' if is_product(&out, next) => push_operator('*', &mut out),
            '.' if !digit_before && next.is_some_and(|n| n.is_ascii_digit()) => out.push_str("0."),
            _ if c.is_whitespace() => {
                let separates = before.is_some_and(is_wordy) && next.is_some_and(is_wordy);
                out.push_str(if separates { " " } else { "" });
            }
            _ => out.push(c),
        }
    }
    out
}

/// An operator takes away the blank before it.
fn push_operator(operator: char, out: &mut String) {
    out.truncate(out.trim_end().len());
    out.push(operator);
}

/// Whether an x stands between operands.
fn is_product(before: &str, next: Option<char>) -> bool {
    before.trim_end().ends_with(ends_operand) && next.is_some_and(starts_operand)
}

/// Whether a character belongs to a number or word.
fn is_wordy(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '%')
}

/// Exactly three digits and then no further digit: what follows a thousands separator.
fn is_group(tail: &[char]) -> bool {
    tail.len() >= 3
        && tail[..3].iter().all(char::is_ascii_digit)
        && !tail.get(3).is_some_and(char::is_ascii_digit)
}

fn ends_operand(c: char) -> bool {
    c.is_ascii_digit() || c == ')' || c == '%'
}

fn starts_operand(c: char) -> bool {
    c.is_ascii_digit() || "($.".contains(c)
}

/// A written number without currency sign, thousands separators or the point that ends a sentence.
/// Where it is more than one decimal, a mixed number or a number with a unit, it stays as it is,
/// with single blanks.
pub fn clean_number(text: &str) -> String {
    let text = text.trim();
    let plain = clean(text).trim_end_matches('.').to_owned();
    let is_decimal = plain
        .strip_prefix('-')
        .unwrap_or(&plain)
        .chars()
        .all(|c| c.is_ascii_digit() || c == '.');
    if is_decimal {
        return plain;
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_end_matches('.').to_owned()
}

/// The operations of a fully bracketed equation such as `( ( 4.0 + 3.0 ) - 2.0 )` (the notation of
/// SVAMP, Patel et al. 2021), innermost first, one calculator step each. `None` when the text is not
/// such an equation or the calculator refuses an operation.
pub fn bracketed_steps(equation: &str) -> Option<Vec<ReferenceStep>> {
    let spaced = equation.replace('(', " ( ").replace(')', " ) ");
    let mut pending: Vec<&str> = Vec::new();
    let mut operands: Vec<String> = Vec::new();
    let mut steps: Vec<ReferenceStep> = Vec::new();
    for token in spaced.split_whitespace() {
        match token {
            "(" | "+" | "-" | "*" | "/" => pending.push(token),
            ")" => {
                let operator = pending.pop().filter(|token| *token != "(")?;
                pending.pop().filter(|token| *token == "(")?;
                let right = operands.pop()?;
                let left = operands.pop()?;
                let call = format!("{left}{operator}{right}");
                let result = evaluate(&call)?;
                operands.push(result.clone());
                steps.push(ReferenceStep {
                    thought: String::new(),
                    tool: CALCULATOR.to_owned(),
                    arguments: call,
                    result,
                });
            }
            number => operands.push(evaluate(number)?),
        }
    }
    (pending.is_empty() && operands.len() == 1 && !steps.is_empty()).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_cleaned() {
        for (written, clean_form) in [
            ("48 / 2", "48/2"),
            ("$1,200 x 3", "1200*3"),
            (".5*(2 x 4)", "0.5*(2*4)"),
            ("10−3÷2×4", "10-3/2*4"),
            ("max(12,3)", "max(12,3)"),
            ("3.05", "3.05"),
            ("3 1/2 + 1", "3 1/2+1"),
            ("10 mod 3", "10 mod 3"),
            ("20% of 50", "20% of 50"),
            ("5 – 3", "5-3"),
            ("6 x 7", "6*7"),
            ("3 apples x 2", "3 apples x 2"),
            ("1 000", "1 000"),
        ] {
            assert_eq!(clean(written), clean_form, "{written}");
        }
    }

    #[test]
    fn written_numbers_are_cleaned_and_others_stay() {
        for (written, clean_form) in [
            (" 1,234. ", "1234"),
            ("$10.50", "10.50"),
            ("- 5", "-5"),
            ("−5", "-5"),
            (".5", "0.5"),
            ("3 1/2", "3 1/2"),
            ("1/2", "1/2"),
            ("18  dollars", "18 dollars"),
            ("$1.50 per hour.", "$1.50 per hour"),
            ("50%", "50%"),
            ("7:30 p.m.", "7:30 p.m"),
            ("(3, -4)", "(3, -4)"),
            ("1 000", "1 000"),
        ] {
            assert_eq!(clean_number(written), clean_form, "{written}");
        }
    }

    #[test]
    fn bracketed_equations_become_steps_from_inside_out() {
        let steps = bracketed_steps("( ( 4.0 + 3.0 ) - 2.0 )").unwrap();
        let calls: Vec<_> = steps
            .iter()
            .map(|s| (s.arguments.as_str(), s.result.as_str()))
            .collect();
        assert_eq!(calls, [("4+3", "7"), ("7-2", "5")]);
        for bad in [
            "( 4.0 - )",
            "4 - 3",
            "( 4 - 3",
            "( a - 3 )",
            "( 3 / 0 )",
            ") 4 (",
        ] {
            assert!(bracketed_steps(bad).is_none(), "{bad}");
        }
    }
}
