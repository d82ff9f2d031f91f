//! Words that may stand after a number: units of measure with their sizes, currencies, and the
//! nouns and adjectives of word problems.
//!
//! One list for the calculator, which drops them, and for answers, which compare them. Measures
//! carry exact factors (the international yard and pound of 1959, SI), so that `90 minutes` is
//! `1.5 hours`. A month is no number of days: years and months are one scale, seconds to weeks are
//! another.

mod table;

use crate::number::Rational;
use num_traits::{One, Zero};
use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use table::{ADJECTIVES, MEASURES, NOUNS, PREFIXED, PREFIXES};

/// A base of measurement. Two units are comparable where they have the same powers of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// In metres.
    Length,
    /// In kilograms.
    Mass,
    /// In seconds, up to weeks.
    Time,
    /// In months, from months up.
    Calendar,
    /// In kelvins.
    Temperature,
    /// In degrees.
    Angle,
    /// `degree` by itself: of an angle or of any temperature scale.
    Degree,
    /// In bytes.
    Data,
    /// In joules.
    Energy,
    /// In watts.
    Power,
    /// In newtons.
    Force,
    /// In pascals.
    Pressure,
    /// In hertz.
    Frequency,
    /// In volts.
    Voltage,
    /// In the currency's main unit; the name is its ISO code.
    Money(&'static str),
}

/// A unit of measure: a product of powers, its size in base units, and where its zero lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// Its name, singular: `hour`, `kilometre/hour`.
    pub name: String,
    /// Powers of the bases it measures, without zeros.
    pub dimension: BTreeMap<Base, i8>,
    /// Its size in base units.
    pub factor: Rational,
    /// Added, in this unit, before the factor: 459.67 for degrees Fahrenheit. Zero for all
    /// but temperatures.
    pub offset: Rational,
}

impl Measure {
    /// `number` of this unit in base units.
    pub fn in_base_units(&self, number: &Rational) -> Rational {
        (number + &self.offset) * &self.factor
    }

    /// This unit to a power: a foot squared.
    pub fn to_the(mut self, power: i8) -> Self {
        if power == 1 {
            return self;
        }
        for own in self.dimension.values_mut() {
            *own = own.saturating_mul(power);
        }
        self.factor = self.factor.pow(i32::from(power));
        self.offset = Rational::zero();
        self.name = format!("{}^{power}", self.name);
        self
    }

    /// This unit per another: a kilometre per hour.
    pub fn per(mut self, other: &Self) -> Self {
        for (base, power) in &other.dimension {
            let own = self.dimension.entry(*base).or_default();
            *own = own.saturating_sub(*power);
        }
        self.dimension.retain(|_, power| *power != 0);
        self.factor /= &other.factor;
        self.offset = Rational::zero();
        self.name = format!("{}/{}", self.name, other.name);
        self
    }

    /// The currency of an amount of money, by its ISO code.
    pub fn currency(&self) -> Option<&'static str> {
        self.dimension.keys().find_map(|base| match base {
            Base::Money(code) => Some(*code),
            _ => None,
        })
    }
}

/// The currency of a sign: `$` is the dollar.
pub fn currency_sign(sign: char) -> Option<Measure> {
    measure(match sign {
        '$' => "dollar",
        '€' => "euro",
        '£' => "pound sterling",
        '¥' => "yen",
        '¢' => "cent",
        '₹' => "rupee",
        _ => return None,
    })
}

/// The measure that a word names: its name in lower case, singular or plural, in British or
/// American spelling, or its symbol as it is written (`km`, `MB`). `None` for every other word.
pub fn measure(word: &str) -> Option<Measure> {
    measures(word).into_iter().next()
}

/// Every measure that a word names, the most usual first: `m` is a metre and a minute.
pub fn measures(word: &str) -> Vec<Measure> {
    let singular = singular(word);
    let named = |row: &&Row| row.names.contains(&word) || row.names.contains(&singular.as_str());
    let mut found: Vec<Measure> = MEASURES.iter().filter(named).map(Row::measure).collect();
    found.extend(prefixed(word).or_else(|| prefixed(&singular)));
    found
}

/// Whether a word may stand after a number without changing it: a measure, or a noun or adjective
/// by list, in lower case and singular or plural.
pub fn is_unit_word(word: &str) -> bool {
    static WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let words = NOUNS.split_whitespace();
        words.chain(ADJECTIVES.split_whitespace()).collect()
    });
    // Every other single letter is more often a variable.
    if word.chars().count() == 1 {
        return "mgshlL°".contains(word);
    }
    let lower = word.to_lowercase();
    let singular = singular(&lower);
    WORDS.contains(lower.as_str())
        || WORDS.contains(singular.as_str())
        || measure(word).is_some()
        || (lower.chars().count() > 2 && measure(&lower).is_some())
}

/// Whether a word describes a thing instead of naming it: `tall`, `remaining`.
pub fn is_adjective(word: &str) -> bool {
    static WORDS: LazyLock<HashSet<&str>> =
        LazyLock::new(|| ADJECTIVES.split_whitespace().collect());
    WORDS.contains(word)
}

