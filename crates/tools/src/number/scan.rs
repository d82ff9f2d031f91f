//! Finds numbers in text.

use super::Rational;
use super::literal::{Grouping, scan_literal};
use num_bigint::BigInt;
use num_traits::Zero;
use std::ops::Range;

/// One number that occurs in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberSpan {
    /// Where it stands, in bytes of the text.
    pub range: Range<usize>,
    /// Its value: `20%` is 1/5, `3/4` is 3/4.
    pub value: Rational,
    /// The numbers it is written with where they are not the value itself: 20 of `20%`, 3 and 4 of
    /// `3/4`, 5 of `-5`.
    pub parts: Vec<Rational>,
}

/// Every number of a text with its place. Numbers longer than 400 digits are passed over.
pub fn number_spans(text: &str) -> Vec<NumberSpan> {
    let mut spans = Vec::new();
    let mut at = 0;
    let mut before = None;
    while let Some(here) = text[at..].chars().next() {
        let glued_sign = is_sign(here) && before.is_some_and(ends_operand);
        match if glued_sign {
            None
        } else {
            scan_number(text, at)
        } {
            Some(found) => {
                let range = at..at + found.len;
                before = text[range.clone()].chars().next_back();
                at = range.end;
                if let Some(value) = found.value {
                    spans.push(NumberSpan {
                        range,
                        value,
                        parts: found.parts,
                    });
                }
            }
            None => {
                before = Some(here);
                at += here.len_utf8();
            }
        }
    }
    spans
}

/// What [`scan_number`] found at one place of a text.
#[derive(Debug)]
pub(crate) struct Found {
    /// Bytes it takes.
    pub(crate) len: usize,
    /// `None` for a literal beyond the bounds of a literal.
    pub(crate) value: Option<Rational>,
    pub(crate) parts: Vec<Rational>,
}

/// The number that begins at byte `start` of `text`, sign, currency, fraction and percent included.
pub(crate) fn scan_number(text: &str, start: usize) -> Option<Found> {
    let mut cursor = Cursor { text, at: start };
    let mut sign = cursor.eat(is_sign);
    let prefixed = cursor.eat(is_currency).is_some();
    if prefixed {
        cursor.eat_blank();
        sign = sign.or_else(|| cursor.eat(is_sign));
    }
    let mut parts = Vec::new();
    let Some(mut value) = cursor.magnitude(&mut parts)? else {
        return Some(Found {
            len: cursor.at - start,
            value: None,
            parts: Vec::new(),
        });
    };
    let currency = prefixed || cursor.eat_suffix(is_currency);
    if let Some(factor) = cursor.scale(currency) {
        parts.push(value.clone());
        value *= factor;
    }
    if sign.is_some_and(|c| c != '+') {
        parts.push(value.clone());
        value = -value;
    }
    Some(Found {
        len: cursor.at - start,
        value: Some(value),
        parts,
    })
}

/// What a percent sign or a word after a number multiplies it by.
pub(crate) fn scale_word(word: &str) -> Option<Rational> {
    let factor: u64 = match word {
        "percent" | "pct" => return Some(Rational::new(1.into(), 100.into())),
        "dozen" => 12,
        "hundred" => 100,
        "thousand" => 1_000,
        "million" => 1_000_000,
        "billion" => 1_000_000_000,
        "trillion" => 1_000_000_000_000,
        _ => return None,
    };
    Some(Rational::from_integer(factor.into()))
}

pub(crate) fn is_sign(c: char) -> bool {
    matches!(c, '+' | '-' | '−')
}

pub(crate) fn is_currency(c: char) -> bool {
    matches!(c, '$' | '€' | '£' | '¥' | '¢')
}

/// Whether a sign right after this character is an operator or a hyphen.
fn ends_operand(c: char) -> bool {
    c.is_alphanumeric() || is_currency(c) || matches!(c, ')' | ']' | '%')
}

