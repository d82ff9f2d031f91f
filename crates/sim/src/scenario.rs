//! What a seed stands for.

use crate::grey::Ailment;
use proto::Role;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::time::Duration;
use transport::memory::Rules;

/// A meeting of learners that fails, and what is said of it, in milliseconds.
const MEETING_MS: u64 = 31_000;

/// The least limit of what learners do together, in milliseconds.
const LIMIT_FLOOR_MS: u64 = 30_000;

/// After so long a learner that was left out for the first time is tried again, in milliseconds.
const FIRST_WAIT_MS: u64 = 30_000;

/// After so long one is tried again at the latest, in milliseconds.
pub(crate) const LONGEST_WAIT_MS: u64 = 600_000;

/// Everything that is decided before a simulation begins. What goes wrong, and when, follows from the
/// seed too.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// All of it follows from this.
    pub seed: u64,
    /// The roles of each machine.
    pub machines: Vec<BTreeSet<Role>>,
    /// Whether the controller's process judges and runs tools.
    pub services_here: bool,
    /// Questions of the run.
    pub questions: u32,
    /// Samples of each.
    pub samples: u32,
    /// Items that a sampler works on at once.
    pub items_per_sampler: u32,
    /// Calls that an engine takes at once.
    pub credits: u32,
    /// How long a sampler takes for a call, in milliseconds.
    pub sample_ms: u64,
    /// How long a tool or a judge takes.
    pub service_ms: u64,
    /// How long an optimisation step takes.
    pub step_ms: u64,
    /// How long an engine takes to open.
    pub open_ms: u64,
    /// Steps of training.
    pub steps: u64,
    /// Steps of the same actions.
    pub updates_per_batch: u64,
    /// States of a step.
    pub states_per_step: usize,
    /// Learners side by side, at most.
    pub replicas: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// The network while nothing is wrong with it.
    pub rules: Rules,
    /// After so long without a word, connections end.
    pub idle: Duration,
    /// A lease that is older is given out again, in milliseconds.
    pub lease_ms: u64,
    /// Mean time between faults, in milliseconds.
    pub gap_ms: u64,
    /// When faults end, in milliseconds.
    pub faults_ms: u64,
    /// Whether frames are lost, doubled and overtaken between controller and machines that do not
    /// train: more than real streams do.
    pub is_harsh: bool,
    /// Nodes that each one gives weights to.
    pub fan_out: usize,
    /// Whether samplers are offered what has changed in the weights.
    pub deltas: bool,
    /// Share of the machines that take no connections.
    pub hidden: f64,
    /// Whether each learner of a group keeps a share of the optimizer's state alone.
    pub keep_shares: bool,
    /// Sick samplers.
    pub sick: Sick,
    /// Whether learners are half there at times.
    pub has_sick_learners: bool,
    /// Whether nothing else goes wrong.
    pub is_grey: bool,
    /// The one thing that is wrong with them; none: anything.
    pub ailment: Option<Ailment>,
}

/// How samplers get sick: they stay connected, and refuse, hang, are slow, or fail now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sick {
    /// Number of samplers that may be sick at the same time; the first of all machines never is. 0: none.
    pub at_once: usize,
    /// Whether nothing else goes wrong, so that it is known how long everything may take.
    pub is_alone: bool,
    /// Whether all are well until training has made a step, and training is long.
    pub is_late: bool,
    /// Mean time between two that get sick, in milliseconds.
    pub gap_ms: u64,
}

