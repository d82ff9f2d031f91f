//! Text to tokens: numbers, operators, and words with a meaning; units and signs of currency go.

use super::CalcError;
use super::functions::{Function, TABLE};
use super::words::{self, Word};
use crate::nearest::nearest;
use crate::number::literal::{Grouping, digits, scan_literal};
use crate::number::{Rational, is_currency, is_minus, mixed_part, scale_suffix, scan_magnitude};

/// What an expression is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Number(Rational),
    Pi,
    Plus,
    Minus,
    Times,
    Divide,
    DivideFloor,
    Modulo,
    Power,
    /// A power written as a raised digit or a word: `5²`, `5 squared`.
    Raised(u32),
    Factorial,
    /// A postfix factor: percent, dozen, million …
    Scale(Rational),
    Percent,
    Function(Function),
    Open(char),
    Close(char),
    Comma,
}

impl Token {
    /// Whether an operand may end here, so that a unit, a postfix or an operator may follow.
    fn ends_operand(&self) -> bool {
        matches!(
            self,
            Self::Number(_)
                | Self::Pi
                | Self::Raised(_)
                | Self::Factorial
                | Self::Scale(_)
                | Self::Percent
                | Self::Close(_)
        )
    }
}

/// The tokens of an expression.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, CalcError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        out: Vec::new(),
        after_unit: false,
        parens: Vec::new(),
    };
    while lexer.step()? {}
    Ok(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    out: Vec<Token>,
    /// The last thing read was a unit word.
    after_unit: bool,
    /// For each open parenthesis, whether it holds the arguments of a function.
    parens: Vec<bool>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn after_operand(&self) -> bool {
        self.out.last().is_some_and(Token::ends_operand)
    }

    fn push(&mut self, token: Token, len: usize) {
        self.out.push(token);
        self.at += len;
        self.after_unit = false;
    }

    /// Reads one thing; `false` at the end.
    fn step(&mut self) -> Result<bool, CalcError> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let Some(c) = self.rest().chars().next() else {
            return Ok(false);
        };
        if c.is_ascii_digit() || c == '.' {
            self.number()?;
        } else if let Some(fraction) = scan_magnitude(self.rest()) {
            let value = fraction
                .value
                .expect("a fraction of one character has a value");
            self.push(Token::Number(value), fraction.len);
        } else if words::starts_word(c) {
            self.word()?;
        } else {
            self.symbol(c)?;
        }
        Ok(true)
    }

    fn symbol(&mut self, c: char) -> Result<(), CalcError> {
        let len = c.len_utf8();
        let doubled = self.rest()[len..].starts_with(c);
        match c {
            '+' => self.push(Token::Plus, len),
            _ if is_minus(c) || c == '—' => self.push(Token::Minus, len),
            '*' if doubled => self.power(2)?,
            '*' | '×' | '·' | '⋅' | '∙' | '✕' => self.push(Token::Times, len),
            '/' if doubled => self.push(Token::DivideFloor, 2),
            '/' if self.unit_after_slash(len) => {}
            '/' | '÷' | '∕' | '⁄' => self.push(Token::Divide, len),
            '^' => self.power(len)?,
            '²' => self.raised(2, len)?,
            '³' => self.raised(3, len)?,
            // After a unit it is a sentence's exclamation mark.
            '!' if !self.after_unit => self.push(Token::Factorial, len),
            '%' => self.push(Token::Percent, len),
            '(' | '[' => self.open(c),
            ')' | ']' => {
                self.parens.pop();
                self.push(Token::Close(c), len);
            }
            ',' if self.parens.last() == Some(&true) => self.push(Token::Comma, len),
            ',' => return Err(CalcError::StrayComma),
            '$' | '€' | '£' | '¥' | '₹' if self.beside_amount(len) => self.at += len,
            _ => return Err(CalcError::UnexpectedCharacter(c)),
        }
        Ok(())
    }

    fn open(&mut self, c: char) {
        self.parens
            .push(matches!(self.out.last(), Some(Token::Function(_))));
        self.push(Token::Open(c), 1);
    }

    fn power(&mut self, len: usize) -> Result<(), CalcError> {
        if self.after_unit {
            return Err(CalcError::PowerOfUnit);
        }
        self.push(Token::Power, len);
        Ok(())
    }

    fn raised(&mut self, exponent: u32, len: usize) -> Result<(), CalcError> {
        if self.after_unit {
            return Err(CalcError::PowerOfUnit);
        }
        self.push(Token::Raised(exponent), len);
        Ok(())
    }

    /// Whether a sign of currency stands right after a number or before an amount.
    fn beside_amount(&self, len: usize) -> bool {
        let next = self.rest()[len..].trim_start().chars().next();
        matches!(self.out.last(), Some(Token::Number(_)))
            || next.is_some_and(|c| c.is_ascii_digit() || "(.-−+".contains(c))
    }

    /// Reads `/hour` of `5 dollars/hour` as part of the unit.
    fn unit_after_slash(&mut self, len: usize) -> bool {
        let tail = self.rest()[len..].trim_start();
        let word = words::word_at(tail);
        let called = tail[word.len()..].trim_start().starts_with('(');
        if !self.after_operand() || called || words::meaning(word) != Word::Unit {
            return false;
        }
        let end = self.text.len() - tail.len() + word.len();
        self.unit(end - self.at);
        true
    }

    fn number(&mut self) -> Result<(), CalcError> {
        let in_arguments = self.parens.last() == Some(&true);
        let grouping = if in_arguments {
            Grouping::Off
        } else {
            Grouping::Thousands
        };
        let Some(literal) = scan_literal(self.rest(), grouping) else {
            return Err(CalcError::BadNumber(self.numeric_run()));
        };
        if in_arguments && self.could_be_grouped(literal.len) {
            return Err(CalcError::AmbiguousComma(self.numeric_run()));
        }
        let tail = &self.rest().as_bytes()[literal.len..];
        let continues = match tail.first() {
            Some(b',') => !in_arguments && digits(tail, 1) > 0,
            Some(b'.') => digits(tail, 1) > 0 || tail.get(1) == Some(&b'.'),
            _ => false,
        };
        if continues {
            return Err(CalcError::BadNumber(self.numeric_run()));
        }
        // `5.` is 5: a sentence's full stop, or decimals left out.
        let stop = usize::from(tail.first() == Some(&b'.'));
        let Some(value) = literal.value else {
            return Err(CalcError::HugeNumber(shortened(
                &self.rest()[..literal.len],
            )));
        };
        if let Some((len, fraction)) = self.mixed_part(literal.len, literal.plain) {
            self.push(Token::Number(value + fraction), literal.len + len);
            return Ok(());
        }
        let money = self.text[..self.at].trim_end().ends_with(is_currency);
        self.push(Token::Number(value), literal.len + stop);
        if let Some((len, factor)) = scale_suffix(self.rest(), true).filter(|_| money) {
            self.push(Token::Scale(factor), len);
        }
        Ok(())
    }

    /// ` 1/2` of `3 1/2`, and how long it is. In `2/3 1/2` the 3 belongs to a quotient.
    fn mixed_part(&self, whole_len: usize, plain: bool) -> Option<(usize, Rational)> {
        let taken = matches!(
            self.out.last(),
            Some(Token::Divide | Token::DivideFloor | Token::Power)
        );
        if taken || !plain {
            return None;
        }
        let (len, mut parts) = mixed_part(&self.rest()[whole_len..])?;
        Some((len, parts.pop()?))
    }

    /// Whether a literal read without separators would be longer with them.
    fn could_be_grouped(&self, len: usize) -> bool {
        scan_literal(self.rest(), Grouping::Thousands).is_some_and(|grouped| grouped.len > len)
            && self.rest().as_bytes().get(len) == Some(&b',')
    }

    /// The digits, points and commas from here, for a message.
    fn numeric_run(&self) -> String {
        let run = self
            .rest()
            .split(|c: char| !(c.is_ascii_digit() || ".,".contains(c)))
            .next();
        shortened(run.unwrap_or_default().trim_end_matches(','))
    }

    fn word(&mut self) -> Result<(), CalcError> {
        let word = words::word_at(self.rest()).to_owned();
        let len = word.len();
        let lower = word.to_lowercase();
        let tail = &self.rest()[len..];
        let called = tail.trim_start().starts_with(['(', '[']);
        match words::meaning(&word) {
            Word::Unknown if called => return Err(unknown_function(lower)),
            Word::Token(Token::Raised(n)) => self.raised(n, len)?,
            Word::Token(Token::Modulo) if called && !self.after_operand() => {
                self.push(Token::Function(Function::Mod), len);
            }
            Word::Token(token) => {
                let by = words::follow_up(&lower, tail);
                self.push(token, len + by);
            }
            Word::Times if self.after_operand() && self.operand_follows(1) => {
                self.push(Token::Times, 1);
            }
            Word::Function(function) if called => self.push(Token::Function(function), len),
            Word::Function(_) => return Err(CalcError::FunctionWithoutArguments(lower)),
            Word::Unit if called => return Err(unknown_function(lower)),
            Word::Unit if lower == "per" && words::follow_up(&lower, tail) > 0 => {
                let cent = words::follow_up(&lower, tail);
                self.push(Token::Percent, len + cent);
            }
            Word::Unit if self.after_operand() => self.unit(len),
            _ if words::is_ordinal_ending(&lower) && self.glued_to_number() => self.unit(len),
            _ => return Err(unknown_name(word)),
        }
        Ok(())
    }

    /// Passes over a unit.
    fn unit(&mut self, len: usize) {
        self.at += len;
        self.after_unit = true;
    }

    fn glued_to_number(&self) -> bool {
        self.text[..self.at].ends_with(|c: char| c.is_ascii_digit())
    }

    /// Whether what stands `len` bytes ahead starts an operand without a sign.
    fn operand_follows(&self, len: usize) -> bool {
        let tail = self.rest()[len..].trim_start();
        let word = words::word_at(tail);
        tail.starts_with(|c: char| c.is_ascii_digit() || "(.[$€£¥".contains(c))
            || matches!(
                words::meaning(word),
                Word::Function(_) | Word::Token(Token::Pi)
            )
    }
}

fn unknown_function(name: String) -> CalcError {
    let nearest = nearest(&name, TABLE.iter().map(|(known, _)| *known));
    CalcError::UnknownFunction {
        name: shortened(&name),
        nearest,
    }
}

fn unknown_name(name: String) -> CalcError {
    let nearest = nearest(&name, TABLE.iter().map(|(known, _)| *known).chain(["pi"]));
    CalcError::UnknownName {
        name: shortened(&name),
        nearest,
    }
}

/// At most 24 characters, so that a message stays short whatever the expression.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
