use super::*;
use crate::Lane;
use crate::memory::{Network, Rules};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

const ECHO: u8 = 0;
const REFUSE: u8 = 1;
const PANIC: u8 = 2;
const NEVER: u8 = 3;
const LATER: u8 = 4;
const LIMIT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(2);

struct Peer {
    casts: Mutex<Vec<Bytes>>,
    begun: AtomicUsize,
    dropped: Arc<AtomicUsize>,
    go: Semaphore,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            casts: Mutex::default(),
            begun: AtomicUsize::new(0),
            dropped: Arc::default(),
            go: Semaphore::new(0),
        }
    }
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Handler for Peer {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match request.method {
            ECHO => Ok(request.body),
            REFUSE => Err("no".to_owned()),
            PANIC => panic!("asked to"),
            NEVER => {
                let _count = CountDrop(self.dropped.clone());
                std::future::pending().await
            }
            _ => {
                tokio::task::yield_now().await;
                Ok(request.body)
            }
        }
    }

    async fn cast(&self, _: u8, body: Bytes) {
        self.casts.lock().unwrap().push(body);
        if let Ok(permit) = self.go.acquire().await {
            permit.forget();
        }
    }
}

fn identity(name: &str) -> proto::Identity {
    proto::Identity {
        name: name.parse().unwrap(),
        roles: BTreeSet::new(),
    }
}

async fn connections(
    rules: Rules,
    lane: Lane,
) -> (Network, Arc<dyn Connection>, Arc<dyn Connection>) {
    let network = Network::new(1, rules, IDLE);
    let mut listener = network.listen(identity("b"));
    let a = network
        .dial(identity("a"), &"b".parse().unwrap(), lane)
        .await
        .unwrap();
    let b = listener.accept().await.unwrap();
    (network, a, b)
}

struct Pair {
    network: Network,
    a: Link,
    b: Link,
    at_b: Arc<Peer>,
}

async fn pair(rules: Rules, limits: Limits) -> Pair {
    let (network, a, b) = connections(rules, Lane::Control).await;
    let at_b = Arc::new(Peer::default());
    let (a, b) = tokio::join!(
        Link::open(a, Arc::new(Peer::default()), limits),
        Link::open(b, at_b.clone(), limits)
    );
    Pair {
        network,
        a: a.unwrap(),
        b: b.unwrap(),
        at_b,
    }
}

async fn plain() -> Pair {
    pair(Rules::default(), Limits::default()).await
}

