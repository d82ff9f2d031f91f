//! Exact match and token F1 of answers as text.
//!
//! Source: the evaluation script of SQuAD (Rajpurkar et al. 2016), which HotpotQA and MuSiQue use,
//! too: lower case, no punctuation, no articles, single blanks. Unlike there numbers keep their
//! points, signs and slashes, so that `1.5` does not match `15`.

use std::collections::HashMap;
use tools::text::plain_words;

/// The form in which answers are compared.
pub fn normalise(answer: &str) -> String {
    let plain = plain_words(answer);
    let words = plain.split(' ');
    let telling = words.filter(|word| !matches!(*word, "a" | "an" | "the"));
    telling.collect::<Vec<_>>().join(" ")
}

/// Whether two answers are the same in normal form.
pub fn exact_match(answer: &str, key: &str) -> bool {
    normalise(answer) == normalise(key)
}

/// Harmonic mean of the precision and recall of the answer's words, in [0, 1]. Two empty answers
/// agree; `yes`, `no` and `noanswer` count as wholes, as in HotpotQA's script.
pub fn token_f1(answer: &str, key: &str) -> f64 {
    let (answer, key) = (normalise(answer), normalise(key));
    let closed = |text: &str| matches!(text, "yes" | "no" | "noanswer" | "");
    if closed(&answer) || closed(&key) {
        return if answer == key { 1.0 } else { 0.0 };
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in key.split(' ') {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0_usize;
    for word in answer.split(' ') {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    let words = answer.split(' ').count() + key.split(' ').count();
    2.0 * common as f64 / words as f64
}

/// The best value over the answer key and its other spellings.
pub fn best(question: &proto::Question, metric: impl Fn(&str) -> f64) -> f64 {
    let keys = std::iter::once(&question.answer).chain(&question.answer_aliases);
    keys.map(|key| metric(key)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_form_follows_the_script() {
        for (text, form) in [
            ("The  Quick, Fox!", "quick fox"),
            ("U.S.A.", "usa"),
            ("an apple a day", "apple day"),
            ("theory", "theory"),
            ("", ""),
            ("$1,000", "1000"),
        ] {
            assert_eq!(normalise(text), form, "{text}");
        }
        assert!(exact_match("The Beatles.", "beatles"));
        assert!(!exact_match("Beatle", "Beatles"));
        for (answer, key) in [("15", "1.5"), ("8", "-8"), ("12", "1/2"), ("730", "7:30")] {
            assert!(!exact_match(answer, key), "{answer} / {key}");
        }
    }

    #[test]
    fn f1_has_the_known_values() {
        for (answer, key, f1) in [
            ("Barack Obama", "Obama", 2.0 / 3.0),
            ("red red blue", "red blue blue", 2.0 / 3.0),
            ("cat", "dog", 0.0),
            ("yes it is", "yes", 0.0),
            ("the", "a", 1.0),
            ("", "x", 0.0),
        ] {
            assert!(
                (token_f1(answer, key) - f1).abs() < 1e-12,
                "{answer} / {key}"
            );
        }
    }

    proptest! {
        #[test]
        fn f1_is_symmetric_within_bounds_and_1_for_equals(a in "[a-d ]{0,12}", b in "[a-d ]{0,12}") {
            let f1 = token_f1(&a, &b);
            prop_assert!((0.0..=1.0).contains(&f1));
            prop_assert!((f1 - token_f1(&b, &a)).abs() < 1e-12);
            prop_assert_eq!(token_f1(&a, &a), 1.0);
        }
    }
}
