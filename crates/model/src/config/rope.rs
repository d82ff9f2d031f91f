//! Rotary embeddings in `config.json`: newer files hold them in `rope_parameters`, Gemma 3 there by
//! kind of layer; older ones in `rope_theta`, `rope_local_base_freq` and `rope_scaling`.

use super::family::Family;
use super::reader::Config;
use crate::error::LoadError;
use crate::spec::{RopeScaling, RopeSpec};

/// The keys of `rope_parameters` of Gemma 3.
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

/// The rotary embeddings that layers choose from: one, or Gemma 3's global and local one.
pub(super) fn ropes(config: &Config, family: &Family) -> Result<Vec<RopeSpec>, LoadError> {
    if !family.local_rope {
        let parameters = config.child("rope_parameters")?;
        if let Some(parameters) = &parameters {
            refuse_nested(parameters)?;
        }
        let older = Older {
            theta: "rope_theta",
            scaling: Some("rope_scaling"),
            default_theta: 1e4,
        };
        return Ok(vec![rope(config, parameters, &older)?]);
    }
    let parameters = config.child("rope_parameters")?;
    let of_kind = |kind: &str| match &parameters {
        Some(all) => all.child(kind),
        None => Ok(None),
    };
    if let Some(parameters) = &parameters {
        refuse_flat(parameters)?;
    }
    let global = Older {
        theta: "rope_theta",
        scaling: Some("rope_scaling"),
        default_theta: 1e6,
    };
    let local = Older {
        theta: "rope_local_base_freq",
        // The context of Gemma 3 is stretched in its global layers only.
        scaling: None,
        default_theta: 1e4,
    };
    Ok(vec![
        rope(config, of_kind(GLOBAL)?, &global)?,
        rope(config, of_kind(LOCAL)?, &local)?,
    ])
}

/// The keys in which an older file holds a rotary embedding.
struct Older {
    theta: &'static str,
    scaling: Option<&'static str>,
    default_theta: f64,
}

/// One rotary embedding, from `parameters` where they are given.
fn rope(config: &Config, parameters: Option<Config>, keys: &Older) -> Result<RopeSpec, LoadError> {
    let scaling = match keys.scaling {
        Some(key) => config.child(key)?,
        None => None,
    };
    let older = RopeSpec {
        theta: config.float(keys.theta, Some(keys.default_theta))?,
        scaling: match &scaling {
            Some(scaling) => rope_scaling(config, scaling)?,
            None => RopeScaling::None,
        },
    };
    let Some(parameters) = parameters else {
        return Ok(older);
    };
    let newer = RopeSpec {
        theta: parameters.float("rope_theta", Some(older.theta))?,
        scaling: rope_scaling(config, &parameters)?,
    };
    // transformers 4 reads the older keys, 5 the newer ones unless `rope_scaling` is there.
    let given = config.get(keys.theta).is_some() || scaling.is_some();
    if given && newer.theta != older.theta {
        let problem = format!(
            "is {}, but rope_parameters say {}",
            older.theta, newer.theta
        );
        return Err(config.contradiction(keys.theta, problem));
    }
    match keys.scaling {
        Some(key) if scaling.is_some() && newer.scaling != older.scaling => {
            Err(config.contradiction(key, "says something else than rope_parameters"))
        }
        _ => Ok(newer),
    }
}

fn rope_scaling(config: &Config, source: &Config) -> Result<RopeScaling, LoadError> {
    source.require_full_rotary()?;
    let key = if source.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let kind = source.text(key, Some("default"))?;
    if source.text("type", Some(&kind))? != kind {
        return Err(source.contradiction("type", format!("is not {kind:?}, as rope_type says")));
    }
    match kind.as_str() {
        "default" => {
            refuse_others(source, &[])?;
            Ok(RopeScaling::None)
        }
        "linear" => {
            // The former context plays no part in a linear stretch.
            refuse_others(source, &["factor", "original_max_position_embeddings"])?;
            let factor = source.float("factor", None)?;
            Ok(RopeScaling::Linear { factor })
        }
        "llama3" => llama3(config, source),
        _ => Err(source.unsupported(key, "default, linear, llama3")),
    }
}

fn llama3(config: &Config, source: &Config) -> Result<RopeScaling, LoadError> {
    const CONTEXT: &str = "original_max_position_embeddings";
    refuse_others(
        source,
        &["factor", "low_freq_factor", "high_freq_factor", CONTEXT],
    )?;
    let outer = match config.get(CONTEXT) {
        Some(_) => Some(config.float(CONTEXT, None)?),
        None => None,
    };
    let original_context = source.float(CONTEXT, outer)?;
    if let Some(outer) = outer.filter(|outer| *outer != original_context) {
        let problem = format!("is {outer}, but the rotary embedding's is {original_context}");
        return Err(config.contradiction(CONTEXT, problem));
    }
    let low_freq_factor = source.float("low_freq_factor", None)?;
    let high_freq_factor = source.float("high_freq_factor", None)?;
    if high_freq_factor <= low_freq_factor {
        let problem = format!("is {high_freq_factor}, not above low_freq_factor");
        return Err(source.wrong("high_freq_factor", problem));
    }
    Ok(RopeScaling::Llama3 {
        factor: source.float("factor", None)?,
        low_freq_factor,
        high_freq_factor,
        original_context,
    })
}

/// Refuses settings that the kind of stretch does not read: they were meant for another kind.
fn refuse_others(source: &Config, read: &[&str]) -> Result<(), LoadError> {
    const ALWAYS: [&str; 4] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    let is_read = |key: &str| ALWAYS.contains(&key) || read.contains(&key);
    match source.keys().find(|key| !is_read(key)) {
        Some(key) => Err(source.unsupported(key, "not beside this rope_type, which ignores it")),
        None => Ok(()),
    }
}

fn refuse_nested(parameters: &Config) -> Result<(), LoadError> {
    match parameters.keys().find(|key| [GLOBAL, LOCAL].contains(key)) {
        Some(key) => Err(parameters.unsupported(key, "the same rotary embedding in all layers")),
        None => Ok(()),
    }
}

fn refuse_flat(parameters: &Config) -> Result<(), LoadError> {
    match parameters.keys().find(|key| ![GLOBAL, LOCAL].contains(key)) {
        Some(key) => Err(parameters.unsupported(key, "keys full_attention and sliding_attention")),
        None => Ok(()),
    }
}
