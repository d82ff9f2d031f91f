//! Rollouts: items leased to samplers, driven step by step, judged, stored.
//!
//! A lease ends with the sampled trajectory. Its verdicts are a stage of their own (`judging`), which
//! holds no lease: however long a judge is away, no item runs out of time or is sampled again.

mod driver;
mod judging;

pub(crate) use driver::{Begun, ItemFailure, ItemResult};
pub(crate) use judging::Unjudged;

use crate::controller::ControllerMessage;
use crate::fleet::{Fleet, FleetError};
use crate::pool::{CallError, MemberId, Who};
use crate::ports::Turns;
use control::ledger::{
    Completion as Done, Failure, Lease, LeaseToken, Ledger, LedgerConfig, MachineId, WorkerId,
};
use control::rollout::Limits;
use driver::Driver;
use judging::Judging;
use proto::{ItemId, Question, RunId, SamplingParams, Trajectory};
use ractor::{ActorRef, RpcReplyPort};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::TrajectoryStore;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tools::parser::ActionTags;

/// Pause before an item whose sampler was lost is given to another: where all samplers are lost within
/// seconds, as when this process is cut off, it must not go from one to the next.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// Items that are given out before other messages have their turn: the controller answers, and is not
/// taken for dead, while a large cluster is filled.
const BURST: usize = 256;

/// Time that sampling under way may go on once the job is to end for want of verdicts.
const ENDING_MS: u64 = 120_000;

/// What is to be generated, and how.
pub struct RolloutPlan {
    /// The run the trajectories belong to.
    pub run: RunId,
    /// The model's name, stored with each trajectory.
    pub model: String,
    /// The questions; ids are distinct.
    pub questions: Vec<Question>,
    /// Samples of each question; at least 1.
    pub samples: u32,
    /// How actions are drawn; `max_tokens` limits one action.
    pub params: SamplingParams,
    /// Every draw follows from this, the item, and the step.
    pub seed: u64,
    /// Limits of a trajectory and what becomes of unreadable actions.
    pub limits: Limits,
    /// The tags of actions.
    pub tags: ActionTags,
    /// Text to ids.
    pub turns: Arc<dyn Turns>,
    /// Items that one sampler works on at a time.
    pub items_per_sampler: u32,
    /// Deadlines and tries.
    pub ledger: LedgerConfig,
    /// The share of items, in [0, 1], that may be left out because they cannot be judged; unless it is
    /// 0, one always may.
    pub max_unjudged_share: f64,
    /// The folder that keeps trajectories without verdicts: those that wait while the judge is away,
    /// and those that cannot be judged. The next job goes on with them. None: they are not kept.
    pub unjudged: Option<PathBuf>,
    /// Told of every change.
    pub progress: watch::Sender<Progress>,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Items of the job.
    pub total: u64,
    /// Items on disk, those of earlier runs included.
    pub stored: u64,
    /// Items given up.
    pub failed: u64,
    /// Items left out because they cannot be judged.
    pub unjudged: u64,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutReport {
    /// Items on disk.
    pub stored: u64,
    /// Of these, items that were there before.
    pub resumed: u64,
    /// Items that were given up after every try, with the last reason.
    pub failed: Vec<(ItemId, String)>,
    /// Items that are left out because they cannot be judged, with the reason.
    pub unjudged: Vec<(ItemId, String)>,
}

/// Why a job ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// The store refused a write. Everything acknowledged before is safe; mend the cause (often a
    /// full disk) and resume.
    #[error("cannot store trajectories: {0}")]
    Store(String),
    /// No more verdicts can be had. Sampled trajectories are kept without them.
    #[error("{0}. Nothing is lost: mend the cause and resume")]
    Judge(String),
    /// More items cannot be judged than may be left out.
    #[error(
        "{left_out} of {total} trajectories cannot be judged, and judge.max_unjudged_share allows \
         {allowed}; the last is {item}: {reason}. Nothing is lost: mend the cause, or raise the share, \
         and resume: they are judged again, and not sampled again"
    )]
    Unjudged {
        /// Items that cannot be judged.
        left_out: u64,
        /// Items of the job.
        total: u64,
        /// Number of items that may be left out.
        allowed: u64,
        /// The last of them.
        item: ItemId,
        /// Why it cannot.
        reason: String,
    },
    /// No sampler has worked for longer than the run has patience. What was sampled is stored, or kept
    /// without verdicts.
    #[error("{0}. Nothing is lost")]
    Samplers(String),
    /// The controller cannot be started, or died.
    #[error("the controller failed: {0}")]
    Controller(String),
    /// One job at a time.
    #[error("the controller is busy with another job")]
    Busy,
}

/// The report, and the store back in the caller's hands: no actor or task holds it any more.
pub(crate) type Outcome = Result<(RolloutReport, TrajectoryStore), RolloutError>;

