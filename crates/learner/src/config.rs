//! Every hyperparameter of a learner.

use crate::lora::LoraConfig;
use crate::objective::{
    ImportanceConfig, ImportanceMode, KlConfig, LossConfig, LossKind, OldLogprobs,
};
use crate::pass::HeadOptions;
use crate::schedule::Schedule;
use algo::advantage::Baseline;
use algo::loss::{Normalisation, PolicyOptions};
use model::LoraSpec;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// The type that forward and backward passes compute in. Master weights, moments, gradient sums
/// and losses are f32 or wider in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeType {
    /// bf16 on a GPU and on CPUs that multiply it in hardware, f32 elsewhere.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// 32-bit floating point.
    F32,
}

impl ComputeType {
    /// The type on `device`.
    pub fn kind(self, device: Device) -> Kind {
        match self {
            Self::Bf16 => Kind::BFloat16,
            Self::F32 => Kind::Float,
            Self::Auto if device.is_cuda() || cpu_has_fast_bf16() => Kind::BFloat16,
            Self::Auto => Kind::Float,
        }
    }
}

/// Whether this CPU multiplies bf16 matrices in hardware. Every CPU with AMX has AVX-512 BF16 too.
pub fn cpu_has_fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Hyperparameters of a learner. Those of reinforcement learning have no effect on supervised
/// steps: `loss`, `kl`, `baseline`, `baseline_decay`, `normalise_std`, `importance`. Of these, the
/// loss `dpo` looks at `loss` alone, and weighs every pair alike whatever `normalisation` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Steps over which the rate rises linearly from 0; the first step has 1/n of the peak.
    pub warmup_steps: u64,
    /// How the rate goes on after that.
    pub schedule: Schedule,
    /// Where `linear` and `cosine` end, in steps from the first; not used by `constant`.
    pub total_steps: u64,
    /// The rate at `total_steps` and after, as a share of the peak, in [0, 1].
    pub min_lr_ratio: f64,
    /// Decay of AdamW's first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of AdamW's second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay per step, times the rate. Matrices only: norms and biases are not
    /// decayed.
    pub weight_decay: f64,
    /// A gradient whose global norm is larger is scaled down to it; 0 is off.
    pub clip_grad_norm: f64,
    /// The type to compute in.
    pub dtype: ComputeType,
    /// Tokens per forward and backward pass at most; activations take memory in proportion. A
    /// single sequence may be longer and then runs alone.
    pub micro_batch_tokens: usize,
    /// Keep only what goes into each layer, and run the layer again on the way back: a third more
    /// time, and a fraction of the memory for activations.
    pub activation_checkpointing: bool,
    /// Predicted positions whose logits exist at once: each takes vocabulary × 2 bytes in bf16.
    pub loss_chunk_tokens: usize,
    /// How tokens of different sequences weigh against each other.
    pub normalisation: Normalisation,
    /// The loss of policy steps.
    pub loss: LossConfig,
    /// What a reward is compared with.
    pub baseline: Baseline,
    /// How much of the mean reward so far `running_mean` keeps at each batch; in [0, 1).
    pub baseline_decay: f64,
    /// Divide advantages by the standard deviation of rewards.
    pub normalise_std: bool,
    /// Treatment of tokens that are not as probable under the learner as they were when sampled.
    pub importance: ImportanceConfig,
    /// KL regularisation towards the start model.
    pub kl: KlConfig,
    /// The sampler's temperature: logits are divided by it in policy steps, so that both speak of
    /// the same distribution. Above 0. Supervised steps use 1. Not a setting of its own: the
    /// program takes it from where actions are sampled.
    #[serde(skip)]
    pub temperature: f32,
    /// Compute logits in f32 whatever `dtype` is, as the sampler does. Not a setting of its own: the
    /// program takes it from that of the model.
    #[serde(skip)]
    pub f32_head: bool,
    /// Seed of [`crate::Learner::rng`]. Not a setting of its own: the program sets it.
    #[serde(skip)]
    pub seed: u64,
    /// Refuse whatever would keep a resumed run from repeating an uninterrupted one bit for bit: a
    /// GPU, bf16, another number of threads than before.
    pub deterministic: bool,
    /// Give up after this many steps in a row whose gradient is not finite; at least 1.
    pub max_bad_steps: u32,
    /// Parameters that stay as they are, by the beginning of their name, such as `embedding` or
    /// `layers.0.`.
    pub freeze: Vec<String>,
    /// Train low-rank adapters and leave the weights as they are; full fine-tuning without it.
    pub lora: Option<LoraConfig>,
    /// Each replica of a group keeps AdamW's moments, and f32 master weights beside bf16, of its own
    /// share of the parameters alone (ZeRO-1), instead of all of them: less memory, about the same
    /// traffic, the same steps. All replicas take part in a checkpoint then, and whoever joins a group
    /// is opened from the same one. A learner by itself keeps everything.
    pub shard_optimizer: bool,
    /// Replicas of a group compare their weights, by a hash, after every so many steps, and end
    /// training when these are not the same bit for bit; 0 is off.
    pub compare_replicas_every: u64,
    /// How gradients travel while replicas add them up: `f32`, or `bf16` in half of the bytes. Sums are
    /// kept in f32 either way, and all replicas get the same bits. A learner by itself sends nothing.
    pub gradient_wire: GradientWire,
    /// How many of the newest checkpoints are kept; at least 1.
    pub keep_last: usize,
    /// Checkpoints whose step is a multiple of it are kept for good; 0 is off.
    pub keep_every: u64,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            total_steps: 0,
            min_lr_ratio: 0.0,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_grad_norm: 1.0,
            dtype: ComputeType::Auto,
            micro_batch_tokens: 1024,
            activation_checkpointing: false,
            loss_chunk_tokens: 512,
            normalisation: Normalisation::TokenMean,
            loss: LossConfig::default(),
            baseline: Baseline::LeaveOneOut,
            baseline_decay: 0.95,
            normalise_std: false,
            importance: ImportanceConfig::default(),
            kl: KlConfig::default(),
            temperature: 1.0,
            f32_head: false,
            seed: 0,
            deterministic: false,
            max_bad_steps: 5,
            freeze: Vec::new(),
            lora: None,
            shard_optimizer: false,
            compare_replicas_every: 100,
            gradient_wire: GradientWire::F32,
            keep_last: 2,
            keep_every: 0,
        }
    }
}

