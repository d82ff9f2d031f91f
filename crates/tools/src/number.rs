//! Exact numbers in text: reading one, finding all, writing one.
//!
//! - **NU-1 (exact).** A number is the fraction its digits say; nothing passes through floating
//!   point.
//! - **NU-2 (there and back).** `parse_number(&format_number(x)) == Some(x)` for every decimal that
//!   is finite within [`EXACT_DECIMALS`] places.

mod format;
pub(crate) mod literal;
mod scan;
mod words;

pub use format::{EXACT_DECIMALS, MIN_DECIMALS, SIGNIFICANT_DIGITS, format_number};
pub use scan::{
    Magnitude, NumberSpan, is_currency, is_minus, is_sign, number_spans, scale_suffix,
    scan_magnitude,
};
pub(crate) use scan::{integer, mixed_part, scale_word};
pub use words::{cardinal, number_words};

/// An exact fraction in lowest terms.
pub type Rational = num_rational::BigRational;

/// The number that `text` is, or `None` when it is not exactly one number.
///
/// Understood: a sign, `$ € £ ¥ ¢` before or after (dropped, without conversion), thousands
/// separators, decimals, exponents (`1e6`), fractions (`1/2`), mixed numbers (`3 1/2`, `3½`), `%`
/// (`5%` is 1/20), a scale (`2 million`, `5k`, `1.5M`, `2B`), blanks around it, and a full stop at
/// its end. Unit words are not: see [`parse_quantity`].
pub fn parse_number(text: &str) -> Option<Rational> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    let found = scan::scan_number(text, 0)?;
    if found.len == text.len() {
        found.value
    } else {
        None
    }
}

/// The number of a text that holds exactly one amid any words: `about 10 dollars`, `x = 5 km`.
/// `None` where there is none or more than one.
pub fn parse_quantity(text: &str) -> Option<Rational> {
    match number_spans(text).as_slice() {
        [only] => Some(only.value.clone()),
        _ => None,
    }
}

/// Every number that occurs in free text, in order, under every reading it may be calculated with.
///
/// A number with several readings gives its parts first and its whole value last: `20%` gives 20
/// and 1/5, `3/4` gives 3, 4 and 3/4, `-5` gives 5 and -5, `2 million` gives 2 and 2,000,000. So
/// "does the context contain this operand" is a plain `contains`, and the last element is the value
/// of the last number. [`number_spans`] tells the occurrences apart. Numbers written as words are
/// found by [`number_words`].
pub fn numbers_in(text: &str) -> Vec<Rational> {
    number_spans(text)
        .into_iter()
        .flat_map(|span| span.parts.into_iter().chain([span.value]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: Vec<Rational>) -> String {
        values
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn one_number() {
        for (text, value) in [
            ("1,234.50", "2469/2"),
            ("$10", "10"),
            ("10.00", "10"),
            ("-3", "-3"),
            ("−3", "-3"),
            ("+3", "3"),
            ("1/2", "1/2"),
            ("-1/2", "-1/2"),
            ("5%", "1/20"),
            ("12.5 %", "1/8"),
            ("5 percent", "1/20"),
            ("3 1/2", "7/2"),
            ("-3 1/2", "-7/2"),
            ("3½", "7/2"),
            ("¾", "3/4"),
            ("1e6", "1000000"),
            ("-$10", "-10"),
            ("$-10", "-10"),
            ("$ 10", "10"),
            ("10$", "10"),
            ("€1,000", "1000"),
            (" 72. ", "72"),
            (".5", "1/2"),
            ("2 million", "2000000"),
            ("$8k", "8000"),
            ("5k", "5000"),
            ("1.5M", "1500000"),
            ("2B", "2000000000"),
            ("$5m", "5000000"),
            ("–8", "-8"),
            ("‑8", "-8"),
            ("－8", "-8"),
            ("3 dozen", "36"),
        ] {
            assert_eq!(parse_number(text), value.parse().ok(), "{text}");
        }
    }

    #[test]
    fn not_exactly_one_number() {
        for text in [
            "",
            " ",
            ".",
            "-",
            "$",
            "%",
            "ten",
            "10 dollars",
            "1 2",
            "1/0",
            "1/2/3",
            "1,23",
            "--3",
            "3 3/2",
            "5 apples",
            "1e9999999999",
            "10:30",
            "3-4",
            "12 34/5",
            "1.2.3",
            "0x10",
            "NaN",
            "5m",
            "5kg",
            "10C3",
        ] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn one_number_amid_words() {
        for (text, value) in [
            ("about 10 dollars", Some("10")),
            ("$5.50 per hour.", Some("11/2")),
            ("x = 5 km", Some("5")),
            ("72", Some("72")),
            ("3 apples and 2 pears", None),
            ("none", None),
        ] {
            assert_eq!(
                parse_quantity(text),
                value.and_then(|v| v.parse().ok()),
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_of_a_text_parts_first() {
        for (text, values) in [
            ("Natalia sold 48 clips in April, 24 in May.", "48 24"),
            ("It costs $1,234.50, less 20%.", "2469/2 20 1/5"),
            ("3/4 of them", "3 4 3/4"),
            ("5 3/4 pounds", "5 3 4 3/4 23/4"),
            ("from -5 to 5-6 o'clock", "5 -5 5 6"),
            ("a 7-pound box at 9:30", "7 9 30"),
            ("buy-2-get-1-free", "2 1"),
            ("on 3/4/2020", "3 4 2020"),
            ("lists 1,2,3 and 10, 200", "1 2 3 10 200"),
            ("2 million, $8k, 5k run", "2 2000000 8 8000 5 5000"),
            ("1/0 and 5 per cent", "1 0 5 1/20"),
            ("$.99 each, 99¢", "99/100 99"),
            ("1/5th of 60", "1 5 1/5 60"),
            ("½ cup and 2½", "1/2 2 1/2 5/2"),
            ("cm³ x2 3x4", "2 3 4"),
            ("no numbers", ""),
        ] {
            assert_eq!(shown(numbers_in(text)), values, "{text}");
        }
    }

    #[test]
    fn spans_point_at_their_text() {
        let text = "Pay −$1,200 — or 3 1/2 €.";
        let found: Vec<&str> = number_spans(text)
            .iter()
            .map(|s| &text[s.range.clone()])
            .collect();
        assert_eq!(found, ["−$1,200", "3 1/2 €"]);
    }

    #[test]
    fn a_megabyte_of_digits_is_one_number_without_a_value() {
        assert!(numbers_in(&"9".repeat(1 << 20)).is_empty());
        assert_eq!(numbers_in(&"1/".repeat(1 << 16)).len(), 1 << 16);
    }
}
