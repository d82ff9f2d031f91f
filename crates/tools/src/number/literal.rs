//! One decimal literal: digits, thousands separators, decimals, exponent.

use super::Rational;
use num_bigint::BigInt;
use num_traits::{One, Pow};

/// Literals with more digits have no value: nothing that a word problem says is that long, and the
/// bound keeps conversion cheap whatever the text.
pub(crate) const MAX_LITERAL_DIGITS: usize = 400;

/// Literals with an exponent beyond this, either way, have no value.
pub(crate) const MAX_EXPONENT: u32 = 1_000;

/// Whether a comma before three digits belongs to the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// `1,234` is one number.
    Thousands,
    /// `1,234` is two.
    Off,
}

/// A literal at the start of a text.
#[derive(Debug)]
pub(crate) struct Literal {
    /// `None` when it is longer than the bounds of this module.
    pub(crate) value: Option<Rational>,
    /// How many bytes of the text it takes.
    pub(crate) len: usize,
    /// Digits only: no separator, no decimals, no exponent.
    pub(crate) plain: bool,
}

/// The literal that `text` starts with. Takes as much as fits: `1.5e` is `1.5` and a letter.
pub(crate) fn scan_literal(text: &str, grouping: Grouping) -> Option<Literal> {
    let bytes = text.as_bytes();
    let leading = digits(bytes, 0);
    let mut end = leading;
    if grouping == Grouping::Thousands && (1..=3).contains(&leading) {
        while bytes.get(end) == Some(&b',') && digits(bytes, end + 1) == 3 {
            end += 4;
        }
    }
    let whole = &text[..end];
    let decimals = match bytes.get(end) {
        Some(b'.') => digits(bytes, end + 1),
        _ => 0,
    };
    if leading == 0 && decimals == 0 {
        return None;
    }
    let fraction = if decimals > 0 {
        &text[end + 1..end + 1 + decimals]
    } else {
        ""
    };
    end += if decimals > 0 { decimals + 1 } else { 0 };
    let exponent = exponent_len(bytes, end);
    let exponent_text = if exponent > 0 {
        &text[end + 1..end + exponent]
    } else {
        "0"
    };
    Some(Literal {
        value: value_of(whole, fraction, exponent_text),
        len: end + exponent,
        plain: end == leading && exponent == 0,
    })
}

/// How many ASCII digits follow from `at`.
pub(crate) fn digits(bytes: &[u8], at: usize) -> usize {
    bytes
        .iter()
        .skip(at)
        .take_while(|b| b.is_ascii_digit())
        .count()
}

fn exponent_len(bytes: &[u8], at: usize) -> usize {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return 0;
    }
    let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
    match digits(bytes, at + 1 + sign) {
        0 => 0,
        count => 1 + sign + count,
    }
}

fn value_of(whole: &str, fraction: &str, exponent: &str) -> Option<Rational> {
    let mantissa: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .filter(|b| *b != b',')
        .collect();
    if mantissa.len() > MAX_LITERAL_DIGITS {
        return None;
    }
    let exponent: i32 = exponent.parse().ok()?;
    if exponent.unsigned_abs() > MAX_EXPONENT {
        return None;
    }
    let mantissa = BigInt::parse_bytes(&mantissa, 10)?;
    let shift = exponent - i32::try_from(fraction.len()).ok()?;
    let scale: BigInt = Pow::pow(BigInt::from(10), shift.unsigned_abs());
    Some(if shift >= 0 {
        Rational::new(mantissa * scale, BigInt::one())
    } else {
        Rational::new(mantissa, scale)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_as_much_as_is_a_number() {
        for (text, len, value) in [
            ("12", 2, "12"),
            ("1,234.50 and", 8, "2469/2"),
            ("1,23", 1, "1"),
            ("2019,100", 4, "2019"),
            ("1,234,56", 5, "1234"),
            (".5", 2, "1/2"),
            ("5.", 1, "5"),
            ("1e3", 3, "1000"),
            ("1.5E-2x", 6, "3/200"),
            ("1.5e", 3, "3/2"),
            ("007", 3, "7"),
        ] {
            let literal = scan_literal(text, Grouping::Thousands).expect(text);
            assert_eq!(literal.len, len, "{text}");
            assert_eq!(literal.value.expect(text).to_string(), value, "{text}");
        }
        assert_eq!(scan_literal("1,234", Grouping::Off).expect("digits").len, 1);
    }

    #[test]
    fn what_is_no_literal_or_too_long_has_no_value() {
        for text in ["", ".", "e5", "-1", ",5", "x"] {
            assert!(scan_literal(text, Grouping::Thousands).is_none(), "{text}");
        }
        for text in ["1e1001", "1e-99999999999999", &"9".repeat(401)] {
            let literal = scan_literal(text, Grouping::Thousands).expect(text);
            assert!(
                literal.value.is_none() && literal.len == text.len(),
                "{text}"
            );
        }
    }
}
