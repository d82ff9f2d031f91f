//! Which node opens which engine.

use super::{
    Arrival, Cluster, Engaged, Learning, OPEN_LIMIT, Order, Orders, RETRY, State, TAKE_OVER,
};
use crate::controller::ControllerMessage;
use crate::ports::EngineError;
use crate::remote::{RemoteEngine, method};
use control::membership::{Member, NodeId};
use proto::cluster::{Assignment, EngineOrder, Opened};
use proto::{NodeName, Role, codec};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Semaphore;
use transport::Link;

impl Cluster {
    /// Has another node train if the one that does is lost and stays away.
    pub(super) fn learner_lost(&self) {
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

    pub(super) fn engage(&self, orders: Arc<dyn Orders>, controller: ActorRef<ControllerMessage>) {
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

    pub(super) fn disengage(&self) {
        self.lock().engaged = None;
    }

    /// Begins to give a node its orders, if there are any and it is complete.
    pub(super) fn order(&self, state: &mut State, id: NodeId) {
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
            loop {
                let one = equipping.lock().await;
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
