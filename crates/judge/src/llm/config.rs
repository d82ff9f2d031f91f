//! The section `[judge.llm]`, and what can be wrong with it.

use super::template::TemplateError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    /// Upper limit of one reply, reasoning included, in tokens. Default 1,024.
    pub max_tokens: u32,
    /// Whether to ask for log-probabilities, which turn GOOD/BAD into a probability. Default true;
    /// turn it off for endpoints that refuse the parameter.
    pub use_logprobs: bool,
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
    /// Requests per minute, tries included, evened out; absent is no limit. One second's worth may
    /// go out at once.
    pub requests_per_minute: Option<u32>,
    /// Requests under way at the same time. Default 8.
    pub max_concurrent: usize,
    /// Seed of the jitter. Default 0.
    pub seed: u64,
    /// Rubric of the process judge with `{question}`, `{history}` and `{step}`; absent is the
    /// built-in one, `configs/rubrics/process.md`.
    pub rubric: Option<PathBuf>,
    /// Rubric of the outcome judge with `{question}`, `{key}` and `{answer}`; absent is the
    /// built-in one, `configs/rubrics/outcome.md`.
    pub outcome_rubric: Option<PathBuf>,
}

impl Default for LlmJudgeConfig {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:8000/v1".to_owned(),
            model: String::new(),
            api_key_env: None,
            max_tokens: 1024,
            use_logprobs: true,
            timeout_ms: 120_000,
            max_tries: 4,
            backoff_ms: 500,
            max_backoff_ms: 60_000,
            requests_per_minute: None,
            max_concurrent: 8,
            seed: 0,
            rubric: None,
            outcome_rubric: None,
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
        self.chat_url().map(|_| ())
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

/// Why a language-model judge cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LlmSetupError {
    /// The address cannot be used.
    #[error(
        "[judge.llm] base_url = \"{url}\" is unusable ({reason}): give an address such as \
         http://127.0.0.1:8000/v1"
    )]
    BaseUrl {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No model is named.
    #[error("[judge.llm] model is empty: name the judge model as the endpoint calls it")]
    NoModel,
    /// A limit of zero would let nothing through.
    #[error("[judge.llm] {key} is 0: it must be at least 1")]
    Zero {
        /// The key.
        key: &'static str,
    },
    /// The longest pause is shorter than the first.
    #[error(
        "[judge.llm] max_backoff_ms = {max_backoff_ms} is less than backoff_ms = {backoff_ms}: \
         raise the one or lower the other"
    )]
    Backoff {
        /// First pause, in milliseconds.
        backoff_ms: u64,
        /// Longest pause, in milliseconds.
        max_backoff_ms: u64,
    },
    /// The key's variable is not set, or holds what no HTTP header can carry.
    #[error(
        "[judge.llm] api_key_env = \"{variable}\": that environment variable {reason}: export it, \
         or remove api_key_env if the endpoint needs no key"
    )]
    ApiKey {
        /// The variable's name.
        variable: String,
        /// What is wrong with it; never its value.
        reason: &'static str,
    },
    /// The rubric file cannot be read.
    #[error("rubric {path} cannot be read ({source}): correct [judge.llm] rubric", path = path.display())]
    Rubric {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The rubric's placeholders are wrong.
    #[error("rubric {path}: {reason}", path = path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: TemplateError,
    },
    /// The HTTP client cannot be built, such as for want of TLS roots.
    #[error("the HTTP client of the judge cannot be set up: {0}")]
    Client(#[source] reqwest::Error),
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
        let rows: [(Change, &str); 9] = [
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
