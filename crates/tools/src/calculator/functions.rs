//! The calculator's functions.

use super::CalcError;
use super::arithmetic::{self, Value, bounded};
use crate::number::Rational;
use num_integer::Integer;
use num_traits::{Signed, Zero};

/// A function by its canonical name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Sqrt,
    Cbrt,
    Abs,
    Min,
    Max,
    Round,
    Floor,
    Ceil,
    Sum,
    Mean,
    Gcd,
    Lcm,
    Factorial,
    Mod,
    Pow,
}

/// The canonical names, for messages and the schema.
pub(crate) const NAMES: &str = "sqrt, cbrt, abs, min, max, round, floor, ceil, sum, mean, gcd, \
                                lcm, factorial, mod, pow";

/// Every accepted name.
pub(crate) const TABLE: [(&str, Function); 18] = [
    ("sqrt", Function::Sqrt),
    ("cbrt", Function::Cbrt),
    ("abs", Function::Abs),
    ("min", Function::Min),
    ("max", Function::Max),
    ("round", Function::Round),
    ("floor", Function::Floor),
    ("ceil", Function::Ceil),
    ("ceiling", Function::Ceil),
    ("sum", Function::Sum),
    ("mean", Function::Mean),
    ("avg", Function::Mean),
    ("average", Function::Mean),
    ("gcd", Function::Gcd),
    ("lcm", Function::Lcm),
    ("factorial", Function::Factorial),
    ("mod", Function::Mod),
    ("pow", Function::Pow),
];

impl Function {
    /// The function of that name, in lower case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, function)| *function)
    }

    /// The canonical name.
    pub(crate) fn name(self) -> &'static str {
        TABLE
            .iter()
            .find(|(_, f)| *f == self)
            .map_or("function", |(name, _)| name)
    }

    /// The value of a call.
    pub(crate) fn apply(self, arguments: &[Rational]) -> Value {
        match (self, arguments) {
            (Self::Sqrt, [x]) => arithmetic::root(x, 2),
            (Self::Cbrt, [x]) => arithmetic::root(x, 3),
            (Self::Abs, [x]) => Ok(x.abs()),
            (Self::Floor, [x]) => Ok(x.floor()),
            (Self::Ceil, [x]) => Ok(x.ceil()),
            (Self::Round, [x]) => arithmetic::round(x, &Rational::zero()),
            (Self::Round, [x, digits]) => arithmetic::round(x, digits),
            (Self::Factorial, [x]) => arithmetic::factorial(x),
            (Self::Mod, [a, b]) => arithmetic::modulo(a, b),
            (Self::Pow, [a, b]) => arithmetic::power(a, b),
            (Self::Min, [first, rest @ ..]) => Ok(rest.iter().fold(first, |a, b| a.min(b)).clone()),
            (Self::Max, [first, rest @ ..]) => Ok(rest.iter().fold(first, |a, b| a.max(b)).clone()),
            (Self::Sum, [_, ..]) => sum(arguments),
            (Self::Mean, [_, ..]) => bounded(sum(arguments)? / count(arguments)),
            (Self::Gcd, [first, rest @ ..]) => fold_whole(first, rest, "gcd", |a, b| a.gcd(b)),
            (Self::Lcm, [first, rest @ ..]) => fold_whole(first, rest, "lcm", |a, b| a.lcm(b)),
            _ => Err(CalcError::Arguments {
                function: self.name(),
                expected: self.arity(),
                got: arguments.len(),
            }),
        }
    }

    fn arity(self) -> &'static str {
        match self {
            Self::Mod | Self::Pow => "2 arguments",
            Self::Round => "1 or 2 arguments",
            Self::Min | Self::Max | Self::Sum | Self::Mean | Self::Gcd | Self::Lcm => {
                "at least 1 argument"
            }
            _ => "1 argument",
        }
    }
}

fn sum(values: &[Rational]) -> Value {
    values
        .iter()
        .try_fold(Rational::zero(), |total, value| bounded(total + value))
}

fn count(values: &[Rational]) -> Rational {
    Rational::from_integer(values.len().into())
}

fn fold_whole(
    first: &Rational,
    rest: &[Rational],
    what: &'static str,
    combine: fn(&num_bigint::BigInt, &num_bigint::BigInt) -> num_bigint::BigInt,
) -> Value {
    let mut folded = arithmetic::whole(first, what)?.abs();
    for value in rest {
        folded = combine(&folded, &arithmetic::whole(value, what)?).abs();
        bounded(Rational::from_integer(folded.clone()))?;
    }
    Ok(Rational::from_integer(folded))
}
