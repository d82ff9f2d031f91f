//! A run of tokens as a typed value.
//!
//! ```text
//! list     = item { ("," | ";" | "and" | "or") item }
//! item     = [ name "=" ] chain
//! chain    = value { relation value }
//! value    = date | time | range | ratio | intervals | sequence | set | matrix | quantity
//! quantity = [ approximately ] sum [ unit { [ "and" ] number unit } ]
//! ```

mod ranges;
mod sets;

use super::calendar;
use super::compare::accepts;
use super::expression::{Node, Parser};
use super::lexer::{Kind, Token};
use super::quantity::{Unit, money, unit};
use super::value::{Quantity, Value, amount, constant, set, with_unit};
use crate::numeric::Amount;
use tools::Rational;
use tools::units::Measure;

/// Deepest nesting of sequences and sets.
const MAX_NESTING: usize = 8;
/// The most items of a list, sequence or set.
const MAX_ITEMS: usize = 128;

/// Ways to read a run of tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    /// Whether letters are variables.
    pub variables: bool,
    /// Whether the run is a whole text, so that nouns count as units.
    pub alone: bool,
}

/// Reads values out of tokens.
pub(super) struct Reader<'a> {
    tokens: &'a [Token],
    pub at: usize,
    mode: Mode,
    nesting: usize,
}

