//! The shapes that `docs/scaling.md` speaks of, by the numbers their publishers give.

use anyhow::Result;
use model::DecoderSpec;
use serde_json::{Value, json};

/// A published model.
pub struct Model {
    pub name: &'static str,
    config: fn() -> Value,
}

impl Model {
    pub fn spec(&self) -> Result<DecoderSpec> {
        let folder = tempfile::tempdir()?;
        std::fs::write(
            folder.path().join("config.json"),
            (self.config)().to_string(),
        )?;
        Ok(model::spec_of(folder.path())?)
    }
}

pub const MODELS: [Model; 4] = [
    Model {
        name: "SmolLM2-135M",
        config: smollm2,
    },
    Model {
        name: "Gemma 2 2B",
        config: || {
            gemma2(&Gemma {
                hidden_size: 2304,
                intermediate_size: 9216,
                layers: 26,
                heads: 8,
                kv_heads: 4,
                head_dim: 256,
                query_scalar: 256,
            })
        },
    },
    Model {
        name: "Gemma 2 9B",
        config: || {
            gemma2(&Gemma {
                hidden_size: 3584,
                intermediate_size: 14_336,
                layers: 42,
                heads: 16,
                kv_heads: 8,
                head_dim: 256,
                query_scalar: 256,
            })
        },
    },
    Model {
        name: "Gemma 2 27B",
        config: || {
            gemma2(&Gemma {
                hidden_size: 4608,
                intermediate_size: 36_864,
                layers: 46,
                heads: 32,
                kv_heads: 16,
                head_dim: 128,
                query_scalar: 144,
            })
        },
    },
];

/// In what Gemma 2 models differ.
struct Gemma {
    hidden_size: i64,
    intermediate_size: i64,
    layers: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    query_scalar: i64,
}

fn gemma2(sizes: &Gemma) -> Value {
    json!({
        "model_type": "gemma2",
        "vocab_size": 256_000,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "query_pre_attn_scalar": sizes.query_scalar,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": true,
    })
}

fn smollm2() -> Value {
    json!({
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
    })
}
