//! What can be wrong with an expression, said so that a language model can mend it.

use super::{MAX_BITS, MAX_DEPTH, MAX_EXPRESSION_BYTES, MAX_FACTORIAL, MAX_RESULT_DIGITS};

/// Why an expression has no value. The sentences are shown to the model as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalcError {
    /// No expression, or nothing on the left of `=`.
    #[error("there is no expression to calculate; write one such as 48/2")]
    Empty,
    /// Longer than [`MAX_EXPRESSION_BYTES`]; nothing of it was read.
    #[error(
        "the expression is {bytes} bytes long and at most {MAX_EXPRESSION_BYTES} are allowed; \
         calculate it in parts"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Parentheses or powers nested deeper than [`MAX_DEPTH`].
    #[error("parentheses or powers are nested more than {MAX_DEPTH} deep; calculate it in parts")]
    TooDeep,
    /// A character that no expression has.
    #[error(
        "the character `{0}` is not understood; use plain text with digits, + - * / ^ % and \
         parentheses"
    )]
    UnexpectedCharacter(char),
    /// Digits, points and commas that are no number.
    #[error("`{0}` is not a number; write decimals as 3.5 and thousands as 1,234 or 1234")]
    BadNumber(String),
    /// A number beyond the bounds of a literal.
    #[error("the number `{0}` has too many digits or too large an exponent")]
    HugeNumber(String),
    /// `max(120,150)`: the comma could separate thousands or arguments.
    #[error(
        "the comma in `{0}` can mean thousands or the next argument; put a space after a comma \
         that separates arguments and leave commas out of numbers"
    )]
    AmbiguousComma(String),
    /// A word that is neither a function, an operator, a constant nor, after a number, a unit or noun
    /// of the list.
    #[error(
        "the name `{name}` is not known{}; write numbers and operators only, as in 48/2, and put \
         * between factors",
        hint(.nearest)
    )]
    UnknownName {
        /// The word.
        name: String,
        /// A known name like it.
        nearest: Option<String>,
    },
    /// `name(` where there is no such function.
    #[error("there is no function `{name}`{}; the functions are {}", hint(.nearest), super::functions::NAMES)]
    UnknownFunction {
        /// The word before the parenthesis.
        name: String,
        /// A function with a similar name.
        nearest: Option<String>,
    },
    /// A function's name without its parenthesis.
    #[error("`{0}` needs its arguments in parentheses: {0}(...)")]
    FunctionWithoutArguments(String),
    /// A function got too few or too many arguments.
    #[error("`{function}` takes {expected}, not {got}")]
    Arguments {
        /// The function's name.
        function: &'static str,
        /// How many it takes, in words.
        expected: &'static str,
        /// How many it got.
        got: usize,
    },
    /// An operator with nothing to work on.
    #[error("a number is missing before {0}")]
    MissingNumber(String),
    /// Two numbers side by side.
    #[error("an operator is missing before {0}; put + - * or / between two numbers")]
    MissingOperator(String),
    /// `10 % 3`.
    #[error(
        "`%` means percent, so an operator must follow it; write mod(a, b) for a remainder and \
         20% of 50 or 20% * 50 for a share"
    )]
    PercentThenNumber,
    /// `5 m^2`: the unit or the number.
    #[error(
        "it is unclear whether the number or its unit is raised to a power; leave the unit out"
    )]
    PowerOfUnit,
    /// Parentheses that do not match.
    #[error("the parentheses do not match: {0}")]
    Unbalanced(&'static str),
    /// A comma outside a function's arguments.
    #[error("a comma separates the arguments of a function only, as in max(1, 2)")]
    StrayComma,
    /// Division, remainder or negative power of zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A function or power that needs a whole number.
    #[error("{0} needs whole numbers")]
    NotWhole(&'static str),
    /// An even root of a negative number.
    #[error("a negative number has no real square root or fractional power")]
    NegativeRoot,
    /// A fractional power other than a root the calculator knows.
    #[error("the exponent must be a whole number or a fraction with a denominator up to {0}")]
    Exponent(u32),
    /// Outside 0 to [`MAX_FACTORIAL`].
    #[error("factorial is for whole numbers from 0 to {MAX_FACTORIAL}")]
    Factorial,
    /// `round` with too many digits.
    #[error("round(x, digits) takes digits from -{0} to {0}")]
    RoundDigits(u32),
    /// An intermediate value beyond [`MAX_BITS`].
    #[error("the numbers grow too large: an intermediate value has more than {MAX_BITS} bits")]
    TooLarge,
    /// A result with more than [`MAX_RESULT_DIGITS`] digits before or leading zeros after the point.
    #[error(
        "the result is out of range: it would need more than {MAX_RESULT_DIGITS} digits before \
         or after the decimal point"
    )]
    ResultOutOfRange,
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}
