//! Actors that live on another node.
//!
//! For each there is an actor of the same message type here, which stands for it: callers hold a
//! handle that they cannot tell from that of a local actor. It ends when the node is lost, as a local
//! one ends with a panic, and its supervisor learns of it the same way.
//!
//! On the other side a [`Host`] holds the engines, each under a fleet of its own, and answers.

mod assembly;
mod blobs;
mod files;
mod folders;
mod gather;
mod host;
#[cfg(test)]
mod in_memory;
mod joined;
mod on_threads;
mod pulling;
mod spreading;
mod stand_in;

pub use blobs::{Blobs, Loan};
pub use files::Files;
pub use folders::clear_leftovers;
pub use host::{EXPORTS, Engine, Host, HostError, Outfitter};
pub use spreading::SpreadPlan;
pub(crate) use spreading::Spreading;
pub(crate) use stand_in::{PassOn, StandIn, abandon};

use crate::ports::EngineError;
use crate::told::Told;
use control::membership::NodeId;
use proto::cluster::EngineRequest;
use proto::{NodeName, Role, codec};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use transport::{CallError, Connection, Link};

/// What is asked of the peer on its links.
pub(crate) mod method {
    /// Node to controller, control lane: [`proto::cluster::JoinRequest`].
    pub const JOIN: u8 = 1;
    /// Node to controller, control lane: the session of this link lives. Nothing is in it.
    pub const HEARTBEAT: u8 = 2;
    /// Node to controller, control lane: the session of this link ends. Nothing is in it.
    pub const LEAVE: u8 = 3;
    /// Node to controller, data lane: the number of its stay.
    pub const HELLO: u8 = 4;
    /// Controller to node, control lane: [`proto::cluster::Assignment`].
    pub const ASSIGN: u8 = 5;
    /// Controller to node, control lane: why the run is over.
    pub const END: u8 = 6;
    /// Controller to node, control lane: why the run does not want this process any more.
    pub const EXPEL: u8 = 7;
    /// Controller to node, data lane: [`proto::cluster::EngineRequest`].
    pub const ENGINE: u8 = 8;
    /// Controller to node, control lane: why its process is to end, and to be started again.
    pub const RESTART: u8 = 9;
    /// Node to controller, control lane: it is about to leave. Answered once nothing is under way at it
    /// any more, and what it trains is saved.
    pub const DRAIN: u8 = 10;
    /// Node to controller, control lane: [`proto::files::SourceRequest`]. Answered with a
    /// [`proto::chunks::ChunkSource`].
    pub const SOURCE: u8 = 11;
}

/// How much sooner a call of another node is given up than its caller gives up: that is the loss of a
/// node, with which the run goes on, and not a failure of the run.
const SOONER: Duration = Duration::from_secs(10);

/// An engine on another node.
pub struct RemoteEngine {
    pub(crate) node: NodeName,
    /// The number of its node's stay.
    pub(crate) id: NodeId,
    pub(crate) role: Role,
    pub(crate) link: Link,
    pub(crate) bulk: Arc<dyn Connection>,
    /// The way of weights and files to nodes.
    pub(crate) spreading: Spreading,
    /// Calls that it takes at once; others wait here.
    pub(crate) credits: Semaphore,
    /// The number of these credits.
    pub(crate) all_credits: u32,
    /// Its node is about to leave: it takes nothing new.
    pub(crate) is_draining: AtomicBool,
    /// Where checkpoints of a learner are kept on this node.
    pub(crate) checkpoints: Option<PathBuf>,
    /// Called with each checkpoint once it is whole.
    pub(crate) on_checkpoint: Option<CheckpointHook>,
    /// Set when its actor here has ended: nobody waits for answers any more.
    pub(crate) over: Told<bool>,
}

/// What is done with a checkpoint that has come from a learner on another node.
pub type CheckpointHook = Arc<dyn Fn(&std::path::Path) + Send + Sync>;

/// Why an engine on another node gave no answer.
pub(crate) enum RemoteFault {
    /// It said so.
    Refused(String),
    /// A sampler gave no answer in time. It stays: whoever asked has it opened again.
    Late(String),
    /// It is gone, or silent: the caller is told that the actor is lost.
    Lost,
}

