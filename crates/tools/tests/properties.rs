//! Properties of the calculator, the numbers and the parser on random input.

use num_bigint::BigInt;
use proptest::prelude::*;
use proto::{Action, FinishReason, MalformedKind, ToolCall};
use tools::calculator::{self, CalcError};
use tools::number::{self, Rational};
use tools::parser::{ActionTags, parse_action};

/// An expression whose value is also computed by plain fractions of `i128`.
#[derive(Debug, Clone)]
enum Expr {
    /// Hundredths.
    Literal(u32),
    Negative(Box<Expr>),
    Binary(char, Box<Expr>, Box<Expr>),
}

/// Numerator and positive denominator, in lowest terms.
type Fraction = (i128, i128);

#[derive(Debug, PartialEq)]
enum OracleError {
    DivisionByZero,
    /// Beyond the oracle's own range: nothing is claimed.
    Overflow,
}

fn reduced(numerator: i128, denominator: i128) -> Fraction {
    let (mut a, mut b) = (numerator.abs(), denominator.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1) * denominator.signum();
    (numerator / divisor, denominator / divisor)
}

impl Expr {
    fn value(&self) -> Result<Fraction, OracleError> {
        match self {
            Self::Literal(hundredths) => Ok(reduced(i128::from(*hundredths), 100)),
            Self::Negative(inner) => inner.value().map(|(n, d)| (-n, d)),
            Self::Binary(operator, left, right) => {
                let ((a, b), (c, d)) = (left.value()?, right.value()?);
                if *operator == '/' && c == 0 {
                    return Err(OracleError::DivisionByZero);
                }
                let cross = |x: i128, y: i128| x.checked_mul(y);
                let parts = || match operator {
                    '+' => Some((cross(a, d)?.checked_add(cross(c, b)?)?, cross(b, d)?)),
                    '-' => Some((cross(a, d)?.checked_sub(cross(c, b)?)?, cross(b, d)?)),
                    '*' => Some((cross(a, c)?, cross(b, d)?)),
                    _ => Some((cross(a, d)?, cross(b, c)?)),
                };
                let (numerator, denominator) = parts().ok_or(OracleError::Overflow)?;
                Ok(reduced(numerator, denominator))
            }
        }
    }

    fn strength(&self) -> u8 {
        match self {
            Self::Binary('+' | '-', ..) => 1,
            Self::Binary(..) => 2,
            Self::Negative(_) => 3,
            Self::Literal(_) => 4,
        }
    }

    /// With no more parentheses than precedence needs.
    fn write(&self, weakest: u8, out: &mut String) {
        let enclosed = self.strength() < weakest;
        out.push_str(if enclosed { "(" } else { "" });
        match self {
            Self::Literal(hundredths) if hundredths % 100 == 0 => {
                out.push_str(&(hundredths / 100).to_string());
            }
            Self::Literal(hundredths) => {
                out.push_str(&format!("{}.{:02}", hundredths / 100, hundredths % 100));
            }
            Self::Negative(inner) => {
                out.push('-');
                inner.write(3, out);
            }
            Self::Binary(operator, left, right) => {
                left.write(self.strength(), out);
                out.push_str(&format!(" {operator} "));
                right.write(self.strength() + 1, out);
            }
        }
        out.push_str(if enclosed { ")" } else { "" });
    }
}

fn expressions() -> impl Strategy<Value = Expr> {
    let literal = prop_oneof![
        (0u32..20).prop_map(|n| Expr::Literal(n * 100)),
        (0u32..200_000).prop_map(Expr::Literal)
    ];
    literal.prop_recursive(5, 40, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Negative(Box::new(e))),
            (
                prop::sample::select(vec!['+', '-', '*', '/']),
                inner.clone(),
                inner
            )
                .prop_map(|(op, a, b)| Expr::Binary(op, Box::new(a), Box::new(b))),
        ]
    })
}

/// Texts made of what the lexer gives a meaning, so that they get past it.
fn almost_expressions() -> impl Strategy<Value = String> {
    let pieces = [
        "1", "23", "1,234", "0.5", ".", ",", "+", "-", "*", "**", "/", "//", "^", "%", "!", "(",
        ")", "[", "]", "=", " ", "x", "of", "sqrt(", "max(", "mod", "pi", "²", "$", "km", "/h",
        "e", "1e9", "million", "per", "cent", "divided", "by", "round(", "½", "−", "9^9", "10^999",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|p| p.concat())
}

fn tags() -> ActionTags {
    ActionTags::new([("math_exp".to_owned(), "calculator".to_owned())])
}

fn almost_actions() -> impl Strategy<Value = String> {
    let pieces = [
        "<math_exp>",
        "</math_exp>",
        "<answer>",
        "</answer>",
        "48/2",
        " ",
        "\n",
        "é",
        "<",
        ">",
        "</",
        "<math_exp",
        "text",
        "<b>",
        "answer>",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..10).prop_map(|p| p.concat())
}

