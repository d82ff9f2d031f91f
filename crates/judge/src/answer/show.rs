//! Values for people.

use super::expression::Node;
use super::quantity::Unit;
use super::value::Value;
use crate::numeric::Amount;
use std::fmt::{Display, Formatter, Result};
use tools::number::format_number;

impl Value {
    /// The name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Number(amount) if amount.percent.is_some() => "percentage",
            Self::Number(_) => "number",
            Self::Quantity(quantity) => match &quantity.unit {
                Unit::Measure { readings, .. } if readings[0].currency().is_some() => "money",
                _ => "quantity",
            },
            Self::Time(_) => "time",
            Self::Date(_) => "date",
            Self::Range(..) => "range",
            Self::Ratio(_) => "ratio",
            Self::Sequence { open, close, .. } => match (open, close) {
                ('(', ')') => "tuple",
                _ => "interval",
            },
            Self::Set(_) => "set",
            Self::Matrix(_) => "matrix",
            Self::Expression(_) => "expression",
            Self::Relation(..) => "relation",
            Self::Infinity { .. } => "infinity",
        }
    }

    /// Whether the same words say the same, so that a spelling that is not read may still be known.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Date(_) | Self::Time(_) | Self::Range(..))
    }
}

fn list(f: &mut Formatter<'_>, items: &[Value]) -> Result {
    for (index, item) in items.iter().enumerate() {
        f.write_str(if index > 0 { ", " } else { "" })?;
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for Amount {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.percent {
            Some(percent) => write!(f, "{}%", format_number(percent)),
            None => f.write_str(&format_number(&self.value)),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Number(amount) => amount.fmt(f),
            Self::Quantity(quantity) => write!(f, "{} {}", quantity.amount, quantity.unit.name()),
            Self::Time(time) => time.fmt(f),
            Self::Date(date) => date.fmt(f),
            Self::Range(low, high) => write!(f, "{low} to {high}"),
            Self::Ratio(parts) => {
                let parts: Vec<String> = parts.iter().map(format_number).collect();
                f.write_str(&parts.join(":"))
            }
            Self::Sequence { open, close, items } => {
                write!(f, "{open}")?;
                list(f, items)?;
                write!(f, "{close}")
            }
            Self::Set(items) => {
                f.write_str("{")?;
                list(f, items)?;
                f.write_str("}")
            }
            Self::Matrix(rows) => {
                for row in rows {
                    f.write_str("[")?;
                    list(f, row)?;
                    f.write_str("]")?;
                }
                Ok(())
            }
            Self::Expression(node) => node.fmt(f),
            Self::Relation(sides, signs) => {
                sides[0].fmt(f)?;
                for (side, sign) in sides[1..].iter().zip(signs) {
                    write!(f, " {sign} {side}")?;
                }
                Ok(())
            }
            Self::Infinity { negative } => f.write_str(if *negative { "-∞" } else { "∞" }),
        }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Number(value, _) => f.write_str(&format_number(value)),
            Self::Pi => f.write_str("π"),
            Self::Infinity => f.write_str("∞"),
            Self::Variable(name) => f.write_str(name),
            Self::Negative(a) => write!(f, "-{a}"),
            Self::Sum(a, b) => match &**b {
                Self::Negative(b) => write!(f, "({a} - {b})"),
                _ => write!(f, "({a} + {b})"),
            },
            Self::PlusMinus(a, b, flipped) => {
                write!(f, "({a} {} {b})", if *flipped { '∓' } else { '±' })
            }
            Self::Product(a, b) => write!(f, "{a}*{b}"),
            Self::Quotient(a, b) => write!(f, "({a}/{b})"),
            Self::Power(a, b) => write!(f, "{a}^{b}"),
            Self::Root(degree, a) => write!(f, "root({degree}, {a})"),
            Self::Call(name, None, a) => write!(f, "{name}({a})"),
            Self::Call(name, Some(base), a) => write!(f, "{name}_{base}({a})"),
            Self::Floor(a) => write!(f, "floor({a})"),
            Self::Ceiling(a) => write!(f, "ceil({a})"),
            Self::Factorial(a) => write!(f, "{a}!"),
            Self::Binomial(n, k) => write!(f, "binomial({n}, {k})"),
            Self::Percent(a) => write!(f, "{a}%"),
        }
    }
}
