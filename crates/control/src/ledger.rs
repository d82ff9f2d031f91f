//! The rollout ledger: who works on which item, and what became of it.
//!
//! - **RL-1 (one state).** Each item is unleased, leased, done or failed: exactly one of these.
//! - **RL-2 (once).** Each item is accepted as done at most once, and done and failed are final.
//! - **RL-3 (credits).** A worker never holds more leases than it was granted credits. A lease takes
//!   a credit and gives it back when it ends, whichever way.
//! - **RL-4 (nothing lost).** An item that fails or expires over and over ends as done or failed. It is
//!   given up once `max_tries` tries have failed on `max_tries` different machines that have worked at
//!   other items since, or on every machine there ever was. Losing a worker costs its items no try,
//!   unless they lost `max_losses` of them: an item that kills whoever works on it must not kill all.
//! - **RL-5 (failure is not a result).** Only [`Ledger::complete`] makes an item done: a failure, a
//!   missed deadline and a lost worker never do.
//! - **RL-6 (stragglers).** Once no item waits, one that has been leased for much longer than others
//!   took is leased a second time, to another worker. No item has more than two leases at a time,
//!   and none is leased a second time once its tries are used up.
//! - **RL-7 (the worker's fault).** What a worker failed at since its last result counts against no item
//!   once the worker is left out; and an item that failed on one machine goes to another, as long as
//!   there is one that has not failed it.
//!
//! Items are leased in the order they were given; an item that is tried again goes to the back, one
//! whose worker was lost to the front. The ledger does not promise that an item is worked on by one
//! worker at a time: a lease that expired may still be running. It promises that one result of it is
//! accepted.
//!
//! Every operation takes O(log n) in the number of leases, apart from construction.

use proto::ItemId;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

#[cfg(test)]
mod tests;

/// How patient the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerConfig {
    /// How long a lease lasts, in milliseconds. Longer than the slowest honest rollout takes.
    pub lease_ms: u64,
    /// Machines on which an item may fail or expire before it is given up, and tries that it has at
    /// least where there are fewer; 0 is taken as 1.
    pub max_tries: u32,
    /// How many workers may be lost with an item before it is given up; 0 is taken as 1.
    pub max_losses: u32,
    /// Second leases go to items that have been leased this many times as long as items took on
    /// average; 0 turns them off.
    pub straggler_factor: u32,
}

/// Items that are passed over, at most, to find one for a worker.
const MOST_PASSED_OVER: usize = 256;

/// Results that must be in before their average says who straggles.
const KNOWN_DURATIONS: u64 = 8;

/// A worker, as the shell numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

/// A machine: workers that come one after the other under one name are the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub u32);

/// Names one lease of one item. Never used twice within a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(u64);

impl LeaseToken {
    fn new(slot: u32, attempt: u32) -> Self {
        Self(u64::from(slot) << 32 | u64::from(attempt))
    }

    fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn attempt(self) -> u32 {
        self.0 as u32
    }
}

/// The right to work on an item until a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease that nobody works on delays its item until the deadline"]
pub struct Lease {
    /// What to work on.
    pub item: ItemId,
    /// To be handed back with the result.
    pub token: LeaseToken,
    /// When the lease ends, on the clock of the `now_ms` arguments.
    pub deadline_ms: u64,
    /// Which try this is, from 1.
    pub attempt: u32,
}

/// What becomes of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a stale result must be dropped"]
pub enum Completion {
    /// The item is done now: keep the result.
    Accepted(ItemId),
    /// The item was leased again, is done, or was given up: drop the result.
    Stale,
}

/// What becomes of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The item will be tried again.
    Retry {
        /// Which try failed, from 1.
        attempt: u32,
    },
    /// That was the last try: the item has failed.
    GaveUp,
    /// The lease was over before: nothing changed.
    Stale,
}

/// How many items are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Waiting for a worker.
    pub unleased: usize,
    /// With a worker.
    pub leased: usize,
    /// With an accepted result, those of earlier runs included.
    pub done: usize,
    /// Given up.
    pub failed: usize,
    /// All of them: the sum of the others.
    pub total: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unleased,
    Leased { first: Hold, second: Option<Hold> },
    Done,
    Failed { reason: String },
}

