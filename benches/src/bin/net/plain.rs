//! What the machine can do with plain sockets: a datagram there and back, and one TCP stream to each
//! receiver, with neither TLS nor frames.

use crate::words::{Answer, Ask, message, number, object, serve, sum, timed};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

pub fn answer() -> Result<()> {
    // Kept as ours are.
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    serve(|ask| match *ask {
        Ask::Ready => Ok(Answer {
            version: Some("of this kernel".into()),
            ..Answer::default()
        }),
        Ask::Sequential { size, count } if size <= LARGEST_DATAGRAM => datagrams(size, count),
        Ask::Bulk { bytes, receivers } => bulk(bytes, receivers, &mut buffers),
        _ => Ok(Answer {
            unsupported: Some("plain sockets know neither calls nor one-way messages".into()),
            ..Answer::default()
        }),
    })
}

/// What UDP carries at once.
const LARGEST_DATAGRAM: usize = 65_000;

/// A datagram to another thread, and back: two threads are woken.
fn datagrams(size: usize, count: u64) -> Result<Answer> {
    let any = || UdpSocket::bind("127.0.0.1:0");
    let (here, there) = (any()?, any()?);
    here.connect(there.local_addr()?)?;
    there.connect(here.local_addr()?)?;
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(LOST))?;
    }
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            let mut buffer = vec![0; LARGEST_DATAGRAM];
            for _ in 0..count {
                let len = there.recv(&mut buffer)?;
                there.send(&buffer[..len])?;
            }
            Ok(())
        });
        let (mut body, mut got) = (Vec::new(), vec![0; LARGEST_DATAGRAM]);
        let (mut sum, mut times) = (0u64, Vec::new());
        let began = Instant::now();
        for n in 0..count {
            message(n, size, &mut body);
            let sent = Instant::now();
            here.send(&body)?;
            let len = here.recv(&mut got)?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
            sum = sum.wrapping_add(number(&got[..len]));
        }
        let answer = timed(began, times, sum);
        echo.join().ok().context("the other thread panicked")??;
        Ok(answer)
    })
}

/// A datagram that has not come by then is lost.
const LOST: Duration = Duration::from_secs(5);

/// Receivers are threads here: the bytes cross the loopback all the same.
fn bulk(bytes: u64, receivers: usize, buffers: &mut Vec<Vec<u8>>) -> Result<Answer> {
    let object = object(bytes);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let len = usize::try_from(bytes)?;
    buffers.resize(receivers.max(buffers.len()), Vec::new());
    let receive = move |mut got: Vec<u8>| -> Result<(u64, Vec<u8>)> {
        let mut stream = TcpStream::connect(address)?;
        stream.read_exact(&mut got)?;
        let sum = sum(&got);
        stream.write_all(&[1])?;
        Ok((sum, got))
    };
    let threads: Vec<_> = buffers
        .drain(..receivers)
        .map(|mut got| {
            got.resize(len, 0);
            std::thread::spawn(move || receive(got))
        })
        .collect();
    let streams: Vec<TcpStream> = (0..receivers)
        .map(|_| Ok(listener.accept()?.0))
        .collect::<Result<_>>()?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let send = |mut stream: TcpStream| -> Result<()> {
            stream.write_all(&object)?;
            stream.read_exact(&mut [0])?;
            Ok(())
        };
        let sends: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || send(stream)))
            .collect();
        sends
            .into_iter()
            .try_for_each(|s| s.join().ok().context("a sender panicked")?)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut checksums = Vec::new();
    for thread in threads {
        let (sum, got) = thread.join().ok().context("a receiver panicked")??;
        checksums.push(sum);
        buffers.push(got);
    }
    Ok(Answer {
        seconds: Some(seconds),
        checksums,
        ..Answer::default()
    })
}
