//! Units of measure, and nouns, behind a number.

use super::expression::Parser;
use super::lexer::{Kind, Token};
use tools::units::{Base, Measure, currency_sign, is_adjective, is_unit_word, measures, singular};

/// The most words of a noun phrase.
const MAX_WORDS: usize = 6;

/// The unit of a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unit {
    /// A unit of measure, under every meaning of its name, and without its `per …` where it has
    /// one.
    Measure {
        readings: Vec<Measure>,
        whole: Option<Box<Measure>>,
        per: Option<String>,
    },
    /// Things that are counted, by the head of their name, singular.
    Noun(String),
    /// A place in a row: `12th`.
    Ordinal,
    /// Digits of a number system other than ten's: `1011_2`.
    Radix(String),
}

impl Unit {
    fn measure(readings: Vec<Measure>) -> Self {
        Self::Measure {
            readings,
            whole: None,
            per: None,
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Measure { readings, per, .. } => match per {
                Some(per) => format!("{}/{per}", readings[0].name),
                None => readings[0].name.clone(),
            },
            Self::Noun(noun) => noun.clone(),
            Self::Ordinal => "(ordinal)".to_owned(),
            Self::Radix(base) => format!("in base {base}"),
        }
    }
}

/// The unit of a sign of currency.
pub(super) fn currency(sign: char) -> Option<Unit> {
    Some(Unit::measure(vec![currency_sign(sign)?]))
}

/// The unit of an amount with a sign of currency before it, with what follows: `$12 per hour`,
/// `$5 USD`.
pub(super) fn money(parser: &mut Parser<'_>, sign: char, alone: bool) -> Option<Unit> {
    let start = parser.at;
    let named = power_of_measure(parser, alone).filter(|named| named[0].currency().is_some());
    if named.is_none() {
        parser.at = start;
    }
    let readings = named.unwrap_or(vec![currency_sign(sign)?]);
    Some(per(parser, readings, alone))
}

/// The unit that follows a number at the parser's place, which moves behind it.
///
/// In a text that is nothing but a quantity (`alone`) any noun counts, and words that only describe
/// are passed over to the end; amid a sentence only units of measure count.
pub(super) fn unit(parser: &mut Parser<'_>, alone: bool) -> Option<Unit> {
    let start = parser.at;
    let found = after_hyphen(parser, |parser| {
        ordinal(parser)
            .or_else(|| radix(parser))
            .or_else(|| measured(parser, alone))
            .or_else(|| rate(parser).filter(|_| alone))
            .or_else(|| noun(parser).filter(|_| alone))
    });
    if found.is_none() {
        parser.at = start;
    }
    found
}

