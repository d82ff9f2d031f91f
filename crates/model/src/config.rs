//! From `config.json` to a [`DecoderSpec`]. What is not understood is refused, never ignored:
//! a model that computes something else than its authors meant is worse than none.

use crate::error::{LoadError, read_json};
use crate::spec::{Activation, DecoderSpec, LayerSpec, RopeScaling, RopeSpec};
use serde_json::{Map, Value};
use std::path::Path;

/// Reads what the model in a Hugging Face folder is, without its weights; of adapters, what their base
/// is.
///
/// # Errors
/// The folder or `config.json` is missing or unreadable, or describes a model that the decoder
/// does not compute; the message names key and value.
pub fn spec_of(dir: &Path) -> Result<DecoderSpec, LoadError> {
    if !dir.is_dir() {
        return Err(LoadError::NoFolder(dir.to_owned()));
    }
    let path = crate::adapted::config_of(dir)?;
    let config = read_json(
        &path,
        "every Hugging Face checkpoint has one; copy it into the folder",
    )?;
    spec_from_config(&path, &config)
}

/// As [`spec_of`], for a configuration at hand; `path` is for messages.
pub(crate) fn spec_from_config(path: &Path, config: &Value) -> Result<DecoderSpec, LoadError> {
    let whole = Config::new(path, config)?;
    let config = whole.text_part()?;
    let family = Family::of(&config)?;
    config.refuse_the_unknown()?;
    let (heads, hidden) = (
        config.int("num_attention_heads", family.heads)?,
        config.int("hidden_size", None)?,
    );
    let head_dim = match family.head_dim {
        Some(default) => config.int("head_dim", Some(default))?,
        None => config.int("head_dim", Some(hidden / heads))?,
    };
    let kv_heads = config.int(
        "num_key_value_heads",
        Some(family.kv_heads.unwrap_or(heads)),
    )?;
    if heads % kv_heads != 0 {
        return Err(config.wrong(
            "num_key_value_heads",
            format!("is {kv_heads}, which does not divide {heads}"),
        ));
    }
    if head_dim % 2 != 0 {
        return Err(config.wrong("head_dim", format!("is {head_dim}, which is odd")));
    }
    let attention_bias = family.name != "qwen2" && config.flag("attention_bias", false)?;
    let scalar = if family.gemma {
        config.float("query_pre_attn_scalar", Some(256.0))?
    } else {
        head_dim as f64
    };
    let (ropes, layers) = ropes_and_layers(&config, &family)?;
    Ok(DecoderSpec {
        model_type: family.name.to_owned(),
        vocab_size: config.int("vocab_size", family.vocab_size)?,
        hidden_size: hidden,
        intermediate_size: config.int("intermediate_size", None)?,
        heads,
        kv_heads,
        head_dim,
        max_context: config.int("max_position_embeddings", Some(family.max_context))?,
        norm_eps: config.float("rms_norm_eps", Some(1e-6))?,
        norm_plus_one: family.gemma,
        post_norms: family.gemma,
        qk_norm: family.qk_norm,
        qkv_bias: family.name == "qwen2" || attention_bias,
        output_bias: attention_bias,
        mlp_bias: family.name == "llama" && config.flag("mlp_bias", false)?,
        tied_embeddings: whole.tied(&config, family.gemma)?,
        embedding_scale: family.gemma.then(|| (hidden as f64).sqrt()),
        attention_scale: scalar.powf(-0.5),
        attention_softcap: softcap(&config, "attn_logit_softcapping", &family, 50.0)?,
        logit_softcap: softcap(&config, "final_logit_softcapping", &family, 30.0)?,
        activation: activation(&config, &family)?,
        ropes,
        layers,
    })
}

/// The configuration of the language model alone: `text_config` of a multimodal Gemma 3.
pub(crate) fn text_config(config: &Value) -> Value {
    match (
        config.get("model_type").and_then(Value::as_str),
        config.get("text_config"),
    ) {
        (Some("gemma3"), Some(Value::Object(text))) => {
            let mut text = text.clone();
            text.insert("model_type".into(), "gemma3_text".into());
            text.insert(
                "architectures".into(),
                serde_json::json!(["Gemma3ForCausalLM"]),
            );
            for key in [
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
                "tie_word_embeddings",
            ] {
                if let (false, Some(value)) = (text.contains_key(key), config.get(key)) {
                    text.insert(key.into(), value.clone());
                }
            }
            Value::Object(text)
        }
        _ => config.clone(),
    }
}

/// What the architectures do by default. `None` for a size: `config.json` must give it.
struct Family {
    name: &'static str,
    gemma: bool,
    qk_norm: bool,
    heads: Option<i64>,
    kv_heads: Option<i64>,
    head_dim: Option<i64>,
    vocab_size: Option<i64>,
    max_context: i64,
}

