//! A group of interchangeable actors, reached by one handle that outlives each of them.

use ractor::{ActorRef, Message, RpcReplyPort, rpc::CallResult};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Pause before a call is made again: long enough for a restart, short against any call.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A call to another actor had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Every actor that was given the call died of it. Its panic is in the log.
    #[error("the {role} died {tries} times while it worked on this")]
    Lost {
        /// The role of the actors.
        role: &'static str,
        /// How many of them.
        tries: u32,
    },
    /// No answer within the time limit.
    #[error("no answer from the {role} within {} s", .limit.as_secs_f64())]
    TimedOut {
        /// The role of the actor.
        role: &'static str,
        /// The limit.
        limit: Duration,
    },
}

/// The actors of one role. Clones share the members, so a restart is seen by all of them.
#[derive(Debug)]
pub(crate) struct Pool<M> {
    role: &'static str,
    /// How many actors a call may be given to, one after the other as they die of it.
    tries: u32,
    members: Arc<RwLock<Vec<ActorRef<M>>>>,
    next: Arc<AtomicUsize>,
}

impl<M> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self {
            role: self.role,
            tries: self.tries,
            members: self.members.clone(),
            next: self.next.clone(),
        }
    }
}

impl<M: Message> Pool<M> {
    pub(crate) fn new(role: &'static str, tries: u32, members: Vec<ActorRef<M>>) -> Self {
        Self {
            role,
            tries,
            members: Arc::new(RwLock::new(members)),
            next: Arc::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.read(|members| members.len())
    }

    /// The slot of an actor, by its id.
    pub(crate) fn slot_of(&self, id: ractor::ActorId) -> Option<usize> {
        self.read(|members| members.iter().position(|m| m.get_id() == id))
    }

    pub(crate) fn replace(&self, slot: usize, member: ActorRef<M>) {
        self.members.write().expect("no holder of the lock panics")[slot] = member;
    }

    fn read<R>(&self, f: impl FnOnce(&Vec<ActorRef<M>>) -> R) -> R {
        f(&self.members.read().expect("no holder of the lock panics"))
    }

    fn member(&self, slot: usize) -> ActorRef<M> {
        self.read(|members| members[slot % members.len()].clone())
    }

    /// Asks the next actor in turn; asks another one when it dies of it (AC-1).
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<R, CallError> {
        // Each attempt takes its turn anew: calls that lost an actor together part ways, so that
        // one that kills every actor does not take the same others down with it each time.
        let turn = |_| self.next.fetch_add(1, Ordering::Relaxed);
        self.call_by(turn, message, limit).await
    }

    /// The same, beginning with the actor in `slot`.
    pub(crate) async fn call_from<R: Send + 'static>(
        &self,
        slot: usize,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<R, CallError> {
        self.call_by(|attempt| slot + attempt, message, limit).await
    }

    async fn call_by<R: Send + 'static>(
        &self,
        slot: impl Fn(usize) -> usize,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<R, CallError> {
        for attempt in 0..self.tries as usize {
            let member = self.member(slot(attempt));
            match member.call(&message, Some(limit)).await {
                Ok(CallResult::Success(reply)) => return Ok(reply),
                Ok(CallResult::Timeout) => {
                    return Err(CallError::TimedOut {
                        role: self.role,
                        limit,
                    });
                }
                Ok(CallResult::SenderError) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
        Err(CallError::Lost {
            role: self.role,
            tries: self.tries,
        })
    }

    /// Asks each actor once and waits for all.
    pub(crate) async fn call_each<R: Send + 'static>(
        &self,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<Vec<R>, CallError> {
        let calls = (0..self.len()).map(|slot| self.call_from(slot, &message, limit));
        futures::future::try_join_all(calls).await
    }
}
