//! Pulling of chunks from one source: the controller, or another node.

use super::blobs::TransferError;
use crate::node::Dialler;
use bytes::Bytes;
use proto::chunks::{ChunkSource, Digest, SourceFault};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use transport::Connection;
use transport::bulk::{self, PullError};

/// Chunks that are pulled at a time, each on a stream of its own: the next one is on its way while
/// others are checked.
pub(super) const STREAMS: usize = 4;

/// Times that a chunk is pulled from the controller when it comes damaged.
pub(super) const TRIES: usize = 3;

/// A node that gives nothing for so long is no good source.
const NODE_STALL: Duration = Duration::from_secs(6);

/// Time for which another node is kept waiting for a chunk that has not come yet. It is told then,
/// before it gives up.
pub(super) const KEPT_WAITING: Duration = Duration::from_secs(4);

/// Time in which another node is to take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

const NO_ANSWER: &str = "it gave no answer in time";

/// Answer of a node to whom it keeps waiting for too long.
pub(super) const NOT_HELD: &str = "this node does not have it (yet)";

/// Why a chunk did not come.
pub(super) enum ChunkFault {
    Pull(PullError),
    Damaged(String),
    Stalled,
    Here(String),
}

impl ChunkFault {
    pub(super) fn of_node(self) -> (SourceFault, String) {
        match self {
            Self::Pull(error @ PullError::Broken(_)) => (SourceFault::Lost, error.to_string()),
            Self::Pull(error) => (SourceFault::Slow, error.to_string()),
            Self::Damaged(reason) => (SourceFault::Damaged, reason),
            Self::Stalled => (SourceFault::Slow, NO_ANSWER.to_owned()),
            Self::Here(reason) => (SourceFault::Slow, reason),
        }
    }

    pub(super) fn of_controller(self) -> TransferError {
        match self {
            Self::Pull(error) => error.into(),
            Self::Damaged(reason) => TransferError::Broken(reason),
            Self::Stalled => TransferError::Broken(NO_ANSWER.to_owned()),
            Self::Here(reason) => TransferError::Here(reason),
        }
    }
}

/// Where chunks are pulled from.
pub(super) struct Giver {
    connection: Arc<dyn Connection>,
    pub(super) is_node: bool,
    /// Bytes that came.
    progress: AtomicU64,
}

impl Giver {
    /// The controller, or a learner: the one that made what is pulled.
    pub(super) fn owner(connection: Arc<dyn Connection>) -> Self {
        Self {
            connection,
            is_node: false,
            progress: AtomicU64::new(0),
        }
    }

    /// The source that the controller names; `owner` leads to the controller.
    ///
    /// # Errors
    /// When that node cannot be reached.
    pub(super) async fn reach(
        source: &ChunkSource,
        owner: &Arc<dyn Connection>,
        dialler: &dyn Dialler,
    ) -> Result<Self, String> {
        let ChunkSource::Node { name, address } = source else {
            return Ok(Self::owner(owner.clone()));
        };
        match timeout(DIAL_LIMIT, dialler.node(name, address)).await {
            Ok(Ok(connection)) => Ok(Self {
                is_node: true,
                ..Self::owner(connection)
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(NO_ANSWER.to_owned()),
        }
    }

    /// The number under which it gives what has this hash, and what the controller lends as `lent`.
    pub(super) fn id(&self, hash: Digest, lent: u64) -> u64 {
        match self.is_node {
            true => hash.key(),
            false => lent,
        }
    }

    /// Pulls a range, and hands over what comes.
    pub(super) async fn pull(
        &self,
        id: u64,
        range: Range<u64>,
        mut sink: impl FnMut(Bytes) -> Result<(), String> + Send,
    ) -> Result<(), ChunkFault> {
        let pulled = bulk::pull(self.connection.as_ref(), id, range, |piece| {
            self.progress
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
            sink(piece)
        });
        pulled.await.map_err(ChunkFault::Pull)
    }

    /// Does what pulls, until a node gives nothing for too long.
    pub(super) async fn while_it_gives<T>(
        &self,
        work: impl Future<Output = Result<T, ChunkFault>>,
    ) -> Result<T, ChunkFault> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.stalled() => Err(ChunkFault::Stalled),
        }
    }

    /// Ready when a node gives nothing for too long. The controller is given the time that a transfer
    /// may stand still.
    async fn stalled(&self) {
        if !self.is_node {
            return std::future::pending().await;
        }
        loop {
            let before = self.progress.load(Ordering::Relaxed);
            tokio::time::sleep(NODE_STALL).await;
            if self.progress.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// Hashes, decompresses and writes, apart from the threads that others need meanwhile.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ChunkFault> {
    let done = crate::blocking::run(work).await;
    done.map_err(|error| ChunkFault::Here(error.to_string()))
}
