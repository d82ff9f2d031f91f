//! Learners that compute nothing, and the rings in which they meet.
//!
//! A step of a group has a moment from which each member makes it or not, on its own: a ring that
//! breaks then leaves some a step ahead of the others. Where members keep shares, nobody who was in a
//! group of several joins another one, and a checkpoint takes all of them. What weights are made from is
//! kept with them, so that members that differ are found. Who is ill, and how, says the
//! [`crate::grey::Ward`].

use crate::World;
use crate::engines::{Place as Stand, bytes_of};
use actors::ports::{EngineError, LearnerFault, Replica, StepReport, Trainer};
use actors::told::Told;
use async_trait::async_trait;
use proto::NodeName;
use proto::cluster::{Occupation, Place, Standing, Unmet};
use proto::{
    SftSample, SnapshotScope, StateGroup, TensorEntry, WeightManifest, WeightSnapshot,
    WeightVersion,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Time that members try to meet their neighbours.
const MEETING: Duration = Duration::from_secs(20);

/// Pause between their looks whether a way is open by now.
const LOOK: Duration = Duration::from_secs(1);

/// The file of a checkpoint.
const STEPS: &str = "steps";

/// Steps that were made, and what they made of the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Made {
    steps: u64,
    weights: u64,
}

impl Made {
    /// After one more step, by the group of this epoch.
    fn stepped(self, epoch: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.weights, self.steps, epoch).hash(&mut hasher);
        Self {
            steps: self.steps + 1,
            weights: hasher.finish(),
        }
    }
}

/// All rings there were.
#[derive(Default)]
pub(crate) struct Rings(Mutex<BTreeMap<u32, Told<Ring>>>);

/// Members that meet, and then make steps together.
#[derive(Debug, Clone, Default)]
struct Ring {
    /// What all bring, by rank.
    brought: BTreeMap<u32, Brought>,
    /// Those that have met both neighbours.
    met: BTreeSet<u32>,
    /// Who is there for something that all do, and with which weights.
    there: BTreeMap<Common, BTreeMap<u32, u64>>,
    is_broken: bool,
}

/// What a member has when it meets others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Brought {
    made: Made,
    /// It keeps a share of a former group.
    is_share: bool,
}

/// What all members do together, after so many steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Common {
    Step(u64),
    Checkpoint(u64),
}

impl Rings {
    fn of(&self, epoch: u32) -> Told<Ring> {
        let mut rings = self.0.lock().expect("no holder panics");
        rings.entry(epoch).or_default().clone()
    }

    /// Breaks those up to `epoch`.
    pub(crate) fn break_up(&self, epoch: u32) {
        let rings = self.0.lock().expect("no holder panics");
        for ring in rings.range(..=epoch).map(|(_, ring)| ring) {
            ring.change(|ring| ring.is_broken = true);
        }
    }
}

/// A learner of a node.
pub(crate) struct Learner {
    world: Arc<World>,
    place: Stand,
    /// As [`crate::grey::Ward`] knows it.
    number: u64,
    folder: PathBuf,
    state: Mutex<State>,
    /// Told of groups that are given up.
    given_up: Told<u32>,
}

struct State {
    made: Made,
    group: Option<InGroup>,
    joined: u32,
    /// It has what it kept in a group of several, and no more.
    keeps_share: bool,
    occupation: Occupation,
    rng: ChaCha8Rng,
}

/// The group that a learner is in, and its place there.
#[derive(Debug, Clone)]
struct InGroup {
    epoch: u32,
    rank: u32,
    /// By rank.
    members: Arc<[NodeName]>,
}

impl InGroup {
    fn neighbour(&self, ahead: usize) -> u32 {
        ((self.rank as usize + ahead) % self.members.len()) as u32
    }

    fn next(&self) -> u32 {
        self.neighbour(1)
    }

    fn previous(&self) -> u32 {
        self.neighbour(self.members.len() - 1)
    }

    fn name(&self, rank: u32) -> &NodeName {
        &self.members[rank as usize]
    }
}

/// What a learner is at, for as long as it is not dropped.
struct Busy<'a>(&'a Learner);

