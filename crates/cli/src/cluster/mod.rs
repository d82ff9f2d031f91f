//! A run over several nodes: the controller's side of a run, and `swirl node`.
//!
//! What engines do is the same as on one machine; here is only how a controller says which are to be
//! opened ([`orders`]), how a node opens them ([`outfit`]), the sockets between
//! them ([`network`]), and how learners meet each other ([`replica`]).

mod certificates;
mod command;
mod head;
mod network;
mod orders;
mod outfit;
mod replica;

pub use command::run as node_command;
pub use head::{Elsewhere, Head, credentials};
pub use network::{Listening, Socket, SocketHandles, Sockets, ToController, any_like, listenable};
pub use orders::{JudgeOrder, LearnerOrder, SamplerOrder, ToolOrder};
