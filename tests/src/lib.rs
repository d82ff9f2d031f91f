//! Runs of real processes, as users start them: on one host, on several, and with faults.
//!
//! A host is a network namespace with an address of its own, where this process may make some, and
//! 127.0.0.1 elsewhere ([`hosts`]). Kernels without netem neither delay nor lose packets on request: a
//! relay between a node and its controller does that ([`relay`]). A node that is connected and has nothing
//! done is one whose device is held ([`hang`]).

pub mod chaos;
pub mod hang;
pub mod hosts;
pub mod relay;
pub mod results;
pub mod stage;
pub mod tiny;
