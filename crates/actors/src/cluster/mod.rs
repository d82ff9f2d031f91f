//! The controller's side of a cluster: nodes join, get engines to hold, and are lost.
//!
//! A [`Cluster`] lives as long as the run. Each fleet of the run engages it for what nodes are to do
//! ([`Engagement`]); whatever node is there, or joins while it lasts, gets its orders, and the fleet's
//! controller is told of every engine that is open.
//!
//! - **CL-1 (so many learners).** At most as many nodes train as the orders say, in one group
//!   (`crate::replicas`); others stand by. One of these takes the place of a learner that is lost and
//!   stays away.
//! - **CL-2 (kept).** A node that finds back within the same process keeps its engines, and a learner
//!   the steps it has made, unless others went on without it.
//! - **CL-3 (own session).** A message of the control lane counts for the session that began on its own
//!   link, whatever its body says; the data lane and the bulk lane count for sessions of the name in the
//!   connection's certificate. No certificate ends or prolongs the session of another.
//! - **CL-4 (renewed).** An engine that is to be cured is not kept: its node opens it again, also when it
//!   was away meanwhile; one that stays sick has its process end. Processes that train are not ended.
//! - **CL-5 (left out for a while).** A learner that its group cannot go on with is closed, its place is
//!   free, and it is opened anew after a while, twice as long each time. A process whose learner hangs
//!   again is told to end: what hangs in it may be its device.

mod lanes;
mod orders;
#[cfg(test)]
mod tests;

use crate::controller::ControllerMessage;
use crate::ports::EngineError;
use crate::remote::{Blobs, CheckpointHook, Loan, RemoteEngine, SpreadPlan, Spreading, method};
use crate::stopping::Saving;
use async_trait::async_trait;
use control::membership::{Member, Membership, MembershipConfig, NodeId};
use control::openings::Openings;
use control::quarantine::Remedy;
use control::readmission::Readmission;
use control::replicas::Cause;
use proto::{NodeName, Role, RunId};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{Connection, Lane, Link};

/// How often a node is to be heard of.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A node that was not heard of for so long is lost. QUIC notices most losses before.
const LOST_AFTER: Duration = Duration::from_millis(2500);

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(250);

/// How long a peer may take for what takes no time.
const PROMPT: Duration = Duration::from_secs(5);

/// How long a node may take to open its engines: large models are pulled and loaded.
const OPEN_LIMIT: Duration = Duration::from_secs(3600);

/// Time limit for a node to open an engine again, beside three times as long as the first time.
const RENEW_LIMIT: Duration = Duration::from_secs(600);

/// Attempts to open an engine again before its process is to end.
const RENEW_TRIES: u32 = 3;

/// Pause before a node that could not open its engines is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// How long a learner that was lost may take to find back before a node that stands by takes its place.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// What nodes are told of the run.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// The run.
    pub run: RunId,
    /// The version of this program: nodes have the same.
    pub version: String,
    /// The hash of the configuration.
    pub config: String,
    /// The UDP port of all lanes but control.
    pub data_port: u16,
    /// The way of weights and files to nodes.
    pub weights: SpreadPlan,
    /// Whether nodes that sample or train must compute on a GPU.
    pub requires_gpu: bool,
}

/// Says how engines are to be opened.
#[async_trait]
pub trait Orders: Send + Sync + 'static {
    /// The roles that nodes are to take on.
    fn roles(&self) -> BTreeSet<Role>;

    /// How an engine is to be opened. Files that it needs are lent by `blobs`.
    /// A learner is asked for anew for each node: its order goes on from the newest checkpoint.
    ///
    /// # Errors
    /// When it cannot be said; it is asked for again later.
    async fn order(&self, role: Role, blobs: &Blobs) -> Result<Order, EngineError>;

    /// How many learners train side by side, at most.
    fn replicas(&self) -> usize {
        1
    }

    /// Whether each learner keeps a share of the optimizer's state alone.
    fn keep_shares(&self) -> bool {
        false
    }

    /// The number of the next group of learners: higher than any before it, those of learners' orders
    /// included, whatever happened to the controller meanwhile.
    ///
    /// # Errors
    /// When it cannot be kept.
    async fn next_epoch(&self) -> Result<u32, EngineError> {
        Err(EngineError("nobody trains by these orders".to_owned()))
    }

    /// Where checkpoints of a learner on another node are kept, and what is done with each.
    fn checkpoints(&self) -> Option<(PathBuf, CheckpointHook)> {
        None
    }
}

