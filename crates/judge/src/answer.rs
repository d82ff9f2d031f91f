//! The default outcome judge: numeric and textual equality with the answer key.

mod calendar;
mod compare;
mod expression;
mod lexer;
mod node;
mod quantity;
mod reader;
mod reading;
mod show;
mod typeset;
mod value;

pub use reading::{Reading, read, read_key};

use crate::verdict::{Signature, hash};
use crate::{JudgeError, OutcomeJudge};
use async_trait::async_trait;
use proto::{Question, Verdict};

const VERSION: &str = "answer_match/2";
const RULES: &str = "\
answer_match/2
1. The key and each alias are compared; one match is enough.
2. Key and answer are each read once, without typesetting, as a number, percentage, quantity, amount
   of money, time, date, range, ratio, tuple, interval, set, matrix, expression or relation; all else
   is words. A key is its whole text. In an answer the value may stand amid words; several different
   ones are none, nor is one that is an operand or that something unknown is glued to.
3. Numbers agree if equal, or within one millionth and one thousandth where one has more than two
   decimals, or if the answer has more than two decimals and rounds to the key at the decimals the
   key is written with.
4. A percent sign on one side only may be a factor or a unit: 50% is 0.5 and 50.
5. A unit on one side only may be left out, as may the per of a price. Two units must measure the same, and are converted; two
   nouns must be the same.
6. Tuples and intervals agree item by item, sets in any order, expressions if they have the same
   value wherever they are tried. A calculation beside its result is working, and no value.
7. A key yes or no is compared with the answer's first word, if that stands by itself.
8. Words agree in lower case, without articles and punctuation other than that of numbers.";

/// Numeric and textual equality of an answer with the key and its aliases.
#[derive(Debug, Clone)]
pub struct AnswerMatch(Signature);

impl Default for AnswerMatch {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerMatch {
    /// The judge; it has no options.
    pub fn new() -> Self {
        let prompt_hash = hash(&[RULES]);
        Self(Signature {
            judge: "answer_match",
            version: VERSION,
            prompt_hash,
        })
    }

    /// Whether the answer matches the question's key or one of its aliases.
    pub fn matches(question: &Question, answer: &str) -> bool {
        let keys = std::iter::once(&question.answer).chain(&question.answer_aliases);
        keys.into_iter().any(|key| answers_match(key, answer))
    }

    /// The verdict; this judge cannot fail.
    pub fn verdict(&self, question: &Question, answer: Option<&str>) -> Verdict {
        self.0.verdict(match answer {
            None => Err("no answer was given".to_owned()),
            Some(answer) if Self::matches(question, answer) => Ok("it matches the key".to_owned()),
            Some(_) => Err("it differs from the key".to_owned()),
        })
    }
}

#[async_trait]
impl OutcomeJudge for AnswerMatch {
    fn name(&self) -> &str {
        self.0.judge
    }

    async fn judge(
        &self,
        question: &Question,
        answer: Option<&str>,
    ) -> Result<Verdict, JudgeError> {
        Ok(self.verdict(question, answer))
    }
}

/// Whether an answer says the same as one key, each read once: see [`read_key`], [`read`] and
/// [`Reading::accepts`]. An empty answer matches nothing.
pub fn answers_match(key: &str, answer: &str) -> bool {
    read_key(key).accepts(&read(answer))
}

#[cfg(test)]
mod readings;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::question;
    use proptest::prelude::*;
    use proto::Label;