/// The type that gradients travel in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientWire {
    /// As they are.
    #[default]
    F32,
    /// Rounded.
    Bf16,
}

/// A hyperparameter is out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("learner.{key} = {value}: it must be {rule}")]
pub struct ConfigError {
    /// The key, as it is written in the configuration.
    pub key: &'static str,
    /// What it is.
    pub value: String,
    /// What it has to be.
    pub rule: &'static str,
}

impl LearnerConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the first key that is out of its range, with the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        let decay = |v: f64| (0.0..1.0).contains(&v);
        let loss = &self.loss;
        let lora = self.lora.clone().unwrap_or_default();
        let ends = self.schedule == Schedule::Constant || self.total_steps > self.warmup_steps;
        let rules: [(&'static str, &dyn ToString, bool, &'static str); 29] = [
            (
                "learning_rate",
                &self.learning_rate,
                positive(self.learning_rate),
                "above 0",
            ),
            (
                "total_steps",
                &self.total_steps,
                ends,
                "above warmup_steps for this schedule",
            ),
            (
                "min_lr_ratio",
                &self.min_lr_ratio,
                (0.0..=1.0).contains(&self.min_lr_ratio),
                "in [0, 1]",
            ),
            ("beta1", &self.beta1, decay(self.beta1), "in [0, 1)"),
            ("beta2", &self.beta2, decay(self.beta2), "in [0, 1)"),
            ("eps", &self.eps, positive(self.eps), "above 0"),
            (
                "weight_decay",
                &self.weight_decay,
                not_negative(self.weight_decay),
                "0 or more",
            ),
            (
                "clip_grad_norm",
                &self.clip_grad_norm,
                not_negative(self.clip_grad_norm),
                "0 or more",
            ),
            (
                "micro_batch_tokens",
                &self.micro_batch_tokens,
                self.micro_batch_tokens > 0,
                "above 0",
            ),
            (
                "loss_chunk_tokens",
                &self.loss_chunk_tokens,
                self.loss_chunk_tokens > 0,
                "above 0",
            ),
            (
                "baseline_decay",
                &self.baseline_decay,
                decay(self.baseline_decay),
                "in [0, 1)",
            ),
            (
                "normalisation.fixed_length.tokens",
                &0,
                self.normalisation != Normalisation::FixedLength { tokens: 0 },
                "above 0",
            ),
            (
                "loss.clip_low",
                &loss.clip_low,
                decay(loss.clip_low),
                "in [0, 1)",
            ),
            (
                "loss.clip_high",
                &loss.clip_high,
                not_negative(loss.clip_high),
                "0 or more",
            ),
            (
                "loss.clip_dual",
                &loss.clip_dual.unwrap_or_default(),
                loss.clip_dual.is_none_or(|c| c.is_finite() && c > 1.0),
                "above 1",
            ),
            ("loss.beta", &loss.beta, positive(loss.beta), "above 0"),
            (
                "loss.label_smoothing",
                &loss.label_smoothing,
                (0.0..0.5).contains(&loss.label_smoothing),
                "in [0, 0.5)",
            ),
            (
                "loss.entropy",
                &loss.entropy,
                not_negative(loss.entropy) && (loss.kind != LossKind::Dpo || loss.entropy == 0.0),
                "0 or more, and 0 with the loss dpo",
            ),
            (
                "importance.mode",
                &"not off",
                self.importance.mode == ImportanceMode::Off || self.has_importance(),
                "off with this loss: ppo_clip on the sampler's old log-probabilities carries the \
                 ratio itself (loss.old_logprobs = \"recomputed\" leaves room for it), and dpo needs \
                 none",
            ),
            (
                "importance.floor",
                &self.importance.floor,
                (0.0..=1.0).contains(&self.importance.floor),
                "in [0, 1]",
            ),
            (
                "importance.cap",
                &self.importance.cap,
                self.importance.cap >= 1.0,
                "at least 1",
            ),
            (
                "kl.coefficient",
                &self.kl.coefficient,
                not_negative(self.kl.coefficient),
                "0 or more",
            ),
            (
                "temperature",
                &self.temperature,
                positive(f64::from(self.temperature)),
                "above 0: a greedy sampler gives no gradient",
            ),
            (
                "max_bad_steps",
                &self.max_bad_steps,
                self.max_bad_steps > 0,
                "at least 1",
            ),
            ("lora.rank", &lora.rank, lora.rank > 0, "at least 1"),
            ("lora.alpha", &lora.alpha, positive(lora.alpha), "above 0"),
            (
                "lora.targets",
                &"what it is",
                lora.names_targets_once(),
                "at least one projection, each once",
            ),
            (
                "keep_last",
                &self.keep_last,
                self.keep_last > 0,
                "at least 1",
            ),
            (
                "dtype",
                &"bf16",
                !(self.deterministic && self.dtype == ComputeType::Bf16),
                "f32 or auto with deterministic = true",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((key, value, _, rule)) => Err(ConfigError {
                key,
                value: value.to_string(),
                rule,
            }),
            None => Ok(()),
        }
    }

    /// Whether the loss has a place for importance weights.
    fn has_importance(&self) -> bool {
        match self.loss.kind {
            LossKind::Reinforce => true,
            LossKind::PpoClip => self.loss.old_logprobs == OldLogprobs::Recomputed,
            LossKind::Dpo => false,
        }
    }

    /// Whether `ppo_clip` goes by the learner's own old log-probabilities.
    pub(crate) fn recomputes_old(&self) -> bool {
        self.loss.kind == LossKind::PpoClip && self.loss.old_logprobs == OldLogprobs::Recomputed
    }

    /// Whether updates on actions that older weights sampled are biased under these settings: nothing
    /// then weighs or bounds what lies between the two.
    pub fn is_biased_off_policy(&self) -> bool {
        self.loss.kind == LossKind::Reinforce && self.importance.mode == ImportanceMode::Off
    }

    /// The adapters that are trained; `None` for full fine-tuning.
    pub(crate) fn lora_spec(&self) -> Option<LoraSpec> {
        self.lora.as_ref().map(LoraConfig::spec)
    }

    /// What a token's loss is made of.
    pub(crate) fn policy_options(&self) -> PolicyOptions {
        PolicyOptions {
            surrogate: self.loss.surrogate(),
            importance: self.importance.weighting(),
            kl_coefficient: self.kl.coefficient,
            kl: self.kl.term,
            entropy_coefficient: self.loss.entropy,
        }
    }

    pub(crate) fn head_options(&self, temperature: f64) -> HeadOptions {
        HeadOptions {
            temperature,
            chunk_tokens: self.loss_chunk_tokens,
            in_f32: self.f32_head,
        }
    }

    /// The type to compute in on `device`: f32 if results have to be repeatable.
    pub(crate) fn kind(&self, device: Device) -> Kind {
        if self.deterministic {
            Kind::Float
        } else {
            self.dtype.kind(device)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_come_back_from_json() {
        let config = LearnerConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<LearnerConfig>(&text).unwrap(),
            config
        );
        assert_eq!(serde_json::from_str::<LearnerConfig>("{}").unwrap(), config);
    }

    /// `docs/losses.md` promises it.
    #[test]
    fn every_recipe_is_a_configuration() {
        let text = include_str!("../../../docs/losses.md");
        let blocks: Vec<&str> = text
            .split("```toml")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        assert_eq!(blocks.len(), text.matches("```toml").count());
        assert!(blocks.len() > 10);
        for block in blocks {
            let value: toml::Value = toml::from_str(block).unwrap();
            let learner = value["train"]["learner"].clone();
            let config: LearnerConfig = learner.try_into().unwrap();
            config.validate().unwrap();
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            r#"{"learning_rat": 1}"#,
            r#"{"kl": {"coeff": 1}}"#,
            r#"{"kl": {"term": "k1_loss"}}"#,
            r#"{"loss": {"kind": "ppo"}}"#,
            r#"{"loss": {"clip": 0.2}}"#,
            r#"{"temperature": 0.8}"#,
            r#"{"seed": 3}"#,
        ] {
            assert!(
                serde_json::from_str::<LearnerConfig>(text).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (text, key) in [
            (r#"{"learning_rate": 0}"#, "learning_rate"),
            (r#"{"schedule": "cosine"}"#, "total_steps"),
            (
                r#"{"schedule": "linear", "warmup_steps": 5, "total_steps": 5}"#,
                "total_steps",
            ),
            (r#"{"beta1": 1.0}"#, "beta1"),
            (r#"{"clip_grad_norm": -1}"#, "clip_grad_norm"),
            (
                r#"{"importance": {"mode": "truncated", "cap": 0.5}}"#,
                "importance.cap",
            ),
            (r#"{"micro_batch_tokens": 0}"#, "micro_batch_tokens"),
            (r#"{"baseline_decay": 1}"#, "baseline_decay"),
            (
                r#"{"normalisation": {"fixed_length": {"tokens": 0}}}"#,
                "normalisation.fixed_length.tokens",
            ),
            (r#"{"loss": {"clip_low": 1}}"#, "loss.clip_low"),
            (r#"{"loss": {"clip_high": -1}}"#, "loss.clip_high"),
            (r#"{"loss": {"clip_dual": 1}}"#, "loss.clip_dual"),
            (r#"{"loss": {"beta": 0}}"#, "loss.beta"),
            (
                r#"{"loss": {"label_smoothing": 0.5}}"#,
                "loss.label_smoothing",
            ),
            (
                r#"{"loss": {"kind": "dpo", "entropy": 0.1}}"#,
                "loss.entropy",
            ),
            (
                r#"{"loss": {"kind": "ppo_clip", "old_logprobs": "sampled"},
                    "importance": {"mode": "masked"}}"#,
                "importance.mode",
            ),
            (
                r#"{"loss": {"kind": "dpo"}, "importance": {"mode": "truncated"}}"#,
                "importance.mode",
            ),
            (r#"{"importance": {"floor": 2}}"#, "importance.floor"),
            (r#"{"lora": {"rank": 0}}"#, "lora.rank"),
            (r#"{"lora": {"targets": []}}"#, "lora.targets"),
            (
                r#"{"lora": {"targets": ["q_proj", "q_proj"]}}"#,
                "lora.targets",
            ),
            (r#"{"deterministic": true, "dtype": "bf16"}"#, "dtype"),
        ] {
            let config: LearnerConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().key, key, "{text}");
        }
        let cold = LearnerConfig {
            temperature: 0.0,
            ..serde_json::from_str("{}").unwrap()
        };
        assert_eq!(cold.validate().unwrap_err().key, "temperature");
    }

    #[test]
    fn what_the_program_sets_is_neither_read_nor_written() {
        let read: LearnerConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(read, LearnerConfig::default());
        let written = serde_json::to_value(read).unwrap();
        assert!(written.get("temperature").is_none() && written.get("seed").is_none());
    }
}
