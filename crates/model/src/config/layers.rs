//! Which layers see only a window, and which rotary embedding each of them uses.

use super::family::Family;
use super::reader::Config;
use crate::error::LoadError;
use crate::spec::LayerSpec;

/// One entry per layer.
pub(super) fn layers(config: &Config, family: &Family) -> Result<Vec<LayerSpec>, LoadError> {
    let count = config.int("num_hidden_layers", None)?;
    let slides = sliding_layers(config, family, count as usize)?;
    let window = match slides.contains(&true) {
        true => window(config, family)?,
        false => None,
    };
    let layer = |slides| LayerSpec {
        window: window.filter(|_| slides),
        rope: usize::from(slides && family.local_rope),
    };
    Ok(slides.into_iter().map(layer).collect())
}

fn window(config: &Config, family: &Family) -> Result<Option<i64>, LoadError> {
    const KEY: &str = "sliding_window";
    let is_null = config.map.contains_key(KEY) && config.get(KEY).is_none();
    if is_null || !family.gemma && !config.flag("use_sliding_window", false)? {
        return Err(
            config.contradiction("layer_types", "has layers with a window, but there is none")
        );
    }
    config.int(KEY, Some(4096)).map(Some)
}

/// For each layer whether it sees only a window.
fn sliding_layers(config: &Config, family: &Family, count: usize) -> Result<Vec<bool>, LoadError> {
    if let Some(kinds) = listed(config, count)? {
        if family.name == "llama" && kinds.contains(&true) {
            return Err(config.unsupported("layer_types", "full_attention"));
        }
        return Ok(kinds);
    }
    let rule: Box<dyn Fn(i64) -> bool> = match family.name {
        "llama" => {
            refuse_window(config)?;
            Box::new(|_| false)
        }
        "gemma2" => Box::new(|layer| layer % 2 == 0),
        "gemma3_text" => {
            let pattern = config.int("sliding_window_pattern", Some(6))?;
            Box::new(move |layer| (layer + 1) % pattern != 0)
        }
        _ => {
            let has_window = !config.map.contains_key("sliding_window")
                || config.get("sliding_window").is_some();
            let is_used = has_window && config.flag("use_sliding_window", false)?;
            let first = config.count("max_window_layers", 28)?;
            Box::new(move |layer| is_used && layer >= first)
        }
    };
    Ok((0..count as i64).map(rule).collect())
}

/// `layer_types`, where they are given.
fn listed(config: &Config, count: usize) -> Result<Option<Vec<bool>>, LoadError> {
    let Some(kinds) = config.get("layer_types") else {
        return Ok(None);
    };
    let kinds = kinds
        .as_array()
        .filter(|kinds| kinds.len() == count)
        .ok_or_else(|| config.wrong("layer_types", format!("is not a list of {count} layers")))?;
    let slides = kinds.iter().map(|kind| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => {
            Err(config.unsupported_value("layer_types", kind, "full_attention, sliding_attention"))
        }
    });
    slides.collect::<Result<_, _>>().map(Some)
}

/// Llama has no window. One in its configuration is left over from another architecture, whose
/// weights this may be.
fn refuse_window(config: &Config) -> Result<(), LoadError> {
    let is_off =
        config.get("use_sliding_window").is_some() && !config.flag("use_sliding_window", true)?;
    match config.get("sliding_window") {
        Some(_) if !is_off => Err(config.unsupported(
            "sliding_window",
            "none in a model of type llama; remove the key if its layers see everything",
        )),
        _ => Ok(()),
    }
}
