//! The cluster without a network: hundreds of nodes in one thread, virtual time, faults from a seed.
//!
//! A simulation runs what a run over several nodes runs: [`actors::cluster::Cluster`] and
//! [`actors::Controller`] on one side, [`actors::node::run`] on the other, over
//! [`transport::memory`]. Only engines are made up. From its seed follow the machines, the work, and
//! what goes wrong: nodes and the controller are cut off, crash, come back, are slow; lanes break. In
//! the end everything is mended, and then the run must end, too.
//!
//! - **SI-1 (each item once).** Each item is stored once, and what was acknowledged is there whatever
//!   happened to the controller.
//! - **SI-2 (one group).** Training takes no step of a group of learners once there was a newer one;
//!   weights that are published have rising versions.
//! - **SI-3 (on policy).** No step is made with an action of other weights than those that were
//!   published for its batch.
//! - **SI-4 (credits).** No engine has more calls at once than it said it takes, on a network that
//!   doubles none.
//! - **SI-5 (no way back).** A sampler's weights only rise, and are whole, whichever nodes they came
//!   through.
//! - **SI-6 (progress).** Once everything is mended the run ends in about the time that its work takes,
//!   and every node is told.
//! - **SI-7 (one process a name).** No two members have the same name.
//! - **SI-8 (nothing is left).** Afterwards no engine is open and no task is left.
//! - **SI-9 (repeatable).** The same seed gives the same course, line by line.
//! - **SI-10 (the same weights).** Learners that make a step together begin it with the same weights.
//!
//! - **SI-11 (the well work).** Where samplers get sick and nothing else is wrong, none is left out that
//!   never was sick, nor one that has been well for [`BACK_AFTER`]. Nowhere is an item given up: there
//!   always is a sampler that is well.
//! - **SI-12 (no long step).** There no batch of actions takes longer than three times as long as samplers
//!   that are well take, and the time limit of a call for each of the sick.
//!
//! Where nothing goes wrong but that learners are half there ([`Ailment`]), also:
//!
//! - **SI-13 (a step takes its time).** No step takes longer than three times what it takes when all are
//!   well, and, for each learner that falls ill within it, the time that it takes to find that out.
//! - **SI-14 (the sick are left out).** No learner that is well is left out for longer than those that
//!   are not, nor for longer than it takes to be let in again.
//! - **SI-15 (they come back).** A learner that has recovered takes part again.
//!
//! - **SI-16 (the same files).** A model that has come to a node is the controller's, byte for byte,
//!   whichever nodes it came through.
//!
//! What is not simulated: QUIC and TLS themselves, disks that fail, clocks that differ, tools and judges
//! that fail or hang.

mod account;
mod chaos;
mod engines;
mod grey;
mod head;
mod learners;
mod machine;
mod scenario;

pub use grey::Ailment;
pub use scenario::Scenario;

use account::Account;
use learners::Rings;
use machine::Machine;
use proto::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use transport::memory::Network;

/// After so long a sampler that is well again takes part: the longest quarantine, and a new process.
const BACK_AFTER: Duration = Duration::from_secs(900);

/// What came of a simulation.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Invariants that were broken, the first one first; none if all is well.
    pub breaks: Vec<String>,
    /// What happened, with milliseconds of virtual time.
    pub log: Vec<String>,
    /// Of the log.
    pub hash: u64,
    /// Trajectories stored.
    pub stored: u64,
    /// Steps that the training loop was told of.
    pub steps: u64,
    /// Parts that learners had in steps of groups of several.
    pub shared_steps: u64,
    /// Bytes of weights that nodes pulled from each other.
    pub given_on: u64,
    /// Bytes of files that nodes pulled from each other.
    pub files_given_on: u64,
    /// Bytes of weights that were not pulled because a delta held them.
    pub saved: u64,
    /// Faults by their kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The longest that a step took from when learners were first asked for it.
    pub longest_step: Duration,
    /// Virtual time until everything had ended.
    pub took: Duration,
}

/// What everything in a simulation shares.
pub(crate) struct World {
    pub scenario: Scenario,
    pub account: Arc<Account>,
    pub network: Network,
    machines: Mutex<Vec<Machine>>,
    epoch: AtomicU32,
    pub rings: Rings,
    pub ward: grey::Ward,
    folder: tempfile::TempDir,
}

impl World {
    fn new(scenario: Scenario) -> Arc<Self> {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::Builder::new()
            .prefix("swirl-sim-")
            .tempdir_in(root);
        let folder = folder.expect("there is room for a folder");
        std::fs::create_dir(folder.path().join("model")).expect("the folder is new");
        let weights: Vec<u8> = (0..1000u32).map(|n| ((n * n) >> 3) as u8).collect();
        for (name, bytes) in [("config", &weights[..40]), ("weights", &weights)] {
            let path = folder.path().join("model").join(name);
            std::fs::write(path, bytes).expect("there is room");
        }
        Arc::new(Self {
            account: Arc::new(Account::new(&scenario)),
            network: Network::new(scenario.seed, scenario.rules, scenario.idle),
            machines: Mutex::default(),
            epoch: AtomicU32::new(0),
            rings: Rings::default(),
            ward: grey::Ward::default(),
            folder,
            scenario,
        })
    }

    pub(crate) fn machines(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.machines.lock().expect("no holder panics")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("nodes")
    }

    pub(crate) fn trajectories(&self) -> PathBuf {
        self.folder.path().join("trajectories")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.path().join("checkpoints")
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// SI-16.
    fn compare_model(&self, node: &NodeName, folder: &Path) {
        for file in ["config", "weights"] {
            let [here, there] =
                [self.model(), folder.to_owned()].map(|f| std::fs::read(f.join(file)));
            if here.ok() != there.ok() {
                self.account
                    .breaks("SI-16", format_args!("{node} holds another {file}"));
            }
        }
    }

    pub(crate) fn exported(&self) -> PathBuf {
        self.folder.path().join("exported")
    }

    /// Of groups and orders of learners. As on disk: it outlives the controller.
    pub(crate) fn next_number(&self) -> u32 {
        self.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The machines, each of which has a member, once all is mended.
    pub(crate) fn names(&self) -> BTreeSet<NodeName> {
        let machines = self.machines();
        let here = machines.iter().filter(|machine| !machine.is_gone);
        here.map(|machine| machine.name.clone()).collect()
    }
}

/// Runs the simulation of a seed.
pub fn simulate(seed: u64) -> Outcome {
    run(Scenario::of(seed))
}

/// Runs a scenario.
pub fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing of the system");
    let (finished, took) = runtime.block_on(async {
        let world = World::new(scenario);
        let took = chaos::course(&world).await;
        (world.account.finish(), took)
    });
    Outcome {
        seed,
        breaks: finished.breaks,
        log: finished.log,
        hash: finished.hash,
        stored: finished.stored,
        steps: finished.steps,
        shared_steps: finished.shared_steps,
        given_on: finished.given_on,
        files_given_on: finished.files_given_on,
        saved: finished.saved,
        faults: finished.faults,
        longest_step: finished.longest_step,
        took,
    }
}
