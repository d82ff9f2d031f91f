//! The rollout ledger: who works on which item, and what became of it.
//!
//! - **RL-1 (one state).** Each item is unleased, leased, done or failed: exactly one of these.
//! - **RL-2 (once).** Each item is accepted as done at most once, and done and failed are final.
//! - **RL-3 (credits).** A worker never holds more leases than it was granted credits. A lease takes
//!   a credit and gives it back when it ends, whichever way.
//! - **RL-4 (nothing lost).** An item that is leased and expired over and over ends as done or failed
//!   after at most `max_tries` leases.
//! - **RL-5 (failure is not a result).** Only [`Ledger::complete`] makes an item done: a failure, a
//!   missed deadline and a lost worker never do.
//!
//! Items are leased in the order they were given; an item that is tried again goes to the back.
//! The ledger does not promise that an item is worked on by one worker at a time: a lease that
//! expired may still be running. It promises that one result of it is accepted.
//!
//! Every operation takes O(log n) in the number of leases, apart from construction.

use proto::ItemId;
use std::collections::{BTreeSet, HashMap, VecDeque};

#[cfg(test)]
mod tests;

/// How patient the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerConfig {
    /// How long a lease lasts, in milliseconds. Longer than the slowest honest rollout takes.
    pub lease_ms: u64,
    /// How often an item is leased before it is given up; 0 is taken as 1.
    pub max_tries: u32,
}

/// A worker, as the shell numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

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
    Leased { worker: WorkerId, deadline_ms: u64 },
    Done,
    Failed { reason: String },
}

#[derive(Debug)]
struct Slot {
    item: ItemId,
    /// Leases so far; the last one's attempt.
    tries: u32,
    state: State,
}

#[derive(Debug, Default)]
struct Worker {
    /// Leases it may still take.
    credits: u32,
    leases: BTreeSet<u32>,
}

/// Keeps account of all items of a job. See the module's invariants.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    slots: Vec<Slot>,
    /// Unleased slots in order; may also hold slots that a late result has made done.
    queue: VecDeque<u32>,
    workers: HashMap<WorkerId, Worker>,
    /// Leased slots by deadline.
    deadlines: BTreeSet<(u64, u32)>,
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
                    tries: 0,
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
            workers: HashMap::new(),
            deadlines: BTreeSet::new(),
            progress,
            unknown_done,
        }
    }

    /// Lets a worker hold `n` leases more at the same time.
    pub fn grant_credits(&mut self, worker: WorkerId, n: u32) {
        let credits = &mut self.workers.entry(worker).or_default().credits;
        *credits = credits.saturating_add(n);
    }

    /// Leases the next item to a worker; `None` if it has no credit left or no item waits.
    pub fn lease(&mut self, worker: WorkerId, now_ms: u64) -> Option<Lease> {
        let account = self
            .workers
            .get_mut(&worker)
            .filter(|account| account.credits > 0)?;
        let slot = loop {
            let slot = self.queue.pop_front()?;
            if self.slots[slot as usize].state == State::Unleased {
                break slot;
            }
        };
        account.credits -= 1;
        account.leases.insert(slot);
        let deadline_ms = now_ms.saturating_add(self.config.lease_ms);
        self.deadlines.insert((deadline_ms, slot));
        self.progress.unleased -= 1;
        self.progress.leased += 1;
        let entry = &mut self.slots[slot as usize];
        entry.tries += 1;
        entry.state = State::Leased {
            worker,
            deadline_ms,
        };
        Some(Lease {
            item: entry.item.clone(),
            token: LeaseToken::new(slot, entry.tries),
            deadline_ms,
            attempt: entry.tries,
        })
    }

    /// Takes a result. A late one is welcome as long as nobody else was given the item meanwhile.
    pub fn complete(&mut self, token: LeaseToken) -> Completion {
        let Some(slot) = self.newest(token) else {
            return Completion::Stale;
        };
        match self.slots[slot as usize].state {
            State::Leased { .. } => self.end_lease(slot),
            // It waits in the queue, where `lease` will pass over it.
            State::Unleased => {}
            State::Done | State::Failed { .. } => return Completion::Stale,
        }
        self.progress.unleased -= 1;
        self.progress.done += 1;
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Done;
        Completion::Accepted(entry.item.clone())
    }

    /// Takes a failure of the machinery, such as a dead engine. The item is tried again, or given up
    /// with this reason.
    pub fn fail(&mut self, token: LeaseToken, reason: String) -> Failure {
        match self.newest(token).filter(|&slot| self.is_leased(slot)) {
            None => Failure::Stale,
            Some(slot) if self.retry_or_give_up(slot, reason) => Failure::Retry {
                attempt: token.attempt(),
            },
            Some(_) => Failure::GaveUp,
        }
    }

    /// Ends every lease whose deadline is not after `now_ms`. Returns the items that will be tried
    /// again; those whose last try this was are in [`Ledger::failed_items`].
    pub fn expire(&mut self, now_ms: u64) -> Vec<ItemId> {
        let mut again = Vec::new();
        while let Some(&(deadline_ms, slot)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            let reason = format!("no result within {} ms", self.config.lease_ms);
            if self.retry_or_give_up(slot, reason) {
                again.push(self.slots[slot as usize].item.clone());
            }
        }
        again
    }

    /// Ends every lease of a worker and takes its credits. Returns the items that will be tried
    /// again; those whose last try this was are in [`Ledger::failed_items`].
    pub fn worker_lost(&mut self, worker: WorkerId) -> Vec<ItemId> {
        let leases = self
            .workers
            .get(&worker)
            .map(|w| w.leases.clone())
            .unwrap_or_default();
        let mut again = Vec::new();
        for slot in leases {
            if self.retry_or_give_up(slot, format!("worker {} was lost", worker.0)) {
                again.push(self.slots[slot as usize].item.clone());
            }
        }
        self.workers.remove(&worker);
        again
    }

    /// When [`Ledger::expire`] has something to do next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms)
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

    /// The slot of a token, if the token is that of the slot's newest lease.
    fn newest(&self, token: LeaseToken) -> Option<u32> {
        let entry = self.slots.get(token.slot() as usize)?;
        (entry.tries == token.attempt()).then_some(token.slot())
    }

    fn is_leased(&self, slot: u32) -> bool {
        matches!(self.slots[slot as usize].state, State::Leased { .. })
    }

    /// Leased → unleased, without a place in the queue.
    fn end_lease(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let State::Leased {
            worker,
            deadline_ms,
        } = entry.state
        else {
            return;
        };
        entry.state = State::Unleased;
        self.progress.leased -= 1;
        self.progress.unleased += 1;
        self.deadlines.remove(&(deadline_ms, slot));
        if let Some(account) = self.workers.get_mut(&worker) {
            account.leases.remove(&slot);
            account.credits += 1;
        }
    }

    /// Leased → unleased at the back of the queue (true), or failed after the last try (false).
    fn retry_or_give_up(&mut self, slot: u32, reason: String) -> bool {
        self.end_lease(slot);
        let entry = &mut self.slots[slot as usize];
        if entry.tries < self.config.max_tries {
            self.queue.push_back(slot);
            return true;
        }
        entry.state = State::Failed { reason };
        self.progress.unleased -= 1;
        self.progress.failed += 1;
        false
    }
}
