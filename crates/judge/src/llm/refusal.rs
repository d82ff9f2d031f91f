//! The endpoint's objection to a request, and the setting that would help. Pure.

use super::reply;
use serde_json::Value;

/// A request that was refused, as far as the reply says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Requests that it concerns.
    pub concerns: Concern,
    /// Whether a content filter refused it.
    pub is_of_content: bool,
    /// Advice, naming the setting.
    pub advice: String,
}

/// Requests that a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// This prompt: others may be taken.
    Prompt,
    /// Every request, as things are set up.
    Settings,
}

/// The settings that advice depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// The field that limits the reply.
    pub max_tokens_field: &'static str,
    /// Fields of the extra body.
    pub body: Vec<String>,
}

/// The parts of an error body that say why.
#[derive(Debug, Default)]
struct Complaint {
    /// The parameter that is named by itself.
    param: String,
    /// All that is said, in lower case.
    text: String,
}

/// Objection to the request in a reply that is no success.
pub(super) fn diagnose(status: u16, body: &str, sent: &Sent) -> Refusal {
    let complaint = Complaint::of(body);
    let found = about_content(status, &complaint)
        .or_else(|| about_length(status, &complaint, sent))
        .or_else(|| match status {
            400 | 404 | 405 | 415 | 422 => about_parameter(&complaint, sent),
            _ => None,
        });
    found.unwrap_or_else(|| by_status(status))
}

fn prompt(advice: &str) -> Refusal {
    Refusal {
        concerns: Concern::Prompt,
        is_of_content: false,
        advice: advice.to_owned(),
    }
}

fn settings(advice: impl Into<String>) -> Refusal {
    Refusal {
        concerns: Concern::Settings,
        is_of_content: false,
        advice: advice.into(),
    }
}

impl Complaint {
    fn of(body: &str) -> Self {
        let Ok(value) = reply::json(body.as_bytes()) else {
            return Self {
                param: String::new(),
                text: body.to_lowercase(),
            };
        };
        let mut complaint = Self::default();
        complaint.gather("", &value);
        complaint
    }

