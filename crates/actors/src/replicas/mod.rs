//! Learners on other nodes, as one: whoever trains asks this group as it would ask a single learner.
//!
//! What to do is decided by `control::replicas`. The group divides a batch between its members
//! ([`shares`]), and has each step made again that falls apart when a member is lost.

mod limits;
mod shares;
mod tasks;

use crate::cluster::{Arrival, Engagement};
use crate::ports::{EngineError, StepReport};
use crate::remote::{RemoteEngine, StandIn, abandon};
use crate::workers::{LearnerMessage, LearnerPort};
use control::replicas::{Cause, Effect, Event, Outcome, Progress, ReplicaId, Replicas};
use limits::{Limits, Meeting};
use proto::cluster::{Place, Standing, Unmet};
use proto::{SftSample, SnapshotScope, StateGroup, WeightSnapshot, WeightVersion};
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tasks::{Job, Reply};

/// How long learners that were all lost may take to find back before others begin anew from the newest
/// checkpoint: the lost ones still have the steps that they made since.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// How often learners are counted that are being opened, where all have to be there.
const LOOK: Duration = Duration::from_secs(1);

/// What a learner on another node can be asked. Numbers are epochs of groups.
pub(crate) enum ReplicaMessage {
    Standing(RpcReplyPort<Result<Standing, EngineError>>),
    Meet(Place, RpcReplyPort<Result<u64, Unmet>>),
    Supervised(u32, Vec<SftSample>, LearnerPort<StepReport>),
    Policy(u32, Vec<StateGroup>, LearnerPort<StepReport>),
    Snapshot(WeightVersion, SnapshotScope, LearnerPort<WeightSnapshot>),
    Checkpoint(u32, LearnerPort<Option<PathBuf>>),
    Export(u32, PathBuf, LearnerPort<()>),
}

pub(crate) enum GroupMessage {
    /// Somebody trains.
    Asked(LearnerMessage),
    /// A learner is open on another node.
    Arrived(Arrival),
    /// A replica says how far it is, and where it is met.
    Counted(u64, ReplicaId, Standing),
    /// The group of this round has a number, and these members.
    Numbered(u64, Result<u32, String>, Vec<ReplicaId>),
    /// What a replica was asked in this round is over.
    Heard(u64, Event, Option<Reply>),
    /// Who was to find back has had time to.
    TakeOver,
    /// Learners may have been opened, or lost while they were.
    Look,
    /// What has been waited for since this stage takes too long.
    Overdue(u64),
}

/// Takes questions to the group.
pub(crate) struct Front;

#[ractor::async_trait]
impl Actor for Front {
    type Msg = LearnerMessage;
    type State = ActorRef<GroupMessage>;
    type Arguments = ActorRef<GroupMessage>;

    async fn pre_start(
        &self,
        _: ActorRef<LearnerMessage>,
        group: ActorRef<GroupMessage>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(group)
    }

    async fn handle(
        &self,
        _: ActorRef<LearnerMessage>,
        message: LearnerMessage,
        group: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(group.send_message(GroupMessage::Asked(message))?)
    }
}

/// Starts a group without a member. It tells `epoch` which group stands.
pub(crate) async fn start(
    engagement: Engagement,
    epoch: Arc<AtomicU32>,
    supervisor: &ActorCell,
) -> Result<ActorRef<GroupMessage>, ActorProcessingErr> {
    let started = Actor::spawn_linked(None, Group, (engagement, epoch), supervisor.clone());
    Ok(started.await?.0)
}

struct Group;

struct Replica {
    actor: ActorRef<ReplicaMessage>,
    engine: Arc<RemoteEngine>,
    /// What it was opened under.
    lineage: u32,
    /// How far it was, and where others meet it, once it has said so.
    standing: Option<Standing>,
}

