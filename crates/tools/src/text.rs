//! Words as answers are compared by them.

use crate::number::is_minus;

/// Lower case, single blanks, and no punctuation but that of numbers: as the SQuAD evaluation
/// (Rajpurkar et al. 2016) compares answers, which however takes `1.5` for `15` and `-8` for `8`.
///
/// Kept are points, colons, slashes and dashes between digits, a point or minus sign before digits,
/// a percent sign behind them, and a plus or minus that ends a word (`A+`); all dashes are one, and
/// thousands separators go. Articles stay.
pub fn plain_words(text: &str) -> String {
    let chars: Vec<char> = text.to_lowercase().chars().map(folded).collect();
    let mut out = String::with_capacity(text.len());
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| chars[at]);
        let after = &chars[at + 1..];
        if is_kept(c, before, after) {
            out.push(c);
        } else if c == ',' && before.is_some_and(|c| c.is_ascii_digit()) {
            let digits = after.iter().take(4).take_while(|c| c.is_ascii_digit());
            out.push_str(if digits.count() == 3 { "" } else { " " });
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All dashes as one.
fn folded(c: char) -> char {
    if is_minus(c) { '-' } else { c }
}

/// Whether a character is no punctuation, or belongs to a number or a grade.
fn is_kept(c: char, before: Option<char>, after: &[char]) -> bool {
    let next = after.first().copied();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    match c {
        '.' => digit(next) && (digit(before) || !word(before)),
        ':' | '/' => digit(before) && digit(next),
        '%' => digit(before),
        '-' if word(before) && !digit(before) => !word(next),
        '-' => {
            digit(next)
                || (next == Some('.') && digit(after.get(1).copied()))
                || (digit(before) && !word(next))
        }
        '+' => (word(before) || before == Some('+')) && !word(next),
        '‘' | '’' | '“' | '”' | '´' | '—' | '…' => false,
        _ => !c.is_ascii_punctuation(),
    }
}

#[cfg(test)]
mod tests {
    use super::plain_words;

    #[test]
    fn punctuation_goes_but_that_of_numbers() {
        for (text, wanted) in [
            ("The  Beatles!", "the beatles"),
            ("U.S.A.", "usa"),
            ("Jean-Luc O’Neill", "jeanluc oneill"),
            ("Version 1.5, not 15", "version 1.5 not 15"),
            ("1892–94", "1892-94"),
            ("at -5 or −.5", "at -5 or -.5"),
            ("$1,000 and 1,2", "1000 and 1 2"),
            ("50% at 7:30", "50% at 7:30"),
            ("A+ C++ B-", "a+ c++ b-"),
            ("B - 29, F-16", "b 29 f16"),
            ("AC/DC 1/2", "acdc 1/2"),
            ("", ""),
        ] {
            assert_eq!(plain_words(text), wanted, "{text:?}");
        }
    }
}
