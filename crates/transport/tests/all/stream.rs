//! TCP with mutual TLS: who may meet whom, and that bytes arrive.

use crate::fixture::{Run, node};
use proto::Role;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use transport::Lane;
use transport::certs::Credentials;
use transport::tls::{Expected, TlsStream};

struct Side<'a> {
    credentials: &'a Credentials,
    lane: Lane,
    expected: Expected,
}

fn side(credentials: &Credentials) -> Side<'_> {
    Side {
        credentials,
        lane: Lane::Gradients,
        expected: Expected {
            role: Some(Role::Learner),
            name: None,
        },
    }
}

/// What both sides, dialler first, get to read when each sends a byte after the handshake.
fn meet(dialler: &Side, acceptor: &Side) -> [io::Result<String>; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let exchange = |mut stream: TlsStream| {
        stream.write_all(&[1])?;
        stream.flush()?;
        stream.read_exact(&mut [0])?;
        Ok(stream.peer().name.to_string())
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let Side {
                credentials,
                lane,
                expected,
            } = acceptor;
            TlsStream::accepted(accepted, credentials, *lane, expected).and_then(exchange)
        });
        let Side {
            credentials,
            lane,
            expected,
        } = dialler;
        let one = TlsStream::dialled(socket, credentials, *lane, expected).and_then(exchange);
        [one, other.join().unwrap()]
    })
}

#[test]
fn nodes_that_may_meet_know_each_other() {
    let run = Run::new();
    let (a, b) = (
        run.credentials("a", &[Role::Learner]),
        run.credentials("b", &[Role::Learner]),
    );
    let [one, other] = meet(&side(&a), &side(&b));
    assert_eq!((one.unwrap(), other.unwrap()), ("b".into(), "a".into()));
}

/// Whatever is wrong, both get an error that says what, and it is not tried again in vain.
#[test]
fn nodes_that_may_not_meet_are_told_why() {
    let (run, others) = (Run::new(), Run::new());
    let good = run.credentials("good", &[Role::Learner]);
    let of_others = others.credentials("good", &[Role::Learner]);
    let sampler = run.credentials("other", &[Role::Sampler]);
    let named = Side {
        expected: Expected {
            role: Some(Role::Learner),
            name: Some(node("somebody")),
        },
        ..side(&good)
    };
    let another_lane = Side {
        lane: Lane::Bulk,
        ..side(&good)
    };
    let cases = [
        ("of another authority", side(&of_others)),
        ("learner", side(&sampler)),
        ("no protocol in common", another_lane),
        ("somebody", named),
    ];
    for (words, wrong) in cases {
        for [one, other] in [meet(&wrong, &side(&good)), meet(&side(&good), &wrong)] {
            let errors = [one.unwrap_err(), other.unwrap_err()];
            let said = errors.each_ref().map(ToString::to_string);
            let denied = errors
                .iter()
                .position(|e| e.kind() == ErrorKind::PermissionDenied);
            assert!(denied.is_some(), "{words}: {errors:?}");
            assert!(
                said.iter().any(|text| text.contains(words)),
                "{words}: {said:?}"
            );
        }
    }
}

/// More than any buffer holds, both ways at once, cut anywhere.
#[test]
fn bytes_arrive_as_they_were_sent() {
    let run = Run::new();
    let credentials = run.credentials("a", &[Role::Learner]);
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let Side { lane, expected, .. } = side(&credentials);
    // The first 100 bytes there and back, then everything.
    let first = 100;
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut stream = TlsStream::accepted(accepted, &credentials, lane, &expected).unwrap();
            let mut got = vec![0; bytes.len()];
            stream.read_exact(&mut got[..first]).unwrap();
            stream.write_all(&got[..first]).unwrap();
            for part in got[first..].chunks_mut(70_001) {
                stream.read_exact(part).unwrap();
            }
            // The end of the other's stream is an end.
            assert!(stream.read(&mut [0]).is_err());
            got
        });
        let mut stream = TlsStream::dialled(socket, &credentials, lane, &expected).unwrap();
        stream.write_all(&bytes[..first]).unwrap();
        let mut echo = vec![0; first];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(echo, bytes[..first]);
        for part in bytes[first..].chunks(99_999) {
            stream.write_all(part).unwrap();
        }
        stream.flush().unwrap();
        drop(stream);
        assert!(other.join().unwrap() == bytes);
    });
}