/// A lease under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    worker: WorkerId,
    attempt: u32,
    since_ms: u64,
    deadline_ms: u64,
}

#[derive(Debug)]
struct Slot {
    item: ItemId,
    /// Leases so far; the last one's attempt.
    leases: u32,
    /// Of these, those that failed or expired, those that count against the machine alone left out.
    failures: u32,
    /// The machines that they failed on.
    failed_on: Vec<Failed>,
    /// Of these, those whose worker was lost.
    losses: u32,
    state: State,
}

impl Slot {
    fn holds(&self) -> impl Iterator<Item = Hold> + use<> {
        let holds = match self.state {
            State::Leased { first, second } => [Some(first), second],
            State::Unleased | State::Done | State::Failed { .. } => [None, None],
        };
        holds.into_iter().flatten()
    }

    fn has_failed_on(&self, machine: MachineId) -> bool {
        let mut failed = self.failed_on.iter();
        failed.any(|failed| failed.machine == machine)
    }

    fn fail_on(&mut self, machine: MachineId) {
        self.failures += 1;
        let mut failed = self.failed_on.iter_mut();
        match failed.find(|failed| failed.machine == machine) {
            Some(failed) => failed.times += 1,
            None => self.failed_on.push(Failed {
                machine,
                times: 1,
                is_proven: false,
            }),
        }
    }

    /// What failed on a machine without proof that it works does not count.
    fn forgive(&mut self, machine: MachineId) {
        let is_forgiven = |failed: &Failed| failed.machine == machine && !failed.is_proven;
        let forgiven = self.failed_on.iter().find(|failed| is_forgiven(failed));
        self.failures -= forgiven.map_or(0, |failed| failed.times);
        self.failed_on.retain(|failed| !is_forgiven(failed));
    }
}

/// Failures of an item on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failed {
    machine: MachineId,
    times: u32,
    /// The machine has had a result since: it works.
    is_proven: bool,
}

/// Why a lease ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Failed,
    Lost,
    /// Its worker is left out, whose fault it is.
    TakenBack,
}

#[derive(Debug)]
struct Worker {
    machine: MachineId,
    /// Leases it may still take.
    credits: u32,
    leases: BTreeSet<u32>,
    /// Items that failed on it since its last result.
    unproven: BTreeSet<u32>,
    /// It is given no more: credits that come back are not kept.
    is_leaving: bool,
}

/// Keeps account of all items of a job. See the module's invariants.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    slots: Vec<Slot>,
    /// Unleased slots in order; may also hold slots that a late result has made done.
    queue: VecDeque<u32>,
    workers: BTreeMap<WorkerId, Worker>,
    /// All that ever had a worker.
    machines: BTreeSet<MachineId>,
    /// Those with credits.
    free: BTreeSet<WorkerId>,
    /// Leases by deadline: slot and attempt.
    deadlines: BTreeSet<(u64, u32, u32)>,
    /// Slots with one lease and tries left, by when it began: those that may straggle.
    single: BTreeSet<(u64, u32)>,
    /// Sum and number of the times that accepted results took, in milliseconds.
    durations: (u64, u64),
    progress: Progress,
    unknown_done: usize,
}

