//! swirl's transport, with mutual TLS, between this process and children of it.

use crate::words::{Answer, Ask, BeatLane, message, number, object, serve, sum, timed};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use proto::Role;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use transport::certs::{Authority, Credentials, Validity};
use transport::tls::Expected;
use transport::{Connection, Endpoint, Handler, Lane, Limits, Link, Request, bulk};

const LIMIT: Duration = Duration::from_secs(600);

const ECHO: u8 = 0;
const REPORT: u8 = 1;
const PULL: u8 = 2;
const BEAT: u8 = 3;

/// Receivers at most.
const CHILDREN: usize = 4;

/// As in `swirl`: work apart from the sockets, and control apart from all else.
struct Runtimes {
    work: Runtime,
    control: Runtime,
    data: Runtime,
}

impl Runtimes {
    fn start() -> Result<Self> {
        let runtime = |threads| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .enable_all()
                .build()
        };
        Ok(Self {
            work: runtime(2)?,
            control: runtime(1)?,
            data: runtime(1)?,
        })
    }

    /// An endpoint for control and one for all else.
    fn bind(&self, credentials: Credentials, is_dialled: bool) -> Result<[Endpoint; 2]> {
        let credentials = Arc::new(credentials);
        let bind = |runtime: &Runtime, lanes: &[Lane]| {
            let _inside = runtime.enter();
            let any: SocketAddr = ([127, 0, 0, 1], 0).into();
            let serves = if is_dialled { lanes } else { &[] };
            Endpoint::bind(any, credentials.clone(), serves)
        };
        Ok([
            bind(&self.control, &[Lane::Control])?,
            bind(&self.data, &[Lane::Data, Lane::Bulk])?,
        ])
    }
}

/// The process at the other end: it is dialled for control and data, and pulls over the bulk connection.
pub fn child(certs: &Path) -> Result<()> {
    let runtimes = Runtimes::start()?;
    let [control, data] = runtimes.bind(Credentials::load(certs)?, true)?;
    runtimes.work.block_on(async {
        println!(
            "{} {}",
            control.local_address()?.port(),
            data.local_address()?.port()
        );
        let control = control.accept().await.context("nobody came")?;
        let (one, other) = (data.accept().await, data.accept().await);
        let (one, other) = one.zip(other).context("nobody came")?;
        let (data, bulk) = match one.lane() {
            Lane::Data => (one, other),
            _ => (other, one),
        };
        let echo = Arc::new(Echo {
            bulk,
            got: tokio::sync::Mutex::default(),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        });
        let beats = Link::open(control, echo.clone(), Limits::default()).await?;
        let link = Link::open(data, echo, Limits::default()).await?;
        link.closed().await;
        drop(beats);
        Ok(())
    })
}

struct Echo {
    bulk: Arc<dyn Connection>,
    /// What was pulled. Its memory is kept: pages that the system gives anew cost as much as the
    /// transfer.
    got: tokio::sync::Mutex<Vec<u8>>,
    count: AtomicU64,
    sum: AtomicU64,
}

#[async_trait]
impl Handler for Echo {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        match request.method {
            ECHO | BEAT => Ok(request.body),
            REPORT => {
                let count = self.count.swap(0, Ordering::Relaxed);
                let sum = self.sum.swap(0, Ordering::Relaxed);
                Ok([count.to_le_bytes(), sum.to_le_bytes()].concat().into())
            }
            PULL => {
                let len = number(&request.body);
                let mut got = self.got.lock().await;
                got.clear();
                got.reserve(len as usize);
                let pulled = bulk::pull(self.bulk.as_ref(), 0, 0..len, |piece| {
                    got.extend_from_slice(&piece);
                    Ok(())
                });
                pulled.await.map_err(|error| error.to_string())?;
                Ok(sum(&got).to_le_bytes().to_vec().into())
            }
            _ => Err("no such method".into()),
        }
    }

    /// As in `swirl`: heartbeats are, what engines are asked is not.
    fn is_quick(&self, method: u8) -> bool {
        method == BEAT
    }

    async fn cast(&self, _: u8, body: Bytes) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number(&body), Ordering::Relaxed);
    }
}

