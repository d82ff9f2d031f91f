//! What replicas are asked, and answer.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// Where it listens.
    Ready,
    /// Load the model, and meet the other replicas; where the next one listens.
    Meet { next: SocketAddr },
    /// Make a step. `late`: sums begin when they are waited for.
    Step { late: bool },
    /// Compare the weights of all.
    Compare,
    /// It may end.
    Quit,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// What a step reports.
    #[serde(default)]
    pub values: BTreeMap<String, f64>,
    /// The compute type.
    #[serde(default)]
    pub kind: String,
}
