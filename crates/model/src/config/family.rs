//! Defaults of each architecture where `config.json` is silent.

use super::reader::Config;
use crate::error::LoadError;

/// Defaults of an architecture. `None` for a size: `config.json` must give it.
pub(super) struct Family {
    pub(super) name: &'static str,
    /// The names of `transformers` for it, with a head that continues text.
    pub(super) classes: &'static [&'static str],
    pub(super) gemma: bool,
    pub(super) qk_norm: bool,
    /// Layers with a window have a rotary embedding of their own.
    pub(super) local_rope: bool,
    pub(super) heads: Option<i64>,
    pub(super) kv_heads: Option<i64>,
    pub(super) head_dim: Option<i64>,
    pub(super) vocab_size: Option<i64>,
    pub(super) max_context: i64,
}

impl Family {
    pub(super) fn of(config: &Config) -> Result<Self, LoadError> {
        let plain = |name, classes, max_context| Self {
            name,
            classes,
            gemma: false,
            qk_norm: false,
            local_rope: false,
            heads: None,
            kv_heads: None,
            head_dim: None,
            vocab_size: None,
            max_context,
        };
        let gemma = |name, classes, vocab, max_context| Self {
            gemma: true,
            heads: Some(8),
            kv_heads: Some(4),
            head_dim: Some(256),
            vocab_size: Some(vocab),
            ..plain(name, classes, max_context)
        };
        Ok(match config.text("model_type", None)?.as_str() {
            "llama" => plain("llama", &["LlamaForCausalLM"], 2048),
            "qwen2" => plain("qwen2", &["Qwen2ForCausalLM"], 32_768),
            "qwen3" => Self {
                qk_norm: true,
                head_dim: Some(128),
                ..plain("qwen3", &["Qwen3ForCausalLM"], 32_768)
            },
            "gemma2" => gemma("gemma2", &["Gemma2ForCausalLM"], 256_000, 8192),
            "gemma3_text" => Self {
                qk_norm: true,
                local_rope: true,
                ..gemma(
                    "gemma3_text",
                    &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
                    262_208,
                    131_072,
                )
            },
            _ => {
                return Err(config.unsupported(
                    "model_type",
                    "llama, qwen2, qwen3, gemma2, gemma3_text, gemma3 with a text_config",
                ));
            }
        })
    }
}
