//! How members of a ring meet: each listens, dials the next one, and is dialled by the one before. They
//! meet over TCP, or over a socket of their host where two are of the same one.
//!
//! A dialler says who it is and which group it is for; who belongs to another group, such as one that
//! was given up, is turned away and may try again. TCP's streams may be wrapped, in TLS for instance;
//! unwrapped ones trust the network.
//!
//! ```text
//! dialler:  "swirl-r1" | run 16 bytes | epoch u64 | rank u32 | world u32, little-endian
//! acceptor: 1
//! ```

use super::socket::{Listener, Socket};
use super::{Links, local};
use crate::Group;
use crate::error::GIVEN_UP;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"swirl-r1";

const HELLO: usize = 40;

/// Who dials says who it is within this time; so long a member waits for one answer, too.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// Between tries.
const AGAIN: Duration = Duration::from_millis(20);

/// Where and how a member meets its neighbours.
#[derive(Debug)]
pub struct Meeting<'a> {
    /// The member's place.
    pub group: Group,
    /// The same for all members of a run, and for no other run.
    pub run: [u8; 16],
    /// Where the member before dials.
    pub listener: &'a Listener,
    /// Where others reach this member.
    pub own: SocketAddr,
    /// Where the next member is reached. With the same IP address as this one it is of the same host.
    pub next: SocketAddr,
    /// Until when both neighbours have to be there.
    pub limit: Duration,
    /// As in [`Links`].
    pub patience: Duration,
    /// Set to give the meeting up.
    pub stop: &'a AtomicBool,
}

/// Why a member did not meet its neighbours. Every member says this for itself: of two that miss each
/// other either may be at fault.
#[derive(Debug)]
pub struct MeetingError {
    next: Option<io::Error>,
    previous: Option<io::Error>,
}

impl MeetingError {
    /// Whether the next one could not be dialled, or gave no answer.
    pub fn misses_next(&self) -> bool {
        is_missing(self.next.as_ref())
    }

    /// Whether the one before did not come.
    pub fn misses_previous(&self) -> bool {
        is_missing(self.previous.as_ref())
    }

    fn reasons(&self) -> Vec<&io::Error> {
        let both = [&self.next, &self.previous].into_iter().flatten();
        let is_reason = |error: &&io::Error| error.kind() != io::ErrorKind::Interrupted;
        let reasons: Vec<_> = both.clone().filter(is_reason).collect();
        match reasons.is_empty() {
            true => both.take(1).collect(),
            false => reasons,
        }
    }
}

fn is_missing(error: Option<&io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

impl Display for MeetingError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self.reasons().iter().map(ToString::to_string).collect();
        formatter.write_str(&reasons.join("; "))
    }
}

impl std::error::Error for MeetingError {}

impl From<MeetingError> for io::Error {
    fn from(error: MeetingError) -> Self {
        let kind = error.reasons().first().map(|reason| reason.kind());
        Self::new(kind.unwrap_or(io::ErrorKind::Other), error)
    }
}

impl From<io::Error> for MeetingError {
    /// This side cannot go on, whoever is there.
    fn from(error: io::Error) -> Self {
        Self {
            next: Some(error),
            previous: None,
        }
    }
}

/// A stream in both directions.
pub trait Stream: Read + Write + Send + 'static {}

impl<S: Read + Write + Send + 'static> Stream for S {}

/// Meets the neighbours over streams that are not wrapped.
///
/// # Errors
/// When they are not there in time, or the meeting is given up.
pub fn connect(meeting: &Meeting) -> Result<Links, MeetingError> {
    connect_with(meeting, Ok, Ok)
}