/// How an engine is to be opened.
#[derive(Clone)]
pub struct Order {
    /// Names the engine: one of the same key is kept open.
    pub key: String,
    /// What the node is told.
    pub order: Vec<u8>,
    /// Of a learner: its number, counted together with epochs of groups.
    pub epoch: u32,
    /// Files that it needs are lent as long as this lives.
    pub loans: Arc<Vec<Loan>>,
}

impl Order {
    /// The same for an engine that was renewed so often: another one.
    fn renewed(mut self, times: u32) -> Self {
        if times > 0 {
            self.key = format!("{}+{times}", self.key);
        }
        self
    }
}

/// What other nodes do for a fleet.
#[derive(Clone)]
pub struct Engagement {
    cluster: Cluster,
    orders: Arc<dyn Orders>,
}

impl Engagement {
    /// Has the nodes of a cluster work by these orders.
    pub fn new(cluster: Cluster, orders: Arc<dyn Orders>) -> Self {
        Self { cluster, orders }
    }

    pub(crate) fn roles(&self) -> BTreeSet<Role> {
        self.orders.roles()
    }

    pub(crate) fn begin(&self, controller: ActorRef<ControllerMessage>) {
        self.cluster.engage(self.orders.clone(), controller);
    }

    pub(crate) fn end(&self) {
        self.cluster.disengage();
    }

    /// Checkpoints that nodes want before they leave.
    pub(crate) fn saving(&self) -> Saving {
        self.cluster.0.saving.clone()
    }

    pub(crate) fn replicas(&self) -> usize {
        self.orders.replicas()
    }

    pub(crate) fn keep_shares(&self) -> bool {
        self.orders.keep_shares()
    }

    /// Has the others go on without a learner; after how long it is tried again (CL-5).
    pub(crate) fn leave_out(&self, engine: &RemoteEngine, cause: &Cause) -> Duration {
        self.cluster.leave_out(engine.id, &engine.node, cause)
    }

    /// A learner has made a step with others.
    pub(crate) fn of_use(&self, node: &NodeName) {
        self.cluster.lock().left_out.of_use(node);
    }

    /// Whether an engine is what its node was last told to open as a learner.
    pub(crate) fn is_ordered(&self, arrival: &Arrival) -> bool {
        self.cluster.is_ordered(arrival)
    }

    /// Number of learners that are there or being opened.
    pub(crate) fn learners(&self) -> usize {
        self.cluster.learners()
    }

    /// The same without those that take much longer to open than others did.
    pub(crate) fn awaited_learners(&self) -> usize {
        self.cluster.awaited_learners()
    }

    /// The number of a group that is to be formed. What learners are opened with from now on is older
    /// than what it has.
    pub(crate) async fn next_epoch(&self) -> Result<u32, EngineError> {
        self.cluster.group_begins();
        self.orders.next_epoch().await
    }

    /// Has a node open its engine for a role again, or end its process, to be started again.
    pub(crate) fn renew(&self, node: &NodeName, role: Role, remedy: Remedy, reason: &str) {
        self.cluster.renew(node, role, remedy, reason);
    }

    /// Has learners that were ordered before this epoch opened anew, but for those that are away: they
    /// may come back with more. For `None` all of them, wherever they are.
    pub(crate) fn renew_learners(&self, epoch: Option<u32>) {
        self.cluster.renew_learners(epoch);
    }
}

/// An engine of a node that is open.
pub(crate) struct Arrival {
    pub role: Role,
    pub engine: Arc<RemoteEngine>,
    /// As [`Order::epoch`].
    pub number: u32,
    /// Of a learner: the number that it was opened under, if no group could go on at that time; or 0.
    pub lineage: u32,
    /// Of a learner: it was left out before, and has made no step since.
    pub is_on_trial: bool,
}

/// The nodes of a run. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    plan: ClusterPlan,
    started: Instant,
    blobs: Blobs,
    spreading: Spreading,
    state: Mutex<State>,
    /// One order is made at a time: of two nodes that could train only one is told to.
    ordering: tokio::sync::Mutex<()>,
    /// Checkpoints that nodes want before they leave.
    saving: Saving,
    /// How many members there are of each role.
    counts: watch::Sender<BTreeMap<Role, usize>>,
}

