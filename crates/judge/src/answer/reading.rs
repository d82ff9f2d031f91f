//! A text as a typed value, and what people are told about it.

use super::compare;
use super::expression::Node;
use super::lexer::{Kind, MAX_BYTES, Options, Token, tokens};
use super::reader::{Mode, Reader};
use super::typeset::{Plain, plain};
use super::value::Value;
use crate::numeric::Amount;
use crate::text::spelled;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;

/// The most tokens of a text that is read; longer ones are words.
const MAX_TOKENS: usize = 600;

/// A text as it was read: the type of its value, and the value.
///
/// Shown as `number 18`; serialised as `{"type": "number", "value": "18"}`. The types are `number`,
/// `percentage`, `quantity`, `money`, `time`, `date`, `range`, `ratio`, `tuple`, `interval`, `set`,
/// `matrix`, `expression`, `relation`, `infinity`, `words` and `nothing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Without typesetting.
    pub(super) text: String,
    pub(super) value: Option<Value>,
}

/// Reads an answer key: the whole text is the value, else it is words.
pub fn read_key(text: &str) -> Reading {
    let plain = plain(text);
    let value = whole(&plain);
    Reading {
        text: plain.text,
        value,
    }
}

/// Reads an answer: its value may stand amid words, `The total is 72 clips.` Several different
/// values are none, and so is a number that something unknown is glued to.
pub fn read(text: &str) -> Reading {
    let plain = plain(text);
    let value = whole(&plain).or_else(|| amid_words(&plain));
    Reading {
        text: plain.text,
        value,
    }
}

impl Reading {
    /// The name of the value's type.
    pub fn kind(&self) -> &'static str {
        let Some(value) = &self.value else {
            return if self.text.trim().is_empty() {
                "nothing"
            } else {
                "words"
            };
        };
        value.kind()
    }

    /// The value in its plainest spelling: `1.5 hour`, `1776-07-04`, `(3, -4)`.
    pub fn value(&self) -> String {
        match &self.value {
            Some(value) => value.to_string(),
            None => spelled(&self.text),
        }
    }

    /// Whether an answer, read by [`read`], says what this key, read by [`read_key`], says. Nothing
    /// says nothing.
    pub fn accepts(&self, answer: &Reading) -> bool {
        let (key, said) = (self.text.trim(), answer.text.trim());
        if said.is_empty() {
            return false;
        }
        if key.to_lowercase() == said.to_lowercase() {
            return true;
        }
        let Some(value) = &self.value else {
            return same_words(key, said);
        };
        let typed = answer.value.as_ref();
        typed.is_some_and(|answer| compare::accepts(value, answer))
            || (value.is_named() && same_words(key, said))
    }

    /// The number that it says, its unit aside.
    pub(crate) fn amount(&self) -> Option<&Amount> {
        match self.value.as_ref()? {
            Value::Number(amount) => Some(amount),
            Value::Quantity(quantity) => Some(&quantity.amount),
            _ => None,
        }
    }
}

/// Whether words say the same: all of them, or for a key yes or no the first one.
fn same_words(key: &str, answer: &str) -> bool {
    let wanted = spelled(key);
    if matches!(wanted.as_str(), "yes" | "no") {
        return leading_word(answer) == wanted;
    }
    wanted == spelled(answer) && !wanted.is_empty()
}

/// The first word, in lower case, where punctuation or nothing follows it.
fn leading_word(answer: &str) -> String {
    let answer = answer.trim_start_matches(|c: char| !c.is_alphanumeric());
    let end = answer
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(answer.len());
    let stands_alone =
        !answer[end..].starts_with(char::is_whitespace) || answer[end..].trim().is_empty();
    if stands_alone {
        answer[..end].to_lowercase()
    } else {
        String::new()
    }
}

/// The value that a text is, with nothing around it but quotes, marks of a heading and a full stop.
fn whole(plain: &Plain) -> Option<Value> {
    let text = plain.text.trim();
    if text.len() > MAX_BYTES || is_decade(text) {
        return None;
    }
    let options = Options {
        number_words: true,
        letter_scales: true,
    };
    let all = tokens(plain, options);
    let mode = Mode {
        variables: false,
        alone: true,
    };
    if let Some(value) = all_of(bare(&all), mode) {
        return Some(value);
    }
    let options = Options {
        number_words: false,
        letter_scales: false,
    };
    let all = tokens(plain, options);
    let all = bare(&all);
    let mode = Mode {
        variables: true,
        alone: false,
    };
    let value = may_have_variables(plain.is_math, all).then(|| all_of(all, mode))??;
    // A lone name says nothing that words do not.
    let lone = matches!(value, Value::Expression(Node::Variable(_)));
    (!lone).then_some(value)
}

fn all_of(tokens: &[Token], mode: Mode) -> Option<Value> {
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return None;
    }
    let mut reader = Reader::new(tokens, 0, mode);
    let value = reader.list()?;
    (reader.at == tokens.len()).then_some(value)
}

