//! The simulation's controller: a run in two phases, which is begun again wherever it died.

use crate::engines::{ByteTurns, CHUNK_BYTES, Place, Slowness, own_judges, registry};
use crate::{Scenario, World};
use actors::cluster::{Cluster, ClusterPlan, Engagement, Order, Orders};
use actors::ports::EngineError;
use actors::remote::{Blobs, CheckpointHook, Loan, SpreadPlan};
use actors::training::{self, PolicyPlan, StateBalance, StateWeighting, TrainingError};
use actors::{Controller, Fleet, FleetPlan, Progress, RolloutPlan};
use async_trait::async_trait;
use control::ledger::LedgerConfig;
use control::rollout::Limits;
use proto::files::FileSet;
use proto::{Identity, Question, Role, SamplingParams};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::TrajectoryStore;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tools::parser::ActionTags;

/// Who leads.
pub(crate) fn controller() -> Identity {
    Identity {
        name: "controller".parse().expect("a name of letters"),
        roles: [Role::Controller].into(),
    }
}

/// An order as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ordered {
    pub model: Option<FileSet>,
    pub checkpoint: Option<(String, FileSet)>,
    pub number: u32,
}

/// Stops a task when it is dropped.
struct Stopped(AbortHandle);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn background(work: impl Future<Output = ()> + Send + 'static) -> Stopped {
    Stopped(tokio::spawn(work).abort_handle())
}

/// How one life of the controller ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LifeEnd {
    /// The run is done.
    Done,
    /// It gave up as it may: learners were lost again and again.
    GaveUp,
    /// It failed.
    Failed(String),
}

/// A controller's process whose work has ended.
pub(crate) struct Life {
    pub end: LifeEnd,
    pub cluster: Cluster,
    _background: [Stopped; 2],
}

/// A process of the controller, from its start to the end of its work.
pub(crate) async fn life(world: Arc<World>, process: u64) -> Life {
    world
        .account
        .note(format_args!("the controller starts as {process:x}"));
    let cluster = Cluster::new(ClusterPlan {
        run: "sim".into(),
        version: "sim".into(),
        config: "sim".into(),
        data_port: 1,
        weights: SpreadPlan {
            fan_out: world.scenario.fan_out,
            deltas: world.scenario.deltas,
            chunk_bytes: CHUNK_BYTES,
        },
        requires_gpu: false,
    });
    let mut listener = world.network.listen(controller());
    let admitting = cluster.clone();
    let admitting = background(async move {
        while let Some(connection) = listener.accept().await {
            admitting.admit(connection);
        }
    });
    let (watched, account) = (cluster.clone(), world.account.clone());
    let watching = background(async move {
        let mut counts = watched.counts();
        while counts.changed().await.is_ok() {
            let members = watched.members();
            account.note(format_args!("{} members", members.len()));
            account.members(&members);
        }
    });
    let head = Head {
        world: world.clone(),
        cluster: cluster.clone(),
        process,
    };
    let end = head.run().await;
    world
        .account
        .note(format_args!("the controller's work ends: {end:?}"));
    Life {
        end,
        cluster,
        _background: [admitting, watching],
    }
}

struct Head {
    world: Arc<World>,
    cluster: Cluster,
    process: u64,
}

impl Head {
    async fn run(&self) -> LifeEnd {
        if let Err(reason) = self.rollouts().await {
            return LifeEnd::Failed(reason);
        }
        if self.world.exported().exists() {
            return LifeEnd::Done;
        }
        match self.train().await {
            Ok(()) => {
                self.world.account.trained();
                LifeEnd::Done
            }
            Err(TrainingError::NoProgress(..)) => LifeEnd::GaveUp,
            Err(error) => LifeEnd::Failed(error.to_string()),
        }
    }

    fn fleet(&self, name: &str, roles: &[Role], here: &[Role]) -> FleetPlan {
        let (world, scenario) = (&self.world, &self.world.scenario);
        let place = |what: &str| {
            let slowness = Slowness::new(1.into());
            let who = (controller().name, self.process);
            let (account, credits) = (world.account.clone(), scenario.credits);
            Place::new(account, who, slowness, what, credits, scenario.service_ms)
        };
        let credits = scenario.credits as usize;
        let orders = SimOrders {
            world: world.clone(),
            roles: roles.iter().copied().collect(),
            fleet: format!("{:x}-{name}", self.process),
        };
        FleetPlan {
            registry: here.contains(&Role::Tool).then(|| registry(place("tools"))),
            tool_executors: credits,
            judges: here
                .contains(&Role::Judge)
                .then(|| own_judges(place("judges"))),
            judge_actors: 1,
            judge_patience: Duration::from_secs(7200),
            quarantine_after: 3,
            patience: Duration::from_secs(7200),
            elsewhere: Some(Engagement::new(self.cluster.clone(), Arc::new(orders))),
            ..FleetPlan::default()
        }
    }