    #[test]
    fn answers() {
        let rows = [
            // numbers
            ("10", "10", true),
            ("10", "10.00", true),
            ("10", "$10", true),
            ("10", "$10.00", true),
            ("10", "10 dollars", true),
            ("10", "10$", true),
            ("10", "The answer is 10.", true),
            ("10", "x = 10", true),
            ("10", "10 = $10.00", true),
            ("10", "ten", true),
            ("10", "ten dollars", true),
            ("10", "1,0", false),
            ("10", "100", false),
            ("10", "-10", false),
            ("10", "1", false),
            ("10", "10.01", false),
            ("10", "between 9 and 10", false),
            ("10", "5+5=10", false),
            ("10", "", false),
            ("10", "   ", false),
            ("10", "none", false),
            ("$10", "10", true),
            ("10 dollars", "10", true),
            ("10.00", "10", true),
            ("1,000", "1000", true),
            ("1000", "1,000.0", true),
            ("1000", "1 000", false),
            ("-3", "-3", true),
            ("-3", "−3", true),
            ("0", "0", true),
            ("0", "zero", true),
            ("0.5", "1/2", true),
            ("1/2", "0.5", true),
            ("3.5", "3 1/2", true),
            ("1000000", "1 million", true),
            ("1000000", "1000001", false),
            ("1000000", "1e6", true),
            // rounding
            ("3.33", "3.3333", true),
            ("3.33", "3.34", false),
            ("3.33", "3.3", false),
            ("3.3333", "3.33", false),
            ("33", "33.3333", false),
            ("1.5", "1.46", false),
            ("10.50", "10.46", false),
            // percent
            ("50%", "50%", true),
            ("50%", "50 percent", true),
            ("50%", "0.5", true),
            ("50%", "50", true),
            ("50", "50%", true),
            ("0.5", "50%", true),
            ("0.5%", "50%", false),
            ("50%", "5", false),
            ("20", "20.5%", false),
            // yes and no
            ("yes", "Yes", true),
            ("yes", "Yes.", true),
            ("yes", "Yes, both are bands.", true),
            ("no", "No", true),
            ("no", "no, they are not", true),
            ("no", "No one knows", false),
            ("yes", "no", false),
            ("yes", "yes and no", false),
            ("yes", "I say yes", false),
            ("no", "", false),
            // text
            ("Paris", "paris", true),
            ("Paris", " Paris. ", true),
            ("The Beatles", "Beatles", true),
            ("Beatles", "the beatles!", true),
            ("an apple", "apple", true),
            ("Jean-Luc", "Jean-luc", true),
            ("U.S.", "US", true),
            ("O'Neill", "O’Neill", true),
            ("Paris", "London", false),
            ("Paris", "Paris, France", false),
            ("Paris", "", false),
            ("Apollo 11", "Apollo 11", true),
            ("Apollo 11", "11", false),
            ("July 4, 1776", "july 4 1776", true),
            ("10:30", "10:30", true),
            ("10:30", "10", false),
            ("The", "The", true),
            ("The", "A", false),
            ("", "", false),
            ("", "x", false),
        ];
        for (key, answer, wanted) in rows {
            assert_eq!(
                answers_match(key, answer),
                wanted,
                "key {key:?}, answer {answer:?}"
            );
        }
    }

    #[tokio::test]
    async fn aliases_count_and_no_answer_is_bad() {
        let mut question = question("Who?", "William Shakespeare");
        question.answer_aliases = vec!["Shakespeare".into(), "The Bard".into()];
        let rows = [
            (Some("shakespeare"), Label::Good),
            (Some("Bard"), Label::Good),
            (Some("William Shakespeare"), Label::Good),
            (Some("Marlowe"), Label::Bad),
            (Some(""), Label::Bad),
            (None, Label::Bad),
        ];
        let judge = AnswerMatch::new();
        for (answer, wanted) in rows {
            let verdict = judge.judge(&question, answer).await.unwrap();
            assert_eq!(verdict.label, wanted, "{answer:?}");
            assert_eq!(verdict.score, if wanted == Label::Good { 1.0 } else { 0.0 });
            assert_eq!(
                (verdict.judge.as_str(), verdict.prompt_hash.len()),
                ("answer_match", 64)
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_and_a_plain_number_matches_itself(
            key in ".{0,40}", answer in ".{0,40}", number in any::<i64>(), other in any::<i64>(),
        ) {
            let _ = answers_match(&key, &answer);
            let text = number.to_string();
            let sentence = format!("It is ${text}.00!");
            prop_assert!(answers_match(&text, &sentence));
            prop_assert_eq!(answers_match(&text, &other.to_string()), number == other);
        }
    }
}