fn finishes() -> impl Strategy<Value = FinishReason> {
    prop::sample::select(vec![
        FinishReason::EndOfTurn,
        FinishReason::StopText,
        FinishReason::Length,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_agrees_with_plain_fractions(expression in expressions()) {
        let mut text = String::new();
        expression.write(0, &mut text);
        match (expression.value(), calculator::evaluate(&text)) {
            (Ok((n, d)), Ok(value)) => prop_assert_eq!(value, Rational::new(n.into(), d.into()), "{}", text),
            (Err(OracleError::DivisionByZero), result) => {
                prop_assert_eq!(result, Err(CalcError::DivisionByZero), "{}", text);
            }
            (Err(OracleError::Overflow), _) => {}
            (Ok(_), Err(error)) => prop_assert!(false, "{}: {}", text, error),
        }
    }

    #[test]
    fn a_result_written_beside_the_expression_changes_nothing(expression in expressions(), result in any::<i32>()) {
        let mut text = String::new();
        expression.write(0, &mut text);
        let value = calculator::evaluate(&text);
        prop_assert_eq!(calculator::evaluate(&format!("{text} = {result}")), value);
    }

    #[test]
    fn decimals_read_back_as_they_were_written(mantissa in any::<i128>(), decimals in 0u32..=12) {
        let value = Rational::new(mantissa.into(), BigInt::from(10).pow(decimals));
        let text = number::format_number(&value);
        prop_assert_eq!(number::parse_number(&text), Some(value.clone()), "{}", &text);
        prop_assert_eq!(number::numbers_in(&text).pop(), Some(value));
        if text.contains('.') {
            prop_assert!(!text.ends_with(['0', '.']), "{}", text);
        }
    }

    #[test]
    fn other_fractions_are_rounded_to_twelve_digits(n in any::<i64>(), d in 1i64..) {
        let value = Rational::new(n.into(), d.into());
        let written = number::parse_number(&number::format_number(&value)).expect("a decimal");
        let error = (&written - &value).max(&value - &written);
        let size = value.clone().max(-value);
        prop_assert!(error * BigInt::from(10).pow(11) <= size);
    }

    #[test]
    fn nothing_glued_to_a_number_is_dropped(a in 2u32..1_000, letters in "[a-zA-Z]{1,4}", b in 2u32..1_000) {
        let operators = ["x", "e", "mod", "of", "plus", "over"];
        prop_assume!(!operators.contains(&letters.to_lowercase().as_str()));
        for text in [format!("{a}{letters}{b}"), format!("{a}{letters}{b}{letters} + 1")] {
            // A length may have its power: `5m2`.
            let power = (b == 2 || b == 3) && tools::units::measure(&letters).is_some();
            prop_assert!(power || calculator::evaluate(&text).is_err(), "{}", text);
        }
        if !tools::units::is_unit_word(&letters) && !"kKMB".contains(&letters) {
            let text = format!("{a}{letters}");
            let ordinal = ["th", "st", "nd", "rd", "pi", "pct"].contains(&letters.to_lowercase().as_str());
            prop_assert!(ordinal || calculator::evaluate(&text).is_err(), "{}", text);
        }
    }

    #[test]
    fn nothing_panics_on_any_text(text in any::<String>(), finish in finishes()) {
        let _ = calculator::evaluate(&text);
        let _ = calculator::operands(&text);
        let _ = number::parse_number(&text);
        let _ = number::numbers_in(&text);
        let _ = number::number_words(&text);
        let _ = parse_action(&text, finish, &tags());
    }

    #[test]
    fn nothing_panics_on_almost_expressions(text in almost_expressions()) {
        if let Ok(value) = calculator::evaluate(&text) {
            prop_assert!(number::parse_number(&number::format_number(&value)).is_some(), "{}", &text);
        }
        let _ = calculator::operands(&text);
        for span in number::number_spans(&text) {
            prop_assert!(number::parse_quantity(&text[span.range.clone()]).is_some(), "{:?}", span);
        }
    }

    #[test]
    fn thought_and_action_are_the_text(text in almost_actions(), finish in finishes()) {
        let tags = tags();
        let parsed = parse_action(&text, finish, &tags);
        let rest = text.strip_prefix(&parsed.thought);
        prop_assert!(rest.is_some());
        let rest = rest.expect("just checked");
        let (tag, content) = match &parsed.action {
            Action::Malformed(kind) => {
                prop_assert!(*kind != MalformedKind::Truncated || finish == FinishReason::Length);
                return Ok(());
            }
            Action::Call(ToolCall { tool, arguments }) => {
                prop_assert_eq!(tool, "calculator");
                ("math_exp", arguments)
            }
            Action::Answer(answer) => ("answer", answer),
        };
        let inner = rest.strip_prefix(&format!("<{tag}>")).and_then(|r| r.split_once(&format!("</{tag}>")));
        prop_assert_eq!(inner.map(|(inner, _)| inner.trim()), Some(content.as_str()), "{}", &text);
        let trailing = inner.map_or("", |(_, trailing)| trailing);
        for marker in ["<math_exp>", "</math_exp>", "<answer>", "</answer>"] {
            prop_assert!(!trailing.contains(marker) && !parsed.thought.contains(marker), "{}", &text);
        }
        let again = format!("{}{}", parsed.thought, tags.write(&parsed.action).expect("well-formed"));
        prop_assert_eq!(parse_action(&again, FinishReason::StopText, &tags), parsed);
    }
}
