//! A member of a ring of ours.

use crate::words::{Answer, Ask};
use anyhow::{Context, Result};
use clap::Args;
use collective::ring::{Listener, Options, Wire, meeting};
use collective::{Communicator, Group, Reduce, Ring};
use proto::Role;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};
use transport::Lane;
use transport::certs::Credentials;
use transport::tls::{Expected, TlsStream};

#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    rank: usize,
    #[arg(long)]
    world: usize,
    /// Over TCP, though all are on one host.
    #[arg(long)]
    tcp: bool,
    /// Sums travel as bf16.
    #[arg(long)]
    bf16: bool,
    /// Over TCP with mutual TLS, by the certificate in this folder.
    #[arg(long)]
    certs: Option<PathBuf>,
    /// Bytes of a frame.
    #[arg(long)]
    frame: usize,
}

/// Every so manyth element is checked.
const SAMPLE: usize = 997;

const LIMIT: Duration = Duration::from_secs(60);

pub fn answer(arguments: &Arguments) -> Result<()> {
    // All members share the machine's cores.
    tch::set_num_threads(1);
    let bind = match arguments.tcp || arguments.certs.is_some() {
        true => Listener::bind_tcp,
        false => Listener::bind,
    };
    let listener = bind("127.0.0.1:0")?;
    let mut ring = None;
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let answer = match ask {
            Ask::Ready => Answer {
                address: Some(listener.address()?),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                ..Answer::default()
            },
            Ask::Meet { next } => {
                ring = Some(meet(arguments, &listener, next.context("nobody is next")?)?);
                Answer::default()
            }
            Ask::Average { elements, repeats } => {
                let ring = ring.as_mut().context("the members have not met")?;
                average(ring, elements, repeats)?
            }
            Ask::Quit => Answer::default(),
        };
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
        if ask == Ask::Quit {
            break;
        }
    }
    Ok(())
}

fn meet(arguments: &Arguments, listener: &Listener, next: SocketAddr) -> Result<Ring> {
    let group = Group {
        rank: arguments.rank,
        world: arguments.world,
        epoch: 1,
    };
    let stop = AtomicBool::new(false);
    let meeting = meeting::Meeting {
        group,
        run: *b"bench of a ring.",
        listener,
        own: listener.address()?,
        next,
        limit: LIMIT,
        patience: LIMIT,
        stop: &stop,
    };
    let links = match &arguments.certs {
        None => meeting::connect(&meeting)?,
        Some(folder) => {
            let (lane, role) = (Lane::Gradients, Role::Learner);
            let (credentials, expected) = (
                Credentials::load(folder)?,
                Expected {
                    role: Some(role),
                    name: None,
                },
            );
            meeting::connect_with(
                &meeting,
                |socket| TlsStream::dialled(socket, &credentials, lane, &expected),
                |socket| TlsStream::accepted(socket, &credentials, lane, &expected),
            )?
        }
    };
    let options = Options {
        wire: if arguments.bf16 {
            Wire::Bf16
        } else {
            Wire::F32
        },
        frame: arguments.frame,
    };
    Ok(Ring::new(group, links, options)?)
}

fn average(ring: &mut Ring, elements: u64, repeats: u64) -> Result<Answer> {
    let elements = i64::try_from(elements)?;
    let first = Tensor::empty([elements], (Kind::Float, Device::Cpu));
    // In parts: the numbers in between take more memory than the tensor.
    for start in (0..elements).step_by(1 << 20) {
        let end = (start + (1 << 20)).min(elements);
        let places = Tensor::arange_start(start, end, (Kind::Int64, Device::Cpu));
        let values = (places * 7 + 13 * ring.rank() as i64)
            .remainder(1000)
            .to_kind(Kind::Float)
            / 1000.0;
        first.narrow(0, start, end - start).copy_(&values);
    }
    let mut tensor = first;
    let world = ring.world() as f64;
    let mut spent = Duration::ZERO;
    for _ in 0..repeats {
        let began = Instant::now();
        ring.all_reduce(&tensor, Reduce::Sum)?.wait()?;
        spent += began.elapsed();
        tensor *= 1.0 / world;
    }
    // Some of them: all would take as much memory again.
    let some = tensor.slice(0, 0, elements, SAMPLE as i64).contiguous();
    let values = Vec::<f32>::try_from(&some)?;
    let expected = |i: usize| {
        let of = |rank: usize| f64::from(((7 * i + 13 * rank) % 1000) as f32 / 1000.0);
        (0..ring.world()).map(of).sum::<f64>() / world
    };
    let differences = values
        .iter()
        .enumerate()
        .map(|(i, value)| (f64::from(*value) - expected(SAMPLE * i)).abs());
    Ok(Answer {
        seconds: spent.as_secs_f64(),
        difference: differences.fold(0.0, f64::max),
        ..Answer::default()
    })
}