/// A unit may be joined to its number: `7-pound`.
fn after_hyphen<T>(
    parser: &mut Parser<'_>,
    read: impl FnOnce(&mut Parser<'_>) -> Option<T>,
) -> Option<T> {
    let glued = |token: Option<&Token>| token.is_some_and(|token| !token.spaced);
    let next = parser.tokens.get(parser.at + 1);
    let joined = parser.sign() == Some('-')
        && glued(parser.peek())
        && glued(next)
        && next.and_then(Token::word).is_some();
    parser.at += usize::from(joined);
    read(parser)
}

fn ordinal(parser: &mut Parser<'_>) -> Option<Unit> {
    let token = parser.peek()?;
    let ending = token.word().filter(|_| !token.spaced)?;
    if !matches!(ending, "st" | "nd" | "rd" | "th") {
        return None;
    }
    parser.at += 1;
    Some(Unit::Ordinal)
}

/// `_2`, `_{16}` behind digits.
fn radix(parser: &mut Parser<'_>) -> Option<Unit> {
    if !parser.eat('_') {
        return None;
    }
    let braced = parser.eat('{');
    let base = match &parser.peek()?.kind {
        Kind::Number(literal) => literal.value.to_string(),
        _ => return None,
    };
    parser.at += 1;
    (!braced || parser.eat('}')).then_some(Unit::Radix(base))
}

fn measured(parser: &mut Parser<'_>, alone: bool) -> Option<Unit> {
    let readings = power_of_measure(parser, alone)?;
    Some(per(parser, readings, alone))
}

/// A measure with the `per …` that follows it, and past what only describes.
fn per(parser: &mut Parser<'_>, readings: Vec<Measure>, alone: bool) -> Unit {
    let below = denominator(parser, alone);
    if alone {
        pass_over_description(parser);
    }
    match below {
        None => Unit::measure(readings),
        Some((name, below)) => Unit::Measure {
            whole: below.map(|below| Box::new(readings[0].clone().per(&below))),
            per: Some(name),
            readings,
        },
    }
}

/// A unit of measure with its power: `feet`, `square feet`, `m²`, `cm^3`.
fn power_of_measure(parser: &mut Parser<'_>, alone: bool) -> Option<Vec<Measure>> {
    let word = |at: usize| parser.tokens.get(at).and_then(Token::word);
    let power = match word(parser.at).map(str::to_lowercase).as_deref() {
        Some("square" | "sq") => 2,
        Some("cubic" | "cu") => 3,
        _ => 1,
    };
    if power > 1 {
        parser.at += 1;
        // `sq. ft.`
        let stop = parser.sign() == Some('.');
        parser.at += usize::from(stop);
    }
    let mut readings = named_measure(parser, alone)?;
    let by_word = parser.at > 0 && parser.tokens[parser.at - 1].word().is_some();
    let is_length = by_word && readings[0].dimension.iter().eq([(&Base::Length, &1)]);
    let written = written_power(parser, is_length);
    for reading in &mut readings {
        *reading = reading.clone().to_the(power * written);
    }
    Some(readings)
}

/// A unit by its name, of one word or two, or its sign.
fn named_measure(parser: &mut Parser<'_>, alone: bool) -> Option<Vec<Measure>> {
    if let Some(found) = degrees(parser) {
        return Some(found);
    }
    if let Some(sign) = parser.sign()
        && let Some(measure) = currency_sign(sign)
    {
        // `5 $3` are two amounts: a sign belongs to the number it touches, or to nothing.
        let leads = parser
            .tokens
            .get(parser.at + 1)
            .is_some_and(|next| next.number().is_some());
        if leads {
            return None;
        }
        parser.at += 1;
        return Some(vec![measure]);
    }
    let token = parser.peek()?;
    if let Some(sign) = token.sign().filter(|_| !token.spaced) {
        let named = match sign {
            '\'' | '′' | '’' => "foot",
            '"' | '″' | '”' => "inch",
            _ => return None,
        };
        parser.at += 1;
        return Some(measures(named));
    }
    let word = token.word()?;
    let next = parser.tokens.get(parser.at + 1);
    let next_word = next.and_then(Token::word);
    if let Some(second) = next_word {
        for joined in [format!("{word} {second}"), format!("{word}-{second}")] {
            let found = measures(&joined.to_lowercase());
            if !found.is_empty() {
                parser.at += 2;
                return Some(found);
            }
        }
    }
    // The preposition is no inch.
    if word == "in" && next_word.is_some() {
        return None;
    }
    let mut found = measures(word);
    // `18 Dollars` amid an answer; in a key capitals are names: `50 Cent`, `60 Minutes`.
    if found.is_empty() && !alone && word.chars().count() > 2 {
        found = measures(&word.to_lowercase());
    }
    if found.is_empty() {
        return None;
    }
    parser.at += 1;
    // `2 hrs.`, `5 ft.` within a text
    let abbreviated = word.len() <= 3 && parser.sign() == Some('.');
    let goes_on = parser.tokens.get(parser.at + 1).is_some();
    parser.at += usize::from(abbreviated && goes_on && alone);
    Some(found)
}

/// `°`, `°C`, `degrees Fahrenheit`.
fn degrees(parser: &mut Parser<'_>) -> Option<Vec<Measure>> {
    let by_word = parser
        .peek()?
        .word()
        .is_some_and(|w| matches!(w.to_lowercase().as_str(), "degree" | "degrees" | "deg"));
    if !by_word && parser.sign() != Some('°') {
        return None;
    }
    parser.at += 1;
    let scale = parser.peek().and_then(Token::word);
    let scale = scale.and_then(|word| match word.to_lowercase().as_str() {
        "c" | "celsius" | "centigrade" => Some("°C"),
        "f" | "fahrenheit" => Some("°F"),
        "k" | "kelvin" => Some("kelvin"),
        _ => None,
    });
    parser.at += usize::from(scale.is_some());
    Some(measures(scale.unwrap_or("degree")))
}

/// A power behind a unit; digits right behind it only for lengths, `m2`.
fn written_power(parser: &mut Parser<'_>, is_length: bool) -> i8 {
    let start = parser.at;
    if parser.eat('^') {
        let braced = parser.eat('{');
        let power = match parser.peek().and_then(Token::number) {
            Some(n) if n.value == tools::Rational::from_integer(2.into()) => 2,
            Some(n) if n.value == tools::Rational::from_integer(3.into()) => 3,
            _ => 0,
        };
        parser.at += 1;
        if power > 0 && (!braced || parser.eat('}')) {
            return power;
        }
        parser.at = start;
        return 1;
    }
    let token = parser.peek();
    if let Some(number) = token
        .filter(|t| is_length && !t.spaced)
        .and_then(Token::number)
        && number.whole
        && number.width == 1
        && let Some(power @ (2 | 3)) = num_traits::ToPrimitive::to_i8(&number.value)
    {
        parser.at += 1;
        return power;
    }
    let power = match token.and_then(Token::word) {
        Some("squared") => 2,
        Some("cubed") => 3,
        _ => 1,
    };
    parser.at += usize::from(power > 1);
    power
}

/// `/h`, `per hour`, `an hour`, `each day`: the name, and the measure where it is one.
fn denominator(parser: &mut Parser<'_>, alone: bool) -> Option<(String, Option<Measure>)> {
    let start = parser.at;
    let by_slash = parser.eat('/');
    let link = parser.peek().and_then(Token::word).map(str::to_lowercase);
    let by_article = !by_slash && matches!(link.as_deref(), Some("a" | "an" | "each" | "every"));
    let by_per = !by_slash && link.as_deref() == Some("per");
    parser.at += usize::from(by_article || by_per);
    if !(by_slash || by_per || by_article) {
        return None;
    }
    let name = parser.peek().and_then(Token::word).map(str::to_owned);
    if let Some(mut readings) = power_of_measure(parser, alone) {
        let measure = readings.swap_remove(0);
        return Some((measure.name.clone(), Some(measure)));
    }
    match name {
        // `a` before a noun may begin another thought.
        Some(name) if !by_article => {
            parser.at += 1;
            Some((singular(&name.to_lowercase()), None))
        }
        _ => {
            parser.at = start;
            None
        }
    }
}

/// Words in lower case up to the end of the text: `old`, `in total`, `each`.
fn pass_over_description(parser: &mut Parser<'_>) {
    let tail = &parser.tokens[parser.at..];
    let described = tail.len() <= MAX_WORDS && tail.iter().all(is_lower_word);
    if described {
        parser.at = parser.tokens.len();
    }
}

fn is_lower_word(token: &Token) -> bool {
    token
        .word()
        .is_some_and(|word| word.chars().all(|c| c.is_lowercase() || "'’".contains(c)))
}

/// `per hour` or `/day` of a number of no unit.
fn rate(parser: &mut Parser<'_>) -> Option<Unit> {
    let start = parser.at;
    let linked = parser.eat('/') || {
        let per = parser.peek().and_then(Token::word) == Some("per");
        parser.at += usize::from(per);
        per
    };
    let word = parser.peek().and_then(Token::word);
    // One letter is a variable: `18/x`.
    let word = word.filter(|word| linked && word.chars().count() > 1 && is_unit_word(word));
    let Some(word) = word else {
        parser.at = start;
        return None;
    };
    parser.at += 1;
    pass_over_description(parser);
    Some(Unit::Noun(format!("per {}", singular(word))))
}

/// A noun phrase up to the end of the text: `red apples`, `boxes of chalk`. Its head is the last
/// word before a preposition.
fn noun(parser: &mut Parser<'_>) -> Option<Unit> {
    let tail = &parser.tokens[parser.at..];
    let words: Vec<&str> = tail
        .iter()
        .filter(|t| t.sign() != Some('-'))
        .filter_map(Token::word)
        .collect();
    let hyphens = tail.iter().filter(|t| t.sign() == Some('-')).count();
    let all_words = words.len() + hyphens == tail.len();
    let lower = words
        .iter()
        .all(|word| word.chars().all(|c| c.is_lowercase() || "'’".contains(c)));
    let first = words.first()?;
    // One letter is a variable, and so may two be that are glued to the number.
    let long = first.chars().count() > if tail[0].spaced { 1 } else { 2 };
    if !all_words || !lower || !long || words.len() > MAX_WORDS || is_link(first) {
        return None;
    }
    let phrase: Vec<&str> = words.iter().copied().take_while(|w| !is_link(w)).collect();
    let head = phrase
        .iter()
        .rev()
        .find(|word| !is_adjective(word))
        .or(phrase.last())?;
    let head = singular(head);
    parser.at = parser.tokens.len();
    Some(Unit::Noun(head))
}

/// A word that ends the name of a thing, or joins two.
fn is_link(word: &str) -> bool {
    matches!(
        word,
        "of" | "in"
            | "on"
            | "at"
            | "for"
            | "from"
            | "per"
            | "with"
            | "to"
            | "by"
            | "and"
            | "or"
            | "that"
            | "which"
            | "were"
            | "are"
            | "is"
            | "as"
            | "than"
            | "not"
            | "mod"
            | "more"
            | "less"
            | "times"
            | "plus"
            | "minus"
            | "over"
    )
}
