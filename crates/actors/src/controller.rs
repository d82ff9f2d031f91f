//! The supervisor of every other actor, and the one who hands out rollout work.

use crate::cluster::{Arrival, Engagement};
use crate::fleet::{Fleet, FleetError, FleetPlan, RestartCounts};
use crate::patience::Patience;
use crate::pool::{Pool, Who};
use crate::publication::catch_up;
use crate::remote::{PassOn, RemoteEngine, StandIn};
use crate::replicas::{self, GroupMessage};
use crate::rollouts::{
    ItemResult, Job, Outcome, RolloutError, RolloutPlan, RolloutReport, Unjudged,
};
use crate::vitals::{Sick, Vitals};
use crate::workers::{Judge, Learner, Sampler, ToolExecutor};
use control::ledger::LeaseToken;
use control::quarantine::Remedy;
use proto::{ItemId, Role, Trajectory};
use ractor::{
    Actor, ActorCell, ActorProcessingErr, ActorRef, Message, RpcReplyPort, SupervisionEvent,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::TrajectoryStore;

/// How often deadlines are looked at. Leases last minutes.
const TICK: Duration = Duration::from_secs(1);

/// How long an actor may take to end what it is at when everything stops.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Calls made again after a death: each goes to another actor.
const SERVICE_TRIES: u32 = 3;

/// A learner's step is never made twice.
const LEARNER_TRIES: u32 = 1;

pub(crate) enum ControllerMessage {
    Fleet(RpcReplyPort<Fleet>),
    Rollouts(
        Box<(RolloutPlan, TrajectoryStore, Option<Unjudged>)>,
        RpcReplyPort<Outcome>,
    ),
    ItemEnded {
        job: u64,
        token: LeaseToken,
        result: ItemResult,
    },
    /// An item has its verdicts, or cannot have them.
    ItemJudged {
        job: u64,
        item: ItemId,
        result: Result<Box<Trajectory>, FleetError>,
    },
    /// Trajectories without verdicts were written.
    ItemsKept {
        job: u64,
        /// The store, and the items. A store that failed is closed.
        result: Result<(Box<TrajectoryStore>, Vec<ItemId>), String>,
    },
    Written {
        job: u64,
        /// The store, and how many trajectories were written. A store that failed is closed.
        result: Result<(Box<TrajectoryStore>, u64), String>,
    },
    /// An engine of another node is ready.
    Arrived(Arrival),
    /// A worker is left out, and is to be cured.
    Sick(Sick),
    /// The quarantine of a sampler of this process is over.
    Recovered(Who),
    /// There is more to give out.
    GoOn,
    Tick,
}

/// A handle to a running controller. The actors live until [`Controller::stop`], which waits for their
/// end, or until it is dropped.
pub struct Controller {
    actor: ActorRef<ControllerMessage>,
    fleet: Fleet,
    ended: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.actor.stop(None);
    }
}

impl Controller {
    /// Starts the controller and, under it, every actor of the plan.
    ///
    /// # Errors
    /// When an actor cannot be started: the message is the actor's own.
    pub async fn start(plan: FleetPlan) -> Result<Self, RolloutError> {
        let failed = |error: &dyn std::fmt::Display| RolloutError::Controller(error.to_string());
        let (actor, ended) = Actor::spawn(None, Supervisor, plan)
            .await
            .map_err(|error| failed(&error))?;
        let fleet =
            ractor::call!(actor, ControllerMessage::Fleet).map_err(|error| failed(&error))?;
        Ok(Self {
            actor,
            fleet,
            ended: Some(ended),
        })
    }

    /// Handles to the other actors.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Generates, judges and stores every item of the plan that the store does not hold yet, those first
    /// that were sampled and not judged, and gives the store back: a store has one holder at a time, so its folder is free again as soon
    /// as the caller drops it.
    ///
    /// # Errors
    /// When the store cannot be written, or the controller died; the store is closed then. Items
    /// that failed are no error but part of the report, and so are those that cannot be judged, up to
    /// the share that the plan allows. When the judges are away for too long.
    pub async fn rollouts(
        &self,
        plan: RolloutPlan,
        store: TrajectoryStore,
    ) -> Result<(RolloutReport, TrajectoryStore), RolloutError> {
        let folder = plan.unjudged.clone();
        let opened = crate::blocking::run(move || {
            let open = |folder: PathBuf| Unjudged::open(&folder, &store);
            let unjudged = folder.map(open).transpose();
            unjudged.map(|unjudged| (store, unjudged))
        });
        let opened = opened
            .await
            .map_err(|error| RolloutError::Controller(error.to_string()))?;
        let (store, unjudged) = opened.map_err(|error| RolloutError::Store(error.to_string()))?;
        let work = Box::new((plan, store, unjudged));
        ractor::call!(self.actor, |port| ControllerMessage::Rollouts(work, port))
            .map_err(|error| RolloutError::Controller(error.to_string()))?
    }

