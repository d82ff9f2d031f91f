//! The controller that is measured.

use crate::made_up::ByteTurns;
use crate::{nodes, usage};
use actors::cluster::{Cluster, ClusterPlan, Engagement, Order, Orders};
use actors::ports::EngineError;
use actors::remote::{Blobs, SpreadPlan};
use actors::{Controller, FleetPlan, Progress, RolloutPlan};
use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use control::ledger::LedgerConfig;
use control::rollout::Limits;
use proto::{Question, Role, SamplingParams};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::TrajectoryStore;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tools::parser::ActionTags;
use transport::certs::Credentials;
use transport::{Endpoint, Lane};

/// As often as nodes are to be heard of.
pub const BEATS_PER_SECOND: f64 = 2.0;

/// How long the idle cluster is watched.
const IDLE: Duration = Duration::from_secs(10);

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Job {
    /// Items that a sampler works on at a time.
    #[arg(long, default_value_t = 100)]
    pub items_per_sampler: u32,
    /// How long an action takes, in milliseconds: an item has two.
    #[arg(long, default_value_t = 200)]
    pub takes_ms: u64,
    /// Items in all, at least; at most as many as twice fill all samplers.
    #[arg(long, default_value_t = 20_000)]
    pub items: u32,
}

impl Job {
    pub fn arguments(&self) -> Vec<String> {
        let flag = |name: &str, value: u64| [format!("--{name}"), value.to_string()];
        [
            flag("items-per-sampler", self.items_per_sampler.into()),
            flag("takes-ms", self.takes_ms),
            flag("items", self.items.into()),
        ]
        .concat()
    }
}

/// What it came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Items stored, each once.
    pub items: u64,
    pub seconds: f64,
    /// Processor time of all items.
    pub busy_seconds: f64,
    /// Of a processor, while nothing is to do.
    pub idle_busy_share: f64,
    pub idle_bytes: u64,
    pub most_bytes: u64,
    /// Items that were begun and not stored, at the most.
    pub most_in_flight: u64,
}

/// Says where it listens, says when the cluster stands idle, waits for a line, and says what the job
/// came to.
pub fn run(certs: &Path, samplers: usize, job: &Job) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let credentials = Arc::new(Credentials::load(certs)?);
    let sockets = [nodes::sockets()?, nodes::sockets()?];
    let bind = |runtime: &Runtime, lanes: &[Lane]| {
        let _inside = runtime.enter();
        Endpoint::bind(([127, 0, 0, 1], 0).into(), credentials.clone(), lanes)
    };
    let control = bind(&sockets[0], &[Lane::Control])?;
    let data = bind(&sockets[1], &[Lane::Data, Lane::Bulk])?;
    runtime.block_on(lead([control, data], samplers, job))
}

