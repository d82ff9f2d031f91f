//! Durable trajectories: a log that loses nothing it acknowledged, and Parquet files that every data
//! tool reads.
//!
//! [`TrajectoryStore`] is the entry point. A folder holds
//!
//! - `log-N.swl`: finished trajectories as they arrive, each checksummed, flushed to disk before it
//!   is acknowledged ([`log`] has the layout and what happens after a crash);
//! - `segment-N.parquet`: what [`TrajectoryStore::compact`] made of earlier logs ([`segment`] has the
//!   schema);
//! - `lock`: held by the one process that has the store open.
//!
//! Everything is synchronous: a shell that must not block calls it on a thread of its own.

mod error;
mod files;
mod jsonl;
pub mod log;
mod row;
pub mod segment;
mod store;

pub use error::StoreError;
pub use jsonl::Imported;
pub use log::Repair;
pub use store::{Iter, Opened, StoreOptions, TrajectoryStore};

#[cfg(test)]
mod samples;
