//! Settings of the command line: `train.steps=10`.
//!
//! A value is read as TOML, and as plain text where that fails, so that paths need no quotes. Text
//! that happens to be TOML (`run.name=20261130`, `run.name=true`) is taken as text once it turns out
//! that its setting wants text.

use super::load::ConfigError;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// One setting of the command line.
#[derive(Debug)]
pub(super) struct Override {
    /// Its key, in parts.
    path: Vec<String>,
    /// Its value as it was written.
    text: String,
}

impl Override {
    /// Reads `a.b.c=value`; two dashes in front are passed over.
    ///
    /// # Errors
    /// When there is no key or no `=`.
    pub(super) fn read(written: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Override {
            text: written.to_owned(),
        };
        let (key, text) = written.split_once('=').ok_or_else(bad)?;
        let key = key.trim().trim_start_matches("--");
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        match path.iter().any(String::is_empty) {
            true => Err(bad()),
            false => Ok(Self {
                path,
                text: text.trim().to_owned(),
            }),
        }
    }

    /// Its key, with dots.
    pub(super) fn key(&self) -> String {
        self.path.join(".")
    }

    /// Puts the value into the table, over what is there.
    ///
    /// # Errors
    /// When a part of the key is a value and no section.
    pub(super) fn apply(&self, table: &mut Table) -> Result<(), ConfigError> {
        self.put(table, self.value())
    }

    /// Puts the value into the table as the text that it was written as. `at` is the setting that
    /// wants text: this one's key, or with `[n]` behind it the nth entry of its list. False where it
    /// is another's, or is no plain value.
    pub(super) fn apply_as_text(&self, table: &mut Table, at: &str) -> bool {
        let Some(index) = at.strip_prefix(&self.key()) else {
            return false;
        };
        let text = match index.is_empty() {
            true => self.with_scalar(),
            false => index_of(index).and_then(|index| self.with_entry(table, index)),
        };
        text.is_some_and(|value| self.put(table, value).is_ok())
    }

    fn put(&self, table: &mut Table, value: Value) -> Result<(), ConfigError> {
        let bad = || ConfigError::Override {
            text: format!("{}={}", self.key(), self.text),
        };
        let (last, sections) = self.path.split_last().ok_or_else(bad)?;
        let mut here = table;
        for part in sections {
            let next = here
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            here = next.as_table_mut().ok_or_else(bad)?;
        }
        here.insert(last.clone(), value);
        Ok(())
    }

    fn value(&self) -> Value {
        let parsed = format!("v = {}", self.text).parse::<Table>().ok();
        parsed
            .filter(|parsed| parsed.len() == 1)
            .and_then(|mut parsed| parsed.remove("v"))
            .unwrap_or_else(|| Value::String(self.text.clone()))
    }

    /// The text of a number, a date or a truth value.
    fn with_scalar(&self) -> Option<Value> {
        is_scalar(&self.value()).then(|| Value::String(self.text.clone()))
    }

    /// The list as it stands in the table, with the text of one entry in the place of its value.
    fn with_entry(&self, table: &Table, index: usize) -> Option<Value> {
        let mut list = self.found(table)?.as_array()?.clone();
        let entry = list.get_mut(index).filter(|entry| is_scalar(entry))?;
        let written = format!("v = {}", self.text);
        let parsed = DeTable::parse(&written).ok()?;
        let value: &Spanned<DeValue<'_>> = parsed.get_ref().get("v")?;
        let span = value.get_ref().as_array()?.get(index)?.span();
        *entry = Value::String(written[span].to_owned());
        Some(Value::Array(list))
    }

    fn found<'a>(&self, table: &'a Table) -> Option<&'a Value> {
        let (first, rest) = self.path.split_first()?;
        rest.iter()
            .try_fold(table.get(first)?, |here, part| here.get(part))
    }
}

/// Whether a value can be meant as text although it is none.
fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::String(_) | Value::Array(_) | Value::Table(_))
}

/// `[3]`.
fn index_of(text: &str) -> Option<usize> {
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}
