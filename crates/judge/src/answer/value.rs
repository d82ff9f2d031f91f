//! Typed values.

use super::calendar::{Date, Time};
use super::compare::accepts;
use super::expression::Node;
use super::quantity::Unit;
use crate::numeric::Amount;
use tools::Rational;

/// The value of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A number or percentage.
    Number(Amount),
    Quantity(Quantity),
    Time(Time),
    Date(Date),
    /// From one number to another, in the unit if there is one.
    Range(Box<Value>, Box<Value>),
    /// `3:2`
    Ratio(Vec<Rational>),
    /// A tuple, or an interval: its brackets count.
    Sequence {
        open: char,
        close: char,
        items: Vec<Value>,
    },
    /// Values in any order: a set, a list, alternatives.
    Set(Vec<Value>),
    /// A matrix by rows.
    Matrix(Vec<Vec<Value>>),
    /// An expression with variables, or one whose value is beyond bounds.
    Expression(Node),
    /// Sides with the relations between them.
    Relation(Vec<Node>, Vec<char>),
    Infinity {
        negative: bool,
    },
}

/// A number of something.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantity {
    /// In the first unit it is written with.
    pub amount: Amount,
    pub unit: Unit,
    /// The same in the other units of `5 feet 6 inches`.
    pub otherwise: Vec<Rational>,
}

pub(super) fn with_unit(amount: Amount, unit: Option<Unit>) -> Value {
    match unit {
        None => Value::Number(amount),
        Some(unit) => Value::Quantity(Quantity {
            amount,
            unit,
            otherwise: Vec::new(),
        }),
    }
}

/// The number that an expression comes to; `None` where it has variables, is infinite or beyond
/// bounds.
pub(super) fn amount(node: &Node) -> Option<Amount> {
    let negated = |amount: Amount| Amount {
        value: -amount.value,
        percent: amount.percent.map(|percent| -percent),
        places: amount.places,
    };
    match node {
        Node::Number(value, places) => Some(Amount {
            value: value.clone(),
            percent: None,
            places: *places,
        }),
        Node::Negative(inner) => amount(inner).map(negated),
        Node::Percent(inner) => {
            let percent = inner.constant()?;
            Some(Amount {
                value: &percent / Rational::from_integer(100.into()),
                percent: Some(percent),
                places: 0,
            })
        }
        _ => node.constant().map(Amount::exact),
    }
}

/// An expression as the value it has.
pub(super) fn constant(node: Node) -> Value {
    match (&node, amount(&node)) {
        (_, Some(amount)) => Value::Number(amount),
        (Node::Infinity, _) => Value::Infinity { negative: false },
        (Node::Negative(inner), _) if **inner == Node::Infinity => {
            Value::Infinity { negative: true }
        }
        _ => Value::Expression(node),
    }
}

/// The number of a value that has one.
pub(super) fn number_of(value: &Value) -> Option<&Rational> {
    match value {
        Value::Number(amount) => Some(&amount.value),
        Value::Quantity(quantity) => Some(&quantity.amount.value),
        _ => None,
    }
}

/// Values in any order, each once; one value is itself.
pub(super) fn set(items: Vec<Value>) -> Value {
    match set_of(items) {
        Value::Set(mut items) if items.len() == 1 => items.swap_remove(0),
        set => set,
    }
}

pub(super) fn set_of(items: Vec<Value>) -> Value {
    let mut distinct: Vec<Value> = Vec::with_capacity(items.len());
    for item in items {
        if !distinct.iter().any(|known| accepts(known, &item)) {
            distinct.push(item);
        }
    }
    Value::Set(distinct)
}