/// Meets the neighbours over streams that `dialled` and `accepted` make of TCP's: they may fail, and
/// are asked again with another stream then. Streams inside a host stay as they are.
///
/// # Errors
/// As [`connect`].
pub fn connect_with<D: Stream, A: Stream>(
    meeting: &Meeting,
    dialled: impl Fn(TcpStream) -> io::Result<D> + Sync,
    accepted: impl Fn(TcpStream) -> io::Result<A> + Sync,
) -> Result<Links, MeetingError> {
    let until = Instant::now() + meeting.limit;
    let failed = AtomicBool::new(false);
    let (next, previous) = thread::scope(|scope| {
        let dialling = scope.spawn(|| meeting.dial(until, &failed, &dialled));
        let previous = meeting.accept(until, &failed, &accepted);
        let next = dialling.join();
        (
            next.unwrap_or_else(|_| Err(io::Error::other("it panicked"))),
            previous,
        )
    });
    let ((next, to_next), (previous, to_previous)) = match (next, previous) {
        (Ok(next), Ok(previous)) => (next, previous),
        (next, previous) => {
            return Err(MeetingError {
                next: next.err(),
                previous: previous.err(),
            });
        }
    };
    to_previous.set_read_timeout(Some(meeting.patience))?;
    to_next.set_write_timeout(Some(meeting.patience))?;
    let closing = |handle: &Socket, how| Ok::<_, io::Error>(Closing(handle.try_clone()?, how));
    Ok(Links {
        next: Box::new(Closed(next, closing(&to_next, Shutdown::Write)?)),
        previous: Box::new(Closed(previous, closing(&to_previous, Shutdown::Both)?)),
        breaker: Arc::new(move || {
            let _ = to_next.shutdown(Shutdown::Both);
            let _ = to_previous.shutdown(Shutdown::Both);
        }),
        patience: meeting.patience,
    })
}

/// A stream to a neighbour, and a handle on its socket.
type Met = (Box<dyn Stream>, Socket);

/// A stream that ends for the neighbour when it is dropped, though handles on its socket are left.
struct Closed<S>(
    S,
    #[expect(dead_code, reason = "closes when it is dropped")] Closing,
);

struct Closing(Socket, Shutdown);

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.shutdown(self.1);
    }
}

