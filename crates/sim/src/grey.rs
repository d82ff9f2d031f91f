//! Learners that are half there: members of the cluster that hang, that others cannot reach, or that
//! are slow.

use crate::World;
use actors::ports::EngineError;
use proto::{NodeName, Role};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Steps that are made before the first of them falls ill: by then it is known how long a step takes.
const WELL: u64 = 3;

/// Time that a device hangs that nobody resets.
const HUNG: Duration = Duration::from_secs(7200);

/// Times as long as before a slow one takes.
const SLOW: u32 = 10;

/// What is wrong with a learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// The one that is open now does nothing any more.
    Hangs,
    /// No learner of its process does anything, nor can one be opened.
    HangsForGood,
    /// Others cannot dial it.
    Deaf,
    /// It reaches no other, and none reaches it.
    CutOff,
    /// One other cannot dial it.
    OneWay,
    /// It meets others, and then nothing comes through from it to one of them.
    Stalls,
    /// It takes ten times as long.
    Slow,
}

impl Ailment {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hangs,
        Self::HangsForGood,
        Self::Deaf,
        Self::CutOff,
        Self::OneWay,
        Self::Stalls,
        Self::Slow,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Hangs => "a learner hangs",
            Self::HangsForGood => "a learner's process hangs",
            Self::Deaf => "a learner cannot be dialled",
            Self::CutOff => "a learner is cut off from others",
            Self::OneWay => "a learner cannot dial one other",
            Self::Stalls => "a learner's data do not come through",
            Self::Slow => "a learner is slow",
        }
    }
}

/// Who is ill at the moment.
#[derive(Default)]
pub(crate) struct Ward(Mutex<Ill>);

#[derive(Default)]
struct Ill {
    /// Learners opened so far; numbers them.
    opened: u64,
    /// The learners of a machine up to this number hang.
    hung: BTreeMap<NodeName, u64>,
    hung_processes: BTreeSet<(NodeName, u64)>,
    /// From the first to the second.
    blocked: BTreeSet<(NodeName, NodeName)>,
    deaf: BTreeSet<NodeName>,
    cut_off: BTreeSet<NodeName>,
    /// From the first to the second nothing comes once they have met.
    stalled: BTreeSet<(NodeName, NodeName)>,
}

impl Ward {
    fn ill(&self) -> MutexGuard<'_, Ill> {
        self.0.lock().expect("no holder panics")
    }

    /// A learner is opened; its number. Where its process hangs this takes longer than anybody waits.
    pub(crate) async fn open(&self, node: &NodeName, boot: u64) -> Result<u64, EngineError> {
        let is_hung = self.ill().hung_processes.contains(&(node.clone(), boot));
        if is_hung {
            tokio::time::sleep(HUNG).await;
            return Err(EngineError("the device hangs".to_owned()));
        }
        let mut ill = self.ill();
        ill.opened += 1;
        Ok(ill.opened)
    }

    /// Returns if this learner does anything.
    pub(crate) async fn responds(&self, node: &NodeName, boot: u64, number: u64) {
        let is_hung = {
            let ill = self.ill();
            ill.hung.get(node).is_some_and(|hung| number <= *hung)
                || ill.hung_processes.contains(&(node.clone(), boot))
        };
        if is_hung {
            std::future::pending::<()>().await;
        }
    }

    /// Whether one dials another in vain.
    pub(crate) fn is_blocked(&self, from: &NodeName, to: &NodeName) -> bool {
        let ill = self.ill();
        let is_off = |node| ill.cut_off.contains(node);
        ill.blocked.contains(&(from.clone(), to.clone()))
            || ill.deaf.contains(to)
            || is_off(from)
            || is_off(to)
    }

    pub(crate) fn is_stalled(&self, from: &NodeName, to: &NodeName) -> bool {
        self.ill().stalled.contains(&(from.clone(), to.clone()))
    }

    fn recover(&self) {
        let mut ill = self.ill();
        ill.blocked.clear();
        ill.deaf.clear();
        ill.cut_off.clear();
        ill.stalled.clear();
    }
}

/// Has learners fall ill and recover, one after the other, for as long as it is not dropped.
pub(crate) async fn course(world: Arc<World>) {
    let mut rng = ChaCha8Rng::seed_from_u64(world.scenario.seed ^ 0x11e5);
    while world.account.steps() < WELL && world.scenario.is_grey {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    loop {
        let gap = rng.random_range(0..4 * world.scenario.step_ms + 20_000);
        tokio::time::sleep(Duration::from_millis(gap)).await;
        let ailment = match world.scenario.ailment {
            Some(ailment) => ailment,
            None => *Ailment::ALL.choose(&mut rng).expect("there are some"),
        };
        if let Some(who) = befall(&world, &mut rng, ailment) {
            let lasts = rng.random_range(5_000..200_000 + 10 * world.scenario.step_ms);
            tokio::time::sleep(Duration::from_millis(lasts)).await;
            recover(&world);
            world.account.recovers(&who);
        }
    }
}

/// Ends what does not end by itself.
pub(crate) fn recover(world: &World) {
    world.ward.recover();
    for machine in &*world.machines() {
        // Others that are slow are so for another reason.
        let relaxed = Ordering::Relaxed;
        let _ = machine.slowness.compare_exchange(SLOW, 1, relaxed, relaxed);
    }
}

/// Those that are ill from now on.
fn befall(world: &Arc<World>, rng: &mut ChaCha8Rng, ailment: Ailment) -> Option<Vec<NodeName>> {
    let machines = world.machines();
    let learners: Vec<_> = machines
        .iter()
        .filter(|machine| machine.has(Role::Learner) && machine.is_alive())
        .collect();
    let two: Vec<_> = learners.choose_multiple(rng, 2).collect();
    let (one, other) = (*two.first()?, two.get(1).map(|other| other.name.clone()));
    let (name, boot) = (one.name.clone(), one.newest_boot()?);
    let mut who = vec![name.clone()];
    world.account.fault(ailment.name(), format_args!("{name}"));
    {
        let mut ill = world.ward.ill();
        match ailment {
            Ailment::Hangs => {
                let opened = ill.opened;
                ill.hung.insert(name, opened);
            }
            Ailment::HangsForGood => drop(ill.hung_processes.insert((name, boot))),
            Ailment::Deaf => drop(ill.deaf.insert(name)),
            Ailment::CutOff => drop(ill.cut_off.insert(name)),
            Ailment::OneWay => {
                who.push(other.clone()?);
                ill.blocked.insert((name, other?));
            }
            Ailment::Stalls => {
                who.push(other.clone()?);
                ill.stalled.insert((name, other?));
            }
            Ailment::Slow => one.slowness.store(SLOW, Ordering::Relaxed),
        }
    }
    if matches!(ailment, Ailment::Deaf | Ailment::CutOff | Ailment::OneWay) {
        // What was open between them ends, too.
        world.rings.break_up(u32::MAX);
    }
    world.account.falls_ill(&who);
    Some(who)
}