/// A job under way: the ledger decides, this performs.
pub(crate) struct Job {
    id: u64,
    plan: Arc<RolloutPlan>,
    questions: Arc<BTreeMap<proto::QuestionId, Question>>,
    fleet: Fleet,
    ledger: Ledger,
    started: Instant,
    resumed: u64,
    stored: u64,
    /// Samplers that have come and were given their credits: those with lower numbers.
    known: u32,
    /// Samplers that had left when it was last looked.
    departed: u64,
    /// Those of the samplers that were given a single credit, since they are on trial.
    on_trial: BTreeSet<MemberId>,
    /// Numbers of all samplers that have come, however often.
    machines: BTreeMap<Who, u32>,
    /// Trajectories to be written.
    waiting: Vec<Trajectory>,
    judging: Judging,
    /// Why the job is to end early, and since when, in milliseconds.
    ending: Option<(RolloutError, u64)>,
    /// The work on each lease, to be stopped when another lease of the item brings the result.
    drivers: BTreeMap<LeaseToken, AbortHandle>,
    /// How far items were whose sampler was lost: they go on from there.
    begun: BTreeMap<ItemId, Begun>,
    /// Away while a write is under way.
    store: Option<TrajectoryStore>,
    error: Option<RolloutError>,
    reply: Option<RpcReplyPort<Outcome>>,
}

impl Drop for Job {
    /// Nobody waits for the results of what is still worked on.
    fn drop(&mut self) {
        self.drivers.values().for_each(AbortHandle::abort);
    }
}