impl RemoteEngine {
    /// The node it lives on.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Ends the node's stay: what it is good for does not work any more. It joins anew, with what it
    /// holds, and is tried again.
    pub(crate) fn give_up(&self, reason: &str) {
        let (role, node) = (self.role, &self.node);
        tracing::warn!(%role, %node, reason, "A node is to join again.");
        self.link.close(reason);
    }

    /// Gives it nothing new, and waits until it has answered what it was given, or is gone. Callers are
    /// told that it is lost.
    pub(crate) async fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        // Whoever waits for a credit by now is before this in the queue, and goes away.
        let _ = self.credits.acquire_many(self.all_credits).await;
    }

    /// Ends what it is asked, here and, with the callers gone, on its node. Nothing is asked of it later.
    pub(crate) fn retire(&self) {
        self.credits.close();
        self.over.change(|over| *over = true);
    }

    /// Asks the engine, somewhat shorter than `limit`. The answer's type follows from the request, as
    /// [`Host`] answers it.
    pub(crate) async fn ask<R: DeserializeOwned>(
        &self,
        request: &EngineRequest,
        limit: Duration,
    ) -> Result<R, RemoteFault> {
        let refused = |error: codec::CodecError| RemoteFault::Refused(error.to_string());
        let body = codec::encode(request).map_err(refused)?;
        let end = Instant::now() + limit.saturating_sub(SOONER);
        let (role, node) = (self.role, &self.node);
        let backlog = || {
            let seconds = limit.as_secs();
            RemoteFault::Refused(format!(
                "no answer from the {role} on {node} within {seconds} s, most of which this waited \
                 for its turn: more of this role are needed"
            ))
        };
        let Ok(credit) = tokio::time::timeout_at(end, self.credits.acquire()).await else {
            return Err(backlog());
        };
        let _credit = credit.map_err(|_| RemoteFault::Lost)?;
        if self.is_draining.load(Ordering::SeqCst) {
            return Err(RemoteFault::Lost);
        }
        let left = end.saturating_duration_since(Instant::now());
        let called = tokio::select! {
            biased;
            called = self.link.call(method::ENGINE, &body, left) => called,
            () = self.over.is(|over| *over) => return Err(RemoteFault::Lost),
        };
        match called {
            Ok(answer) => codec::decode(&answer).map_err(refused),
            Err(CallError::Refused(reason)) => Err(RemoteFault::Refused(reason)),
            Err(error @ CallError::TooLarge { .. }) => Err(RemoteFault::Refused(error.to_string())),
            // Its turn came late, which is no fault of the node. One that hangs is given up by the
            // calls whose turn it was in time.
            Err(CallError::TimedOut(_)) if left < limit / 2 => Err(backlog()),
            Err(error @ CallError::TimedOut(_)) if role == Role::Sampler => {
                Err(RemoteFault::Late(format!("{role} on {node}: {error}")))
            }
            Err(error @ CallError::TimedOut(_)) => {
                tracing::warn!(%role, %node, %error, "An engine of another node gave no answer.");
                // Its actor here is given up, and comes back only with a new stay.
                self.give_up("an engine gave no answer in time");
                Err(RemoteFault::Lost)
            }
            // That the node is lost, or leaves, is said once, and not for each call.
            Err(error) => {
                tracing::debug!(%role, %node, %error, "An engine of another node is gone.");
                Err(RemoteFault::Lost)
            }
        }
    }
}

