//! How the generators keep training and evaluation apart.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The part of a generator's questions that a data set is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Four fifths of all texts.
    Train,
    /// The other fifth.
    Eval,
}

impl Split {
    /// The split's name in [`proto::Question::split`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }

    /// The one split that a text belongs to: a function of the text alone (DA-3).
    pub fn of(text: &str) -> Self {
        if Sha256::digest(text.as_bytes())[0] % 5 == 0 {
            Self::Eval
        } else {
            Self::Train
        }
    }
}

/// The first 16 hexadecimal digits of a text's SHA-256: what generated ids are made of.
pub(crate) fn content_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
