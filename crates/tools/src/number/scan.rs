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

/// The factor that follows a number, and how many bytes it takes: `k`, `M` and `B`, also after a
/// blank, or a scale word after a blank or hyphen. `money` says that the number is an amount of
/// money, where `m`, `mn`, `bn` and `tn` are scales, too.
pub fn scale_suffix(rest: &str, money: bool) -> Option<(usize, Rational)> {
    let tail = rest.strip_prefix([' ', '\u{a0}', '-']).unwrap_or(rest);
    let blank = rest.len() - tail.len();
    let end = tail
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(tail.len());
    let word = &tail[..end];
    let thousands = match word {
        "k" | "K" => Some(1),
        "M" => Some(2),
        "B" => Some(3),
        "m" | "mn" | "mm" | "MM" if money => Some(2),
        "b" | "bn" if money => Some(3),
        "T" | "t" | "tn" if money => Some(4),
        _ => None,
    };
    if let Some(power) = thousands.filter(|_| !rest.starts_with('-')) {
        return Some((blank + end, integer(BigInt::from(1_000).pow(power))));
    }
    scale_word(&word.to_lowercase()).map(|factor| (blank + end, factor))
}

/// Whether this is a plus or minus sign, in any of its typographic forms.
pub fn is_sign(c: char) -> bool {
    c == '+' || is_minus(c)
}

/// Whether this is a minus sign, or a dash that is written for one.
pub fn is_minus(c: char) -> bool {
    matches!(c, '-' | '−' | '–' | '‒' | '‐' | '‑' | '﹣' | '－' | '⁻')
}

/// Whether this is a sign of currency.
pub fn is_currency(c: char) -> bool {
    matches!(c, '$' | '€' | '£' | '¥' | '¢' | '₹')
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
        let (len, parts) = mixed_part(self.rest())?;
        self.at += len;
        Some(parts)
    }

    /// `%`, `percent`, `per cent`, or a scale.
    fn scale(&mut self, currency: bool) -> Option<Rational> {
        if self.eat_suffix(|c| c == '%') {
            return scale_word("percent");
        }
        let (len, factor) =
            per_cent(self.rest()).or_else(|| scale_suffix(self.rest(), currency))?;
        self.at += len;
        Some(factor)
    }
}

/// The proper fraction that makes a mixed number of the whole number before it, `½` or ` 1/2`: how
/// many bytes it takes, its parts, and last its value.
pub(crate) fn mixed_part(rest: &str) -> Option<(usize, Vec<Rational>)> {
    let tail = rest.strip_prefix([' ', '\u{a0}']).unwrap_or(rest);
    let blank = rest.len() - tail.len();
    if let Some((c, fraction)) = tail
        .chars()
        .next()
        .and_then(|c| Some((c, vulgar_fraction(c)?)))
    {
        return Some((blank + c.len_utf8(), vec![fraction]));
    }
    if blank == 0 {
        return None;
    }
    let plain = |text| scan_literal(text, Grouping::Off).filter(|literal| literal.plain);
    let numerator = plain(tail)?;
    let below = tail[numerator.len..].strip_prefix(['/', '⁄'])?;
    let denominator = plain(below)?;
    let end = &below[denominator.len..];
    if end.starts_with('/') || continues_number(end) {
        return None;
    }
    let (above, below) = (numerator.value?, denominator.value?);
    if below.is_zero() || above >= below {
        return None;
    }
    let fraction = &above / &below;
    Some((rest.len() - end.len(), vec![above, below, fraction]))
}

/// Whether digits go on: `1/2.5`, `1/2,5`.
fn continues_number(tail: &str) -> bool {
    let mut chars = tail.chars();
    matches!(chars.next(), Some('.' | ',')) && chars.next().is_some_and(|c| c.is_ascii_digit())
}

/// An unsigned number without currency, scale or bar of a fraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnitude {
    /// Bytes of the text it takes.
    pub len: usize,
    /// `None` for a literal beyond 400 digits or an exponent beyond 1,000.
    pub value: Option<Rational>,
    /// Decimals written.
    pub places: u32,
    /// Digits only, thousands separators aside.
    pub whole: bool,
}

/// The decimal, vulgar fraction or mixed number that `text` starts with: `1,234.5`, `½`, `3 1/2`.
pub fn scan_magnitude(text: &str) -> Option<Magnitude> {
    let first = text.chars().next()?;
    if let Some(fraction) = vulgar_fraction(first) {
        return Some(Magnitude {
            len: first.len_utf8(),
            value: Some(fraction),
            places: 0,
            whole: false,
        });
    }
    let literal = scan_literal(text, Grouping::Thousands)?;
    let written = &text[..literal.len];
    let exponent = written.contains(['e', 'E']);
    let decimals = written.split_once('.').filter(|_| !exponent);
    let whole = decimals.is_none() && !exponent;
    if literal.plain
        && let Some((len, parts)) = mixed_part(&text[literal.len..])
    {
        let fraction = parts.last().expect("the value comes last").clone();
        return Some(Magnitude {
            len: literal.len + len,
            value: literal.value.map(|value| value + fraction),
            places: 0,
            whole: false,
        });
    }
    Some(Magnitude {
        len: literal.len,
        value: literal.value,
        places: decimals.map_or(0, |(_, after)| after.len() as u32),
        whole,
    })
}

/// ` per cent`.
fn per_cent(rest: &str) -> Option<(usize, Rational)> {
    let tail = rest.strip_prefix([' ', '\u{a0}', '-']).unwrap_or(rest);
    let found = tail
        .get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("per"))
        && starts_with_word(&tail[3..], " cent");
    found.then(|| Some((rest.len() - tail.len() + 8, scale_word("percent")?)))?
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
