//! The controller's side of a cluster: nodes join, get engines to hold, and are lost.
//!
//! A [`Cluster`] lives as long as the run. Each fleet of the run engages it for what nodes are to do
//! ([`Engagement`]); whatever node is there, or joins while it lasts, gets its orders, and the fleet's
//! controller is told of every engine that is open.
//!
//! - **CL-1 (one learner).** At most one node trains. Another takes over only when that one is lost,
//!   under a new epoch.
//! - **CL-2 (kept).** A node that finds back within the same process keeps its engines, and a learner
//!   the steps it has made, unless another learner took over meanwhile.

use crate::controller::ControllerMessage;
use crate::ports::EngineError;
use crate::remote::{Blobs, CheckpointHook, RemoteEngine, method};
use async_trait::async_trait;
use bytes::Bytes;
use control::membership::{Joined, Joining, Member, Membership, MembershipConfig, NodeId};
use proto::cluster::{Assignment, EngineOrder, Heartbeat, Join, Opened, Welcome};
use proto::{Identity, NodeName, Role, RunId, codec};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use transport::{Connection, Handler, Lane, Limits, Link, Request, bulk};

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

/// Pause before a node that could not open its engines is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// How long a learner that was lost may take to find back before another node takes over: it still has
/// the steps that it made since its last checkpoint.
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
    /// The UDP port of the bulk lane.
    pub bulk_port: u16,
}

/// Says how engines are to be opened.
#[async_trait]
pub trait Orders: Send + Sync + 'static {
    /// The roles that nodes are to take on.
    fn roles(&self) -> BTreeSet<Role>;

    /// How an engine is to be opened. Files that it needs are lent by `blobs`, as long as this lives.
    /// A learner is asked for anew whenever another node takes over: the order then goes on from the
    /// newest checkpoint, under a new epoch.
    ///
    /// # Errors
    /// When it cannot be said; it is asked for again later.
    async fn order(&self, role: Role, blobs: &Blobs) -> Result<Order, EngineError>;

    /// Where checkpoints of a learner on another node are kept, and what is done with each.
    fn checkpoints(&self) -> Option<(PathBuf, CheckpointHook)> {
        None
    }
}

/// How an engine is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Names the engine: one of the same key is kept open.
    pub key: String,
    /// What the node is told.
    pub order: Vec<u8>,
    /// Of a learner: its epoch.
    pub epoch: u32,
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
}

/// An engine of a node that is open.
pub(crate) struct Arrival {
    pub role: Role,
    pub engine: Arc<RemoteEngine>,
    pub epoch: u32,
}

/// The nodes of a run. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    plan: ClusterPlan,
    started: Instant,
    blobs: Blobs,
    state: Mutex<State>,
    /// One order is made at a time: of two nodes that could train only one is told to.
    ordering: tokio::sync::Mutex<()>,
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
}

struct Node {
    control: Link,
    data: Option<Link>,
    bulk: Option<Arc<dyn Connection>>,
    /// The engagement whose orders it has.
    ordered: Option<u64>,
    /// Engines that a controller was told of: the engagement, and the key of the order.
    arrived: BTreeSet<(u64, String)>,
    /// One assignment at a time, so that none undoes a later one.
    equipping: Arc<tokio::sync::Mutex<()>>,
}

struct Engaged {
    number: u64,
    orders: Arc<dyn Orders>,
    controller: ActorRef<ControllerMessage>,
    known: BTreeMap<Role, Order>,
    learner: Option<Learning>,
}

/// Who trains.
struct Learning {
    name: NodeName,
    boot: u64,
    order: Order,
}