impl Family {
    fn of(config: &Config) -> Result<Self, LoadError> {
        let plain = |name, max_context| Self {
            name,
            gemma: false,
            qk_norm: false,
            heads: None,
            kv_heads: None,
            head_dim: None,
            vocab_size: None,
            max_context,
        };
        let gemma = |name, vocab, max_context| Self {
            gemma: true,
            heads: Some(8),
            kv_heads: Some(4),
            head_dim: Some(256),
            vocab_size: Some(vocab),
            ..plain(name, max_context)
        };
        Ok(match config.text("model_type", None)?.as_str() {
            "llama" => plain("llama", 2048),
            "qwen2" => plain("qwen2", 32_768),
            "qwen3" => Self {
                qk_norm: true,
                head_dim: Some(128),
                ..plain("qwen3", 32_768)
            },
            "gemma2" => gemma("gemma2", 256_000, 8192),
            "gemma3_text" => Self {
                qk_norm: true,
                ..gemma("gemma3_text", 262_208, 131_072)
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

fn softcap(
    config: &Config,
    key: &str,
    family: &Family,
    gemma2: f64,
) -> Result<Option<f64>, LoadError> {
    match (config.get(key), family.name) {
        (None, "gemma2") if !config.map.contains_key(key) => Ok(Some(gemma2)),
        (Some(_), _) if family.gemma => config.float(key, None).map(Some),
        _ => Ok(None),
    }
}

fn activation(config: &Config, family: &Family) -> Result<Activation, LoadError> {
    let (key, default) = if family.gemma {
        ("hidden_activation", "gelu_pytorch_tanh")
    } else {
        ("hidden_act", "silu")
    };
    match config.text(key, Some(default))?.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(config.unsupported(key, "silu, gelu_pytorch_tanh")),
    }
}

/// The rotary embeddings, and for each layer its window and which of them it uses.
fn ropes_and_layers(
    config: &Config,
    family: &Family,
) -> Result<(Vec<RopeSpec>, Vec<LayerSpec>), LoadError> {
    let count = config.int("num_hidden_layers", None)?;
    let slides = sliding_layers(config, family, count as usize)?;
    let window = window(config, family, slides.contains(&true))?;
    let local = family.name == "gemma3_text";
    let ropes = if local {
        vec![
            rope(config, Some("full_attention"), 1e6)?,
            rope(config, Some("sliding_attention"), 1e4)?,
        ]
    } else {
        vec![rope(config, None, 1e4)?]
    };
    let layers = slides
        .into_iter()
        .map(|slides| LayerSpec {
            window: window.filter(|_| slides),
            rope: usize::from(slides && local),
        })
        .collect();
    Ok((ropes, layers))
}

fn window(config: &Config, family: &Family, needed: bool) -> Result<Option<i64>, LoadError> {
    let used = needed && (family.gemma || config.flag("use_sliding_window", false)?);
    if !used
        || (config.map.contains_key("sliding_window") && config.get("sliding_window").is_none())
    {
        return Ok(None);
    }
    config.int("sliding_window", Some(4096)).map(Some)
}

/// For each layer whether it sees only a window.
fn sliding_layers(config: &Config, family: &Family, count: usize) -> Result<Vec<bool>, LoadError> {
    if family.name == "llama" {
        return Ok(vec![false; count]);
    }
    if let Some(types) = config.get("layer_types") {
        let types = types
            .as_array()
            .filter(|types| types.len() == count)
            .ok_or_else(|| {
                config.wrong("layer_types", format!("is not a list of {count} layers"))
            })?;
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                _ => Err(config.unsupported_value(
                    "layer_types",
                    kind,
                    "full_attention, sliding_attention",
                )),
            })
            .collect();
    }
    let rule: Box<dyn Fn(i64) -> bool> = match family.name {
        "gemma2" => Box::new(|layer| layer % 2 == 0),
        "gemma3_text" => {
            let pattern = config.int("sliding_window_pattern", Some(6))?;
            Box::new(move |layer| (layer + 1) % pattern != 0)
        }
        _ if config.flag("use_sliding_window", false)? => {
            let first = config.count("max_window_layers", 28)?;
            Box::new(move |layer| layer >= first)
        }
        _ => Box::new(|_| false),
    };
    Ok((0..count as i64).map(rule).collect())
}

/// One rotary embedding. Newer configurations hold it in `rope_parameters`, Gemma 3 there by kind
/// of layer; older ones in `rope_theta`, `rope_local_base_freq` and `rope_scaling`.
fn rope(config: &Config, layers: Option<&str>, default_theta: f64) -> Result<RopeSpec, LoadError> {
    let local = layers == Some("sliding_attention");
    let theta_key = if local {
        "rope_local_base_freq"
    } else {
        "rope_theta"
    };
    let mut parameters = config.child("rope_parameters")?;
    if let (Some(of_kind), Some(all)) = (layers, &parameters) {
        parameters = all.child(of_kind)?;
    }
    let scaling_source = match &parameters {
        Some(parameters) => Some(parameters.clone()),
        // The context of Gemma 3 is stretched in its global layers only.
        None if local => None,
        None => config.child("rope_scaling")?,
    };
    let theta_in_parameters = parameters
        .as_ref()
        .filter(|p| p.get("rope_theta").is_some());
    let theta = match theta_in_parameters {
        Some(parameters) => parameters.float("rope_theta", None)?,
        None => config.float(theta_key, Some(default_theta))?,
    };
    let scaling = scaling_source.map_or(Ok(RopeScaling::None), |source| rope_scaling(&source))?;
    Ok(RopeSpec { theta, scaling })
}

fn rope_scaling(source: &Config) -> Result<RopeScaling, LoadError> {
    source.require_full_rotary()?;
    let key = if source.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    match source.text(key, Some("default"))?.as_str() {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: source.float("factor", None)?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: source.float("factor", None)?,
            low_freq_factor: source.float("low_freq_factor", None)?,
            high_freq_factor: source.float("high_freq_factor", None)?,
            original_context: source.float("original_max_position_embeddings", None)?,
        }),
        _ => Err(source.unsupported(key, "default, linear, llama3")),
    }
}

