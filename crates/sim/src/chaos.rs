//! What goes wrong, and the course of a simulation around it.

use crate::World;
use crate::head::{Life, LifeEnd, controller, life};
use crate::machine::{Machine, Process};
use actors::cluster::Cluster;
use actors::node::NodeEnd;
use proto::{NodeName, Role};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::Lane;
use transport::memory::Rules;

/// After so long nothing of a simulation may be left: the longest time limit, and some more.
const LEFT_AFTER: Duration = Duration::from_secs(3 * 3600);

/// Machines that may be added.
const ADDED: usize = 3;

/// What ends a fault.
enum Undo {
    Mend(NodeName),
    Start(usize),
    Quicken(usize),
    Honest(usize),
    Unlag(NodeName),
    Calm,
    Unrule(NodeName),
    StartController,
}

struct Chaos {
    world: Arc<World>,
    rng: ChaCha8Rng,
    due: BTreeMap<(Instant, u64), Undo>,
    undone: u64,
    life: Option<JoinHandle<Life>>,
    added: usize,
}

/// From the first process to the last; the virtual time it took.
pub(crate) async fn course(world: &Arc<World>) -> Duration {
    let mut chaos = Chaos {
        world: world.clone(),
        rng: ChaCha8Rng::seed_from_u64(world.scenario.seed ^ 0x5eed),
        due: BTreeMap::new(),
        undone: 0,
        life: None,
        added: 0,
    };
    chaos.begin().await;
    let ended = match chaos.rage().await {
        Some(life) => Some(life),
        None => {
            chaos.heal();
            chaos.finish().await
        }
    };
    chaos.heal();
    if let Some(life) = ended {
        chaos.close(&life.cluster).await;
    }
    let took = world.account.elapsed();
    chaos.sweep().await;
    took
}

impl Chaos {
    async fn begin(&mut self) {
        let world = self.world.clone();
        let roles = world.scenario.machines.clone();
        let machines = roles.into_iter().enumerate().map(|(i, roles)| {
            let is_hidden = self.rng.random_bool(world.scenario.hidden);
            Machine::new(i, roles, is_hidden)
        });
        *world.machines() = machines.collect();
        self.start_controller();
        for machine in &mut *world.machines() {
            let boot = self.rng.random();
            machine.start(&world, boot);
        }
    }

    fn start_controller(&mut self) {
        let process = self.rng.random();
        self.life = Some(tokio::spawn(life(self.world.clone(), process)));
    }

    /// Lets faults happen until their time is over, or the run. Its controller, if that has ended.
    async fn rage(&mut self) -> Option<Life> {
        let until = Instant::now() + Duration::from_millis(self.world.scenario.faults_ms);
        let mut next = self.gap();
        loop {
            let undo = self.due.keys().next().map_or(until, |(at, _)| *at);
            let at = next.min(undo).min(until);
            if let Some(Some(life)) = self.ended_by(at).await {
                return Some(life);
            }
            if self.world.account.is_broken() || Instant::now() >= until {
                return None;
            }
            while let Some(entry) = self.due.first_entry()
                && entry.key().0 <= Instant::now()
            {
                let undo = entry.remove();
                self.undo(undo);
            }
            if next <= Instant::now() {
                self.fault();
                next = self.gap();
            }
        }
    }

    fn gap(&mut self) -> Instant {
        let share: f64 = self.rng.random_range(0.001..1.0);
        let mean = self.world.scenario.gap_ms as f64;
        Instant::now() + Duration::from_millis((mean * -share.ln()) as u64 + 1)
    }

    /// Waits until `at`. `Some(Some)` when the run has ended by then, `Some(None)` when its controller
    /// gave up and was started again.
    async fn ended_by(&mut self, at: Instant) -> Option<Option<Life>> {
        let Some(life) = &mut self.life else {
            tokio::time::sleep_until(at).await;
            return None;
        };
        let ended = tokio::select! {
            biased;
            ended = life => ended,
            () = tokio::time::sleep_until(at) => return None,
        };
        self.life = None;
        let account = &self.world.account;
        let life = match ended {
            Ok(life) => life,
            Err(error) => {
                account.breaks("SI-6", format_args!("the controller died: {error}"));
                return Some(None);
            }
        };
        match &life.end {
            LifeEnd::Done => return Some(Some(life)),
            LifeEnd::GaveUp => account.fault("controller gave up", format_args!("")),
            LifeEnd::Failed(reason) => {
                account.breaks("SI-6", format_args!("the run failed: {reason}"));
                return Some(None);
            }
        }
        self.world
            .network
            .end_all(&controller().name, "its process ended");
        drop(life);
        self.start_controller();
        Some(None)
    }

