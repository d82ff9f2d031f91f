//! A cluster before a run: every node, and the network between all of them.
//!
//! The nodes are started as they will be for a run, with the same certificates and ports, and do what
//! they are told: say what they have, and pull zeros from each other as they will pull weights. One
//! pair is measured at a time per node, so that no two share a link at a node.

mod lead;
mod pairs;
mod probe;
mod survey;
mod words;

pub use lead::{listening, over_ssh};
pub use probe::probe;
pub use survey::Survey;
