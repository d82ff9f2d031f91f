//! A network in memory, with rules for what goes wrong on it. For tests and simulations: time is
//! tokio's, which a test pauses, and every choice follows from a seed.
//!
//! Frames of links (lanes [`Lane::Control`] and [`Lane::Data`]) meet the rules one by one: they are
//! delayed, dropped, duplicated or overtaken, as [`Rules`] say. No real stream does that; a protocol
//! that bears it bears what real ones do. Other lanes are delayed and cut only.
//!
//! A cut is what it is for real streams: what is sent is held and arrives once the cut is mended, and
//! after a while each side closes its connections on its own. The end of a connection travels as
//! everything does: until it has arrived, the peer goes on as if nothing had happened.

mod pipe;

use self::pipe::{Pipe, Receiver, Sender, pipe};
use crate::Lane;
use crate::connection::{Connection, Duplex, Path};
use async_trait::async_trait;
use proto::{Identity, NodeName};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

/// What happens to a frame between two nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Shortest time on the way.
    pub delay: Duration,
    /// Up to so much is added, drawn anew for each frame.
    pub jitter: Duration,
    /// Probability that a frame never arrives.
    pub drop: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Whether a frame with less delay may overtake one with more.
    pub reorder: bool,
}

impl Default for Rules {
    /// Nothing goes wrong.
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            drop: 0.0,
            duplicate: 0.0,
            reorder: false,
        }
    }
}

/// A network. Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    rng: ChaCha8Rng,
    rules: Rules,
    /// Rules of single nodes, for whatever goes to or from them.
    ruled: BTreeMap<NodeName, Rules>,
    /// Added to whatever goes to or from a node.
    slowed: BTreeMap<NodeName, Duration>,
    /// Nodes that hear nobody and are heard by nobody, each with the number of its cut.
    cut: BTreeMap<NodeName, u64>,
    cuts: u64,
    /// After so long a cut, connections are closed, as those with keep-alives are.
    idle: Duration,
    listeners: BTreeMap<NodeName, Listening>,
    connections: Vec<Weak<Ends>>,
}

struct Listening {
    identity: Identity,
    accepted: mpsc::UnboundedSender<Arc<dyn Connection>>,
}

/// Where a node's connections arrive.
pub struct Listener {
    network: Network,
    name: NodeName,
    accepted: mpsc::UnboundedReceiver<Arc<dyn Connection>>,
}

impl Listener {
    /// The next connection.
    pub async fn accept(&mut self) -> Option<Arc<dyn Connection>> {
        self.accepted.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepted.close();
        let mut state = self.network.lock();
        let listening = state.listeners.get(&self.name);
        // It may be that of one that took this one's place.
        if listening.is_some_and(|listening| listening.accepted.is_closed()) {
            state.listeners.remove(&self.name);
        }
    }
}

