//! Which node opens which engine.

use super::{
    Arrival, Cluster, Engaged, Learning, OPEN_LIMIT, Order, Orders, RETRY, State, TAKE_OVER,
};
use crate::controller::ControllerMessage;
use crate::ports::EngineError;
use crate::remote::{RemoteEngine, method};
use control::membership::{Member, Membership, NodeId};
use proto::cluster::{Assignment, EngineOrder, Opened};
use proto::{NodeName, Role, codec};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use transport::Link;

impl Cluster {
    /// Notes which learners are away, and has those that stand by take their places if they stay away.
    pub(super) fn learner_lost(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(engaged) = &mut state.engaged else {
            return;
        };
        let is_new = engaged.note_away(&state.membership);
        let number = engaged.number;
        if !is_new {
            return;
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TAKE_OVER).await;
            let mut state = cluster.lock();
            let engaged = state.engaged.as_ref().filter(|e| e.number == number);
            if engaged.is_some_and(|engaged| engaged.vacancy().is_some()) {
                cluster.order_learners(&mut state);
            }
        });
    }

    /// How many learners are there or being opened.
    pub(super) fn learners(&self) -> usize {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(engaged) = &mut state.engaged else {
            return 0;
        };
        engaged.note_away(&state.membership);
        let is_counted = |member: &Member| {
            let who = (member.name.clone(), member.boot);
            engaged.learners.contains_key(&who)
        };
        let undecided = state.nodes.iter().filter(|(_, node)| node.is_undecided);
        let others = undecided.filter_map(|(id, _)| state.membership.get(*id));
        let others = others.filter(|member| !is_counted(member)).count();
        let learners = engaged.learners.values();
        learners.filter(|l| l.away.is_none()).count() + others
    }

    /// Whether an engine is what its node was last told to open as a learner.
    pub(super) fn is_ordered(&self, arrival: &Arrival) -> bool {
        let state = self.lock();
        let member = state.membership.get(arrival.engine.id);
        let who = member.map(|member| (member.name.clone(), member.boot));
        let engaged = state.engaged.as_ref();
        let learning = who.and_then(|who| engaged?.learners.get(&who));
        learning.is_some_and(|learning| learning.order.epoch == arrival.number)
    }

    /// A group of learners is about to be formed.
    pub(super) fn group_begins(&self) {
        if let Some(engaged) = &mut self.lock().engaged {
            engaged.is_without_group = false;
        }
    }

    /// Has learners opened anew, from the newest checkpoint, as [`super::Engagement::renew_learners`]
    /// says: none is there that could go on from more.
    pub(super) fn renew_learners(&self, epoch: Option<u32>) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(engaged) = &mut state.engaged else {
            return;
        };
        engaged.is_without_group = true;
        let is_there = |known: &(NodeName, u64)| {
            let mut members = state.membership.members();
            members.any(|(_, m)| m.name == known.0 && m.boot == known.1)
        };
        engaged.learners.retain(|known, learning| {
            epoch.is_some_and(|epoch| learning.lineage >= epoch || !is_there(known))
        });
        self.order_learners(state);
    }

    /// Gives every node that could train its orders again; engines that it is to keep stay open.
    fn order_learners(&self, state: &mut State) {
        let members = state.membership.members();
        let able = members.filter(|(_, m)| m.roles.contains(&Role::Learner));
        let able: Vec<NodeId> = able.map(|(id, _)| id).collect();
        for id in able {
            if let Some(node) = state.nodes.get_mut(&id) {
                node.ordered = None;
            }
            self.order(state, id);
        }
    }

    pub(super) fn engage(&self, orders: Arc<dyn Orders>, controller: ActorRef<ControllerMessage>) {
        let mut state = self.lock();
        state.engagements += 1;
        state.engaged = Some(Engaged {
            number: state.engagements,
            orders,
            controller,
            known: BTreeMap::new(),
            learners: BTreeMap::new(),
            is_without_group: true,
        });
        let ids: Vec<NodeId> = state.nodes.keys().copied().collect();
        for id in ids {
            self.order(&mut state, id);
        }
    }

    pub(super) fn disengage(&self) {
        self.lock().engaged = None;
    }

    /// Begins to give a node its orders, if there are any and it is complete.
    pub(super) fn order(&self, state: &mut State, id: NodeId) {
        let Some(engaged) = &state.engaged else {
            return;
        };
        let number = engaged.number;
        let (Some(node), Some(member)) = (state.nodes.get_mut(&id), state.membership.get(id))
        else {
            return;
        };
        if node.data.is_none() || node.bulk.is_none() || node.ordered == Some(number) {
            return;
        }
        node.ordered = Some(number);
        node.times_ordered += 1;
        let time = node.times_ordered;
        let has_learners = engaged.orders.roles().contains(&Role::Learner);
        node.is_undecided = has_learners && member.roles.contains(&Role::Learner);
        let cluster = self.clone();
        let equipping = node.equipping.clone();
        tokio::spawn(async move {
            loop {
                let one = equipping.lock().await;
                if !cluster.is_newest_order(id, time) {
                    return;
                }
                let Err(error) = cluster.equip(id, number).await else {
                    return;
                };
                // The orders of a later fleet do not wait for this one's.
                drop(one);
                let node = cluster
                    .lock()
                    .membership
                    .get(id)
                    .map(|m| m.name.to_string());
                let node = node.unwrap_or_default();
                tracing::warn!(node, %error, "A node cannot take its orders; it is asked again.");
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Whether a node was given no orders after these, which ask for all that these would.
    fn is_newest_order(&self, id: NodeId, time: u64) -> bool {
        let state = self.lock();
        let node = state.nodes.get(&id);
        node.is_some_and(|node| node.times_ordered == time)
    }

    /// Has a node open its engines, and tells the controller of them. Ends well, too, when the node
    /// or the engagement is over.
    async fn equip(&self, id: NodeId, number: u64) -> Result<(), EngineError> {
        let Some(target) = self.target(id, number) else {
            return Ok(());
        };
        let mut orders = Vec::new();
        for role in target.orders.roles().intersection(&target.roles) {
            if let Some(order) = self.order_for(number, *role, &target).await? {
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
            id,
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
        number: u64,
        role: Role,
        target: &Target,
    ) -> Result<Option<Order>, EngineError> {
        let _one = self.0.ordering.lock().await;
        let who = (target.name.clone(), target.boot);
        let known = {
            let mut state = self.lock();
            let state = &mut *state;
            let Some(engaged) = state.engaged.as_mut().filter(|e| e.number == number) else {
                return Ok(None);
            };
            match role {
                Role::Learner => {
                    // Processes before this one do not come back.
                    engaged
                        .learners
                        .retain(|known, _| known.0 != who.0 || known.1 == who.1);
                    let known = engaged.learners.get_mut(&who);
                    let known = known.map(|learning| {
                        learning.away = None;
                        learning.order.clone()
                    });
                    // CL-1.
                    let has_no_place = known.is_none() && !engaged.has_room();
                    if known.is_some() || has_no_place {
                        state.decided(target.id);
                    }
                    if has_no_place {
                        return Ok(None);
                    }
                    known
                }
                _ => engaged.known.get(&role).cloned(),
            }
        };
        if let Some(order) = known {
            return Ok(Some(order));
        }
        let order = target.orders.order(role, &self.0.blobs).await;
        let mut state = self.lock();
        if role == Role::Learner {
            state.decided(target.id);
        }
        let order = order?;
        if let Some(engaged) = state.engaged.as_mut().filter(|e| e.number == number) {
            match role {
                Role::Learner => engaged.take_on(who, order.clone()),
                _ => drop(engaged.known.insert(role, order.clone())),
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
            engaged.learners.remove(&(member.name, member.boot));
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
        if !node.arrived.insert((number, order.key.clone())) {
            return;
        }
        let (Some(link), Some(bulk)) = (&node.data, &node.bulk) else {
            return;
        };
        let (checkpoints, on_checkpoint) = engaged.orders.checkpoints().unzip();
        let spreading = self.0.spreading.clone();
        if role == Role::Sampler {
            spreading.enter(id, member.name.clone(), node.address.clone());
        }
        let engine = RemoteEngine {
            node: member.name.clone(),
            id,
            role,
            link: link.clone(),
            bulk: bulk.clone(),
            spreading,
            credits: Semaphore::new(credits.max(1) as usize),
            checkpoints,
            on_checkpoint,
        };
        let learning = engaged.learners.get(&(member.name.clone(), member.boot));
        let arrival = Arrival {
            role,
            engine: Arc::new(engine),
            number: order.epoch,
            lineage: learning.map_or(0, |learning| learning.lineage),
        };
        // A controller that is gone has ended its engagement.
        let _ = engaged
            .controller
            .send_message(ControllerMessage::Arrived(arrival));
    }
}

impl State {
    /// It is known whether a node is to train, or that it cannot be told for now.
    fn decided(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_undecided = false;
        }
    }
}

impl Engaged {
    /// Whether another node may train.
    fn has_room(&self) -> bool {
        self.learners.len() < self.orders.replicas().max(1) || self.vacancy().is_some()
    }

    /// A learner that has stayed away for so long that another one may take its place.
    fn vacancy(&self) -> Option<&(NodeName, u64)> {
        let is_vacant = |l: &Learning| l.away.is_some_and(|since| since.elapsed() >= TAKE_OVER);
        let mut learners = self.learners.iter();
        learners.find(|(_, l)| is_vacant(l)).map(|(who, _)| who)
    }

    fn take_on(&mut self, who: (NodeName, u64), order: Order) {
        if self.learners.len() >= self.orders.replicas().max(1)
            && let Some(vacant) = self.vacancy().cloned()
        {
            self.learners.remove(&vacant);
        }
        let learning = Learning {
            lineage: if self.is_without_group {
                order.epoch
            } else {
                0
            },
            order,
            away: None,
        };
        self.learners.insert(who, learning);
    }

    /// Notes since when learners are away; whether there is one more than before.
    fn note_away(&mut self, membership: &Membership) -> bool {
        let mut is_new = false;
        for ((name, boot), learning) in &mut self.learners {
            let is_it = |m: &Member| m.name == *name && m.boot == *boot;
            if membership.members().any(|(_, m)| is_it(m)) {
                learning.away = None;
            } else if learning.away.is_none() {
                learning.away = Some(Instant::now());
                is_new = true;
            }
        }
        is_new
    }
}

/// A node that gets orders.
struct Target {
    id: NodeId,
    control: Link,
    roles: BTreeSet<Role>,
    name: NodeName,
    boot: u64,
    orders: Arc<dyn Orders>,
}