struct State {
    membership: Membership,
    nodes: BTreeMap<NodeId, Node>,
    engaged: Option<Engaged>,
    /// Engagements so far; numbers them.
    engagements: u64,
    is_closed: bool,
    /// Learners that others could not go on with (CL-5).
    left_out: Readmission<NodeName>,
    /// Time that learners take to open, and whose process hangs.
    openings: Openings,
}

struct Node {
    control: Link,
    data: Option<Link>,
    bulk: Option<Arc<dyn Connection>>,
    /// The engagement whose orders it has.
    ordered: Option<u64>,
    /// How often it was given orders: who gave them last asks again when they cannot be taken.
    times_ordered: u64,
    /// Whether it is to train is being found out.
    is_undecided: bool,
    /// Engines that a controller was told of, as long as they are of use.
    engines: Vec<Weak<RemoteEngine>>,
    /// It is about to leave.
    is_draining: bool,
    /// Engines that a controller was told of: the engagement, and the key of the order.
    arrived: BTreeSet<(u64, String)>,
    /// Time that it took to open what it was first told to.
    opened_in: Option<Duration>,
    /// One assignment at a time, so that none undoes a later one.
    equipping: Arc<tokio::sync::Mutex<()>>,
    /// Since when the one that is under way lasts.
    equipping_since: Option<Instant>,
    /// It was told to end: the end of its connections is no loss.
    is_ending: bool,
}

struct Engaged {
    number: u64,
    orders: Arc<dyn Orders>,
    controller: ActorRef<ControllerMessage>,
    known: BTreeMap<Role, Order>,
    /// Number of times that engines were renewed (CL-4).
    renewals: BTreeMap<(NodeName, Role), u32>,
    /// By name and process.
    learners: BTreeMap<(NodeName, u64), Learning>,
    /// No group of learners can go on, or there was none yet: what they are opened with is the newest
    /// there is.
    is_without_group: bool,
}

/// A node that trains, or is to.
struct Learning {
    order: Order,
    /// As [`Arrival::lineage`].
    lineage: u32,
    /// Since when it is away.
    away: Option<Instant>,
}