impl<'a> Reader<'a> {
    pub fn new(tokens: &'a [Token], at: usize, mode: Mode) -> Self {
        Self {
            tokens,
            at,
            mode,
            nesting: 0,
        }
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn sign(&self) -> Option<char> {
        self.peek()?.sign()
    }

    fn word(&self) -> Option<String> {
        Some(self.peek()?.word()?.to_lowercase())
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.sign() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Items with commas, `and` or `or` between them; one item is itself. Items that say the same
    /// are one.
    pub fn list(&mut self) -> Option<Value> {
        let mut names = Vec::new();
        let mut items = vec![self.item(&mut names)?];
        while items.len() < MAX_ITEMS {
            let start = self.at;
            if !self.separator() {
                break;
            }
            match self.item(&mut names) {
                Some(item) => items.push(item),
                None => {
                    self.at = start;
                    break;
                }
            }
        }
        if items.len() == 1 {
            return items.pop();
        }
        names.dedup();
        let distinct = names.len() == items.len();
        Some(match distinct {
            // `x = 2, y = 3` is a point.
            true => Value::Sequence {
                open: '(',
                close: ')',
                items,
            },
            false => set(items),
        })
    }

    fn separator(&mut self) -> bool {
        let comma = self.eat(',') || self.eat(';');
        let word = matches!(self.word().as_deref(), Some("and" | "or"));
        self.at += usize::from(word);
        comma || word
    }

    /// A value, perhaps named: `x = 5`. A name is words and brackets without a calculation.
    fn item(&mut self, names: &mut Vec<&'a [Token]>) -> Option<Value> {
        if let Some((name, taken)) = self.name() {
            let start = self.at;
            self.at += taken;
            if let Some(value) = self.chain() {
                names.push(name);
                return Some(value);
            }
            self.at = start;
        }
        self.chain()
    }

    /// The name before an equals sign, and how many tokens it takes with the sign.
    fn name(&self) -> Option<(&'a [Token], usize)> {
        const LONGEST: usize = 12;
        let tail = &self.tokens[self.at..];
        let end = tail
            .iter()
            .take(LONGEST)
            .position(|token| matches!(token.sign(), Some('=' | '∈' | '≈')))?;
        let (name, first) = (&tail[..end], tail.first()?);
        let begins = first.word().is_some() || matches!(first.sign(), Some('∠' | '△'));
        let fits = |token: &Token| match &token.kind {
            Kind::Word(_) => true,
            Kind::Number(number) => number.whole,
            Kind::Sign(c) => matches!(
                c,
                '(' | ')' | '{' | '}' | '_' | '∠' | '△' | '′' | '°' | '|' | ','
            ),
        };
        let one_word =
            end == 1 || !self.mode.variables || !name.iter().any(|t| t.number().is_some());
        let called = name
            .iter()
            .any(|token| matches!(token.sign(), Some('(' | '_')));
        (begins && (one_word || called) && name.iter().all(fits)).then(|| (name, end + 1))
    }

    /// Values with signs of relation between them. Equal numbers are one: `10 = $10.00`; but a
    /// calculation beside its result, `4 + 4 = 8`, is working, and no value.
    fn chain(&mut self) -> Option<Value> {
        let start = self.at;
        let first = self.value()?;
        if !self.relation_follows() {
            return Some(first);
        }
        if let Some(same) = self.equal_values(start, &first) {
            return Some(same);
        }
        self.at = start;
        self.relation()
    }

    fn relation_follows(&self) -> bool {
        let sign = self.sign();
        sign.is_some_and(is_relation) && self.tokens.get(self.at + 1).is_some()
    }

    /// The sides of `=` where each is one plain value and all are the same.
    fn equal_values(&mut self, start: usize, first: &Value) -> Option<Value> {
        let mut from = start;
        let mut side_is_plain = self.is_plain(from);
        while matches!(self.sign(), Some('=' | '≈')) {
            self.at += 1;
            from = self.at;
            let next = self.value()?;
            side_is_plain &= self.is_plain(from);
            if !accepts(first, &next) && !accepts(&next, first) {
                return None;
            }
        }
        let end = self.sign().is_none_or(|sign| !is_relation(sign));
        (side_is_plain && end).then(|| first.clone())
    }

    /// Whether what begins at this token is no calculation.
    fn is_plain(&self, at: usize) -> bool {
        let mut parser = Parser::new(self.tokens, at, self.mode.variables);
        parser.sum().is_none_or(|node| node.is_plain())
    }

    fn relation(&mut self) -> Option<Value> {
        let mut sides = vec![self.expression()?];
        let mut signs = Vec::new();
        while let Some(sign) = self.sign().filter(|c| is_relation(*c)) {
            self.at += 1;
            signs.push(sign);
            sides.push(self.expression()?);
        }
        (!signs.is_empty()).then_some(Value::Relation(sides, signs))
    }

    fn expression(&mut self) -> Option<Node> {
        let mut parser = Parser::new(self.tokens, self.at, self.mode.variables);
        let node = parser.sum()?;
        self.at = parser.at;
        Some(node)
    }

    fn value(&mut self) -> Option<Value> {
        if self.nesting > MAX_NESTING {
            return None;
        }
        let tail = &self.tokens[self.at..];
        if let Some((date, taken)) = calendar::date(tail) {
            self.at += taken;
            return Some(Value::Date(date));
        }
        if let Some((time, taken)) = calendar::time(tail) {
            self.at += taken;
            return Some(Value::Time(time));
        }
        let start = self.at;
        for read in [
            Self::range,
            Self::ratio,
            Self::sets,
            Self::matrix,
            Self::quantity,
        ] {
            if let Some(found) = read(self) {
                return Some(found);
            }
            self.at = start;
        }
        None
    }

    /// A number with or without a unit, an expression, or the two values of one with `±`.
    fn quantity(&mut self) -> Option<Value> {
        let mut parser = Parser::new(self.tokens, self.at, self.mode.variables);
        pass_over_approximation(&mut parser);
        let node = parser.sum()?;
        if let Some((upper, lower)) = node.branches() {
            self.at = parser.at;
            return Some(set(vec![constant(upper), constant(lower)]));
        }
        let unit = match parser.currency {
            Some(sign) => money(&mut parser, sign, self.mode.alone),
            None => unit(&mut parser, self.mode.alone),
        };
        self.at = parser.at;
        let Some(amount) = amount(&node) else {
            return unit.is_none().then(|| constant(node));
        };
        let mut value = with_unit(amount, unit);
        while let Some(sum) = self.and_smaller(&value) {
            value = sum;
        }
        Some(value)
    }

    /// `and 0 cents` of `18 dollars and 0 cents`, `30m` of `2h30m`: a smaller unit of the same
    /// kind.
    fn and_smaller(&mut self, value: &Value) -> Option<Value> {
        let Value::Quantity(Quantity {
            amount,
            unit:
                Unit::Measure {
                    readings,
                    per: None,
                    ..
                },
            otherwise,
        }) = value
        else {
            return None;
        };
        let mut parser = Parser::new(self.tokens, self.at, false);
        let comma = parser.eat(',');
        let and = parser
            .peek()
            .and_then(Token::word)
            .is_some_and(|w| w.eq_ignore_ascii_case("and"));
        parser.at += usize::from(and);
        let number = parser.peek()?.number()?.clone();
        parser.at += 1;
        let Unit::Measure {
            readings: smaller, ..
        } = unit(&mut parser, false)?
        else {
            return None;
        };
        let (large, small) = pair(readings, &smaller)?;
        if small.factor >= large.factor || (comma && !and && number.places > 0) {
            return None;
        }
        self.at = parser.at;
        if self.mode.alone {
            let tail = &self.tokens[self.at..];
            let described = tail.iter().all(|token| token.word().is_some());
            self.at += if described { tail.len() } else { 0 };
        }
        Some(joined(amount, (large, small), &number.value, otherwise))
    }
}

/// `amount` of the larger unit and `more` of the smaller one.
fn joined(
    amount: &Amount,
    (large, small): (&Measure, &Measure),
    more: &Rational,
    otherwise: &[Rational],
) -> Value {
    let ratio = &small.factor / &large.factor;
    let more = if amount.value < Rational::from_integer(0.into()) {
        -more
    } else {
        more.clone()
    };
    let total = &amount.value + more * &ratio;
    let in_small = &total / &ratio;
    Value::Quantity(Quantity {
        amount: Amount::exact(total),
        unit: Unit::Measure {
            readings: vec![large.clone()],
            whole: None,
            per: None,
        },
        otherwise: otherwise.iter().cloned().chain([in_small]).collect(),
    })
}

/// The meanings of two names that measure the same.
fn pair<'a>(one: &'a [Measure], other: &'a [Measure]) -> Option<(&'a Measure, &'a Measure)> {
    one.iter().find_map(|a| {
        let b = other.iter().find(|b| a.dimension == b.dimension)?;
        Some((a, b))
    })
}

pub(super) fn is_relation(c: char) -> bool {
    matches!(c, '=' | '<' | '>' | '≤' | '≥' | '≠' | '≈' | '∈' | '≡')
}

/// `about`, `≈`: what is said is still the number.
fn pass_over_approximation(parser: &mut Parser<'_>) {
    let word = parser.peek().and_then(Token::word).map(str::to_lowercase);
    let approximately = matches!(
        word.as_deref(),
        Some(
            "about"
                | "approximately"
                | "approx"
                | "around"
                | "roughly"
                | "circa"
                | "exactly"
                | "only"
                | "just"
        )
    ) || parser.sign() == Some('≈');
    if approximately {
        parser.at += 1;
        parser.eat('.');
    }
}
