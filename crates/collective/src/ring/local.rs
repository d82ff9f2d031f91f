//! Streams between members of one host: Unix sockets, which are faster there than TCP
//! (docs/performance.md).
//!
//! A member that listens at TCP port `p` listens at the abstract name `swirl/ring/<p>` too. Such names
//! belong to a network namespace, as ports do: whoever finds one is on the same host, or in the same
//! container. Both ends see to it that the other one runs as the same user, who could read the keys of
//! its certificate: what goes over these streams is not encrypted.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

#[cfg(target_os = "linux")]
mod abstracts {
    use super::{UnixListener, UnixStream, io};
    use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    use rustix::process::{Uid, geteuid};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    use std::time::Duration;

    fn name(port: u16) -> String {
        format!("swirl/ring/{port}")
    }

    pub fn listen(port: u16) -> io::Result<UnixListener> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name(port))?)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub fn dial(port: u16, limit: Duration) -> io::Result<UnixStream> {
        let kind = SocketType::STREAM;
        let socket = net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        // It waits where too many have dialled before.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
        let address = SocketAddrUnix::new_abstract_name(name(port).as_bytes())?;
        net::connect(&socket, &address)?;
        let stream = UnixStream::from(socket);
        check(&stream)?;
        Ok(stream)
    }

    pub fn check(stream: &UnixStream) -> io::Result<()> {
        check_for(stream, geteuid())
    }

    pub(super) fn check_for(stream: &UnixStream, user: Uid) -> io::Result<()> {
        match sockopt::socket_peercred(stream)?.uid {
            peer if peer == user => Ok(()),
            peer => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it is user {} of this host, and not {user}", peer.as_raw()),
            )),
        }
    }
}

/// Elsewhere members of one host meet as others do.
#[cfg(not(target_os = "linux"))]
mod abstracts {
    use super::{UnixListener, UnixStream, io};
    use std::time::Duration;

    pub fn listen(_: u16) -> io::Result<UnixListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn dial(_: u16, _: Duration) -> io::Result<UnixStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn check(_: &UnixStream) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) use abstracts::{check, dial, listen};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::{Uid, geteuid};

    #[test]
    fn another_user_is_turned_away() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(check(&one).is_ok());
        let another = Uid::from_raw(geteuid().as_raw() + 1);
        let refused = abstracts::check_for(&one, another).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
