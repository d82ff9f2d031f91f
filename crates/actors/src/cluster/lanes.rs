//! What arrives at the controller: connections of nodes, one for each lane, and what is said on them.

use super::{Cluster, HEARTBEAT, Node, PROMPT, end_node};
use crate::remote::method;
use crate::told::Told;
use async_trait::async_trait;
use bytes::Bytes;
use control::membership::{Joined, Joining, NodeId};
use proto::cluster::{Join, JoinRequest, Welcome};
use proto::files::SourceRequest;
use proto::{Identity, Role, codec};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::oneshot;
use transport::{Connection, Handler, Limits, Link, Request, bulk};

impl Cluster {
    /// The control lane: the node joins, is heard of, and is lost with it.
    pub(super) async fn control(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
        let (joined, join) = oneshot::channel();
        let handler = Arc::new(ControlHandler {
            cluster: self.clone(),
            peer: connection.peer().clone(),
            joined: Mutex::new(Some(joined)),
            session: OnceLock::new(),
            link: Told::default(),
        });
        let opening = Link::open(connection, handler.clone(), Limits::default());
        let link = tokio::time::timeout(PROMPT, opening).await;
        let link = link.map_err(|_| "it opened no stream".to_owned())?;
        let link = link.map_err(|error| error.to_string())?;
        handler.link.change(|known| *known = Some(link.clone()));
        let joined = tokio::time::timeout(PROMPT, join).await;
        // The handler keeps the link alive otherwise.
        handler.link.change(|known| *known = None);
        let id = match joined {
            Ok(Ok(id)) => id,
            // It was told why, and so was the log; the link ends here if it does not end it itself.
            Ok(Err(_)) => {
                let _ = tokio::time::timeout(PROMPT, link.closed()).await;
                return Ok(());
            }
            Err(_) => return Err("it did not join".to_owned()),
        };
        let reason = link.closed().await;
        self.lost(id, &reason);
        Ok(())
    }

    /// The node's description of itself, if it is of the same build (ME-2).
    fn read_join(&self, body: &[u8]) -> Result<(String, Join), String> {
        let is_unclear = |error: codec::CodecError| {
            let ours = &self.0.plan.version;
            format!(
                "what this node says is not understood ({error}): the run is led by the build {ours}; \
                 install the same build on both"
            )
        };
        let request: JoinRequest = codec::decode(body).map_err(is_unclear)?;
        let JoinRequest { version, join } = request;
        let is_same = self.lock().membership.check_version(&version);
        is_same.map_err(|refusal| refusal.to_string())?;
        Ok((version, codec::decode(&join).map_err(is_unclear)?))
    }

    fn join(
        &self,
        peer: &Identity,
        (version, join): (String, Join),
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
            version,
            config: join.config,
            device: join.device.clone(),
        };
        let pulls = [Role::Sampler, Role::Learner].map(|role| joining.roles.contains(&role));
        let is_giving = join.address.is_some() || !pulls.contains(&true);
        let (name, address) = (join.name, join.address);
        let now = self.now_ms();
        let mut state = self.lock();
        if state.is_closed {
            return Err("the run is over".to_owned());
        }
        let joined = state.membership.join(joining, now);
        let Joined { id, replaced } = joined.map_err(|refusal| refusal.to_string())?;
        state.openings.joined(&(peer.name.clone(), join.boot));
        let node = Node {
            control,
            data: None,
            bulk: None,
            ordered: None,
            times_ordered: 0,
            is_undecided: false,
            engines: Vec::new(),
            is_draining: false,
            arrived: BTreeSet::new(),
            opened_in: None,
            equipping: Arc::default(),
            equipping_since: None,
            is_ending: false,
        };
        state.nodes.insert(id, node);
        self.0.spreading.enter(id, name, address);
        let old = replaced.and_then(|replaced| Some((state.nodes.remove(&replaced.id)?, replaced)));
        if let Some((_, replaced)) = &old {
            self.0.spreading.leave(replaced.id);
        }
        self.tell_counts(&state);
        drop(state);
        if let Some((old, replaced)) = old {
            match replaced.is_same_process {
                true => end_node(&old, "the node joined again"),
                false => {
                    self.learner_lost();
                    // Its lanes end after that: it would take their end for a loss, and join again.
                    tokio::spawn(end_process(old, method::EXPEL, REPLACED));
                }
            }
        }
        tracing::info!(node = %peer.name, device = join.device, "A node joined.");
        if !is_giving {
            tracing::info!(node = %peer.name, "It takes no connections, and gives nothing on.");
        }
        let plan = &self.0.plan;
        let welcome = Welcome {
            node: id.0,
            run: plan.run.clone(),
            config: plan.config.clone(),
            data_port: plan.data_port,
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
        };
        Ok((id, welcome))
    }

    /// The data lane: the node says which stay it belongs to.
    pub(super) async fn data(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
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
    pub(super) async fn bulk(&self, connection: Arc<dyn Connection>) -> Result<(), String> {
        let id = {
            let mut state = self.lock();
            let mut members = state.membership.members();
            let member = members.find(|(_, member)| member.name == connection.peer().name);
            let id = member.map(|(id, _)| id);
            drop(members);
            let node = id.and_then(|id| Some((id, state.nodes.get_mut(&id)?)));
            let (id, node) = node.ok_or("it is no member")?;
            // One of a stay that broke before all of its lanes were open.
            if let Some(older) = node.bulk.replace(connection.clone()) {
                older.close("the node opened another bulk lane");
            }
            self.order(&mut state, id);
            id
        };
        bulk::serve(connection.clone(), Arc::new(self.0.blobs.clone())).await;
        let is_its = |node: &Node| {
            node.bulk
                .as_ref()
                .is_some_and(|b| Arc::ptr_eq(b, &connection))
        };
        let is_present = self.lock().nodes.get(&id).is_some_and(is_its);
        if is_present {
            self.lost(id, "its bulk lane ended");
        }
        Ok(())
    }
}

