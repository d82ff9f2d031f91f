//! What comes back from a chat endpoint, and the verdict in it. Pure.

use proto::Label;
use serde::Deserialize;

/// Longest rationale that is stored, in bytes; more is cut at the front, the conclusion stays.
const MAX_RATIONALE_BYTES: usize = 4096;
/// How much of an unreadable reply an error shows, in bytes.
const MAX_ENDING_BYTES: usize = 120;

/// The two words a verdict is given in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    /// The word for [`Label::Good`].
    pub good: &'static str,
    /// The word for [`Label::Bad`]; begins with another letter.
    pub bad: &'static str,
}

/// The parts of a chat completion that matter here.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    /// The message.
    pub text: String,
    /// The model's name as the endpoint resolved it.
    pub model: Option<String>,
    /// The tokens with their alternatives; empty where the endpoint gives none.
    pub tokens: Vec<Token>,
}

/// One generated token.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Token {
    #[serde(flatten)]
    chosen: Alternative,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Clone, Deserialize)]
struct Alternative {
    token: String,
    logprob: f64,
}

/// A verdict as the reply gives it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub label: Label,
    /// Probability of [`Label::Good`]; 0 or 1 without log-probabilities.
    pub score: f32,
    /// What stands above the verdict.
    pub rationale: String,
}

/// Reads a chat completion, or says what is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<Reply, String> {
    #[derive(Deserialize)]
    struct Completion {
        model: Option<String>,
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Content,
        logprobs: Option<Logprobs>,
    }
    #[derive(Deserialize)]
    struct Content {
        content: Option<String>,
    }
    #[derive(Deserialize)]
    struct Logprobs {
        content: Option<Vec<Token>>,
    }
    let completion: Completion = serde_json::from_slice(body)
        .map_err(|error| format!("{error} in `{}`", beginning(&String::from_utf8_lossy(body))))?;
    let choice = completion
        .choices
        .into_iter()
        .next()
        .ok_or("its list of choices is empty")?;
    Ok(Reply {
        text: choice.message.content.unwrap_or_default(),
        model: completion.model.filter(|model| !model.is_empty()),
        tokens: choice.logprobs.and_then(|l| l.content).unwrap_or_default(),
    })
}

/// The verdict, if the last line that is not blank holds one of the two words and nothing else
/// (LL-3). Capitals do not matter, nor does punctuation around the word, as in `**GOOD.**`.
pub(super) fn read(reply: &Reply, words: Words) -> Option<Reading> {
    let text = reply.text.trim_end();
    let (above, line) = text.rsplit_once('\n').unwrap_or(("", text));
    let word = bare(line);
    let label = if word.eq_ignore_ascii_case(words.good) {
        Label::Good
    } else if word.eq_ignore_ascii_case(words.bad) {
        Label::Bad
    } else {
        return None;
    };
    let certain = if label == Label::Good { 1.0 } else { 0.0 };
    let score = probability(&reply.tokens, word, words).unwrap_or(certain);
    Some(Reading {
        label,
        score,
        rationale: tail(above.trim(), MAX_RATIONALE_BYTES).to_owned(),
    })
}

/// The end of a reply, for an error message.
pub(super) fn ending(text: &str) -> String {
    tail(text.trim(), MAX_ENDING_BYTES).replace('\n', " ")
}

/// The beginning of a body, for an error message.
pub(super) fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(200).collect()
}

fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation())
}

fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Probability of the good word at the token where the verdict's `word` begins: softmax over those
/// alternatives that begin one of the two words, spellings added up. A word may take several
/// tokens; its first letter decides. `None` where the endpoint gave nothing usable.
fn probability(tokens: &[Token], word: &str, words: Words) -> Option<f32> {
    let token = token_of_last(tokens, word)?;
    let known = token
        .top_logprobs
        .iter()
        .any(|a| a.token == token.chosen.token);
    let chosen = (!known).then_some(&token.chosen);
    let (mut good, mut bad) = (0.0, 0.0);
    for alternative in token.top_logprobs.iter().chain(chosen) {
        let mass = alternative.logprob.exp();
        if begins(&alternative.token, words.good) {
            good += mass;
        } else if begins(&alternative.token, words.bad) {
            bad += mass;
        }
    }
    let score = good / (good + bad);
    score.is_finite().then_some(score as f32)
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
    let text: String = tokens
        .iter()
        .map(|token| token.chosen.token.as_str())
        .collect();
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
    use Label::{Bad, Good};

    const WORDS: Words = Words {
        good: "GOOD",
        bad: "BAD",
    };

    fn label(text: &str) -> Option<Label> {
        let reply = Reply {
            text: text.to_owned(),
            ..Default::default()
        };
        read(&reply, WORDS).map(|reading| reading.label)
    }

    #[test]
    fn ll_3_only_a_last_line_with_the_bare_word_counts() {
        let rows = [
            ("It uses 48.\nGOOD", Some(Good)),
            ("It uses 48.\n\nBAD\n\n", Some(Bad)),
            ("GOOD", Some(Good)),
            ("Reason.\r\nGOOD\r\n", Some(Good)),
            ("x\n**BAD**", Some(Bad)),
            ("x\n  Good.  ", Some(Good)),
            ("GOOD\nOn second thought:\nBAD", Some(Bad)),
            ("This is GOOD", None),
            ("x\nNOT GOOD", None),
            ("x\nGOOD or BAD", None),
            ("x\nVerdict: GOOD", None),
            ("GOOD\nI hope that helps", None),
            ("x\nGOODBYE", None),
            ("x\nYES", None),
            ("", None),
            ("\n\n", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(label(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_rationale_is_what_stands_above() {
        let text = format!("{}é\nthe end\nGOOD\n", "é".repeat(5000));
        let reply = Reply {
            text,
            ..Default::default()
        };
        let reading = read(&reply, WORDS).unwrap();
        assert!(reading.rationale.ends_with("é\nthe end"));
        assert!(reading.rationale.len() <= MAX_RATIONALE_BYTES);
        assert_eq!(reading.score, 1.0);
    }

    fn token(text: &str, top: &[(&str, f64)]) -> Token {
        let alternative = |(token, p): (&str, f64)| Alternative {
            token: token.to_owned(),
            logprob: p.ln(),
        };
        let own = top
            .iter()
            .find(|(t, _)| *t == text)
            .map_or(0.5, |(_, p)| *p);
        Token {
            chosen: alternative((text, own)),
            top_logprobs: top.iter().copied().map(alternative).collect(),
        }
    }

    #[test]
    fn the_probability_of_good_is_a_softmax_over_the_two_words() {
        let rows: [(&str, Vec<Token>, f32); 9] = [
            // one token, both words listed, a third thing ignored
            (
                "GOOD",
                vec![token("GOOD", &[("GOOD", 0.6), ("BAD", 0.2), ("The", 0.2)])],
                0.75,
            ),
            (
                "BAD",
                vec![token("BAD", &[("BAD", 0.8), ("GOOD", 0.2)])],
                0.2,
            ),
            // spellings add up
            (
                "GOOD",
                vec![token(
                    " GOOD",
                    &[(" GOOD", 0.4), ("GOOD", 0.2), (" Bad", 0.1), ("B", 0.1)],
                )],
                0.75,
            ),
            // several tokens: the first decides
            (
                "GOOD",
                vec![
                    token("GO", &[("GO", 0.5), ("B", 0.5)]),
                    token("OD", &[("OD", 1.0)]),
                ],
                0.5,
            ),
            // reasoning mentions the other word before; decoration and an end token behind
            (
                "maybe BAD\n**GOOD**",
                vec![
                    token("maybe", &[("maybe", 1.0)]),
                    token(" BAD", &[(" BAD", 0.9), (" GOOD", 0.1)]),
                    token("\n**", &[("\n**", 1.0)]),
                    token("GOOD", &[("GOOD", 0.7), ("BAD", 0.3)]),
                    token("**<|im_end|>", &[("**<|im_end|>", 1.0)]),
                ],
                0.7,
            ),
            // the chosen token is not among the alternatives
            ("GOOD", vec![token("GOOD", &[("BAD", 0.5)])], 0.5),
            // only one word listed
            (
                "GOOD",
                vec![token("GOOD", &[("GOOD", 0.9), ("x", 0.1)])],
                1.0,
            ),
            // tokens that do not spell the text: fall back to the label
            ("BAD", vec![token("??", &[("GOOD", 0.9)])], 0.0),
            ("GOOD", vec![], 1.0),
        ];
        for (text, tokens, wanted) in rows {
            let reply = Reply {
                text: text.to_owned(),
                tokens,
                ..Default::default()
            };
            let found = read(&reply, WORDS).unwrap().score;
            assert!((found - wanted).abs() < 1e-6, "{text:?}: {found} {wanted}");
        }
    }

    #[test]
    fn sentinels_for_impossible_do_not_make_nan() {
        let mut one = token("GOOD", &[("GOOD", 0.9), ("BAD", 0.1)]);
        one.top_logprobs[1].logprob = -9999.0;
        assert_eq!(probability(&[one.clone()], "GOOD", WORDS), Some(1.0));
        one.top_logprobs[0].logprob = -9999.0;
        assert_eq!(probability(&[one], "GOOD", WORDS), None);
    }

    #[test]
    fn bodies() {
        let parsed = parse(br#"{"model":"m","choices":[{"message":{"content":"GOOD"}}]}"#).unwrap();
        assert_eq!(
            (parsed.text.as_str(), parsed.model.as_deref()),
            ("GOOD", Some("m"))
        );
        let empty = parse(br#"{"choices":[{"message":{"content":null},"logprobs":null}]}"#);
        assert_eq!(empty.unwrap().text, "");
        for body in [
            &b"<html>hello</html>"[..],
            b"",
            b"{}",
            br#"{"choices":[]}"#,
            b"\xff\xfe",
        ] {
            assert!(parse(body).is_err(), "{body:?}");
        }
        assert!(
            parse(b"<html>\n  hello")
                .unwrap_err()
                .contains("`<html> hello`")
        );
    }
}
