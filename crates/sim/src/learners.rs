//! Learners that compute nothing, and the rings in which they meet.
//!
//! A step of a group has a moment from which each member makes it or not, on its own: a ring that
//! breaks then leaves some a step ahead of the others. Where members keep shares, nobody who was in a
//! group of several joins another one, and a checkpoint takes all of them. What weights are made from is kept with them, so
//! that members that differ are found.

use crate::World;
use crate::engines::{Place as Stand, bytes_of};
use actors::ports::{EngineError, LearnerFault, Replica, StepReport, Trainer};
use async_trait::async_trait;
use proto::cluster::{Place, Standing};
use proto::{
    SftSample, SnapshotScope, StateGroup, TensorEntry, WeightManifest, WeightSnapshot,
    WeightVersion,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// How long members wait for each other before they give a meeting up.
const MEETING: Duration = Duration::from_secs(20);

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
pub(crate) struct Rings(Mutex<BTreeMap<u32, watch::Sender<Ring>>>);

/// Members that meet, and then make steps together.
#[derive(Debug, Clone, Default)]
struct Ring {
    /// What all bring, by rank.
    brought: BTreeMap<u32, Brought>,
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
    fn of(&self, epoch: u32) -> watch::Sender<Ring> {
        let mut rings = self.0.lock().expect("no holder panics");
        rings.entry(epoch).or_default().clone()
    }

    /// Breaks those up to `epoch`.
    fn break_up(&self, epoch: u32) {
        let rings = self.0.lock().expect("no holder panics");
        for ring in rings.range(..=epoch).map(|(_, ring)| ring) {
            ring.send_modify(|ring| ring.is_broken = true);
        }
    }
}

/// A learner of a node.
pub(crate) struct Learner {
    world: Arc<World>,
    place: Stand,
    folder: PathBuf,
    state: Mutex<State>,
    /// Told of groups that are given up.
    given_up: watch::Sender<u32>,
}

struct State {
    made: Made,
    group: Option<InGroup>,
    joined: u32,
    /// It has what it kept in a group of several, and no more.
    keeps_share: bool,
    rng: ChaCha8Rng,
}

/// The group that a learner is in, and its place there.
#[derive(Debug, Clone, Copy)]
struct InGroup {
    epoch: u32,
    rank: u32,
    world: usize,
}

impl Drop for Learner {
    /// Some of the others notice at once that it is gone, and some not before they are told.
    fn drop(&mut self) {
        let mut state = self.state();
        if let Some(InGroup { epoch, .. }) = state.group
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
            rng,
        };
        Ok(Self {
            world,
            place,
            folder,
            state: Mutex::new(state),
            given_up: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn write(&self, folder: &Path) -> Result<(), EngineError> {
        let Made { steps, weights } = self.state().made;
        std::fs::create_dir_all(folder).map_err(fault)?;
        std::fs::write(folder.join(STEPS), format!("{steps} {weights}")).map_err(fault)
    }

    /// Waits until a ring is as wanted; false when it is broken or given up before.
    async fn wait(
        &self,
        epoch: u32,
        ring: &watch::Sender<Ring>,
        is_so: impl Fn(&Ring) -> bool,
    ) -> bool {
        let (mut ring, mut given_up) = (ring.subscribe(), self.given_up.subscribe());
        let so = ring.wait_for(|ring| ring.is_broken || is_so(ring));
        let over = given_up.wait_for(|given_up| *given_up >= epoch);
        tokio::select! {
            biased;
            so = so => so.is_ok_and(|ring| is_so(&ring)),
            _ = over => false,
        }
    }

    /// SI-10, and the wait for the others: whether it is done.
    async fn together(&self, group: InGroup, common: Common, made: Made) -> bool {
        let InGroup { epoch, rank, world } = group;
        let ring = self.world.rings.of(epoch);
        ring.send_modify(|ring| {
            ring.there
                .entry(common)
                .or_default()
                .insert(rank, made.weights);
        });
        let all = |ring: &Ring| {
            ring.there
                .get(&common)
                .is_some_and(|all| all.len() == world)
        };
        if !self.wait(epoch, &ring, all).await {
            return false;
        }
        let weights = ring.borrow().there[&common].clone();
        if weights.values().any(|other| *other != made.weights) {
            let how = format_args!("members of group {epoch} begin {common:?} with {weights:?}");
            self.place.account.breaks("SI-10", how);
        }
        // The last messages are under way.
        let wait = self.state().rng.random_range(1..200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let is_broken = ring.borrow().is_broken || *self.given_up.borrow() >= epoch;
        !is_broken || self.state().rng.random_bool(0.5)
    }

    fn in_group(&self) -> Result<(InGroup, Made), LearnerFault> {
        let state = self.state();
        let group = state.group.ok_or_else(apart)?;
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

fn fault(error: impl std::fmt::Display) -> EngineError {
    EngineError(error.to_string())
}

#[async_trait]
impl Replica for Learner {
    async fn standing(&self) -> Result<Standing, EngineError> {
        let state = self.state();
        Ok(Standing {
            epoch: state.joined,
            steps: state.made.steps,
            address: ([0, 0, 0, 0], 0).into(),
            key: Vec::new(),
        })
    }

    async fn meet(&self, place: Place) -> Result<u64, EngineError> {
        let Place {
            epoch,
            rank,
            members,
            is_level,
            ..
        } = place;
        let ring = self.world.rings.of(epoch);
        let made = self.state().made;
        if *self.given_up.borrow() >= epoch {
            return Err(fault("the group was given up before it met"));
        }
        let is_share = self.state().keeps_share;
        ring.send_modify(|ring| {
            ring.brought.insert(rank, Brought { made, is_share });
        });
        let all = |ring: &Ring| ring.brought.len() == members.len();
        let met = tokio::time::timeout(MEETING, self.wait(epoch, &ring, all)).await;
        if met != Ok(true) {
            return Err(fault("the others are not there"));
        }
        let leader = self.agreed(&ring.borrow().brought)?;
        if is_level && leader != made {
            let how = format_args!("{made:?} is taken for level with {leader:?} in group {epoch}");
            self.place.account.breaks("SI-10", how);
        }
        let mut state = self.state();
        state.made = leader;
        state.joined = epoch;
        let world = members.len();
        state.group = Some(InGroup { epoch, rank, world });
        state.keeps_share = self.world.scenario.keep_shares && world > 1;
        Ok(leader.steps)
    }

    async fn checkpoint_together(&self) -> Result<Option<PathBuf>, LearnerFault> {
        if !self.world.scenario.keep_shares {
            return Ok(Some(self.checkpoint().await?));
        }
        let (group, made) = self.in_group()?;
        if !self
            .together(group, Common::Checkpoint(made.steps), made)
            .await
        {
            return Err(apart());
        }
        match group.rank {
            0 => Ok(Some(self.checkpoint().await?)),
            _ => Ok(None),
        }
    }

    fn abandon(&self, epoch: u32, _: &str) {
        // The others of the ring are told.
        let present = self.state().group.map(|group| group.epoch);
        if let Some(present) = present.filter(|present| *present <= epoch) {
            self.world.rings.break_up(present);
        }
        self.given_up
            .send_modify(|given_up| *given_up = epoch.max(*given_up));
    }
}

#[async_trait]
impl Trainer for Learner {
    async fn steps_done(&self) -> Result<u64, EngineError> {
        Ok(self.state().made.steps)
    }

    async fn supervised_step(&self, _: Vec<SftSample>) -> Result<StepReport, LearnerFault> {
        Err(fault("nothing is imitated here").into())
    }

    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault> {
        let (group, begins) = self.in_group()?;
        let InGroup { epoch, world, .. } = group;
        self.world.account.on_policy(epoch, &batch);
        self.place.work().await;
        let step = Common::Step(begins.steps);
        if !self.together(group, step, begins).await {
            return Err(apart());
        }
        let mut state = self.state();
        state.made = begins.stepped(epoch);
        let step = state.made.steps;
        self.place.account.step_made(epoch, step, world);
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
        let (made, group) = {
            let state = self.state();
            (state.made, state.group)
        };
        let epoch = group.map_or(0, |group| group.epoch);
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