    /// Stops every actor and waits for the last of them.
    pub async fn stop(mut self) {
        self.end().await;
        if let Some(ended) = self.ended.take()
            && let Err(error) = ended.await
        {
            tracing::warn!(%error, "The controller ended with a panic.");
        }
    }

    /// The same through a shared handle.
    pub(crate) async fn end(&self) {
        if let Err(error) = self.actor.stop_and_wait(None, Some(2 * STOP_LIMIT)).await {
            tracing::warn!(%error, "The controller did not end in time.");
        }
    }
}

struct Supervisor;

struct State {
    plan: FleetPlan,
    fleet: Fleet,
    job: Option<Job>,
    /// Jobs so far; numbers them, so that a late message of one is not taken for another's.
    jobs: u64,
}

impl State {
    fn job_with(&mut self, id: u64) -> Option<&mut Job> {
        self.job.as_mut().filter(|job| job.id() == id)
    }
}

#[ractor::async_trait]
impl Actor for Supervisor {
    type Msg = ControllerMessage;
    type State = State;
    type Arguments = FleetPlan;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        plan: FleetPlan,
    ) -> Result<State, ActorProcessingErr> {
        let fleet = start_fleet(&plan, &myself).await?;
        if let Some(engagement) = &plan.elsewhere {
            engagement.begin(myself.clone());
        }
        myself.send_interval(TICK, || ControllerMessage::Tick);
        Ok(State {
            plan,
            fleet,
            job: None,
            jobs: 0,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ControllerMessage::Fleet(port) => drop(port.send(state.fleet.clone())),
            ControllerMessage::Rollouts(work, port) => match &state.job {
                Some(_) => drop(port.send(Err(RolloutError::Busy))),
                None => {
                    state.jobs += 1;
                    let (plan, store, unjudged) = *work;
                    let fleet = state.fleet.clone();
                    let job = Job::new(state.jobs, plan, store, unjudged, fleet, &myself, port);
                    state.job = Some(job);
                }
            },
            ControllerMessage::ItemEnded {
                job: id,
                token,
                result,
            } => {
                if let Some(job) = state.job_with(id) {
                    job.item_ended(token, result, &myself);
                }
            }
            ControllerMessage::ItemJudged {
                job: id,
                item,
                result,
            } => {
                if let Some(job) = state.job_with(id) {
                    job.item_judged(item, result);
                }
            }
            ControllerMessage::ItemsKept { job: id, result } => {
                if let Some(job) = state.job_with(id) {
                    job.kept(result);
                }
            }
            ControllerMessage::Written { job: id, result } => {
                if let Some(job) = state.job_with(id) {
                    job.written(result);
                }
            }
            ControllerMessage::Arrived(arrival) => {
                take_in(&state.fleet, arrival, &myself.get_cell()).await?;
            }
            ControllerMessage::Sick(sick) => cure(state, sick, &myself),
            ControllerMessage::Recovered(who) => recover(state, who, &myself.get_cell()).await?,
            ControllerMessage::GoOn => {}
            ControllerMessage::Tick => {
                if let Some(job) = &mut state.job {
                    job.tick(&myself);
                }
            }
        }
        if let Some(job) = &mut state.job
            && job.advance(&myself)
        {
            state.job = None;
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(engagement) = &state.plan.elsewhere {
            engagement.end();
        }
        // A job that is not done ends here: the folder of its store is free.
        state.job = None;
        // Engines hold gigabytes: what starts next must not find them still there.
        stop_children(&myself.get_cell()).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                restart(state, &who, &error.to_string(), &myself.get_cell()).await
            }
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                let reason = reason.unwrap_or_else(|| "it stopped".to_owned());
                restart(state, &who, &reason, &myself.get_cell()).await
            }
            _ => Ok(()),
        }
    }
}

