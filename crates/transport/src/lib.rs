//! Bytes between nodes.
//!
//! Knows nothing about what the bytes mean, about actors, or about tensors.

pub mod certs;
mod lane;
pub mod tls;

pub use lane::Lane;