/// The singular of an English noun in lower case; other words come back as they are.
pub fn singular(word: &str) -> String {
    const IRREGULAR: [(&str, &str); 18] = [
        ("feet", "foot"),
        ("inches", "inch"),
        ("men", "man"),
        ("women", "woman"),
        ("children", "child"),
        ("people", "person"),
        ("teeth", "tooth"),
        ("geese", "goose"),
        ("mice", "mouse"),
        ("oxen", "ox"),
        ("dice", "die"),
        ("movies", "movie"),
        ("cookies", "cookie"),
        ("knives", "knife"),
        ("lives", "life"),
        ("wives", "wife"),
        ("buses", "bus"),
        ("octopuses", "octopus"),
    ];
    if let Some((_, one)) = IRREGULAR.iter().find(|(many, _)| *many == word) {
        return (*one).to_owned();
    }
    // With three letters and fewer the s belongs to the word: `gas`, `bus`, `s`.
    let plural = word.len() > 3 && word.ends_with('s') && !word.ends_with("ss");
    if !plural {
        return word.to_owned();
    }
    for (ending, replacement) in [
        ("ies", "y"),
        ("olives", "olive"),
        ("gloves", "glove"),
        ("sleeves", "sleeve"),
        ("ves", "f"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("xes", "x"),
        ("zzes", "zz"),
        ("oes", "o"),
    ] {
        if let Some(stem) = word.strip_suffix(ending).filter(|stem| stem.len() > 1) {
            return format!("{stem}{replacement}");
        }
    }
    word[..word.len() - 1].to_owned()
}

/// A row of the table of measures.
pub(crate) struct Row {
    /// The name it is shown by first, then its other names and its symbols.
    names: &'static [&'static str],
    dimension: &'static [(Base, i8)],
    /// Numerator and denominator of its size in base units.
    size: (u64, u64),
    /// Numerator and denominator of its offset.
    offset: (u64, u64),
}

impl Row {
    fn measure(&self) -> Measure {
        let fraction = |(n, d): (u64, u64)| Rational::new(n.into(), d.into());
        Measure {
            name: self.names[0].to_owned(),
            dimension: self.dimension.iter().copied().collect(),
            factor: fraction(self.size),
            offset: fraction(self.offset),
        }
    }
}

/// A measure with a decimal prefix: `kilometre`, `ml`, `kWh`.
fn prefixed(word: &str) -> Option<Measure> {
    PREFIXES.iter().find_map(|(name, symbol, exponent)| {
        let spelled = word.strip_prefix(name).map(|rest| (rest, false));
        let short = word.strip_prefix(symbol).map(|rest| (rest, true));
        let (rest, _) = [spelled, short]
            .into_iter()
            .flatten()
            .find(|(rest, by_symbol)| PREFIXED.contains(&(rest, *by_symbol)))?;
        let mut measure = MEASURES
            .iter()
            .find(|row| row.names.contains(&rest))?
            .measure();
        let ten = Rational::one() * num_bigint::BigInt::from(10);
        measure.factor *= ten.pow(*exponent);
        measure.name = format!("{name}{}", measure.name);
        Some(measure)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_symbols_of_measures() {
        for (word, name, factor) in [
            ("hour", "hour", "3600"),
            ("hours", "hour", "3600"),
            ("hr", "hour", "3600"),
            ("m", "metre", "1"),
            ("meters", "metre", "1"),
            ("kilometers", "kilometre", "1000"),
            ("km", "kilometre", "1000"),
            ("cm", "centimetre", "1/100"),
            ("feet", "foot", "381/1250"),
            ("inches", "inch", "127/5000"),
            ("ml", "millilitre", "1/1000000"),
            ("MB", "megabyte", "1000000"),
            ("kg", "kilogram", "1"),
            ("g", "gram", "1/1000"),
            ("cents", "cent", "1/100"),
            ("USD", "dollar", "1"),
            ("mph", "mile/hour", "1397/3125"),
            ("weeks", "week", "604800"),
            ("years", "year", "12"),
        ] {
            let found = measure(word).expect(word);
            assert_eq!(
                (found.name.as_str(), found.factor.to_string().as_str()),
                (name, factor),
                "{word}"
            );
        }
        for word in ["", "x", "xy", "apple", "mod", "C3", "Hours", "KM", "mins2"] {
            assert!(measure(word).is_none(), "{word}");
        }
    }

    #[test]
    fn nouns_and_adjectives_by_list() {
        for word in [
            "apples", "clips", "boxes", "children", "knives", "red", "hours", "Apples", "berries",
            "pennies", "people", "km",
        ] {
            assert!(is_unit_word(word), "{word}");
        }
        for word in ["xy", "mod", "c", "n", "hello", "than", "x", "y", ""] {
            assert!(!is_unit_word(word), "{word}");
        }
    }

    #[test]
    fn singulars() {
        for (many, one) in [
            ("apples", "apple"),
            ("boxes", "box"),
            ("glasses", "glass"),
            ("berries", "berry"),
            ("people", "person"),
            ("potatoes", "potato"),
            ("leaves", "leaf"),
            ("bus", "bus"),
            ("glass", "glass"),
            ("roses", "rose"),
            ("horses", "horse"),
            ("houses", "house"),
        ] {
            assert_eq!(singular(many), one, "{many}");
        }
    }

    #[test]
    fn sizes_follow_powers_and_quotients() {
        let ratio = |text: &str| -> Rational { text.parse().expect(text) };
        let square_foot = measure("feet").expect("a measure").to_the(2);
        assert_eq!(square_foot.factor, ratio("145161/1562500"));
        let speed = measure("km")
            .expect("a measure")
            .per(&measure("h").expect("a measure"));
        assert_eq!(speed.factor, ratio("5/18"));
        assert_eq!(speed.dimension.len(), 2);
        let litre = measure("litre").expect("a measure");
        assert_eq!(
            litre.dimension,
            measure("m").expect("a measure").to_the(3).dimension
        );
        let fahrenheit = measure("°F").expect("a measure");
        let celsius = measure("°C").expect("a measure");
        assert_eq!(
            fahrenheit.in_base_units(&ratio("32")),
            celsius.in_base_units(&ratio("0"))
        );
    }
}
