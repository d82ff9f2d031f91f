//! What the machine can do: one TCP stream to each receiver, with neither TLS nor frames.

use crate::words::{Answer, Ask, object, serve, sum};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

pub fn answer() -> Result<()> {
    serve(|ask| match *ask {
        Ask::Ready => Ok(Answer {
            version: Some("of this kernel".into()),
            ..Answer::default()
        }),
        Ask::Bulk { bytes, receivers } => bulk(bytes, receivers),
        _ => Ok(Answer {
            unsupported: Some("a stream knows no messages".into()),
            ..Answer::default()
        }),
    })
}

/// Receivers are threads here: the bytes cross the loopback all the same.
fn bulk(bytes: u64, receivers: usize) -> Result<Answer> {
    let object = object(bytes);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let receive = move || -> Result<u64> {
        let mut stream = TcpStream::connect(address)?;
        let mut got = vec![0; usize::try_from(bytes)?];
        stream.read_exact(&mut got)?;
        let sum = sum(&got);
        stream.write_all(&[1])?;
        Ok(sum)
    };
    let threads: Vec<_> = (0..receivers)
        .map(|_| std::thread::spawn(receive))
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
    let sums = threads
        .into_iter()
        .map(|t| t.join().ok().context("a receiver panicked")?);
    Ok(Answer {
        seconds: Some(seconds),
        checksums: sums.collect::<Result<_>>()?,
        ..Answer::default()
    })
}
