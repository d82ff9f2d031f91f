//! When two numbers are the same.

use num_traits::{One, Signed, Zero, pow};
use tools::number::Rational;

/// A value with more decimals than this may be written rounded; a shorter one is written out.
const ROUNDED_BEYOND_PLACES: u32 = 2;
/// More decimals than this are not counted: the calculator rounds before them.
const MAX_PLACES: u32 = 12;

/// Whether somebody who writes `written`, with `places` decimals, may mean `value`:
/// - they are equal;
/// - or one of them has more than two decimals and they differ by at most one millionth of the value
///   and one thousandth (what is left of a rounding in an earlier step);
/// - or `value` has more than two decimals and more than `places`, and `written` is it rounded to
///   `places`, of which there is at least one. So 3.33 may mean 10/3, and neither 33 nor 1.5 may
///   mean anything but itself where the value is 100/3 or 1.46.
pub(crate) fn agrees(written: &Rational, places: u32, value: &Rational) -> bool {
    let off = (written - value).abs();
    if off.is_zero() {
        return true;
    }
    let is_long = |number: &Rational| !(number * ten_to(ROUNDED_BEYOND_PLACES)).is_integer();
    let close = &off * ten_to(6) <= value.abs() && &off * ten_to(3) <= Rational::one();
    if close && (is_long(written) || is_long(value)) {
        return true;
    }
    let beyond = places.max(ROUNDED_BEYOND_PLACES);
    let long = beyond < MAX_PLACES && !(value * ten_to(beyond)).is_integer();
    let half_unit_at_most = off * ten_to(places) * Rational::from_integer(2.into());
    places >= 1 && long && half_unit_at_most <= Rational::one()
}

/// How many decimals a number has; `None` where more than twelve.
pub(crate) fn decimals(value: &Rational) -> Option<u32> {
    (0..=MAX_PLACES).find(|places| (value * ten_to(*places)).is_integer())
}

fn ten_to(exponent: u32) -> Rational {
    pow(Rational::from_integer(10.into()), exponent as usize)
}

/// A number as a text says it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Amount {
    /// Its value: 1/2 for `50%`.
    pub value: Rational,
    /// What stands before the percent sign, if there is one: 50 for `50%`.
    pub percent: Option<Rational>,
    /// How many decimals are written, trailing zeros included; 0 for fractions, exponents and
    /// percentages, which are never taken to be rounded.
    pub places: u32,
}

impl Amount {
    /// A value that is known exactly.
    pub fn exact(value: Rational) -> Self {
        Self {
            value,
            percent: None,
            places: 0,
        }
    }

    /// Whether `other` says this number. A percent sign on one side only may be a factor or a unit:
    /// `50%` agrees with 0.5 and with 50. On both sides the values decide.
    pub fn agrees(&self, other: &Self) -> bool {
        if agrees(&self.value, self.places, &other.value) {
            return true;
        }
        match (&self.percent, &other.percent) {
            (Some(percent), None) => agrees(percent, 0, &other.value),
            (None, Some(percent)) => agrees(&self.value, self.places, percent),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(text: &str) -> Rational {
        text.parse().expect(text)
    }

    #[test]
    fn rounding() {
        // written, places, value, agrees
        let rows = [
            ("10", 0, "10", true),
            ("10", 0, "11", false),
            ("1000000", 0, "1000001", false),
            ("24", 0, "23999999999/1000000000", true),
            ("33", 0, "100/3", false),
            ("333/100", 2, "10/3", true),
            ("33/10", 1, "10/3", true),
            ("334/100", 2, "10/3", false),
            ("367/100", 2, "11/3", true),
            ("366/100", 2, "11/3", false),
            ("15/10", 1, "146/100", false),
            ("15/10", 1, "1449/1000", false),
            ("15/10", 1, "1450/1000", false),
            ("15/10", 1, "1454/1000", true),
            ("15/10", 2, "1496/1000", true),
            ("15/10", 2, "149/100", false),
            ("10/3", 0, "333333333333/100000000000", true),
            ("10/3", 0, "333/100", false),
            ("527292", 0, "5272925/10", false),
            ("527292", 0, "527292123/1000", false),
            ("1000000", 0, "100000001/100", false),
            ("-333/100", 2, "-10/3", true),
            ("0", 0, "1/1000000000", false),
            ("-10", 0, "10", false),
        ];
        for (written, places, value, wanted) in rows {
            let found = agrees(&ratio(written), places, &ratio(value));
            assert_eq!(found, wanted, "{written} ({places}) {value}");
        }
    }

    #[test]
    fn decimals_of_a_number() {
        let rows = [
            ("5", Some(0)),
            ("1/2", Some(1)),
            ("-1/8", Some(3)),
            ("1/3", None),
        ];
        for (value, wanted) in rows {
            assert_eq!(decimals(&ratio(value)), wanted, "{value}");
        }
    }
}
