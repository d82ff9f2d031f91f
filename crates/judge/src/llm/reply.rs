//! What comes back from a chat endpoint, and the verdict in it. Pure.

use super::logprobs::{Token, probability};
use super::thinking::without_thinking;
use proto::Label;
use serde_json::Value;
use std::borrow::Cow;

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
    /// The message, without reasoning.
    pub text: String,
    /// The model's name as the endpoint resolved it.
    pub model: Option<String>,
    /// Why it ends.
    pub finish: Finish,
    /// The tokens with their alternatives; empty where the endpoint gives none.
    pub tokens: Vec<Token>,
}

/// Why a reply ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model was done, or the endpoint does not say.
    #[default]
    Done,
    /// The limit of tokens cut it off.
    CutOff,
    /// The endpoint's content filter did.
    Filtered,
    /// The endpoint broke off, as one that shuts down.
    Aborted,
}

impl Finish {
    /// From the protocol's `finish_reason`, in the spellings of hosted services and servers.
    fn of(reason: &str) -> Self {
        match reason.to_ascii_lowercase().as_str() {
            "length" | "max_tokens" | "max_output_tokens" | "model_length" => Self::CutOff,
            "content_filter" | "content_filtered" | "safety" | "prohibited_content"
            | "blocklist" | "recitation" => Self::Filtered,
            "abort" | "error" | "cancelled" | "canceled" => Self::Aborted,
            _ => Self::Done,
        }
    }
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

/// A body as JSON. Python's spelling of numbers that are none (`NaN`, `-Infinity`) and numbers that
/// are too large are read as null.
pub(super) fn json(body: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(body).or_else(|error| match finite(body) {
        Cow::Owned(body) => serde_json::from_slice(&body),
        Cow::Borrowed(_) => Err(error),
    })
}

/// Reads a chat completion, or says what is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<Reply, String> {
    let shown = || beginning(&String::from_utf8_lossy(body));
    let completion = json(body).map_err(|error| format!("{error} in `{}`", shown()))?;
    let choices = completion["choices"].as_array();
    let choices = choices.ok_or_else(|| format!("there is no list `choices` in `{}`", shown()))?;
    let choice = choices.first().ok_or("its list of choices is empty")?;
    let message = choice["message"].as_object();
    let message = message.ok_or_else(|| format!("there is no `message` in `{}`", shown()))?;
    let text = message.get("content").map(content).unwrap_or_default();
    let model = completion["model"].as_str().filter(|m| !m.is_empty());
    Ok(Reply {
        text: without_thinking(&text),
        model: model.map(str::to_owned),
        finish: Finish::of(choice["finish_reason"].as_str().unwrap_or_default()),
        tokens: Token::list(&choice["logprobs"]["content"]),
    })
}

/// The text of a message's content: a string, or parts, of which those that are text count. A
/// model's thoughts come in parts of other types, or in fields of its own (`reasoning_content`).
fn content(content: &Value) -> String {
    let part = |part: &Value| -> String {
        let is_text = matches!(part["type"].as_str(), None | Some("text" | "output_text"));
        let text = part.as_str().or_else(|| part["text"].as_str());
        let text = text.or_else(|| part["text"]["value"].as_str());
        text.filter(|_| is_text).unwrap_or_default().to_owned()
    };
    match content {
        Value::Array(parts) => parts.iter().map(part).collect(),
        one => part(one),
    }
}

/// The body with every bare literal that is no finite number replaced by null.
fn finite(body: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(body.len());
    let (mut at, mut in_string, mut changed) = (0, false, false);
    while let Some(&byte) = body.get(at) {
        let is_literal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let mut end = at + 1;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => end = (at + 2).min(body.len()),
            _ if !in_string && is_literal(&byte) => {
                end = at + body[at..].iter().take_while(|b| is_literal(b)).count();
                let literal = std::str::from_utf8(&body[at..end]).unwrap_or_default();
                if literal
                    .parse::<f64>()
                    .is_ok_and(|number| !number.is_finite())
                {
                    out.extend_from_slice(b"null");
                    (at, changed) = (end, true);
                    continue;
                }
            }
            _ => {}
        }
        out.extend_from_slice(&body[at..end]);
        at = end;
    }
    match changed {
        true => Cow::Owned(out),
        false => Cow::Borrowed(body),
    }
}

/// The verdict, if the reply is whole and its last line that is not blank holds one of the two words
/// and nothing else (LL-3). Capitals do not matter, nor does punctuation around the word, as in
/// `**GOOD.**`.
pub(super) fn read(reply: &Reply, words: Words) -> Option<Reading> {
    if reply.finish != Finish::Done {
        return None;
    }
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
    let score = probability(&reply.tokens, word, label, words).unwrap_or(certain);
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

/// A word without blanks and punctuation around it.
pub(super) fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation())
}

fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use Label::{Bad, Good};
    use serde_json::json;

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

    fn verdict(message: Value, finish: Value) -> Option<Label> {
        let body = json!({"choices": [{"message": message, "finish_reason": finish}]});
        let reply = parse(body.to_string().as_bytes()).unwrap();
        read(&reply, WORDS).map(|reading| reading.label)
    }

    #[test]
    fn content_comes_in_many_shapes() {
        let text = |text: &str| json!({"type": "text", "text": text});
        let rows = [
            (json!("x\nGOOD"), Some(Good)),
            (json!(null), None),
            (json!([]), None),
            (json!([text("x\n"), text("BAD")]), Some(Bad)),
            (json!(["x\n", "BAD"]), Some(Bad)),
            (json!({"type": "text", "text": "GOOD"}), Some(Good)),
            (json!([{"text": "GOOD"}]), Some(Good)),
            (json!([{"type": "output_text", "text": "GOOD"}]), Some(Good)),
            (
                json!([{"type": "text", "text": {"value": "GOOD"}}]),
                Some(Good),
            ),
            (
                json!([{"type": "thinking", "thinking": [text("BAD")]}, text("They differ.\nGOOD")]),
                Some(Good),
            ),
            (json!([{"type": "thinking", "thinking": "GOOD"}]), None),
            (json!([{"type": "reasoning", "text": "x\nGOOD"}]), None),
            (
                json!([text("x\nGOOD"), {"type": "refusal", "refusal": "no"}]),
                Some(Good),
            ),
            (json!([null, 3, text("GOOD")]), Some(Good)),
            (json!(7), None),
        ];
        for (content, wanted) in rows {
            let found = verdict(
                json!({"role": "assistant", "content": content}),
                json!("stop"),
            );
            assert_eq!(found, wanted, "{content}");
        }
    }

    #[test]
    fn reasoning_is_no_verdict_wherever_it_stands() {
        let rows = [
            (
                json!({"content": null, "reasoning_content": "x\nGOOD"}),
                None,
            ),
            (json!({"content": "", "reasoning": "x\nGOOD"}), None),
            (json!({"reasoning_content": "x\nGOOD"}), None),
            (
                json!({"content": "x\nBAD", "reasoning_content": "GOOD"}),
                Some(Bad),
            ),
            (json!({"content": "<think>\nOptions are:\nGOOD"}), None),
            (
                json!({"content": "<think>x\nGOOD\n</think>\n\nBAD"}),
                Some(Bad),
            ),
            (json!({"content": "x\nGOOD\n</think>\nBAD"}), Some(Bad)),
            (
                json!({"content": "BAD\n<think>\nGOOD\n</think>"}),
                Some(Bad),
            ),
            (
                json!({"content": [{"type": "text", "text": "<think>\nGOOD"}]}),
                None,
            ),
        ];
        for (message, wanted) in rows {
            assert_eq!(verdict(message.clone(), json!("stop")), wanted, "{message}");
        }
    }

    #[test]
    fn a_reply_that_is_not_whole_is_no_verdict() {
        let rows = [
            (json!("stop"), Some(Good)),
            (json!(null), Some(Good)),
            (json!("eos"), Some(Good)),
            (json!("length"), None),
            (json!("LENGTH"), None),
            (json!("max_tokens"), None),
            (json!("MAX_TOKENS"), None),
            (json!("model_length"), None),
            (json!("content_filter"), None),
            (json!("SAFETY"), None),
            (json!("abort"), None),
            (json!("error"), None),
        ];
        for (finish, wanted) in rows {
            let found = verdict(json!({"content": "x\nGOOD"}), finish.clone());
            assert_eq!(found, wanted, "{finish}");
        }
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
            b"[]",
            br#"{"choices":[]}"#,
            br#"{"choices":{}}"#,
            br#"{"choices":[{}]}"#,
            br#"{"choices":[{"text":"GOOD"}]}"#,
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

    #[test]
    fn numbers_that_json_does_not_know_are_null() {
        let rows = [
            (
                r#"[NaN, -Infinity, Infinity, 1e999, -1e999]"#,
                "[null,null,null,null,null]",
            ),
            (r#"{"a": nan, "b": -inf}"#, r#"{"a":null,"b":null}"#),
            (r#"["NaN \" Infinity", NaN]"#, r#"["NaN \" Infinity",null]"#),
            (r#"["\\", NaN]"#, r#"["\\",null]"#),
            (
                r#"[true, false, null, -0.5, 1e-3]"#,
                "[true,false,null,-0.5,0.001]",
            ),
        ];
        for (body, wanted) in rows {
            assert_eq!(json(body.as_bytes()).unwrap().to_string(), wanted, "{body}");
        }
        assert!(json(b"[Nanny]").is_err());
    }
}
