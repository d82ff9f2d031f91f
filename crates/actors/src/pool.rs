//! A group of interchangeable actors, reached by one handle that outlives each of them.

use ractor::{ActorId, ActorRef, Message, RpcReplyPort, rpc::CallResult};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Pause before a call is made again: long enough for a restart, short against any call.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Pause after the first loss of a node with a call; doubled after each. When this process is cut off,
/// all nodes are lost within seconds: the call must not be given to one after the other meanwhile.
const LOSS_PAUSE: Duration = Duration::from_millis(100);

/// How many nodes may be lost with a call before it is given up: a call that kills whoever takes it
/// must not take the cluster down.
const LOSSES: u32 = 8;

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
    /// The actor lives on a node that is no longer part of the run. What it was asked for may have
    /// been done.
    #[error("the {role} was lost with its node")]
    Gone {
        /// The role of the actor.
        role: &'static str,
    },
    /// There is no actor of this role, and none can come.
    #[error("this run has no {role}")]
    None {
        /// The role.
        role: &'static str,
    },
}

/// Names a member within its pool. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub u32);

/// Where an actor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// In this process: it is started again in its place when it dies.
    Here,
    /// On another node: when it is lost, its place is too.
    Elsewhere,
}

/// What the call of one member came to.
enum Attempt<R> {
    Answered(R),
    TimedOut,
    /// It died here, and is started again.
    Died,
    /// It is lost with its node.
    Gone,
}

struct Member<M> {
    actor: ActorRef<M>,
    home: Home,
    /// Calls under way.
    calls: Arc<AtomicUsize>,
}

impl<M> Clone for Member<M> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            home: self.home,
            calls: self.calls.clone(),
        }
    }
}

/// Counts a call for as long as it is under way.
struct Call<'a>(&'a AtomicUsize);

impl<'a> Call<'a> {
    fn of(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Members<M> {
    by_id: BTreeMap<MemberId, Member<M>>,
    next: u32,
}

/// The actors of one role. Clones share the members, so a change is seen by all of them.
pub(crate) struct Pool<M> {
    role: &'static str,
    /// How many actors of this process a call may be given to, one after the other as they die.
    tries: u32,
    /// Whether members may come later: then a call waits for one.
    is_open: bool,
    members: Arc<RwLock<Members<M>>>,
    next: Arc<AtomicUsize>,
    /// Told of each new member.
    arrived: Arc<Notify>,
}

impl<M> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self {
            role: self.role,
            tries: self.tries,
            is_open: self.is_open,
            members: self.members.clone(),
            next: self.next.clone(),
            arrived: self.arrived.clone(),
        }
    }
}

impl<M: Message> Pool<M> {
    pub(crate) fn new(role: &'static str, tries: u32, is_open: bool) -> Self {
        Self {
            role,
            tries,
            is_open,
            members: Arc::new(RwLock::new(Members {
                by_id: BTreeMap::new(),
                next: 0,
            })),
            next: Arc::default(),
            arrived: Arc::default(),
        }
    }

