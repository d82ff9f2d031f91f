//! A node: it joins a controller, holds the engines that it is told to, and finds back whenever the
//! connection breaks.

use crate::remote::{Host, Outfitter, method};
use async_trait::async_trait;
use bytes::Bytes;
use control::backoff::Backoff;
use futures::FutureExt;
use futures::future::Shared;
use proto::cluster::{Assignment, Join, JoinRequest, Welcome};
use proto::{NodeName, Role, codec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use transport::{CallError, Connection, DialError, Handler, Limits, Link, Request, bulk};

/// Waits between attempts to join, in milliseconds.
const FIRST_WAIT_MS: u64 = 200;
const LONGEST_WAIT_MS: u64 = 5_000;

/// How long the controller may take for what takes no time.
const PROMPT: Duration = Duration::from_secs(5);

/// What a node is.
pub struct NodePlan {
    /// Its name; that of its certificate.
    pub name: NodeName,
    /// What it is ready to do.
    pub roles: BTreeSet<Role>,
    /// The version of its program.
    pub version: String,
    /// The hash of the configuration it is for; without one, that of the first run it joins.
    pub config: Option<String>,
    /// Drawn anew by each process.
    pub boot: u64,
    /// Its device: `cpu` or `cuda:N`.
    pub device: String,
    /// Opens engines.
    pub outfitter: Arc<dyn Outfitter>,
    /// Finds the controller.
    pub dialler: Arc<dyn Dialler>,
    /// Told of each contact with the controller.
    pub contact: watch::Sender<Contact>,
}

/// Whether a node belongs to a run at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contact {
    /// It looks for the controller.
    #[default]
    Searching,
    /// It has joined, and was heard of this many times.
    Joined(u64),
}

/// The controller cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialFault {
    /// One of the two turned the other away; trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// A later try may succeed.
    #[error("{0}")]
    Unreachable(String),
}

impl From<DialError> for DialFault {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Refused(reason) => Self::Refused(reason),
            error @ DialError::Unreachable { .. } => Self::Unreachable(error.to_string()),
        }
    }
}

/// Makes connections to the controller, and to and from other nodes.
#[async_trait]
pub trait Dialler: Send + Sync + 'static {
    /// The control lane.
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault>;
    /// The data lane, at this port.
    async fn data(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault>;
    /// The bulk lane, at this port.
    async fn bulk(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault>;

    /// Where this node takes connections of others, once the control lane is there; none if it takes
    /// none: then it gives nothing on.
    fn address(&self) -> Option<String> {
        None
    }

    /// The bulk lane of another node, at its [`Dialler::address`].
    async fn node(&self, name: &NodeName, _: &str) -> Result<Arc<dyn Connection>, DialFault> {
        let reason = format!("this node does not reach {name}: it makes no such connections");
        Err(DialFault::Unreachable(reason))
    }

    /// The next connection of another node; `None` if it takes none.
    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        None
    }
}

/// Why a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEnd {
    /// The controller said so; its reason.
    Dismissed(String),
    /// It was asked to, on its own machine.
    Stopped,
    /// The run does not take it; the reason.
    Refused(String),
    /// An engine of it stays sick: its process is to be started again; the reason.
    Sick(String),
}

/// How one stay ended.
enum StayEnd {
    End(NodeEnd),
    /// It is to be tried again.
    Broken(String),
}

/// Time that a node that is to end waits for what is under way at it, unless it is told otherwise.
pub const GRACE: Duration = Duration::from_secs(100);

/// Runs a node until it is dismissed, refused, or `stop` is ready. Then its engines are closed.
pub async fn run(plan: NodePlan, stop: impl Future<Output = ()>) -> NodeEnd {
    run_with(plan, stop, GRACE).await
}