    async fn rollouts(&self) -> Result<(), String> {
        let (world, scenario) = (&self.world, &self.world.scenario);
        let store = TrajectoryStore::open(world.trajectories());
        let store = store.map_err(|error| error.to_string())?;
        world.account.store_opened(store.len() as u64);
        if store.len() as u64 == scenario.items() {
            return Ok(());
        }
        let plan = match scenario.services_here {
            true => self.fleet("rollouts", &[Role::Sampler], &[Role::Tool, Role::Judge]),
            false => self.fleet("rollouts", &[Role::Sampler, Role::Tool, Role::Judge], &[]),
        };
        let started = Controller::start(plan)
            .await
            .map_err(|error| error.to_string())?;
        let (progress, mut told) = watch::channel(Progress::default());
        let account = world.account.clone();
        let telling = background(async move {
            while told.changed().await.is_ok() {
                account.acknowledged(told.borrow_and_update().stored);
            }
        });
        let watching = self.watch(started.fleet());
        let done = started.rollouts(rollout_plan(world, progress), store).await;
        drop((telling, watching));
        let (report, store) = done.map_err(|error| error.to_string())?;
        world.account.acknowledged(report.stored);
        started.stop().await;
        match report.failed.first() {
            Some((item, reason)) => Err(format!("{item} was given up: {reason}")),
            None if store.len() as u64 != scenario.items() => Err("items are missing".to_owned()),
            None => Ok(()),
        }
    }

    /// Looks who is left out, where it is known who may be (SI-11).
    fn watch(&self, fleet: &Fleet) -> Stopped {
        let (world, fleet) = (self.world.clone(), fleet.clone());
        background(async move {
            if !world.scenario.sick.is_alone {
                return;
            }
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.account.left_out(&fleet.left_out());
            }
        })
    }

    async fn train(&self) -> Result<(), TrainingError> {
        let (world, scenario) = (&self.world, &self.world.scenario);
        let plan = match scenario.services_here {
            true => self.fleet("training", &[Role::Sampler, Role::Learner], &[Role::Judge]),
            false => self.fleet(
                "training",
                &[Role::Sampler, Role::Learner, Role::Judge],
                &[],
            ),
        };
        let policy = policy_plan(world);
        let started = Controller::start(plan).await;
        let started = started.expect("a controller without engines of its own starts");
        let fleet = started.fleet().clone();
        let _watching = self.watch(&fleet);
        loop {
            training::policy(&fleet, &policy, |report| {
                let epoch = report.metrics.get("epoch").map(|epoch| *epoch as u32);
                world.account.step_taken(epoch, report.step);
                let metric = |name| report.metrics.get(name).copied().unwrap_or_default();
                let given_on = metric("publication_node_bytes") as u64;
                let saved = metric("publication_saved_bytes") as u64;
                world.account.spread(given_on, saved);
                if scenario.sick.is_alone {
                    let took = Duration::from_secs_f64(metric("sampling_seconds"));
                    let (well, limit) = paces(scenario);
                    world.account.batch_took(took, well, limit);
                }
            })
            .await?;
            match fleet.learner().await?.export(world.exported()).await {
                Err(error) if error.is_gone() => {}
                exported => break exported?,
            }
        }
        started.stop().await;
        Ok(())
    }
}

/// Longest time that a sampler that is well takes for a call, and the time limit that a call can have:
/// three times as long as one that is slow takes for 64 tokens, where it samples 18 at least.
fn paces(scenario: &Scenario) -> (Duration, Duration) {
    let way = 8 * (scenario.rules.delay + scenario.rules.jitter);
    let well = Duration::from_millis(scenario.sample_ms * 3 / 2) + way;
    let slow = 10 * well;
    // Whether it is over is looked at now and then.
    let limit = (slow * 3 * 64 / 18 + Duration::from_secs(120)) * 9 / 8;
    (well, limit + Duration::from_secs(10))
}

fn tags() -> ActionTags {
    ActionTags::new([("math_exp".to_owned(), "calculator".to_owned())])
}

fn question(n: u32) -> Question {
    Question {
        id: format!("q{n:03}").as_str().into(),
        dataset: "sim".into(),
        split: "train".into(),
        question: format!("{n}+1"),
        answer: (n + 1).to_string(),
        answer_aliases: vec![],
        reference_steps: vec![],
    }
}

