//! What neighbours are reached over: TCP, or a socket of their host.

use super::local;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Where the member before reaches this one.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// For members of the same host.
    local: Option<UnixListener>,
}

impl Listener {
    /// Listens at a TCP port (any for 0), and at a socket of this host where there are such.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(at: impl ToSocketAddrs) -> io::Result<Self> {
        let mut listener = Self::bind_tcp(at)?;
        // Without it all dial the port.
        listener.local = local::listen(listener.address()?.port()).ok();
        Ok(listener)
    }

    /// Listens at a TCP port alone, and dials others there, too.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_tcp(at: impl ToSocketAddrs) -> io::Result<Self> {
        let tcp = TcpListener::bind(at)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { tcp, local: None })
    }

    /// What it listens at.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub(super) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Who has dialled, if anybody has.
    pub(super) fn accept(&self) -> io::Result<Option<Socket>> {
        if let Some(listener) = &self.local
            && let Some((stream, _)) = some(listener.accept())?
        {
            stream.set_nonblocking(false)?;
            return Ok(Some(Socket::Local(stream)));
        }
        let Some((stream, _)) = some(self.tcp.accept())? else {
            return Ok(None);
        };
        stream.set_nonblocking(false)?;
        Ok(Some(Socket::Tcp(stream)))
    }
}

fn some<T>(accepted: io::Result<T>) -> io::Result<Option<T>> {
    match accepted {
        Ok(accepted) => Ok(Some(accepted)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A stream to a neighbour.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Local(UnixStream),
}

macro_rules! on_either {
    ($socket:expr, $stream:ident => $work:expr) => {
        match $socket {
            Socket::Tcp($stream) => $work,
            Socket::Local($stream) => $work,
        }
    };
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Local(stream) => stream.try_clone().map(Self::Local),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        on_either!(self, stream => stream.shutdown(how))
    }

    pub(super) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        on_either!(self, stream => stream.set_read_timeout(limit))
    }

    pub(super) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        on_either!(self, stream => stream.set_write_timeout(limit))
    }

    /// For two who greet each other, so long each.
    pub(super) fn prepare(&self, limit: Duration) -> io::Result<()> {
        if let Self::Tcp(stream) = self {
            stream.set_nodelay(true)?;
        }
        self.set_read_timeout(Some(limit))
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        on_either!(self, stream => stream.read(into))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        on_either!(self, stream => stream.write(bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        on_either!(self, stream => stream.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        on_either!(self, stream => stream.flush())
    }
}
