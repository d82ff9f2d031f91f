//! Connections over QUIC, with mutual TLS.
//!
//! An endpoint is one UDP socket. The control lane belongs on an endpoint of its own, on a runtime of
//! its own: on a shared one a saturated lane delays the packets of all others.

mod arrivals;

use crate::certs::{BadIdentity, CurrentCredentials, SERVER_NAME, identity_of};
use crate::connection::{Connection, Duplex, Incoming, Outgoing, Path};
use crate::tls::{self, Expected, TlsError};
use crate::{Lane, settings};
use async_trait::async_trait;
use bytes::Bytes;
use proto::Identity;
use quinn::{RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use arrivals::{Follower, Open, Receiver, receive, serving};

/// A handshake that takes longer is given up: a peer that begins one and says no more holds nothing.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Handshakes under way and connections that wait to be accepted; beyond it new ones are turned away.
const ARRIVALS: usize = 4096;

/// The opener of a stream sends it first, for a stream is seen only once something was sent on it.
const OPENED: u8 = 0x51;

/// An endpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is in use, or is none of this machine.
    #[error("cannot listen on UDP {address}: {source}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A connection cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// One of the two turned the other away; trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers, or not any more; a later try may succeed.
    #[error("no connection to {address}: {reason}")]
    Unreachable {
        /// Where to.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// A socket that dials and, for some lanes, is dialled. Closed when dropped.
pub struct Endpoint {
    quic: quinn::Endpoint,
    runtime: Handle,
    credentials: CurrentCredentials,
    open: Open,
    arrivals: tokio::sync::Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
    /// Follows the credentials, with a handle of the socket: it ends with this.
    following: AbortHandle,
}

impl Endpoint {
    /// Binds a UDP socket (port 0: any) on the current runtime, and takes connections for `serves`;
    /// for none, it only dials. Each connection is made with the newest credentials, and those that
    /// they shut out lose theirs (CE-5, CE-6).
    ///
    /// # Errors
    /// When the address cannot be bound, or the certificates cannot be used.
    pub fn bind(
        address: SocketAddr,
        credentials: impl Into<CurrentCredentials>,
        serves: &[Lane],
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { address, source };
        let current = credentials.into();
        // Before they are read: no change is missed.
        let changes = current.changes();
        let credentials = current.get();
        let server = match serves {
            [] => None,
            lanes => Some(serving(&credentials, lanes)?),
        };
        let socket = settings::socket(address).map_err(failed)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let bound = socket.local_addr().map_err(failed)?;
        let config = settings::endpoint(&credentials, bound);
        let quic = quinn::Endpoint::new(config, server, socket, runtime).map_err(failed)?;
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let open = Open::default();
        let follower = Follower {
            quic: quic.clone(),
            lanes: serves.to_vec(),
            open: open.clone(),
        };
        let following = tokio::spawn(follower.follow(changes)).abort_handle();
        if !serves.is_empty() {
            let receiver = Receiver {
                lanes: serves.to_vec(),
                credentials: current.clone(),
                open: open.clone(),
            };
            tokio::spawn(receive(quic.clone(), receiver, sender));
        }
        Ok(Self {
            quic,
            runtime: Handle::current(),
            credentials: current,
            open,
            arrivals: tokio::sync::Mutex::new(arrivals),
            following,
        })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// The next connection that was made to this endpoint; `None` once it is closed.
    pub async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.arrivals.lock().await.recv().await
    }

    /// Connects to whoever is `expected` at an address.
    ///
    /// # Errors
    /// See [`DialError`]. That the peer refused this node's certificate shows only on the first
    /// stream (TLS 1.3).
    pub async fn dial(
        &self,
        address: SocketAddr,
        lane: Lane,
        expected: &Expected,
    ) -> Result<Arc<dyn Connection>, DialError> {
        let refused = |error: &dyn std::fmt::Display| DialError::Refused(error.to_string());
        let unreachable = |reason: String| DialError::Unreachable { address, reason };
        let crypto = tls::quic_client(&self.credentials.get(), lane, expected);
        let crypto = crypto.map_err(|error| refused(&error))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(settings::dialling(lane));
        // The connection is driven by the runtime that it is begun on: the socket's, not the caller's.
        let connecting = {
            let _inside = self.runtime.enter();
            self.quic.connect_with(config, address, SERVER_NAME)
        };
        let connecting = connecting.map_err(|error| unreachable(error.to_string()))?;
        let done = tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await;
        let quic = match done {
            Ok(Ok(quic)) => quic,
            Ok(Err(error)) => {
                return Err(match tls::refusal(&error, &[lane]) {
                    Some(reason) => DialError::Refused(reason),
                    None => unreachable(error.to_string()),
                });
            }
            Err(_) => return Err(unreachable("no answer".to_owned())),
        };
        let connection = Quic::of(quic, lane, self.runtime.clone());
        let connection = connection.map_err(|error| refused(&error))?;
        let taken = self.open.take_in(connection, &self.credentials);
        taken.map_err(|reason| refused(&reason))
    }

    /// Closes every connection and takes no more. Returns once the peers were told.
    pub async fn close(&self, reason: &str) {
        self.quic.close(VarInt::from_u32(0), reason.as_bytes());
        self.quic.wait_idle().await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.following.abort();
        self.quic.close(VarInt::from_u32(0), b"this side is done");
    }
}

/// A connection over QUIC.
struct Quic {
    quic: quinn::Connection,
    peer: Identity,
    /// What the peer has shown.
    certificate: CertificateDer<'static>,
    lane: Lane,
    runtime: Handle,
}

impl Quic {
    fn of(quic: quinn::Connection, lane: Lane, runtime: Handle) -> Result<Self, BadIdentity> {
        let certificate = tls::peer_certificate(&quic)?;
        Ok(Self {
            peer: identity_of(&certificate)?,
            quic,
            certificate,
            lane,
            runtime,
        })
    }

    /// What ended the connection, in words for people.
    fn fault(&self, error: &quinn::ConnectionError) -> io::Error {
        fault(error, self.lane)
    }
}

fn fault(error: &quinn::ConnectionError, lane: Lane) -> io::Error {
    let kind = match tls::refusal(error, &[lane]) {
        Some(_) => io::ErrorKind::PermissionDenied,
        None => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, words(error, lane))
}

fn words(error: &quinn::ConnectionError, lane: Lane) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        error => tls::refusal(error, &[lane]).unwrap_or_else(|| error.to_string()),
    }
}

