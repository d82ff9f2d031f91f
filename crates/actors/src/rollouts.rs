//! Rollouts: items leased to samplers, driven step by step, judged, stored.

use crate::controller::ControllerMessage;
use crate::fleet::{Fleet, FleetError};
use crate::pool::MemberId;
use crate::ports::Turns;
use crate::seeds;
use control::ledger::{
    Completion as Done, Failure, Lease, LeaseToken, Ledger, LedgerConfig, WorkerId,
};
use control::rollout::{Effect, Limits, Rollout};
use judge::{JudgeError, StepContext};
use proto::{
    Completion, GenerateRequest, ItemId, Question, RunId, SamplingParams, Trajectory, Verdict,
};
use ractor::{ActorRef, RpcReplyPort};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::TrajectoryStore;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tools::parser::{ActionTags, malformed_message, parse_action};

/// Pause before an item whose sampler was lost is given to another: where all samplers are lost within
/// seconds, as when this process is cut off, it must not go from one to the next.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// Items that are given out before other messages have their turn: the controller answers, and is not
/// taken for dead, while a large cluster is filled.
const BURST: usize = 256;

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
}

/// Why a job ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// The store refused a write. Everything acknowledged before is safe; mend the cause (often a
    /// full disk) and resume.
    #[error("cannot store trajectories: {0}")]
    Store(String),
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
    waiting: Vec<Trajectory>,
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
        fleet: Fleet,
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
        let ledger = Ledger::new(plan.ledger.clone(), items, done);
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
            waiting: Vec::new(),
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

    pub(crate) fn expire(&mut self) {
        let now = self.now_ms();
        for item in self.ledger.expire(now) {
            tracing::warn!(%item, "A lease ran out; the item is given out again.");
        }
    }

    pub(crate) fn item_ended(&mut self, token: LeaseToken, result: ItemResult) {
        self.drivers.remove(&token);
        let now = self.now_ms();
        match result {
            Ok(trajectory) => {
                let leases = self.ledger.leases_of(token);
                match self.ledger.complete(token, now) {
                    Done::Accepted(item) => {
                        self.begun.remove(&item);
                        self.waiting.push(*trajectory);
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
            Err(ItemFailure::Failed(reason)) => {
                tracing::warn!(reason, "An item failed.");
                self.ledger.fail(token, reason);
            }
            Err(ItemFailure::Lost(item, begun)) => {
                let reason = "its samplers were lost, one after the other".to_owned();
                tracing::info!(%item, "An item's sampler was lost; another one goes on with it.");
                if let Failure::Retry { .. } = self.ledger.lose(token, reason) {
                    self.begun.insert(item, *begun);
                }
            }
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
        self.lease(controller);
        if !self.ledger.is_finished() || !self.waiting.is_empty() {
            return false;
        }
        let Some(store) = self.store.take() else {
            return false;
        };
        let report = RolloutReport {
            stored: self.stored,
            resumed: self.resumed,
            failed: self.ledger.failed_items(),
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
        }
    }

    fn lease(&mut self, controller: &ActorRef<ControllerMessage>) {
        self.welcome();
        let now = self.now_ms();
        let mut given = 0;
        // One item each in turn, so that a few items are spread over many samplers.
        while self.ledger.has_work(now) {
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

    /// Gives samplers that are new their credits.
    fn welcome(&mut self) {
        let arrivals = self.fleet.samplers.arrivals();
        if arrivals == self.known {
            return;
        }
        let ids = self.fleet.samplers.ids().into_iter();
        for sampler in ids.filter(|id| (self.known..arrivals).contains(&id.0)) {
            let credits = self.plan.items_per_sampler;
            self.ledger.grant_credits(WorkerId(sampler.0), credits);
        }
        self.known = arrivals;
    }

    /// Starts the work on an item.
    fn drive(&mut self, sampler: MemberId, lease: Lease, controller: &ActorRef<ControllerMessage>) {
        let question = self.questions[&lease.item.question].clone();
        let (plan, fleet) = (self.plan.clone(), self.fleet.clone());
        let (job, token) = (self.id, lease.token);
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
                Err(panic) => Err(ItemFailure::Failed(panic.to_string())),
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

/// What the work on an item came to.
pub(crate) type ItemResult = Result<Box<Trajectory>, ItemFailure>;

/// Why there is no trajectory.
pub(crate) enum ItemFailure {
    /// A call failed.
    Failed(String),
    /// The sampler is gone; the item goes on with another.
    Lost(ItemId, Box<Begun>),
}

/// An item under way.
pub(crate) struct Begun {
    rollout: Rollout,
    /// What it waits for.
    effect: Effect,
    /// Actions so far.
    step: u32,
}

/// Performs what one item's rollout asks for.
struct Driver<'a> {
    plan: &'a RolloutPlan,
    fleet: &'a Fleet,
    sampler: MemberId,
    item: &'a ItemId,
}

impl Driver<'_> {
    async fn run(&self, question: Question, begun: Option<Begun>) -> ItemResult {
        let mut begun = begun.unwrap_or_else(|| self.begin(question));
        let failed = |error: FleetError| ItemFailure::Failed(error.to_string());
        loop {
            match self.advance(&mut begun).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.is_gone() => {
                    // Others that are lost with it are noticed first.
                    tokio::time::sleep(LOSS_PAUSE).await;
                    return Err(ItemFailure::Lost(self.item.clone(), Box::new(begun)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let run = self.plan.run.clone();
        let trajectory = begun.rollout.into_trajectory(run, self.plan.model.as_str());
        let trajectory = trajectory.map_err(|error| failed(error.into()))?;
        self.judge(trajectory).await.map(Box::new).map_err(failed)
    }

    fn begin(&self, question: Question) -> Begun {
        let prompt = self.plan.turns.prompt(&question);
        let limits = self.plan.limits.clone();
        let (rollout, effect) = Rollout::new(self.item.clone(), question, prompt, limits);
        Begun {
            rollout,
            effect,
            step: 0,
        }
    }

    /// Performs what is asked for next; false when nothing is. After an error nothing has changed.
    async fn advance(&self, begun: &mut Begun) -> Result<bool, FleetError> {
        let (plan, rollout) = (self.plan, &mut begun.rollout);
        begun.effect = match &begun.effect {
            Effect::Sample { prompt, max_tokens } => {
                let (prompt, max_tokens) = (prompt.clone(), *max_tokens);
                let completion = self.sample(prompt, max_tokens, begun.step).await?;
                begun.step += 1;
                let parsed = parse_action(&completion.text, completion.finish, &plan.tags);
                rollout.sampled(completion, parsed.thought, parsed.action)?
            }
            Effect::Execute(call) => {
                let reply = self.fleet.execute(call).await?;
                let text = format!("{} -> {}", call.arguments, reply.text);
                let tokens = plan.turns.observation(&text, rollout.last_sampled());
                rollout.observed(text, tokens, reply.is_error, reply.latency_us)?
            }
            Effect::Tell(kind) => {
                let text = malformed_message(*kind, &plan.tags);
                let tokens = plan.turns.observation(&text, rollout.last_sampled());
                rollout.observed(text, tokens, true, 0)?
            }
            Effect::Finish(_) => return Ok(false),
        };
        Ok(true)
    }

    async fn sample(
        &self,
        prompt: Vec<u32>,
        max_tokens: u32,
        step: u32,
    ) -> Result<Completion, FleetError> {
        let item = self.item.to_string();
        let request = GenerateRequest {
            prompt,
            samples: 1,
            params: SamplingParams {
                max_tokens,
                ..self.plan.params.clone()
            },
            seed: seeds::derive(self.plan.seed, &["rollout", &item, &step.to_string()]),
        };
        let completions = self.fleet.sample(self.sampler, request).await?;
        completions.into_iter().next().ok_or_else(|| {
            FleetError::Engine(crate::ports::EngineError(
                "the sampler returned nothing".into(),
            ))
        })
    }

    async fn judge(&self, mut trajectory: Trajectory) -> Result<Trajectory, FleetError> {
        let contexts: Vec<StepContext> = (0..trajectory.steps.len())
            .map(|i| StepContext::of(&trajectory, i))
            .collect();
        let steps = contexts.into_iter().map(|context| self.judge_step(context));
        let verdicts = futures::future::try_join_all(steps).await?;
        for (step, verdict) in trajectory.steps.iter_mut().zip(verdicts) {
            step.verdicts.extend(verdict);
        }
        let outcome = self
            .fleet
            .judge_outcome(&trajectory.question, trajectory.answer())
            .await?;
        trajectory.outcome = Some(outcome);
        Ok(trajectory)
    }

    /// The verdict on a step; none where the judge knows too little of this question to have one.
    /// Such a step counts in no process score, and no filter on steps keeps its trajectory.
    async fn judge_step(&self, context: StepContext) -> Result<Option<Verdict>, FleetError> {
        match self.fleet.judge_step(context).await {
            Ok(verdict) => Ok(Some(verdict)),
            Err(FleetError::Judge(JudgeError::NoReference { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