fn engine_fault(role: Role, node: &NodeName, error: impl std::fmt::Display) -> EngineError {
    EngineError(format!("{role} on {node}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use proto::Identity;
    use transport::memory::{Network, Rules};
    use transport::{Handler, Lane, Limits, Request};

    const LIMIT: Duration = Duration::from_secs(100);

    /// Takes so long for everything.
    struct Slow(Duration);

    #[async_trait]
    impl Handler for Slow {
        async fn request(&self, _: Request) -> Result<Bytes, String> {
            tokio::time::sleep(self.0).await;
            Ok(codec::encode(&7u64).unwrap().into())
        }

        async fn cast(&self, _: u8, _: Bytes) {}
    }

    /// An engine that takes one call at a time, and what keeps it there.
    async fn engine(takes: Duration) -> (RemoteEngine, (Network, Link)) {
        let network = Network::new(1, Rules::default(), Duration::from_secs(1000));
        let identity = |name: &str| Identity {
            name: name.parse().unwrap(),
            roles: [Role::Learner].into(),
        };
        let mut listener = network.listen(identity("node"));
        let to = "node".parse().unwrap();
        let bulk = network.dial(identity("head"), &to, Lane::Bulk);
        let bulk = bulk.await.unwrap();
        listener.accept().await.unwrap();
        let data = network.dial(identity("head"), &to, Lane::Data);
        let (data, there) = (data.await.unwrap(), listener.accept().await.unwrap());
        let open = |connection| Link::open(connection, Arc::new(Slow(takes)), Limits::default());
        let (link, there) = tokio::join!(open(data), open(there));
        let engine = RemoteEngine {
            node: to,
            id: NodeId(1),
            role: Role::Learner,
            link: link.unwrap(),
            bulk,
            spreading: Spreading::new(SpreadPlan::default(), Blobs::default()),
            credits: Semaphore::new(1),
            all_credits: 1,
            is_draining: AtomicBool::new(false),
            checkpoints: None,
            on_checkpoint: None,
            over: Told::default(),
        };
        (engine, (network, there.unwrap()))
    }

    async fn ask(engine: &RemoteEngine) -> Result<u64, RemoteFault> {
        engine.ask(&EngineRequest::Standing, LIMIT).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_gives_no_answer_is_given_up_before_its_caller_gives_up() {
        let (engine, _peer) = engine(10 * LIMIT).await;
        let asked = tokio::time::timeout(LIMIT, ask(&engine)).await;
        assert!(matches!(asked, Ok(Err(RemoteFault::Lost))));
        assert!(
            engine.link.close_reason().is_some(),
            "its node is to join again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_whose_node_leaves_ends_what_it_has_and_takes_nothing_new() {
        let (engine, _peer) = engine(LIMIT / 2).await;
        let began = Instant::now();
        let draining = async {
            tokio::time::sleep(LIMIT / 10).await;
            engine.drain().await;
            (began.elapsed(), ask(&engine).await)
        };
        // The second waits for its turn when the node leaves.
        let (first, second, (drained, third)) = tokio::join!(ask(&engine), ask(&engine), draining);
        assert!(matches!(first, Ok(7)));
        assert!(matches!(second, Err(RemoteFault::Lost)));
        assert!(matches!(third, Err(RemoteFault::Lost)));
        assert!(drained >= LIMIT / 2 && drained < LIMIT, "{drained:?}");
        assert_eq!(
            engine.link.close_reason(),
            None,
            "it is no fault of the node"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_is_no_fault_of_the_node() {
        // Two of three have their turn in time.
        let (engine, _peer) = engine(LIMIT * 2 / 5).await;
        let all = tokio::join!(ask(&engine), ask(&engine), ask(&engine));
        assert!(matches!(all.0, Ok(7)) && matches!(all.1, Ok(7)));
        let Err(RemoteFault::Refused(reason)) = all.2 else {
            panic!("the third had its turn too late to be answered");
        };
        assert!(reason.contains("more of this role"), "{reason}");
        assert_eq!(engine.link.close_reason(), None);
        assert!(matches!(ask(&engine).await, Ok(7)));
    }

    /// A learner that hangs is closed, and its node stays.
    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_its_actor_and_the_node_stays() {
        let (engine, _peer) = engine(10 * LIMIT).await;
        let (asked, ()) = tokio::join!(ask(&engine), async {
            tokio::time::sleep(LIMIT / 10).await;
            engine.retire();
        });
        assert!(matches!(asked, Err(RemoteFault::Lost)));
        assert_eq!(engine.link.close_reason(), None);
        assert!(matches!(ask(&engine).await, Err(RemoteFault::Lost)));
    }
}
