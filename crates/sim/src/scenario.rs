//! What a seed stands for.

use proto::Role;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::time::Duration;
use transport::memory::Rules;

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
        Self {
            seed,
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
        }
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
