//! What words mean within an expression.

use super::functions::Function;
use super::lexer::Token;
use crate::number::{integer, scale_word};
use crate::units::{Base, is_unit_word, measure};

/// The meaning of a word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Word {
    /// An operator, constant or postfix.
    Token(Token),
    /// `x`, alone or before digits: multiplication where it stands between operands.
    Times,
    Function(Function),
    /// To be ignored after an operand: it is in the list of units and nouns.
    Unit,
    /// Everything else: ignoring it could change the value.
    Unknown,
}

/// Words of the list of units and nouns that mean something in an expression.
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

/// Whether a word can start with this character.
pub(crate) fn starts_word(c: char) -> bool {
    c.is_alphabetic() || c == '°'
}

/// The word that `text` starts with; empty where there is none. Digits end it (`10mod3`, `2h30m`),
/// except for the power of a unit (`m2`, `cm³`) and the parts of a name (`x_1`).
pub(crate) fn word_at(text: &str) -> &str {
    if !text.starts_with(starts_word) {
        return "";
    }
    let end = text.find(|c| !starts_word(c)).unwrap_or(text.len());
    let tail = &text[end..];
    let part = |c: char| c.is_alphanumeric() || c == '_';
    if tail.starts_with('_') {
        let name = tail.find(|c| !part(c)).unwrap_or(tail.len());
        return &text[..end + name];
    }
    let power = tail.chars().next().filter(|c| "23²³".contains(*c));
    let alone = |c: char| !tail[c.len_utf8()..].starts_with(part);
    match power {
        Some(c) if is_length(&text[..end]) && alone(c) => &text[..end + c.len_utf8()],
        _ => &text[..end],
    }
}

/// Whether areas and volumes are written as powers of this unit.
fn is_length(word: &str) -> bool {
    measure(word).is_some_and(|unit| unit.dimension.iter().eq([(&Base::Length, &1)]))
}

/// Meaning of a word, whatever its case; units and the letters of scales are told apart by it.
pub(crate) fn meaning(word: &str) -> Word {
    match word {
        "M" => return Word::Token(Token::Scale(integer(1_000_000))),
        "B" => return Word::Token(Token::Scale(integer(1_000_000_000))),
        _ => {}
    }
    let lower = word.to_lowercase();
    let token = match lower.as_str() {
        "x" => return Word::Times,
        "" => return Word::Unknown,
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
            return other_word(word, other);
        }
    };
    Word::Token(token)
}

fn other_word(word: &str, lower: &str) -> Word {
    if let Some(function) = Function::named(lower) {
        return Word::Function(function);
    }
    let unit = word.trim_end_matches(['2', '3', '²', '³']);
    if is_unit_word(unit) && !RESERVED.contains(&lower) {
        Word::Unit
    } else {
        Word::Unknown
    }
}

/// The ending of an ordinal, which is dropped where it is glued to a number: `1/5th of 60`.
pub(crate) fn is_ordinal_ending(word: &str) -> bool {
    matches!(word, "th" | "st" | "nd" | "rd")
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