    /// The members, in the order in which they came.
    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.read(|members| members.by_id.keys().copied().collect())
    }

    /// The member that an actor is.
    pub(crate) fn id_of(&self, actor: ActorId) -> Option<MemberId> {
        self.read(|members| {
            let mut found = members.by_id.iter();
            let is_it = |member: &Member<M>| member.actor.get_id() == actor;
            found.find(|(_, member)| is_it(member)).map(|(id, _)| *id)
        })
    }

    pub(crate) fn insert(&self, actor: ActorRef<M>, home: Home) -> MemberId {
        let id = self.write(|members| {
            let id = MemberId(members.next);
            members.next += 1;
            let calls = Arc::default();
            members.by_id.insert(id, Member { actor, home, calls });
            id
        });
        self.arrived.notify_waiters();
        id
    }

    pub(crate) fn replace(&self, id: MemberId, actor: ActorRef<M>) {
        self.write(|members| {
            if let Some(member) = members.by_id.get_mut(&id) {
                member.actor = actor;
            }
        });
    }

    pub(crate) fn remove(&self, id: MemberId) {
        self.write(|members| members.by_id.remove(&id));
    }

    /// Removes a member that lives on, to be inserted again.
    pub(crate) fn take(&self, id: MemberId) -> Option<ActorRef<M>> {
        self.write(|members| members.by_id.remove(&id).map(|member| member.actor))
    }

    /// How many members have come so far, those that are gone included.
    pub(crate) fn arrivals(&self) -> u32 {
        self.read(|members| members.next)
    }

    pub(crate) fn home(&self, id: MemberId) -> Option<Home> {
        self.read(|members| members.by_id.get(&id).map(|member| member.home))
    }

    /// Waits until there is a member.
    ///
    /// # Errors
    /// When none can come.
    pub(crate) async fn wait(&self) -> Result<(), CallError> {
        loop {
            let arrived = self.arrived.notified();
            if self.read(|members| !members.by_id.is_empty()) {
                return Ok(());
            }
            if !self.is_open {
                return Err(CallError::None { role: self.role });
            }
            arrived.await;
        }
    }

    fn read<R>(&self, f: impl FnOnce(&Members<M>) -> R) -> R {
        f(&self.members.read().expect("no holder of the lock panics"))
    }

    fn write<R>(&self, f: impl FnOnce(&mut Members<M>) -> R) -> R {
        f(&mut self.members.write().expect("no holder of the lock panics"))
    }

    /// Asks the actor with the fewest calls under way, of several the next in turn, so that nothing
    /// waits behind a slow call while others are idle; asks another one when it dies of it (AC-1) or
    /// is lost.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<R, CallError> {
        let end = Instant::now() + limit;
        let (mut deaths, mut losses) = (0, 0);
        while deaths < self.tries && losses < LOSSES {
            let late = || CallError::TimedOut {
                role: self.role,
                limit,
            };
            let waited = tokio::time::timeout_at(end, self.wait()).await;
            waited.map_err(|_| late())??;
            // Each attempt takes its turn anew: calls that lost an actor together part ways, so
            // that one that kills every actor does not take the same others down with it each time.
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let member = self.read(|members| {
                let first = turn.checked_rem(members.by_id.len())?;
                let all = members.by_id.iter();
                let in_turn = all.clone().skip(first).chain(all.take(first));
                in_turn
                    .min_by_key(|(_, member)| member.calls.load(Ordering::Relaxed))
                    .map(|(id, member)| (*id, member.clone()))
            });
            let Some((id, member)) = member else { continue };
            let left = end.saturating_duration_since(Instant::now());
            match self.attempt(id, member, &message, left).await {
                Attempt::Answered(reply) => return Ok(reply),
                Attempt::TimedOut => return Err(late()),
                Attempt::Died => deaths += 1,
                Attempt::Gone => {
                    tokio::time::sleep(LOSS_PAUSE * (1 << losses)).await;
                    losses += 1;
                }
            }
        }
        Err(CallError::Lost {
            role: self.role,
            tries: deaths + losses,
        })
    }

    /// Asks one member, again when it dies of it and is started again.
    pub(crate) async fn call_on<R: Send + 'static>(
        &self,
        id: MemberId,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Result<R, CallError> {
        for _ in 0..self.tries {
            let member = self.read(|members| members.by_id.get(&id).cloned());
            let Some(member) = member else {
                return Err(CallError::Gone { role: self.role });
            };
            match self.attempt(id, member, &message, limit).await {
                Attempt::Answered(reply) => return Ok(reply),
                Attempt::TimedOut => {
                    return Err(CallError::TimedOut {
                        role: self.role,
                        limit,
                    });
                }
                Attempt::Died => {}
                Attempt::Gone => return Err(CallError::Gone { role: self.role }),
            }
        }
        Err(CallError::Lost {
            role: self.role,
            tries: self.tries,
        })
    }

    async fn attempt<R: Send + 'static>(
        &self,
        id: MemberId,
        member: Member<M>,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
    ) -> Attempt<R> {
        let _call = Call::of(&member.calls);
        match member.actor.call(message, Some(limit)).await {
            Ok(CallResult::Success(reply)) => return Attempt::Answered(reply),
            Ok(CallResult::Timeout) => return Attempt::TimedOut,
            Ok(CallResult::SenderError) | Err(_) => {}
        }
        match member.home {
            Home::Here => {
                tokio::time::sleep(RETRY_PAUSE).await;
                Attempt::Died
            }
            Home::Elsewhere => {
                self.remove(id);
                Attempt::Gone
            }
        }
    }
}