struct Nothing;

#[async_trait]
impl Handler for Nothing {
    async fn request(&self, _: Request) -> Result<Bytes, String> {
        Err("nothing is asked here".into())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

/// The object that is pulled.
#[derive(Default)]
struct Object(Mutex<Bytes>);

#[async_trait]
impl bulk::Source for Object {
    async fn piece(&self, _: u64, range: Range<u64>) -> Result<Bytes, String> {
        let object = self.0.lock().map_err(|error| error.to_string())?;
        let is_there = range.end <= object.len() as u64;
        is_there
            .then(|| object.slice(range.start as usize..range.end as usize))
            .ok_or_else(|| "it is not there any more".to_owned())
    }
}

struct Children {
    controls: Vec<Link>,
    links: Vec<Link>,
    object: Arc<Object>,
    processes: Vec<Child>,
    _endpoints: [Endpoint; 2],
    _certs: tempfile::TempDir,
}

impl Drop for Children {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn children(runtimes: &Runtimes) -> Result<Children> {
    let certs = tempfile::tempdir()?;
    let authority = Authority::create(&certs.path().join("ca"), Validity::of_days(2))?;
    let issue = |name: &str, role| -> Result<std::path::PathBuf> {
        let name = name.parse()?;
        authority.issue(&name, &BTreeSet::from([role]), Validity::of_days(1))?;
        Ok(authority.node_folder(&name))
    };
    let head = Credentials::load(&issue("head", Role::Controller)?)?;
    let node = issue("node", Role::Sampler)?;
    let endpoints = runtimes.bind(head, false)?;
    let object = Arc::new(Object::default());
    let (mut controls, mut links, mut processes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CHILDREN {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command
            .arg("child")
            .arg(&node)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("it was asked for above")?;
        BufReader::new(output).read_line(&mut line)?;
        processes.push(process);
        let ports: Vec<u16> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [control, data] = ports[..] else {
            bail!("the other process says {line:?}");
        };
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let expected = Expected {
            role: Some(Role::Sampler),
            name: None,
        };
        let dial =
            |endpoint: usize, port, lane| endpoints[endpoint].dial(at(port), lane, &expected);
        let control = dial(0, control, Lane::Control).await?;
        let bulk = dial(1, data, Lane::Bulk).await?;
        let data = dial(1, data, Lane::Data).await?;
        tokio::spawn(bulk::serve(bulk, object.clone()));
        let open = |connection| Link::open(connection, Arc::new(Nothing), Limits::default());
        controls.push(open(control).await?);
        links.push(open(data).await?);
    }
    Ok(Children {
        controls,
        links,
        object,
        processes,
        _endpoints: endpoints,
        _certs: certs,
    })
}

pub fn answer() -> Result<()> {
    let runtimes = Runtimes::start()?;
    let runtime = &runtimes.work;
    let children = runtime.block_on(children(&runtimes))?;
    serve(|ask| match *ask {
        Ask::Ready => Ok(Answer {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            ..Answer::default()
        }),
        Ask::Sequential { size, count } => {
            runtime.block_on(sequential(children.links[0].clone(), size, count))
        }
        Ask::Pipelined {
            size,
            count,
            window,
        } => runtime.block_on(pipelined(children.links[0].clone(), size, count, window)),
        Ask::Oneway { size, count } => {
            runtime.block_on(oneway(children.links[0].clone(), size, count))
        }
        Ask::Bulk { bytes, receivers } => runtime.block_on(bulk(&children, bytes, receivers)),
        Ask::Beats {
            count,
            lane,
            beside_bulk,
        } => runtime.block_on(beats(&children, count, lane, beside_bulk)),
        Ask::Quit => Ok(Answer::default()),
    })
}

async fn sequential(link: Link, size: usize, count: u64) -> Result<Answer> {
    // On a worker: the thread that waits for all of this is no place to measure.
    tokio::spawn(async move {
        let (mut body, mut sum, mut times) = (Vec::new(), 0u64, Vec::new());
        let began = Instant::now();
        for n in 0..count {
            message(n, size, &mut body);
            let asked = Instant::now();
            let answer = link.call(ECHO, &body, LIMIT).await?;
            times.push(asked.elapsed().as_secs_f64() * 1e6);
            sum = sum.wrapping_add(number(&answer));
        }
        Ok(timed(began, times, sum))
    })
    .await?
}

async fn pipelined(link: Link, size: usize, count: u64, window: usize) -> Result<Answer> {
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let callers: Vec<_> = (0..window)
        .map(|_| {
            let (link, next) = (link.clone(), next.clone());
            tokio::spawn(async move {
                let (mut body, mut got, mut sum) = (Vec::new(), 0u64, 0u64);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return anyhow::Ok((got, sum));
                    }
                    message(n, size, &mut body);
                    let answer = link.call(ECHO, &body, LIMIT).await?;
                    got += 1;
                    sum = sum.wrapping_add(number(&answer));
                }
            })
        })
        .collect();
    let (mut got, mut sum) = (0, 0u64);
    for caller in callers {
        let (its, part) = caller.await??;
        got += its;
        sum = sum.wrapping_add(part);
    }
    Ok(Answer {
        seconds: Some(began.elapsed().as_secs_f64()),
        count: Some(got),
        checksum: Some(sum),
        ..Answer::default()
    })
}

async fn oneway(link: Link, size: usize, count: u64) -> Result<Answer> {
    tokio::spawn(async move {
        let mut body = Vec::new();
        let began = Instant::now();
        for n in 0..count {
            message(n, size, &mut body);
            link.cast(0, &body).await?;
        }
        let report = link.call(REPORT, &[], LIMIT).await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Answer {
            seconds: Some(seconds),
            count: Some(number(&report)),
            checksum: Some(number(&report[8..])),
            ..Answer::default()
        })
    })
    .await?
}

/// Between heartbeats; the real ones come every 500 ms.
const EVERY: Duration = Duration::from_millis(2);

/// What is sent over and over beside heartbeats, in bytes.
const BESIDE: u64 = 64 << 20;

async fn beats(
    children: &Children,
    count: u64,
    lane: BeatLane,
    beside_bulk: bool,
) -> Result<Answer> {
    let link = children.links[0].clone();
    let (beaten, method) = match lane {
        BeatLane::Control => (children.controls[0].clone(), BEAT),
        BeatLane::Data => (link.clone(), ECHO),
    };
    let pulling = beside_bulk.then(|| {
        *children.object.0.lock().expect("no holder panics") = object(BESIDE).into();
        let link = link.clone();
        tokio::spawn(
            async move { while link.call(PULL, &BESIDE.to_le_bytes(), LIMIT).await.is_ok() {} },
        )
    });
    let beating = tokio::spawn(async move {
        let (mut body, mut sum, mut times) = (Vec::new(), 0u64, Vec::new());
        let began = Instant::now();
        for n in 0..count {
            tokio::time::sleep(EVERY).await;
            message(n, 8, &mut body);
            let asked = Instant::now();
            let answer = beaten.call(method, &body, LIMIT).await?;
            times.push(asked.elapsed().as_secs_f64() * 1e6);
            sum = sum.wrapping_add(number(&answer));
        }
        anyhow::Ok(timed(began, times, sum))
    });
    let answer = beating.await?;
    if let Some(pulling) = pulling {
        pulling.abort();
        let _ = pulling.await;
        *children.object.0.lock().expect("no holder panics") = Bytes::new();
    }
    answer
}

async fn bulk(children: &Children, bytes: u64, receivers: usize) -> Result<Answer> {
    *children.object.0.lock().expect("no holder panics") = object(bytes).into();
    let began = Instant::now();
    let pulls = children.links.iter().take(receivers).map(|link| {
        let link = link.clone();
        tokio::spawn(async move { link.call(PULL, &bytes.to_le_bytes(), LIMIT).await })
    });
    let pulls: Vec<_> = pulls.collect();
    let mut checksums = Vec::new();
    for pull in pulls {
        checksums.push(number(&pull.await??));
    }
    let seconds = began.elapsed().as_secs_f64();
    *children.object.0.lock().expect("no holder panics") = Bytes::new();
    Ok(Answer {
        seconds: Some(seconds),
        checksums,
        ..Answer::default()
    })
}
