//! What the machine can do: one TCP stream to each receiver, with neither TLS nor frames.

use crate::words::{Answer, Ask, object, serve, sum};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

pub fn answer() -> Result<()> {
    // Kept as ours are.
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    serve(|ask| match *ask {
        Ask::Ready => Ok(Answer {
            version: Some("of this kernel".into()),
            ..Answer::default()
        }),
        Ask::Bulk { bytes, receivers } => bulk(bytes, receivers, &mut buffers),
        _ => Ok(Answer {
            unsupported: Some("a stream knows no messages".into()),
            ..Answer::default()
        }),
    })
}

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