/// As [`run`]. Once `stop` is ready the node takes nothing new, and leaves when nothing is under way at
/// it any more and the controller has a checkpoint of what it trains, but no later than `grace` after.
pub async fn run_with(
    mut plan: NodePlan,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> NodeEnd {
    let host = Arc::new(Host::new(plan.outfitter.clone(), plan.dialler.clone()));
    let _last = Last(host.clone());
    let mut giving = JoinSet::new();
    giving.spawn(give(plan.dialler.clone(), host.given_on()));
    let stop = stop.shared();
    let mut backoff = Backoff::new(FIRST_WAIT_MS, LONGEST_WAIT_MS);
    let mut rng = ChaCha8Rng::seed_from_u64(plan.boot);
    let mut last = String::new();
    let end = loop {
        let mut is_member = false;
        let stay = stay(&mut plan, &host, (stop.clone(), grace), &mut is_member).await;
        plan.contact.send_replace(Contact::Searching);
        if is_member {
            backoff.worked();
        }
        let reason = match stay {
            StayEnd::End(end) => break end,
            StayEnd::Broken(reason) => reason,
        };
        // Once for each new reason: a controller may be away for hours.
        if reason != last {
            tracing::warn!(
                reason,
                "No contact with the controller; the node keeps trying."
            );
        }
        last = if is_member { String::new() } else { reason };
        let wait = Duration::from_millis(backoff.failed(rng.random()));
        tokio::select! {
            biased;
            () = stop.clone() => break NodeEnd::Stopped,
            () = tokio::time::sleep(wait) => {}
        }
    };
    host.close().await;
    end
}

/// Assignments are tasks of their own: with the node they end, also where nobody waits for its end.
struct Last(Arc<Host>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// Gives other nodes what they pull, for as long as it is not dropped.
async fn give(dialler: Arc<dyn Dialler>, source: Arc<dyn bulk::Source>) {
    let mut serving = JoinSet::new();
    while let Some(connection) = dialler.accept().await {
        while serving.try_join_next().is_some() {}
        serving.spawn(bulk::serve(connection, source.clone()));
    }
    // Those that are there end with their connections.
    while serving.join_next().await.is_some() {}
}

async fn stay(
    plan: &mut NodePlan,
    host: &Arc<Host>,
    (stop, grace): (Shared<impl Future<Output = ()>>, Duration),
    is_member: &mut bool,
) -> StayEnd {
    let broken = |reason: String| StayEnd::Broken(reason);
    let (end, mut ended) = watch::channel(None);
    let joining = join(plan, host, &end);
    let joined = tokio::select! {
        biased;
        () = stop.clone() => return StayEnd::End(NodeEnd::Stopped),
        joined = joining => joined,
    };
    let joined = match joined {
        Ok(joined) => joined,
        // It came back too late to be a member, and was told so.
        Err(_) if ended.borrow().is_some() => {
            let end = ended.borrow().clone();
            return StayEnd::End(end.unwrap_or(NodeEnd::Stopped));
        }
        Err(DialFault::Refused(reason)) => return StayEnd::End(NodeEnd::Refused(reason)),
        Err(DialFault::Unreachable(reason)) => return broken(reason),
    };
    *is_member = true;
    plan.config = Some(joined.welcome.config.clone());
    tracing::info!(run = %joined.welcome.run, "Joined the run.");
    // Cloned at once, so that no guard is held across an await.
    let dismissed = async {
        ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| end.clone())
    };
    let leaving = async {
        stop.await;
        tracing::info!("The node takes nothing new, and leaves when nothing is under way.");
        // Answered when that is so. It leaves all the same when that takes too long.
        let _ = joined.control.call(method::DRAIN, &[], grace).await;
        // If it is not heard, the loss of the connection is.
        let _ = joined.control.call(method::LEAVE, &[], PROMPT).await;
        StayEnd::End(NodeEnd::Stopped)
    };
    tokio::select! {
        biased;
        end = leaving => end,
        end = dismissed => {
            // The answer to it is under way.
            let _ = tokio::time::timeout(PROMPT, joined.control.closed()).await;
            StayEnd::End(end.unwrap_or(NodeEnd::Stopped))
        }
        reason = joined.control.closed() => broken(reason),
        reason = joined.data.closed() => broken(reason),
        () = joined.bulk.ended.notified() => broken("the bulk lane ended".to_owned()),
        reason = beat(&joined, &plan.contact) => broken(reason),
    }
}

/// A stay that has begun. What it holds open ends with it.
struct Stay {
    welcome: Welcome,
    control: Link,
    data: Link,
    bulk: BulkLane,
}

/// The bulk lane, on which the controller's pulls are served. Closed when it is dropped.
struct BulkLane {
    connection: Arc<dyn Connection>,
    serving: AbortHandle,
    ended: Arc<Notify>,
}

impl BulkLane {
    fn serve(connection: Arc<dyn Connection>, source: Arc<dyn bulk::Source>) -> Self {
        let ended = Arc::new(Notify::new());
        let (lane, told) = (connection.clone(), ended.clone());
        let serving = tokio::spawn(async move {
            bulk::serve(lane, source).await;
            told.notify_one();
        });
        Self {
            connection,
            serving: serving.abort_handle(),
            ended,
        }
    }
}

impl Drop for BulkLane {
    fn drop(&mut self) {
        self.serving.abort();
        self.connection.close("the stay is over");
    }
}

async fn join(
    plan: &NodePlan,
    host: &Arc<Host>,
    end: &watch::Sender<Option<NodeEnd>>,
) -> Result<Stay, DialFault> {
    let unreachable = |error: &dyn std::fmt::Display| DialFault::Unreachable(error.to_string());
    let handler = Arc::new(NodeHandler {
        host: host.clone(),
        end: end.clone(),
    });
    let control = open(plan.dialler.control().await?, handler.clone()).await?;
    let join = Join {
        name: plan.name.clone(),
        boot: plan.boot,
        roles: plan.roles.clone(),
        config: plan.config.clone(),
        address: plan.dialler.address(),
        device: plan.device.clone(),
    };
    let encoded = codec::encode(&join).map(|join| JoinRequest {
        version: plan.version.clone(),
        join,
    });
    let body = encoded.and_then(|request| codec::encode(&request));
    let body = body.map_err(|error| unreachable(&error))?;
    let welcome = match control.call(method::JOIN, &body, PROMPT).await {
        Ok(welcome) => welcome,
        Err(CallError::Refused(reason)) => return Err(DialFault::Refused(reason)),
        Err(error) => return Err(unreachable(&error)),
    };
    let welcome: Welcome = codec::decode(&welcome).map_err(|error| unreachable(&error))?;
    let bulk = plan.dialler.bulk(welcome.data_port).await?;
    host.set_control(control.clone());
    host.set_bulk(bulk.clone());
    let bulk = BulkLane::serve(bulk, Arc::new(host.blobs().clone()));
    let data = open(plan.dialler.data(welcome.data_port).await?, handler).await?;
    let stay = Stay {
        welcome,
        control,
        data,
        bulk,
    };
    let hello = codec::encode(&stay.welcome.node).map_err(|error| unreachable(&error))?;
    match stay.data.call(method::HELLO, &hello, PROMPT).await {
        Ok(_) => Ok(stay),
        Err(error) => Err(unreachable(&error)),
    }
}

async fn open(
    connection: Arc<dyn Connection>,
    handler: Arc<NodeHandler>,
) -> Result<Link, DialFault> {
    let opening = Link::open(connection, handler, Limits::default());
    match tokio::time::timeout(PROMPT, opening).await {
        Ok(Ok(link)) => Ok(link),
        // How a certificate that the controller does not take shows (TLS 1.3).
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(DialFault::Refused(error.to_string()))
        }
        Ok(Err(error)) => Err(DialFault::Unreachable(error.to_string())),
        Err(_) => Err(DialFault::Unreachable("no answer".to_owned())),
    }
}

