//! A text as a typed value, and what people are told about it.

use super::answers_match;
use crate::numeric::Amount;
use crate::text::normalize_answer;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;
use tools::number::format_number;

/// How a text was read: the type of its value, and the value.
///
/// Shown as `number 18`; serialised as `{"type": "number", "value": "18"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    text: String,
    amount: Option<Amount>,
}

/// Reads an answer key: the whole text is the value.
pub fn read_key(text: &str) -> Reading {
    Reading {
        text: text.to_owned(),
        amount: Amount::exactly(text),
    }
}

/// Reads an answer: its value may stand amid words, `The total is 72 clips.`
pub fn read(text: &str) -> Reading {
    Reading {
        text: text.to_owned(),
        amount: Amount::only(text),
    }
}

impl Reading {
    /// The name of the value's type: `number`, `words` …
    pub fn kind(&self) -> &'static str {
        match &self.amount {
            Some(amount) if amount.percent.is_some() => "percentage",
            Some(_) => "number",
            None => "words",
        }
    }

    /// The value in its plainest spelling.
    pub fn value(&self) -> String {
        match &self.amount {
            Some(Amount {
                percent: Some(percent),
                ..
            }) => format!("{}%", format_number(percent)),
            Some(amount) => format_number(&amount.value),
            None => normalize_answer(&self.text),
        }
    }

    /// Whether an answer, read by [`read`], says what this key, read by [`read_key`], says.
    pub fn accepts(&self, answer: &Reading) -> bool {
        answers_match(&self.text, &answer.text)
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Reading", 2)?;
        fields.serialize_field("type", self.kind())?;
        fields.serialize_field("value", &self.value())?;
        fields.end()
    }
}
