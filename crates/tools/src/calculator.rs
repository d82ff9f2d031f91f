//! The calculator: exact rational arithmetic on an expression that a language model wrote.
//!
//! - **CA-1 (bounded).** Length, nesting, intermediate values and the result are bounded, each
//!   before the work it bounds is done: no expression crashes, hangs or exhausts the stack.
//! - **CA-2 (never silently wrong).** What has two readings is an error that says how to write it:
//!   `10 % 3`, `max(120,150)`, `5 m^2`, `2h30m`, `2y`. Nothing that is glued to a number is dropped
//!   unread: `10C3` is an error.
//!
//! # Notation
//! - `+ - * /`, also `× · ÷ −`, `x` between operands, and the words plus, minus, times, divided by,
//!   over, of; `//` and `mod` round the quotient down. Usual precedence, left to right.
//! - `^` and `**` are powers, right to left, stronger than a sign before: `-2^2` is -4. Exponents
//!   are whole or fractions with a denominator up to 32. `5²`, `5 squared` too.
//! - A factor may be left out before a parenthesis, a function or pi: `2(3+4)`. It counts as `*`.
//! - `%` divides what is before it by 100, always: `20% of 50` and `50*20%` are 10, and `50+20%` is
//!   50.2. The words hundred, dozen, thousand, million … and `k`, `M`, `B` multiply it.
//! - `3 1/2` is a mixed number, as are `3½` and `½`.
//! - `$ € £ ¥` are dropped; so are the units and nouns of [`crate::units`] after a number
//!   (`3 apples + 2 apples`, `60 km/h * 2 h`); every other word is an error. Nothing is converted:
//!   `1 km + 500 m` is 501.
//! - `1,234` is one number, except directly in a function's arguments, where a comma separates.
//! - Everything from the first `=` or `≈` on is ignored: `48/2 = 24` is `48/2`.

pub mod arithmetic;
mod error;
mod functions;
mod grammar;
mod lexer;
mod words;

pub use arithmetic::ROOT_DIGITS;
pub use error::CalcError;
pub use grammar::pi;

use crate::number::{Rational, format_number};
use crate::registry::{Tool, ToolError, blocking};
use async_trait::async_trait;
use lexer::Token;
use num_traits::{Pow, Signed, Zero};

/// Longer expressions are refused unread. The longest annotation of GSM8K has under 100 bytes.
pub const MAX_EXPRESSION_BYTES: usize = 4_096;

/// How deep parentheses, arguments and exponents nest.
pub const MAX_DEPTH: usize = 64;

/// The most bits a numerator or denominator may have on the way: 1,233 decimal digits.
pub const MAX_BITS: u64 = 4_096;

/// The most digits a result may have before its point, or zeros after it before the first other
/// digit.
pub const MAX_RESULT_DIGITS: u32 = 64;

/// The largest n of n!, which is the largest one within [`MAX_BITS`] but for a few.
pub const MAX_FACTORIAL: u32 = 500;

/// The exact value of an expression in the notation of this module.
///
/// # Errors
/// A sentence that tells a language model what to write instead.
pub fn evaluate(expression: &str) -> Result<Rational, CalcError> {
    let value = grammar::evaluate(&left_side(expression)?)?;
    let limit = Rational::from_integer(Pow::pow(num_bigint::BigInt::from(10), MAX_RESULT_DIGITS));
    let size = value.abs();
    if size >= limit || (!size.is_zero() && size < limit.recip()) {
        return Err(CalcError::ResultOutOfRange);
    }
    Ok(value)
}

/// The number literals of an expression in order, without signs and before percent: those of
/// `20% of (50-3)` are 20, 50 and 3. For checks of where a call has its numbers from.
///
/// # Errors
/// As [`evaluate`] for text that is no sequence of numbers, operators and words. Grammar and value
/// are not checked: `48/` has one operand.
pub fn operands(expression: &str) -> Result<Vec<Rational>, CalcError> {
    let tokens = left_side(expression)?;
    Ok(tokens
        .into_iter()
        .filter_map(|token| match token {
            Token::Number(value) => Some(value),
            _ => None,
        })
        .collect())
}

/// The tokens before the first sign of equality.
fn left_side(expression: &str) -> Result<Vec<Token>, CalcError> {
    if expression.len() > MAX_EXPRESSION_BYTES {
        return Err(CalcError::TooLong {
            bytes: expression.len(),
        });
    }
    let left = expression.split(['=', '≈']).next().unwrap_or_default();
    let tokens = lexer::tokens(left)?;
    if tokens.is_empty() {
        Err(CalcError::Empty)
    } else {
        Ok(tokens)
    }
}

/// The calculator as a tool: takes an expression, answers with its value as [`format_number`]
/// writes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calculator;

impl Calculator {
    /// Its name in configurations and trajectories.
    pub const NAME: &'static str = "calculator";
    /// Its tag in the model's text.
    pub const TAG: &'static str = "math_exp";
}

#[async_trait]
impl Tool for Calculator {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn tag(&self) -> &str {
        Self::TAG
    }

    fn description(&self) -> &str {
        "Calculates an arithmetic expression exactly."
    }

    fn purpose(&self) -> String {
        "calculate".to_owned()
    }

    fn schema(&self) -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_EXPRESSION_BYTES,
            "description": format!(
                "One arithmetic expression of numbers. Operators: + - * / ^ (power), // (quotient \
                 rounded down), mod, ! (factorial), parentheses. Functions: {}. Constant: pi. % \
                 divides by 100: 20% of 50 is 10, and 50 + 20% is 50.2, so write 50 * (1 + 20%) \
                 for an increase. 3 1/2 is a mixed number; k, M and B are thousands, millions and \
                 billions. $, thousands separators and common units after a number are ignored and \
                 nothing is converted; other words are errors. Text from = on is ignored. Names and equations \
                 are not understood. At most {MAX_EXPRESSION_BYTES} bytes, {MAX_DEPTH} nested \
                 parentheses, and a result of {MAX_RESULT_DIGITS} digits. The result is a decimal, \
                 exact where 12 decimals suffice and otherwise rounded to 12 significant digits.",
                functions::NAMES
            ),
            "examples": ["12*3", "48/2", "(1,250 - 150) * 20%", "round(100/3, 2)"],
        })
    }

    async fn call(&self, arguments: &str) -> Result<String, ToolError> {
        let expression = arguments.to_owned();
        let value = blocking(move || evaluate(&expression)).await?;
        value
            .map(|value| format_number(&value))
            .map_err(|e| ToolError::Rejected(e.to_string()))
    }
}

#[cfg(test)]
mod tests;
