//! What members are asked, and answer. They mirror `benches/peers/allreduce_gloo.py`.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// Where it listens, if it does.
    Ready,
    /// Meet the other members; the address of the next one's, if it listens.
    Meet { next: Option<SocketAddr> },
    /// Average a tensor of f32 over all members so many times. Element `i` of member `r` is
    /// `((7 i + 13 r) mod 1000) / 1000` at first.
    Average { elements: u64, repeats: u64 },
    /// It may end.
    Quit,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default)]
    pub address: Option<SocketAddr>,
    #[serde(default)]
    pub version: Option<String>,
    /// Of all sums together, the division by the number of members left out.
    #[serde(default)]
    pub seconds: f64,
    /// The largest difference to an average in f64, of every 997th element.
    #[serde(default)]
    pub difference: f64,
}
