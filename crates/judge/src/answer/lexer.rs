//! Text without typesetting to tokens: numbers, words and signs.

use super::typeset::Plain;
use tools::number::{Rational, cardinal, is_currency, is_minus, scale_suffix, scan_magnitude};

/// Longer texts are words, unread.
pub(super) const MAX_BYTES: usize = 4_096;

/// A kind of token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Number(Literal),
    /// Letters, as they are written.
    Word(String),
    /// A sign; the many forms of minus, times and divided by are one each.
    Sign(char),
}

/// A number without a sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Literal {
    pub value: Rational,
    /// Decimals written; 0 after a scale.
    pub places: u32,
    /// Whether it is written in digits alone.
    pub whole: bool,
    /// Bytes it is written with; 0 for words.
    pub width: usize,
}

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Whether a blank, or nothing, stands before it.
    pub spaced: bool,
}

impl Token {
    pub fn sign(&self) -> Option<char> {
        match self.kind {
            Kind::Sign(c) => Some(c),
            _ => None,
        }
    }

    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<&Literal> {
        match &self.kind {
            Kind::Number(literal) => Some(literal),
            _ => None,
        }
    }
}

/// Meanings of letters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// `twenty-five` is a number.
    pub number_words: bool,
    /// `5k` is 5,000; otherwise k may be a variable.
    pub letter_scales: bool,
}

/// The tokens of a text.
pub(super) fn tokens(plain: &Plain, options: Options) -> Vec<Token> {
    let mut lexer = Lexer {
        text: &plain.text,
        at: 0,
        options,
        out: Vec::new(),
    };
    while lexer.step() {}
    let tokens = lexer.out;
    if options.number_words {
        numbers_in_words(tokens)
    } else {
        tokens
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    options: Options,
    out: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn step(&mut self) -> bool {
        let blank = self.rest().len() - self.rest().trim_start().len();
        self.at += blank;
        let spaced = blank > 0 || self.out.is_empty();
        let Some(c) = self.rest().chars().next() else {
            return false;
        };
        let (kind, len) = if let Some(found) = self.number() {
            found
        } else if is_letter(c) {
            self.word()
        } else if let Some(digits) = raised(self.rest()) {
            // A raised number is a power.
            self.push(Kind::Sign('^'), spaced);
            digits
        } else {
            self.symbol(c)
        };
        self.at += len;
        self.push(kind, spaced);
        true
    }

    fn push(&mut self, kind: Kind, spaced: bool) {
        self.out.push(Token { kind, spaced });
    }

    fn number(&self) -> Option<(Kind, usize)> {
        // In `1/2 3/4` the 2 belongs to the fraction before it.
        let below = self.out.last().and_then(Token::sign) == Some('/');
        let scope = match self.rest().find(char::is_whitespace).filter(|_| below) {
            Some(blank) => &self.rest()[..blank],
            None => self.rest(),
        };
        let found = scan_magnitude(scope)?;
        // Beyond bounds it is a sign that nothing understands.
        let Some(mut value) = found.value else {
            return Some((Kind::Sign('\u{fffd}'), found.len));
        };
        let (mut len, mut places, mut whole) = (found.len, found.places, found.whole);
        let money = self
            .out
            .last()
            .and_then(Token::sign)
            .is_some_and(is_currency);
        let scale = scale_suffix(&self.rest()[len..], money)
            .filter(|(taken, _)| *taken > 2 || self.options.letter_scales || money)
            .filter(|(_, factor)| factor.is_integer());
        if let Some((taken, factor)) = scale {
            value *= factor;
            len += taken;
            (places, whole) = (0, false);
        }
        let literal = Literal {
            value,
            places,
            whole,
            width: found.len,
        };
        Some((Kind::Number(literal), len))
    }

    fn word(&self) -> (Kind, usize) {
        let rest = self.rest();
        let mut end = rest.find(|c| !is_letter(c)).unwrap_or(rest.len());
        // `o'clock`, `Neill’s`
        while let Some(c) = rest[end..].chars().next().filter(|c| "'’".contains(*c)) {
            let tail = &rest[end + c.len_utf8()..];
            let more = tail.find(|c| !is_letter(c)).unwrap_or(tail.len());
            if more == 0 {
                break;
            }
            end += c.len_utf8() + more;
        }
        let word = &rest[..end];
        let lower = word.to_lowercase();
        let sign = |c| (Kind::Sign(c), end);
        match lower.as_str() {
            "x" if self.multiplies(&rest[end..]) => sign('*'),
            "percent" | "pct" => sign('%'),
            "per" if rest[end..].to_lowercase().starts_with(" cent") && self.after_number() => {
                (Kind::Sign('%'), end + 5)
            }
            "minus" | "negative" if before_number(&rest[end..]) => sign('-'),
            "plus" if before_number(&rest[end..]) => sign('+'),
            _ => (Kind::Word(word.to_owned()), end),
        }
    }

    fn after_number(&self) -> bool {
        matches!(self.out.last(), Some(token) if token.number().is_some())
    }

    /// Whether an x stands between numbers.
    fn multiplies(&self, tail: &str) -> bool {
        self.after_number() && tail.trim_start().starts_with(|c: char| c.is_ascii_digit())
    }

    fn symbol(&self, c: char) -> (Kind, usize) {
        let len = c.len_utf8();
        let rest = self.rest();
        let two = |pair: &str| rest.starts_with(pair);
        let (sign, len) = match c {
            _ if two("**") => ('^', 2),
            _ if two("<=") => ('≤', 2),
            _ if two(">=") => ('≥', 2),
            _ if two("!=") => ('≠', 2),
            _ if two("==") => ('=', 2),
            _ if two("->") || two("=>") => ('→', 2),
            // A dash that touches an amount is its sign.
            '—' if before_number(&rest[len..]) && !rest[len..].starts_with(' ') => ('-', len),
            '–' | '‒' => ('–', len),
            _ if is_minus(c) => ('-', len),
            '×' | '·' | '⋅' | '∙' | '✕' | '∗' | '•' => ('*', len),
            '÷' | '∕' | '⁄' | '／' => ('/', len),
            '∶' => (':', len),
            '＝' => ('=', len),
            '％' => ('%', len),
            'º' | '˚' => ('°', len),
            '~' => ('≈', len),
            _ => (c, len),
        };
        (Kind::Sign(sign), len)
    }
}

/// A letter of a word; π is a number.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() && c != 'π'
}