    fn later(&mut self, low_ms: u64, high_ms: u64, undo: Undo) {
        let after = Duration::from_millis(self.rng.random_range(low_ms..high_ms));
        self.undone += 1;
        self.due.insert((Instant::now() + after, self.undone), undo);
    }

    fn fault(&mut self) {
        let world = self.world.clone();
        let (account, network) = (&world.account, &world.network);
        let mut machines = world.machines();
        let index = self.rng.random_range(0..machines.len());
        let is_spare = machines[index].is_spare(&machines);
        let machine = &mut machines[index];
        let name = machine.name.clone();
        match self.rng.random_range(0..104) {
            0..14 => {
                account.fault("cut", format_args!("{name}"));
                network.cut(&name);
                self.later(50, 15_000, Undo::Mend(name));
            }
            14..19 => {
                account.fault("controller cut", format_args!(""));
                network.cut(&controller().name);
                self.later(50, 8_000, Undo::Mend(controller().name));
            }
            19..31 if machine.is_alive() => {
                account.fault("crash", format_args!("{name}"));
                machine.processes.iter().for_each(Process::kill);
                network.end_all(&name, "its process died");
                self.later(50, 20_000, Undo::Start(index));
            }
            31..41 if machine.is_alive() => {
                account.fault("vanish", format_args!("{name}"));
                machine.processes.iter().for_each(Process::kill);
                network.vanish(&name);
                self.later(50, 20_000, Undo::Start(index));
            }
            41..47 if machine.is_alive() => {
                account.fault("leave", format_args!("{name}"));
                machine.processes.iter_mut().for_each(Process::leave);
                self.later(100, 20_000, Undo::Start(index));
            }
            47..55 => {
                account.fault("slow", format_args!("{name}"));
                machine.slowness.store(20, Ordering::Relaxed);
                self.later(1_000, 60_000, Undo::Quicken(index));
            }
            55..62 => {
                account.fault("lag", format_args!("{name}"));
                let by = Duration::from_millis(self.rng.random_range(20..1_500));
                network.slow(&name, by);
                self.later(500, 20_000, Undo::Unlag(name));
            }
            62..68 => {
                account.fault("storm", format_args!(""));
                let jitter = Duration::from_millis(self.rng.random_range(10..2_000));
                network.set_rules(Rules {
                    jitter,
                    ..world.scenario.rules
                });
                self.later(500, 10_000, Undo::Calm);
            }
            68..76 if self.life.is_some() => {
                let is_silent = self.rng.random_bool(0.5);
                let kind = if is_silent {
                    "controller vanishes"
                } else {
                    "controller crash"
                };
                account.fault(kind, format_args!(""));
                if let Some(life) = self.life.take() {
                    life.abort();
                }
                match is_silent {
                    true => network.vanish(&controller().name),
                    false => network.end_all(&controller().name, "its process died"),
                }
                self.later(50, 10_000, Undo::StartController);
            }
            76..80 if self.added < ADDED => {
                self.added += 1;
                let role = *[Role::Sampler, Role::Learner]
                    .choose(&mut self.rng)
                    .expect("two");
                let mut machine = Machine::new(machines.len(), BTreeSet::from([role]), false);
                account.fault("join", format_args!("{}", machine.name));
                machine.start(&world, self.rng.random());
                machines.push(machine);
            }
            80..84 if machine.is_alive() => {
                account.fault("double", format_args!("{name}"));
                machine.start(&world, self.rng.random());
            }
            84..87 if machine.is_alive() && is_spare => {
                account.fault("gone for good", format_args!("{name}"));
                machine.is_gone = true;
                machine.processes.iter().for_each(Process::kill);
                network.vanish(&name);
            }
            87..92 => {
                let lanes = [Lane::Control, Lane::Data, Lane::Bulk];
                let lane = *lanes.choose(&mut self.rng).expect("three");
                account.fault("lane breaks", format_args!("{name} {lane}"));
                network.end_lane(&name, lane, "the lane broke");
            }
            92..100 if world.scenario.is_harsh && !machine.trains() => {
                account.fault("harsh", format_args!("{name}"));
                network.set_rules_of(
                    &name,
                    Some(Rules {
                        drop: self.rng.random_range(0.0..0.1),
                        duplicate: self.rng.random_range(0.0..0.2),
                        reorder: true,
                        ..world.scenario.rules
                    }),
                );
                self.later(200, 5_000, Undo::Unrule(name));
            }
            100..104 => {
                account.fault("lie", format_args!("{name}"));
                machine.lies.store(true, Ordering::Relaxed);
                self.later(500, 30_000, Undo::Honest(index));
            }
            _ => {}
        }
    }

