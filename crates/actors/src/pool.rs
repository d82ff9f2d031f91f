//! A group of interchangeable actors, reached by one handle that outlives each of them.

use crate::vitals::{Look, Vitals};
use control::quarantine::{Remedy, Sentence, Turn};
use proto::NodeName;
use ractor::{ActorId, ActorRef, Message, RpcReplyPort, rpc::CallResult};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// Pause before a call is made again: long enough for a restart, short against any call.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Pause after the first loss of a node with a call; doubled after each. When this process is cut off,
/// all nodes are lost within seconds: the call must not be given to one after the other meanwhile.
const LOSS_PAUSE: Duration = Duration::from_millis(100);

/// How many nodes may be lost with a call before it is given up: a call that kills whoever takes it
/// must not take the cluster down.
pub(crate) const LOSSES: u32 = 8;

/// Pause between looks whether a call has taken too long, at first; more rarely when it has lasted.
const FIRST_LOOK: Duration = Duration::from_secs(5);

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
    /// No actor of this role has worked for too long. Nothing is lost: mend the cause, or raise
    /// `actors.patience`, and resume.
    #[error(
        "no {role} has worked for {}, and actors.patience is used up ({reason}): mend the cause, or \
         raise it, and resume",
        humantime::format_duration(*.waited)
    )]
    Away {
        /// The role.
        role: &'static str,
        /// For how long.
        waited: Duration,
        /// The last error.
        reason: String,
    },
}

/// Names a member within its pool. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub u32);

/// Names whoever a member is, also when it comes back as another member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The actor of this number in this process.
    Here(u32),
    /// The engine of a node.
    Node(NodeName),
}

impl Who {
    /// Where it lives.
    pub(crate) fn home(&self) -> Home {
        match self {
            Self::Here(_) => Home::Here,
            Self::Node(_) => Home::Elsewhere,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(number) => write!(f, "number {number} of this process"),
            Self::Node(name) => write!(f, "{name}"),
        }
    }
}

/// Verdict of an answer on the worker that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// It works.
    Well,
    /// It does not; the reason.
    Sick(String),
    /// Nothing.
    Nothing,
}

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
    /// Within this limit.
    TimedOut(Duration),
    /// It died here, and is started again.
    Died,
    /// It is lost with its node.
    Gone,
}

struct Member<M> {
    actor: ActorRef<M>,
    who: Who,
    /// It has been quarantined, and has not worked since.
    is_on_trial: bool,
    /// Calls under way.
    calls: Arc<AtomicUsize>,
}

impl<M> Clone for Member<M> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            who: self.who.clone(),
            is_on_trial: self.is_on_trial,
            calls: self.calls.clone(),
        }
    }
}

struct Members<M> {
    by_id: BTreeMap<MemberId, Member<M>>,
    next: u32,
    /// Those that were quarantined, and did not just leave.
    put_out: BTreeSet<MemberId>,
    /// Members that have left so far, whatever for.
    departures: u64,
}

impl<M> Members<M> {
    fn remove(&mut self, id: MemberId) -> Option<Member<M>> {
        let removed = self.by_id.remove(&id)?;
        self.departures += 1;
        Some(removed)
    }

    fn has_working(&self) -> bool {
        self.by_id.values().any(|member| !member.is_on_trial)
    }
}

/// A call, for as long as it is under way, and until what it says of the member was heard.
struct Call<M> {
    member: Member<M>,
    vitals: Arc<Vitals>,
    turn: Turn,
}

impl<M> Call<M> {
    fn of(member: Member<M>, vitals: &Arc<Vitals>) -> Self {
        member.calls.fetch_add(1, Ordering::Relaxed);
        Self {
            turn: vitals.began(&member.who),
            vitals: vitals.clone(),
            member,
        }
    }
}

impl<M> Drop for Call<M> {
    fn drop(&mut self) {
        self.member.calls.fetch_sub(1, Ordering::Relaxed);
        self.vitals.ended(&self.member.who, self.turn);
    }
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
    /// The workers that are left out, and time limits.
    pub(crate) vitals: Arc<Vitals>,
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
            vitals: self.vitals.clone(),
        }
    }
}

impl<M: Message> Pool<M> {
    pub(crate) fn new(role: &'static str, tries: u32, is_open: bool, vitals: Vitals) -> Self {
        Self {
            role,
            tries,
            is_open,
            members: Arc::new(RwLock::new(Members {
                by_id: BTreeMap::new(),
                next: 0,
                put_out: BTreeSet::new(),
                departures: 0,
            })),
            next: Arc::default(),
            arrived: Arc::default(),
            vitals: Arc::new(vitals),
        }
    }