#[async_trait]
impl Connection for Quic {
    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn lane(&self) -> Lane {
        self.lane
    }

    fn path(&self) -> Path {
        Path {
            remote: Some(self.quic.remote_address()),
            round_trip: self.quic.rtt(),
            payload: self.quic.stats().path.current_mtu,
        }
    }

    fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    async fn open(&self) -> io::Result<Duplex> {
        let opened = self.quic.open_bi().await;
        let (mut outgoing, incoming) = opened.map_err(|error| self.fault(&error))?;
        outgoing
            .write_all(&[OPENED])
            .await
            .map_err(|error| write_fault(error, self.lane))?;
        Ok(duplex(outgoing, incoming, self.lane))
    }

    async fn accept(&self) -> io::Result<Duplex> {
        let accepted = self.quic.accept_bi().await;
        let (outgoing, mut incoming) = accepted.map_err(|error| self.fault(&error))?;
        let mut first = [0];
        let read = incoming.read_exact(&mut first).await;
        match read {
            Ok(()) if first == [OPENED] => Ok(duplex(outgoing, incoming, self.lane)),
            Ok(()) => Err(io::Error::other(
                "the peer does not keep to the protocol: the first byte of a stream",
            )),
            Err(quinn::ReadExactError::ReadError(error)) => Err(read_fault(error, self.lane)),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn close(&self, reason: &str) {
        self.quic.close(VarInt::from_u32(0), reason.as_bytes());
    }
}

fn duplex(outgoing: SendStream, incoming: RecvStream, lane: Lane) -> Duplex {
    Duplex {
        outgoing: Box::new(QuicOutgoing {
            stream: outgoing,
            lane,
        }),
        incoming: Box::new(QuicIncoming {
            stream: incoming,
            lane,
            waiting: VecDeque::new(),
        }),
    }
}

fn write_fault(error: quinn::WriteError, lane: Lane) -> io::Error {
    match error {
        quinn::WriteError::ConnectionLost(error) => fault(&error, lane),
        error => io::Error::other(error),
    }
}

fn read_fault(error: quinn::ReadError, lane: Lane) -> io::Error {
    match error {
        quinn::ReadError::ConnectionLost(error) => fault(&error, lane),
        error => io::Error::other(error),
    }
}

struct QuicOutgoing {
    stream: SendStream,
    lane: Lane,
}

#[async_trait]
impl Outgoing for QuicOutgoing {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        let sent = self.stream.write_chunk(bytes).await;
        sent.map_err(|error| write_fault(error, self.lane))
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.stream.finish().map_err(io::Error::other)?;
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(io::Error::other("the peer stopped reading")),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Drop for QuicOutgoing {
    fn drop(&mut self) {
        // After `finish` this changes nothing; before it, the peer must not take what has arrived
        // for all there is.
        let _ = self.stream.reset(VarInt::from_u32(1));
    }
}

/// Packets taken from a stream at a time.
const CHUNKS: usize = 64;

struct QuicIncoming {
    stream: RecvStream,
    lane: Lane,
    waiting: VecDeque<Bytes>,
}

#[async_trait]
impl Incoming for QuicIncoming {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(bytes) = self.waiting.pop_front() {
            return Ok(Some(bytes));
        }
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        let read = self.stream.read_chunks(&mut chunks).await;
        let Some(count) = read.map_err(|error| read_fault(error, self.lane))? else {
            return Ok(None);
        };
        self.waiting.extend(chunks.into_iter().take(count));
        Ok(self.waiting.pop_front())
    }
}
