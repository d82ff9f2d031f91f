//! What a policy step descends, as settings: the loss, the KL term, importance weights.

use algo::loss::{Importance, KlTerm, PreferenceOptions, Surrogate};
use serde::{Deserialize, Serialize};

/// How strongly, and by which estimate, the policy is held near the model it started from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// Weight of the KL divergence in nats, against rewards of the order of 1. 0 turns it off, and
    /// the reference model is not loaded then.
    pub coefficient: f64,
    /// The estimate, and with it whether it is part of the reward or of the loss.
    pub term: KlTerm,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            coefficient: 0.01,
            term: KlTerm::default(),
        }
    }
}

/// Whether tokens are reweighted whose probability under the learner is not the one they were sampled
/// with: because the weights were older, or because sampler and learner round otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceMode {
    /// Every action counts as if the learner had sampled it.
    #[default]
    Off,
    /// Tokens weigh by their probability ratio, up to the cap.
    Truncated,
    /// Tokens weigh by their probability ratio where it is between floor and cap, and are left out
    /// elsewhere.
    Masked,
}

/// Importance correction per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportanceConfig {
    /// Off suits actions sampled from the current weights. The ratio is that of π and the sampler
    /// with `reinforce`, of the old log-probabilities and the sampler with `ppo_clip`.
    pub mode: ImportanceMode,
    /// Smallest weight that counts under `masked`; from 0 to 1.
    pub floor: f64,
    /// Largest weight of a token under `truncated`, largest that counts under `masked`; at least 1.
    pub cap: f64,
}

impl Default for ImportanceConfig {
    fn default() -> Self {
        Self {
            mode: ImportanceMode::Off,
            floor: 0.5,
            cap: 2.0,
        }
    }
}

impl ImportanceConfig {
    pub(crate) fn weighting(self) -> Importance {
        let Self { mode, floor, cap } = self;
        match mode {
            ImportanceMode::Off => Importance::Off,
            ImportanceMode::Truncated => Importance::Truncated { cap },
            ImportanceMode::Masked => Importance::Masked { floor, cap },
        }
    }
}

/// What is made of the rewards of a state's actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Actions are weighted by their advantages.
    #[default]
    Reinforce,
    /// The same as long as an action's probability stays near what it was when it was sampled: for
    /// several updates on the same actions, or stale ones.
    PpoClip,
    /// Direct preference optimisation on the best and the worst action of each state.
    Dpo,
}

/// Where the old log-probabilities of `ppo_clip` come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogprobs {
    /// The learner's own, under the weights that the batch began with: what rounds otherwise in the
    /// sampler is not clipped. They come out of the first update of a batch, and cost no pass.
    #[default]
    Recomputed,
    /// The sampler's.
    Sampled,
}

/// The loss of policy steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Which one.
    pub kind: LossKind,
    /// `ppo_clip`: how far a token's probability ratio may fall below 1; in [0, 1).
    pub clip_low: f64,
    /// `ppo_clip`: how far it may rise above 1; 0 or more.
    pub clip_high: f64,
    /// `ppo_clip`: the largest ratio that counts where the advantage is negative; above 1. Off when
    /// it is not given.
    pub clip_dual: Option<f64>,
    /// `ppo_clip`: what a token's probability is compared with.
    pub old_logprobs: OldLogprobs,
    /// `dpo`: how strongly the policy is held near the reference; above 0.
    pub beta: f64,
    /// `dpo`: the share of pairs taken to be judged the wrong way round; in [0, 0.5).
    pub label_smoothing: f64,
    /// `reinforce` and `ppo_clip`: weight of the entropy in nats of each token's distribution, which
    /// is kept high; 0 is off.
    pub entropy: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            kind: LossKind::Reinforce,
            clip_low: 0.2,
            clip_high: 0.2,
            clip_dual: None,
            old_logprobs: OldLogprobs::Recomputed,
            beta: 0.1,
            label_smoothing: 0.0,
            entropy: 0.0,
        }
    }
}

impl LossConfig {
    pub(crate) fn surrogate(self) -> Surrogate {
        match self.kind {
            LossKind::PpoClip => Surrogate::Clipped {
                low: self.clip_low,
                high: self.clip_high,
                dual: self.clip_dual,
            },
            LossKind::Reinforce | LossKind::Dpo => Surrogate::Reinforce,
        }
    }

    pub(crate) fn preference(self) -> PreferenceOptions {
        PreferenceOptions {
            beta: self.beta,
            label_smoothing: self.label_smoothing,
        }
    }
}
