//! Equality of values, type by type.

use super::expression::Node;
use super::quantity::Unit;
use super::value::{Quantity, Value, constant, number_of};
use crate::numeric::{Amount, agrees};
use num_traits::{Signed, Zero};
use tools::Rational;
use tools::units::{Base, Measure};

/// Points at which two expressions are compared.
const POINTS: i64 = 5;

/// Whether `answer` says what `key` says.
///
/// - A unit on one side only may be left out, as may the `per …` of a price. Two units must measure the
///   same, and then the values decide: `90 minutes` are `1.5 hours`. Nouns must be the same.
/// - Sequences are compared item by item with their brackets, sets in any order.
/// - Expressions are the same if they have the same values wherever they are tried.
pub(super) fn accepts(key: &Value, answer: &Value) -> bool {
    match (key, answer) {
        (Value::Number(key), Value::Number(answer)) => key.agrees(answer),
        (Value::Number(key), Value::Quantity(answer)) => says(answer, key, true),
        (Value::Quantity(key), Value::Number(answer)) => says(key, answer, false),
        (Value::Quantity(key), Value::Quantity(answer)) => same_quantity(key, answer),
        (Value::Time(key), Value::Time(answer)) => key.agrees(*answer),
        (Value::Time(time), other) | (other, Value::Time(time)) => {
            let hour = Rational::from_integer(time.hour.into());
            let full = time.minute == 0 && time.second == 0;
            full && matches!(other, Value::Number(n) if n.value == hour && n.percent.is_none())
        }
        (Value::Date(key), Value::Date(answer)) => key == answer,
        (Value::Range(a, b), Value::Range(c, d)) => accepts(a, c) && accepts(b, d),
        (Value::Number(key), Value::Range(high, low)) => is_difference(key, high, low),
        (Value::Ratio(key), Value::Ratio(answer)) => same_ratio(key, answer),
        (Value::Ratio(parts), Value::Range(a, b)) | (Value::Range(a, b), Value::Ratio(parts)) => {
            matches!((&parts[..], number_of(a), number_of(b)),
                ([p, q], Some(a), Some(b)) if same_ratio(&[p.clone(), q.clone()], &[a.clone(), b.clone()]))
        }
        (Value::Ratio(parts), Value::Number(number))
        | (Value::Number(number), Value::Ratio(parts)) => {
            // `3:1` is no 3.
            let fraction = !number.value.is_integer() && number.percent.is_none();
            fraction && matches!(&parts[..], [p, q] if !q.is_zero() && p / q == number.value)
        }
        (
            Value::Sequence { open, close, items },
            Value::Sequence {
                open: other_open,
                close: other_close,
                items: others,
            },
        ) => {
            // Only pairs are intervals.
            let same = (open, close) == (other_open, other_close) || items.len() != 2;
            same && all_accept(items, others)
        }
        (Value::Set(key), Value::Set(answer)) => same_set(key, answer),
        // `1, 2` is the point (1, 2) without its brackets.
        (
            Value::Sequence {
                open: '(',
                close: ')',
                items,
            },
            Value::Set(others),
        )
        | (
            Value::Set(others),
            Value::Sequence {
                open: '(',
                close: ')',
                items,
            },
        ) => all_accept(items, others),
        (Value::Matrix(key), Value::Matrix(answer)) => {
            let rows = key.iter().zip(answer);
            key.len() == answer.len() && rows.into_iter().all(|(a, b)| all_accept(a, b))
        }
        (Value::Matrix(rows), Value::Sequence { items, .. })
        | (Value::Sequence { items, .. }, Value::Matrix(rows)) => {
            let cells: Vec<Value> = rows.iter().flatten().cloned().collect();
            let vector = rows.len() == 1 || rows.iter().all(|row| row.len() == 1);
            vector && all_accept(&cells, items)
        }
        (Value::Infinity { negative: a }, Value::Infinity { negative: b }) => a == b,
        (Value::Expression(key), Value::Expression(answer)) => same_expression(key, answer),
        (Value::Expression(node), Value::Number(_))
        | (Value::Number(_), Value::Expression(node)) => {
            let other = if matches!(key, Value::Number(_)) {
                key
            } else {
                answer
            };
            vanishing(node, other)
        }
        (Value::Relation(key, signs), Value::Relation(answer, others)) => {
            same_relation((key, signs), (answer, others))
        }
        // `y = 2x + 3` says what `2x + 3` says of y.
        (Value::Relation(sides, signs), other) | (other, Value::Relation(sides, signs)) => {
            matches!((&sides[..], &signs[..]), ([Node::Variable(_), right], ['='])
                if accepts(&constant(right.clone()), other))
        }
        _ => false,
    }
}

