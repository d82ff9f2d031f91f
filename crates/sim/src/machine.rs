//! The simulation's machines: each runs a node, which dies, comes back, and is slow at times.

use crate::World;
use crate::engines::{Health, Place, Sampler, Slowness, judges, registry};
use crate::head::{Ordered, controller};
use crate::learners::Learner;
use actors::node::{self, DialFault, Dialler, NodeEnd, NodePlan};
use actors::ports::EngineError;
use actors::remote::{Engine, Files, Outfitter};
use async_trait::async_trait;
use bytes::Bytes;
use proto::cluster::EngineOrder;
use proto::{Identity, NodeName, Role};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use transport::memory::{Listener, Network};
use transport::{Connection, Duplex, Lane, Outgoing};

/// After so long whatever starts processes starts one that has ended again.
const STARTED_AGAIN: Duration = Duration::from_secs(5);

/// A machine.
pub(crate) struct Machine {
    pub name: NodeName,
    roles: BTreeSet<Role>,
    pub slowness: Slowness,
    /// What ails its samplers.
    pub health: Health,
    /// It damages the weights that it gives on.
    pub lies: Arc<AtomicBool>,
    /// It takes no connections.
    is_hidden: bool,
    /// It never comes back.
    pub is_gone: bool,
    /// The newest last.
    pub processes: Vec<Process>,
}

/// A process of a node.
pub(crate) struct Process {
    boot: u64,
    task: AbortHandle,
    stop: Option<oneshot::Sender<()>>,
    end: Arc<Mutex<Option<NodeEnd>>>,
}

impl Process {
    /// It has not ended, and is not about to.
    pub(crate) fn is_alive(&self) -> bool {
        !self.task.is_finished() && self.stop.is_some() && self.end().is_none()
    }

    pub(crate) fn end(&self) -> Option<NodeEnd> {
        self.end.lock().expect("no holder panics").clone()
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// Asks it to leave.
    pub(crate) fn leave(&mut self) {
        if let Some(stop) = self.stop.take() {
            // One that has ended needs no word.
            let _ = stop.send(());
        }
    }
}

impl Machine {
    pub(crate) fn new(number: usize, roles: BTreeSet<Role>, is_hidden: bool) -> Self {
        let name = format!("n-{number:03}")
            .parse()
            .expect("a name of letters and digits");
        let slowness = Slowness::default();
        slowness.store(1, Ordering::Relaxed);
        Self {
            name,
            roles,
            slowness,
            health: Health::default(),
            lies: Arc::default(),
            is_hidden,
            is_gone: false,
            processes: Vec::new(),
        }
    }

    pub(crate) fn samples(&self) -> bool {
        self.roles.contains(&Role::Sampler)
    }

    pub(crate) fn trains(&self) -> bool {
        self.has(Role::Learner)
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The process that was started last.
    pub(crate) fn newest_boot(&self) -> Option<u64> {
        self.processes.last().map(|process| process.boot)
    }

    /// Whether others that stay can do all that it does.
    pub(crate) fn is_spare(&self, all: &[Self]) -> bool {
        self.roles.iter().all(|role| {
            let has_it = |other: &&Self| other.roles.contains(role) && !other.is_gone;
            all.iter().filter(has_it).count() > 1
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.processes.iter().any(Process::is_alive)
    }

    /// Starts a process.
    pub(crate) fn start(&mut self, world: &Arc<World>, boot: u64) {
        let name = self.name.clone();
        world
            .account
            .note(format_args!("{name} starts as {boot:x}"));
        let identity = Identity {
            name: name.clone(),
            roles: self.roles.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let plan = NodePlan {
            name: name.clone(),
            roles: self.roles.clone(),
            version: "sim".into(),
            config: None,
            boot,
            device: "cpu".into(),
            outfitter: Arc::new(Outfit {
                world: world.clone(),
                node: name.clone(),
                boot,
                slowness: self.slowness.clone(),
                health: self.health.clone(),
                first: world.account.engines_opened() + 1,
            }),
            dialler: Arc::new(Way {
                listener: (!self.is_hidden).then(|| world.network.listen(identity.clone()).into()),
                lies: self.lies.clone(),
                network: world.network.clone(),
                identity,
            }),
            contact: watch::Sender::default(),
        };
        let end = Arc::new(Mutex::new(None));
        let (ended, account, launcher) = (end.clone(), world.account.clone(), world.clone());
        let task = tokio::spawn(async move {
            let stop = async move {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let how = node::run(plan, stop).await;
            account.note(format_args!("{name} ({boot:x}) ends: {how:?}"));
            let is_sick = matches!(how, NodeEnd::Sick(_));
            *ended.lock().expect("no holder panics") = Some(how);
            if is_sick {
                tokio::time::sleep(STARTED_AGAIN).await;
                restart(&launcher, &name, boot);
            }
        });
        self.processes.push(Process {
            boot,
            task: task.abort_handle(),
            stop: Some(stop),
            end,
        });
    }
}

/// Starts a process of a machine in the place of one that has ended, as launchers do.
fn restart(world: &Arc<World>, name: &NodeName, boot: u64) {
    let mut machines = world.machines();
    let machine = machines.iter_mut().find(|machine| machine.name == *name);
    if let Some(machine) = machine
        && !machine.is_alive()
        && !machine.is_gone
    {
        machine.start(world, boot.rotate_left(7) ^ 0x5eed);
    }
}

struct Way {
    network: Network,
    identity: Identity,
    listener: Option<tokio::sync::Mutex<Listener>>,
    lies: Arc<AtomicBool>,
}

impl Way {
    async fn dial(&self, lane: Lane) -> Result<Arc<dyn Connection>, DialFault> {
        self.to(&controller().name, lane).await
    }

    async fn to(&self, name: &NodeName, lane: Lane) -> Result<Arc<dyn Connection>, DialFault> {
        let dialled = self.network.dial(self.identity.clone(), name, lane).await;
        dialled.map_err(|error| DialFault::Unreachable(error.to_string()))
    }
}

#[async_trait]
impl Dialler for Way {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Control).await
    }

    async fn data(&self, _: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Data).await
    }

    async fn bulk(&self, _: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Bulk).await
    }

    fn address(&self) -> Option<String> {
        self.listener
            .as_ref()
            .map(|_| self.identity.name.to_string())
    }

    async fn node(&self, name: &NodeName, _: &str) -> Result<Arc<dyn Connection>, DialFault> {
        self.to(name, Lane::Bulk).await
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let accepted = self.listener.as_ref()?.lock().await.accept().await?;
        let lies = self.lies.clone();
        Some(Arc::new(Liar { accepted, lies }))
    }
}

/// A connection over which weights are given on, damaged at times.
struct Liar {
    accepted: Arc<dyn Connection>,
    lies: Arc<AtomicBool>,
}

struct LyingOutgoing(Box<dyn Outgoing>, Arc<AtomicBool>);

#[async_trait]
impl Outgoing for LyingOutgoing {
    async fn send(&mut self, bytes: Bytes) -> std::io::Result<()> {
        // A single byte says that something follows.
        if bytes.len() == 1 || !self.1.load(Ordering::Relaxed) {
            return self.0.send(bytes).await;
        }
        let mut bent = bytes.to_vec();
        if let Some(last) = bent.last_mut() {
            *last ^= 1;
        }
        self.0.send(bent.into()).await
    }