/// Is heard of until it is no member any more; the reason.
async fn beat(stay: &Stay, contact: &watch::Sender<Contact>) -> String {
    let every = Duration::from_millis(stay.welcome.heartbeat_ms.max(1));
    for count in 1.. {
        let heard = stay.control.call(method::HEARTBEAT, &[], PROMPT).await;
        match heard.map(|known| codec::decode::<bool>(&known)) {
            Ok(Ok(true)) => drop(contact.send_replace(Contact::Joined(count))),
            Ok(_) => return "the controller has given this node up".to_owned(),
            Err(error) => return error.to_string(),
        }
        tokio::time::sleep(every).await;
    }
    unreachable!("2^64 heartbeats")
}

/// What the controller asks of a node.
struct NodeHandler {
    host: Arc<Host>,
    end: watch::Sender<Option<NodeEnd>>,
}

#[async_trait]
impl Handler for NodeHandler {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        let encode = |opened: &Vec<proto::cluster::Opened>| codec::encode(opened);
        match request.method {
            method::ENGINE => {
                let served = self.host.serve(&request.body).await;
                served.map_err(|error| error.to_string())
            }
            method::ASSIGN => {
                let assignment: Assignment =
                    codec::decode(&request.body).map_err(|error| error.to_string())?;
                let host = self.host.clone();
                // In a task of its own: an engine that is half open when the connection breaks is
                // opened to its end, and found there by the next stay.
                let opened = tokio::spawn(async move { host.assign(assignment).await }).await;
                let opened = opened.map_err(|error| error.to_string())?;
                encode(&opened)
                    .map(Bytes::from)
                    .map_err(|error| error.to_string())
            }
            method::END | method::EXPEL | method::RESTART => {
                let reason = String::from_utf8_lossy(&request.body).into_owned();
                let end = match request.method {
                    method::END => NodeEnd::Dismissed(reason),
                    method::RESTART => NodeEnd::Sick(reason),
                    _ => NodeEnd::Refused(reason),
                };
                self.end.send_replace(Some(end));
                Ok(Bytes::new())
            }
            method => Err(format!("a node does not know method {method}")),
        }
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}
