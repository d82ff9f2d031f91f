//! Requests to a sampler and what comes back.

use crate::WeightVersion;
use serde::{Deserialize, Serialize};

/// The tags of a section in which a model thinks, such as `<think>` and `</think>`. Nothing in such
/// a section is an action, and nothing in it ends sampling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thinking {
    /// Begins the section; not empty.
    pub open: String,
    /// Ends the section; not empty. The first one counts: sections do not nest.
    pub close: String,
    /// The prompt ends inside a section: the chat template opened it.
    pub begins_open: bool,
}

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this, in (0, 1]; 1 is off.
    pub top_p: f32,
    /// Keep this many most probable tokens; 0 is off.
    pub top_k: u32,
    /// At most this many new tokens.
    pub max_tokens: u32,
    /// Stop once the sampled text contains one of these, such as `</answer>`, outside `thinking`.
    pub stop: Vec<String>,
    /// Sections in which `stop` does not count; `None`: it counts everywhere.
    pub thinking: Option<Thinking>,
}

impl SamplingParams {
    /// The most probable token at each position.
    pub fn greedy(max_tokens: u32, stop: Vec<String>) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            max_tokens,
            stop,
            thinking: None,
        }
    }
}

/// Asks for `samples` independent continuations of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// Token ids; not empty.
    pub prompt: Vec<u32>,
    /// How many continuations; at least 1.
    pub samples: u32,
    /// How to draw them.
    pub params: SamplingParams,
    /// With the prompt, the parameters, the weights and the index of the continuation it decides
    /// each draw: what else runs in the same batch does not.
    pub seed: u64,
}

/// Why sampling stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model sampled an end-of-turn token, which is the last of `tokens`.
    EndOfTurn,
    /// The text contains one of the stop strings.
    StopText,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The sampled ids, a sampled end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Log-probability of each, in nats, under the distribution it was drawn from: temperature
    /// applied, and renormalised over what top-p and top-k kept. Greedy: under the plain softmax.
    pub logprobs: Vec<f32>,
    /// Why sampling stopped.
    pub finish: FinishReason,
    /// The tokens as text, special tokens left out.
    pub text: String,
    /// The weights that sampled every one of the tokens.
    pub weight_version: WeightVersion,
}