    async fn finish(&mut self) -> std::io::Result<()> {
        self.0.finish().await
    }
}

#[async_trait]
impl Connection for Liar {
    fn peer(&self) -> &Identity {
        self.accepted.peer()
    }

    fn lane(&self) -> Lane {
        self.accepted.lane()
    }

    fn path(&self) -> transport::Path {
        self.accepted.path()
    }

    fn runtime(&self) -> Handle {
        self.accepted.runtime()
    }

    async fn open(&self) -> std::io::Result<Duplex> {
        self.accepted.open().await
    }

    async fn accept(&self) -> std::io::Result<Duplex> {
        let Duplex { outgoing, incoming } = self.accepted.accept().await?;
        let outgoing = Box::new(LyingOutgoing(outgoing, self.lies.clone()));
        Ok(Duplex { outgoing, incoming })
    }

    fn close(&self, reason: &str) {
        self.accepted.close(reason);
    }
}

struct Outfit {
    world: Arc<World>,
    node: NodeName,
    boot: u64,
    slowness: Slowness,
    health: Health,
    /// The first engine that this process could open.
    first: u64,
}

impl Outfit {
    fn root(&self) -> PathBuf {
        self.world.folder().join(self.node.as_str())
    }

    fn place(&self, what: &str, credits: u32, takes_ms: u64) -> Place {
        let who = (self.node.clone(), self.boot);
        // Requests that arrive twice are worked on twice.
        let credits = if self.world.scenario.is_harsh {
            u32::MAX
        } else {
            credits
        };
        let account = self.world.account.clone();
        Place::new(account, who, self.slowness.clone(), what, credits, takes_ms)
    }
}

#[async_trait]
impl Outfitter for Outfit {
    fn folder(&self) -> Option<PathBuf> {
        Some(self.root())
    }

    async fn open(&self, order: &EngineOrder, files: Files) -> Result<Engine, EngineError> {
        let fault = |error: serde_json::Error| EngineError(error.to_string());
        let ordered: Ordered = serde_json::from_slice(&order.order).map_err(fault)?;
        let scenario = &self.world.scenario;
        let takes = scenario.open_ms * u64::from(self.slowness.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(takes)).await;
        let root = self.root();
        if let Some(model) = &ordered.model {
            let folder = root.join("model");
            let pulled = files.bring(model, &folder).await?;
            self.world.account.files_came(pulled.from_nodes_bytes);
            self.world.compare_model(&self.node, &folder);
        }
        let credits = scenario.credits;
        Ok(match order.role {
            Role::Tool => Engine::Tools(
                registry(self.place("tools", credits, scenario.service_ms)),
                credits,
            ),
            Role::Judge => Engine::Judges(
                judges(self.place("judges", credits, scenario.service_ms)),
                credits,
            ),
            Role::Learner => {
                let folder = root.join(format!("learner-{}", ordered.number));
                let checkpoint = match &ordered.checkpoint {
                    Some((name, set)) => {
                        let path = folder.join(name);
                        let pulled = files.bring(set, &path).await?;
                        self.world.account.files_came(pulled.from_nodes_bytes);
                        Some(path)
                    }
                    None => None,
                };
                let number = self.world.ward.open(&self.node, self.boot).await?;
                let place = self.place("learner", 1, scenario.step_ms);
                let world = self.world.clone();
                let checkpoint = checkpoint.as_deref();
                let learner = Learner::open(world, place, number, folder, checkpoint)?;
                Engine::Learner(Arc::new(learner))
            }
            Role::Sampler | Role::Controller => {
                let place = self.place("sampler", credits, scenario.sample_ms);
                let sampler = Sampler::new(place, self.health.clone(), self.first);
                Engine::Sampler(Arc::new(sampler), credits)
            }
        })
    }
}