fn vulgar_fraction(c: char) -> Option<Rational> {
    let (numerator, denominator): (u8, u8) = match c {
        '½' => (1, 2),
        '⅓' => (1, 3),
        '⅔' => (2, 3),
        '¼' => (1, 4),
        '¾' => (3, 4),
        '⅕' => (1, 5),
        '⅖' => (2, 5),
        '⅗' => (3, 5),
        '⅘' => (4, 5),
        '⅙' => (1, 6),
        '⅚' => (5, 6),
        '⅛' => (1, 8),
        '⅜' => (3, 8),
        '⅝' => (5, 8),
        '⅞' => (7, 8),
        _ => return None,
    };
    Some(Rational::new(numerator.into(), denominator.into()))
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, wanted: fn(char) -> bool) -> Option<char> {
        let c = self.peek().filter(|c| wanted(*c))?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat_blank(&mut self) -> bool {
        self.eat(|c| c == ' ' || c == '\u{a0}').is_some()
    }

    /// Takes an optional blank and a wanted character, or nothing.
    fn eat_suffix(&mut self, wanted: fn(char) -> bool) -> bool {
        let start = self.at;
        let blank = self.eat_blank();
        // `5 $3` are two amounts: a sign of currency after a blank belongs to what follows it.
        let found = self.eat(wanted).is_some();
        let leads = found && blank && scan_literal(self.rest(), Grouping::Off).is_some();
        if !found || leads {
            self.at = start;
        }
        found && !leads
    }

    /// The unsigned value: a vulgar fraction, a literal, a fraction or a mixed number. The outer
    /// `None` says that there is no number, the inner one that it is beyond bounds.
    fn magnitude(&mut self, parts: &mut Vec<Rational>) -> Option<Option<Rational>> {
        if let Some(fraction) = self.peek().and_then(vulgar_fraction) {
            self.eat(|_| true);
            return Some(Some(fraction));
        }
        let literal = scan_literal(self.rest(), Grouping::Thousands)?;
        self.at += literal.len;
        let Some(value) = literal.value else {
            return Some(None);
        };
        if !literal.plain {
            return Some(Some(value));
        }
        if let Some(denominator) = self.denominator() {
            parts.extend([value.clone(), denominator.clone()]);
            return Some(Some(value / denominator));
        }
        match self.mixed_part() {
            Some(fraction_parts) => {
                parts.push(value.clone());
                let fraction = fraction_parts[fraction_parts.len() - 1].clone();
                parts.extend(fraction_parts);
                Some(Some(value + fraction))
            }
            None => Some(Some(value)),
        }
    }

    /// `/4`, unless it is part of something like a date or of a decimal.
    fn denominator(&mut self) -> Option<Rational> {
        let rest = self.rest().strip_prefix('/')?;
        let literal = scan_literal(rest, Grouping::Off)?;
        let value = literal
            .value
            .filter(|value| literal.plain && !value.is_zero())?;
        let before = self.text[..self.at].trim_end_matches(|c: char| c.is_ascii_digit());
        if rest[literal.len..].starts_with('/') || before.ends_with('/') {
            return None;
        }
        self.at += 1 + literal.len;
        Some(value)
    }

    /// The proper fraction of a mixed number: its parts and then its value.
    fn mixed_part(&mut self) -> Option<Vec<Rational>> {
        let start = self.at;
        let blank = self.eat_blank();
        if let Some(fraction) = self.peek().and_then(vulgar_fraction) {
            self.eat(|_| true);
            return Some(vec![fraction]);
        }
        let proper = || -> Option<Vec<Rational>> {
            let numerator =
                scan_literal(self.rest(), Grouping::Off).filter(|l| blank && l.plain)?;
            self.at += numerator.len;
            let denominator = self.denominator()?;
            let numerator = numerator.value.filter(|n| *n < denominator)?;
            let fraction = &numerator / &denominator;
            Some(vec![numerator, denominator, fraction])
        }();
        if proper.is_none() {
            self.at = start;
        }
        proper
    }

    /// `%`, `percent`, `per cent`, `million` …; `k` only for amounts of money, where it is not a
    /// unit or a name.
    fn scale(&mut self, currency: bool) -> Option<Rational> {
        if self.eat_suffix(|c| c == '%') {
            return scale_word("percent");
        }
        let rest = self.rest();
        let tail = rest.strip_prefix([' ', '\u{a0}', '-']).unwrap_or(rest);
        let blank = rest.len() - tail.len();
        let word: String = tail.chars().take_while(|c| c.is_alphabetic()).collect();
        let lower = word.to_lowercase();
        let (len, factor) = match lower.as_str() {
            "k" if currency && blank == 0 => (1, Some(Rational::from_integer(1_000.into()))),
            "per" if starts_with_word(&tail[word.len()..], " cent") => (8, scale_word("percent")),
            other => (word.len(), scale_word(other)),
        };
        let factor = factor?;
        self.at += blank + len;
        Some(factor)
    }
}

/// Whether `text` starts with `word` and the word ends there.
fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
        && !text[word.len()..].starts_with(char::is_alphabetic)
}

/// A whole number as a fraction.
pub(crate) fn integer(value: impl Into<BigInt>) -> Rational {
    Rational::from_integer(value.into())
}