struct State {
    machine: Replicas,
    engagement: Engagement,
    replicas: BTreeMap<ReplicaId, Replica>,
    arrivals: u64,
    /// The newest number of a group, whether it stands or not.
    newest: u32,
    /// The epoch of the group that stands, for all to see.
    epoch: Arc<AtomicU32>,
    job: Option<Job>,
    waiting: VecDeque<LearnerMessage>,
    limits: Limits,
    me: ActorRef<GroupMessage>,
}

#[ractor::async_trait]
impl Actor for Group {
    type Msg = GroupMessage;
    type State = State;
    type Arguments = (Engagement, Arc<AtomicU32>);

    async fn pre_start(
        &self,
        me: ActorRef<GroupMessage>,
        (engagement, epoch): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let machine = Replicas::new(engagement.replicas(), 0);
        let machine = match engagement.keep_shares() {
            true => {
                me.send_interval(LOOK, || GroupMessage::Look);
                machine.keeping_shares()
            }
            false => machine,
        };
        Ok(State {
            machine,
            engagement,
            replicas: BTreeMap::new(),
            arrivals: 0,
            newest: 0,
            epoch,
            job: None,
            waiting: VecDeque::new(),
            limits: Limits::default(),
            me,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<GroupMessage>,
        message: GroupMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GroupMessage::Asked(message) => {
                state.waiting.push_back(message);
                state.begin();
            }
            GroupMessage::Arrived(arrival) => state.arrived(arrival).await?,
            GroupMessage::Counted(round, id, standing) => state.counted(round, id, standing),
            GroupMessage::Numbered(round, number, ranks) => state.numbered(round, number, &ranks),
            GroupMessage::Heard(round, event, reply) => {
                if let (Event::Answered(id, _), Some(reply), Some(job)) =
                    (&event, reply, &mut state.job)
                {
                    job.keep(*id, reply);
                }
                state.feed_of(round, event);
            }
            GroupMessage::TakeOver => {
                if state.machine.is_starving() {
                    let epoch = state.machine.epoch();
                    state.engagement.renew_learners(Some(epoch));
                }
            }
            GroupMessage::Look => {
                let learners = state.engagement.awaited_learners();
                state.feed(Event::Expected(learners));
            }
            GroupMessage::Overdue(stage) => state.overdue(stage),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<GroupMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, _) | SupervisionEvent::ActorTerminated(who, ..) => {
                state.ended(who.get_id());
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    /// Begins what waits longest, if nothing is under way.
    fn begin(&mut self) {
        if self.job.is_some() {
            return;
        }
        if let Some(message) = self.waiting.pop_front() {
            let job = Job::new(message);
            let task = job.task(self.engagement.keep_shares());
            self.job = Some(job);
            self.feed(Event::Wanted(task));
        }
    }

    async fn arrived(&mut self, arrival: Arrival) -> Result<(), ActorProcessingErr> {
        // One that is being opened anew meanwhile is about to be closed.
        if !self.engagement.is_ordered(&arrival) {
            return Ok(());
        }
        let Arrival {
            engine,
            lineage,
            is_on_trial,
            ..
        } = arrival;
        // An engine that was opened in the place of another one of the same process.
        let is_older = |replica: &Replica| replica.engine.node() == engine.node();
        let older = self.replicas.iter().find(|(_, replica)| is_older(replica));
        if let Some(older) = older.map(|(_, replica)| replica.actor.get_id()) {
            self.ended(older);
        }
        let me = self.me.get_cell();
        let spawned = Actor::spawn_linked(None, StandIn::new(), engine.clone(), me).await?;
        self.arrivals += 1;
        let id = ReplicaId(self.arrivals);
        let replica = Replica {
            actor: spawned.0,
            engine,
            lineage,
            standing: None,
        };
        self.replicas.insert(id, replica);
        self.feed(match is_on_trial {
            true => Event::Returned(id),
            false => Event::Arrived(id),
        });
        Ok(())
    }

    fn ended(&mut self, who: ActorId) {
        let mut replicas = self.replicas.iter();
        let found = replicas.find(|(_, replica)| replica.actor.get_id() == who);
        if let Some(id) = found.map(|(id, _)| *id) {
            self.remove(id);
            self.feed(Event::Lost(id));
        }
    }

    fn remove(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replicas.remove(&id) {
            replica.actor.stop(None);
        }
    }

    fn counted(&mut self, round: u64, id: ReplicaId, standing: Standing) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            let progress = Progress {
                epoch: standing.epoch.max(replica.lineage),
                steps: standing.steps,
            };
            replica.standing = Some(standing);
            self.feed_of(round, Event::Counted(id, progress));
        }
    }

    /// The group has its number: its members are told to meet.
    fn numbered(&mut self, round: u64, number: Result<u32, String>, ranks: &[ReplicaId]) {
        if let Ok(number) = &number {
            self.newest = self.newest.max(*number);
        }
        if round != self.machine.round() {
            return;
        }
        let epoch = number.clone();
        self.feed(Event::Numbered(number));
        let Ok(epoch) = epoch else { return };
        let standing = |id| self.replicas.get(id).and_then(|r| r.standing.clone());
        let standings: Vec<Standing> = ranks.iter().filter_map(standing).collect();
        let members: Vec<SocketAddr> = standings.iter().map(|s| s.address).collect();
        let is_level = self.are_level(ranks);
        for (rank, id) in (0..).zip(ranks) {
            let place = Place {
                epoch,
                rank,
                members: members.clone(),
                is_level,
            };
            self.meet(*id, place);
        }
    }

    /// Whether they were together in the last group and have made as many steps since.
    fn are_level(&self, ranks: &[ReplicaId]) -> bool {
        let epoch = self.machine.epoch();
        let standing = |id| self.replicas.get(id).and_then(|r| r.standing.as_ref());
        let mut standings = ranks.iter().filter_map(standing);
        let mut steps = standings.clone().map(|standing| standing.steps);
        let first = steps.next();
        epoch > 0 && standings.all(|s| s.epoch == epoch && Some(s.steps) == first)
    }

    /// An event of the present round, or nothing.
    fn feed_of(&mut self, round: u64, event: Event) {
        if round == self.machine.round() {
            self.feed(event);
        }
    }

    fn feed(&mut self, event: Event) {
        let before = self.machine.epoch();
        let effects = self.machine.on(event);
        let epoch = self.machine.epoch();
        if epoch != before {
            self.epoch.store(epoch, Ordering::SeqCst);
            self.limits.met();
            let replicas = self.names(self.machine.ranks());
            tracing::info!(epoch, replicas, "A group of learners stands.");
        }
        for effect in effects {
            self.perform(effect);
        }
        self.watch();
    }

    fn names(&self, ids: &[ReplicaId]) -> String {
        let name = |id| Some(self.replicas.get(id)?.engine.node().as_str());
        let names: Vec<&str> = ids.iter().filter_map(name).collect();
        names.join(", ")
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Abandon(ids) => {
                let replicas = self.names(&ids);
                tracing::debug!(epoch = self.newest, replicas, "A group is given up.");
                self.limits.given_up();
                ids.iter().for_each(|id| self.abandon(*id));
            }
            Effect::Count(ids) => ids.iter().for_each(|id| self.count(*id)),
            Effect::Form(ranks) => {
                self.limits.given_up();
                // Shares of the optimizer's state are taken up again each time.
                let is_level = self.are_level(&ranks) && !self.engagement.keep_shares();
                self.limits.meet(match (ranks.len(), is_level) {
                    (1, _) => Meeting::Alone,
                    (_, true) => Meeting::Level,
                    (_, false) => Meeting::Anew,
                });
                self.number(ranks);
            }
            Effect::Ask(ranks) => self.ask(&ranks),
            Effect::LeaveOut(id, cause) => self.leave_out(id, &cause),
            Effect::Reopen => {
                tracing::warn!(
                    "Learners with shares of the optimizer's state begin anew together."
                );
                let gone: Vec<ReplicaId> = self.replicas.keys().copied().collect();
                gone.into_iter().for_each(|id| self.remove(id));
                self.engagement.renew_learners(None);
            }
            Effect::Starved => {
                if self.machine.epoch() > 0 {
                    tracing::warn!("The learners are lost; training waits for the next.");
                }
                self.me.send_after(TAKE_OVER, || GroupMessage::TakeOver);
            }
            Effect::Finish(outcome) => self.finish(outcome),
        }
    }

