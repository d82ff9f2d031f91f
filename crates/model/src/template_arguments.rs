//! Variables that a configuration passes to the chat template, such as `enable_thinking = false`.

use crate::special::NAMES;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Variables of the dialogue itself and of `transformers`, which no argument may replace.
const RESERVED: [&str; 11] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "additional_special_tokens",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "loop",
];

/// The key under which TOML's dates come through `serde`.
const TOML_DATE: &str = "$__toml_private_datetime";

/// Variables for a chat template, by name; values of any type. A template may leave them unread.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct TemplateArguments(Map<String, Value>);

impl TemplateArguments {
    /// Arguments at hand.
    ///
    /// # Errors
    /// A name is one of the dialogue's own variables or no variable; the message says which.
    pub fn new(arguments: Map<String, Value>) -> Result<Self, String> {
        for name in arguments.keys() {
            if RESERVED.contains(&name.as_str()) || NAMES.contains(&name.as_str()) {
                return Err(format!(
                    "`{name}` is set by the dialogue or the tokenizer: choose one of the template's \
                     other variables"
                ));
            }
            let begins = |c: char| c.is_alphabetic() || c == '_';
            let continues = |c: char| c.is_alphanumeric() || c == '_';
            if !name.starts_with(begins) || !name.chars().all(continues) {
                return Err(format!("`{name}` is no name that a template can use"));
            }
        }
        let plain = arguments
            .into_iter()
            .map(|(name, value)| (name, undated(value)));
        Ok(Self(plain.collect()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<'de> Deserialize<'de> for TemplateArguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Dates as the text they were written as.
fn undated(value: Value) -> Value {
    match value {
        Value::Object(mut map) => match map.remove(TOML_DATE) {
            Some(date) => date,
            None => map
                .into_iter()
                .map(|(key, value)| (key, undated(value)))
                .collect(),
        },
        Value::Array(values) => values.into_iter().map(undated).collect(),
        other => other,
    }
}
