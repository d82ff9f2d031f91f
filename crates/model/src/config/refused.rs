//! Keys that change what is computed in ways the decoder does not follow.

use super::family::Family;
use super::reader::Config;
use crate::error::LoadError;
use serde_json::Value;

/// Keys that must be absent, null, false or empty, with what is supported instead.
const MUST_BE_ABSENT: [(&str, &str); 7] = [
    (
        "quantization_config",
        "none; convert the checkpoint to bf16",
    ),
    ("compression_config", "none; convert the checkpoint to bf16"),
    ("num_experts", "dense models"),
    ("num_local_experts", "dense models"),
    ("rope_interleaved", "half-split rotary embeddings"),
    ("use_bidirectional_attention", "false"),
    ("per_layer_config", "the same settings in all layers"),
];

impl Config<'_> {
    /// Refuses what no architecture here computes.
    pub(super) fn refuse_the_unknown(&self) -> Result<(), LoadError> {
        let is_absent = |value: &Value| match value {
            Value::Bool(on) => !on,
            Value::Object(map) => map.is_empty(),
            Value::Number(number) => number.as_i64() == Some(0),
            _ => false,
        };
        for (key, supported) in MUST_BE_ABSENT {
            if self.get(key).is_some_and(|value| !is_absent(value)) {
                return Err(self.unsupported(key, supported));
            }
        }
        if !self.flag("is_causal", true)? {
            return Err(self.unsupported("is_causal", "true"));
        }
        self.require_full_rotary()
    }

    /// Refuses the code of its authors, which only they know, and heads for other tasks.
    pub(super) fn refuse_other_classes(&self, family: &Family) -> Result<(), LoadError> {
        let code = self.child("auto_map")?;
        if code.is_some_and(|code| code.keys().any(|key| key.starts_with("AutoModel"))) {
            return Err(self.unsupported(
                "auto_map",
                "none; remove the key if the model is what its type says, without code of its own",
            ));
        }
        let Some(names) = self.get("architectures") else {
            return Ok(());
        };
        let is_ours = |name: &str| {
            let name = name.to_lowercase();
            family
                .classes
                .iter()
                .any(|class| name == class.to_lowercase())
        };
        let mut named = names
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        match named.next() {
            Some(first) if !is_ours(first) && !named.any(is_ours) => {
                Err(self.unsupported("architectures", family.classes[0]))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn require_full_rotary(&self) -> Result<(), LoadError> {
        match self.float("partial_rotary_factor", Some(1.0))? {
            1.0 => Ok(()),
            _ => Err(self.unsupported("partial_rotary_factor", "1.0")),
        }
    }
}