impl Network {
    /// A network on which connections are closed after being cut for `idle`.
    pub fn new(seed: u64, rules: Rules, idle: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            rules,
            ruled: BTreeMap::new(),
            slowed: BTreeMap::new(),
            cut: BTreeMap::new(),
            cuts: 0,
            idle,
            listeners: BTreeMap::new(),
            connections: Vec::new(),
        })))
    }

    /// Takes connections for a node. One of the same name takes its place.
    pub fn listen(&self, identity: Identity) -> Listener {
        let (sender, accepted) = mpsc::unbounded_channel();
        let name = identity.name.clone();
        let listening = Listening {
            identity,
            accepted: sender,
        };
        self.lock().listeners.insert(name.clone(), listening);
        Listener {
            network: self.clone(),
            name,
            accepted,
        }
    }

    /// Connects a node to another.
    ///
    /// # Errors
    /// When that one takes no connections, or one of the two is cut off.
    pub async fn dial(
        &self,
        from: Identity,
        to: &NodeName,
        lane: Lane,
    ) -> io::Result<Arc<dyn Connection>> {
        let is_cut = || self.lock().is_cut(&from.name, to);
        let (delay, idle) = {
            let mut state = self.lock();
            (2 * state.delay(&from.name, to), state.idle)
        };
        if !is_cut() {
            tokio::time::sleep(delay).await;
        }
        if is_cut() {
            tokio::time::sleep(idle).await;
            return Err(fault(io::ErrorKind::TimedOut, "timed out"));
        }
        let mut state = self.lock();
        let unreachable = || fault(io::ErrorKind::ConnectionRefused, "nobody listens there");
        let listening = state.listeners.get(to).ok_or_else(unreachable)?;
        let (theirs, accepted) = (listening.identity.clone(), listening.accepted.clone());
        let ends = Arc::new(Ends {
            network: self.clone(),
            names: [from.name.clone(), theirs.name.clone()],
            lane,
            closed: Mutex::default(),
            changed: Notify::new(),
            pipes: Mutex::default(),
        });
        state.connections.retain(|ends| ends.strong_count() > 0);
        state.connections.push(Arc::downgrade(&ends));
        drop(state);
        let ([to_b, to_a], [at_b, at_a]) = {
            let (to_b, at_b) = mpsc::unbounded_channel();
            let (to_a, at_a) = mpsc::unbounded_channel();
            ([to_b, to_a], [at_b, at_a])
        };
        let end = |side, peer, opened, arriving| -> Arc<dyn Connection> {
            Arc::new(End {
                ends: ends.clone(),
                side,
                peer,
                opened,
                arriving: tokio::sync::Mutex::new(arriving),
            })
        };
        let here = end(0, theirs, to_b, at_a);
        let there = end(1, from, to_a, at_b);
        accepted.send(there).map_err(|_| unreachable())?;
        Ok(here)
    }

    /// Changes the rules for whatever is sent from now on.
    pub fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    /// Has other rules for whatever is sent to or from a node from now on; `None` ends that.
    pub fn set_rules_of(&self, node: &NodeName, rules: Option<Rules>) {
        let mut state = self.lock();
        match rules {
            Some(rules) => state.ruled.insert(node.clone(), rules),
            None => state.ruled.remove(node),
        };
    }

    /// Slows a node's traffic down by so much each way; zero ends it.
    pub fn slow(&self, node: &NodeName, by: Duration) {
        self.lock().slowed.insert(node.clone(), by);
    }

    /// Cuts a node off: what is sent to or from it is held, and its connections are closed on both
    /// sides after a while, unless it is mended before.
    pub fn cut(&self, node: &NodeName) {
        let mut state = self.lock();
        state.cuts += 1;
        let (number, idle) = (state.cuts, state.idle);
        state.cut.insert(node.clone(), number);
        drop(state);
        let (network, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            if network.lock().cut.get(&node) != Some(&number) {
                return;
            }
            for ends in network.connections_of(&node) {
                ends.end(0, "timed out");
                ends.end(1, "timed out");
            }
        });
    }

    /// Ends a cut: what was held goes on its way.
    pub fn mend(&self, node: &NodeName) {
        self.lock().cut.remove(node);
        for ends in self.connections_of(node) {
            let pipes = ends.pipes.lock().expect("no holder panics").clone();
            pipes
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|pipe| pipe.release());
        }
    }

    /// Ends every connection of a node at once, as the death of its process does where a reset is
    /// received.
    pub fn end_all(&self, node: &NodeName, reason: &str) {
        for ends in self.connections_of(node) {
            ends.end(0, reason);
            ends.end(1, reason);
        }
    }

    /// Ends a node's connections of one lane.
    pub fn end_lane(&self, node: &NodeName, lane: Lane, reason: &str) {
        for ends in self
            .connections_of(node)
            .iter()
            .filter(|ends| ends.lane == lane)
        {
            ends.end(0, reason);
            ends.end(1, reason);
        }
    }

    /// Ends every connection of a node without a word to its peers, as the loss of its machine does,
    /// and with what it had sent and was still under way: a machine takes longer to start again than
    /// that. They notice after a while.
    pub fn vanish(&self, node: &NodeName) {
        let idle = self.lock().idle;
        for ends in self.connections_of(node) {
            let side = ends
                .names
                .iter()
                .position(|name| name == node)
                .unwrap_or_default();
            ends.end(side, "the machine is gone");
            let pipes = ends.pipes.lock().expect("no holder panics").clone();
            let pipes = pipes.iter().filter_map(Weak::upgrade);
            pipes.for_each(|pipe| pipe.lose_from(side));
            ends.end_later(1 - side, idle, "timed out");
        }
    }

    fn connections_of(&self, node: &NodeName) -> Vec<Arc<Ends>> {
        let connections = self.lock().connections.clone();
        let all = connections.iter().filter_map(Weak::upgrade);
        all.filter(|ends| ends.names.contains(node)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl State {
    fn is_cut(&self, from: &NodeName, to: &NodeName) -> bool {
        self.cut.contains_key(from) || self.cut.contains_key(to)
    }

    fn rules(&self, from: &NodeName, to: &NodeName) -> Rules {
        let ruled = self.ruled.get(from).or_else(|| self.ruled.get(to));
        ruled.copied().unwrap_or(self.rules)
    }

    fn delay(&mut self, from: &NodeName, to: &NodeName) -> Duration {
        let rules = self.rules(from, to);
        let jitter = rules.jitter.mul_f64(self.rng.random::<f64>());
        let slowed = [from, to].map(|node| self.slowed.get(node).copied().unwrap_or_default());
        rules.delay + jitter + slowed[0] + slowed[1]
    }

    /// The delays with which copies of a frame arrive.
    fn fate(&mut self, from: &NodeName, to: &NodeName, is_frame: bool) -> Vec<Duration> {
        let rules = self.rules(from, to);
        let draw = |rng: &mut ChaCha8Rng, p: f64| p > 0.0 && rng.random::<f64>() < p;
        if is_frame && draw(&mut self.rng, rules.drop) {
            return Vec::new();
        }
        let copies = if is_frame && draw(&mut self.rng, rules.duplicate) {
            2
        } else {
            1
        };
        (0..copies).map(|_| self.delay(from, to)).collect()
    }
}

fn fault(kind: io::ErrorKind, reason: &str) -> io::Error {
    io::Error::new(kind, reason.to_owned())
}

/// What both ends of a connection share.
struct Ends {
    network: Network,
    names: [NodeName; 2],
    lane: Lane,
    /// By side: why it is closed there.
    closed: Mutex<[Option<String>; 2]>,
    changed: Notify,
    pipes: Mutex<Vec<Weak<Pipe>>>,
}

impl Ends {
    /// Closes one side, which tells the other; nobody hears it through a cut, and the other side
    /// notices the silence.
    fn close(self: &Arc<Self>, side: usize, reason: &str) {
        if !self.end(side, reason) {
            return;
        }
        let mut state = self.network.lock();
        let [here, there] = [&self.names[side], &self.names[1 - side]];
        let (is_cut, idle) = (state.is_cut(here, there), state.idle);
        let delay = state.delay(here, there);
        drop(state);
        match is_cut {
            true => self.end_later(1 - side, idle, "timed out"),
            false => self.end_later(1 - side, delay, reason),
        }
    }

    /// True if it was open before.
    fn end(&self, side: usize, reason: &str) -> bool {
        let mut closed = self.closed.lock().expect("no holder panics");
        let was_open = closed[side].is_none();
        closed[side].get_or_insert_with(|| reason.to_owned());
        drop(closed);
        self.changed.notify_waiters();
        was_open
    }

    fn end_later(self: &Arc<Self>, side: usize, delay: Duration, reason: &str) {
        // Without a runtime nobody is left to notice.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (ends, reason) = (self.clone(), reason.to_owned());
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            ends.end(side, &reason);
        });
    }

    fn check(&self, side: usize) -> io::Result<()> {
        match &self.closed.lock().expect("no holder panics")[side] {
            Some(reason) => Err(fault(io::ErrorKind::ConnectionAborted, reason)),
            None => Ok(()),
        }
    }

    /// Waits for `ready`, or for the end of the connection on this side.
    async fn wait<T>(&self, side: usize, ready: impl Future<Output = T>) -> io::Result<T> {
        let mut ready = std::pin::pin!(ready);
        loop {
            let changed = self.changed.notified();
            self.check(side)?;
            tokio::select! {
                biased;
                value = &mut ready => return Ok(value),
                () = changed => {}
            }
        }
    }
}

