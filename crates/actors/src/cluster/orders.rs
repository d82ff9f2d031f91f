//! Which node opens which engine.

use super::lanes::end_process;
use super::{
    Arrival, Cluster, Engaged, Learning, Node, OPEN_LIMIT, Order, Orders, PROMPT, RENEW_LIMIT,
    RENEW_TRIES, RETRY, State, TAKE_OVER,
};
use crate::controller::ControllerMessage;
use crate::ports::EngineError;
use crate::remote::{RemoteEngine, method};
use crate::told::Told;
use control::membership::{Member, Membership, NodeId};
use control::openings::Process;
use control::quarantine::Remedy;
use control::replicas::Cause;
use proto::cluster::{Assignment, EngineOrder, Opened};
use proto::{NodeName, Role, codec};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use transport::{CallError, Link};

/// Pause between looks whether a learner is opened late.
const LOOK: Duration = Duration::from_secs(5);

/// Why a process is to end.
const HUNG: &str = "its learner did not answer, and did not again after it was opened anew: its device \
                    may hang; start the process again";

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

    /// CL-5. The node is named by its stay, if it is still there, and by its name; after how long its
    /// learner is tried again.
    pub(super) fn leave_out(&self, id: NodeId, name: &NodeName, cause: &Cause) -> Duration {
        let now = self.now_ms();
        let mut state = self.lock();
        let state = &mut *state;
        let wait = Duration::from_millis(match cause {
            Cause::Stalled(_) => state.left_out.set_aside(name.clone(), now),
            _ => state.left_out.leave_out(name.clone(), now),
        });
        if let Some(engaged) = &mut state.engaged {
            engaged.learners.retain(|(known, _), _| known != name);
        }
        if *cause == Cause::Hung {
            self.note_hang(state, id);
        }
        // Those that stand by take its place, and it closes its learner.
        self.order_learners(state);
        let (weak, name) = (Arc::downgrade(&self.0), name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(inner) = weak.upgrade() {
                Cluster(inner).order_again(&name);
            }
        });
        wait
    }

    /// A process whose learner hangs again is told to end.
    fn note_hang(&self, state: &mut State, id: NodeId) {
        let Some(member) = state.membership.get(id) else {
            return;
        };
        let name = member.name.clone();
        if !state.openings.hung(&(name.clone(), member.boot)) {
            return;
        }
        state.membership.remove(id);
        self.0.spreading.leave(id);
        self.tell_counts(state);
        if let Some(node) = state.nodes.remove(&id) {
            tracing::warn!(node = %name, "A node's process is told to end: its learner hangs again.");
            // Its lanes end after that: it would take their end for a loss, and join again.
            tokio::spawn(end_process(node, method::RESTART, HUNG));
        }
    }

    /// Why a process is not let in: it did not hear that it is to end.
    pub(super) fn has_to_end(&self, process: &(NodeName, u64)) -> Option<&'static str> {
        self.lock().openings.has_to_end(process).then_some(HUNG)
    }

    fn has_hung(&self, process: &(NodeName, u64)) -> bool {
        self.lock().openings.has_hung(process)
    }

    /// Gives the node of this name its orders again, if it is there.
    fn order_again(&self, name: &NodeName) {
        let mut state = self.lock();
        let mut members = state.membership.members();
        let found = members.find(|(_, member)| member.name == *name);
        let Some(id) = found.map(|(id, _)| id) else {
            return;
        };
        drop(members);
        if let Some(node) = state.nodes.get_mut(&id) {
            node.ordered = None;
        }
        self.order(&mut state, id);
    }

    /// Number of learners that are there or being opened.
    pub(super) fn learners(&self) -> usize {
        self.count_learners(&mut self.lock(), |_| true)
    }

    /// The same without those that others do not wait for.
    pub(super) fn awaited_learners(&self) -> usize {
        let mut state = self.lock();
        let ordered = state.engaged.as_ref().map_or(0, |e| e.learners.len());
        let wait = state.openings.wait_ms(ordered).map(Duration::from_millis);
        let is_late = |node: &Node| {
            let lasts = node.equipping_since.map(|since| since.elapsed());
            lasts.is_some_and(|lasts| wait.is_some_and(|wait| lasts > wait))
        };
        self.count_learners(&mut state, |node| !is_late(node))
    }

    /// Of those whose node is there it counts some.
    fn count_learners(&self, state: &mut State, is_counted: impl Fn(&Node) -> bool) -> usize {
        let Some(engaged) = &mut state.engaged else {
            return 0;
        };
        engaged.note_away(&state.membership);
        let members = state.membership.members();
        let nodes = members.filter_map(|(id, member)| Some((member, state.nodes.get(&id)?)));
        let counted = nodes.filter(|(member, node)| {
            let who = (member.name.clone(), member.boot);
            let learning = engaged.learners.get(&who);
            is_counted(node) && learning.map_or(node.is_undecided, |l| l.away.is_none())
        });
        counted.count()
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
        state.openings.begin();
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
        state.openings.begin();
        state.engaged = Some(Engaged {
            number: state.engagements,
            orders,
            controller,
            known: BTreeMap::new(),
            renewals: BTreeMap::new(),
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
        let now = self.now_ms();
        let Some(engaged) = &state.engaged else {
            return;
        };
        let number = engaged.number;
        let (Some(node), Some(member)) = (state.nodes.get_mut(&id), state.membership.get(id))
        else {
            return;
        };
        let is_complete = node.data.is_some() && node.bulk.is_some();
        if !is_complete || node.is_draining || node.ordered == Some(number) {
            return;
        }
        node.ordered = Some(number);
        node.times_ordered += 1;
        let time = node.times_ordered;
        let has_learners = engaged.orders.roles().contains(&Role::Learner);
        node.is_undecided = has_learners
            && member.roles.contains(&Role::Learner)
            && state.left_out.may_return(&member.name, now);
        let cluster = self.clone();
        let equipping = node.equipping.clone();
        tokio::spawn(async move {
            let mut failures = 0;
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
                failures += 1;
                if failures >= RENEW_TRIES && cluster.is_renewed(id, number) {
                    cluster.restart(id, &error.to_string());
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// CL-4.
    pub(super) fn renew(&self, node: &NodeName, role: Role, remedy: Remedy, reason: &str) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(engaged) = &mut state.engaged else {
            return;
        };
        *engaged.renewals.entry((node.clone(), role)).or_default() += 1;
        let mut members = state.membership.members();
        // One that is away has its orders when it finds back.
        let Some((id, member)) = members.find(|(_, member)| member.name == *node) else {
            return;
        };
        let trains = member.roles.contains(&Role::Learner);
        drop(members);
        if remedy == Remedy::Restart && !trains {
            self.restart_with(state, id, reason);
            return;
        }
        if let Some(node) = state.nodes.get_mut(&id) {
            node.ordered = None;
        }
        self.order(state, id);
    }

    /// Whether a node has an engine that was renewed.
    fn is_renewed(&self, id: NodeId, number: u64) -> bool {
        let state = self.lock();
        let engaged = state.engaged.as_ref().filter(|e| e.number == number);
        let (Some(engaged), Some(member)) = (engaged, state.membership.get(id)) else {
            return false;
        };
        let trains = member.roles.contains(&Role::Learner);
        !trains
            && engaged
                .renewals
                .keys()
                .any(|(name, _)| *name == member.name)
    }

    fn restart(&self, id: NodeId, reason: &str) {
        self.restart_with(&mut self.lock(), id, reason);
    }

    /// Has a node's process end, to be started again by whatever started it.
    fn restart_with(&self, state: &mut State, id: NodeId, reason: &str) {
        let Some(node) = state.nodes.get_mut(&id) else {
            return;
        };
        node.is_ending = true;
        let control = node.control.clone();
        let reason = reason.to_owned();
        tokio::spawn(async move {
            let node = &control.peer().name;
            tracing::warn!(%node, reason, "A node's process is to end and to be started again.");
            let told = control
                .call(method::RESTART, reason.as_bytes(), PROMPT)
                .await;
            if let Err(error) = told {
                tracing::warn!(%node, %error, "A node was not told to end; it is to join again.");
            }
            control.close("it is to be started again");
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
        let (was_known, limit) = self.opening(number, &target);
        let limit = limit.min(target.open_limit());
        let who = (target.name.clone(), target.boot);
        let mut orders = Vec::new();
        for role in target.orders.roles().intersection(&target.roles) {
            if let Some(order) = self.order_for(number, *role, &target).await? {
                let renewals = target.renewals.get(role).copied().unwrap_or(0);
                orders.push((*role, order.renewed(renewals)));
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
        let trains = orders.iter().any(|(role, _)| *role == Role::Learner);
        let began = Instant::now();
        self.note_equipping(id, Some(began));
        let assigned = target.control.call(method::ASSIGN, &body, limit);
        let opened = match trains {
            true => tokio::select! {
                biased;
                opened = assigned => opened,
                limit = self.opens_late(number, &who) => Err(CallError::TimedOut(limit)),
            },
            false => assigned.await,
        };
        self.note_equipping(id, None);
        let opened = match opened {
            Ok(opened) => codec::decode::<Vec<Opened>>(&opened).map_err(|error| fault(&error))?,
            Err(_) if target.control.close_reason().is_some() => return Ok(()),
            Err(error @ CallError::TimedOut(_)) if target.is_renewed() && !target.trains() => {
                self.restart(id, &format!("an engine cannot be opened again: {error}"));
                return Ok(());
            }
            Err(error @ CallError::TimedOut(_)) if trains => {
                self.leave_out(id, &target.name, &Cause::Hung);
                return Err(fault(&error));
            }
            // What it is to open waits behind what hangs.
            Err(error @ CallError::TimedOut(_)) if self.has_hung(&who) => {
                self.note_hang(&mut self.lock(), id);
                return Err(fault(&error));
            }
            Err(error) => return Err(fault(&error)),
        };
        let is_open = |opened: &Opened| opened.role == Role::Learner && opened.credits.is_ok();
        if trains && !was_known && opened.iter().any(is_open) {
            self.learner_opened(number, &who, began.elapsed());
        }
        self.note_opening(id, began.elapsed());
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

    fn learner_opened(&self, number: u64, who: &Process, took: Duration) {
        let mut state = self.lock();
        let engaged = state.engaged.as_ref();
        if engaged.is_some_and(|engaged| engaged.number == number) {
            state.openings.opened(who, took.as_millis() as u64);
        }
    }

    /// Returns once a process takes too long to open a learner; the limit.
    async fn opens_late(&self, number: u64, who: &Process) -> Duration {
        let began = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let limit = {
                let state = self.lock();
                let engaged = state.engaged.as_ref().filter(|e| e.number == number);
                let learners = engaged.map(|engaged| engaged.learners.len());
                learners.and_then(|learners| state.openings.limit_ms(who, learners))
            };
            let limit = limit.map(Duration::from_millis);
            if let Some(limit) = limit.filter(|limit| began.elapsed() > *limit) {
                return limit;
            }
        }
    }

    /// Since when a node's assignment is under way.
    fn note_equipping(&self, id: NodeId, since: Option<Instant>) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.equipping_since = since;
        }
    }

    fn note_opening(&self, id: NodeId, took: Duration) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.opened_in.get_or_insert(took);
        }
    }

    fn target(&self, id: NodeId, number: u64) -> Option<Target> {
        let state = self.lock();
        let engaged = state.engaged.as_ref().filter(|e| e.number == number)?;
        let member = state.membership.get(id)?;
        let node = state.nodes.get(&id)?;
        let renewals = engaged.renewals.iter();
        let its = renewals.filter(|((name, _), _)| *name == member.name);
        Some(Target {
            id,
            renewals: its.map(|((_, role), times)| (*role, *times)).collect(),
            opened_in: node.opened_in,
            control: node.control.clone(),
            roles: member.roles.clone(),
            name: member.name.clone(),
            boot: member.boot,
            orders: engaged.orders.clone(),
        })
    }

    /// Whether a node has a learner's place already, and how long it may take to open its engines. One
    /// whose learner hung takes about as long as others, or hangs again.
    fn opening(&self, number: u64, target: &Target) -> (bool, Duration) {
        let state = self.lock();
        let who = (target.name.clone(), target.boot);
        let engaged = state.engaged.as_ref().filter(|e| e.number == number);
        let was_known = engaged.is_some_and(|engaged| engaged.learners.contains_key(&who));
        let hung = state.openings.has_hung(&who);
        let limit = hung.then(|| state.openings.limit_ms(&who, 0)).flatten();
        let limit = limit.map_or(OPEN_LIMIT, Duration::from_millis);
        (was_known, limit)
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
        let now = self.now_ms();
        let known = {
            let mut state = self.lock();
            let state = &mut *state;
            // CL-5.
            let may_train = state.left_out.may_return(&target.name, now);
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
                    let has_no_place = known.is_none() && !(may_train && engaged.has_room());
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
        let engine = RemoteEngine {
            node: member.name.clone(),
            id,
            role,
            link: link.clone(),
            bulk: bulk.clone(),
            spreading,
            credits: Semaphore::new(credits.max(1) as usize),
            all_credits: credits.max(1),
            is_draining: AtomicBool::new(false),
            checkpoints,
            on_checkpoint,
            over: Told::default(),
        };
        let engine = Arc::new(engine);
        node.engines.retain(|engine| engine.strong_count() > 0);
        node.engines.push(Arc::downgrade(&engine));
        let learning = engaged.learners.get(&(member.name.clone(), member.boot));
        let arrival = Arrival {
            role,
            engine,
            number: order.epoch,
            lineage: learning.map_or(0, |learning| learning.lineage),
            is_on_trial: role == Role::Learner && state.left_out.is_on_trial(&member.name),
        };
        // A controller that is gone has ended its engagement.
        let _ = engaged
            .controller
            .send_message(ControllerMessage::Arrived(arrival));
    }
}

impl Cluster {
    /// Gives a node nothing new, and waits until nothing is under way at it and what it trains is saved.
    /// The node leaves then, or is told to.
    pub(super) async fn empty(&self, id: NodeId) {
        let engines: Vec<Arc<RemoteEngine>> = {
            let mut state = self.lock();
            let Some(node) = state.nodes.get_mut(&id) else {
                return;
            };
            node.is_draining = true;
            node.engines.iter().filter_map(Weak::upgrade).collect()
        };
        let is_learner = |engine: &&Arc<RemoteEngine>| engine.role == Role::Learner;
        let trains = engines.iter().any(|engine| is_learner(&engine));
        let others = engines.iter().filter(|engine| !is_learner(engine));
        let idle = futures::future::join_all(others.map(|engine| engine.drain()));
        let saved = async {
            if trains {
                self.0.saving.save().await;
            }
        };
        tokio::join!(idle, saved);
    }

    /// Has a node end once nothing is under way at it any more and what it trains is saved; it is
    /// told to, so that nothing starts it again.
    ///
    /// # Errors
    /// When there is no such node, or it does not hear.
    pub async fn drain(&self, name: &NodeName) -> Result<(), String> {
        let found = {
            let state = self.lock();
            let id = state.membership.members().find(|(_, m)| m.name == *name);
            let id = id.map(|(id, _)| id);
            id.and_then(|id| Some((id, state.nodes.get(&id)?.control.clone())))
        };
        let Some((id, control)) = found else {
            let members = self.members().into_iter().map(|(name, _)| name.to_string());
            let members: Vec<String> = members.collect();
            return Err(match members.is_empty() {
                true => format!("there is no node {name}: none has joined"),
                false => format!("there is no node {name}; these are: {}", members.join(", ")),
            });
        };
        tracing::info!(node = %name, "A node is drained: it takes nothing new, and ends.");
        self.empty(id).await;
        self.ends(id);
        let told = control.call(method::END, DRAINED.as_bytes(), PROMPT).await;
        told.map_err(|error| format!("{name} was not told to end: {error}"))?;
        control.close(DRAINED);
        Ok(())
    }
}

/// Why a node that was drained ends.
const DRAINED: &str = "this node was drained";

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
    /// Number of times that its engines were renewed.
    renewals: BTreeMap<Role, u32>,
    opened_in: Option<Duration>,
}

impl Target {
    fn is_renewed(&self) -> bool {
        !self.renewals.is_empty()
    }

    fn trains(&self) -> bool {
        self.roles.contains(&Role::Learner)
    }

    /// Time limit for it to open its engines. One that hung may hang again.
    fn open_limit(&self) -> Duration {
        let renewed = self.opened_in.filter(|_| self.is_renewed());
        renewed.map_or(OPEN_LIMIT, |first| {
            (3 * first + RENEW_LIMIT).min(OPEN_LIMIT)
        })
    }
}
