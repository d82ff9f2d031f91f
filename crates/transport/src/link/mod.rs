//! Links: calls and one-way messages between two nodes, over any two pairs of ordered streams.
//!
//! - **LI-1 (never silent).** A call ends with the answer, with the peer's refusal, or with an error
//!   that says whether the peer may have acted on it; at the latest when its time is up.
//! - **LI-2 (bounded).** Frames that wait to be sent, frames that are half received, and requests that
//!   are being worked on are limited in bytes; who sends more waits.
//! - **LI-3 (answers pass).** Answers never wait behind requests: each side asks on a pair of streams
//!   of its own, and a side that takes no more requests still reads answers.
//! - **LI-4 (contained).** Whatever a peer sends, the harm is limited to this link.
//!
//! A link does not promise that a request is performed once: after [`CallError::Lost`] and
//! [`CallError::TimedOut`] the outcome is unknown, so effects need ids of their own.

mod asking;
mod queue;
mod serving;

use crate::connection::{Connection, Duplex};
use crate::frame::FrameError;
use async_trait::async_trait;
use bytes::Bytes;
use proto::Identity;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use asking::Asking;
use queue::Queue;

/// A request of the peer.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub method: u8,
    /// With which arguments.
    pub body: Bytes,
}

/// Serves the peer's requests. Several run at once.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The answer, or the reason why there is none. Dropped when the peer no longer waits.
    async fn request(&self, request: Request) -> Result<Bytes, String>;

    /// Whether a method is answered where frames are read, so that no thread has to wake another: for
    /// those that wait for nothing and take microseconds. All others run where the link was opened.
    fn is_quick(&self, _method: u8) -> bool {
        false
    }

    /// Takes a one-way message, where frames are read. The next one is read when it returns.
    async fn cast(&self, method: u8, body: Bytes);
}

/// What a link may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of a frame, in bytes; the same on both sides.
    pub body_bytes: usize,
    /// Frames that wait to be sent, in bytes: who asks for more waits.
    pub queued_bytes: usize,
    /// Requests of the peer that are worked on at once.
    pub requests: usize,
    /// The same in bytes of their bodies; a single larger one is let in alone.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            queued_bytes: 8 << 20,
            requests: 4096,
            request_bytes: 128 << 20,
        }
    }
}

/// A call had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer did not do it, and says why.
    #[error("{0}")]
    Refused(String),
    /// The link was closed before the request went out: nothing happened.
    #[error("not sent, the link is closed: {0}")]
    NotSent(String),
    /// The link was closed before an answer came: the peer may have acted.
    #[error("no answer, the link was closed: {0}")]
    Lost(String),
    /// No answer in time: the peer may have acted, or may still.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The body is larger than a frame may be.
    #[error("{len} bytes are too many for one message, {max} are allowed")]
    TooLarge {
        /// The body's length.
        len: usize,
        /// The length allowed.
        max: usize,
    },
}

/// A link to a peer. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
    _open: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.end("this side is done");
    }
}

/// What the link's handles and its tasks share.
struct Shared {
    limits: Limits,
    /// Where requests are worked on.
    work: Handle,
    asking: Asking,
    answers: Queue,
    reason: OnceLock<String>,
    ended: Notify,
    connection: Arc<dyn Connection>,
}

impl Shared {
    /// Ends the link; the first reason stays.
    fn end(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_err() {
            return;
        }
        self.asking.end(reason);
        self.answers.close();
        self.connection.close(reason);
        self.ended.notify_waiters();
    }
}

impl Link {
    /// Opens a link over a connection that is used for nothing else. The peer has to do the same;
    /// until it has, this waits. Frames are read and written on the connection's runtime, requests are
    /// worked on by the current one: however busy that is, calls go out, and quick ones are answered.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn open(
        connection: Arc<dyn Connection>,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> io::Result<Self> {
        let asking = connection.open().await?;
        let serving = connection.accept().await?;
        let shared = Arc::new(Shared {
            limits,
            work: Handle::current(),
            asking: Asking::new(limits.queued_bytes),
            answers: Queue::new(limits.queued_bytes),
            reason: OnceLock::new(),
            ended: Notify::new(),
            connection,
        });
        let runtime = shared.connection.runtime();
        runtime.spawn(drive(shared.clone(), asking, serving, handler));
        let open = Arc::new(CloseOnDrop(shared.clone()));
        Ok(Self {
            shared,
            _open: open,
        })
    }

    /// Who the peer has proved to be.
    pub fn peer(&self) -> &Identity {
        self.shared.connection.peer()
    }

    /// Asks the peer and waits for its answer, at most `limit`.
    ///
    /// # Errors
    /// As [`CallError`] says. If the returned future is dropped, the peer is told to stop.
    pub async fn call(&self, method: u8, body: &[u8], limit: Duration) -> Result<Bytes, CallError> {
        self.check(body)?;
        self.shared.asking.call(method, body, limit).await
    }

    /// Sends a one-way message. Returns once it is queued, which takes as long as the queue is full.
    ///
    /// # Errors
    /// When the link is closed, or the body too large. Whether a message that was queued arrives is
    /// not known.
    pub async fn cast(&self, method: u8, body: &[u8]) -> Result<(), CallError> {
        self.check(body)?;
        self.shared.asking.cast(method, body).await
    }

    /// Waits for the link's end; the reason.
    pub async fn closed(&self) -> String {
        loop {
            let ended = self.shared.ended.notified();
            if let Some(reason) = self.shared.reason.get() {
                return reason.clone();
            }
            ended.await;
        }
    }

    /// Why the link is closed, once it is.
    pub fn close_reason(&self) -> Option<&str> {
        self.shared.reason.get().map(String::as_str)
    }

    /// Closes the link. The peer is told the reason; calls that wait for an answer are lost.
    pub fn close(&self, reason: &str) {
        self.shared.end(reason);
    }

    fn check(&self, body: &[u8]) -> Result<(), CallError> {
        let max = self.shared.limits.body_bytes;
        match body.len() <= max {
            true => Ok(()),
            false => Err(CallError::TooLarge {
                len: body.len(),
                max,
            }),
        }
    }
}

/// Runs a link until it ends.
async fn drive(shared: Arc<Shared>, asking: Duplex, serving: Duplex, handler: Arc<dyn Handler>) {
    let mut tasks: JoinSet<Result<(), LinkFault>> = JoinSet::new();
    let (s, max) = (shared.clone(), shared.limits.body_bytes);
    tasks.spawn(async move { s.asking.requests.drain(asking.outgoing).await });
    let s = shared.clone();
    tasks.spawn(async move { s.asking.receive(asking.incoming, max).await });
    let s = shared.clone();
    tasks.spawn(async move { s.answers.drain(serving.outgoing).await });
    let s = shared.clone();
    tasks.spawn(async move { serving::serve(s, serving.incoming, handler).await });
    let ended = shared.ended.notified();
    if shared.reason.get().is_some() {
        return;
    }
    let reason = tokio::select! {
        biased;
        () = ended => return,
        first = tasks.join_next() => match first {
            Some(Ok(Err(fault))) => fault.to_string(),
            Some(Err(panic)) => panic.to_string(),
            Some(Ok(Ok(()))) | None => "the peer closed its streams".to_owned(),
        },
    };
    shared.end(&reason);
}

/// What ends a link.
#[derive(Debug, thiserror::Error)]
enum LinkFault {
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("the peer does not keep to the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the peer does not keep to the protocol: {0:?} where it has no place")]
    Misplaced(crate::frame::What),
}

#[cfg(test)]
mod tests;
