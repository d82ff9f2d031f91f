//! What the one who leads and the others say to each other.

use crate::version::VERSION;
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use proto::{NodeName, Role};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transport::certs::Credentials;
use transport::{Connection, bulk};

/// What a node has: [`Facts`].
pub const FACTS: u8 = 1;
/// Serve zeros to other nodes: the UDP port.
pub const LISTEN: u8 = 2;
/// Pull zeros from somewhere ([`Target`]): `Result<Way, String>`.
pub const PULL: u8 = 3;

/// Bytes that are pulled from each to each: weights of a small model, as they are published.
const PULLED: u64 = 64 << 20;

/// Bytes before: the path's MTU is found, and its window grows.
const WARM_UP: u64 = 4 << 20;

/// How long a pull may take: less than 2 MB/s is of no use.
pub const PULL_LIMIT: Duration = Duration::from_secs(35);

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of its program.
    pub version: String,
    /// Its clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// Free on its disk.
    pub disk_bytes: Option<u64>,
    /// Free in memory.
    pub memory_bytes: u64,
    /// Processors.
    pub cores: usize,
    /// GPUs that libtorch can use.
    pub gpus: usize,
    /// The device that its node is to compute on, as it is written in a configuration.
    pub device: String,
    /// A sign of an NVIDIA GPU.
    pub nvidia: Option<String>,
    /// Days until its certificate ends.
    pub certificate_days: i64,
}

impl Facts {
    /// Of this machine.
    pub fn here(credentials: &Credentials, device: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let left = credentials.not_after().unix_timestamp() - now.as_secs() as i64;
        Self {
            version: VERSION.to_owned(),
            clock_ms: now.as_millis() as u64,
            disk_bytes: crate::doctor::machine::free_disk(),
            memory_bytes: crate::machine_memory::available(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            gpus: usize::try_from(tch::Cuda::device_count()).unwrap_or(0),
            device: device.to_owned(),
            nvidia: crate::gpu::sign_of_nvidia(Path::new("/")),
            certificate_days: left / 86_400,
        }
    }
}

/// Where to pull from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The one who leads, on this port of its.
    Lead(u16),
    /// Another node.
    Node {
        /// Where it listens.
        address: SocketAddr,
        /// Who it is.
        name: NodeName,
        /// One of its roles.
        role: Role,
    },
}

/// A way from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Bytes a second, encrypted.
    pub bytes_per_second: f64,
    /// Of a packet there and back, in milliseconds.
    pub round_trip_ms: f64,
    /// Largest UDP payload that passed, in bytes.
    pub payload: u16,
}

/// Pulls zeros over a bulk connection, and says how the way was.
pub async fn measure(connection: &dyn Connection) -> Result<Way> {
    pull(connection, WARM_UP).await?;
    let round_trip_ms = connection.path().round_trip.as_secs_f64() * 1000.0;
    let began = Instant::now();
    pull(connection, PULLED).await?;
    Ok(Way {
        bytes_per_second: PULLED as f64 / began.elapsed().as_secs_f64(),
        round_trip_ms,
        payload: connection.path().payload,
    })
}

async fn pull(connection: &dyn Connection, len: u64) -> Result<()> {
    let pulled = bulk::pull(connection, 0, 0..len, |_| Ok(()));
    let limited = tokio::time::timeout(PULL_LIMIT, pulled).await;
    Ok(limited.context("it is slower than 2 MB/s")??)
}

/// Gives out zeros, as many as are asked for.
pub struct Zeros;

#[async_trait]
impl bulk::Source for Zeros {
    async fn piece(&self, _: u64, range: Range<u64>) -> Result<Bytes, String> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let len = usize::try_from(range.end.saturating_sub(range.start));
        let zeros = len.ok().and_then(|len| ZEROS.get(..len));
        zeros
            .map(Bytes::from_static)
            .ok_or_else(|| "too much at once".to_owned())
    }
}
