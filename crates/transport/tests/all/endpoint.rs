//! Lanes, links and transfers over real sockets on the loopback.

use crate::fixture::{Run, now};
use async_trait::async_trait;
use bytes::Bytes;
use proto::Role;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use transport::certs::Credentials;
use transport::tls::Expected;
use transport::{
    CallError, Connection, DialError, Endpoint, Handler, Lane, Limits, Link, Request, bulk,
};

/// No test takes as long.
const LIMIT: Duration = Duration::from_secs(30);

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        match request.method {
            0 | QUICK => Ok(request.body),
            _ => std::future::pending().await,
        }
    }

    fn is_quick(&self, method: u8) -> bool {
        method == QUICK
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

const QUICK: u8 = 2;

/// A run's controller and a sampler that knows it.
struct Nodes {
    run: Run,
    server: Endpoint,
    client: Endpoint,
}

impl Nodes {
    fn new() -> Self {
        let run = Run::new();
        let controller = run.credentials("head", &[Role::Controller]);
        let sampler = run.credentials("gpu-1", &[Role::Sampler]);
        let server = endpoint(controller, &[Lane::Control, Lane::Data, Lane::Bulk]);
        let client = endpoint(sampler, &[]);
        Self {
            run,
            server,
            client,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_address().unwrap()
    }

    async fn connect(&self, lane: Lane) -> [Arc<dyn Connection>; 2] {
        let expected = controller();
        let dial = self.client.dial(self.address(), lane, &expected);
        let (dialled, accepted) = within(async { tokio::join!(dial, self.server.accept()) }).await;
        [dialled.unwrap(), accepted.unwrap()]
    }

    async fn link(&self, lane: Lane) -> [Link; 2] {
        let [a, b] = self.connect(lane).await;
        let open = |connection| Link::open(connection, Arc::new(Echo), Limits::default());
        let (a, b) = within(async { tokio::join!(open(a), open(b)) }).await;
        [a.unwrap(), b.unwrap()]
    }
}

fn endpoint(credentials: Credentials, serves: &[Lane]) -> Endpoint {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Endpoint::bind(any, Arc::new(credentials), serves).unwrap()
}

fn controller() -> Expected {
    Expected {
        role: Some(Role::Controller),
        name: None,
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("no end")
}

#[tokio::test]
async fn both_sides_know_each_other_and_call_each_other() {
    let nodes = Nodes::new();
    let [a, b] = nodes.link(Lane::Data).await;
    assert_eq!(a.peer().to_string(), "head (controller)");
    assert_eq!(b.peer().to_string(), "gpu-1 (sampler)");
    let long = vec![5u8; 3 << 20];
    let (there, back) =
        within(async { tokio::join!(a.call(0, &long, LIMIT), b.call(0, b"back", LIMIT)) }).await;
    assert_eq!(there.unwrap(), long);
    assert_eq!(back.unwrap(), &b"back"[..]);
}

#[test]
fn quick_calls_are_answered_however_busy_a_process_is() {
    let sockets = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // It runs nothing but what it is blocked on: as busy as can be at all other times.
    let busy = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (nodes, a, b) = sockets.block_on(async {
        let nodes = Nodes::new();
        let [a, b] = nodes.connect(Lane::Control).await;
        (nodes, a, b)
    });
    let open = |connection| Link::open(connection, Arc::new(Echo), Limits::default());
    let a = sockets.spawn(open(a));
    let b = busy.block_on(within(open(b))).unwrap();
    let a = sockets.block_on(within(a)).unwrap().unwrap();
    let quick = sockets.block_on(a.call(QUICK, b"beat", LIMIT));
    assert_eq!(quick.unwrap(), &b"beat"[..]);
    let soon = Duration::from_millis(300);
    let other = sockets.block_on(a.call(0, b"work", soon));
    assert_eq!(other, Err(CallError::TimedOut(soon)));
    let other = busy.block_on(a.call(0, b"work", LIMIT));
    assert_eq!(other.unwrap(), &b"work"[..]);
    drop((b, nodes));
}

#[tokio::test]
async fn a_peer_that_ends_is_noticed_and_says_why() {
    let nodes = Nodes::new();
    let [a, b] = nodes.link(Lane::Control).await;
    let waiting = b.call(1, b"", LIMIT);
    let (lost, _) = within(async { tokio::join!(waiting, nodes.client.close("it is late")) }).await;
    assert_eq!(lost, Err(CallError::Lost("it is late".into())));
    drop(a);
}

#[tokio::test]
async fn a_node_of_another_run_is_turned_away_on_both_sides() {
    let nodes = Nodes::new();
    let other = Run::new();
    let stranger = endpoint(other.credentials("gpu-1", &[Role::Sampler]), &[]);
    let dialled = within(stranger.dial(nodes.address(), Lane::Control, &controller())).await;
    let Err(DialError::Refused(reason)) = dialled else {
        panic!("it was let in, or may try again")
    };
    assert!(
        reason.contains("another authority") || reason.contains("other"),
        "{reason}"
    );
    // The right authority and the wrong role.
    let sampler = nodes.run.issue("gpu-2", &[Role::Sampler], now());
    let wrong = endpoint(Credentials::load(&sampler).unwrap(), &[Lane::Control]);
    let address = wrong.local_address().unwrap();
    let dialled = within(nodes.client.dial(address, Lane::Control, &controller())).await;
    assert!(matches!(dialled, Err(DialError::Refused(_))));
    // Nobody there.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    let dialled = within(nodes.client.dial(address, Lane::Control, &controller())).await;
    assert!(matches!(dialled, Err(DialError::Unreachable { .. })));
}

/// Blob *n* is made of *n* bytes, each the last digit of its position.
struct Digits;

#[async_trait]
impl bulk::Source for Digits {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        match range.end <= id {
            true => Ok(range.map(|at| (at % 10) as u8).collect()),
            false => Err(format!("blob {id} ends before")),
        }
    }
}

#[tokio::test]
async fn transfers_are_exact_and_refusals_say_why() {
    let nodes = Nodes::new();
    let [a, b] = nodes.connect(Lane::Bulk).await;
    tokio::spawn(bulk::serve(b, Arc::new(Digits)));
    let len = (5 << 20) + 7;
    for range in [0..len, 3..4, 1 << 20..len, 8..8] {
        let mut got = Vec::new();
        let sink = |piece: Bytes| {
            got.extend_from_slice(&piece);
            Ok(())
        };
        within(bulk::pull(a.as_ref(), len, range.clone(), sink))
            .await
            .unwrap();
        assert!(got.iter().copied().eq(range.map(|at| (at % 10) as u8)));
    }
    let pulled = within(bulk::pull(a.as_ref(), 5, 0..6, |_| Ok(()))).await;
    assert!(
        matches!(&pulled, Err(bulk::PullError::Refused(r)) if r == "blob 5 ends before"),
        "{pulled:?}"
    );
    // It ends within: what has come by then is not taken for the whole.
    let pulled = within(bulk::pull(a.as_ref(), 3 << 20, 0..4 << 20, |_| Ok(()))).await;
    assert!(
        matches!(pulled, Err(bulk::PullError::Broken(_))),
        "{pulled:?}"
    );
    let full = |_: Bytes| Err("no room".to_owned());
    let pulled = within(bulk::pull(a.as_ref(), 9, 0..9, full)).await;
    assert!(
        matches!(pulled, Err(bulk::PullError::Sink(_))),
        "{pulled:?}"
    );
}

#[tokio::test]
async fn a_bulk_lane_that_is_full_holds_no_other_lane_up() {
    let nodes = Nodes::new();
    let [a, b] = nodes.connect(Lane::Bulk).await;
    let flood = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(b.open().await.unwrap());
        }
        let piece = Bytes::from(vec![0; 1 << 20]);
        // Nobody reads: each fills its window and waits for ever.
        let fill = streams.iter_mut().map(|stream| {
            let piece = piece.clone();
            async move {
                loop {
                    stream.outgoing.send(piece.clone()).await.unwrap();
                }
            }
        });
        futures::future::join_all(fill).await;
    });
    let [control, _other] = nodes.link(Lane::Control).await;
    for _ in 0..100 {
        within(control.call(0, b"alive", LIMIT)).await.unwrap();
    }
    assert!(!flood.is_finished());
    flood.abort();
    drop(a);
}

