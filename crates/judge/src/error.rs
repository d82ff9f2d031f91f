//! Why a judge could not judge.

use serde::{Deserialize, Serialize};

/// Kinds of [`JudgeError`] by what they stand in the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The judge is away or overloaded: the same request may succeed later.
    Outage,
    /// This verdict cannot be had; others can.
    Verdict,
    /// No verdict can be had as things are set up.
    Setup,
}

/// Why there is no verdict. None of these may ever become a reward or a label: the caller decides by
/// [`JudgeError::obstacle`] whether to wait, to leave something out, or to end.
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
    /// The endpoint kept answering that it is overloaded or broken (402, 408, 425, 429, 5xx), or asks
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
        /// The pause asked for, in milliseconds.
        asked_ms: Option<u64>,
    },
    /// The endpoint will not take this request (other 3xx and 4xx): a field of it, its key or its
    /// address is wrong, or the prompt is too long or was filtered.
    #[error("judge endpoint {url} refused the request with {status}: {detail}; {advice}")]
    Refused {
        /// Where the request went.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the reply's body.
        detail: String,
        /// Advice that would help, naming the setting.
        advice: String,
        /// Whether every request would be refused, and not this prompt alone.
        is_setup: bool,
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
    /// Every reply was cut off before its verdict.
    #[error(
        "judge model {model} reached its limit of {max_tokens} tokens in each of {tries} replies; \
         the last one ends `{ending}`: raise [judge.llm] max_tokens, or have it think less \
         ([judge.llm.body], such as reasoning_effort)"
    )]
    CutOff {
        /// The model that replied.
        model: String,
        /// Number of replies it gave.
        tries: u32,
        /// The limit of one reply, in tokens.
        max_tokens: u32,
        /// The end of the last reply, reasoning left out.
        ending: String,
    },
    /// The endpoint's content filter broke the reply off.
    #[error(
        "the reply of judge model {model} was filtered for its content: relax the endpoint's filter, \
         use another model, or raise judge.max_unjudged_share"
    )]
    Filtered {
        /// The model that replied.
        model: String,
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
    /// The kind of obstacle that the error is.
    pub fn obstacle(&self) -> Obstacle {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::Protocol { .. }
            | Self::Elsewhere(_) => Obstacle::Outage,
            Self::Unreadable { .. }
            | Self::CutOff { .. }
            | Self::Filtered { .. }
            | Self::NoReference { .. }
            | Self::Refused {
                is_setup: false, ..
            } => Obstacle::Verdict,
            Self::Refused { is_setup: true, .. } => Obstacle::Setup,
        }
    }

    /// Whether the endpoint says that it has too much to do, which no request is to blame for.
    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            Self::Busy {
                status: 402 | 425 | 429 | 503 | 529,
                ..
            }
        )
    }

    /// The pause that the endpoint asked for, in milliseconds.
    pub fn asked_ms(&self) -> Option<u64> {
        match self {
            Self::Busy { asked_ms, .. } => *asked_ms,
            _ => None,
        }
    }
}
