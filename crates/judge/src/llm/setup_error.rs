//! Faults that the section `[judge.llm]` can have.

use super::template::TemplateError;
use std::path::PathBuf;

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
        /// The fault in it.
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
    /// A password in an address would stand in every error that names it.
    #[error(
        "[judge.llm] base_url holds a user name or a password: give them as a header instead, such \
         as headers.Authorization = \"$NAME\""
    )]
    Credentials,
    /// A field of the extra body is another setting's.
    #[error(
        "[judge.llm.body] {field} cannot be set there, it is the matter of [judge.llm] {setting}: \
         remove it from body"
    )]
    Body {
        /// The field.
        field: String,
        /// The setting that it is the matter of.
        setting: String,
    },
    /// A header cannot be sent as it stands.
    #[error("[judge.llm.headers] {name}: {reason}")]
    Header {
        /// The header's name.
        name: String,
        /// The fault; never the header's value.
        reason: String,
    },
    /// The key's variable is not set, or holds what no HTTP header can carry.
    #[error(
        "[judge.llm] api_key_env = \"{variable}\": that environment variable {reason}: export it, \
         or remove api_key_env if the endpoint needs no key"
    )]
    ApiKey {
        /// The variable's name.
        variable: String,
        /// The fault in it; never its value.
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
        /// The fault.
        reason: TemplateError,
    },
    /// The HTTP client cannot be built, such as for want of TLS roots.
    #[error("the HTTP client of the judge cannot be set up: {0}")]
    Client(#[source] reqwest::Error),
}
