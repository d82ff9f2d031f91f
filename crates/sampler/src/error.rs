//! Why the engine refuses, one enum per operation.

use model::{ApplyError, DeviceGone};
use proto::WeightVersion;
use thiserror::Error;

/// Why no engine can be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// A limit of the configuration is zero.
    #[error("the engine's `{0}` is 0: it must be at least 1")]
    ZeroLimit(&'static str),
    /// The configuration asks for more context than the model was built for.
    #[error(
        "the engine's `max_context_tokens` is {asked}, but the model's context is {model} tokens: \
         ask for at most that"
    )]
    ContextTooLong {
        /// Of the configuration.
        asked: usize,
        /// Of the model.
        model: usize,
    },
}

/// Why a request was not accepted. Nothing was sampled for it.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room for a single new token.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {context} with at least one sampled \
         token: shorten the prompt or raise `max_context_tokens`"
    )]
    PromptTooLong {
        /// Of the prompt.
        tokens: usize,
        /// The engine's limit.
        context: usize,
    },
    /// An id that the model has no embedding for: the prompt was made by another tokenizer.
    #[error("the prompt holds token {id}, but the model knows only ids below {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: i64,
    },
    /// A parameter is out of its range.
    #[error("`{name}` is {value}: it must be {range}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// The same id was submitted and has not finished.
    #[error("request {0} is already being served: give each request an id of its own")]
    DuplicateId(u64),
}

/// Why a request brought no completions.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GenerateError {
    /// The request was not accepted.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The logits hold NaN or infinity. The weights are broken: publish better ones.
    #[error(
        "weights {0} give logits that are not finite: they diverged in training or are damaged"
    )]
    NotFinite(WeightVersion),
    /// The device failed under the engine, which is lost; start another.
    #[error("the sampler lost its engine: {0}")]
    Device(#[from] DeviceGone),
    /// The sampler ended before this request did; start another.
    #[error("the sampler has stopped: start it again")]
    Stopped,
}

/// Why the engine kept its old weights.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum WeightsError {
    /// Sequences are being decoded with the old weights: step until the engine is idle.
    #[error("{0} requests are still being served with the old weights: let them finish first")]
    Busy(usize),
    /// The snapshot is damaged or of another model.
    #[error(transparent)]
    Snapshot(#[from] ApplyError),
}

/// Why a publication did not happen. The sampler serves the old weights, unless it is gone.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The engine refused them.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device failed under the engine, which is lost; start another.
    #[error("the sampler lost its engine: {0}")]
    Device(#[from] DeviceGone),
    /// The sampler has ended.
    #[error("the sampler has stopped: start it again")]
    Stopped,
}
