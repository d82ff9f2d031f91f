//! What goes wrong, and the course of a simulation around it.

use crate::World;
use crate::engines::{Ailment, Cure, Sickness};
use crate::grey;
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
    Well(usize),
    Honest(usize),
    Unlag(NodeName),
    Calm,
    Unrule(NodeName),
    StartController,
}

struct Chaos {
    world: Arc<World>,
    rng: ChaCha8Rng,
    /// Of samplers that get sick: what else goes wrong is as it was without.
    own: ChaCha8Rng,
    due: BTreeMap<(Instant, u64), Undo>,
    undone: u64,
    life: Option<JoinHandle<Life>>,
    added: usize,
    /// Has learners fall ill.
    grey: Option<JoinHandle<()>>,
}

/// From the first process to the last; the virtual time it took.
pub(crate) async fn course(world: &Arc<World>) -> Duration {
    let mut chaos = Chaos {
        world: world.clone(),
        rng: ChaCha8Rng::seed_from_u64(world.scenario.seed ^ 0x5eed),
        own: ChaCha8Rng::seed_from_u64(world.scenario.seed ^ 0x51c5),
        due: BTreeMap::new(),
        undone: 0,
        life: None,
        added: 0,
        grey: None,
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
        if world.scenario.has_sick_learners {
            self.grey = Some(tokio::spawn(grey::course(world.clone())));
        }
    }

    fn start_controller(&mut self) {
        let process = self.rng.random();
        self.life = Some(tokio::spawn(life(self.world.clone(), process)));
    }

    /// Lets faults happen until their time is over, or the run. Its controller, if that has ended.
    async fn rage(&mut self) -> Option<Life> {
        let sick = self.world.scenario.sick;
        // Sickness lasts, and what comes of it shows late.
        let faults_ms =
            self.world
                .scenario
                .faults_ms
                .max(if sick.is_alone { 7_200_000 } else { 0 });
        let until = Instant::now() + Duration::from_millis(faults_ms);
        let mut next = if sick.is_alone { until } else { self.gap() };
        let mut next_sick = if sick.at_once == 0 {
            until
        } else {
            self.sick_gap()
        };
        loop {
            let undo = self.due.keys().next().map_or(until, |(at, _)| *at);
            let at = next.min(next_sick).min(undo).min(until);
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
            if next_sick <= Instant::now() {
                self.sicken();
                next_sick = self.sick_gap();
            }
        }
    }

    /// The next sampler gets sick after this; none before all can be there.
    fn sick_gap(&mut self) -> Instant {
        let share: f64 = self.own.random_range(0.001..1.0);
        let scenario = &self.world.scenario;
        let wait = scenario.sick.gap_ms as f64 * -share.ln();
        let least = 2 * scenario.open_ms + 2_000;
        Instant::now() + Duration::from_millis(wait as u64 + least)
    }

    /// A sampler gets sick, if there may be another one.
    fn sicken(&mut self) {
        let world = self.world.clone();
        let sick = world.scenario.sick;
        if sick.is_late && world.account.steps() == 0 {
            return;
        }
        let machines = world.machines();
        let health = |machine: &Machine| *machine.health.lock().expect("no holder panics");
        let samplers = machines.iter().enumerate().skip(1);
        let samplers = samplers.filter(|(_, machine)| machine.samples() && !machine.is_gone);
        let well = samplers.filter(|(_, machine)| health(machine).is_none());
        let well: Vec<usize> = well.map(|(index, _)| index).collect();
        let ill = machines.iter().filter(|machine| health(machine).is_some());
        if ill.count() >= sick.at_once {
            return;
        }
        let Some(&index) = well.choose(&mut self.own) else {
            return;
        };
        let ailment = match self.own.random_range(0..4) {
            0 => Ailment::Refuses,
            1 => Ailment::Hangs,
            // One that fails now and then is never left out: where it is the only one that is there at
            // the moment it may fail all tries of an item.
            2 if sick.is_alone && index <= 2 => Ailment::Fails(self.own.random_range(2..6)),
            _ => Ailment::Slow,
        };
        let cures = [Cure::NewEngine, Cure::NewProcess, Cure::None];
        let cure = *cures.choose(&mut self.own).expect("three");
        let engines = world.account.engines_opened();
        let machine = &machines[index];
        *machine.health.lock().expect("no holder panics") = Some(Sickness {
            ailment,
            cure,
            engines,
        });
        let kind = match ailment {
            Ailment::Refuses => "sampler refuses",
            Ailment::Hangs => "sampler hangs",
            Ailment::Slow => "sampler is slow",
            Ailment::Fails(_) => "sampler fails at times",
        };
        world
            .account
            .fault(kind, format_args!("{} {cure:?}", machine.name));
        world.account.sick(&machine.name, true);
        let after = Duration::from_millis(self.own.random_range(5_000..1_800_000));
        self.undone += 1;
        let due = (Instant::now() + after, self.undone);
        self.due.insert(due, Undo::Well(index));
    }

    fn gap(&mut self) -> Instant {
        if self.world.scenario.is_grey {
            return Instant::now() + LEFT_AFTER * 1000;
        }
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
            LifeEnd::GaveUp if self.world.scenario.is_grey => {
                account.breaks("SI-13", format_args!("training does not get on"));
            }
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
            Undo::Well(index) => {
                let machine = &world.machines()[index];
                world.account.note(format_args!("{} is well", machine.name));
                world.account.sick(&machine.name, false);
                *machine.health.lock().expect("no holder panics") = None;
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
        if let Some(grey) = self.grey.take() {
            grey.abort();
            grey::recover(&self.world);
        }
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
    // Quarantines, and calls that hang until then.
    let sick = if scenario.sick.at_once > 0 {
        2 * 3_600_000
    } else {
        0
    };
    let work = sick + 2 * scenario.items() * item + 4 * scenario.steps * batch + slow;
    let some_more = if scenario.is_harsh {
        12 * 3_600_000
    } else {
        300_000
    };
    // A learner that has hung by now is found out late where it is not known how long a step takes,
    // and may be let in again only after a while.
    let sick = match scenario.has_sick_learners {
        true => 4 * 3_600_000 + 4 * crate::scenario::LONGEST_WAIT_MS,
        false => 0,
    };
    Duration::from_millis(work + some_more + sick)
}