impl Sick {
    /// From a seed of its own: the rest of a scenario is as it was without.
    fn of(seed: u64, machines: &[BTreeSet<Role>]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x51c4);
        let others = machines.iter().skip(1);
        let samplers = others
            .filter(|roles| roles.contains(&Role::Sampler))
            .count();
        let is_sick = samplers > 0 && machines.len() < 100 && rng.random_bool(0.4);
        let most = (samplers * 2 / 3).max(1);
        let at_once = match is_sick {
            true => rng.random_range(1..=most),
            false => 0,
        };
        let is_alone = is_sick && rng.random_bool(0.5);
        Self {
            at_once,
            is_alone,
            gap_ms: between(&mut rng, 1_000, 60_000),
            is_late: is_alone && rng.random_bool(0.5),
        }
    }

    /// Nobody.
    fn none() -> Self {
        Self {
            at_once: 0,
            is_alone: false,
            is_late: false,
            gap_ms: 60_000,
        }
    }
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rng = &mut rng;
        let count = match rng.random_range(0..100) {
            0..2 => rng.random_range(100..400),
            2..70 => rng.random_range(4..12),
            _ => rng.random_range(12..30),
        };
        let is_large = count >= 100;
        let services_here = rng.random_bool(0.4);
        let machines = (0..count).map(|i| roles(rng, i, services_here)).collect();
        let is_harsh = !is_large && rng.random_bool(0.2);
        let updates_per_batch = rng.random_range(1..=2);
        let machines: Vec<BTreeSet<Role>> = machines;
        let sick = Sick::of(seed, &machines);
        let scenario = Self {
            seed,
            sick,
            machines,
            services_here,
            questions: rng.random_range(2..=24),
            samples: rng.random_range(1..=4),
            items_per_sampler: rng.random_range(1..=6),
            credits: rng.random_range(1..=5),
            sample_ms: between(rng, 20, 4000),
            service_ms: between(rng, 5, 1500),
            step_ms: between(rng, 50, 8000),
            open_ms: between(rng, 10, 10_000),
            steps: updates_per_batch * rng.random_range(0..=8),
            updates_per_batch,
            states_per_step: rng.random_range(1..=6),
            checkpoint_every: *[0, 1, 2, 2, 4].choose(rng).unwrap_or(&2),
            rules: Rules {
                delay: Duration::from_micros(between(rng, 50, 60_000)),
                jitter: Duration::from_micros(between(rng, 1, 40_000)),
                ..Rules::default()
            },
            idle: Duration::from_millis(between(rng, 500, 10_000)),
            lease_ms: rng.random_range(120_000..1_800_000),
            gap_ms: between(rng, 300, if is_large { 2_000 } else { 20_000 }),
            faults_ms: rng.random_range(5_000..if is_large { 30_000 } else { 180_000 }),
            is_harsh,
            replicas: *[1, 2, 3, usize::MAX].choose(rng).unwrap_or(&1),
            fan_out: rng.random_range(1..=4),
            deltas: rng.random_bool(0.5),
            hidden: *[0.0, 0.0, 0.3, 1.0].choose(rng).unwrap_or(&0.0),
            keep_shares: rng.random_bool(0.25),
            has_sick_learners: rng.random_bool(0.2) && !sick.is_alone,
            is_grey: false,
            ailment: None,
        };
        match rng.random_bool(0.1) {
            true => scenario.grey(*Ailment::ALL.choose(rng).unwrap_or(&Ailment::Hangs)),
            false if sick.is_late => scenario.mostly_training(),
            false => scenario,
        }
    }

    /// The same with few items and many steps, of which sampling takes most, and every sampler has a part
    /// in it: one that gets sick is likely to be at something.
    fn mostly_training(self) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7a1);
        let machines = self.machines.iter();
        let samplers = machines.filter(|roles| roles.contains(&Role::Sampler));
        Self {
            states_per_step: 2 * samplers.count(),
            questions: 4,
            samples: 2,
            sample_ms: between(&mut rng, 500, 4000),
            step_ms: between(&mut rng, 50, 500),
            steps: self.updates_per_batch * rng.random_range(10..40),
            ..self
        }
    }

    /// The same with learners that have this ailment at times, and nothing else that goes wrong: four to
    /// nine of them, for long enough that they come back.
    pub fn grey(self, ailment: Ailment) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0x6e9);
        let rng = &mut rng;
        let learners = rng.random_range(4..10);
        let roles = [Role::Sampler, Role::Sampler, Role::Judge, Role::Tool];
        let others = roles.into_iter().map(|role| BTreeSet::from([role]));
        let learner = BTreeSet::from([Role::Learner]);
        Self {
            machines: others
                .chain(std::iter::repeat_n(learner, learners))
                .collect(),
            services_here: false,
            questions: 4,
            samples: 2,
            sample_ms: between(rng, 20, 400),
            service_ms: between(rng, 5, 100),
            step_ms: between(rng, 200, 30_000),
            steps: self.updates_per_batch * rng.random_range(40..80),
            states_per_step: 2,
            checkpoint_every: *[1, 2, 4].choose(rng).unwrap_or(&2),
            idle: Duration::from_secs(10),
            faults_ms: 100 * 3_600_000,
            is_harsh: false,
            // With one that stands by, or not.
            replicas: match rng.random_bool(0.25) {
                true => learners - 1,
                false => usize::MAX,
            },
            has_sick_learners: true,
            is_grey: true,
            sick: Sick::none(),
            ailment: Some(ailment),
            ..self
        }
    }

    /// Longest time that a step may take in which a learner falls ill, once it is known how long steps
    /// take and when nothing else goes wrong (SI-13), in milliseconds.
    pub(crate) fn longest_step_ms(&self) -> u64 {
        let meetings = 4 * MEETING_MS;
        self.finding_ms() + self.pace_ms() + meetings + self.opening_ms()
    }

    /// Time until it is known who is ill: the limit of the step, and that of the question how far each
    /// is. Another one that falls ill later in the same step takes as long again. In milliseconds.
    pub(crate) fn finding_ms(&self) -> u64 {
        let limit = 3 * self.pace_ms() + LIMIT_FLOOR_MS;
        // Nobody is known to be at fault at first, and the limit doubles.
        let tries = match self.ailment {
            Some(Ailment::Stalls) => 4,
            _ => 1,
        };
        (tries + 1) * limit
    }

    /// Time that a step takes when all are well, or slow and within their limit, in milliseconds.
    pub(crate) fn pace_ms(&self) -> u64 {
        let well = self.step_ms * 3 / 2;
        // One that is slow is waited for within the limit.
        match self.ailment {
            Some(Ailment::Slow) => 3 * well + LIMIT_FLOOR_MS,
            _ => well,
        }
    }

    /// Longest time until a learner takes part that may, in milliseconds: others are let in
    /// before it, one at a time, and with shares after a checkpoint.
    pub(crate) fn return_ms(&self) -> u64 {
        let learners = self.machines.len() as u64 - 4;
        let steps = match self.keep_shares {
            true => self.checkpoint_every.max(1),
            false => 1,
        };
        let others = self.sample_ms * 20 + self.service_ms * 20 + 5_000;
        let step = self.step_ms * 2 + MEETING_MS + others;
        FIRST_WAIT_MS + self.opening_ms() + learners * steps * step + self.longest_step_ms()
    }

    fn opening_ms(&self) -> u64 {
        // One that hangs as it is opened is given up as a step is.
        4 * self.open_ms + 3 * LIMIT_FLOOR_MS
    }

    /// Items of the run.
    pub fn items(&self) -> u64 {
        u64::from(self.questions) * u64::from(self.samples)
    }
}

/// The first machines can do all that is needed, so that every run can end.
fn roles(rng: &mut ChaCha8Rng, number: usize, services_here: bool) -> BTreeSet<Role> {
    let every: &[Role] = match services_here {
        true => &[Role::Sampler, Role::Learner],
        false => &[Role::Sampler, Role::Learner, Role::Tool, Role::Judge],
    };
    if let Some(role) = every.get(number) {
        let mut roles = BTreeSet::from([*role]);
        if rng.random_bool(0.2) {
            roles.extend(every.choose(rng));
        }
        return roles;
    }
    let mut roles = BTreeSet::new();
    let many = if rng.random_bool(0.3) { 2 } else { 1 };
    for _ in 0..many {
        let role = match rng.random_range(0..10) {
            0..5 => Role::Sampler,
            5..8 => Role::Learner,
            _ => *every.choose(rng).unwrap_or(&Role::Sampler),
        };
        roles.insert(role);
    }
    roles
}

/// Each order of magnitude alike.
fn between(rng: &mut ChaCha8Rng, low: u64, high: u64) -> u64 {
    let (low, high) = ((low as f64).ln(), (high as f64).ln());
    rng.random_range(low..high).exp() as u64
}
