//! What a network gives: connections between two nodes that know each other, each with any number of
//! ordered streams.

use crate::Lane;
use async_trait::async_trait;
use bytes::Bytes;
use proto::Identity;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Handle;

/// The sending half of a stream. Dropped without [`Outgoing::finish`], the peer sees a fault.
#[async_trait]
pub trait Outgoing: Send + 'static {
    /// Sends bytes; those of one call are not torn apart by a network's fault rules. Returns once
    /// there is room for more.
    ///
    /// # Errors
    /// When the peer is gone.
    async fn send(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Ends the stream; returns once the peer has everything.
    ///
    /// # Errors
    /// When the peer is gone, or no longer reads.
    async fn finish(&mut self) -> io::Result<()>;
}

/// The receiving half of a stream.
#[async_trait]
pub trait Incoming: Send + 'static {
    /// The next bytes, cut anywhere; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the peer is gone.
    async fn receive(&mut self) -> io::Result<Option<Bytes>>;
}

/// Both halves of a stream.
pub struct Duplex {
    /// What goes to the peer.
    pub outgoing: Box<dyn Outgoing>,
    /// What comes from it.
    pub incoming: Box<dyn Incoming>,
}

/// What is known of the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where the peer is; none in memory.
    pub remote: Option<SocketAddr>,
    /// A packet's way there and back, smoothed.
    pub round_trip: Duration,
    /// Largest UDP payload that is known to pass, in bytes.
    pub payload: u16,
}

/// A connection to a peer, on one lane.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Who the peer has proved to be.
    fn peer(&self) -> &Identity;

    /// What the connection is for.
    fn lane(&self) -> Lane;

    /// The way to the peer, as far as it is known by now.
    fn path(&self) -> Path;

    /// Where what reads and writes its streams runs best: without a hop between threads.
    fn runtime(&self) -> Handle;

    /// Opens a stream. The peer sees it at once.
    ///
    /// # Errors
    /// When the connection is closed; [`io::ErrorKind::PermissionDenied`] when that is because one
    /// of the two refused the other's certificate.
    async fn open(&self) -> io::Result<Duplex>;

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// When the connection is closed.
    async fn accept(&self) -> io::Result<Duplex>;

    /// Ends the connection and tells the peer the reason.
    fn close(&self, reason: &str);
}
