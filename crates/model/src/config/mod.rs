//! From `config.json` to a [`DecoderSpec`]. Content that is not understood is refused, never
//! ignored: a model that computes something else than its authors meant is worse than none.

mod family;
mod layers;
mod reader;
mod refused;
mod rope;

use crate::error::{LoadError, read_json};
use crate::spec::{Activation, DecoderSpec};
use family::Family;
use reader::Config;
use serde_json::Value;
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
    let config = text_part(&whole)?;
    let family = Family::of(&config)?;
    config.refuse_the_unknown()?;
    whole.refuse_other_classes(&family)?;
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
        tied_embeddings: is_tied(&whole, &config, family.gemma)?,
        embedding_scale: family.gemma.then(|| (hidden as f64).sqrt()),
        attention_scale: scalar.powf(-0.5),
        attention_softcap: attention_softcap(&config, &family)?,
        logit_softcap: softcap(&config, "final_logit_softcapping", &family, 30.0)?,
        activation: activation(&config, &family)?,
        ropes: rope::ropes(&config, &family)?,
        layers: layers::layers(&config, &family)?,
    })
}

/// Models are trained without dropout here, as TRL and verl train by reinforcement: sampler and
/// learner have to compute the same. Says so where a configuration asks for it.
///
/// # Errors
/// `config.json` is missing or unreadable.
pub(crate) fn warn_of_dropout(dir: &Path) -> Result<(), LoadError> {
    let path = dir.join("config.json");
    let config = text_config(&read_json(&path, "copy it into the folder")?);
    let rate = config["attention_dropout"].as_f64().unwrap_or(0.0);
    if rate > 0.0 {
        tracing::warn!(file = %path.display(), attention_dropout = rate, "Dropout is not applied.");
    }
    Ok(())
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

/// The language model's part: all of it, or `text_config` of a multimodal Gemma 3.
fn text_part<'a>(whole: &Config<'a>) -> Result<Config<'a>, LoadError> {
    if whole.get("model_type").and_then(Value::as_str) != Some("gemma3") {
        return Ok(whole.clone());
    }
    whole.refuse_the_unknown()?;
    whole
        .child("text_config")?
        .ok_or_else(|| whole.wrong("text_config", "is missing"))
}

/// Whether the output projection is the embedding; the outermost configuration says.
fn is_tied(whole: &Config, text: &Config, default: bool) -> Result<bool, LoadError> {
    whole.flag(
        "tie_word_embeddings",
        text.flag("tie_word_embeddings", default)?,
    )
}

/// Gemma 3 has normalised queries and keys in place of the cap of Gemma 2. `transformers` reads the
/// key there and does not use it.
fn attention_softcap(config: &Config, family: &Family) -> Result<Option<f64>, LoadError> {
    const KEY: &str = "attn_logit_softcapping";
    match config.get(KEY) {
        Some(_) if family.name != "gemma2" => Err(config.unsupported(KEY, "null, but in gemma2")),
        _ => softcap(config, KEY, family, 50.0),
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
        (Some(_), _) => Err(config.unsupported(key, "null, but in gemma2 and gemma3_text")),
        _ => Ok(None),
    }
}

fn activation(config: &Config, family: &Family) -> Result<Activation, LoadError> {
    let (key, other, default) = if family.gemma {
        ("hidden_activation", "hidden_act", "gelu_pytorch_tanh")
    } else {
        ("hidden_act", "hidden_activation", "silu")
    };
    // The other key is not read by the architecture; alone, it may be what was meant.
    if config.get(key).is_none()
        && config.get(other).is_some()
        && named(config, other)? != named_as(default)
    {
        let problem = format!("is not what {key} is by default, {default}");
        return Err(config.contradiction(other, problem));
    }
    match config.get(key) {
        Some(_) => named(config, key)?,
        None => named_as(default),
    }
    .ok_or_else(|| config.unsupported(key, "silu, gelu_pytorch_tanh"))
}

fn named(config: &Config, key: &str) -> Result<Option<Activation>, LoadError> {
    Ok(named_as(&config.text(key, None)?))
}

fn named_as(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_python_tanh" => Some(Activation::GeluTanh),
        _ => None,
    }
}