    fn leave_out(&mut self, id: ReplicaId, cause: &Cause) {
        self.limits.excuse();
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let node = replica.engine.node();
        let again_s = self.engagement.leave_out(&replica.engine, cause).as_secs();
        match cause {
            Cause::Unmet(reason) => tracing::warn!(
                %node, reason, again_s,
                "The other learners cannot meet one, and go on without it: its address and port must \
                 be open to them (swirl node --address, --ring-port)."
            ),
            Cause::Hung => tracing::warn!(
                %node, again_s,
                "A learner does not answer; the others go on without it, and it is opened anew."
            ),
            Cause::Slow => tracing::warn!(
                %node, again_s,
                "The other learners wait for a slow one, and go on without it."
            ),
            Cause::Stalled(reason) => tracing::warn!(
                %node, reason, again_s,
                "The learners do not get on together, and half of them try without this one."
            ),
        }
        self.remove(id);
    }

    /// Tells a member that its group is given up; what it was at is told to the machine.
    fn abandon(&self, id: ReplicaId) {
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let (engine, me) = (replica.engine.clone(), self.me.clone());
        let (epoch, round) = (self.newest, self.machine.round());
        tokio::spawn(async move {
            let found = abandon(&engine, epoch, "the controller forms another group").await;
            if let Some(found) = found {
                let event = Event::Found(id, found);
                // A group that is gone has no use for it.
                let _ = me.send_message(GroupMessage::Heard(round, event, None));
            }
        });
    }

