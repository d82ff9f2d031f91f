//! Ranges and ratios.

use super::Reader;
use crate::answer::expression::{Node, Parser};
use crate::answer::lexer::Token;
use crate::answer::quantity::{currency, unit};
use crate::answer::value::{Value, amount, number_of, with_unit};
use crate::numeric::Amount;
use tools::Rational;
use tools::number::is_currency;

impl Reader<'_> {
    /// `20 to 25`, `20–25`, `between 20 and 25 hours`, `1892–94`.
    pub(super) fn range(&mut self) -> Option<Value> {
        let word = self.word();
        let between = matches!(word.as_deref(), Some("between" | "from"));
        self.at += usize::from(between);
        let start = self.at;
        let low = self.bound()?;
        let link = self.word();
        let joined = match link.as_deref() {
            Some("to" | "through" | "until") => true,
            Some("and") => between && word.as_deref() == Some("between"),
            _ => false,
        };
        if joined {
            self.at += 1;
        } else if !self.dash_of_range(start) {
            return None;
        }
        let mut high = self.bound()?;
        if !joined {
            high = self.upper(start, &low, high)?;
        }
        Some(Value::Range(Box::new(low), Box::new(high)))
    }

    /// A number of a range with its unit.
    fn bound(&mut self) -> Option<Value> {
        let mut parser = Parser::new(self.tokens, self.at, false);
        let negative = parser.eat('-');
        let mut sign = parser.sign().filter(|c| is_currency(*c));
        parser.at += usize::from(sign.is_some());
        let number = parser.peek()?.number()?;
        parser.at += 1;
        let percent = parser.eat('%');
        // The unit of `5-6 hours` is the second's.
        let dashed = matches!(parser.sign(), Some('-' | '–'));
        let unit = if dashed {
            None
        } else {
            unit(&mut parser, false)
        };
        self.at = parser.at;
        let node = Node::Number(number.value.clone(), number.places);
        let node = if percent {
            Node::Percent(Box::new(node))
        } else {
            node
        };
        let amount = amount(&if negative { node.minus() } else { node })?;
        let unit = unit.or_else(|| currency(sign.take()?));
        Some(with_unit(amount, unit))
    }

    /// A dash with numbers right before and behind it, or an en dash.
    fn dash_of_range(&mut self, start: usize) -> bool {
        let (Some(dash), Some(next)) = (self.peek(), self.tokens.get(self.at + 1)) else {
            return false;
        };
        let negative = self.tokens[start].sign() == Some('-');
        let glued = !dash.spaced && !next.spaced && !negative;
        let found = matches!(dash.sign(), Some('-' | '–')) && glued;
        self.at += usize::from(found);
        found
    }

    /// The upper bound, of which years may leave the century out: `1892–94`. `None` where more of a
    /// calculation follows. Numbers that fall, `5-3`, are a score or a difference.
    fn upper(&self, start: usize, low: &Value, high: Value) -> Option<Value> {
        let operator = |c| matches!(c, '+' | '-' | '–' | '*' | '/' | '^' | '=' | '(' | '!');
        if self.sign().is_some_and(operator) {
            return None;
        }
        let (a, b) = (number_of(low)?, number_of(&high)?);
        let width = |at: usize| Some(self.tokens.get(at)?.number()?.width);
        let years = width(start) == Some(4) && width(start + 2) == Some(2);
        let hundred = Rational::from_integer(100.into());
        let full = (a / &hundred).floor() * hundred + b;
        Some(if years && a < &full {
            Value::Number(Amount::exact(full))
        } else {
            high
        })
    }

    /// Numbers with colons between them.
    pub(super) fn ratio(&mut self) -> Option<Value> {
        let mut parts = Vec::new();
        loop {
            let number = self.peek()?.number()?;
            parts.push(number.value.clone());
            self.at += 1;
            let next = self.tokens.get(self.at + 1).and_then(Token::number);
            if next.is_none() || !self.eat(':') {
                break;
            }
        }
        (parts.len() > 1).then_some(Value::Ratio(parts))
    }
}