impl<S: Write> Write for Closed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<S: Read> Read for Closed<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Meeting<'_> {
    fn hello(&self, rank: usize) -> [u8; HELLO] {
        let mut hello = [0; HELLO];
        hello[..8].copy_from_slice(MAGIC);
        hello[8..24].copy_from_slice(&self.run);
        hello[24..32].copy_from_slice(&self.group.epoch.to_le_bytes());
        hello[32..36].copy_from_slice(&(rank as u32).to_le_bytes());
        hello[36..].copy_from_slice(&(self.group.world as u32).to_le_bytes());
        hello
    }

    /// Whether there is still time. `last` is what became of the last try.
    fn go_on(
        &self,
        until: Instant,
        failed: &AtomicBool,
        whom: &str,
        last: Option<&io::Error>,
    ) -> io::Result<()> {
        let is_time_up = Instant::now() >= until;
        // When the time is up, both say whom they miss.
        let has_failed = !is_time_up && failed.load(Ordering::Relaxed);
        if has_failed || self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, GIVEN_UP));
        }
        if !is_time_up {
            return Ok(());
        }
        let Group { rank, world, epoch } = self.group;
        let last = last.map_or(String::new(), |error| format!(": {error}"));
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "replica {rank} of {world} did not meet {whom} within {} s (group {epoch}){last}",
                self.limit.as_secs_f64()
            ),
        ))
    }

    fn dial<D: Stream>(
        &self,
        until: Instant,
        failed: &AtomicBool,
        wrap: &impl Fn(TcpStream) -> io::Result<D>,
    ) -> io::Result<Met> {
        let whom = format!("the next one at {}", self.next);
        let mut last = None;
        loop {
            self.go_on(until, failed, &whom, last.as_ref())?;
            // Not there yet, or with another group still.
            match self.try_dial(until, wrap) {
                Ok(met) => return Ok(met),
                Err(error) => last = Some(error),
            }
            thread::sleep(AGAIN);
        }
    }

    fn try_dial<D: Stream>(
        &self,
        until: Instant,
        wrap: &impl Fn(TcpStream) -> io::Result<D>,
    ) -> io::Result<Met> {
        // Late, it would be taken for silent by those who wait for what it has to say.
        let left = until.saturating_duration_since(Instant::now());
        let limit = left.clamp(AGAIN, HELLO_LIMIT);
        let is_near = self.listener.is_local() && self.next.ip() == self.own.ip();
        // Where nobody of this user listens, the port is dialled.
        let near = is_near.then(|| local::dial(self.next.port(), limit).ok());
        let socket = match near.flatten() {
            Some(stream) => Socket::Local(stream),
            None => Socket::Tcp(TcpStream::connect_timeout(&self.next, limit)?),
        };
        let (mut stream, handle) = open(socket, limit, wrap)?;
        stream.write_all(&self.hello(self.group.rank))?;
        stream.flush()?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        match answer {
            [1] => Ok((stream, handle)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn accept<A: Stream>(
        &self,
        until: Instant,
        failed: &AtomicBool,
        wrap: &(impl Fn(TcpStream) -> io::Result<A> + Sync),
    ) -> io::Result<Met> {
        let (sender, arrivals) = channel();
        thread::scope(|scope| {
            let (mut arrived, mut handles) = (0, BTreeMap::new());
            let mut last = None;
            let result = 'meeting: loop {
                let whom = "the one before it";
                if let Err(error) = self.go_on(until, failed, whom, last.as_ref()) {
                    break Err(error);
                }
                while let Ok((index, met)) = arrivals.try_recv() {
                    // Its last handle, unless it was taken in.
                    handles.remove(&index);
                    match met {
                        Ok(streams) => break 'meeting Ok(streams),
                        Err(error) => last = Some(error),
                    }
                }
                let accepted = self.listener.accept();
                let with_handle = |socket: Socket| Ok((socket.try_clone()?, socket));
                match accepted.and_then(|socket| socket.map(with_handle).transpose()) {
                    Ok(Some((handle, socket))) => {
                        arrived += 1;
                        handles.insert(arrived, handle);
                        let (sender, index) = (sender.clone(), arrived);
                        scope.spawn(move || sender.send((index, self.try_accept(socket, wrap))));
                    }
                    Ok(None) => thread::sleep(AGAIN / 4),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        break Err(error);
                    }
                }
            };
            // Whoever is not the one before, or says nothing, keeps nobody waiting.
            for stranger in handles.values() {
                let _ = stranger.shutdown(Shutdown::Both);
            }
            result
        })
    }

    fn try_accept<A: Stream>(
        &self,
        socket: Socket,
        wrap: &impl Fn(TcpStream) -> io::Result<A>,
    ) -> io::Result<Met> {
        if let Socket::Local(stream) = &socket {
            local::check(stream)?;
        }
        let (mut stream, handle) = open(socket, HELLO_LIMIT, wrap)?;
        let mut hello = [0; HELLO];
        stream.read_exact(&mut hello)?;
        if hello != self.hello(self.group.previous()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is for another group",
            ));
        }
        stream.write_all(&[1])?;
        stream.flush()?;
        Ok((stream, handle))
    }
}

/// The stream to use, wrapped where it is TCP's, and a handle on its socket.
fn open<S: Stream>(
    socket: Socket,
    limit: Duration,
    wrap: &impl Fn(TcpStream) -> io::Result<S>,
) -> io::Result<Met> {
    socket.prepare(limit)?;
    let handle = socket.try_clone()?;
    let stream: Box<dyn Stream> = match socket {
        Socket::Tcp(stream) => Box::new(wrap(stream)?),
        local @ Socket::Local(_) => Box::new(local),
    };
    Ok((stream, handle))
}
