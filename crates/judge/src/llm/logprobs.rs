//! The probability of a verdict, from the log-probabilities of a reply's tokens. Pure.

use super::reply::{Words, bare};
use proto::Label;
use serde_json::Value;

/// One generated token.
#[derive(Debug, Clone, Default)]
pub(super) struct Token {
    chosen: Alternative,
    top: Vec<Alternative>,
}

#[derive(Debug, Clone, Default)]
struct Alternative {
    token: String,
    /// In nats; none where the endpoint gave no finite number.
    logprob: Option<f64>,
}

impl Token {
    /// The tokens of `choices[0].logprobs.content`; none where it has another shape.
    pub fn list(content: &Value) -> Vec<Self> {
        let tokens = content.as_array().into_iter().flatten();
        tokens.map(Self::of).collect()
    }

    fn of(token: &Value) -> Self {
        let top = token["top_logprobs"].as_array().into_iter().flatten();
        Self {
            chosen: Alternative::of(token),
            top: top.map(Alternative::of).collect(),
        }
    }
}

impl Alternative {
    fn of(value: &Value) -> Self {
        Self {
            token: value["token"].as_str().unwrap_or_default().to_owned(),
            logprob: value["logprob"].as_f64().filter(|p| p.is_finite()),
        }
    }
}

/// Probability of the good word at the token where the verdict's `word`, which says `label`, begins:
/// softmax over those alternatives that begin one of the two words, spellings added up. A word may
/// take several tokens; its first letter decides. Alternatives without a finite log-probability are
/// left out. `None` where nothing is left of the word that was written: the others alone say nothing.
pub(super) fn probability(tokens: &[Token], word: &str, label: Label, words: Words) -> Option<f32> {
    let token = token_of_last(tokens, word)?;
    let known = |alternative: &&Alternative| alternative.token == token.chosen.token;
    let chosen = (!token.top.iter().any(|a| known(&a))).then_some(&token.chosen);
    let (mut good, mut bad) = (0.0, 0.0);
    for alternative in token.top.iter().chain(chosen) {
        let mass = alternative.logprob.map_or(0.0, f64::exp);
        if begins(&alternative.token, words.good) {
            good += mass;
        } else if begins(&alternative.token, words.bad) {
            bad += mass;
        }
    }
    let own = if label == Label::Good { good } else { bad };
    let score = good / (good + bad);
    (own > 0.0 && score.is_finite()).then_some(score as f32)
}

fn begins(token: &str, word: &str) -> bool {
    let token = bare(token);
    !token.is_empty()
        && word
            .get(..token.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(token))
}