    /// The members, in the order in which they came.
    pub(crate) fn ids(&self) -> Vec<MemberId> {
        self.read(|members| members.by_id.keys().copied().collect())
    }

    /// The members that nothing is asked of at the moment, and whether they are on trial.
    pub(crate) fn idle(&self) -> Vec<(MemberId, Who, bool)> {
        let is_idle = |member: &Member<M>| member.calls.load(Ordering::Relaxed) == 0;
        self.read(|members| {
            let idle = members.by_id.iter().filter(|(_, member)| is_idle(member));
            idle.map(|(id, member)| (*id, member.who.clone(), member.is_on_trial))
                .collect()
        })
    }

    /// Everybody who is a member.
    pub(crate) fn everybody(&self) -> BTreeSet<Who> {
        self.read(|members| members.by_id.values().map(|m| m.who.clone()).collect())
    }

    /// The member that an actor is.
    pub(crate) fn id_of(&self, actor: ActorId) -> Option<MemberId> {
        self.read(|members| {
            let mut found = members.by_id.iter();
            let is_it = |member: &Member<M>| member.actor.get_id() == actor;
            found.find(|(_, member)| is_it(member)).map(|(id, _)| *id)
        })
    }

    /// Takes a member in; it stays on trial until it has done something. Of two actors that stand for the
    /// same one the newer stays.
    pub(crate) fn insert(&self, actor: ActorRef<M>, who: Who, is_on_trial: bool) {
        self.vitals.keep_patient(&who, false);
        let older = self.write(|members| {
            let mut same = members.by_id.iter().filter(|(_, m)| m.who == who);
            let same = same.next().map(|(id, m)| (*id, m.actor.get_id().pid()));
            if same.is_some_and(|(_, pid)| pid > actor.get_id().pid()) {
                return Some(actor);
            }
            let older = same.and_then(|(same, _)| members.remove(same));
            let id = MemberId(members.next);
            members.next += 1;
            let member = Member {
                actor,
                who,
                is_on_trial,
                calls: Arc::default(),
            };
            members.by_id.insert(id, member);
            older.map(|older| older.actor)
        });
        if let Some(older) = older {
            older.stop(None);
        }
        self.count();
        self.arrived.notify_waiters();
    }

    pub(crate) fn replace(&self, id: MemberId, actor: ActorRef<M>) {
        self.write(|members| {
            if let Some(member) = members.by_id.get_mut(&id) {
                member.actor = actor;
            }
        });
    }

    pub(crate) fn remove(&self, id: MemberId) {
        if let Some((_, who)) = self.take(id) {
            self.vitals.forget_pace(&who);
        }
    }

    /// Removes a member that lives on, to be inserted again.
    pub(crate) fn take(&self, id: MemberId) -> Option<(ActorRef<M>, Who)> {
        let removed = self.write(|members| members.remove(id))?;
        self.count();
        Some((removed.actor, removed.who))
    }

    /// Notes whether anybody works.
    fn count(&self) {
        let works = self.read(Members::has_working);
        self.vitals.set_works(works);
    }

    /// How many members have come so far, those that are gone included.
    pub(crate) fn arrivals(&self) -> u32 {
        self.read(|members| members.next)
    }

    /// Number of members that have left so far.
    pub(crate) fn departures(&self) -> u64 {
        self.read(|members| members.departures)
    }

    pub(crate) fn home(&self, id: MemberId) -> Option<Home> {
        self.who(id).map(|who| who.home())
    }

    pub(crate) fn who(&self, id: MemberId) -> Option<Who> {
        self.read(|members| members.by_id.get(&id).map(|member| member.who.clone()))
    }

    /// Whether a member has been quarantined, and has not worked since.
    pub(crate) fn is_on_trial(&self, id: MemberId) -> bool {
        self.read(|members| members.by_id.get(&id).is_some_and(|m| m.is_on_trial))
    }

    /// Whether a member was quarantined: what it failed at is its own fault.
    pub(crate) fn was_put_out(&self, id: MemberId) -> bool {
        self.read(|members| members.put_out.contains(&id))
    }

    /// A member of this process does not come back.
    pub(crate) fn given_up(&self, who: &Who) {
        self.vitals.keep_patient(who, false);
        self.arrived.notify_waiters();
    }