/// Whether an amount follows, in digits or words.
fn before_number(tail: &str) -> bool {
    let tail = tail.trim_start();
    let starts = |c: char| c.is_ascii_digit() || is_currency(c) || ".½¼¾⅓⅔√π\u{e000}(".contains(c);
    if tail.starts_with(starts) {
        return true;
    }
    let words: Vec<String> = words_at(tail, 4);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cardinal(&words).is_some()
}

fn words_at(text: &str, most: usize) -> Vec<String> {
    text.split(|c: char| !c.is_alphabetic())
        .filter(|word| !word.is_empty())
        .take(most)
        .map(str::to_lowercase)
        .collect()
}

/// The raised digits that a text starts with, `³` or `⁻²`, as a number.
fn raised(text: &str) -> Option<(Kind, usize)> {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let unsigned = text.strip_prefix('⁻').unwrap_or(text);
    let digit = |c: char| DIGITS.iter().position(|d| *d == c);
    let digits: Vec<usize> = unsigned.chars().map_while(digit).take(6).collect();
    let taken: usize = unsigned
        .chars()
        .take(digits.len())
        .map(char::len_utf8)
        .sum();
    let value = digits
        .iter()
        .fold(0i64, |value, digit| value * 10 + *digit as i64);
    let negative = unsigned.len() != text.len();
    let literal = Literal {
        value: Rational::from_integer(if negative { -value } else { value }.into()),
        places: 0,
        whole: !negative,
        width: digits.len(),
    };
    (!digits.is_empty()).then(|| (Kind::Number(literal), text.len() - unsigned.len() + taken))
}

/// Joins words to the numbers they spell, and `5 and a half`.
fn numbers_in_words(tokens: Vec<Token>) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let after_digits = out.last().is_some_and(|token| token.number().is_some());
        if after_digits && let Some((part, taken)) = and_a_half(&tokens[at..]) {
            let Some(Kind::Number(literal)) = out.last_mut().map(|token| &mut token.kind) else {
                unreachable!("just seen");
            };
            literal.value += part;
            (literal.places, literal.whole) = (0, false);
            at += taken;
            continue;
        }
        match spelled(&tokens[at..]).filter(|_| !after_digits) {
            Some((value, taken)) => {
                let literal = Literal {
                    value,
                    places: 0,
                    whole: false,
                    width: 0,
                };
                out.push(Token {
                    kind: Kind::Number(literal),
                    spaced: tokens[at].spaced,
                });
                at += taken;
            }
            None => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    out
}

/// The number that words spell, hyphens between them aside, and how many tokens they are.
fn spelled(tokens: &[Token]) -> Option<(Rational, usize)> {
    const LONGEST: usize = 24;
    let mut words: Vec<String> = Vec::new();
    let mut ends = Vec::new();
    for (at, token) in tokens.iter().take(2 * LONGEST).enumerate() {
        match &token.kind {
            Kind::Word(word) => {
                words.push(word.to_lowercase());
                ends.push(at + 1);
            }
            Kind::Sign('-') if !words.is_empty() && !token.spaced => {}
            _ => break,
        }
    }
    let refs: Vec<&str> = words.iter().map(String::as_str).collect();
    let (value, count) = cardinal(&refs)?;
    Some((value, ends[count - 1]))
}

/// `and a half`, `and 1/2`.
fn and_a_half(tokens: &[Token]) -> Option<(Rational, usize)> {
    let word = |at: usize| tokens.get(at).and_then(Token::word).map(str::to_lowercase);
    if word(0)? != "and" {
        return None;
    }
    if matches!(word(1)?.as_str(), "a" | "one" | "an") {
        let (part, _) = cardinal(&["one", &word(2)?])?;
        return (!part.is_integer()).then_some((part, 3));
    }
    None
}