/// The tokens without quotes around them, marks of a heading before and full stops behind.
fn bare(tokens: &[Token]) -> &[Token] {
    let is = |token: Option<&Token>, signs: &str| {
        token
            .and_then(Token::sign)
            .is_some_and(|c| signs.contains(c))
    };
    let mut tokens = tokens;
    let mut quoted = false;
    while is(tokens.first(), "#\"'“”‘’") {
        quoted |= !is(tokens.first(), "#");
        tokens = &tokens[1..];
    }
    // A quote that was not opened is a sign of feet or inches.
    let ends = if quoted {
        ".\"'“”‘’?;,"
    } else {
        ".?;,"
    };
    while is(tokens.last(), ends) {
        tokens = &tokens[..tokens.len() - 1];
    }
    tokens
}

/// `1990s` are ten years and no 1990 seconds.
fn is_decade(text: &str) -> bool {
    let digits = text.strip_suffix('s').unwrap_or_default();
    digits.len() == 4 && digits.ends_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Whether letters may be variables: in mathematics, or among numbers and signs where they stand
/// alone in lower case.
fn may_have_variables(is_math: bool, tokens: &[Token]) -> bool {
    if is_math {
        return true;
    }
    let after_number = |at: usize| at > 0 && tokens[at - 1].number().is_some();
    let fits = |(at, token): (usize, &Token)| match &token.kind {
        Kind::Word(word) => {
            let letters = word.chars().count();
            let lower = word.chars().all(char::is_lowercase);
            let glued = letters <= 4 && !token.spaced && after_number(at);
            lower && (letters == 1 || glued || word == "sqrt")
        }
        _ => true,
    };
    let calculates = |token: &Token| {
        token.number().is_some()
            || matches!(
                token.sign(),
                Some('^' | '/' | '=' | '<' | '>' | '√' | '≤' | '≥')
            )
    };
    tokens.iter().any(calculates) && tokens.iter().enumerate().all(fits)
}

/// The one value that stands amid words, though it may be said twice.
fn amid_words(plain: &Plain) -> Option<Value> {
    if plain.text.len() > MAX_BYTES {
        return None;
    }
    let digits = plain.text.contains(|c: char| c.is_ascii_digit());
    let options = Options {
        number_words: !digits,
        letter_scales: true,
    };
    let tokens = tokens(plain, options);
    if tokens.len() > MAX_TOKENS {
        return None;
    }
    let mode = Mode {
        variables: false,
        alone: false,
    };
    let mut found: Option<Value> = None;
    let mut at = 0;
    while at < tokens.len() {
        if let Some(taken) = name(&tokens, at) {
            at += taken;
            continue;
        }
        let mut reader = Reader::new(&tokens, at, mode);
        let Some(value) = reader.list() else {
            if tokens[at].number().is_some() {
                return None;
            }
            at += 1;
            continue;
        };
        let denied = at > 0 && tokens[at - 1].word().is_some_and(|word| word == "not");
        if denied || is_operand(&tokens, at, reader.at) {
            return None;
        }
        at = reader.at;
        match &found {
            Some(first) if compare::accepts(first, &value) || compare::accepts(&value, first) => {}
            Some(_) => return None,
            None => found = Some(value),
        }
    }
    found
}

/// The number of tokens from here that are a name with digits, `B12` or `COVID-19`, or the pronoun
/// one.
fn name(tokens: &[Token], at: usize) -> Option<usize> {
    let word = |at: usize| tokens.get(at).is_some_and(|token| token.word().is_some());
    let glued_number = |at: usize| {
        tokens
            .get(at)
            .is_some_and(|token| token.number().is_some() && !token.spaced)
    };
    if let Some(number) = tokens[at].number()
        && number.width == 0
        && number.value == tools::Rational::from_integer(1.into())
        && at > 0
    {
        return Some(1);
    }
    if !word(at) {
        return None;
    }
    let joined = tokens
        .get(at + 1)
        .is_some_and(|token| matches!(token.sign(), Some('-' | '–' | '_')) && !token.spaced);
    match (glued_number(at + 1), joined && glued_number(at + 2)) {
        (true, _) => Some(2),
        (_, true) => Some(3),
        _ => None,
    }
}

/// Whether what stands between these tokens is only a part of something: an operator is before or
/// behind it, or letters or digits are glued to it.
fn is_operand(tokens: &[Token], start: usize, end: usize) -> bool {
    let before = start
        .checked_sub(1)
        .and_then(|at| tokens[at].sign())
        .is_some_and(|c| matches!(c, '*' | '/' | '^' | '+' | '_' | '<' | '>' | '≤' | '≥' | '≠'));
    let Some(next) = tokens.get(end) else {
        return before;
    };
    let after = tokens.get(end + 1);
    let letters = after.and_then(Token::word).map_or(0, |w| w.chars().count());
    let behind = match &next.kind {
        Kind::Word(_) | Kind::Number(_) => !next.spaced,
        Kind::Sign('*' | '^' | '=' | '<' | '>' | '≤' | '≥' | '+' | '_') => true,
        Kind::Sign('/') => letters < 2,
        Kind::Sign('-' | '–') => !next.spaced && letters < 2 && after.is_some(),
        Kind::Sign(_) => false,
    };
    before || behind
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Reading", 2)?;
        fields.serialize_field("type", self.kind())?;
        fields.serialize_field("value", &self.value())?;
        fields.end()
    }
}