impl<'a> Busy<'a> {
    fn with(learner: &'a Learner, occupation: Occupation) -> Self {
        learner.state().occupation = occupation;
        Self(learner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().occupation = Occupation::Idle;
    }
}

impl Drop for Learner {
    /// Some of the others notice at once that it is gone, and some not before they are told.
    fn drop(&mut self) {
        let mut state = self.state();
        if let Some(epoch) = state.group.as_ref().map(|group| group.epoch)
            && state.rng.random_bool(0.5)
        {
            drop(state);
            self.world.rings.break_up(epoch);
        }
    }
}

impl Learner {
    /// Goes on from a checkpoint, if there is one.
    pub(crate) fn open(
        world: Arc<World>,
        place: Stand,
        number: u64,
        folder: PathBuf,
        checkpoint: Option<&Path>,
    ) -> Result<Self, EngineError> {
        let made = match checkpoint {
            Some(path) => {
                let text = std::fs::read_to_string(path.join(STEPS)).map_err(fault)?;
                let (steps, weights) = text.split_once(' ').ok_or_else(|| fault(&text))?;
                Made {
                    steps: steps.parse().map_err(fault)?,
                    weights: weights.parse().map_err(fault)?,
                }
            }
            None => Made::default(),
        };
        let steps = made.steps;
        place
            .account
            .note(format_args!("a learner begins with {steps} steps"));
        let rng = ChaCha8Rng::seed_from_u64(place.boot ^ steps);
        let state = State {
            made,
            group: None,
            joined: 0,
            keeps_share: false,
            occupation: Occupation::Idle,
            rng,
        };
        Ok(Self {
            world,
            place,
            number,
            folder,
            state: Mutex::new(state),
            given_up: Told::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Returns if it does anything at all.
    async fn responds(&self) {
        let Stand { node, boot, .. } = &self.place;
        self.world.ward.responds(node, *boot, self.number).await;
    }

    fn write(&self, folder: &Path) -> Result<(), EngineError> {
        let Made { steps, weights } = self.state().made;
        std::fs::create_dir_all(folder).map_err(fault)?;
        std::fs::write(folder.join(STEPS), format!("{steps} {weights}")).map_err(fault)
    }

    /// Waits until a ring is as wanted; false when it is broken or given up before.
    async fn wait(&self, epoch: u32, ring: &Told<Ring>, is_so: impl Fn(&Ring) -> bool) -> bool {
        loop {
            let so = ring.is(|ring| ring.is_broken || is_so(ring));
            let over = self.given_up.is(|given_up| *given_up >= epoch);
            tokio::select! {
                biased;
                () = so => return is_so(&ring.value()),
                () = over => return false,
                () = self.look() => {}
            }
        }
    }

    /// Until ways may be open that were not.
    async fn look(&self) {
        match self.world.scenario.has_sick_learners {
            true => tokio::time::sleep(LOOK).await,
            false => std::future::pending().await,
        }
    }

    /// Computes, until the group is given up; some time after that it is over, too.
    async fn compute(&self, epoch: u32) -> bool {
        let over = self.given_up.is(|given_up| *given_up >= epoch);
        let is_done = tokio::select! {
            biased;
            () = self.place.work() => true,
            () = over => false,
        };
        if !is_done {
            let part = Duration::from_millis(self.world.scenario.step_ms / 8);
            tokio::time::sleep(part).await;
        }
        is_done
    }

    /// Meets the next one and the one before.
    async fn meet_neighbours(&self, group: &InGroup, ring: &Told<Ring>) -> Result<(), Unmet> {
        let (next, previous, rank) = (group.next(), group.previous(), group.rank);
        let ward = &self.world.ward;
        let is_there = |ring: &Ring, from: u32, to: u32, other: u32| {
            ring.brought.contains_key(&other) && !ward.is_blocked(group.name(from), group.name(to))
        };
        let misses = |ring: &Ring| {
            (
                !is_there(ring, rank, next, next),
                !is_there(ring, previous, rank, previous),
            )
        };
        if group.members.len() == 1 {
            return Ok(());
        }
        // What befalls others does not end it before its time.
        let until = tokio::time::Instant::now() + MEETING;
        while misses(&ring.value()) != (false, false) {
            let is_over = tokio::select! {
                biased;
                () = self.given_up.is(|given_up| *given_up >= group.epoch) => true,
                () = ring.is(|ring| misses(ring) == (false, false)) => false,
                () = self.look() => false,
                () = tokio::time::sleep_until(until) => false,
            };
            if is_over {
                return Err(unmet("the group was given up before it met"));
            }
            if tokio::time::Instant::now() >= until {
                let (misses_next, misses_previous) = misses(&ring.value());
                return Err(Unmet {
                    misses_next,
                    misses_previous,
                    ..unmet("the others are not there")
                });
            }
        }
        Ok(())
    }

    /// SI-10, and the wait for the others: whether it is done.
    async fn together(&self, group: &InGroup, common: Common, made: Made) -> bool {
        let _busy = Busy::with(self, Occupation::Waiting);
        let (epoch, rank, world) = (group.epoch, group.rank, group.members.len());
        let ring = self.world.rings.of(epoch);
        ring.change(|ring| {
            ring.there
                .entry(common)
                .or_default()
                .insert(rank, made.weights);
        });
        let is_stalled = || {
            let next = group.members.iter().cycle().skip(1);
            let mut ways = group.members.iter().zip(next);
            ways.any(|(from, to)| self.world.ward.is_stalled(from, to))
        };
        let all = |ring: &Ring| {
            let there = ring.there.get(&common);
            there.is_some_and(|all| all.len() == world) && !is_stalled()
        };
        if !self.wait(epoch, &ring, all).await {
            return false;
        }
        let weights = ring.value().there[&common].clone();
        if weights.values().any(|other| *other != made.weights) {
            let how = format_args!("members of group {epoch} begin {common:?} with {weights:?}");
            self.place.account.breaks("SI-10", how);
        }
        // The last messages are under way.
        let wait = self.state().rng.random_range(1..200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let is_broken = ring.value().is_broken || *self.given_up.value() >= epoch;
        !is_broken || self.state().rng.random_bool(0.5)
    }

    fn in_group(&self) -> Result<(InGroup, Made), LearnerFault> {
        let state = self.state();
        let group = state.group.clone().ok_or_else(apart)?;
        Ok((group, state.made))
    }

    /// What all have brought agrees, where they keep shares; what the others take over, where not.
    fn agreed(&self, brought: &BTreeMap<u32, Brought>) -> Result<Made, EngineError> {
        let leader = brought[&0].made;
        if !self.world.scenario.keep_shares {
            return Ok(leader);
        }
        if brought.values().any(|b| b.is_share) {
            return Err(fault("a member keeps a share of another group"));
        }
        if brought.values().any(|b| b.made != leader) {
            return Err(fault("they do not begin from the same state"));
        }
        Ok(leader)
    }
}

fn apart() -> LearnerFault {
    LearnerFault::Apart("the ring is broken".to_owned())
}

fn unmet(reason: &str) -> Unmet {
    Unmet {
        reason: reason.to_owned(),
        is_whole: true,
        ..Unmet::default()
    }
}

/// Where a machine's learner is met, which says which machine it is.
fn address_of(node: &NodeName) -> SocketAddr {
    let number = node.as_str().trim_start_matches("n-").parse();
    let [_, _, high, low] = number.unwrap_or(0u32).to_be_bytes();
    ([10, 0, high, low], 1).into()
}

fn name_at(address: &SocketAddr) -> NodeName {
    let number = match address.ip() {
        IpAddr::V4(ip) => u32::from(ip) & 0xffff,
        IpAddr::V6(_) => 0,
    };
    let name = format!("n-{number:03}").parse();
    name.expect("a name of letters and digits")
}

fn fault(error: impl std::fmt::Display) -> EngineError {
    EngineError(error.to_string())
}

#[async_trait]
impl Replica for Learner {
    async fn standing(&self) -> Result<Standing, EngineError> {
        self.responds().await;
        let state = self.state();
        Ok(Standing {
            epoch: state.joined,
            steps: state.made.steps,
            address: address_of(&self.place.node),
        })
    }

    async fn meet(&self, place: Place) -> Result<u64, Unmet> {
        self.responds().await;
        let Place {
            epoch,
            rank,
            members,
            is_level,
            ..
        } = place;
        let ring = self.world.rings.of(epoch);
        let made = self.state().made;
        if *self.given_up.value() >= epoch {
            return Err(unmet("the group was given up before it met"));
        }
        let group = InGroup {
            epoch,
            rank,
            members: members.iter().map(name_at).collect(),
        };
        let is_share = self.state().keeps_share;
        ring.change(|ring| {
            ring.brought.insert(rank, Brought { made, is_share });
        });
        if let Err(unmet) = self.meet_neighbours(&group, &ring).await {
            // What it had met of the ring ends.
            ring.change(|ring| ring.is_broken = true);
            return Err(unmet);
        }
        ring.change(|ring| ring.met.extend([rank]));
        let all = |ring: &Ring| ring.met.len() == members.len();
        if !self.wait(epoch, &ring, all).await {
            return Err(unmet("the ring broke before all had met"));
        }
        let leader = self.agreed(&ring.value().brought);
        let leader = leader.map_err(|error| unmet(&error.0))?;
        if is_level && leader != made {
            let how = format_args!("{made:?} is taken for level with {leader:?} in group {epoch}");
            self.place.account.breaks("SI-10", how);
        }
        let mut state = self.state();
        state.made = leader;
        state.joined = epoch;
        let world = members.len();
        state.group = Some(group);
        state.keeps_share = self.world.scenario.keep_shares && world > 1;
        Ok(leader.steps)
    }

    async fn checkpoint_together(&self) -> Result<Option<PathBuf>, LearnerFault> {
        if !self.world.scenario.keep_shares {
            return Ok(Some(self.checkpoint().await?));
        }
        self.responds().await;
        let (group, made) = self.in_group()?;
        let common = Common::Checkpoint(made.steps);
        if !self.together(&group, common, made).await {
            return Err(apart());
        }
        match group.rank {
            0 => Ok(Some(self.checkpoint().await?)),
            _ => Ok(None),
        }
    }

    fn abandon(&self, epoch: u32, _: &str) -> Occupation {
        let occupation = self.state().occupation;
        // The others of the ring are told.
        let present = self.state().group.as_ref().map(|group| group.epoch);
        if let Some(present) = present.filter(|present| *present <= epoch) {
            self.world.rings.break_up(present);
        }
        self.given_up
            .change(|given_up| *given_up = epoch.max(*given_up));
        occupation
    }
}

#[async_trait]
impl Trainer for Learner {
    async fn steps_done(&self) -> Result<u64, EngineError> {
        self.responds().await;
        Ok(self.state().made.steps)
    }

    async fn supervised_step(&self, _: Vec<SftSample>) -> Result<StepReport, LearnerFault> {
        Err(fault("nothing is imitated here").into())
    }

    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault> {
        let (group, begins) = self.in_group()?;
        let (epoch, world) = (group.epoch, group.members.len());
        self.world.account.on_policy(epoch, &batch);
        self.world.account.step_begun(begins.steps + 1);
        {
            let _busy = Busy::with(self, Occupation::Computing);
            if !self.compute(epoch).await {
                return Err(apart());
            }
            self.responds().await;
        }
        let step = Common::Step(begins.steps);
        if !self.together(&group, step, begins).await {
            return Err(apart());
        }
        let mut state = self.state();
        state.made = begins.stepped(epoch);
        let step = state.made.steps;
        let Stand { account, node, .. } = &self.place;
        account.step_made(node, epoch, step, world);
        Ok(StepReport {
            step,
            metrics: BTreeMap::from([("epoch".to_owned(), f64::from(epoch))]),
        })
    }

    async fn snapshot(
        &self,
        version: WeightVersion,
        _: SnapshotScope,
    ) -> Result<WeightSnapshot, EngineError> {
        self.responds().await;
        let (made, epoch) = {
            let state = self.state();
            let epoch = state.group.as_ref().map(|group| group.epoch);
            (state.made, epoch.unwrap_or(0))
        };
        if version != WeightVersion::of(epoch, made.steps) {
            let how = format_args!("{made:?} of group {epoch} is called {version}");
            self.place.account.breaks("SI-2", how);
        }
        let bytes = bytes_of(version);
        let tensor = TensorEntry {
            name: "version".into(),
            dtype: "f32".into(),
            shape: vec![bytes.len() as i64 / 4],
            offset: 0,
            len: bytes.len() as u64,
        };
        let manifest = WeightManifest {
            adapter: None,
            base: None,
            version,
            tensors: vec![tensor],
            checksum: crc32fast::hash(&bytes),
        };
        Ok(WeightSnapshot {
            manifest: Arc::new(manifest),
            bytes: Arc::new(bytes),
        })
    }

    async fn checkpoint(&self) -> Result<PathBuf, EngineError> {
        self.responds().await;
        let folder = self
            .folder
            .join(format!("step_{}", self.state().made.steps));
        self.write(&folder)?;
        Ok(folder)
    }

    async fn export(&self, folder: PathBuf) -> Result<(), EngineError> {
        self.write(&folder)
    }
}