    /// Texts of whatever shape: an `error` that is a string or an object, FastAPI's `detail`, lists.
    fn gather(&mut self, key: &str, value: &Value) {
        match value {
            Value::String(text) if key == "param" => self.param = text.to_lowercase(),
            Value::String(text) => {
                self.text.push_str(&text.to_lowercase());
                self.text.push('\n');
                // An error inside an error, as proxies pass it on.
                if text.starts_with('{')
                    && let Ok(inner) = serde_json::from_str::<Value>(text)
                {
                    self.gather("", &inner);
                }
            }
            Value::Array(all) => all.iter().for_each(|one| self.gather(key, one)),
            Value::Object(map) => map.iter().for_each(|(key, one)| self.gather(key, one)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    /// Whether it is about the request's field of this name.
    fn names(&self, field: &str) -> bool {
        self.param == field || holds_word(&self.param, field) || holds_word(&self.text, field)
    }
}

/// Whether a name stands in a text by itself, and not as a part of a longer one.
fn holds_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

fn about_content(status: u16, complaint: &Complaint) -> Option<Refusal> {
    const WORDS: [&str; 12] = [
        "content_filter",
        "content filter",
        "content management policy",
        "content policy",
        "content_policy",
        "contentfilter",
        "responsibleai",
        "moderation",
        "flagged",
        "safety system",
        "safety policy",
        "usage policies",
    ];
    (status != 401 && complaint.says(&WORDS)).then(|| Refusal {
        is_of_content: true,
        ..prompt(
            "the endpoint's content filter does not let this prompt through: relax the filter \
             there, use another model, or raise judge.max_unjudged_share",
        )
    })
}

fn about_length(status: u16, complaint: &Complaint, sent: &Sent) -> Option<Refusal> {
    const WORDS: [&str; 11] = [
        "context_length",
        "context length",
        "context window",
        "context size",
        "context_size",
        "max_model_len",
        "max-model-len",
        "prompt is too long",
        "input is too long",
        "input length",
        "maximum number of tokens",
    ];
    let is_too_large = |field| complaint.names(field) && complaint.says(&["too large", "too high"]);
    let is_long = complaint.says(&WORDS) || status == 413;
    if is_long {
        return Some(prompt(
            "prompt and reply do not fit the judge model's context: lower [judge.llm] max_tokens, \
             shorten the rubric, or serve the model with a longer context",
        ));
    }
    let limits = ["max_tokens", "max_completion_tokens", "max_new_tokens"];
    let at_most = ["at most", "less than or equal", "maximum"];
    let is_limit = limits
        .into_iter()
        .any(|field| is_too_large(field) || (complaint.names(field) && complaint.says(&at_most)));
    (is_limit && !is_unknown(complaint)).then(|| {
        settings(format!(
            "lower [judge.llm] max_tokens (sent as `{}`)",
            sent.max_tokens_field
        ))
    })
}

/// Whether a field is refused for what it is, not for its value.
fn is_unknown(complaint: &Complaint) -> bool {
    complaint.says(&[
        "unsupported parameter",
        "unsupported_parameter",
        "not supported",
        "unrecognized",
        "unknown",
        "extra fields",
        "extra inputs",
        "extra_forbidden",
        "not permitted",
        "not allowed",
        "deprecated",
        "instead",
    ])
}

fn about_parameter(complaint: &Complaint, sent: &Sent) -> Option<Refusal> {
    // Its own name first: replies to one parameter often mention others.
    let own = [complaint.param.as_str()];
    let known = [
        "top_logprobs",
        "logprobs",
        "temperature",
        "max_completion_tokens",
        "max_tokens",
        "response_format",
    ];
    let mut named: Vec<&str> = own.into_iter().filter(|param| !param.is_empty()).collect();
    let body = sent.body.iter().map(String::as_str);
    named.extend(
        body.clone()
            .filter(|field| complaint.names(&field.to_lowercase())),
    );
    named.extend(known.into_iter().filter(|field| complaint.names(field)));
    let advice = named
        .into_iter()
        .find_map(|field| advice(field, complaint, sent));
    advice.or_else(|| about_messages(complaint)).map(settings)
}

/// Advice about a field of the request.
fn advice(field: &str, complaint: &Complaint, sent: &Sent) -> Option<String> {
    let extra = sent
        .body
        .iter()
        .find(|extra| extra.eq_ignore_ascii_case(field));
    if let Some(extra) = extra {
        return Some(format!("correct or remove `{extra}` in [judge.llm.body]"));
    }
    Some(match field {
        "top_logprobs" if !is_unknown(complaint) => {
            "lower [judge.llm] top_logprobs, or set use_logprobs = false".to_owned()
        }
        "logprobs" if complaint.says(&["max allowed", "greater than", "less than"]) => {
            "lower [judge.llm] top_logprobs, or set use_logprobs = false".to_owned()
        }
        "logprobs" | "top_logprobs" => "set [judge.llm] use_logprobs = false".to_owned(),
        "temperature" => {
            "set [judge.llm] temperature = \"default\", which leaves it out".to_owned()
        }
        "max_tokens" | "max_completion_tokens" => {
            let other = match sent.max_tokens_field {
                "max_tokens" => "max_completion_tokens",
                _ => "max_tokens",
            };
            format!("set [judge.llm] max_tokens_field = \"{other}\"")
        }
        "model" => "correct [judge.llm] model: the endpoint lists its models at /v1/models".into(),
        "response_format" => "correct or remove `response_format` in [judge.llm.body]".to_owned(),
        _ => return None,
    })
}

fn about_messages(complaint: &Complaint) -> Option<String> {
    if complaint.says(&[
        "system role",
        "system message",
        "role 'system'",
        "role: system",
    ]) || (complaint.says(&["roles must alternate"]))
    {
        return Some("set [judge.llm] system_message = false".to_owned());
    }
    let is_model = complaint.says(&["model"])
        && complaint.says(&["does not exist", "not found", "not exist", "unknown model"]);
    is_model.then(|| {
        "correct [judge.llm] model: the endpoint lists its models at /v1/models".to_owned()
    })
}

fn by_status(status: u16) -> Refusal {
    match status {
        401 | 403 | 407 => settings("check [judge.llm] api_key_env and headers"),
        404 | 405 | 410 => settings("check [judge.llm] base_url and model"),
        300..=399 => settings("give [judge.llm] base_url as the address it moved to"),
        400 | 422 => prompt(
            "if every request is refused, check [judge.llm] model, max_tokens_field, temperature, \
             use_logprobs and body",
        ),
        _ => settings("check [judge.llm] base_url, model, headers and body"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sent() -> Sent {
        Sent {
            max_tokens_field: "max_tokens",
            body: vec!["reasoning_effort".into(), "chat_template_kwargs".into()],
        }
    }

    #[test]
    fn each_refusal_advises_the_setting_that_would_help() {
        use Concern::{Prompt, Settings};
        let openai = |message: &str, param: Value, code: &str| json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}});
        let error = |message: &str| json!({"error": {"message": message}});
        let rows = [
            (
                400,
                openai(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                     'max_completion_tokens' instead.",
                    json!("max_tokens"),
                    "unsupported_parameter",
                ),
                Settings,
                "max_tokens_field = \"max_completion_tokens\"",
            ),
            (
                422,
                json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}),
                Settings,
                "max_tokens_field = \"max_completion_tokens\"",
            ),
            (
                400,
                openai(
                    "max_tokens is too large: 100000. This model supports at most 16384 completion \
                     tokens, whereas you provided 100000.",
                    json!("max_tokens"),
                    "invalid_value",
                ),
                Settings,
                "lower [judge.llm] max_tokens",
            ),
            (
                400,
                openai(
                    "Unsupported value: 'temperature' does not support 0 with this model. Only the \
                     default (1) value is supported.",
                    json!("temperature"),
                    "unsupported_value",
                ),
                Settings,
                "temperature = \"default\"",
            ),
            (
                400,
                error("`temperature` is deprecated for this model."),
                Settings,
                "temperature = \"default\"",
            ),
            (
                403,
                openai(
                    "You are not allowed to request logprobs from this model",
                    json!(null),
                    "",
                ),
                Settings,
                "api_key_env",
            ),
            (
                400,
                openai(
                    "This model does not support the 'logprobs' parameter.",
                    json!("logprobs"),
                    "",
                ),
                Settings,
                "use_logprobs = false",
            ),
            (
                400,
                openai(
                    "'top_logprobs' is not supported with this model",
                    json!(null),
                    "",
                ),
                Settings,
                "use_logprobs = false",
            ),
            (
                400,
                json!({"object": "error", "message": "Requested sample logprobs of 20, which is greater than max allowed: 5", "type": "BadRequestError", "param": null, "code": 400}),
                Settings,
                "lower [judge.llm] top_logprobs",
            ),
            (
                400,
                openai(
                    "Invalid value for 'top_logprobs': must be less than or equal to 5.",
                    json!("top_logprobs"),
                    "",
                ),
                Settings,
                "lower [judge.llm] top_logprobs",
            ),
            (
                400,
                error("response_format of type json_schema is not supported"),
                Settings,
                "`response_format` in [judge.llm.body]",
            ),
            (
                400,
                openai(
                    "Unrecognized request argument supplied: reasoning_effort",
                    json!(null),
                    "",
                ),
                Settings,
                "`reasoning_effort` in [judge.llm.body]",
            ),
            (
                400,
                openai(
                    "This model's maximum context length is 4096 tokens. However, you requested \
                     5000 tokens (3976 in the messages, 1024 in the completion).",
                    json!("messages"),
                    "context_length_exceeded",
                ),
                Prompt,
                "lower [judge.llm] max_tokens",
            ),
            (
                400,
                error(
                    "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's \
                       maximum context length is 4096 tokens and your request has 200 input tokens",
                ),
                Prompt,
                "lower [judge.llm] max_tokens",
            ),
            (
                400,
                error("the request exceeds the available context size, try increasing it"),
                Prompt,
                "longer context",
            ),
            (
                413,
                json!({"error": "Payload Too Large"}),
                Prompt,
                "context",
            ),
            (
                400,
                json!({"error": {"message": "The response was filtered due to the prompt triggering \
                        the content management policy.", "code": "content_filter"}}),
                Prompt,
                "max_unjudged_share",
            ),
            (
                403,
                error("Your input was flagged by moderation"),
                Prompt,
                "content filter",
            ),
            (
                400,
                json!({"error": {"message": "{\"error\": {\"code\": \"content_policy_violation\"}}"}}),
                Prompt,
                "content filter",
            ),
            (
                400,
                error("System role not supported"),
                Settings,
                "system_message = false",
            ),
            (
                400,
                error("Conversation roles must alternate user/assistant/user/assistant/..."),
                Settings,
                "system_message = false",
            ),
            (
                404,
                error("The model `grader` does not exist."),
                Settings,
                "[judge.llm] model",
            ),
            (404, json!({"detail": "Not Found"}), Settings, "base_url"),
            (401, json!({"error": "bad key"}), Settings, "api_key_env"),
            (302, json!(""), Settings, "base_url"),
            (
                400,
                json!({"error": "no"}),
                Prompt,
                "if every request is refused",
            ),
        ];
        for (status, body, concerns, advice) in rows {
            let found = diagnose(status, &body.to_string(), &sent());
            assert_eq!(found.concerns, concerns, "{body}: {found:?}");
            assert!(found.advice.contains(advice), "{body}: {found:?}");
        }
        let plain = diagnose(400, "temperature is not supported", &sent());
        assert!(plain.advice.contains("temperature"), "{plain:?}");
    }

    #[test]
    fn the_field_that_was_sent_decides_which_one_is_advised() {
        let sent = Sent {
            max_tokens_field: "max_completion_tokens",
            body: Vec::new(),
        };
        let body = r#"{"error": "unknown field max_completion_tokens"}"#;
        let found = diagnose(400, body, &sent);
        assert!(found.advice.contains("max_tokens_field = \"max_tokens\""));
    }

    #[test]
    fn names_are_whole_words() {
        let rows = [
            ("max_tokens", "max_tokens", true),
            ("'max_tokens'.", "max_tokens", true),
            ("body.max_tokens", "max_tokens", true),
            ("max_tokens_field", "max_tokens", false),
            ("top_logprobs", "logprobs", false),
        ];
        for (text, word, wanted) in rows {
            assert_eq!(holds_word(text, word), wanted, "{text}");
        }
    }
}