/// Stops all children and waits for them. They are told in the order in which they were started: the
/// framework's own order is drawn by chance, and what they send as they end would be, too.
async fn stop_children(supervisor: &ActorCell) {
    let mut children = supervisor.get_children();
    children.sort_by_key(ActorCell::get_id);
    let ends = children
        .iter()
        .map(|child| child.stop_and_wait(None, Some(STOP_LIMIT)));
    // One that is not there any more, or hangs, keeps nobody waiting for longer.
    drop(futures::future::join_all(ends).await);
}

/// The health of the workers of a role, told to `controller`.
fn vitals(plan: &FleetPlan, role: Role, controller: &ActorRef<ControllerMessage>) -> Vitals {
    let controller = controller.clone();
    let tell = move |sick| {
        // A controller that is gone cures nobody.
        let _ = controller.send_message(ControllerMessage::Sick(sick));
    };
    Vitals::new(role, plan.quarantine_after, plan.patience, Box::new(tell))
}

async fn start_fleet(
    plan: &FleetPlan,
    controller: &ActorRef<ControllerMessage>,
) -> Result<Fleet, ActorProcessingErr> {
    let me = &controller.get_cell();
    let vitals = |role| vitals(plan, role, controller);
    let elsewhere = plan.elsewhere.as_ref();
    let comes = |role| elsewhere.is_some_and(|engagement| engagement.roles().contains(&role));
    let epoch = Arc::default();
    let group = match elsewhere.filter(|_| comes(Role::Learner)) {
        Some(engagement) => {
            Some(replicas::start(engagement.clone(), Arc::clone(&epoch), me).await?)
        }
        None => None,
    };
    let fleet = Fleet {
        samplers: Pool::new(
            "sampler",
            SERVICE_TRIES,
            comes(Role::Sampler),
            vitals(Role::Sampler),
        ),
        tools: Pool::new(
            "tool executor",
            SERVICE_TRIES,
            comes(Role::Tool),
            vitals(Role::Tool),
        ),
        judges: Pool::new(
            "judge",
            SERVICE_TRIES,
            comes(Role::Judge),
            vitals(Role::Judge),
        ),
        judge_patience: Arc::new(Patience::new("judge", plan.judge_patience)),
        // A step that fails is made again by the group: nobody is left out here.
        learner: Pool::new(
            "learner",
            LEARNER_TRIES,
            false,
            Vitals::new(Role::Learner, 0, plan.patience, Box::new(|_| {})),
        ),
        restarts: Arc::new(RestartCounts::default()),
        published: Arc::default(),
        epoch,
        trainers: elsewhere.filter(|_| group.is_some()).cloned(),
        group: group.clone(),
        stop: plan.stop.clone(),
        saving: elsewhere.map(Engagement::saving).unwrap_or_default(),
    };
    for engine in &plan.samplers {
        start(&fleet.samplers, Sampler, engine.clone(), me).await?;
    }
    if let Some(registry) = &plan.registry {
        for _ in 0..plan.tool_executors.max(1) {
            start(&fleet.tools, ToolExecutor, registry.clone(), me).await?;
        }
    }
    if let Some(judges) = &plan.judges {
        for _ in 0..plan.judge_actors.max(1) {
            start(&fleet.judges, Judge, judges.clone(), me).await?;
        }
    }
    if let Some(engine) = &plan.learner {
        start(&fleet.learner, Learner, engine.clone(), me).await?;
    }
    if let Some(group) = group {
        start(&fleet.learner, replicas::Front, group, me).await?;
    }
    Ok(fleet)
}

/// Starts an actor of this process.
async fn start<A: Actor>(
    pool: &Pool<A::Msg>,
    actor: A,
    engine: A::Arguments,
    me: &ActorCell,
) -> Result<(), ActorProcessingErr> {
    let (actor, _) = Actor::spawn_linked(None, actor, engine, me.clone()).await?;
    pool.insert(actor, Who::Here(pool.arrivals()), false);
    Ok(())
}

/// Has a worker that is left out cured: its node opens the engine again, or ends. What this process
/// itself has is tried again once, and then given up.
fn cure(state: &State, sick: Sick, controller: &ActorRef<ControllerMessage>) {
    let Sick {
        role,
        who,
        sentence,
        reason,
    } = sick;
    match who {
        Who::Node(node) => {
            if let Some(engagement) = &state.plan.elsewhere {
                engagement.renew(&node, role, sentence.remedy, &reason);
            }
        }
        Who::Here(_) if sentence.remedy == Remedy::Reopen => {
            let pause = Duration::from_millis(sentence.pause_ms);
            controller.send_after(pause, move || ControllerMessage::Recovered(who));
        }
        Who::Here(number) => {
            let who = Who::Here(number);
            tracing::error!(
                number,
                reason,
                "A sampler of this process does not work any more."
            );
            state.fleet.samplers.given_up(&who);
        }
    }
}

