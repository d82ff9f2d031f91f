//! Why a judge could not judge.

use serde::{Deserialize, Serialize};

/// Why there is no verdict. None of these may ever become a reward or a label (PITFALLS 14): the
/// caller asks again later where [`JudgeError::is_retriable`], and reports otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum JudgeError {
    /// No connection, or it broke off. Start the endpoint or correct its address.
    #[error(
        "judge endpoint {url} cannot be reached ({tries} tries): start it or change [judge.llm] \
         base_url ({reason})"
    )]
    Unreachable {
        /// Where the request went.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// The last failure.
        reason: String,
    },
    /// No reply in time. The endpoint is overloaded, or the limit too small for the model.
    #[error(
        "judge endpoint {url} gave no reply within {timeout_ms} ms ({tries} tries): raise \
         [judge.llm] timeout_ms or lower max_concurrent"
    )]
    TimedOut {
        /// Where the request went.
        url: String,
        /// The limit of one try, in milliseconds.
        timeout_ms: u64,
        /// How often it was tried.
        tries: u32,
    },
    /// The endpoint kept answering that it is overloaded or broken (408, 425, 429, 5xx), or asks
    /// for a longer pause than `max_backoff_ms`.
    #[error(
        "judge endpoint {url} answered {status} ({tries} tries): {detail}; wait, or lower \
         [judge.llm] requests_per_minute and max_concurrent"
    )]
    Busy {
        /// Where the request went.
        url: String,
        /// The last HTTP status.
        status: u16,
        /// How often it was tried.
        tries: u32,
        /// The pause asked for, if any, and the beginning of the reply's body.
        detail: String,
    },
    /// The endpoint will not take this request (other 3xx and 4xx): wrong key, model or address.
    #[error(
        "judge endpoint {url} refused the request with {status}: {detail}; check [judge.llm] \
         base_url, model and api_key_env"
    )]
    Refused {
        /// Where the request went.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the reply's body.
        detail: String,
    },
    /// What came back is not a chat completion: something else listens at this address.
    #[error(
        "judge endpoint {url} does not answer with a chat completion ({tries} tries): {detail}; \
         check [judge.llm] base_url"
    )]
    Protocol {
        /// Where the request went.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// What is wrong with it, and its beginning.
        detail: String,
    },
    /// The model replied, also when asked again, but its last line holds no verdict.
    #[error(
        "judge model {model} gave no verdict in {tries} replies; the last one ends `{ending}`: \
         raise [judge.llm] max_tokens, simplify the rubric, or use another model"
    )]
    Unreadable {
        /// The model that replied.
        model: String,
        /// How many replies it gave.
        tries: u32,
        /// The end of the last reply.
        ending: String,
    },
    /// The reference judge was given a question whose solution is not annotated.
    #[error(
        "question {question} has no reference steps, so the reference judge cannot judge its tool \
         calls: leave such questions out or use another judge"
    )]
    NoReference {
        /// The question's id.
        question: String,
    },
    /// The judge lives on another node, which did not take the request.
    #[error("{0}")]
    Elsewhere(String),
}

impl JudgeError {
    /// Whether the same request may succeed later: the infrastructure failed, not the request.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Busy { .. } => true,
            Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::Unreadable { .. }
            | Self::NoReference { .. }
            | Self::Elsewhere(_) => false,
        }
    }
}
