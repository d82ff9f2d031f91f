//! Bytes between nodes.
//!
//! A [`Connection`] joins two nodes that have proved who they are, on one [`Lane`]. A [`Link`] makes
//! calls and one-way messages of it; [`bulk`] moves weights and files. An [`Endpoint`] gives
//! connections over QUIC with mutual TLS, from certificates that [`certs`] makes; a [`tls::TlsStream`] is
//! TCP with the same. In [`memory`] there is a network without sockets for tests.
//!
//! Knows nothing about what the bytes mean, about actors, or about tensors.

pub mod bulk;
pub mod certs;
mod connection;
mod endpoint;
pub mod frame;
mod lane;
mod link;
pub mod memory;
mod refusals;
mod settings;
pub mod tls;

pub use connection::{Connection, Duplex, Incoming, Outgoing, Path};
pub use endpoint::{BindError, DialError, Endpoint};
pub use lane::Lane;
pub use link::{CallError, Handler, Limits, Link, Request};