struct End {
    ends: Arc<Ends>,
    side: usize,
    peer: Identity,
    opened: mpsc::UnboundedSender<Duplex>,
    arriving: tokio::sync::Mutex<mpsc::UnboundedReceiver<Duplex>>,
}

#[async_trait]
impl Connection for End {
    fn peer(&self) -> &Identity {
        &self.peer
    }

    fn lane(&self) -> Lane {
        self.ends.lane
    }

    fn path(&self) -> Path {
        Path {
            remote: None,
            round_trip: Duration::ZERO,
            payload: u16::MAX,
        }
    }

    fn runtime(&self) -> Handle {
        Handle::current()
    }

    async fn open(&self) -> io::Result<Duplex> {
        self.ends.check(self.side)?;
        let (there, here) = (1 - self.side, self.side);
        let (outgoing, at_peer) = pipe(&self.ends, here);
        let (from_peer, incoming) = pipe(&self.ends, there);
        let duplex = |outgoing: Sender, incoming: Receiver| Duplex {
            outgoing: Box::new(outgoing),
            incoming: Box::new(incoming),
        };
        let sent = self.opened.send(duplex(from_peer, at_peer));
        sent.map_err(|_| fault(io::ErrorKind::ConnectionAborted, "the peer is gone"))?;
        Ok(duplex(outgoing, incoming))
    }

    async fn accept(&self) -> io::Result<Duplex> {
        let mut arriving = self.arriving.lock().await;
        let next = self.ends.wait(self.side, arriving.recv()).await?;
        next.ok_or_else(|| fault(io::ErrorKind::ConnectionAborted, "the peer is gone"))
    }

    fn close(&self, reason: &str) {
        self.ends.close(self.side, reason);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.ends.close(self.side, "the peer is gone");
    }
}