impl Job {
    pub(crate) fn new(
        id: u64,
        plan: RolloutPlan,
        store: TrajectoryStore,
        unjudged: Option<Unjudged>,
        fleet: Fleet,
        controller: &ActorRef<ControllerMessage>,
        reply: RpcReplyPort<Outcome>,
    ) -> Self {
        let items: Vec<ItemId> = plan
            .questions
            .iter()
            .flat_map(|q| {
                (0..plan.samples).map(|sample| ItemId {
                    question: q.id.clone(),
                    sample,
                })
            })
            .collect();
        let done: Vec<ItemId> = items
            .iter()
            .filter(|item| store.contains(item))
            .cloned()
            .collect();
        let resumed = done.len() as u64;
        let total = items.len() as u64;
        let mut judging = Judging::new(id, plan.max_unjudged_share, total);
        let sampled = match unjudged {
            None => Vec::new(),
            Some(unjudged) => judging.go_on(unjudged, &items, &fleet, controller),
        };
        let ledger = Ledger::new(plan.ledger.clone(), items, done.into_iter().chain(sampled));
        let questions = plan
            .questions
            .iter()
            .map(|q| (q.id.clone(), q.clone()))
            .collect();
        Self {
            id,
            plan: Arc::new(plan),
            questions: Arc::new(questions),
            fleet,
            ledger,
            started: Instant::now(),
            resumed,
            stored: resumed,
            known: 0,
            departed: 0,
            on_trial: BTreeSet::new(),
            machines: BTreeMap::new(),
            waiting: Vec::new(),
            judging,
            ending: None,
            drivers: BTreeMap::new(),
            begun: BTreeMap::new(),
            store: Some(store),
            error: None,
            reply: Some(reply),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Deadlines are looked at, and whether the judge is away: what waits for it is kept on disk then.
    pub(crate) fn tick(&mut self, controller: &ActorRef<ControllerMessage>) {
        self.expire();
        if !self.ledger.is_finished()
            && let Err(error) = self.fleet.samplers.look()
        {
            self.end_early(match error {
                CallError::None { .. } => RolloutError::Controller(error.to_string()),
                error => RolloutError::Samplers(error.to_string()),
            });
        }
        if self.fleet.judge_patience.is_away() {
            self.judging.keep_all(controller);
        }
    }

    fn expire(&mut self) {
        let now = self.now_ms();
        for item in self.ledger.expire(now) {
            tracing::warn!(%item, "A lease ran out; the item is given out again.");
        }
    }

    pub(crate) fn item_ended(
        &mut self,
        token: LeaseToken,
        result: ItemResult,
        controller: &ActorRef<ControllerMessage>,
    ) {
        self.drivers.remove(&token);
        self.part();
        let now = self.now_ms();
        match result {
            Ok(trajectory) => {
                let leases = self.ledger.leases_of(token);
                match self.ledger.complete(token, now) {
                    Done::Accepted(item) => {
                        self.begun.remove(&item);
                        self.judging.judge(*trajectory, &self.fleet, controller);
                        for other in leases {
                            if let Some(driver) = self.drivers.remove(&other) {
                                driver.abort();
                            }
                        }
                    }
                    Done::Stale => {
                        tracing::info!(item = %trajectory.item, "A late result is dropped.");
                    }
                }
            }
            Err(ItemFailure::Failed(reason, item, begun)) => {
                let is_its_own = self.is_sick(token);
                tracing::warn!(%item, reason, "An item failed.");
                let failure = match is_its_own {
                    true => self.ledger.take_back(token),
                    false => self.ledger.fail(token, reason),
                };
                self.go_on_later(failure, item, begun);
            }
            Err(ItemFailure::Lost(item, begun)) => {
                let reason = "its samplers were lost, one after the other".to_owned();
                tracing::info!(%item, "An item's sampler was lost; another one goes on with it.");
                let failure = match self.is_sick(token) {
                    true => self.ledger.take_back(token),
                    false => self.ledger.lose(token, reason),
                };
                self.go_on_later(failure, item, Some(begun));
            }
        }
    }

    /// Keeps how far an item is that is tried again.
    fn go_on_later(&mut self, failure: Failure, item: ItemId, begun: Option<Box<Begun>>) {
        if let (Failure::Retry { .. }, Some(begun)) = (failure, begun) {
            self.begun.insert(item, *begun);
        }
    }

    /// Whether the sampler of a lease is left out since it is sick.
    fn is_sick(&self, token: LeaseToken) -> bool {
        let worker = self.ledger.worker_of(token);
        worker.is_some_and(|worker| self.fleet.samplers.was_put_out(MemberId(worker.0)))
    }

    /// Takes the credits of samplers that have left: what they failed at was their own fault.
    fn part(&mut self) {
        let departures = self.fleet.samplers.departures();
        if std::mem::replace(&mut self.departed, departures) == departures {
            return;
        }
        let is_gone = |worker: &WorkerId| self.fleet.samplers.who(MemberId(worker.0)).is_none();
        let gone: Vec<WorkerId> = self.ledger.workers().filter(is_gone).collect();
        for worker in gone {
            self.ledger.dismiss(worker);
            self.on_trial.remove(&MemberId(worker.0));
        }
    }

    /// An item has its verdicts, or cannot have them.
    pub(crate) fn item_judged(
        &mut self,
        item: ItemId,
        result: Result<Box<Trajectory>, FleetError>,
    ) {
        match self.judging.ended(item, result) {
            Ok(Some(trajectory)) => self.waiting.push(trajectory),
            Ok(None) => {}
            Err(error) => self.end_early(error),
        }
    }

    /// Trajectories without verdicts were written.
    pub(crate) fn kept(&mut self, result: Result<(Box<TrajectoryStore>, Vec<ItemId>), String>) {
        match result {
            Ok((store, items)) => self.judging.kept(*store, &items),
            Err(error) => self.error = Some(RolloutError::Store(error)),
        }
    }

    fn end_early(&mut self, error: RolloutError) {
        if self.ending.is_none() {
            tracing::warn!(%error, "No more items are begun: the job ends.");
            self.ending = Some((error, self.now_ms()));
        }
    }

    pub(crate) fn written(&mut self, result: Result<(Box<TrajectoryStore>, u64), String>) {
        match result {
            Ok((store, items)) => {
                self.store = Some(*store);
                self.stored += items;
            }
            Err(error) => self.error = Some(RolloutError::Store(error)),
        }
    }

    /// Hands out what can be handed out and writes what waits. True once the job has been answered.
    pub(crate) fn advance(&mut self, controller: &ActorRef<ControllerMessage>) -> bool {
        self.plan.progress.send_replace(self.progress());
        if let Some(error) = self.error.take() {
            return self.finish(Err(error));
        }
        self.write(controller);
        match &self.ending {
            None => {
                self.judging.keep_left_out(controller);
                self.lease(controller);
                let is_sampled = self.ledger.is_finished();
                if !is_sampled || !self.judging.is_over() {
                    return false;
                }
            }
            Some((_, since_ms)) => {
                let is_in_time = self.now_ms() < since_ms + ENDING_MS;
                self.judging.keep_all(controller);
                if (!self.drivers.is_empty() && is_in_time) || !self.judging.is_kept() {
                    return false;
                }
            }
        }
        if !self.waiting.is_empty() {
            return false;
        }
        let Some(store) = self.store.take() else {
            return false;
        };
        let unjudged = self.judging.close();
        if let Some((error, _)) = self.ending.take() {
            drop(store);
            return self.finish(Err(error));
        }
        let report = RolloutReport {
            stored: self.stored,
            resumed: self.resumed,
            failed: self.ledger.failed_items(),
            unjudged,
        };
        self.finish(Ok((report, store)))
    }

    fn finish(&mut self, result: Outcome) -> bool {
        if let Some(reply) = self.reply.take()
            && reply.send(result).is_err()
        {
            tracing::debug!("nobody waits for the end of this job");
        }
        true
    }

    fn progress(&self) -> Progress {
        let ledger = self.ledger.progress();
        Progress {
            total: ledger.total as u64,
            stored: self.stored,
            failed: ledger.failed as u64,
            unjudged: self.judging.left_out(),
        }
    }

    fn lease(&mut self, controller: &ActorRef<ControllerMessage>) {
        self.part();
        self.welcome();
        self.trust();
        let now = self.now_ms();
        let mut given = 0;
        // As many again as are being sampled: a judge that is slower, or away, is not run away from.
        let samplers = self.fleet.sampler_count().max(1);
        let most = 2 * samplers * self.plan.items_per_sampler as usize;
        // One item each in turn, so that a few items are spread over many samplers.
        while self.ledger.has_work(now) && self.judging.waiting() < most {
            let before = given;
            for worker in self.ledger.free_workers().collect::<Vec<_>>() {
                let sampler = MemberId(worker.0);
                if self.fleet.samplers.home(sampler).is_none() {
                    self.ledger.dismiss(worker);
                    continue;
                }
                if given == BURST {
                    // A controller that is gone gives out no more.
                    let _ = controller.send_message(ControllerMessage::GoOn);
                    return;
                }
                if let Some(lease) = self.ledger.lease(worker, now) {
                    self.drive(sampler, lease, controller);
                    given += 1;
                }
            }
            if given == before {
                return;
            }
        }
    }

    /// Gives samplers that are new their credits: one to those that are on trial.
    fn welcome(&mut self) {
        let arrivals = self.fleet.samplers.arrivals();
        if arrivals == self.known {
            return;
        }
        let ids = self.fleet.samplers.ids().into_iter();
        for sampler in ids.filter(|id| (self.known..arrivals).contains(&id.0)) {
            let Some(who) = self.fleet.samplers.who(sampler) else {
                continue;
            };
            let next = self.machines.len() as u32;
            let machine = MachineId(*self.machines.entry(who).or_insert(next));
            let is_on_trial = self.fleet.samplers.is_on_trial(sampler);
            let credits = match is_on_trial {
                true => 1,
                false => self.plan.items_per_sampler,
            };
            if is_on_trial {
                self.on_trial.insert(sampler);
            }
            self.ledger.enter(WorkerId(sampler.0), machine);
            self.ledger.grant_credits(WorkerId(sampler.0), credits);
        }
        self.known = arrivals;
    }

    /// Gives samplers that have passed their trial the rest of their credits.
    fn trust(&mut self) {
        let rest = self.plan.items_per_sampler.saturating_sub(1);
        let passed = |id: &MemberId| !self.fleet.samplers.is_on_trial(*id);
        let passed: Vec<MemberId> = self.on_trial.iter().copied().filter(passed).collect();
        for sampler in passed {
            self.on_trial.remove(&sampler);
            if self.ledger.is_engaged(WorkerId(sampler.0)) {
                self.ledger.grant_credits(WorkerId(sampler.0), rest);
            }
        }
    }

    /// Starts the work on an item.
    fn drive(&mut self, sampler: MemberId, lease: Lease, controller: &ActorRef<ControllerMessage>) {
        let question = self.questions[&lease.item.question].clone();
        let (plan, fleet) = (self.plan.clone(), self.fleet.clone());
        let (job, token, item) = (self.id, lease.token, lease.item.clone());
        let begun = self.begun.remove(&lease.item);
        let work = tokio::spawn(async move {
            let driver = Driver {
                plan: &plan,
                fleet: &fleet,
                sampler,
                item: &lease.item,
            };
            driver.run(question, begun).await
        });
        self.drivers.insert(token, work.abort_handle());
        let controller = controller.clone();
        tokio::spawn(async move {
            let result = match work.await {
                Ok(result) => result,
                // The item is done.
                Err(error) if error.is_cancelled() => return,
                // A panic costs a try, as any failure, and not the rest of the lease.
                Err(panic) => Err(ItemFailure::Failed(panic.to_string(), item, None)),
            };
            // A controller that is gone has nobody to tell.
            let _ = controller.send_message(ControllerMessage::ItemEnded { job, token, result });
        });
    }

    /// One write at a time; whatever is finished meanwhile goes along with the next, so that many
    /// trajectories share one flush to disk.
    fn write(&mut self, controller: &ActorRef<ControllerMessage>) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut store) = self.store.take() else {
            return;
        };
        let batch = std::mem::take(&mut self.waiting);
        let (job, controller) = (self.id, controller.clone());
        let work = crate::blocking::run(move || {
            let result = store.append_all(&batch);
            result
                .map(|()| (Box::new(store), batch.len() as u64))
                .map_err(|error| error.to_string())
        });
        tokio::spawn(async move {
            let result = work.await.unwrap_or_else(|panic| Err(panic.to_string()));
            // A controller that is gone has nobody to tell.
            let _ = controller.send_message(ControllerMessage::Written { job, result });
        });
    }
}