async fn lead([control, data]: [Endpoint; 2], samplers: usize, job: &Job) -> Result<()> {
    let cluster = Cluster::new(ClusterPlan {
        run: "scale".into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: "scale".to_owned(),
        data_port: data.local_address()?.port(),
        weights: SpreadPlan::default(),
        requires_gpu: false,
    });
    println!("{}", control.local_address()?);
    for endpoint in [control, data] {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                cluster.admit(connection);
            }
        });
    }
    let wanted = nodes::roles().into_iter().map(|role| (role, samplers));
    cluster.wait_for(&wanted.collect::<BTreeMap<_, _>>()).await;
    let plan = FleetPlan {
        elsewhere: Some(Engagement::new(cluster.clone(), Arc::new(AllRoles))),
        ..FleetPlan::default()
    };
    let controller = Controller::start(plan).await?;
    while controller.fleet().sampler_count() < samplers {
        tokio::time::sleep(LOOK).await;
    }
    let (began, busy) = (Instant::now(), usage::busy()?);
    tokio::time::sleep(IDLE).await;
    let idle_busy = (usage::busy()? - busy).as_secs_f64();
    let idle_busy_share = idle_busy / began.elapsed().as_secs_f64();
    let idle_bytes = usage::resident(std::process::id())?;
    println!("idle");
    let read = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    read.await??;

    let folder = tempfile::tempdir()?;
    let store = TrajectoryStore::open(folder.path().join("trajectories"))?;
    let at_once = samplers as u64 * u64::from(job.items_per_sampler);
    let items = at_once.saturating_mul(2).max(job.items.into());
    let turns = Arc::new(ByteTurns::default());
    let (progress, told) = watch::channel(Progress::default());
    let plan = rollout_plan(items, job, turns.clone(), progress);
    let (began, busy) = (Instant::now(), usage::busy()?);
    let most = Arc::new(Most::default());
    let looking = tokio::spawn(look(most.clone(), turns.clone(), told));
    let (report, store) = controller.rollouts(plan, store).await?;
    let seconds = began.elapsed().as_secs_f64();
    let busy_seconds = (usage::busy()? - busy).as_secs_f64();
    looking.abort();
    if let Some((item, reason)) = report.failed.first() {
        let failed = report.failed.len();
        bail!("{failed} items failed, the first is {item}: {reason}");
    }
    ensure!(
        (report.stored, store.len() as u64) == (items, items),
        "{} of {items} items are stored",
        store.len()
    );
    let measured = Measured {
        items,
        seconds,
        busy_seconds,
        idle_busy_share,
        idle_bytes,
        most_bytes: most.bytes.load(Ordering::Relaxed),
        most_in_flight: most.in_flight.load(Ordering::Relaxed),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

#[derive(Default)]
struct Most {
    bytes: AtomicU64,
    in_flight: AtomicU64,
}

async fn look(most: Arc<Most>, turns: Arc<ByteTurns>, told: watch::Receiver<Progress>) {
    loop {
        if let Ok(bytes) = usage::resident(std::process::id()) {
            most.bytes.fetch_max(bytes, Ordering::Relaxed);
        }
        let stored = told.borrow().stored;
        let begun = turns.begun.load(Ordering::Relaxed);
        let in_flight = begun.saturating_sub(stored);
        most.in_flight.fetch_max(in_flight, Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

fn question(number: u64) -> Question {
    Question {
        id: format!("q{number:07}").as_str().into(),
        dataset: "scale".into(),
        split: "train".into(),
        question: format!("{number}+1"),
        answer: (number + 1).to_string(),
        answer_aliases: vec![],
        reference_steps: vec![],
    }
}

fn rollout_plan(
    items: u64,
    job: &Job,
    turns: Arc<ByteTurns>,
    progress: watch::Sender<Progress>,
) -> RolloutPlan {
    let tags = ActionTags::new([("math_exp".to_owned(), "calculator".to_owned())]);
    RolloutPlan {
        run: "scale".into(),
        model: "none".into(),
        questions: (0..items).map(question).collect(),
        samples: 1,
        params: SamplingParams::greedy(64, tags.close_tags()),
        seed: 1,
        limits: Limits {
            max_steps: 5,
            max_context_tokens: 4096,
            max_action_tokens: 64,
            ends_on: BTreeSet::new(),
        },
        tags,
        turns,
        items_per_sampler: job.items_per_sampler,
        ledger: LedgerConfig {
            lease_ms: 3_600_000,
            max_tries: 1,
            max_losses: 1,
            straggler_factor: 0,
        },
        max_unjudged_share: 0.0,
        unjudged: None,
        progress,
    }
}

/// Every node does everything.
struct AllRoles;

#[async_trait]
impl Orders for AllRoles {
    fn roles(&self) -> BTreeSet<Role> {
        nodes::roles()
    }

    async fn order(&self, role: Role, _: &Blobs) -> Result<Order, EngineError> {
        Ok(Order {
            key: role.to_string(),
            order: Vec::new(),
            epoch: 0,
            loans: Arc::default(),
        })
    }
}
