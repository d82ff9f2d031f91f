//! The supervisor of every other actor, and the one who hands out rollout work.

use crate::fleet::{Fleet, FleetPlan, RestartCounts};
use crate::pool::Pool;
use crate::rollouts::{Job, Outcome, RolloutError, RolloutPlan, RolloutReport};
use crate::workers::{Judge, Learner, Sampler, ToolExecutor};
use control::ledger::LeaseToken;
use proto::Trajectory;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
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
    Rollouts(Box<(RolloutPlan, TrajectoryStore)>, RpcReplyPort<Outcome>),
    ItemEnded {
        job: u64,
        token: LeaseToken,
        result: Result<Box<Trajectory>, String>,
    },
    Written {
        job: u64,
        /// The store, and how many trajectories were written. A store that failed is closed.
        result: Result<(Box<TrajectoryStore>, u64), String>,
    },
    Tick,
}

/// A handle to a running controller. The actors live until [`Controller::stop`].
pub struct Controller {
    actor: ActorRef<ControllerMessage>,
    fleet: Fleet,
    ended: tokio::task::JoinHandle<()>,
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
            ended,
        })
    }

    /// Handles to the other actors.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Generates, judges and stores every item of the plan that the store does not hold yet, and
    /// gives the store back: a store has one holder at a time, so its folder is free again as soon
    /// as the caller drops it.
    ///
    /// # Errors
    /// When the store cannot be written, or the controller died; the store is closed then. Items
    /// that failed are no error but part of the report.
    pub async fn rollouts(
        &self,
        plan: RolloutPlan,
        store: TrajectoryStore,
    ) -> Result<(RolloutReport, TrajectoryStore), RolloutError> {
        let work = Box::new((plan, store));
        ractor::call!(self.actor, |port| ControllerMessage::Rollouts(work, port))
            .map_err(|error| RolloutError::Controller(error.to_string()))?
    }

    /// Stops every actor and waits for the last of them.
    pub async fn stop(self) {
        self.actor.stop(None);
        if let Err(error) = self.ended.await {
            tracing::warn!(%error, "The controller ended with a panic.");
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
        let fleet = start_fleet(&plan, &myself.get_cell()).await?;
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
                    let (plan, store) = *work;
                    let fleet = state.fleet.clone();
                    state.job = Some(Job::new(state.jobs, plan, store, fleet, port));
                }
            },
            ControllerMessage::ItemEnded {
                job: id,
                token,
                result,
            } => {
                if let Some(job) = state.job_with(id) {
                    job.item_ended(token, result);
                }
            }
            ControllerMessage::Written { job: id, result } => {
                if let Some(job) = state.job_with(id) {
                    job.written(result);
                }
            }
            ControllerMessage::Tick => {
                if let Some(job) = &mut state.job {
                    job.expire();
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
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Engines hold gigabytes: what starts next must not find them still there.
        let children = myself.get_cell();
        children
            .stop_children_and_wait(None, Some(STOP_LIMIT))
            .await;
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

async fn start_fleet(plan: &FleetPlan, me: &ActorCell) -> Result<Fleet, ActorProcessingErr> {
    let mut samplers = Vec::new();
    for engine in &plan.samplers {
        samplers.push(
            Actor::spawn_linked(None, Sampler, engine.clone(), me.clone())
                .await?
                .0,
        );
    }
    let mut tools = Vec::new();
    for _ in 0..plan.tool_executors.max(1) {
        let registry = plan.registry.clone();
        tools.push(
            Actor::spawn_linked(None, ToolExecutor, registry, me.clone())
                .await?
                .0,
        );
    }
    let mut judges = Vec::new();
    for _ in 0..plan.judge_actors.max(1) {
        let set = plan.judges.clone();
        judges.push(Actor::spawn_linked(None, Judge, set, me.clone()).await?.0);
    }
    let learner = match &plan.learner {
        Some(engine) => {
            let actor = Actor::spawn_linked(None, Learner, engine.clone(), me.clone())
                .await?
                .0;
            Some(Pool::new("learner", LEARNER_TRIES, vec![actor]))
        }
        None => None,
    };
    Ok(Fleet {
        samplers: Pool::new("sampler", SERVICE_TRIES, samplers),
        tools: Pool::new("tool executor", SERVICE_TRIES, tools),
        judges: Pool::new("judge", SERVICE_TRIES, judges),
        learner,
        restarts: Arc::new(RestartCounts::default()),
    })
}

/// Starts a new actor in the place of one that ended (AC-1).
async fn restart(
    state: &State,
    who: &ActorCell,
    reason: &str,
    me: &ActorCell,
) -> Result<(), ActorProcessingErr> {
    let (plan, fleet, id) = (&state.plan, &state.fleet, who.get_id());
    let note = |role: &str, count: &AtomicU64| {
        count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(role, reason, "An actor ended and is started again.");
    };
    if let Some(slot) = fleet.samplers.slot_of(id) {
        note("sampler", &fleet.restarts.samplers);
        let engine = plan.samplers[slot].clone();
        fleet.samplers.replace(
            slot,
            Actor::spawn_linked(None, Sampler, engine, me.clone())
                .await?
                .0,
        );
    } else if let Some(slot) = fleet.tools.slot_of(id) {
        note("tool", &fleet.restarts.tools);
        let registry = plan.registry.clone();
        let actor = Actor::spawn_linked(None, ToolExecutor, registry, me.clone())
            .await?
            .0;
        fleet.tools.replace(slot, actor);
    } else if let Some(slot) = fleet.judges.slot_of(id) {
        note("judge", &fleet.restarts.judges);
        let set = plan.judges.clone();
        fleet.judges.replace(
            slot,
            Actor::spawn_linked(None, Judge, set, me.clone()).await?.0,
        );
    } else if let (Some(pool), Some(engine)) = (&fleet.learner, &plan.learner)
        && let Some(slot) = pool.slot_of(id)
    {
        note("learner", &fleet.restarts.learner);
        let engine = engine.clone();
        pool.replace(
            slot,
            Actor::spawn_linked(None, Learner, engine, me.clone())
                .await?
                .0,
        );
    }
    Ok(())
}
