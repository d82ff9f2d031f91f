//! TCP with mutual TLS, for threads that block: the links of rings, which move tensors.

use super::{Expected, client, refusal, server};
use crate::Lane;
use crate::certs::{BadIdentity, Credentials, SERVER_NAME, identity_of};
use proto::Identity;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Bytes taken from the socket at a time. The library by itself takes a quarter of a record.
const AHEAD: usize = 256 << 10;

/// Bytes that are encrypted before any are sent.
const WRITTEN: usize = 256 << 10;

/// A stream between two nodes that have proved who they are. The socket's time-outs apply. It ends as
/// TCP's does, unannounced: what is sent has to say by itself where it ends.
pub struct TlsStream {
    connection: rustls::Connection,
    socket: TcpStream,
    peer: Identity,
    lane: Lane,
    /// What came from the socket.
    ahead: Vec<u8>,
    /// What of it the connection has not seen.
    unseen: std::ops::Range<usize>,
}

impl TlsStream {
    /// For the one who dialled. That the peer refuses this node shows only on the first read
    /// (TLS 1.3).
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] when one of the two refuses the other, with the reason.
    pub fn dialled(
        socket: TcpStream,
        credentials: &Credentials,
        lane: Lane,
        expected: &Expected,
    ) -> io::Result<Self> {
        let config = client(credentials, lane, expected).map_err(io::Error::other)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name);
        let connection = connection.map_err(io::Error::other)?;
        Self::shake_hands(connection.into(), socket, lane)
    }

    /// For the one who was dialled, by whom it expects.
    ///
    /// # Errors
    /// As [`TlsStream::dialled`].
    pub fn accepted(
        socket: TcpStream,
        credentials: &Credentials,
        lane: Lane,
        expected: &Expected,
    ) -> io::Result<Self> {
        let config = server(credentials, &[lane]).map_err(io::Error::other)?;
        let connection = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        let stream = Self::shake_hands(connection.into(), socket, lane)?;
        match expected.is_met_by(&stream.peer) {
            true => Ok(stream),
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} came where {expected} was expected", stream.peer.name),
            )),
        }
    }

    /// Who the peer has proved to be.
    pub fn peer(&self) -> &Identity {
        &self.peer
    }

    fn shake_hands(
        mut connection: rustls::Connection,
        mut socket: TcpStream,
        lane: Lane,
    ) -> io::Result<Self> {
        connection.set_buffer_limit(Some(WRITTEN));
        while connection.is_handshaking() {
            let done = connection.complete_io(&mut socket);
            done.map_err(|error| in_words(error, lane))?;
        }
        let certificate = connection
            .peer_certificates()
            .and_then(|chain| chain.first());
        let certificate = certificate.ok_or(BadIdentity::NoCertificate);
        let peer = certificate
            .and_then(identity_of)
            .map_err(io::Error::other)?;
        Ok(Self {
            connection,
            socket,
            peer,
            lane,
            ahead: vec![0; AHEAD],
            unseen: 0..0,
        })
    }

    /// Gives the connection more of what the peer sent.
    fn take_more(&mut self) -> io::Result<usize> {
        if self.unseen.is_empty() {
            let came = self.socket.read(&mut self.ahead)?;
            self.unseen = 0..came;
        }
        let mut unseen = &self.ahead[self.unseen.clone()];
        let seen = self.connection.read_tls(&mut unseen)?;
        self.unseen.start += seen;
        let processed = self.connection.process_new_packets();
        if let Err(error) = processed {
            // The peer is told.
            let _ = self.connection.write_tls(&mut self.socket);
            return Err(in_words(
                io::Error::new(io::ErrorKind::InvalidData, error),
                self.lane,
            ));
        }
        Ok(seen)
    }
}

/// What TLS says, in words for people.
fn in_words(error: io::Error, lane: Lane) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.and_then(|inner| refusal::stream_refusal(inner, lane)) {
        Some(reason) => io::Error::new(io::ErrorKind::PermissionDenied, reason),
        None => error,
    }
}

impl Read for TlsStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            // At the end of TCP's stream the reader says whether TLS was ended, too.
            self.take_more()?;
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.connection.writer().write(bytes)?;
        self.flush()?;
        Ok(written)
    }

    /// One record for all pieces, as far as they fit.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.connection.writer().write_vectored(pieces)?;
        self.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}