fn all_accept(key: &[Value], answer: &[Value]) -> bool {
    key.len() == answer.len() && key.iter().zip(answer).all(|(a, b)| accepts(a, b))
}

/// Whether `5-3` is the number: only where it falls, since what rises is a range.
fn is_difference(key: &Amount, high: &Value, low: &Value) -> bool {
    match (high, low) {
        (Value::Number(high), Value::Number(low)) if high.value > low.value => {
            key.agrees(&Amount::exact(&high.value - &low.value))
        }
        _ => false,
    }
}

/// Whether each value of one set is one of the other.
fn same_set(key: &[Value], answer: &[Value]) -> bool {
    let found = |key: &Value| answer.iter().filter(|answer| accepts(key, answer)).count() == 1;
    key.len() == answer.len() && key.iter().all(found)
}

fn same_ratio(one: &[Rational], other: &[Rational]) -> bool {
    let pairs = || one.iter().zip(other);
    let Some((a, b)) = pairs().find(|(a, b)| !a.is_zero() && !b.is_zero()) else {
        return one == other;
    };
    one.len() == other.len() && pairs().all(|(c, d)| c * b == d * a)
}

/// Whether a quantity is `number` of its unit, or of another that it is written with.
fn says(quantity: &Quantity, number: &Amount, number_is_key: bool) -> bool {
    let fits = |amount: &Amount| match number_is_key {
        true => number.agrees(amount),
        false => amount.agrees(number),
    };
    let otherwise = || quantity.otherwise.iter().cloned().map(Amount::exact);
    fits(&quantity.amount) || otherwise().any(|amount| fits(&amount))
}

fn same_quantity(key: &Quantity, answer: &Quantity) -> bool {
    match (&key.unit, &answer.unit) {
        (Unit::Noun(a), Unit::Noun(b)) => a == b && key.amount.agrees(&answer.amount),
        (Unit::Ordinal, Unit::Ordinal) => key.amount.agrees(&answer.amount),
        (Unit::Radix(a), Unit::Radix(b)) => a == b && key.amount.agrees(&answer.amount),
        (Unit::Measure { .. }, Unit::Measure { .. }) => same_measure(key, answer),
        _ => false,
    }
}

/// Whether two amounts of measure are the same, one of which may leave its `per …` out.
fn same_measure(key: &Quantity, answer: &Quantity) -> bool {
    let (
        Unit::Measure {
            readings: keys,
            whole: key_whole,
            per: key_per,
        },
        Unit::Measure {
            readings: answers,
            whole: answer_whole,
            per: answer_per,
        },
    ) = (&key.unit, &answer.unit)
    else {
        return false;
    };
    match (key_per, answer_per) {
        (Some(_), Some(_)) => match (key_whole, answer_whole) {
            (Some(a), Some(b)) => same_value(key, a, answer, b),
            (None, None) => key_per == answer_per && any_same(key, keys, answer, answers),
            _ => false,
        },
        // `60 mph` beside `60 miles per hour`
        (Some(_), None)
            if key_whole
                .as_ref()
                .is_some_and(|whole| comparable(whole, answers)) =>
        {
            let whole = key_whole.as_ref().expect("just seen");
            answers.iter().any(|b| same_value(key, whole, answer, b))
        }
        (None, Some(_))
            if answer_whole
                .as_ref()
                .is_some_and(|whole| comparable(whole, keys)) =>
        {
            let whole = answer_whole.as_ref().expect("just seen");
            keys.iter().any(|a| same_value(key, a, answer, whole))
        }
        // A price may leave out of what it is one, and so may a number of things; 12 metres are no
        // 12 metres per second.
        (Some(_), None) => {
            (key_whole.is_none() || is_money(keys)) && any_same(key, keys, answer, answers)
        }
        (None, Some(_)) => {
            (answer_whole.is_none() || is_money(answers)) && any_same(key, keys, answer, answers)
        }
        (None, None) => any_same(key, keys, answer, answers),
    }
}

fn is_money(readings: &[Measure]) -> bool {
    readings[0].currency().is_some()
}

fn comparable(whole: &Measure, others: &[Measure]) -> bool {
    others
        .iter()
        .any(|other| other.dimension == whole.dimension)
}

fn any_same(key: &Quantity, keys: &[Measure], answer: &Quantity, answers: &[Measure]) -> bool {
    keys.iter()
        .any(|a| answers.iter().any(|b| same_value(key, a, answer, b)))
}