impl Cluster {
    /// A cluster without a node. Its watch over silent nodes runs on the current runtime.
    pub fn new(plan: ClusterPlan) -> Self {
        let config = MembershipConfig {
            lost_after_ms: LOST_AFTER.as_millis() as u64,
            requires_gpu: plan.requires_gpu,
        };
        let membership = Membership::new(config, plan.version.clone(), plan.config.clone());
        let blobs = Blobs::new(plan.weights.chunk_bytes);
        let inner = Arc::new(Inner {
            spreading: Spreading::new(plan.weights, blobs.clone()),
            plan,
            started: Instant::now(),
            blobs,
            state: Mutex::new(State {
                membership,
                nodes: BTreeMap::new(),
                engaged: None,
                engagements: 0,
                is_closed: false,
                left_out: Readmission::default(),
                openings: Openings::default(),
            }),
            ordering: tokio::sync::Mutex::default(),
            saving: Saving::default(),
            counts: watch::Sender::default(),
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(inner) = weak.upgrade() else { return };
                Cluster(inner).expire();
            }
        });
        Self(inner)
    }

    /// Takes a connection of a node, whatever its lane, and serves it until it ends.
    pub fn admit(&self, connection: Arc<dyn Connection>) {
        let cluster = self.clone();
        tokio::spawn(async move {
            let (peer, lane) = (connection.peer().clone(), connection.lane());
            let served = match lane {
                Lane::Control => cluster.control(connection).await,
                Lane::Data => cluster.data(connection).await,
                Lane::Bulk => cluster.bulk(connection).await,
                Lane::Gradients => Err("the controller has no part in gradients".to_owned()),
            };
            let Err(reason) = served else { return };
            if cluster.lock().is_closed {
                tracing::info!(node = %peer.name, %lane, reason, "A node's connection ends with the run.");
            } else {
                tracing::warn!(node = %peer.name, %lane, reason, "A node's connection ended early.");
            }
        });
    }

    /// Bytes that nodes have pulled from here so far.
    pub fn given_bytes(&self) -> u64 {
        self.0.blobs.given_bytes()
    }

    /// Bytes of files that were read here for their hashes so far.
    pub fn hashed_bytes(&self) -> u64 {
        self.0.blobs.hashed_bytes()
    }

    /// Name and process of every member.
    pub fn members(&self) -> Vec<(NodeName, u64)> {
        let state = self.lock();
        let members = state.membership.members();
        members
            .map(|(_, member)| (member.name.clone(), member.boot))
            .collect()
    }

    /// How many members have each role, at every moment.
    pub fn counts(&self) -> watch::Receiver<BTreeMap<Role, usize>> {
        self.0.counts.subscribe()
    }

    /// Waits until there are so many members of each role.
    pub async fn wait_for(&self, wanted: &BTreeMap<Role, usize>) {
        let mut counts = self.counts();
        let enough = |counts: &BTreeMap<Role, usize>| {
            let has = |role: &Role| counts.get(role).copied().unwrap_or(0);
            wanted.iter().all(|(role, count)| has(role) >= *count)
        };
        // The sender lives as long as this cluster.
        let _ = counts.wait_for(enough).await;
    }

    /// Tells every node that the run is over. Nobody joins any more.
    pub async fn close(&self, reason: &str) {
        let links: Vec<Link> = {
            let mut state = self.lock();
            state.is_closed = true;
            state
                .nodes
                .values()
                .map(|node| node.control.clone())
                .collect()
        };
        let tell = links.iter().map(|link| async move {
            let told = link.call(method::END, reason.as_bytes(), PROMPT).await;
            if let Err(error) = told {
                tracing::debug!(node = %link.peer().name, %error, "A node was not told of the end.");
            }
        });
        futures::future::join_all(tell).await;
        for link in links {
            link.close(reason);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder panics")
    }

    fn now_ms(&self) -> u64 {
        self.0.started.elapsed().as_millis() as u64
    }

    fn tell_counts(&self, state: &State) {
        let count = |role: Role| (role, state.membership.count(role));
        let counts = Role::ALL.into_iter().map(count).collect();
        self.0.counts.send_replace(counts);
    }

    fn expire(&self) {
        let now = self.now_ms();
        let mut state = self.lock();
        let silent = state.membership.expire(now);
        let nodes: Vec<_> = silent
            .into_iter()
            .inspect(|(id, _)| self.0.spreading.leave(*id))
            .filter_map(|(id, member)| Some((member, state.nodes.remove(&id)?)))
            .collect();
        if nodes.is_empty() {
            return;
        }
        self.tell_counts(&state);
        drop(state);
        self.learner_lost();
        for (member, node) in nodes {
            let silent_ms = now.saturating_sub(member.heard_ms);
            let reason = format!("silent for {silent_ms} ms");
            tracing::warn!(node = %member.name, reason, "A node is lost.");
            end_node(
                &node,
                "the controller has not heard of this node for too long",
            );
        }
    }

    /// A node's connection broke. Once the run is over, or it was told to end, that is how sessions end.
    fn lost(&self, id: NodeId, reason: &str) {
        let is_told = {
            let state = self.lock();
            let node = state.nodes.get(&id);
            state.is_closed || node.is_some_and(|node| node.is_ending)
        };
        if let Some(member) = self.end_session(id, reason) {
            match is_told {
                true => tracing::info!(node = %member.name, reason, "A node is dismissed."),
                false => tracing::warn!(node = %member.name, reason, "A node is lost."),
            }
        }
    }

    /// A node is about to be told to end.
    fn ends(&self, id: NodeId) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.is_ending = true;
        }
    }

    /// A node says that it leaves.
    fn left(&self, id: NodeId) {
        if let Some(member) = self.end_session(id, "it leaves") {
            self.lock().openings.left(&member.name);
            tracing::info!(node = %member.name, "A node leaves.");
        }
    }

    fn end_session(&self, id: NodeId, reason: &str) -> Option<Member> {
        let mut state = self.lock();
        let member = state.membership.remove(id);
        let node = state.nodes.remove(&id);
        self.0.spreading.leave(id);
        self.tell_counts(&state);
        drop(state);
        if let Some(node) = node {
            self.learner_lost();
            end_node(&node, reason);
        }
        member
    }
}

/// Closes what is left of a stay: nothing that is under way counts any more.
fn end_node(node: &Node, reason: &str) {
    node.control.close(reason);
    if let Some(data) = &node.data {
        data.close(reason);
    }
    if let Some(bulk) = &node.bulk {
        bulk.close(reason);
    }
}