    /// Waits until there is a member.
    ///
    /// # Errors
    /// When none can come, or none has worked for longer than the run has patience.
    pub(crate) async fn wait(&self) -> Result<(), CallError> {
        loop {
            let arrived = self.arrived.notified();
            if self.read(|members| !members.by_id.is_empty()) {
                return Ok(());
            }
            let until = self.look()?;
            let _ = tokio::time::timeout_at(until, arrived).await;
        }
    }

    /// Waits for the next member to come, but no longer than that.
    pub(crate) async fn arrival(&self, until: Instant) {
        let _ = tokio::time::timeout_at(until, self.arrived.notified()).await;
    }

    /// Looks after a wait for a member that works: says that it lasts; when to look again.
    ///
    /// # Errors
    /// As [`Pool::wait`].
    pub(crate) fn look(&self) -> Result<Instant, CallError> {
        let role = self.role;
        let has_members = self.read(|members| !members.by_id.is_empty());
        if !self.is_open && !has_members && !self.vitals.has_patients() {
            let reason = self.vitals.last_reason();
            let waited = Duration::ZERO;
            return Err(match reason.is_empty() {
                true => CallError::None { role },
                false => CallError::Away {
                    role,
                    waited,
                    reason,
                },
            });
        }
        match self.vitals.look() {
            Look::Again(at) => Ok(at),
            Look::GiveUp(waited, reason) => Err(CallError::Away {
                role,
                waited,
                reason,
            }),
        }
    }

    fn read<R>(&self, f: impl FnOnce(&Members<M>) -> R) -> R {
        f(&self.members.read().expect("no holder of the lock panics"))
    }

    fn write<R>(&self, f: impl FnOnce(&mut Members<M>) -> R) -> R {
        f(&mut self.members.write().expect("no holder of the lock panics"))
    }

    /// Takes in what an answer of a member says of it.
    fn hear(&self, id: MemberId, turn: Turn, word: Word) {
        let Some(who) = self.who(id) else {
            return;
        };
        match word {
            Word::Well => {
                if self.vitals.succeeded(&who, turn) {
                    self.write(|members| {
                        if let Some(member) = members.by_id.get_mut(&id) {
                            member.is_on_trial = false;
                        }
                    });
                    tracing::info!(role = self.role, worker = %who, "A worker works again.");
                    self.count();
                    self.arrived.notify_waiters();
                }
            }
            Word::Sick(reason) => {
                if let Some(sentence) = self.vitals.failed(&who, turn) {
                    self.put_out(id, sentence, reason);
                }
            }
            Word::Nothing => {}
        }
    }

    /// A member cannot be asked again as it is.
    pub(crate) fn broke(&self, id: MemberId, reason: String) {
        if let Some(sentence) = self.who(id).and_then(|who| self.vitals.broke(&who)) {
            self.put_out(id, sentence, reason);
        }
    }

    /// A member gave no answer in time, also if it is none any more, for it fell behind.
    fn hung(&self, id: MemberId, who: Who, reason: String) {
        let is_another = self.everybody().contains(&who) || self.was_put_out(id);
        if self.who(id).is_some() {
            self.broke(id, reason);
        } else if !is_another && let Some(sentence) = self.vitals.broke(&who) {
            self.vitals.commit(who, sentence, reason);
        }
    }

    /// Leaves a member out until it is well.
    fn put_out(&self, id: MemberId, sentence: Sentence, reason: String) {
        // Who looks in between must not find that nobody comes back.
        if let Some(who) = self.who(id).filter(|_| sentence.remedy == Remedy::Reopen) {
            self.vitals.keep_patient(&who, true);
        }
        self.write(|members| members.put_out.insert(id));
        if let Some((actor, who)) = self.take(id) {
            self.vitals.commit(who, sentence, reason);
            actor.stop(Some("it is quarantined".to_owned()));
        }
    }

