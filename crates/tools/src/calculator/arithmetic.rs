//! Exact operations whose results stay within [`MAX_BITS`].
//!
//! - **CA-1 (bounded).** An operation that could be expensive is estimated before it is computed:
//!   what it would produce at least is compared with the bound.

use super::{CalcError, MAX_BITS, MAX_FACTORIAL};
use crate::number::Rational;
use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

/// Roots that are not exact are rounded to at least this many significant digits.
pub const ROOT_DIGITS: u32 = 30;

/// The largest denominator of a fractional exponent.
pub const MAX_ROOT: u32 = 32;

/// `round(x, digits)` takes digits within this distance of zero.
pub(crate) const MAX_ROUND_DIGITS: u32 = 64;

/// A value, or why there is none.
pub type Value = Result<Rational, CalcError>;

/// A value whose numerator and denominator are within the bound.
pub fn bounded(value: Rational) -> Value {
    let bits = value.numer().bits().max(value.denom().bits());
    if bits > MAX_BITS {
        Err(CalcError::TooLarge)
    } else {
        Ok(value)
    }
}

/// The quotient.
pub fn divide(left: &Rational, right: &Rational) -> Value {
    if right.is_zero() {
        return Err(CalcError::DivisionByZero);
    }
    bounded(left / right)
}

/// The quotient rounded down.
pub(crate) fn divide_floor(left: &Rational, right: &Rational) -> Value {
    Ok(divide(left, right)?.floor())
}

/// The remainder of the quotient rounded down: it has the divisor's sign.
pub(crate) fn modulo(left: &Rational, right: &Rational) -> Value {
    bounded(left - right * divide_floor(left, right)?)
}

/// `base` to a whole or fractional power.
pub fn power(base: &Rational, exponent: &Rational) -> Value {
    let degree = exponent.denom().to_u32().filter(|n| *n <= MAX_ROOT);
    let degree = degree.ok_or(CalcError::Exponent(MAX_ROOT))?;
    let raised = whole_power(base, exponent.numer())?;
    if degree == 1 {
        return Ok(raised);
    }
    if base.is_negative() {
        return Err(CalcError::NegativeRoot);
    }
    root(&raised, degree)
}

fn whole_power(base: &Rational, exponent: &BigInt) -> Value {
    if base.is_zero() && exponent.is_negative() {
        return Err(CalcError::DivisionByZero);
    }
    let one = Rational::one();
    if exponent.is_zero() || *base == one {
        return Ok(one);
    }
    if base.is_zero() {
        return Ok(Rational::zero());
    }
    if *base == -one {
        return Ok(if exponent.is_even() {
            -base
        } else {
            base.clone()
        });
    }
    // The larger of numerator and denominator has b ≥ 2 bits; its n-th power has at least
    // (b - 1) n + 1 (CA-1) and at most twice that many.
    let bits = base.numer().bits().max(base.denom().bits());
    let count = exponent
        .abs()
        .to_u64()
        .filter(|n| (bits - 1).saturating_mul(*n) < MAX_BITS);
    let count = count
        .and_then(|n| i32::try_from(n).ok())
        .ok_or(CalcError::TooLarge)?;
    bounded(base.pow(if exponent.is_negative() {
        -count
    } else {
        count
    }))
}

/// The real root of `degree` 2 to [`MAX_ROOT`], exact where it is a fraction, otherwise cut
/// at [`ROOT_DIGITS`] significant digits or more.
pub fn root(value: &Rational, degree: u32) -> Value {
    if value.is_negative() && degree.is_even() {
        return Err(CalcError::NegativeRoot);
    }
    let numerator = value.numer().nth_root(degree);
    let denominator = value.denom().nth_root(degree);
    let exact = Rational::new(numerator, denominator);
    if power_unchecked(&exact, degree) == *value {
        return Ok(exact);
    }
    // A value of -b bits in front of the point has a root with about b/3/degree leading zeros.
    let zeros = value.denom().bits().saturating_sub(value.numer().bits()) / 3 / u64::from(degree);
    let decimals = ROOT_DIGITS + u32::try_from(zeros).map_err(|_| CalcError::TooLarge)? + 1;
    let scale: BigInt = Pow::pow(BigInt::from(10), decimals);
    let scaled = value * Pow::pow(scale.clone(), degree);
    bounded(Rational::new(scaled.to_integer().nth_root(degree), scale))
}

/// For roots only, where the result is about as large as the value the root was taken of.
fn power_unchecked(base: &Rational, exponent: u32) -> Rational {
    Pow::pow(base, exponent)
}

/// The factorial of a whole number from 0 to [`MAX_FACTORIAL`].
pub fn factorial(value: &Rational) -> Value {
    let n = whole(value, "factorial")?;
    let n = n
        .to_u32()
        .filter(|n| *n <= MAX_FACTORIAL)
        .ok_or(CalcError::Factorial)?;
    let product = (2..=n).fold(BigInt::one(), |product, factor| product * factor);
    bounded(Rational::from_integer(product))
}

/// Rounds to decimals, or with negative `digits` to tens, hundreds …; half goes away from zero.
pub(crate) fn round(value: &Rational, digits: &Rational) -> Value {
    let digits = whole(digits, "round's number of digits")?;
    let digits = digits
        .to_i32()
        .filter(|d| d.unsigned_abs() <= MAX_ROUND_DIGITS);
    let digits = digits.ok_or(CalcError::RoundDigits(MAX_ROUND_DIGITS))?;
    let scale = Rational::from_integer(10.into()).pow(digits);
    bounded((value * &scale).round() / scale)
}

/// The value as a whole number.
pub(crate) fn whole(value: &Rational, what: &'static str) -> Result<BigInt, CalcError> {
    if value.is_integer() {
        Ok(value.to_integer())
    } else {
        Err(CalcError::NotWhole(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rational(text: &str) -> Rational {
        text.parse().expect(text)
    }

    #[test]
    fn roots_are_exact_or_have_thirty_digits() {
        for (value, degree, exact) in [
            ("4/9", 2, "2/3"),
            ("0", 2, "0"),
            ("-27/8", 3, "-3/2"),
            ("1024", 10, "2"),
        ] {
            assert_eq!(
                root(&rational(value), degree),
                Ok(rational(exact)),
                "{value}"
            );
        }
        let tolerance = Rational::new(1.into(), Pow::pow(BigInt::from(10), ROOT_DIGITS - 1));
        for value in [
            "2",
            "1/7",
            "99999999999999999999",
            "3/10000000000000000000000000000000000",
        ] {
            for degree in [2, 3, 7, MAX_ROOT] {
                let value = rational(value);
                let root = root(&value, degree).expect("positive");
                let error = power_unchecked(&root, degree) / &value - Rational::one();
                assert!(
                    error.abs() < &tolerance * BigInt::from(degree),
                    "{value} {degree}"
                );
            }
        }
    }

    #[test]
    fn what_a_power_would_produce_is_estimated_first() {
        for (base, exponent) in [
            ("10", "999999999999"),
            ("9", "387420489"),
            ("1/2", "-4097"),
            ("3", "9999999999999999999999"),
        ] {
            assert_eq!(
                power(&rational(base), &rational(exponent)),
                Err(CalcError::TooLarge)
            );
        }
        assert_eq!(
            power(&rational("2"), &rational("4095"))
                .expect("4,096 bits")
                .numer()
                .bits(),
            4096
        );
        assert_eq!(
            power(&rational("-1"), &rational("99999999999999999999")),
            Ok(rational("-1"))
        );
        assert_eq!(
            power(&rational("0"), &rational("99999999999999999999")),
            Ok(rational("0"))
        );
    }
}