/// Why a process is expelled.
const REPLACED: &str = "another process of the same name joined";

/// A process that the run does not want, or not as it is, is told to end, if it still hears; then its
/// stay is closed.
pub(super) async fn end_process(node: Node, method: u8, reason: &str) {
    let told = node.control.call(method, reason.as_bytes(), PROMPT).await;
    if let Err(error) = told {
        tracing::debug!(reason, %error, "A process was not told to end.");
    }
    end_node(&node, reason);
}

/// What a node says on its control lane.
struct ControlHandler {
    cluster: Cluster,
    peer: Identity,
    joined: Mutex<Option<oneshot::Sender<NodeId>>>,
    /// The session that began on this link, once the node has joined (CL-3).
    session: OnceLock<NodeId>,
    /// The link that this handles, once it is open.
    link: Told<Option<Link>>,
}

impl ControlHandler {
    /// The session of this link. Bodies name none: a certificate counts for its own node alone (CL-3).
    fn session(&self) -> Result<NodeId, String> {
        let session = self.session.get().copied();
        session.ok_or_else(|| "it has not joined on this link".to_owned())
    }
}

#[async_trait]
impl Handler for ControlHandler {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        match request.method {
            method::JOIN => {
                // Before anything is waited for: a second request has nothing to wait for.
                let sender = self.joined.lock().expect("no holder panics").take();
                let sender = sender.ok_or("it has joined already, or tried to, on this link")?;
                let link = self.link.find(Option::clone).await;
                if self.cluster.lock().is_closed {
                    let reason = "the run is over";
                    let _ = link.call(method::END, reason.as_bytes(), PROMPT).await;
                    return Err(reason.to_owned());
                }
                let said = self.cluster.read_join(&request.body);
                if let Ok((_, join)) = &said
                    && let process = (self.peer.name.clone(), join.boot)
                    && let Some(reason) = self.cluster.has_to_end(&process)
                {
                    // It waits for the answer to its own request no longer than PROMPT.
                    let told = link.call(method::RESTART, reason.as_bytes(), PROMPT / 2);
                    let _ = told.await;
                    return Err(reason.to_owned());
                }
                let joined = said.and_then(|said| self.cluster.join(&self.peer, said, link));
                let (id, welcome) = joined.inspect_err(|reason| {
                    tracing::warn!(node = %self.peer.name, reason, "A node is not let in.");
                })?;
                self.session.set(id).expect("a link joins once");
                if sender.send(id).is_err() {
                    // Nobody waits any more: it took too long to join.
                    self.cluster.lost(id, "it took too long to join");
                    return Err("it took too long to join".to_owned());
                }
                encode(&welcome)
            }
            method::HEARTBEAT => {
                let id = self.session()?;
                let now = self.cluster.now_ms();
                let mut state = self.cluster.lock();
                encode(&state.membership.heard(id, now))
            }
            method::LEAVE => {
                self.cluster.left(self.session()?);
                encode(&())
            }
            method::SOURCE => {
                let id = self.session()?;
                let request: SourceRequest =
                    codec::decode(&request.body).map_err(|error| error.to_string())?;
                encode(&self.cluster.0.spreading.file_source(id, request))
            }
            method::DRAIN => {
                let id = self.session()?;
                tracing::info!(node = %self.peer.name, "A node is about to leave.");
                self.cluster.empty(id).await;
                encode(&())
            }
            method => Err(format!("a controller does not know method {method}")),
        }
    }

    /// However busy this process is, it hears of its nodes.
    fn is_quick(&self, method: u8) -> bool {
        method == method::HEARTBEAT
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