/// A JSON object with the path and the key it came from, for messages.
#[derive(Clone)]
struct Config<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    fn new(path: &'a Path, value: &'a Value) -> Result<Self, LoadError> {
        let map = value
            .as_object()
            .ok_or_else(|| LoadError::json(path, "it is no JSON object"))?;
        Ok(Self {
            path,
            prefix: String::new(),
            map,
        })
    }

    fn text_part(&self) -> Result<Self, LoadError> {
        if self.get("model_type").and_then(Value::as_str) != Some("gemma3") {
            return Ok(self.clone());
        }
        self.refuse_the_unknown()?;
        self.child("text_config")?
            .ok_or_else(|| self.wrong("text_config", "is missing"))
    }

    /// Whether the output projection is the embedding; the outermost configuration says.
    fn tied(&self, text: &Self, default: bool) -> Result<bool, LoadError> {
        self.flag(
            "tie_word_embeddings",
            text.flag("tie_word_embeddings", default)?,
        )
    }

    /// Refuses keys that change what is computed, in ways the decoder does not follow.
    fn refuse_the_unknown(&self) -> Result<(), LoadError> {
        let must_be_absent = [
            (
                "quantization_config",
                "none; convert the checkpoint to bf16",
            ),
            ("num_experts", "dense models"),
            ("num_local_experts", "dense models"),
            ("rope_interleaved", "half-split rotary embeddings"),
        ];
        for (key, supported) in must_be_absent {
            if !matches!(self.get(key), None | Some(Value::Bool(false))) {
                return Err(self.unsupported(key, supported));
            }
        }
        if self.flag("use_bidirectional_attention", false)? {
            return Err(self.unsupported("use_bidirectional_attention", "false"));
        }
        self.require_full_rotary()
    }

    fn require_full_rotary(&self) -> Result<(), LoadError> {
        match self.float("partial_rotary_factor", Some(1.0))? {
            1.0 => Ok(()),
            _ => Err(self.unsupported("partial_rotary_factor", "1.0")),
        }
    }

    /// The value; JSON's `null` counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn child(&self, key: &str) -> Result<Option<Self>, LoadError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let map = value
            .as_object()
            .ok_or_else(|| self.wrong(key, "is no JSON object"))?;
        Ok(Some(Self {
            path: self.path,
            prefix: format!("{}{key}.", self.prefix),
            map,
        }))
    }

    fn typed<T>(
        &self,
        key: &str,
        default: Option<T>,
        read: impl Fn(&'a Value) -> Option<T>,
        what: &str,
    ) -> Result<T, LoadError> {
        match (self.get(key), default) {
            (Some(value), _) => {
                read(value).ok_or_else(|| self.wrong(key, format!("is {value}, not {what}")))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.wrong(key, "is missing")),
        }
    }

    /// A whole number above zero.
    fn int(&self, key: &str, default: Option<i64>) -> Result<i64, LoadError> {
        let read = |value: &Value| value.as_i64().filter(|n| (1..1 << 40).contains(n));
        self.typed(key, default, read, "a whole number above zero")
    }

    /// A whole number, zero included.
    fn count(&self, key: &str, default: i64) -> Result<i64, LoadError> {
        self.typed(
            key,
            Some(default),
            |v| v.as_i64().filter(|n| *n >= 0),
            "a whole number",
        )
    }

    /// A number above zero.
    fn float(&self, key: &str, default: Option<f64>) -> Result<f64, LoadError> {
        self.typed(
            key,
            default,
            |v| v.as_f64().filter(|x| *x > 0.0),
            "a number above zero",
        )
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        self.typed(key, Some(default), Value::as_bool, "true or false")
    }

    fn text(&self, key: &str, default: Option<&str>) -> Result<String, LoadError> {
        self.typed(
            key,
            default.map(str::to_owned),
            |v| v.as_str().map(str::to_owned),
            "a text",
        )
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> LoadError {
        LoadError::Config {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    fn unsupported(&self, key: &str, supported: &'static str) -> LoadError {
        self.unsupported_value(key, self.get(key).unwrap_or(&Value::Null), supported)
    }

    fn unsupported_value(&self, key: &str, value: &Value, supported: &'static str) -> LoadError {
        LoadError::Unsupported {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            value: shorten(&value.to_string()),
            supported,
        }
    }
}

/// Objects such as a quantisation's are long; their beginning names them.
fn shorten(value: &str) -> String {
    match value.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
