//! Weights and files: pulled by whoever needs them, from whoever has them, in ranges.
//!
//! The receiver asks for a range on a stream of its own, and the stream's flow control is the
//! back-pressure: nothing is sent that nobody has asked for.
//!
//! ```text
//! asks:    id u64 | offset u64 | len u64, little-endian
//! answers: 1, then `len` bytes; or 0, then the reason in UTF-8
//! ```

use crate::connection::{Connection, Duplex, Incoming};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes handed to a stream at a time.
const PIECE: u64 = 1 << 20;

/// A pull that gets no byte for so long is given up.
const STALL: Duration = Duration::from_secs(20);

const REQUEST: usize = 24;

/// Longest reason of a refusal, in bytes.
const REASON: usize = 4096;

/// What can be pulled from this node.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// A piece of blob `id`; at most 1 MiB is asked for at a time.
    ///
    /// # Errors
    /// When there is no such blob, or it ends before: the reason goes to the peer.
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String>;
}

/// A pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The owner does not have it (any more).
    #[error("the owner does not give it out: {0}")]
    Refused(String),
    /// The connection ended, or stood still.
    #[error("the transfer broke off: {0}")]
    Broken(#[from] io::Error),
    /// The receiver could not put it away.
    #[error("{0}")]
    Sink(String),
}

/// Serves pulls until the connection ends.
pub async fn serve(connection: Arc<dyn Connection>, source: Arc<dyn Source>) {
    while let Ok(stream) = connection.accept().await {
        let source = source.clone();
        tokio::spawn(async move {
            if let Err(error) = give(stream, source.as_ref()).await {
                tracing::debug!(%error, "A transfer ended early.");
            }
        });
    }
}

async fn give(stream: Duplex, source: &dyn Source) -> io::Result<()> {
    let Duplex {
        mut outgoing,
        mut incoming,
    } = stream;
    let mut request = BytesMut::new();
    while request.len() < REQUEST {
        match within(incoming.receive()).await? {
            Some(bytes) => request.extend_from_slice(&bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let (id, mut at, len) = (
        request.get_u64_le(),
        request.get_u64_le(),
        request.get_u64_le(),
    );
    let end = at.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    let mut is_first = true;
    while at < end || is_first {
        let range = at..end.min(at.saturating_add(PIECE));
        at = range.end;
        match source.piece(id, range).await {
            Ok(piece) => {
                if std::mem::take(&mut is_first) {
                    outgoing.send(Bytes::from_static(&[1])).await?;
                }
                outgoing.send(piece).await?;
            }
            Err(reason) if is_first => {
                let mut refusal = BytesMut::from(&[0u8][..]);
                refusal.extend_from_slice(&reason.as_bytes()[..reason.len().min(REASON)]);
                outgoing.send(refusal.freeze()).await?;
                return outgoing.finish().await;
            }
            // The stream is reset: the peer does not take what it has for the whole.
            Err(reason) => return Err(io::Error::other(reason)),
        }
    }
    outgoing.finish().await
}

/// Pulls a range and hands its pieces, in order, to `sink`.
///
/// # Errors
/// As [`PullError`] says; what was handed over by then is of no use.
pub async fn pull(
    connection: &dyn Connection,
    id: u64,
    range: Range<u64>,
    mut sink: impl FnMut(Bytes) -> Result<(), String> + Send,
) -> Result<(), PullError> {
    let mut left = range.end.saturating_sub(range.start);
    let Duplex {
        mut outgoing,
        mut incoming,
    } = connection.open().await?;
    let mut request = BytesMut::with_capacity(REQUEST);
    request.put_u64_le(id);
    request.put_u64_le(range.start);
    request.put_u64_le(left);
    outgoing.send(request.freeze()).await?;
    let mut first = take_some(&mut *incoming).await?;
    if first.get_u8() != 1 {
        return Err(PullError::Refused(reason(first, &mut *incoming).await));
    }
    let mut piece = first;
    loop {
        left = match left.checked_sub(piece.len() as u64) {
            Some(left) => left,
            None => return Err(io::Error::other("more came than was asked for").into()),
        };
        sink(piece).map_err(PullError::Sink)?;
        if left == 0 {
            return Ok(());
        }
        piece = take_some(&mut *incoming).await?;
    }
}

async fn take_some(incoming: &mut dyn Incoming) -> io::Result<Bytes> {
    loop {
        match within(incoming.receive()).await? {
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => return Ok(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn reason(first: Bytes, incoming: &mut dyn Incoming) -> String {
    let mut text = BytesMut::from(&first[..]);
    while let Ok(Some(more)) = within(incoming.receive()).await {
        text.extend_from_slice(&more);
        if text.len() > REASON {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STALL, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came for {} s", STALL.as_secs()),
        )),
    }
}
