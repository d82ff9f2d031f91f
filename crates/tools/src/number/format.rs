//! Numbers as text.

use super::Rational;
use num_bigint::BigInt;
use num_traits::{Pow, Signed, Zero};

/// Values that are finite within this many decimals are written exactly.
pub const EXACT_DECIMALS: u32 = 12;

/// All other values are rounded to this many significant digits, though never to fewer than
/// [`MIN_DECIMALS`] decimals.
pub const SIGNIFICANT_DIGITS: u32 = 12;

/// The fewest decimals a rounded value is computed to (trailing zeros are not written).
pub const MIN_DECIMALS: u32 = 2;

/// Writes a number as a decimal without exponent or thousands separators.
///
/// - Integers have no point.
/// - A value that is finite within [`EXACT_DECIMALS`] decimals is written exactly, as short as
///   possible: `5/2` is `2.5`.
/// - Anything else is rounded, half away from zero, to [`SIGNIFICANT_DIGITS`] significant digits:
///   `2/3` is `0.666666666667`.
pub fn format_number(value: &Rational) -> String {
    let scaled = value * power_of_ten(EXACT_DECIMALS);
    let decimals = if scaled.is_integer() {
        EXACT_DECIMALS
    } else {
        rounding_decimals(&value.abs())
    };
    let digits = (value.abs() * power_of_ten(decimals))
        .round()
        .to_integer()
        .to_string();
    let width = decimals as usize + 1;
    let digits = format!("{digits:0>width$}");
    let (whole, fraction) = digits.split_at(digits.len() - decimals as usize);
    let fraction = fraction.trim_end_matches('0');
    let sign = if value.is_negative() { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn power_of_ten(exponent: u32) -> BigInt {
    Pow::pow(BigInt::from(10), exponent)
}

/// How many decimals give `SIGNIFICANT_DIGITS` significant digits of a positive value.
fn rounding_decimals(value: &Rational) -> u32 {
    let whole = value.to_integer();
    if !whole.is_zero() {
        let whole_digits = whole.to_string().len() as u32;
        return SIGNIFICANT_DIGITS
            .saturating_sub(whole_digits)
            .max(MIN_DECIMALS);
    }
    let shorter = value.denom().to_string().len() - value.numer().to_string().len();
    // The first non-zero decimal stands at `shorter` or one further.
    let first = (shorter as u32).max(1);
    let first = if (value * power_of_ten(first)).to_integer().is_zero() {
        first + 1
    } else {
        first
    };
    SIGNIFICANT_DIGITS + first - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_exact_decimal_or_rounded() {
        for (value, text) in [
            ("0", "0"),
            ("24", "24"),
            ("-3", "-3"),
            ("5/2", "2.5"),
            ("-1/8", "-0.125"),
            ("1/1000000000000", "0.000000000001"),
            ("1/3", "0.333333333333"),
            ("2/3", "0.666666666667"),
            ("-2/3", "-0.666666666667"),
            ("200/3", "66.6666666667"),
            ("1/300", "0.00333333333333"),
            ("1/990", "0.0010101010101"),
            ("1/99", "0.010101010101"),
            ("100000000000000000/3", "33333333333333333.33"),
            ("59999999999999999999/30000000000000000000", "2"),
            ("1/30000000000000000", "0.0000000000000000333333333333"),
        ] {
            let value: Rational = value.parse().expect(value);
            assert_eq!(format_number(&value), text, "{value}");
        }
    }
}
