//! Typed access to the keys of a `config.json`, with errors that name key and value.

use crate::error::LoadError;
use serde_json::{Map, Value};
use std::path::Path;

/// A JSON object with the path and the key it came from, for messages.
#[derive(Clone)]
pub(super) struct Config<'a> {
    path: &'a Path,
    prefix: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    pub(super) fn new(path: &'a Path, value: &'a Value) -> Result<Self, LoadError> {
        let map = value
            .as_object()
            .ok_or_else(|| LoadError::json(path, "it is no JSON object"))?;
        Ok(Self {
            path,
            prefix: String::new(),
            map,
        })
    }

    /// The value; JSON's `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The keys that have a value.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        let given = self.map.iter().filter(|(_, value)| !value.is_null());
        given.map(|(key, _)| key.as_str())
    }

    pub(super) fn child(&self, key: &str) -> Result<Option<Self>, LoadError> {
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
    pub(super) fn int(&self, key: &str, default: Option<i64>) -> Result<i64, LoadError> {
        let read = |value: &Value| value.as_i64().filter(|n| (1..1 << 40).contains(n));
        self.typed(key, default, read, "a whole number above zero")
    }

    /// A whole number, zero included.
    pub(super) fn count(&self, key: &str, default: i64) -> Result<i64, LoadError> {
        self.typed(
            key,
            Some(default),
            |v| v.as_i64().filter(|n| *n >= 0),
            "a whole number",
        )
    }

    /// A number above zero.
    pub(super) fn float(&self, key: &str, default: Option<f64>) -> Result<f64, LoadError> {
        self.typed(
            key,
            default,
            |v| v.as_f64().filter(|x| *x > 0.0),
            "a number above zero",
        )
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        self.typed(key, Some(default), Value::as_bool, "true or false")
    }

    pub(super) fn text(&self, key: &str, default: Option<&str>) -> Result<String, LoadError> {
        self.typed(
            key,
            default.map(str::to_owned),
            |v| v.as_str().map(str::to_owned),
            "a text",
        )
    }

    pub(super) fn wrong(&self, key: &str, problem: impl Into<String>) -> LoadError {
        LoadError::Config {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    /// Two keys say different things, and programs differ in which of them they read.
    pub(super) fn contradiction(&self, key: &str, problem: impl Into<String>) -> LoadError {
        LoadError::Contradiction {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            problem: problem.into(),
        }
    }

    pub(super) fn unsupported(&self, key: &str, supported: &'static str) -> LoadError {
        self.unsupported_value(key, self.get(key).unwrap_or(&Value::Null), supported)
    }

    pub(super) fn unsupported_value(
        &self,
        key: &str,
        value: &Value,
        supported: &'static str,
    ) -> LoadError {
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