    fn undo(&mut self, undo: Undo) {
        let world = self.world.clone();
        let network = &world.network;
        match undo {
            Undo::Mend(name) => {
                world.account.note(format_args!("mend {name}"));
                network.mend(&name);
            }
            Undo::Start(index) => {
                let machine = &mut world.machines()[index];
                if !machine.is_alive() && !machine.is_gone {
                    machine.start(&world, self.rng.random());
                }
            }
            Undo::Quicken(index) => {
                world.machines()[index].slowness.store(1, Ordering::Relaxed);
            }
            Undo::Honest(index) => {
                world.machines()[index].lies.store(false, Ordering::Relaxed);
            }
            Undo::Unlag(name) => network.slow(&name, Duration::ZERO),
            Undo::Calm => network.set_rules(world.scenario.rules),
            Undo::Unrule(name) => network.set_rules_of(&name, None),
            Undo::StartController if self.life.is_none() => self.start_controller(),
            Undo::StartController => {}
        }
    }

    /// Ends every fault.
    fn heal(&mut self) {
        self.world
            .account
            .note(format_args!("everything is mended"));
        for undo in std::mem::take(&mut self.due).into_values() {
            match undo {
                // Its work is done already, or it is started below.
                Undo::StartController => {}
                undo => self.undo(undo),
            }
        }
        let world = self.world.clone();
        for machine in &mut *world.machines() {
            if !machine.is_alive() && !machine.is_gone {
                machine.start(&world, self.rng.random());
            }
        }
    }

    /// SI-6: the run ends.
    async fn finish(&mut self) -> Option<Life> {
        let scenario = self.world.scenario.clone();
        let limit = Instant::now() + limit(&scenario);
        if self.life.is_none() {
            self.start_controller();
        }
        while !self.world.account.is_broken() {
            match self.ended_by(limit).await {
                Some(Some(life)) => return Some(life),
                Some(None) => {}
                None => {
                    let how = format_args!("the run does not end though all is mended");
                    self.world.account.breaks("SI-6", how);
                }
            }
        }
        None
    }

    /// Every node is a member, and is told of the end.
    async fn close(&mut self, cluster: &Cluster) {
        let world = self.world.clone();
        let account = &world.account;
        let limit = Duration::from_secs(120);
        let gathered = tokio::time::timeout(limit, async {
            let names = || cluster.members().into_iter().map(|(name, _)| name);
            while names().collect::<BTreeSet<_>>() != world.names() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if gathered.await.is_err() {
            let (members, all) = (cluster.members().len(), world.names().len());
            let how = format_args!("{members} of {all} nodes found back");
            account.breaks("SI-6", how);
        }
        cluster.close("the run is done").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        for machine in world.machines().iter().filter(|machine| !machine.is_gone) {
            // Of two that had one name the newer one stays, as far as the controller can know.
            let ends = machine.processes.iter().map(Process::end);
            let ends: Vec<_> = ends
                .flatten()
                .filter(|end| *end != NodeEnd::Stopped)
                .collect();
            if !ends.iter().any(|end| matches!(end, NodeEnd::Dismissed(_))) {
                account.breaks(
                    "SI-6",
                    format_args!("{} was not dismissed: {ends:?}", machine.name),
                );
            }
        }
    }

    /// SI-8: nothing is left.
    async fn sweep(&mut self) {
        let world = self.world.clone();
        if let Some(life) = self.life.take() {
            life.abort();
        }
        for machine in &*world.machines() {
            machine.processes.iter().for_each(Process::kill);
        }
        if world.account.is_broken() {
            return;
        }
        tokio::time::sleep(LEFT_AFTER).await;
        let open = world.account.still_open();
        if !open.is_empty() {
            world
                .account
                .breaks("SI-8", format_args!("still open: {}", open.join(", ")));
        }
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        if tasks > 0 {
            world
                .account
                .breaks("SI-8", format_args!("{tasks} tasks are left"));
        }
    }
}

/// How long the run may take once all is mended: as long as all of its work, one thing after the
/// other, and some more for what is under way and for waits between attempts.
fn limit(scenario: &crate::Scenario) -> Duration {
    let (sample, service, step) = (scenario.sample_ms, scenario.service_ms, scenario.step_ms);
    let item = 2 * sample + 6 * service;
    let states = scenario.states_per_step as u64;
    let batch = states * (sample + 2 * service) + scenario.updates_per_batch * (step + 2_000);
    let slow = 40 * (sample + service + step + scenario.open_ms);
    let work = 2 * scenario.items() * item + 4 * scenario.steps * batch + slow;
    let some_more = if scenario.is_harsh {
        12 * 3_600_000
    } else {
        300_000
    };
    Duration::from_millis(work + some_more)
}
