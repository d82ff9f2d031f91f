//! GGUF metadata, and the `config.json` they amount to.

use super::ImportError;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::json;
use std::path::Path;
use tch::Kind;

/// Typed access to the metadata of a file.
pub(super) struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, content: &'a Content) -> Self {
        Self { path, content }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.to_string().ok().cloned()
    }

    pub(super) fn int(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::I8(n) => Some(i64::from(*n)),
            Value::I16(n) => Some(i64::from(*n)),
            Value::I32(n) => Some(i64::from(*n)),
            Value::I64(n) => Some(*n),
            other => i64::try_from(other.to_u64().ok()?).ok(),
        }
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            // An f32 has to come out as the decimal number that was meant: 1e-5, not 9.99999974e-6.
            Value::F32(x) => x.to_string().parse().ok(),
            Value::F64(x) => Some(*x),
            _ => None,
        }
    }

    pub(super) fn array(&self, key: &str) -> Option<&'a [Value]> {
        self.get(key)?.to_vec().ok().map(Vec::as_slice)
    }

    pub(super) fn must<T>(&self, key: &str, value: Option<T>) -> Result<T, ImportError> {
        value
            .ok_or_else(|| self.unsupported(key, "is missing or of another type than it should be"))
    }

    pub(super) fn unsupported(&self, key: &str, problem: impl Into<String>) -> ImportError {
        ImportError::Unsupported {
            path: self.path.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}

/// The `config.json` of the model in a file.
pub(super) fn config(
    metadata: &Metadata,
    tied: bool,
    kind: Kind,
) -> Result<serde_json::Value, ImportError> {
    let architecture = metadata.must(
        "general.architecture",
        metadata.text("general.architecture"),
    )?;
    let class = match architecture.as_str() {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        other => {
            let problem = format!("is {other}, not llama, qwen2 or qwen3");
            return Err(metadata.unsupported("general.architecture", problem));
        }
    };
    refuse_the_unknown(metadata, &architecture)?;
    let key = |rest: &str| format!("{architecture}.{rest}");
    let int = |rest: &str| metadata.must(&key(rest), metadata.int(&key(rest)));
    let heads = int("attention.head_count")?;
    let hidden = int("embedding_length")?;
    let tokens = metadata.must(
        "tokenizer.ggml.tokens",
        metadata.array("tokenizer.ggml.tokens"),
    )?;
    let eps = key("attention.layer_norm_rms_epsilon");
    let mut config = json!({
        "architectures": [class],
        "model_type": architecture,
        "vocab_size": tokens.len(),
        "hidden_size": hidden,
        "intermediate_size": int("feed_forward_length")?,
        "num_hidden_layers": int("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.int(&key("attention.head_count_kv")).unwrap_or(heads),
        "head_dim": metadata.int(&key("attention.key_length")).unwrap_or(hidden / heads.max(1)),
        "max_position_embeddings": int("context_length")?,
        "rms_norm_eps": metadata.must(&eps, metadata.float(&eps))?,
        "rope_theta": metadata.float(&key("rope.freq_base")).unwrap_or(1e4),
        "hidden_act": "silu",
        "attention_bias": false,
        "tie_word_embeddings": tied,
        "torch_dtype": crate::shards::dtype_of(kind).map(|(_, name)| name),
    });
    if let Some(scaling) = rope_scaling(metadata, &architecture)? {
        config["rope_scaling"] = scaling;
    }
    for (name, token) in [
        ("bos_token_id", "bos"),
        ("eos_token_id", "eos"),
        ("pad_token_id", "padding"),
    ] {
        if let Some(id) = metadata.int(&format!("tokenizer.ggml.{token}_token_id")) {
            config[name] = id.into();
        }
    }
    Ok(config)
}

fn refuse_the_unknown(metadata: &Metadata, architecture: &str) -> Result<(), ImportError> {
    let experts = format!("{architecture}.expert_count");
    if let Some(count) = metadata.int(&experts).filter(|count| *count > 0) {
        return Err(metadata.unsupported(
            &experts,
            format!("is {count}; only dense models are supported"),
        ));
    }
    let key = format!("{architecture}.attention.sliding_window");
    match metadata.int(&key).filter(|window| *window > 0) {
        Some(window) => Err(metadata.unsupported(
            &key,
            format!("is {window}; only full attention is supported"),
        )),
        None => Ok(()),
    }
}

fn rope_scaling(
    metadata: &Metadata,
    architecture: &str,
) -> Result<Option<serde_json::Value>, ImportError> {
    let key = format!("{architecture}.rope.scaling.type");
    let factor = format!("{architecture}.rope.scaling.factor");
    match metadata.text(&key).as_deref() {
        None | Some("none") => Ok(None),
        Some("linear") => {
            let factor = metadata.must(&factor, metadata.float(&factor))?;
            Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
        }
        Some(other) => Err(metadata.unsupported(&key, format!("is {other}, not none or linear"))),
    }
}
