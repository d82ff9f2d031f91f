//! What words mean within an expression.

use super::functions::Function;
use super::lexer::Token;
use crate::number::{integer, scale_word};

/// The meaning of a word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Word {
    /// An operator, constant or postfix.
    Token(Token),
    /// `x`, alone or before digits: multiplication where it stands between operands.
    Times,
    Function(Function),
    /// To be ignored after an operand.
    Unit,
    /// Mathematical meaning that the calculator does not have, or a likely variable.
    Reserved,
}

/// Words that are no units: ignoring them would silently change the value.
const RESERVED: [&str; 18] = [
    "e",
    "half",
    "halves",
    "quarter",
    "double",
    "twice",
    "triple",
    "choose",
    "and",
    "or",
    "less",
    "more",
    "than",
    "root",
    "equals",
    "is",
    "factorial",
    "power",
];

/// The letters that stand for a unit when alone; every other single letter is a variable.
const UNIT_LETTERS: &str = "mgslhdtcp";

/// Whether a word can start with this character.
pub(crate) fn starts_word(c: char) -> bool {
    c.is_alphabetic() || c == '°'
}

/// The word that `text` starts with; empty where there is none. A multiplication sign `x` that is
/// glued to digits is a word of its own.
pub(crate) fn word_at(text: &str) -> &str {
    if !text.starts_with(starts_word) {
        return "";
    }
    let glued = text.starts_with(['x', 'X']) && text[1..].starts_with(|c: char| c.is_ascii_digit());
    let part = |c: char| starts_word(c) || c.is_ascii_digit() || matches!(c, '²' | '³' | '_');
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    if glued { &text[..1] } else { &text[..end] }
}

/// What a word means, whatever its case.
pub(crate) fn meaning(word: &str) -> Word {
    let lower = word.to_lowercase();
    let token = match lower.as_str() {
        "x" => return Word::Times,
        "" => return Word::Reserved,
        "pi" | "π" => Token::Pi,
        "plus" => Token::Plus,
        "minus" => Token::Minus,
        "times" | "of" | "multiplied" => Token::Times,
        "divided" | "over" => Token::Divide,
        "mod" | "modulo" => Token::Modulo,
        "squared" => Token::Raised(2),
        "cubed" => Token::Raised(3),
        "percent" | "pct" => Token::Percent,
        "k" => Token::Scale(integer(1_000)),
        other => {
            if let Some(factor) = scale_word(other) {
                return Word::Token(Token::Scale(factor));
            }
            return other_word(other);
        }
    };
    Word::Token(token)
}

fn other_word(word: &str) -> Word {
    if let Some(function) = Function::named(word) {
        return Word::Function(function);
    }
    let variable = word.chars().count() == 1 && !UNIT_LETTERS.contains(word) && word != "°";
    if variable || RESERVED.contains(&word) {
        Word::Reserved
    } else {
        Word::Unit
    }
}

/// The bytes of the second word of `divided by`, `multiplied by` and `per cent`, its blank included;
/// 0 where it does not follow.
pub(crate) fn follow_up(word: &str, tail: &str) -> usize {
    let second = match word {
        "divided" | "multiplied" => "by",
        "per" => "cent",
        _ => return 0,
    };
    let trimmed = tail.trim_start();
    if word_at(trimmed).eq_ignore_ascii_case(second) {
        tail.len() - trimmed.len() + second.len()
    } else {
        0
    }
}
