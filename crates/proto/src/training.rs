//! What a learner is given: host data only, so that it can travel.

use crate::WeightVersion;
use serde::{Deserialize, Serialize};

/// One freshly sampled action of a state, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RlSample {
    /// The sampled ids, a sampled end-of-turn token included. All of them are trained on.
    pub tokens: Vec<u32>,
    /// Log-probability of each, in nats, as the sampler drew it.
    pub logprobs: Vec<f32>,
    /// What the judge gave, usually in [0, 1].
    pub reward: f32,
    /// The weights that sampled it.
    pub weight_version: WeightVersion,
}

/// A state of a stored trajectory and the actions sampled from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateGroup {
    /// Names the state in errors: item and step.
    pub state_id: String,
    /// The trajectory it is a state of. States of one trajectory that are trained together share
    /// what they have in common.
    pub trajectory_id: String,
    /// The ids of the state. Never trained on.
    pub prompt: Vec<u32>,
    /// The actions, each an independent draw.
    pub samples: Vec<RlSample>,
}

/// A dialogue to imitate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftSample {
    /// The whole dialogue.
    pub tokens: Vec<u32>,
    /// 1 where the token is trained on, as long as `tokens`.
    pub mask: Vec<u8>,
}