#[tokio::test(start_paused = true)]
async fn li_1_calls_are_answered_or_refused() {
    let pair = plain().await;
    let answer = pair.a.call(ECHO, b"one", LIMIT).await;
    assert_eq!(answer.unwrap(), &b"one"[..]);
    let answer = pair.a.call(LATER, b"two", LIMIT).await;
    assert_eq!(answer.unwrap(), &b"two"[..]);
    let refused = pair.a.call(REFUSE, b"", LIMIT).await;
    assert_eq!(refused, Err(CallError::Refused("no".into())));
    let failed = pair.a.call(PANIC, b"", LIMIT).await;
    assert!(matches!(failed, Err(CallError::Refused(_))), "{failed:?}");
    // The other way, and both at once.
    let (there, back) = tokio::join!(
        pair.a.call(LATER, b"there", LIMIT),
        pair.b.call(ECHO, b"back", LIMIT)
    );
    assert_eq!(
        (&there.unwrap()[..], &back.unwrap()[..]),
        (&b"there"[..], &b"back"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn li_1_a_call_whose_time_is_up_is_stopped_on_both_sides() {
    let pair = plain().await;
    let late = pair.a.call(NEVER, b"", LIMIT).await;
    assert_eq!(late, Err(CallError::TimedOut(LIMIT)));
    let dropped = tokio::time::timeout(LIMIT, pair.a.call(NEVER, b"", 100 * LIMIT)).await;
    assert!(dropped.is_err());
    // Answered behind the cancellation of the others.
    pair.a.call(LATER, b"", LIMIT).await.unwrap();
    assert_eq!(pair.at_b.dropped.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn li_1_a_peer_that_is_gone_is_told_of() {
    let pair = plain().await;
    let waiting = pair.a.call(NEVER, b"", 100 * LIMIT);
    let (lost, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(LIMIT).await;
        pair.network.cut(&"b".parse().unwrap());
    });
    assert_eq!(lost, Err(CallError::Lost("timed out".into())));
    assert_eq!(pair.a.closed().await, "timed out");
    let refused = pair.a.call(ECHO, b"", LIMIT).await;
    assert_eq!(refused, Err(CallError::NotSent("timed out".into())));
    let refused = pair.a.cast(ECHO, b"").await;
    assert_eq!(refused, Err(CallError::NotSent("timed out".into())));
    assert_eq!(
        pair.at_b.dropped.load(Ordering::SeqCst),
        1,
        "work for nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn li_1_closing_tells_the_reason() {
    let Pair { a, b, .. } = plain().await;
    a.close("the run is done");
    assert_eq!(b.closed().await, "the run is done");
    let Pair { a, b, .. } = plain().await;
    drop(a);
    assert_eq!(b.closed().await, "this side is done");
}

#[tokio::test(start_paused = true)]
async fn li_2_a_receiver_that_is_behind_holds_the_sender_back() {
    let limits = Limits {
        queued_bytes: 10_000,
        ..Limits::default()
    };
    let pair = pair(Rules::default(), limits).await;
    let body = [7u8; 1000];
    let mut sent = 0;
    while tokio::time::timeout(LIMIT, pair.a.cast(ECHO, &body))
        .await
        .is_ok()
    {
        sent += 1;
    }
    // The queue, what the network holds, and a chunk at the receiver.
    assert!((10..3000).contains(&sent), "{sent} messages were taken");
    pair.at_b.go.add_permits(1 << 20);
    pair.a.call(ECHO, b"", LIMIT).await.unwrap();
    let casts = pair.at_b.casts.lock().unwrap();
    assert!(casts.len() >= sent, "{} of {sent} arrived", casts.len());
}

#[tokio::test(start_paused = true)]
async fn li_2_requests_beyond_the_limit_wait_and_none_is_lost() {
    let limits = Limits {
        requests: 2,
        ..Limits::default()
    };
    let pair = pair(Rules::default(), limits).await;
    let hanging = (0..5).map(|_| pair.a.call(NEVER, b"", LIMIT));
    let hanging = futures::future::join_all(hanging);
    let others = (0..20).map(|_| pair.a.call(LATER, b"x", 10 * LIMIT));
    let (hanging, others) = tokio::join!(hanging, futures::future::join_all(others));
    let late = CallError::TimedOut(LIMIT);
    assert!(hanging.iter().all(|answer| *answer == Err(late.clone())));
    assert!(others.iter().all(Result::is_ok), "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn li_2_too_large_is_said_before_anything_is_sent() {
    let limits = Limits {
        body_bytes: 100,
        ..Limits::default()
    };
    let pair = pair(Rules::default(), limits).await;
    let error = pair.a.call(ECHO, &[0; 101], LIMIT).await;
    assert_eq!(error, Err(CallError::TooLarge { len: 101, max: 100 }));
    pair.a.call(ECHO, &[0; 100], LIMIT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn li_3_a_side_that_takes_no_more_requests_still_reads_answers() {
    let limits = Limits {
        requests: 1,
        ..Limits::default()
    };
    let pair = pair(Rules::default(), limits).await;
    let full = (0..100).map(|_| pair.a.call(NEVER, &[0; 1000], LIMIT));
    let full = futures::future::join_all(full);
    let answered = async {
        tokio::time::sleep(LIMIT / 2).await;
        for _ in 0..100 {
            pair.b.call(LATER, b"x", LIMIT / 10).await.unwrap();
        }
    };
    tokio::join!(full, answered);
}

#[tokio::test(start_paused = true)]
async fn li_4_garbage_ends_its_own_link_only() {
    let good = plain().await;
    let cases: [(&[u8], &str); 3] = [
        (&[0xFF; 64], "protocol"),
        (
            &[0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "unknown kind 9",
        ),
        // An answer where requests are expected.
        (
            &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            "Answer",
        ),
    ];
    for (bytes, said) in cases {
        let (_network, a, b) = connections(Rules::default(), Lane::Bulk).await;
        let hostile = async {
            let mut asking = a.open().await.unwrap();
            let _serving = a.accept().await.unwrap();
            asking
                .outgoing
                .send(Bytes::from_static(bytes))
                .await
                .unwrap();
            std::future::pending::<()>().await;
        };
        let limits = Limits {
            body_bytes: 1 << 20,
            ..Limits::default()
        };
        let victim = async {
            let link = Link::open(b.clone(), Arc::new(Peer::default()), limits);
            link.await.unwrap().closed().await
        };
        let reason = tokio::select! {
            reason = victim => reason,
            () = hostile => unreachable!(),
        };
        assert!(reason.contains(said), "{reason}");
        good.a.call(ECHO, b"x", LIMIT).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn doubled_and_overtaking_frames_change_no_answer() {
    let rules = Rules {
        duplicate: 0.5,
        jitter: Duration::from_millis(50),
        reorder: true,
        ..Rules::default()
    };
    let pair = pair(rules, Limits::default()).await;
    let calls = (0u32..500).map(|i| {
        let a = pair.a.clone();
        async move {
            let answer = a.call(LATER, &i.to_le_bytes(), LIMIT).await.unwrap();
            assert_eq!(answer, &i.to_le_bytes()[..]);
        }
    });
    futures::future::join_all(calls).await;
    assert!(pair.at_b.begun.load(Ordering::SeqCst) > 600);
}

#[tokio::test(start_paused = true)]
async fn lost_frames_end_in_a_time_out_and_not_in_silence() {
    let rules = Rules {
        drop: 0.3,
        ..Rules::default()
    };
    let pair = pair(rules, Limits::default()).await;
    let calls = (0..200).map(|_| pair.a.call(ECHO, b"x", LIMIT));
    let answers = futures::future::join_all(calls).await;
    let answered = answers.iter().filter(|a| a.is_ok()).count();
    assert!((50..150).contains(&answered), "{answered}");
    let late = CallError::TimedOut(LIMIT);
    assert!(answers.iter().all(|a| a.is_ok() || *a == Err(late.clone())));
}
