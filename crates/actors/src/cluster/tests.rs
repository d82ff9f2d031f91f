//! What nodes can do to each other's sessions by what they say: nothing (CL-3).

use super::*;
use crate::remote::SpreadPlan;
use bytes::Bytes;
use proto::cluster::{Join, JoinRequest, Welcome};
use proto::{Identity, codec};
use transport::memory::{Network, Rules};
use transport::{CallError, Handler, Limits, Request};

const VERSION: &str = "1.0.0+abc";

/// A cluster on a network in memory.
struct Run {
    network: Network,
    cluster: Cluster,
}

fn identity(name: &str, roles: &[Role]) -> Identity {
    Identity {
        name: name.parse().unwrap(),
        roles: roles.iter().copied().collect(),
    }
}

/// Does nothing that it is asked.
struct Deaf;

#[async_trait]
impl Handler for Deaf {
    async fn request(&self, _: Request) -> Result<Bytes, String> {
        std::future::pending().await
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

impl Run {
    fn new() -> Self {
        let network = Network::new(1, Rules::default(), Duration::from_secs(1000));
        let cluster = Cluster::new(ClusterPlan {
            run: "r".into(),
            version: VERSION.into(),
            config: "c".into(),
            data_port: 1,
            weights: SpreadPlan::default(),
            requires_gpu: false,
        });
        let mut listener = network.listen(identity("head", &[Role::Controller]));
        let admitting = cluster.clone();
        tokio::spawn(async move {
            while let Some(connection) = listener.accept().await {
                admitting.admit(connection);
            }
        });
        Self { network, cluster }
    }

    /// A link of whoever has this certificate.
    async fn link(&self, identity: &Identity, lane: Lane) -> Link {
        let head = "head".parse().unwrap();
        let connection = self.network.dial(identity.clone(), &head, lane).await;
        let opened = Link::open(connection.unwrap(), Arc::new(Deaf), Limits::default());
        opened.await.unwrap()
    }

    /// A node that has joined, and says nothing more by itself.
    async fn joined(&self, name: &str, roles: &[Role]) -> (Link, u64) {
        let identity = identity(name, roles);
        let link = self.link(&identity, Lane::Control).await;
        let welcome = ask(&link, method::JOIN, &request(&join(name, roles))).await;
        let welcome: Welcome = codec::decode(&welcome.unwrap()).unwrap();
        (link, welcome.node)
    }

    fn names(&self) -> Vec<String> {
        let members = self.cluster.members().into_iter();
        members.map(|(name, _)| name.to_string()).collect()
    }
}

fn join(name: &str, roles: &[Role]) -> Join {
    Join {
        name: name.parse().unwrap(),
        boot: 1,
        roles: roles.iter().copied().collect(),
        config: None,
        address: None,
        device: "cpu".into(),
    }
}

fn request(join: &Join) -> Vec<u8> {
    let request = JoinRequest {
        version: VERSION.into(),
        join: codec::encode(join).unwrap(),
    };
    codec::encode(&request).unwrap()
}

async fn ask(link: &Link, method: u8, body: &[u8]) -> Result<Bytes, CallError> {
    link.call(method, body, PROMPT).await
}

/// All that can be said on a lane, and what nobody ever says.
const METHODS: [u8; 9] = [
    method::JOIN,
    method::HEARTBEAT,
    method::LEAVE,
    method::HELLO,
    method::ASSIGN,
    method::END,
    method::EXPEL,
    method::ENGINE,
    99,
];

#[tokio::test(start_paused = true)]
async fn cl_3_a_certificate_that_never_joined_ends_no_session() {
    let run = Run::new();
    let (learner, id) = run.joined("learner", &[Role::Learner]).await;
    let tool = identity("tool", &[Role::Tool]);
    let impostor = request(&join("learner", &[Role::Learner]));
    for lane in [Lane::Control, Lane::Data] {
        for method in METHODS {
            for body in [codec::encode(&id).unwrap(), Vec::new(), impostor.clone()] {
                let link = run.link(&tool, lane).await;
                let answer = ask(&link, method, &body).await;
                // The data lane hears who greets, and lets nobody in by that.
                let is_greeting = lane == Lane::Data && method == method::HELLO;
                assert!(
                    answer.is_err() || is_greeting,
                    "{lane} {method}: {answer:?}"
                );
                link.close("done");
                assert_eq!(run.names(), ["learner"], "{lane} {method} {body:?}");
                assert_eq!(learner.close_reason(), None, "{lane} {method} {body:?}");
                // Only its own word keeps it.
                ask(&learner, method::HEARTBEAT, &[]).await.unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cl_3_a_member_speaks_for_itself_alone() {
    let run = Run::new();
    let (learner, id) = run.joined("learner", &[Role::Learner]).await;
    let (tool, own) = run.joined("tool", &[Role::Tool]).await;
    assert_ne!(id, own);
    let body = codec::encode(&id).unwrap();
    let heard = ask(&tool, method::HEARTBEAT, &body).await.unwrap();
    assert!(codec::decode::<bool>(&heard).unwrap());
    // A second name on the same link is none.
    let again = ask(&tool, method::JOIN, &request(&join("tool", &[Role::Tool]))).await;
    assert!(matches!(again, Err(CallError::Refused(reason)) if reason.contains("already")));
    // The answer may be lost with the link.
    let _ = ask(&tool, method::LEAVE, &body).await;
    tool.closed().await;
    assert_eq!(run.names(), ["learner"]);
    assert_eq!(learner.close_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn cl_3_nobody_keeps_a_silent_node_alive() {
    let run = Run::new();
    let (learner, id) = run.joined("learner", &[Role::Learner]).await;
    let (tool, _) = run.joined("tool", &[Role::Tool]).await;
    let stranger = run
        .link(&identity("other", &[Role::Judge]), Lane::Control)
        .await;
    let body = codec::encode(&id).unwrap();
    let talking = async {
        loop {
            ask(&tool, method::HEARTBEAT, &body).await.unwrap();
            let _ = ask(&stranger, method::HEARTBEAT, &body).await;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    let lost = tokio::time::timeout(2 * LOST_AFTER, learner.closed());
    let reason = tokio::select! {
        () = talking => unreachable!("it goes on for ever"),
        reason = lost => reason.expect("a silent node is lost in time"),
    };
    assert!(reason.contains("not heard"), "{reason}");
    assert_eq!(run.names(), ["tool"]);
}

#[tokio::test(start_paused = true)]
async fn cl_3_a_certificate_joins_in_its_own_name_and_roles() {
    let run = Run::new();
    let tool = identity("tool", &[Role::Tool]);
    let cases = [
        (
            join("learner", &[Role::Learner]),
            "its certificate says tool",
        ),
        (
            join("tool", &[Role::Tool, Role::Learner]),
            "does not allow the role learner",
        ),
        (
            join("tool", &[Role::Controller]),
            "does not allow the role controller",
        ),
        (join("tool", &[]), "at least one role"),
    ];
    for (join, why) in cases {
        let link = run.link(&tool, Lane::Control).await;
        let Err(CallError::Refused(reason)) = ask(&link, method::JOIN, &request(&join)).await
        else {
            panic!("it was let in: {join:?}");
        };
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(run.names(), [""; 0]);
}

/// It may not have heard that it is to end.
#[tokio::test(start_paused = true)]
async fn cl_5_a_process_whose_learner_hung_again_is_not_let_in() {
    let run = Run::new();
    let (_first, id) = run.joined("learner", &[Role::Learner]).await;
    let hangs = || {
        let name = "learner".parse().unwrap();
        run.cluster.leave_out(NodeId(id), &name, &Cause::Hung);
    };
    hangs();
    assert_eq!(run.names(), ["learner"]);
    hangs();
    assert_eq!(run.names(), [""; 0]);
    let learner = identity("learner", &[Role::Learner]);
    let link = run.link(&learner, Lane::Control).await;
    let again = request(&join("learner", &[Role::Learner]));
    let Err(CallError::Refused(reason)) = ask(&link, method::JOIN, &again).await else {
        panic!("it was let in");
    };
    assert!(reason.contains("start the process again"), "{reason}");
    let link = run.link(&learner, Lane::Control).await;
    let other = Join {
        boot: 2,
        ..join("learner", &[Role::Learner])
    };
    ask(&link, method::JOIN, &request(&other)).await.unwrap();
    assert_eq!(run.names(), ["learner"]);
}

/// Hears what it is told, and when.
struct Told(tokio::sync::mpsc::UnboundedSender<u8>);

#[async_trait]
impl Handler for Told {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        let _ = self.0.send(request.method);
        Ok(Bytes::new())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

/// A process that loses its data lane takes the controller for lost, and joins again.
#[tokio::test(start_paused = true)]
async fn a_process_that_is_replaced_hears_so_before_its_lanes_end() {
    let run = Run::new();
    let node = identity("tool", &[Role::Tool]);
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let head = "head".parse().unwrap();
    let dialled = run.network.dial(node.clone(), &head, Lane::Control).await;
    let control = Link::open(dialled.unwrap(), Arc::new(Told(told)), Limits::default());
    let control = control.await.unwrap();
    let welcome = ask(
        &control,
        method::JOIN,
        &request(&join("tool", &[Role::Tool])),
    )
    .await;
    let welcome: Welcome = codec::decode(&welcome.unwrap()).unwrap();
    let data = run.link(&node, Lane::Data).await;
    let hello = codec::encode(&welcome.node).unwrap();
    ask(&data, method::HELLO, &hello).await.unwrap();

    let other = run.link(&node, Lane::Control).await;
    let newer = Join {
        boot: 2,
        ..join("tool", &[Role::Tool])
    };
    ask(&other, method::JOIN, &request(&newer)).await.unwrap();
    let first = tokio::select! {
        biased;
        _ = data.closed() => None,
        told = heard.recv() => told,
    };
    assert_eq!(first, Some(method::EXPEL));
    data.closed().await;
    assert_eq!(run.names(), ["tool"]);
}

/// Warnings that were logged.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Warnings {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_to_end_is_not_called_lost() {
    let warnings = Warnings::default();
    let _logged = tracing::subscriber::set_default(warnings.clone());
    let run = Run::new();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let head = "head".parse().unwrap();
    for name in ["drained", "lost"] {
        let node = identity(name, &[Role::Tool]);
        let dialled = run.network.dial(node, &head, Lane::Control).await;
        let handler = Arc::new(Told(told.clone()));
        let control = Link::open(dialled.unwrap(), handler, Limits::default());
        let control = control.await.unwrap();
        let joining = request(&join(name, &[Role::Tool]));
        ask(&control, method::JOIN, &joining).await.unwrap();
        match name {
            "drained" => run.cluster.drain(&name.parse().unwrap()).await.unwrap(),
            _ => control.close("it crashed"),
        }
        control.closed().await;
        tokio::time::sleep(PROMPT).await;
        assert_eq!(run.names(), [""; 0], "{name}");
    }
    assert_eq!(heard.recv().await, Some(method::END));
    let logged = warnings.0.lock().unwrap().clone();
    assert_eq!(logged, ["A node is lost."], "the one that was not drained");
}

#[tokio::test(start_paused = true)]
async fn another_build_is_refused_by_both_values_before_its_words_are_read() {
    let run = Run::new();
    let tool = identity("tool", &[Role::Tool]);
    let other = |version: &str, join: Vec<u8>| {
        let version = version.to_owned();
        codec::encode(&JoinRequest { version, join }).unwrap()
    };
    let fits = codec::encode(&join("tool", &[Role::Tool])).unwrap();
    // As `JoinRequest` came after it.
    let old = codec::encode(&("tool", 7u64, [Role::Tool], "0.1.0", None::<String>)).unwrap();
    let cases = [
        (other("1.0.0+def", vec![9; 3]), ["1.0.0+def", VERSION]),
        (other("1.0.0+def", fits), ["1.0.0+def", VERSION]),
        (old, ["install the same build", VERSION]),
        (
            other(VERSION, vec![9; 3]),
            ["install the same build", VERSION],
        ),
    ];
    for (body, words) in cases {
        let link = run.link(&tool, Lane::Control).await;
        let Err(CallError::Refused(reason)) = ask(&link, method::JOIN, &body).await else {
            panic!("it was let in");
        };
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        assert!(reason.contains("install the same build"), "{reason}");
    }
    assert_eq!(run.names(), [""; 0]);
}