    fn count(&self, id: ReplicaId) {
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let (actor, engine, me) = (
            replica.actor.clone(),
            replica.engine.clone(),
            self.me.clone(),
        );
        let round = self.machine.round();
        tokio::spawn(async move {
            match ractor::call!(actor, ReplicaMessage::Standing) {
                Ok(Ok(standing)) => {
                    drop(me.send_message(GroupMessage::Counted(round, id, standing)))
                }
                // It joins again, with what it holds.
                Ok(Err(error)) => engine.give_up(&error.0),
                // Its end is told by itself.
                Err(_) => {}
            }
        });
    }

    fn number(&self, ranks: Vec<ReplicaId>) {
        let (engagement, me) = (self.engagement.clone(), self.me.clone());
        let round = self.machine.round();
        tokio::spawn(async move {
            let number = engagement.next_epoch().await.map_err(|error| error.0);
            drop(me.send_message(GroupMessage::Numbered(round, number, ranks)));
        });
    }

    fn meet(&self, id: ReplicaId, place: Place) {
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let (actor, me) = (replica.actor.clone(), self.me.clone());
        let node = replica.engine.node().clone();
        let round = self.machine.round();
        tokio::spawn(async move {
            let met = ractor::call!(actor, |port| ReplicaMessage::Meet(place, port));
            let Ok(met) = met else { return };
            let met = met.map_err(|unmet| Unmet {
                reason: format!("{node}: {}", unmet.reason),
                ..unmet
            });
            if let Err(unmet) = &met {
                tracing::debug!(?unmet, "A replica did not meet the others.");
            }
            let event = Event::Met(id, met);
            drop(me.send_message(GroupMessage::Heard(round, event, None)));
        });
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Outcome::Done(_) = outcome {
            self.limits.done();
            if self.job.as_ref().is_some_and(Job::is_step) {
                let members = self.machine.ranks().iter();
                members
                    .filter_map(|id| self.replicas.get(id))
                    .for_each(|replica| self.engagement.of_use(replica.engine.node()));
            }
        }
        if let Some(job) = self.job.take() {
            let epoch = self.machine.epoch();
            job.finish(outcome, self.machine.ranks(), epoch);
        }
        self.begin();
    }
}