/// Whether the values agree in the key's unit.
fn same_value(key: &Quantity, unit: &Measure, answer: &Quantity, other: &Measure) -> bool {
    // `90 degrees` are of any scale.
    let bare = |unit: &Measure| unit.dimension.keys().eq([&Base::Degree]);
    let turns = |unit: &Measure| {
        let mut bases = unit.dimension.keys();
        matches!(
            bases.next(),
            Some(Base::Temperature | Base::Angle | Base::Degree)
        )
    };
    if (bare(unit) && turns(other)) || (bare(other) && turns(unit)) {
        return key.amount.agrees(&answer.amount);
    }
    if unit.dimension != other.dimension {
        return false;
    }
    if unit.factor == other.factor && unit.offset == other.offset {
        return key.amount.agrees(&answer.amount);
    }
    let base = other.in_base_units(&answer.amount.value);
    let converted = base / &unit.factor - &unit.offset;
    agrees(&key.amount.value, key.amount.places, &converted)
}

/// The value of a variable at one of the points that expressions are compared at.
fn point(index: i64) -> impl Fn(&str) -> Rational {
    move |name: &str| {
        let seed = name
            .bytes()
            .fold(7i64, |seed, byte| (seed * 31 + i64::from(byte)) % 9_973);
        // Above 1, so that most roots are real, and no round number.
        Rational::new((seed % 89 + 17 * index + 13).into(), (2 * index + 3).into())
    }
}

/// Whether two numbers are the same but for what is left of roots and functions.
fn near(a: &Rational, b: &Rational) -> bool {
    let size = a.abs().max(b.abs());
    let tolerance = Rational::new(1.into(), 1_000_000_000_000i64.into());
    (a - b).abs() <= size * tolerance
}

/// Whether two expressions have the same value at every point where one of them has one, of which
/// there must be two.
fn same_expression(one: &Node, other: &Node) -> bool {
    if one == other {
        return true;
    }
    let mut compared = 0;
    for index in 0..POINTS {
        let point = point(index);
        match (one.value(&point), other.value(&point)) {
            (Some(a), Some(b)) if near(&a, &b) => compared += 1,
            (None, None) => {}
            _ => return false,
        }
    }
    compared >= 2
}

/// Whether an expression's variables cancel and leave this number.
fn vanishing(node: &Node, number: &Value) -> bool {
    let Some(value) = number_of(number) else {
        return false;
    };
    same_expression(node, &Node::Number(value.clone(), 0))
}

/// Left minus right of each relation, and its sign, turned so that none points to the left.
fn differences(sides: &[Node], signs: &[char]) -> Vec<(Node, char)> {
    let difference =
        |a: &Node, b: &Node| Node::Sum(Box::new(a.clone()), Box::new(b.clone().minus()));
    sides
        .windows(2)
        .zip(signs)
        .map(|(pair, sign)| match sign {
            '>' => (difference(&pair[1], &pair[0]), '<'),
            '≥' => (difference(&pair[1], &pair[0]), '≤'),
            _ => (difference(&pair[0], &pair[1]), *sign),
        })
        .collect()
}

/// Whether relations are the same but for a factor: `2x = 4` and `x = 2`.
fn same_relation(key: (&[Node], &[char]), answer: (&[Node], &[char])) -> bool {
    let (key, answer) = (differences(key.0, key.1), differences(answer.0, answer.1));
    let same = |a: &(Node, char), b: &(Node, char)| a.1 == b.1 && proportional(&a.0, &b.0, a.1);
    key.len() == answer.len() && key.iter().all(|a| answer.iter().any(|b| same(a, b)))
}

/// Whether one expression is a multiple of the other, a positive one for inequalities.
fn proportional(one: &Node, other: &Node, sign: char) -> bool {
    let mut factor: Option<Rational> = None;
    let mut compared = 0;
    for index in 0..POINTS {
        let point = point(index);
        let (Some(a), Some(b)) = (one.value(&point), other.value(&point)) else {
            continue;
        };
        if a.is_zero() || b.is_zero() {
            if a != b {
                return false;
            }
            continue;
        }
        let ratio = a / b;
        if factor.as_ref().is_some_and(|known| !near(known, &ratio)) {
            return false;
        }
        compared += 1;
        factor = Some(ratio);
    }
    let positive = factor.is_some_and(|factor| factor.is_positive());
    compared >= 2 && (positive || matches!(sign, '=' | '≠'))
}
