//! Bytes between nodes.
//!
//! A [`Connection`] joins two nodes that have proved who they are, on one [`Lane`]. A [`Link`] makes
//! calls and one-way messages of it. In [`memory`] there is a network without sockets for tests.
//!
//! Knows nothing about what the bytes mean, about actors, or about tensors.

mod connection;
pub mod frame;
mod lane;
mod link;
pub mod memory;

pub use connection::{Connection, Duplex, Incoming, Outgoing};
pub use lane::Lane;
pub use link::{CallError, Handler, Limits, Link, Request};
