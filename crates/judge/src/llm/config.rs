//! The section `[judge.llm]`.

use super::setup_error::LlmSetupError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Fields of a request that are settings of their own, or that replies are not read for.
const RESERVED: [&str; 6] = [
    "model",
    "messages",
    "stream",
    "n",
    "logprobs",
    "top_logprobs",
];

/// The field of a request that limits the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// `max_tokens`, which nearly every server takes.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which hosted reasoning models take instead.
    MaxCompletionTokens,
}

impl MaxTokensField {
    /// Both names, each of which is the setting's alone.
    const NAMES: [&'static str; 2] = ["max_tokens", "max_completion_tokens"];

    /// The name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => Self::NAMES[0],
            Self::MaxCompletionTokens => Self::NAMES[1],
        }
    }
}

/// The temperature that is asked for: a number, or `"default"`, which leaves the field out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Temperature {
    /// This one.
    Value(f32),
    /// The endpoint's own: hosted reasoning models refuse the field.
    Default,
}

impl Serialize for Temperature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_f32(*value),
            Self::Default => serializer.serialize_str("default"),
        }
    }
}

impl<'de> Deserialize<'de> for Temperature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = "write a number from 0 to 2, or \"default\" to leave it to the endpoint";
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "default" => Ok(Self::Default),
            Value::Number(number) => match number.as_f64() {
                Some(value) if (0.0..=2.0).contains(&value) => Ok(Self::Value(value as f32)),
                _ => Err(de::Error::custom(wrong)),
            },
            _ => Err(de::Error::custom(wrong)),
        }
    }
}

/// How to reach and how to treat the endpoint of a language-model judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmJudgeConfig {
    /// Where the endpoint is, such as `http://127.0.0.1:8000/v1` (the default, vLLM's own port) or
    /// `https://api.example.com/v1`. A bare host gets `/v1/chat/completions`, a path gets
    /// `/chat/completions` unless it ends so.
    pub base_url: String,
    /// The model's name at the endpoint. There is no default.
    pub model: String,
    /// The environment variable that holds the API key; absent where none is needed. The key itself
    /// never stands in a configuration, a log or an error.
    pub api_key_env: Option<String>,
    /// Upper limit of one reply, reasoning included, in tokens. A reply that reaches it is no
    /// verdict. Default 1,024.
    pub max_tokens: u32,
    /// The name under which that limit is sent: `max_tokens` (the default) or
    /// `max_completion_tokens`, which hosted reasoning models want.
    pub max_tokens_field: MaxTokensField,
    /// The temperature, from 0 to 2; `"default"` leaves the field out, for models that refuse it.
    /// Default 0.
    pub temperature: Temperature,
    /// Whether to ask for log-probabilities, which turn GOOD/BAD into a probability. Default true;
    /// turn it off for endpoints that refuse the parameter.
    pub use_logprobs: bool,
    /// Alternatives asked for at each token, where log-probabilities are; at least 1. Default 20,
    /// the most that hosted services give.
    pub top_logprobs: u32,
    /// Whether the grader's instructions come as a system message. Default true; false puts them in
    /// front of the prompt, for models whose template knows no system role.
    pub system_message: bool,
    /// Limit of one try, connecting and reading included, in milliseconds. Default 120,000.
    pub timeout_ms: u64,
    /// How often a request is sent at most, the first time included; also how many replies without
    /// a verdict are put up with. Default 4.
    pub max_tries: u32,
    /// Pause before the second try, in milliseconds; doubles with every further one, and a seeded
    /// jitter takes up to half of it off. Default 500.
    pub backoff_ms: u64,
    /// Longest pause, in milliseconds. An endpoint that asks for more (Retry-After) is given up at
    /// once. Default 60,000.
    pub max_backoff_ms: u64,
    /// Requests per minute of each process that judges, tries included, evened out; absent is no
    /// limit. One second's worth may go out at once.
    pub requests_per_minute: Option<u32>,
    /// Requests under way at the same time, of each process that judges: nodes that judge do not know
    /// of each other. Default 8.
    pub max_concurrent: usize,
    /// Seed of the jitter. Default 0.
    pub seed: u64,
    /// Rubric of the process judge with `{question}`, `{history}` and `{step}`; absent is the
    /// built-in one, `configs/rubrics/process.md`.
    pub rubric: Option<PathBuf>,
    /// Rubric of the outcome judge with `{question}`, `{key}` and `{answer}`; absent is the
    /// built-in one, `configs/rubrics/outcome.md`.
    pub outcome_rubric: Option<PathBuf>,
    /// Further fields of every request, such as `reasoning_effort`, as they shall stand in its JSON.
    /// One that is a setting of its own is refused.
    pub body: Map<String, Value>,
    /// Further headers of every request. A value `"$NAME"` is that environment variable's, which is
    /// how secrets are given: they stand in no configuration, log or error. `$$` is a plain `$`.
    pub headers: BTreeMap<String, String>,
}