    /// Asks the actor with the fewest calls under way, of several the next in turn, so that nothing
    /// waits behind a slow call while others are idle; asks another one when it dies of it (AC-1) or
    /// is lost. `word` reads from an answer whether whoever gave it works; where it does not, another one
    /// is asked if that is wanted and there is one.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: Duration,
        word: impl Fn(&R) -> Word,
        asks_others: bool,
    ) -> Result<R, CallError> {
        let end = Instant::now() + limit;
        let (mut deaths, mut losses) = (0, 0);
        let mut failed = Vec::new();
        while deaths < self.tries && losses < LOSSES {
            let late = || CallError::TimedOut {
                role: self.role,
                limit,
            };
            let waited = tokio::time::timeout_at(end, self.wait()).await;
            waited.map_err(|_| late())??;
            let Some((id, member)) = self.next_of(&failed) else {
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            // Those of this process all have the same engine.
            let who = member.who.clone();
            let asks_others = asks_others && who.home() == Home::Elsewhere;
            let call = Call::of(member, &self.vitals);
            match self.attempt(id, &call.member, &message, || left).await {
                Attempt::Answered(reply) => {
                    let word = word(&reply);
                    let is_sick = matches!(word, Word::Sick(_));
                    self.hear(id, call.turn, word);
                    failed.push(id);
                    let is_last = failed.len() >= self.tries as usize || !self.has_other(&failed);
                    if !is_sick || !asks_others || is_last {
                        return Ok(reply);
                    }
                }
                Attempt::TimedOut(_) => {
                    self.hung(id, who, late().to_string());
                    return Err(late());
                }
                Attempt::Died => deaths += 1,
                Attempt::Gone => {
                    drop(call);
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

    fn has_other(&self, than: &[MemberId]) -> bool {
        self.read(|members| members.by_id.keys().any(|id| !than.contains(id)))
    }

    /// The member that is to be asked next, and none of those that failed, if there is another one.
    ///
    /// Each attempt takes its turn anew: calls that lost an actor together part ways, so that one that
    /// kills every actor does not take the same others down with it each time.
    fn next_of(&self, failed: &[MemberId]) -> Option<(MemberId, Member<M>)> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.read(|members| {
            let first = turn.checked_rem(members.by_id.len())?;
            let all = members.by_id.iter();
            let in_turn = all.clone().skip(first).chain(all.take(first));
            in_turn
                .min_by_key(|(id, member)| {
                    let calls = member.calls.load(Ordering::Relaxed);
                    // One call decides a trial.
                    let is_tried = member.is_on_trial && calls > 0;
                    (failed.contains(id), is_tried, calls)
                })
                .map(|(id, member)| (*id, member.clone()))
        })
    }

    /// Asks one member, again when it dies of it and is started again. `limit` is asked for now and then:
    /// it may change while the call is under way. A member that gives no answer in time is left out.
    pub(crate) async fn call_on<R: Send + 'static>(
        &self,
        id: MemberId,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: impl Fn() -> Duration,
        word: impl Fn(&R) -> Word,
    ) -> Result<R, CallError> {
        for _ in 0..self.tries {
            let member = self.read(|members| members.by_id.get(&id).cloned());
            let Some(member) = member else {
                return Err(CallError::Gone { role: self.role });
            };
            let who = member.who.clone();
            let call = Call::of(member, &self.vitals);
            match self.attempt(id, &call.member, &message, &limit).await {
                Attempt::Answered(reply) => {
                    self.hear(id, call.turn, word(&reply));
                    return Ok(reply);
                }
                Attempt::TimedOut(limit) => {
                    let role = self.role;
                    let late = CallError::TimedOut { role, limit };
                    self.hung(id, who, late.to_string());
                    return Err(late);
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
        member: &Member<M>,
        message: impl Fn(RpcReplyPort<R>) -> M,
        limit: impl Fn() -> Duration,
    ) -> Attempt<R> {
        match within(member.actor.call(message, None), limit).await {
            Ok(Ok(CallResult::Success(reply))) => return Attempt::Answered(reply),
            Ok(_) => {}
            Err(limit) => return Attempt::TimedOut(limit),
        }
        match member.who.home() {
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

/// Waits for a call until its limit is over, which is asked for now and then: it may change while the
/// call is under way. Time that this process was stopped for does not count.
///
/// # Errors
/// The limit, when it is over.
pub(crate) async fn within<T>(
    call: impl Future<Output = T>,
    limit: impl Fn() -> Duration,
) -> Result<T, Duration> {
    let mut call = std::pin::pin!(call);
    let mut waited = Duration::ZERO;
    loop {
        let limit = limit();
        let left = limit.saturating_sub(waited);
        if left.is_zero() {
            return Err(limit);
        }
        let pause = left.min(FIRST_LOOK.max(waited / 8));
        match tokio::time::timeout(pause, &mut call).await {
            Ok(ended) => return Ok(ended),
            Err(_) => waited += pause,
        }
    }
}