impl Cluster {
    /// A cluster without a node. Its watch over silent nodes runs on the current runtime.
    pub fn new(plan: ClusterPlan) -> Self {
        let config = MembershipConfig {
            lost_after_ms: LOST_AFTER.as_millis() as u64,
        };
        let membership = Membership::new(config, plan.version.clone(), plan.config.clone());
        let inner = Arc::new(Inner {
            plan,
            started: Instant::now(),
            blobs: Blobs::default(),
            state: Mutex::new(State {
                membership,
                nodes: BTreeMap::new(),
                engaged: None,
                engagements: 0,
                is_closed: false,
            }),
            ordering: tokio::sync::Mutex::default(),
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
            if let Err(reason) = served {
                tracing::warn!(node = %peer.name, %lane, reason, "A node's connection ended early.");
            }
        });
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

    /// The control lane: the node joins, is heard of, and is lost with it.
    async fn control(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
        let (joined, join) = oneshot::channel();
        let handler = Arc::new(ControlHandler {
            cluster: self.clone(),
            peer: connection.peer().clone(),
            joined: Mutex::new(Some(joined)),
            link: watch::Sender::new(None),
        });
        let opening = Link::open(connection, handler.clone(), Limits::default());
        let link = tokio::time::timeout(PROMPT, opening).await;
        let link = link.map_err(|_| "it opened no stream".to_owned())?;
        let link = link.map_err(|error| error.to_string())?;
        handler.link.send_replace(Some(link.clone()));
        let joined = tokio::time::timeout(PROMPT, join).await;
        // The handler keeps the link alive otherwise.
        handler.link.send_replace(None);
        let id = match joined {
            Ok(Ok(id)) => id,
            Ok(Err(_)) => return Err(link.closed().await),
            Err(_) => return Err("it did not join".to_owned()),
        };
        let reason = link.closed().await;
        self.lost(id, &reason);
        Ok(())
    }

    fn join(
        &self,
        peer: &Identity,
        join: Join,
        control: Link,
    ) -> Result<(NodeId, Welcome), String> {
        if join.name != peer.name {
            let (claims, is) = (&join.name, &peer.name);
            return Err(format!(
                "it calls itself {claims}, and its certificate says {is}"
            ));
        }
        let joining = Joining {
            identity: peer.clone(),
            boot: join.boot,
            roles: join.roles,
            version: join.version,
            config: join.config,
        };
        let now = self.now_ms();
        let mut state = self.lock();
        if state.is_closed {
            return Err("the run is over".to_owned());
        }
        let joined = state.membership.join(joining, now);
        let Joined { id, replaced } = joined.map_err(|refusal| refusal.to_string())?;
        let node = Node {
            control,
            data: None,
            bulk: None,
            ordered: None,
            arrived: BTreeSet::new(),
            equipping: Arc::default(),
        };
        state.nodes.insert(id, node);
        let old = replaced.and_then(|replaced| Some((state.nodes.remove(&replaced.id)?, replaced)));
        self.tell_counts(&state);
        drop(state);
        if let Some((old, replaced)) = old {
            match replaced.is_same_process {
                true => end_node(&old, "the node joined again"),
                false => {
                    end_engines(&old, REPLACED);
                    self.learner_lost();
                    tokio::spawn(expel(old));
                }
            }
        }
        tracing::info!(node = %peer.name, "A node joined.");
        let plan = &self.0.plan;
        let welcome = Welcome {
            node: id.0,
            run: plan.run.clone(),
            config: plan.config.clone(),
            bulk_port: plan.bulk_port,
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
        };
        Ok((id, welcome))
    }

    /// The data lane: the node says which stay it belongs to.
    async fn data(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
        let (said, hello) = oneshot::channel();
        let handler = Arc::new(HelloHandler(Mutex::new(Some(said))));
        let opening = Link::open(connection.clone(), handler, Limits::default());
        let opened = tokio::time::timeout(PROMPT, opening).await;
        let link = opened.map_err(|_| "it opened no stream".to_owned())?;
        let link = link.map_err(|error| error.to_string())?;
        let id = tokio::time::timeout(PROMPT, hello).await;
        let id = id
            .ok()
            .and_then(Result::ok)
            .ok_or("it did not say who it is")?;
        {
            let mut state = self.lock();
            let id = NodeId(id);
            let is_its = state
                .membership
                .get(id)
                .is_some_and(|m| m.name == connection.peer().name);
            let node = state.nodes.get_mut(&id).filter(|_| is_its);
            node.ok_or("it is no member")?.data = Some(link.clone());
            self.order(&mut state, id);
        }
        let reason = link.closed().await;
        self.lost(NodeId(id), &reason);
        Ok(())
    }

    /// The bulk lane: both sides pull over it.
    async fn bulk(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
        let id = {
            let mut state = self.lock();
            let mut members = state.membership.members();
            let member = members.find(|(_, member)| member.name == connection.peer().name);
            let id = member.map(|(id, _)| id);
            drop(members);
            let node = id.and_then(|id| Some((id, state.nodes.get_mut(&id)?)));
            let (id, node) = node.ok_or("it is no member")?;
            node.bulk = Some(connection.clone());
            self.order(&mut state, id);
            id
        };
        bulk::serve(connection, Arc::new(self.0.blobs.clone())).await;
        self.lost(id, "its bulk lane ended");
        Ok(())
    }

    fn expire(&self) {
        let now = self.now_ms();
        let mut state = self.lock();
        let silent = state.membership.expire(now);
        let nodes: Vec<_> = silent
            .into_iter()
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

    fn lost(&self, id: NodeId, reason: &str) {
        let mut state = self.lock();
        let member = state.membership.remove(id);
        let node = state.nodes.remove(&id);
        self.tell_counts(&state);
        drop(state);
        if let Some(member) = member {
            tracing::warn!(node = %member.name, reason, "A node is lost.");
        }
        if let Some(node) = node {
            self.learner_lost();
            end_node(&node, reason);
        }
    }

    /// Has another node train if the one that does is lost and stays away.
    fn learner_lost(&self) {
        let is_away = |state: &State, number: Option<u64>| {
            let engaged = state
                .engaged
                .as_ref()
                .filter(|e| number.is_none_or(|n| n == e.number))?;
            let learner = engaged.learner.as_ref()?;
            let is_it = |m: &Member| m.name == learner.name && m.boot == learner.boot;
            let is_there = state.membership.members().any(|(_, m)| is_it(m));
            (!is_there).then_some(engaged.number)
        };
        let Some(number) = is_away(&self.lock(), None) else {
            return;
        };
        let cluster = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TAKE_OVER).await;
            let mut state = cluster.lock();
            if is_away(&state, Some(number)).is_none() {
                return;
            }
            let able = state
                .membership
                .members()
                .filter(|(_, m)| m.roles.contains(&Role::Learner));
            let able: Vec<NodeId> = able.map(|(id, _)| id).collect();
            for id in able {
                if let Some(node) = state.nodes.get_mut(&id) {
                    node.ordered = None;
                }
                cluster.order(&mut state, id);
            }
        });
    }

    fn engage(&self, orders: Arc<dyn Orders>, controller: ActorRef<ControllerMessage>) {
        let mut state = self.lock();
        state.engagements += 1;
        state.engaged = Some(Engaged {
            number: state.engagements,
            orders,
            controller,
            known: BTreeMap::new(),
            learner: None,
        });
        let ids: Vec<NodeId> = state.nodes.keys().copied().collect();
        for id in ids {
            self.order(&mut state, id);
        }
    }

    fn disengage(&self) {
        self.lock().engaged = None;
    }

    /// Begins to give a node its orders, if there are any and it is complete.
    fn order(&self, state: &mut State, id: NodeId) {
        let Some(number) = state.engaged.as_ref().map(|engaged| engaged.number) else {
            return;
        };
        let Some(node) = state.nodes.get_mut(&id) else {
            return;
        };
        if node.data.is_none() || node.bulk.is_none() || node.ordered == Some(number) {
            return;
        }
        node.ordered = Some(number);
        let cluster = self.clone();
        let equipping = node.equipping.clone();
        tokio::spawn(async move {
            let _one = equipping.lock().await;
            while let Err(error) = cluster.equip(id, number).await {
                tracing::warn!(node = id.0, %error, "A node cannot take its orders; it is asked again.");
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Has a node open its engines, and tells the controller of them. Ends well, too, when the node
    /// or the engagement is over.
    async fn equip(&self, id: NodeId, number: u64) -> Result<(), EngineError> {
        let Some(target) = self.target(id, number) else {
            return Ok(());
        };
        let mut orders = Vec::new();
        for role in target.orders.roles().intersection(&target.roles) {
            if let Some(order) = self.order_for(id, number, *role, &target).await? {
                orders.push((*role, order));
            }
        }
        let engines = orders.iter().map(|(role, order)| EngineOrder {
            role: *role,
            key: order.key.clone(),
            order: order.order.clone(),
        });
        let assignment = Assignment {
            engines: engines.collect(),
        };
        let fault = |error: &dyn std::fmt::Display| EngineError(error.to_string());
        let body = codec::encode(&assignment).map_err(|error| fault(&error))?;
        let opened = target.control.call(method::ASSIGN, &body, OPEN_LIMIT).await;
        let opened = match opened {
            Ok(opened) => codec::decode::<Vec<Opened>>(&opened).map_err(|error| fault(&error))?,
            Err(_) if target.control.close_reason().is_some() => return Ok(()),
            Err(error) => return Err(fault(&error)),
        };
        let mut failure = None;
        for (role, order) in orders {
            let found = opened.iter().find(|opened| opened.role == role);
            match found.map(|opened| &opened.credits) {
                Some(Ok(credits)) => {
                    self.arrived(id, number, role, *credits, order);
                    continue;
                }
                Some(Err(reason)) => failure = Some(format!("{role}: {reason}")),
                None => failure = Some(format!("{role}: nothing was said of it")),
            }
            if role == Role::Learner {
                self.forget_learner(id, number);
            }
        }
        // What is open stays; only what is not is asked for again, for the others are kept.
        failure.map_or(Ok(()), |reason| Err(EngineError(reason)))
    }

    fn target(&self, id: NodeId, number: u64) -> Option<Target> {
        let state = self.lock();
        let engaged = state.engaged.as_ref().filter(|e| e.number == number)?;
        let member = state.membership.get(id)?;
        Some(Target {
            control: state.nodes.get(&id)?.control.clone(),
            roles: member.roles.clone(),
            name: member.name.clone(),
            boot: member.boot,
            orders: engaged.orders.clone(),
        })
    }

    /// The order for a role; none when this node is not to have it.
    async fn order_for(
        &self,
        id: NodeId,
        number: u64,
        role: Role,
        target: &Target,
    ) -> Result<Option<Order>, EngineError> {
        let _one = self.0.ordering.lock().await;
        let known = {
            let mut state = self.lock();
            let state = &mut *state;
            let Some(engaged) = state.engaged.as_mut().filter(|e| e.number == number) else {
                return Ok(None);
            };
            if role == Role::Learner {
                let learner = engaged.learner.as_ref();
                match learner {
                    Some(l) if l.name == target.name && l.boot == target.boot => {
                        return Ok(Some(l.order.clone()));
                    }
                    // CL-1.
                    Some(l)
                        if state.membership.members().any(|(other, m)| {
                            other != id && m.name == l.name && m.boot == l.boot
                        }) =>
                    {
                        return Ok(None);
                    }
                    _ => None,
                }
            } else {
                engaged.known.get(&role).cloned()
            }
        };
        if let Some(order) = known {
            return Ok(Some(order));
        }
        let order = target.orders.order(role, &self.0.blobs).await?;
        let mut state = self.lock();
        if let Some(engaged) = state.engaged.as_mut().filter(|e| e.number == number) {
            if role == Role::Learner {
                engaged.learner = Some(Learning {
                    name: target.name.clone(),
                    boot: target.boot,
                    order: order.clone(),
                });
            } else {
                engaged.known.insert(role, order.clone());
            }
        }
        Ok(Some(order))
    }

    /// A learner that could not be opened must not keep others from it.
    fn forget_learner(&self, id: NodeId, number: u64) {
        let mut state = self.lock();
        let Some(member) = state.membership.get(id).cloned() else {
            return;
        };
        let engaged = state.engaged.as_mut().filter(|e| e.number == number);
        if let Some(engaged) = engaged {
            engaged
                .learner
                .take_if(|l| l.name == member.name && l.boot == member.boot);
        }
    }

    fn arrived(&self, id: NodeId, number: u64, role: Role, credits: u32, order: Order) {
        let mut state = self.lock();
        let state = &mut *state;
        let engaged = state.engaged.as_ref().filter(|e| e.number == number);
        let (Some(engaged), Some(node), Some(member)) =
            (engaged, state.nodes.get_mut(&id), state.membership.get(id))
        else {
            return;
        };
        // Once: a second actor for the same engine would have its credits again.
        if !node.arrived.insert((number, order.key)) {
            return;
        }
        let (Some(link), Some(bulk)) = (&node.data, &node.bulk) else {
            return;
        };
        let (checkpoints, on_checkpoint) = engaged.orders.checkpoints().unzip();
        let engine = RemoteEngine {
            node: member.name.clone(),
            role,
            link: link.clone(),
            bulk: bulk.clone(),
            blobs: self.0.blobs.clone(),
            credits: Semaphore::new(credits.max(1) as usize),
            checkpoints,
            on_checkpoint,
        };
        let arrival = Arrival {
            role,
            engine: Arc::new(engine),
            epoch: order.epoch,
        };
        // A controller that is gone has ended its engagement.
        let _ = engaged
            .controller
            .send_message(ControllerMessage::Arrived(arrival));
    }
}

/// A node that gets orders.
struct Target {
    control: Link,
    roles: BTreeSet<Role>,
    name: NodeName,
    boot: u64,
    orders: Arc<dyn Orders>,
}

/// Closes what is left of a stay.
fn end_node(node: &Node, reason: &str) {
    node.control.close(reason);
    end_engines(node, reason);
}

/// Closes what its engines are reached by: nothing that is under way counts any more.
fn end_engines(node: &Node, reason: &str) {
    if let Some(data) = &node.data {
        data.close(reason);
    }
    if let Some(bulk) = &node.bulk {
        bulk.close(reason);
    }
}

/// Why a process is expelled.
const REPLACED: &str = "another process of the same name joined";

/// A process whose name another one took is told to end, if it still hears; then its stay is closed.
async fn expel(node: Node) {
    let reason = REPLACED;
    let told = node
        .control
        .call(method::EXPEL, reason.as_bytes(), PROMPT)
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, "A process was not told that another one took its name.");
    }
    end_node(&node, reason);
}

/// What a node says on its control lane.
struct ControlHandler {
    cluster: Cluster,
    peer: Identity,
    joined: Mutex<Option<oneshot::Sender<NodeId>>>,
    /// The link that this handles, once it is open.
    link: watch::Sender<Option<Link>>,
}

#[async_trait]
impl Handler for ControlHandler {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        match request.method {
            method::JOIN => {
                let join = codec::decode(&request.body).map_err(|error| error.to_string())?;
                let mut link = self.link.subscribe();
                let link = link.wait_for(Option::is_some).await;
                let link = link.ok().and_then(|link| link.clone());
                let sender = self.joined.lock().expect("no holder panics").take();
                let (Some(link), Some(sender)) = (link, sender) else {
                    return Err("it has joined already".to_owned());
                };
                if self.cluster.lock().is_closed {
                    let reason = "the run is over";
                    let _ = link.call(method::END, reason.as_bytes(), PROMPT).await;
                    return Err(reason.to_owned());
                }
                let (id, welcome) = self.cluster.join(&self.peer, join, link)?;
                // Whoever waits for it has given the node up.
                let _ = sender.send(id);
                encode(&welcome)
            }
            method::HEARTBEAT => {
                let beat: Heartbeat =
                    codec::decode(&request.body).map_err(|error| error.to_string())?;
                let now = self.cluster.now_ms();
                let mut state = self.cluster.lock();
                encode(&state.membership.heard(NodeId(beat.node), now))
            }
            method::LEAVE => {
                let id: u64 = codec::decode(&request.body).map_err(|error| error.to_string())?;
                self.cluster.lost(NodeId(id), "it leaves");
                encode(&())
            }
            method => Err(format!("a controller does not know method {method}")),
        }
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

fn encode<T: serde::Serialize>(answer: &T) -> Result<Bytes, String> {
    codec::encode(answer)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

struct HelloHandler(Mutex<Option<oneshot::Sender<u64>>>);

#[async_trait]
impl Handler for HelloHandler {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        let sender = self.0.lock().expect("no holder panics").take();
        let id: u64 = codec::decode(&request.body).map_err(|error| error.to_string())?;
        match (request.method, sender) {
            (method::HELLO, Some(sender)) => {
                // Whoever waits for it has given the node up.
                let _ = sender.send(id);
                encode(&())
            }
            _ => Err("the data lane takes one greeting".to_owned()),
        }
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}