impl Default for LlmJudgeConfig {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:8000/v1".to_owned(),
            model: String::new(),
            api_key_env: None,
            max_tokens: 1024,
            max_tokens_field: MaxTokensField::MaxTokens,
            temperature: Temperature::Value(0.0),
            use_logprobs: true,
            top_logprobs: 20,
            system_message: true,
            timeout_ms: 120_000,
            max_tries: 4,
            backoff_ms: 500,
            max_backoff_ms: 60_000,
            requests_per_minute: None,
            max_concurrent: 8,
            seed: 0,
            rubric: None,
            outcome_rubric: None,
            body: Map::new(),
            headers: BTreeMap::new(),
        }
    }
}

impl LlmJudgeConfig {
    /// Checks every value that can be checked without the endpoint.
    ///
    /// # Errors
    /// Names the first key that is unusable.
    pub fn validate(&self) -> Result<(), LlmSetupError> {
        if self.model.trim().is_empty() {
            return Err(LlmSetupError::NoModel);
        }
        let positive = [
            ("max_tokens", self.max_tokens > 0),
            ("timeout_ms", self.timeout_ms > 0),
            ("max_tries", self.max_tries > 0),
            ("max_concurrent", self.max_concurrent > 0),
            ("top_logprobs", self.top_logprobs > 0),
            ("requests_per_minute", self.requests_per_minute != Some(0)),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, holds)| !holds) {
            return Err(LlmSetupError::Zero { key });
        }
        if self.max_backoff_ms < self.backoff_ms {
            return Err(LlmSetupError::Backoff {
                backoff_ms: self.backoff_ms,
                max_backoff_ms: self.max_backoff_ms,
            });
        }
        if let Some((field, setting)) = self.body.keys().find_map(|key| self.setting_of(key)) {
            return Err(LlmSetupError::Body { field, setting });
        }
        self.chat_url().map(|_| ())
    }

    /// The setting that a field of the extra body would collide with.
    fn setting_of(&self, field: &str) -> Option<(String, String)> {
        let setting = match field {
            "stream" => "nothing: replies are read whole".to_owned(),
            "n" => "nothing: one reply is read".to_owned(),
            "logprobs" => "use_logprobs".to_owned(),
            "temperature" if self.temperature == Temperature::Default => return None,
            "temperature" => "temperature".to_owned(),
            field if MaxTokensField::NAMES.contains(&field) => {
                "max_tokens and max_tokens_field".to_owned()
            }
            field if RESERVED.contains(&field) => field.to_owned(),
            _ => return None,
        };
        Some((field.to_owned(), setting))
    }

    /// The address that requests go to.
    pub(super) fn chat_url(&self) -> Result<reqwest::Url, LlmSetupError> {
        let fail = |reason: String| LlmSetupError::BaseUrl {
            url: self.base_url.clone(),
            reason,
        };
        let mut url = reqwest::Url::parse(self.base_url.trim()).map_err(|e| fail(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(fail(format!(
                "the scheme `{}` is not http or https",
                url.scheme()
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(LlmSetupError::Credentials);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let path = match path.as_str() {
            "" => "/v1/chat/completions".to_owned(),
            full if full.ends_with("/chat/completions") => full.to_owned(),
            base => format!("{base}/chat/completions"),
        };
        url.set_path(&path);
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        let rows = [
            ("http://h:1", Some("http://h:1/v1/chat/completions")),
            ("http://h:1/", Some("http://h:1/v1/chat/completions")),
            ("http://h:1/v1", Some("http://h:1/v1/chat/completions")),
            ("http://h:1/v1/", Some("http://h:1/v1/chat/completions")),
            (
                " https://h/api/v3 ",
                Some("https://h/api/v3/chat/completions"),
            ),
            (
                "https://h/v1/chat/completions",
                Some("https://h/v1/chat/completions"),
            ),
            (
                "https://h/v1/chat/completions/",
                Some("https://h/v1/chat/completions"),
            ),
            (
                "https://h/openai?api-version=1",
                Some("https://h/openai/chat/completions?api-version=1"),
            ),
            ("", None),
            ("localhost:8000", None),
            ("h", None),
            ("ftp://h/v1", None),
        ];
        for (base_url, wanted) in rows {
            let config = LlmJudgeConfig {
                base_url: base_url.into(),
                ..Default::default()
            };
            let found = config.chat_url().ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), wanted, "{base_url}");
        }
    }

    #[test]
    fn unusable_values_are_named() {
        type Change = fn(&mut LlmJudgeConfig);
        let field = |name: &str, value: Value| Map::from_iter([(name.to_owned(), value)]);
        let rows: [(Change, &str); 10] = [
            (|c| c.model = " ".into(), "model is empty"),
            (|c| c.max_tokens = 0, "max_tokens is 0"),
            (|c| c.timeout_ms = 0, "timeout_ms is 0"),
            (|c| c.max_tries = 0, "max_tries is 0"),
            (|c| c.max_concurrent = 0, "max_concurrent is 0"),
            (
                |c| c.requests_per_minute = Some(0),
                "requests_per_minute is 0",
            ),
            (
                |c| c.max_backoff_ms = 1,
                "max_backoff_ms = 1 is less than backoff_ms = 500",
            ),
            (
                |c| c.base_url = "nowhere".into(),
                "base_url = \"nowhere\" is unusable",
            ),
            (|c| c.base_url = "file:///v1".into(), "not http or https"),
            (|c| c.top_logprobs = 0, "top_logprobs is 0"),
        ];
        let good = LlmJudgeConfig {
            model: "m".into(),
            ..Default::default()
        };
        good.validate().unwrap();
        for (change, wanted) in rows {
            let mut config = good.clone();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let taken = [
            ("model", "model"),
            ("messages", "messages"),
            ("temperature", "temperature"),
            ("max_tokens", "max_tokens and max_tokens_field"),
            ("max_completion_tokens", "max_tokens and max_tokens_field"),
            ("logprobs", "use_logprobs"),
            ("top_logprobs", "top_logprobs"),
            ("stream", "replies are read whole"),
            ("n", "one reply"),
        ];
        for (name, setting) in taken {
            let config = LlmJudgeConfig {
                body: field(name, 1.into()),
                ..good.clone()
            };
            let error = config.validate().unwrap_err().to_string();
            assert!(
                error.contains(&format!("[judge.llm.body] {name}")),
                "{error}"
            );
            assert!(error.contains(setting), "{error}");
        }
        let free = LlmJudgeConfig {
            temperature: Temperature::Default,
            body: field("temperature", 1.into()),
            ..good
        };
        free.validate().unwrap();
    }

    #[test]
    fn passwords_in_addresses_are_refused_and_not_repeated() {
        let config = LlmJudgeConfig {
            base_url: "http://me:sesame@h/v1".into(),
            model: "m".into(),
            ..Default::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("[judge.llm] base_url"), "{error}");
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn temperatures() {
        let rows = [
            ("0", Some(Temperature::Value(0.0))),
            ("0.7", Some(Temperature::Value(0.7))),
            ("\"default\"", Some(Temperature::Default)),
            ("-1", None),
            ("3", None),
            ("\"none\"", None),
            ("true", None),
        ];
        for (text, wanted) in rows {
            let found = serde_json::from_str::<Temperature>(text).ok();
            assert_eq!(found, wanted, "{text}");
            if let Some(found) = found {
                let again = serde_json::to_string(&found).unwrap();
                assert_eq!(serde_json::from_str::<Temperature>(&again).unwrap(), found);
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<LlmJudgeConfig>(r#"{"timeout": 3}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `timeout`"),
            "{error}"
        );
        let config: LlmJudgeConfig = serde_json::from_str(r#"{"model": "m"}"#).unwrap();
        assert_eq!(
            config,
            LlmJudgeConfig {
                model: "m".into(),
                ..Default::default()
            }
        );
    }
}
