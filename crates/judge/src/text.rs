//! Answers as text.

use tools::text::plain_words;

/// An answer as the SQuAD evaluation compares it (Rajpurkar et al. 2016): lower case, without
/// punctuation, without the articles a, an and the, single spaces. Typographic quotes and dashes
/// count as punctuation too.
pub fn normalize_answer(text: &str) -> String {
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !is_punctuation(*c))
        .collect();
    let words = text
        .split_whitespace()
        .filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || matches!(c, '‘' | '’' | '“' | '”' | '´' | '–' | '—' | '…')
}

/// An answer as words are compared: [`plain_words`] without articles. Where nothing but articles is
/// left, they stay.
pub(crate) fn spelled(text: &str) -> String {
    let plain = plain_words(text);
    let words = plain.split(' ');
    let telling: Vec<&str> = words
        .filter(|w| !matches!(*w, "a" | "an" | "the"))
        .collect();
    if telling.is_empty() {
        plain
    } else {
        telling.join(" ")
    }
}

/// The words of a text, lower case and without punctuation around or within; articles stay out.
pub(crate) fn words(text: &str) -> Vec<String> {
    let spaced: String = text
        .chars()
        .map(|c| if is_punctuation(c) { ' ' } else { c })
        .collect();
    normalize_answer(&spaced)
        .split(' ')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether `part` occurs in `whole`, word for word; nothing occurs nowhere.
pub(crate) fn contains_words(whole: &[String], part: &[String]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation() {
        let rows = [
            ("The  Beatles!", "beatles"),
            ("  an Apple a day ", "apple day"),
            ("U.S.", "us"),
            ("Jean-Luc", "jeanluc"),
            ("“Hello,” he said…", "hello he said"),
            ("O’Neill", "oneill"),
            ("Theatre", "theatre"),
            ("ÉCOLE", "école"),
            ("the", ""),
            ("", ""),
        ];
        for (text, wanted) in rows {
            assert_eq!(normalize_answer(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn numbers_within_words_keep_their_signs() {
        let rows = [
            ("The  Beatles!", "beatles"),
            ("U.S.", "us"),
            ("Jean-Luc", "jeanluc"),
            ("O’Neill", "oneill"),
            ("Version 1.5", "version 1.5"),
            ("1892–94", "1892-94"),
            ("at -5 or .5", "at -5 or .5"),
            ("1,000 Islands", "1000 islands"),
            ("50% Grey", "50% grey"),
            ("A+", "a+"),
            ("C++", "c++"),
            ("B - 29", "b 29"),
            ("F-16", "f16"),
            ("A", "a"),
            ("the", "the"),
            ("", ""),
        ];
        for (text, wanted) in rows {
            assert_eq!(spelled(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn words_occur_whole_and_in_order() {
        let rows = [
            ("the Eiffel Tower, in Paris", "Eiffel tower", true),
            ("the Eiffel Tower, in Paris", "paris", true),
            ("the Eiffel Tower, in Paris", "Tower Eiffel", false),
            ("Parisian", "Paris", false),
            ("Jean-Luc Godard", "jean luc", true),
            ("anything", "", false),
            ("", "x", false),
        ];
        for (whole, part, wanted) in rows {
            assert_eq!(
                contains_words(&words(whole), &words(part)),
                wanted,
                "{whole} / {part}"
            );
        }
    }
}
