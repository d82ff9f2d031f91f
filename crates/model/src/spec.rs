//! What a decoder is, as data. Llama, Qwen2, Qwen3, Gemma 2 and Gemma 3 differ only here.

/// The activation between the gate and the down projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// Rotary position embedding of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Context extension.
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are stretched for a longer context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The stretch of low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context the model was first trained with, in tokens.
        original_context: f64,
    },
}

/// What one layer does differently from its neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Sliding window in tokens: a query sees keys less than this many positions back, itself
    /// included. `None` sees all.
    pub window: Option<i64>,
    /// Index into [`DecoderSpec::ropes`].
    pub rope: usize,
}

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of the checkpoint's `config.json`, such as `llama`.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the feed-forward layer.
    pub intermediate_size: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Longest context, in tokens.
    pub max_context: i64,
    /// Epsilon of every RMS norm.
    pub norm_eps: f64,
    /// Norms multiply by `1 + weight` (Gemma) instead of `weight`.
    pub norm_plus_one: bool,
    /// Norms behind attention and feed-forward too, before the residual is added (Gemma).
    pub post_norms: bool,
    /// RMS norm over each query and key head (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Bias on the query, key and value projections (Qwen2).
    pub qkv_bias: bool,
    /// Bias on the output projection of attention.
    pub output_bias: bool,
    /// Bias on the feed-forward projections.
    pub mlp_bias: bool,
    /// The output projection is the embedding.
    pub tied_embeddings: bool,
    /// The embedding is multiplied by this (Gemma: √hidden, rounded to the compute type).
    pub embedding_scale: Option<f64>,
    /// Scores are multiplied by this before the softmax.
    pub attention_scale: f64,
    /// Scores become `cap · tanh(score / cap)` (Gemma 2).
    pub attention_softcap: Option<f64>,
    /// Logits become `cap · tanh(logit / cap)` (Gemma 2).
    pub logit_softcap: Option<f64>,
    /// Feed-forward activation.
    pub activation: Activation,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<RopeSpec>,
    /// One entry per layer.
    pub layers: Vec<LayerSpec>,
}

impl DecoderSpec {
    /// Number of parameters, tied ones once.
    pub fn parameter_count(&self) -> i64 {
        crate::weights::slots(self)
            .iter()
            .map(|slot| slot.shape.iter().product::<i64>())
            .sum()
    }
}