impl Ledger {
    /// A ledger of these items, of which `done` have a result already. Items given twice count once.
    ///
    /// # Panics
    /// With 2³² items or more.
    pub fn new(
        config: LedgerConfig,
        items: impl IntoIterator<Item = ItemId>,
        done: impl IntoIterator<Item = ItemId>,
    ) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        let mut known: HashMap<ItemId, usize> = HashMap::new();
        for item in items {
            known.entry(item).or_insert_with_key(|item| {
                slots.push(Slot {
                    item: item.clone(),
                    leases: 0,
                    failures: 0,
                    failed_on: Vec::new(),
                    losses: 0,
                    state: State::Unleased,
                });
                slots.len() - 1
            });
        }
        let count = u32::try_from(slots.len()).expect("a job has fewer than 2^32 items");
        let mut unknown_done = 0;
        for item in done {
            match known.get(&item) {
                Some(&slot) => slots[slot].state = State::Done,
                None => unknown_done += 1,
            }
        }
        let is_open = |slot: &u32| slots[*slot as usize].state == State::Unleased;
        let queue: VecDeque<u32> = (0..count).filter(is_open).collect();
        let (unleased, total) = (queue.len(), slots.len());
        let progress = Progress {
            unleased,
            done: total - unleased,
            total,
            ..Progress::default()
        };
        Self {
            config,
            slots,
            queue,
            workers: BTreeMap::new(),
            machines: BTreeSet::new(),
            free: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            single: BTreeSet::new(),
            durations: (0, 0),
            progress,
            unknown_done,
        }
    }

    /// Says on which machine a worker is, before it is granted credits. A worker of which nothing is
    /// said has a machine of its own number.
    pub fn enter(&mut self, worker: WorkerId, machine: MachineId) {
        self.machines.insert(machine);
        let account = || Worker {
            machine,
            credits: 0,
            leases: BTreeSet::new(),
            unproven: BTreeSet::new(),
            is_leaving: false,
        };
        self.workers.entry(worker).or_insert_with(account);
    }

    /// Lets a worker hold `n` leases more at the same time.
    pub fn grant_credits(&mut self, worker: WorkerId, n: u32) {
        self.enter(worker, MachineId(worker.0));
        let Some(account) = self.workers.get_mut(&worker) else {
            return;
        };
        account.credits = account.credits.saturating_add(n);
        if account.credits > 0 {
            self.free.insert(worker);
        }
    }

    /// Takes a worker's credits, those of leases under way once these end. What it works on stays with
    /// it; what it failed at since its last result counts against no item (RL-7).
    pub fn dismiss(&mut self, worker: WorkerId) {
        self.free.remove(&worker);
        let Some(account) = self.workers.get_mut(&worker) else {
            return;
        };
        account.credits = 0;
        account.is_leaving = true;
        let machine = account.machine;
        for slot in std::mem::take(&mut account.unproven) {
            self.slots[slot as usize].forgive(machine);
        }
    }

    /// Whether a worker is known and was not dismissed.
    pub fn is_engaged(&self, worker: WorkerId) -> bool {
        let account = self.workers.get(&worker);
        account.is_some_and(|account| !account.is_leaving)
    }

    /// The workers that may take a lease.
    pub fn free_workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.free.iter().copied()
    }

    /// Whether there is anything to lease: an item that waits, or one that straggles. A worker may
    /// still get none, if the straggler is its own.
    pub fn has_work(&self, now_ms: u64) -> bool {
        let is_long = |long: u64| {
            let oldest = self.single.first();
            oldest.is_some_and(|(since, _)| now_ms.saturating_sub(*since) > long)
        };
        !self.queue.is_empty() || self.long_ms().is_some_and(is_long)
    }

    /// Leases the next item to a worker; `None` if it has no credit left or no item waits.
    pub fn lease(&mut self, worker: WorkerId, now_ms: u64) -> Option<Lease> {
        if self.credits(worker) == 0 {
            return None;
        }
        let slot = match self.next_waiting(worker) {
            Some(slot) => slot,
            None => self.straggler(worker, now_ms)?,
        };
        let entry = &mut self.slots[slot as usize];
        entry.leases += 1;
        let hold = Hold {
            worker,
            attempt: entry.leases,
            since_ms: now_ms,
            deadline_ms: now_ms.saturating_add(self.config.lease_ms),
        };
        entry.state = match entry.state {
            State::Leased { first, .. } => {
                self.single.remove(&(first.since_ms, slot));
                State::Leased {
                    first,
                    second: Some(hold),
                }
            }
            State::Unleased | State::Done | State::Failed { .. } => {
                self.single.insert((now_ms, slot));
                self.progress.unleased -= 1;
                self.progress.leased += 1;
                State::Leased {
                    first: hold,
                    second: None,
                }
            }
        };
        let item = entry.item.clone();
        self.deadlines
            .insert((hold.deadline_ms, slot, hold.attempt));
        if let Some(account) = self.workers.get_mut(&worker) {
            account.credits -= 1;
            account.leases.insert(slot);
            if account.credits == 0 {
                self.free.remove(&worker);
            }
        }
        Some(Lease {
            item,
            token: LeaseToken::new(slot, hold.attempt),
            deadline_ms: hold.deadline_ms,
            attempt: hold.attempt,
        })
    }

    /// Takes the first item from the queue that this worker may have: not one that failed on its machine
    /// while there is another one for it (RL-7).
    fn next_waiting(&mut self, worker: WorkerId) -> Option<u32> {
        let machine = self.workers.get(&worker)?.machine;
        let mut place = 0;
        while let Some(&slot) = self.queue.get(place) {
            let entry = &self.slots[slot as usize];
            if entry.state != State::Unleased {
                self.queue.remove(place);
            } else if entry.has_failed_on(machine) && self.is_for_another(entry) {
                place += 1;
                if place == MOST_PASSED_OVER {
                    return None;
                }
            } else {
                return self.queue.remove(place);
            }
        }
        None
    }

    /// Whether there is a machine that an item has not failed on.
    fn is_for_another(&self, entry: &Slot) -> bool {
        let mut engaged = self.workers.values().filter(|worker| !worker.is_leaving);
        engaged.any(|worker| !entry.has_failed_on(worker.machine))
    }

    /// How long a lease may be under way before its item straggles, if that is known.
    fn long_ms(&self) -> Option<u64> {
        let (sum, count) = self.durations;
        if self.config.straggler_factor == 0 || count < KNOWN_DURATIONS {
            return None;
        }
        Some((sum / count).saturating_mul(self.config.straggler_factor.into()))
    }

    /// The item that has had a single lease for longest, if that is long, another worker's, and has not
    /// failed on this worker's machine.
    fn straggler(&self, worker: WorkerId, now_ms: u64) -> Option<u32> {
        let long = self.long_ms()?;
        let machine = self.workers.get(&worker)?.machine;
        let is_other = |slot: u32| {
            let entry = &self.slots[slot as usize];
            !entry.has_failed_on(machine) && entry.holds().all(|h| h.worker != worker)
        };
        let mut oldest = self.single.iter();
        let due = oldest
            .by_ref()
            .take_while(|(since, _)| now_ms.saturating_sub(*since) > long);
        due.map(|&(_, slot)| slot).find(|&slot| is_other(slot))
    }

    /// Takes a result. A late one is welcome as long as nobody else was given the item meanwhile.
    pub fn complete(&mut self, token: LeaseToken, now_ms: u64) -> Completion {
        let Some(entry) = self.slots.get(token.slot() as usize) else {
            return Completion::Stale;
        };
        match entry.state {
            State::Leased { .. } => {
                let Some(hold) = entry.holds().find(|hold| hold.attempt == token.attempt()) else {
                    return Completion::Stale;
                };
                self.durations.0 += now_ms.saturating_sub(hold.since_ms);
                self.durations.1 += 1;
                self.prove(hold.worker);
                self.end_all(token.slot());
            }
            // It waits in the queue, where `lease` will pass over it.
            State::Unleased if entry.leases == token.attempt() => {}
            State::Unleased | State::Done | State::Failed { .. } => return Completion::Stale,
        }
        self.progress.unleased -= 1;
        self.progress.done += 1;
        let entry = &mut self.slots[token.slot() as usize];
        entry.state = State::Done;
        Completion::Accepted(entry.item.clone())
    }

    /// Takes a failure of the machinery, such as a dead engine. The item is tried again, or given up
    /// with this reason.
    pub fn fail(&mut self, token: LeaseToken, reason: String) -> Failure {
        self.end(token, Ending::Failed, reason)
    }

    /// Ends a lease whose worker is gone, or whose work was taken from it: as [`Ledger::fail`], but it
    /// is no fault of the item.
    pub fn lose(&mut self, token: LeaseToken, reason: String) -> Failure {
        self.end(token, Ending::Lost, reason)
    }

    /// Ends a lease whose worker is left out since it is sick: that is no fault of the item, however
    /// often it happens.
    pub fn take_back(&mut self, token: LeaseToken) -> Failure {
        self.end(token, Ending::TakenBack, String::new())
    }

    /// The worker that holds a lease.
    pub fn worker_of(&self, token: LeaseToken) -> Option<WorkerId> {
        let entry = self.slots.get(token.slot() as usize)?;
        let hold = entry.holds().find(|hold| hold.attempt == token.attempt())?;
        Some(hold.worker)
    }

    fn end(&mut self, token: LeaseToken, ending: Ending, reason: String) -> Failure {
        let slot = token.slot();
        let entry = self.slots.get(slot as usize);
        let mut holds = entry.into_iter().flat_map(Slot::holds);
        match holds.find(|hold| hold.attempt == token.attempt()) {
            None => Failure::Stale,
            Some(hold) if self.retry_or_give_up(slot, hold, ending, reason) => Failure::Retry {
                attempt: token.attempt(),
            },
            Some(_) => Failure::GaveUp,
        }
    }

    /// Ends every lease whose deadline is not after `now_ms`. Returns the items that will be tried
    /// again; those whose last try this was are in [`Ledger::failed_items`].
    pub fn expire(&mut self, now_ms: u64) -> Vec<ItemId> {
        let mut again = Vec::new();
        while let Some(&(deadline_ms, slot, attempt)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            let reason = format!("no result within {} ms", self.config.lease_ms);
            let hold = self.slots[slot as usize]
                .holds()
                .find(|h| h.attempt == attempt);
            let hold = hold.expect("a deadline is of a lease under way");
            self.retry_or_give_up(slot, hold, Ending::Failed, reason);
            again.extend(self.waiting(slot));
        }
        again
    }

    /// Ends every lease of a worker and takes its credits. Returns the items that will be tried
    /// again; those whose last loss this was are in [`Ledger::failed_items`].
    pub fn worker_lost(&mut self, worker: WorkerId) -> Vec<ItemId> {
        let account = self.workers.get(&worker);
        let leases = account.map(|w| w.leases.clone()).unwrap_or_default();
        let mut again = Vec::new();
        // From the back, so that they end up at the front in their order.
        for slot in leases.into_iter().rev() {
            let mut holds = self.slots[slot as usize].holds();
            let hold = holds.find(|hold| hold.worker == worker);
            let hold = hold.expect("a worker's leases are under way");
            let reason = format!("worker {} was lost", worker.0);
            self.retry_or_give_up(slot, hold, Ending::Lost, reason);
            again.extend(self.waiting(slot));
        }
        self.dismiss(worker);
        self.workers.remove(&worker);
        again.reverse();
        again
    }

    /// The workers that were granted credits and are not lost.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.keys().copied()
    }

    /// The tokens of all leases of an item that are under way.
    pub fn leases_of(&self, token: LeaseToken) -> Vec<LeaseToken> {
        let slot = token.slot();
        let entry = self.slots.get(slot as usize);
        let holds = entry.into_iter().flat_map(Slot::holds);
        holds
            .map(|hold| LeaseToken::new(slot, hold.attempt))
            .collect()
    }

    /// When [`Ledger::expire`] has something to do next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline_ms, ..)| deadline_ms)
    }

    /// How many items are in each state.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether every item is done or failed.
    pub fn is_finished(&self) -> bool {
        self.progress.unleased == 0 && self.progress.leased == 0
    }

    /// The items given up, in their order, each with the reason of its last failure.
    pub fn failed_items(&self) -> Vec<(ItemId, String)> {
        let failed = |slot: &Slot| match &slot.state {
            State::Failed { reason } => Some((slot.item.clone(), reason.clone())),
            State::Unleased | State::Leased { .. } | State::Done => None,
        };
        self.slots.iter().filter_map(failed).collect()
    }

    /// How many of the `done` items given at the start are no items of this job.
    pub fn unknown_done(&self) -> usize {
        self.unknown_done
    }

    /// How many leases a worker may still take.
    pub fn credits(&self, worker: WorkerId) -> u32 {
        self.workers
            .get(&worker)
            .map_or(0, |account| account.credits)
    }

    /// The item of a slot, if it waits for a worker.
    fn waiting(&self, slot: u32) -> Option<ItemId> {
        let entry = &self.slots[slot as usize];
        (entry.state == State::Unleased).then(|| entry.item.clone())
    }

    /// Whether an item has used up its tries, or the workers it may lose (RL-4).
    fn is_spent(&self, entry: &Slot) -> bool {
        if entry.losses >= self.config.max_losses.max(1) {
            return true;
        }
        let max_tries = self.config.max_tries.max(1);
        let proven = entry.failed_on.iter().filter(|failed| failed.is_proven);
        let is_everywhere = entry.failed_on.len() >= self.machines.len();
        entry.failures >= max_tries && (is_everywhere || proven.count() >= max_tries as usize)
    }

    /// A worker had a result: what failed on it before was not its fault.
    fn prove(&mut self, worker: WorkerId) {
        let Some(account) = self.workers.get_mut(&worker) else {
            return;
        };
        let machine = account.machine;
        for slot in std::mem::take(&mut account.unproven) {
            let failed = &mut self.slots[slot as usize].failed_on;
            if let Some(failed) = failed.iter_mut().find(|f| f.machine == machine) {
                failed.is_proven = true;
            }
        }
    }

    /// A lease has failed.
    fn note_failure(&mut self, slot: u32, worker: WorkerId) {
        let Some(account) = self.workers.get_mut(&worker) else {
            return;
        };
        account.unproven.insert(slot);
        self.slots[slot as usize].fail_on(account.machine);
    }

    /// Ends one lease of two or of one; the item has no place in the queue after the last.
    fn end_hold(&mut self, slot: u32, hold: Hold) {
        let is_spent = self.is_spent(&self.slots[slot as usize]);
        let entry = &mut self.slots[slot as usize];
        let State::Leased { first, second } = entry.state else {
            return;
        };
        self.deadlines
            .remove(&(hold.deadline_ms, slot, hold.attempt));
        let left = match second {
            Some(second) if first.attempt == hold.attempt => Some(second),
            Some(_) => Some(first),
            None => None,
        };
        entry.state = match left {
            Some(first) => {
                if !is_spent {
                    self.single.insert((first.since_ms, slot));
                }
                State::Leased {
                    first,
                    second: None,
                }
            }
            None => {
                self.single.remove(&(hold.since_ms, slot));
                self.progress.leased -= 1;
                self.progress.unleased += 1;
                State::Unleased
            }
        };
        if let Some(account) = self.workers.get_mut(&hold.worker) {
            account.leases.remove(&slot);
            if !account.is_leaving {
                account.credits += 1;
                self.free.insert(hold.worker);
            }
        }
    }

    /// Leased → unleased, without a place in the queue.
    fn end_all(&mut self, slot: u32) {
        for hold in self.slots[slot as usize].holds() {
            self.end_hold(slot, hold);
        }
    }

    /// Ends a lease. If it was the item's only one: back into the queue (true), or failed (false).
    fn retry_or_give_up(&mut self, slot: u32, hold: Hold, ending: Ending, reason: String) -> bool {
        match ending {
            Ending::Failed => self.note_failure(slot, hold.worker),
            Ending::Lost => self.slots[slot as usize].losses += 1,
            Ending::TakenBack => {}
        }
        self.end_hold(slot, hold);
        let is_spent = self.is_spent(&self.slots[slot as usize]);
        let entry = &mut self.slots[slot as usize];
        if entry.state != State::Unleased {
            return true;
        }
        if !is_spent || ending == Ending::TakenBack {
            match ending {
                Ending::Failed => self.queue.push_back(slot),
                Ending::Lost | Ending::TakenBack => self.queue.push_front(slot),
            }
            return true;
        }
        entry.state = State::Failed { reason };
        self.progress.unleased -= 1;
        self.progress.failed += 1;
        false
    }
}