/// Takes a sampler of this process in again, for a trial.
async fn recover(state: &State, who: Who, me: &ActorCell) -> Result<(), ActorProcessingErr> {
    let Who::Here(number) = &who else {
        return Ok(());
    };
    if let Some(engine) = state.plan.samplers.get(*number as usize).cloned() {
        let (actor, _) = Actor::spawn_linked(None, Sampler, engine, me.clone()).await?;
        tokio::spawn(catch_up(state.fleet.clone(), actor, who, None));
    }
    Ok(())
}

/// Starts the actor that stands for an engine on another node.
async fn take_in(
    fleet: &Fleet,
    arrival: Arrival,
    me: &ActorCell,
) -> Result<(), ActorProcessingErr> {
    let (role, engine) = (arrival.role, arrival.engine.clone());
    let who = Who::Node(engine.node().clone());
    tracing::info!(role = %role, node = %engine.node(), "An engine of another node joins.");
    match role {
        Role::Sampler => {
            let actor = stand_in(engine, me).await?;
            tokio::spawn(catch_up(fleet.clone(), actor, who, None));
        }
        Role::Tool => admit(&fleet.tools, stand_in(engine, me).await?, who),
        Role::Judge => admit(&fleet.judges, stand_in(engine, me).await?, who),
        Role::Learner => {
            if let Some(group) = &fleet.group {
                group.send_message(GroupMessage::Arrived(arrival))?;
            }
        }
        Role::Controller => {}
    }
    Ok(())
}

/// Takes an engine of another node in once its quarantine is over, if it is in one.
fn admit<M: Message>(pool: &Pool<M>, actor: ActorRef<M>, who: Who) {
    let pool = pool.clone();
    tokio::spawn(async move {
        let is_on_trial = pool.vitals.admit(&who).await;
        pool.insert(actor, who, is_on_trial);
    });
}

async fn stand_in<M: PassOn>(
    engine: Arc<RemoteEngine>,
    me: &ActorCell,
) -> Result<ActorRef<M>, ActorProcessingErr> {
    let (actor, _) = Actor::spawn_linked(None, StandIn::new(), engine, me.clone()).await?;
    Ok(actor)
}

/// Starts a new actor in the place of one of this process that ended (AC-1). One that stood for
/// another node leaves the pool.
async fn restart(
    state: &State,
    who: &ActorCell,
    reason: &str,
    me: &ActorCell,
) -> Result<(), ActorProcessingErr> {
    let (plan, fleet) = (&state.plan, &state.fleet);
    let counts = &fleet.restarts;
    let sampler = |id: u32| plan.samplers.get(id as usize).cloned();
    renew(
        &fleet.samplers,
        &counts.samplers,
        who,
        reason,
        me,
        Sampler,
        sampler,
    )
    .await?;
    let registry = |_| plan.registry.clone();
    renew(
        &fleet.tools,
        &counts.tools,
        who,
        reason,
        me,
        ToolExecutor,
        registry,
    )
    .await?;
    let judges = |_| plan.judges.clone();
    renew(
        &fleet.judges,
        &counts.judges,
        who,
        reason,
        me,
        Judge,
        judges,
    )
    .await?;
    let learner = |_| plan.learner.clone();
    renew(
        &fleet.learner,
        &counts.learner,
        who,
        reason,
        me,
        Learner,
        learner,
    )
    .await
}

async fn renew<A: Actor>(
    pool: &Pool<A::Msg>,
    count: &AtomicU64,
    who: &ActorCell,
    reason: &str,
    me: &ActorCell,
    actor: A,
    engine: impl FnOnce(u32) -> Option<A::Arguments>,
) -> Result<(), ActorProcessingErr>
where
    A::Msg: Message,
{
    let Some(id) = pool.id_of(who.get_id()) else {
        return Ok(());
    };
    let Some(Who::Here(number)) = pool.who(id) else {
        pool.remove(id);
        return Ok(());
    };
    if let Some(engine) = engine(number) {
        count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(reason, "An actor ended and is started again.");
        let (actor, _) = Actor::spawn_linked(None, actor, engine, me.clone()).await?;
        pool.replace(id, actor);
    }
    Ok(())
}
