//! GGUF metadata, and the `config.json` they amount to.

use super::ImportError;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Value as Json, json};
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

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.content.metadata.keys().map(String::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.to_bool().ok()
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

/// An architecture as llama.cpp names it.
struct Architecture {
    name: &'static str,
    model_type: &'static str,
    class: &'static str,
}

const ARCHITECTURES: [Architecture; 5] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
    },
];

/// Keys of an architecture that are read here, or do not change what is computed.
const KNOWN: [&str; 21] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.type",
    "rope.scaling.factor",
];

/// The `config.json` of the model in a file.
pub(super) fn config(metadata: &Metadata, tied: bool, kind: Kind) -> Result<Json, ImportError> {
    const KEY: &str = "general.architecture";
    let name = metadata.must(KEY, metadata.text(KEY))?;
    let architecture = ARCHITECTURES
        .iter()
        .find(|architecture| architecture.name == name)
        .ok_or_else(|| {
            let names = ARCHITECTURES
                .map(|architecture| architecture.name)
                .join(", ");
            metadata.unsupported(KEY, format!("is {name}, not one of {names}"))
        })?;
    let section = Section {
        metadata,
        prefix: architecture.name,
    };
    section.refuse_the_unknown()?;
    let mut config = section.common(tied, kind)?;
    config["architectures"] = json!([architecture.class]);
    config["model_type"] = architecture.model_type.into();
    match architecture.name {
        "gemma2" => section.gemma2(&mut config)?,
        "gemma3" => section.gemma3(&mut config)?,
        _ => section.refuse_gemma()?,
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

/// The keys of one architecture.
struct Section<'a> {
    metadata: &'a Metadata<'a>,
    prefix: &'static str,
}

impl Section<'_> {
    fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    fn int(&self, rest: &str) -> Option<i64> {
        self.metadata.int(&self.key(rest))
    }

    fn float(&self, rest: &str) -> Option<f64> {
        self.metadata.float(&self.key(rest))
    }

    fn must_int(&self, rest: &str) -> Result<i64, ImportError> {
        self.metadata.must(&self.key(rest), self.int(rest))
    }

    fn has(&self, rest: &str) -> bool {
        self.metadata.get(&self.key(rest)).is_some()
    }

    fn unsupported(&self, rest: &str, problem: impl Into<String>) -> ImportError {
        self.metadata.unsupported(&self.key(rest), problem)
    }

    /// The width of a head.
    fn head_dim(&self) -> Result<i64, ImportError> {
        let heads = self.must_int("attention.head_count")?;
        let even = self.must_int("embedding_length")? / heads.max(1);
        Ok(self.int("attention.key_length").unwrap_or(even))
    }

    fn common(&self, tied: bool, kind: Kind) -> Result<Json, ImportError> {
        let heads = self.must_int("attention.head_count")?;
        let tokens = self.metadata.must(
            "tokenizer.ggml.tokens",
            self.metadata.array("tokenizer.ggml.tokens"),
        )?;
        let eps = "attention.layer_norm_rms_epsilon";
        let mut config = json!({
            "vocab_size": tokens.len(),
            "hidden_size": self.must_int("embedding_length")?,
            "intermediate_size": self.must_int("feed_forward_length")?,
            "num_hidden_layers": self.must_int("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.int("attention.head_count_kv").unwrap_or(heads),
            "head_dim": self.head_dim()?,
            "max_position_embeddings": self.must_int("context_length")?,
            "rms_norm_eps": self.metadata.must(&self.key(eps), self.float(eps))?,
            "rope_theta": self.float("rope.freq_base").unwrap_or(1e4),
            "attention_bias": false,
            "tie_word_embeddings": tied,
            "torch_dtype": crate::shards::dtype_of(kind).map(|(_, name)| name),
        });
        let activation = match self.prefix.starts_with("gemma") {
            true => ("hidden_activation", "gelu_pytorch_tanh"),
            false => ("hidden_act", "silu"),
        };
        config[activation.0] = activation.1.into();
        if let Some(scaling) = self.rope_scaling()? {
            config["rope_scaling"] = scaling;
        }
        Ok(config)
    }

    /// A window in every second layer, both scores and logits capped.
    fn gemma2(&self, config: &mut Json) -> Result<(), ImportError> {
        config["sliding_window"] = self.must_int("attention.sliding_window")?.into();
        config["query_pre_attn_scalar"] = self.attention_scalar(46)?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            config[key] = match self.has(key) {
                true => self.metadata.must(&self.key(key), self.float(key))?.into(),
                false => Json::Null,
            };
        }
        Ok(())
    }

    /// Five layers with a window and a rotary embedding of their own, then one without.
    fn gemma3(&self, config: &mut Json) -> Result<(), ImportError> {
        if self.has("attn_logit_softcapping") {
            return Err(self.unsupported("attn_logit_softcapping", "belongs to gemma2"));
        }
        config["sliding_window"] = self.must_int("attention.sliding_window")?.into();
        config["sliding_window_pattern"] = 6.into();
        config["query_pre_attn_scalar"] = self.attention_scalar(62)?;
        config["rope_theta"] = self.float("rope.freq_base").unwrap_or(1e6).into();
        config["rope_local_base_freq"] = self.float("rope.freq_base_swa").unwrap_or(1e4).into();
        if let Some(cap) = self.float("final_logit_softcapping") {
            config["final_logit_softcapping"] = cap.into();
        }
        Ok(())
    }

    /// `query_pre_attn_scalar`. Files do not hold it: llama.cpp goes by the number of layers, by
    /// which it knows the 27B models, where it is the width that a head would have by rights.
    fn attention_scalar(&self, layers_of_27b: i64) -> Result<Json, ImportError> {
        if let Some(scale) = self.float("attention.scale").filter(|scale| *scale > 0.0) {
            return Ok(scale.powi(-2).into());
        }
        let heads = self.must_int("attention.head_count")?.max(1);
        Ok(match self.must_int("block_count")? == layers_of_27b {
            true => (self.must_int("embedding_length")? / heads).into(),
            false => self.head_dim()?.into(),
        })
    }

    /// Settings that only Gemma has.
    fn refuse_gemma(&self) -> Result<(), ImportError> {
        if let Some(window) = self.int("attention.sliding_window").filter(|w| *w > 0) {
            let problem = format!("is {window}; only full attention is supported");
            return Err(self.unsupported("attention.sliding_window", problem));
        }
        let only = [
            "attention.scale",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "rope.freq_base_swa",
        ];
        match only.into_iter().find(|key| self.has(key)) {
            Some(key) => Err(self.unsupported(key, "is not known of this architecture")),
            None => Ok(()),
        }
    }

    /// Refuses what is not understood: each key may change what the model computes.
    fn refuse_the_unknown(&self) -> Result<(), ImportError> {
        let prefix = self.key("");
        for key in self.metadata.keys() {
            if let Some(rest) = key.strip_prefix(&prefix)
                && !KNOWN.contains(&rest)
            {
                return Err(self.unsupported(rest, "is a setting that is not known"));
            }
        }
        if let Some(kind) = self
            .metadata
            .text("general.type")
            .filter(|kind| kind != "model")
        {
            let problem = format!("is {kind}, not model");
            return Err(self.metadata.unsupported("general.type", problem));
        }
        if let Some(count) = self.int("expert_count").filter(|count| *count > 0) {
            let problem = format!("is {count}; only dense models are supported");
            return Err(self.unsupported("expert_count", problem));
        }
        let width = self.head_dim()?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = self.int(key).filter(|found| *found != width) {
                let problem = format!("is {found}, not the width of a head, {width}");
                return Err(self.unsupported(key, problem));
            }
        }
        Ok(())
    }

    fn rope_scaling(&self) -> Result<Option<Json>, ImportError> {
        const KIND: &str = "rope.scaling.type";
        const FACTOR: &str = "rope.scaling.factor";
        match self.metadata.text(&self.key(KIND)).as_deref() {
            None | Some("none") if self.float(FACTOR).is_some_and(|factor| factor != 1.0) => {
                Err(self.unsupported(FACTOR, "is there without rope.scaling.type = linear"))
            }
            None | Some("none") => Ok(None),
            Some("linear") => {
                let factor = self.metadata.must(&self.key(FACTOR), self.float(FACTOR))?;
                Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
            }
            Some(other) => Err(self.unsupported(KIND, format!("is {other}, not none or linear"))),
        }
    }
}