/// The token in which the last occurrence of `word` begins.
fn token_of_last<'a>(tokens: &'a [Token], word: &str) -> Option<&'a Token> {
    let text: String = tokens.iter().map(|t| t.chosen.token.as_str()).collect();
    let start = text.rfind(word)?;
    let mut end = 0;
    tokens.iter().find(|token| {
        end += token.chosen.token.len();
        start < end
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WORDS: Words = Words {
        good: "GOOD",
        bad: "BAD",
    };

    fn label_of(word: &str) -> Label {
        match word.ends_with("BAD") {
            true => Label::Bad,
            false => Label::Good,
        }
    }

    fn token(text: &str, top: &[(&str, f64)]) -> Token {
        let alternative = |(token, p): (&str, f64)| Alternative {
            token: token.to_owned(),
            logprob: Some(p.ln()),
        };
        let own = top.iter().find(|(t, _)| *t == text);
        Token {
            chosen: alternative((text, own.map_or(0.5, |(_, p)| *p))),
            top: top.iter().copied().map(alternative).collect(),
        }
    }

    #[test]
    fn the_probability_of_good_is_a_softmax_over_the_two_words() {
        let rows: [(&str, Vec<Token>, Option<f32>); 9] = [
            // one token, both words listed, a third thing ignored
            (
                "GOOD",
                vec![token("GOOD", &[("GOOD", 0.6), ("BAD", 0.2), ("The", 0.2)])],
                Some(0.75),
            ),
            (
                "BAD",
                vec![token("BAD", &[("BAD", 0.8), ("GOOD", 0.2)])],
                Some(0.2),
            ),
            // spellings add up
            (
                "GOOD",
                vec![token(
                    " GOOD",
                    &[(" GOOD", 0.4), ("GOOD", 0.2), (" Bad", 0.1), ("B", 0.1)],
                )],
                Some(0.75),
            ),
            // several tokens: the first decides
            (
                "GOOD",
                vec![
                    token("GO", &[("GO", 0.5), ("B", 0.5)]),
                    token("OD", &[("OD", 1.0)]),
                ],
                Some(0.5),
            ),
            // reasoning mentions the other word before; decoration and an end token behind
            (
                "GOOD",
                vec![
                    token("maybe", &[("maybe", 1.0)]),
                    token(" BAD", &[(" BAD", 0.9), (" GOOD", 0.1)]),
                    token("\n**", &[("\n**", 1.0)]),
                    token("GOOD", &[("GOOD", 0.7), ("BAD", 0.3)]),
                    token("**<|im_end|>", &[("**<|im_end|>", 1.0)]),
                ],
                Some(0.7),
            ),
            // the chosen token is not among the alternatives
            ("GOOD", vec![token("GOOD", &[("BAD", 0.5)])], Some(0.5)),
            // only one word listed
            (
                "GOOD",
                vec![token("GOOD", &[("GOOD", 0.9), ("x", 0.1)])],
                Some(1.0),
            ),
            // tokens that do not spell the text
            ("BAD", vec![token("??", &[("GOOD", 0.9)])], None),
            ("GOOD", vec![], None),
        ];
        for (word, tokens, wanted) in rows {
            let found = probability(&tokens, word, label_of(word), WORDS);
            let near = match (found, wanted) {
                (Some(found), Some(wanted)) => (found - wanted).abs() < 1e-6,
                (found, wanted) => found == wanted,
            };
            assert!(near, "{word:?}: {found:?} {wanted:?}");
        }
    }

    #[test]
    fn alternatives_without_a_finite_number_are_left_out() {
        // the token's own number, those of its alternatives, the score
        let none = json!(null);
        let rows = [
            (
                json!(-0.7),
                vec![("BAD", json!(-0.7)), ("GOOD", none.clone())],
                Some(0.0),
            ),
            (
                json!(-0.7),
                vec![("BAD", json!(-0.7)), ("GOOD", json!("-inf"))],
                Some(0.0),
            ),
            (
                json!(-0.7),
                vec![("BAD", json!(-0.7)), ("GOOD", json!(-0.7))],
                Some(0.5),
            ),
            // sentinels for impossible
            (
                json!(-0.1),
                vec![("BAD", json!(-0.1)), ("GOOD", json!(-9999.0))],
                Some(0.0),
            ),
            (
                json!(-9999),
                vec![("BAD", json!(-9999)), ("GOOD", json!(-9999))],
                None,
            ),
            // nothing is known of the word itself: the other one alone says nothing
            (
                none.clone(),
                vec![("BAD", none.clone()), ("GOOD", json!(-0.2))],
                None,
            ),
            (none.clone(), vec![("GOOD", json!(-0.2))], None),
            (json!(-0.5), vec![], Some(0.0)),
        ];
        for (own, top, wanted) in rows {
            let entry = |(token, p): &(&str, Value)| json!({"token": token, "logprob": p});
            let top: Vec<Value> = top.iter().map(entry).collect();
            let list = json!([{"token": "BAD", "logprob": own, "top_logprobs": top}]);
            let found = probability(&Token::list(&list), "BAD", Label::Bad, WORDS);
            assert_eq!(found, wanted, "{list}");
        }
    }

    #[test]
    fn any_shape_of_a_list_is_taken() {
        let rows = [
            json!(null),
            json!({}),
            json!("x"),
            json!([]),
            json!([null, 3, "x", {}]),
            json!([{"token": "BAD"}]),
            json!([{"token": "BAD", "logprob": null, "top_logprobs": null}]),
            json!([{"token": "BAD", "logprob": {}, "top_logprobs": [null, 1, {}]}]),
        ];
        for list in rows {
            let found = probability(&Token::list(&list), "BAD", Label::Bad, WORDS);
            assert_eq!(found, None, "{list}");
        }
    }
}
