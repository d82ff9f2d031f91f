//! `adapter_config.json` of PEFT. A key that is not known here and has a value is refused: adapters
//! of other kinds have the same tensors and mean something else.

use crate::lora::{LoraSpec, Projection};
use serde_json::Value;

/// Keys that are read, or that do not change what a trained adapter adds.
const KNOWN: [&str; 17] = [
    "peft_type",
    "task_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "init_lora_weights",
    // Settings of how adapters were initialised; `init_lora_weights` says whether they were used.
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
];

/// With a value where `use_qalora` alone makes it matter, or whose value changes no product.
const UNUSED: [&str; 3] = ["qalora_group_size", "megatron_core", "layers_pattern"];

/// Ways to begin that leave the weights of the model as they are. PiSSA, OLoRA, CorDA, LoftQ and
/// LoRA-GA take their beginning out of them: beside the model's own weights such an adapter is
/// another model.
const KEEPS_WEIGHTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The adapters that a configuration describes.
///
/// # Errors
/// The key, its value and what to do.
pub(crate) fn spec_of(config: &Value) -> Result<LoraSpec, String> {
    if config["peft_type"] != "LORA" {
        return Err(format!(
            "`peft_type` is {}, not \"LORA\"",
            config["peft_type"]
        ));
    }
    let keys = config.as_object().ok_or("it is no JSON object")?;
    let is_known = |key: &str| KNOWN.contains(&key) || UNUSED.contains(&key);
    if let Some((key, value)) = keys
        .iter()
        .find(|(key, value)| !is_known(key) && !is_empty(value))
    {
        return Err(format!("`{key}` is {value}, which is not supported"));
    }
    check_beginning(&config["init_lora_weights"])?;
    let rank = config["r"].as_i64().filter(|rank| *rank > 0);
    let alpha = config["lora_alpha"].as_f64();
    let (rank, alpha) = rank
        .zip(alpha)
        .ok_or("`r` or `lora_alpha` is missing or out of range")?;
    Ok(LoraSpec {
        rank,
        alpha,
        targets: targets(&config["target_modules"])?,
    })
}

/// Null, false, empty, or the word for nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty() || text == "none",
        _ => false,
    }
}

fn check_beginning(value: &Value) -> Result<(), String> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(name) if KEEPS_WEIGHTS.contains(&name.to_lowercase().as_str()) => Ok(()),
        other => Err(format!(
            "`init_lora_weights` is {other}, so the adapter belongs to weights that were changed \
             when it began: save it with path_initial_model_for_weight_conversion of PEFT's \
             save_pretrained"
        )),
    }
}

fn targets(value: &Value) -> Result<Vec<Projection>, String> {
    let mut targets = match value {
        Value::String(all) if all == "all-linear" => Projection::ALL.to_vec(),
        Value::Array(names) => names
            .iter()
            .map(|name| {
                let known = name.as_str().and_then(Projection::of_name);
                known
                    .ok_or_else(|| format!("`target_modules` names {name}, which is no projection"))
            })
            .collect::<Result<_, _>>()?,
        other => {
            return Err(format!(
                "`target_modules` is {other}; list projections by name"
            ));
        }
    };
    targets.sort(); // PEFT writes them in any order
    targets.dedup();
    Ok(targets)
}