#[tokio::test]
async fn hostile_peers_cost_their_own_connection_only() {
    let nodes = Nodes::new();
    let [good, _served] = nodes.link(Lane::Data).await;
    let half = [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2];
    let long = [0xFF; 18];
    let cases: [(&[u8], bool); 4] = [
        (b"", false),
        (&half, false),
        (&long, true),
        (&[7; 999], true),
    ];
    for (bytes, ends) in cases {
        let [a, b] = nodes.connect(Lane::Data).await;
        let mut asking = within(a.open()).await.unwrap();
        let open = Link::open(b, Arc::new(Echo), Limits::default());
        let (victim, _serving) = within(async { tokio::join!(open, a.accept()) }).await;
        let victim = victim.unwrap();
        within(asking.outgoing.send(Bytes::copy_from_slice(bytes)))
            .await
            .unwrap();
        if ends {
            let reason = within(victim.closed()).await;
            assert!(reason.contains("protocol"), "{reason}");
        } else {
            // It waits for more, and serves others meanwhile.
            within(good.call(0, b"x", LIMIT)).await.unwrap();
            assert_eq!(victim.close_reason(), None);
        }
        within(good.call(0, b"x", LIMIT)).await.unwrap();
    }
}

#[tokio::test]
async fn datagrams_that_are_no_quic_are_ignored() {
    let nodes = Nodes::new();
    let [good, _served] = nodes.link(Lane::Control).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for len in [0, 1, 20, 1200, 6500] {
        for fill in [0x00, 0x40, 0xC0, 0xFF] {
            socket.send_to(&vec![fill; len], nodes.address()).unwrap();
        }
    }
    within(good.call(0, b"x", LIMIT)).await.unwrap();
    nodes.link(Lane::Data).await;
}