fn rollout_plan(world: &World, progress: watch::Sender<Progress>) -> RolloutPlan {
    let scenario = &world.scenario;
    RolloutPlan {
        run: "sim".into(),
        model: "sim".into(),
        questions: (0..scenario.questions).map(question).collect(),
        samples: scenario.samples,
        params: SamplingParams::greedy(64, tags().close_tags()),
        seed: scenario.seed,
        limits: Limits {
            max_steps: 5,
            max_context_tokens: 4096,
            max_action_tokens: 64,
            ends_on: BTreeSet::new(),
        },
        tags: tags(),
        turns: Arc::new(ByteTurns),
        items_per_sampler: scenario.items_per_sampler,
        // An item that is given up here is a defect.
        ledger: LedgerConfig {
            lease_ms: scenario.lease_ms,
            max_tries: 3,
            max_losses: 16,
            straggler_factor: 3,
        },
        max_unjudged_share: 0.0,
        unjudged: None,
        progress,
    }
}

fn policy_plan(world: &World) -> PolicyPlan {
    let scenario = &world.scenario;
    let store = TrajectoryStore::open(world.trajectories()).expect("it is closed and whole");
    let mut all: Vec<_> = store.iter().map(|t| t.expect("it is whole")).collect();
    all.sort_by(|a, b| a.item.cmp(&b.item));
    PolicyPlan {
        states: training::states_of(all),
        weighting: StateWeighting::PerState,
        balance: StateBalance::Off,
        steps: scenario.steps,
        updates_per_batch: scenario.updates_per_batch,
        states_per_step: scenario.states_per_step,
        actions_per_state: 2,
        refill: 0,
        params: SamplingParams {
            temperature: 1.0,
            ..SamplingParams::greedy(64, tags().close_tags())
        },
        tags: tags(),
        seed: scenario.seed,
        checkpoint_every: scenario.checkpoint_every,
        max_logprob_difference: 0.1,
        max_unjudged_share: 0.0,
        unjudged_before: 0,
    }
}

struct SimOrders {
    world: Arc<World>,
    roles: BTreeSet<Role>,
    fleet: String,
}

fn lend(blobs: &Blobs, folder: &Path, loans: &mut Vec<Loan>) -> Result<FileSet, EngineError> {
    let lent = blobs.lend_folder(folder);
    let (files, loan) = lent.map_err(|error| EngineError(error.to_string()))?;
    loans.push(loan);
    Ok(files)
}

#[async_trait]
impl Orders for SimOrders {
    fn roles(&self) -> BTreeSet<Role> {
        self.roles.clone()
    }

    async fn order(&self, role: Role, blobs: &Blobs) -> Result<Order, EngineError> {
        // Files are read meanwhile.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut loans = Vec::new();
        let mut ordered = Ordered {
            model: None,
            checkpoint: None,
            number: 0,
        };
        match role {
            Role::Sampler => ordered.model = Some(lend(blobs, &self.world.model(), &mut loans)?),
            Role::Learner => {
                ordered.number = self.world.next_number();
                if let Some((name, path)) = newest(&self.world.checkpoints()) {
                    let files = lend(blobs, &path, &mut loans)?;
                    ordered.checkpoint = Some((name, files));
                }
            }
            _ => {}
        }
        let order = serde_json::to_vec(&ordered).map_err(|e| EngineError(e.to_string()))?;
        Ok(Order {
            key: format!("{}-{role}-{}", self.fleet, ordered.number),
            order,
            epoch: ordered.number,
            loans: Arc::new(loans),
        })
    }

    fn replicas(&self) -> usize {
        self.world.scenario.replicas
    }

    fn keep_shares(&self) -> bool {
        self.world.scenario.keep_shares
    }

    async fn next_epoch(&self) -> Result<u32, EngineError> {
        let epoch = self.world.next_number();
        self.world.account.epoch_handed_out(epoch);
        Ok(epoch)
    }

    fn checkpoints(&self) -> Option<(PathBuf, CheckpointHook)> {
        let account = self.world.account.clone();
        let hook = move |folder: &Path| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            account.note(format_args!("checkpoint {name}"));
        };
        Some((self.world.checkpoints(), Arc::new(hook)))
    }
}

/// The newest checkpoint.
fn newest(folder: &Path) -> Option<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let steps = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("step_")?.parse::<u64>().ok()
    });
    let name = format!("step_{}", steps.max()?);
    let path = folder.join(&name);
    Some((name, path))
}
