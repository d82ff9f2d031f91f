//! What happened in a simulation, and what must not have.

use proto::{NodeName, StateGroup, WeightVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// Breaks of invariants that are kept; the first says most.
const KEPT_BREAKS: usize = 20;

/// Everything that is seen of a simulation is told to it.
pub(crate) struct Account {
    started: Instant,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    log: Vec<String>,
    breaks: Vec<String>,
    faults: BTreeMap<&'static str, u64>,
    /// The newest epoch of a group of learners that was handed out.
    epoch: u32,
    /// The newest weights that a sampler was given.
    newest: WeightVersion,
    /// The newest weights of each sampler's process.
    served: BTreeMap<(NodeName, u64), WeightVersion>,
    /// Engines that are open.
    open: BTreeMap<u64, String>,
    opened: u64,
    /// Trajectories of which the controller said that they are stored.
    acknowledged: u64,
    steps: u64,
    /// Members' parts in steps of groups of several.
    shared_steps: u64,
    /// Steps that learners made, by epoch and number: the newest epoch at that time.
    made: BTreeMap<(u32, u64), u32>,
    /// Bytes of weights: pulled from nodes, and not pulled because of deltas.
    given_on: u64,
    saved: u64,
}

impl Account {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            books: Mutex::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no holder panics")
    }

    /// Virtual time so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something happened.
    pub(crate) fn note(&self, what: Arguments<'_>) {
        let at = self.elapsed().as_millis();
        tracing::debug!(target: "sim", at, "{what}");
        self.books().log.push(format!("{at} {what}"));
    }

    /// An invariant is broken.
    pub(crate) fn breaks(&self, invariant: &str, how: Arguments<'_>) {
        let at = self.elapsed().as_millis();
        tracing::error!(target: "sim", at, "{invariant}: {how}");
        let mut books = self.books();
        books.log.push(format!("{at} BREAK {invariant} {how}"));
        if books.breaks.len() < KEPT_BREAKS {
            books.breaks.push(format!("{invariant} at {at} ms: {how}"));
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        !self.books().breaks.is_empty()
    }

    /// A fault of this kind begins.
    pub(crate) fn fault(&self, kind: &'static str, whom: Arguments<'_>) {
        self.note(format_args!("FAULT {kind} {whom}"));
        *self.books().faults.entry(kind).or_default() += 1;
    }

    /// An engine opens; the number is to be given back.
    pub(crate) fn opened(&self, what: String) -> u64 {
        self.note(format_args!("open {what}"));
        let mut books = self.books();
        books.opened += 1;
        let number = books.opened;
        books.open.insert(number, what);
        number
    }

    pub(crate) fn closed(&self, number: u64) {
        let what = self.books().open.remove(&number).unwrap_or_default();
        self.note(format_args!("close {what}"));
    }

    pub(crate) fn still_open(&self) -> Vec<String> {
        self.books().open.values().cloned().collect()
    }

    /// SI-2: epochs of learners only rise.
    pub(crate) fn epoch_handed_out(&self, epoch: u32) {
        self.note(format_args!("epoch {epoch} is handed out"));
        let before = std::mem::replace(&mut self.books().epoch, epoch);
        if epoch <= before {
            self.breaks(
                "SI-2",
                format_args!("epoch {epoch} comes after epoch {before}"),
            );
        }
    }

    /// A learner made a step, as one of so many.
    pub(crate) fn step_made(&self, epoch: u32, step: u64, world: usize) {
        let mut books = self.books();
        books.shared_steps += u64::from(world > 1);
        let newest = books.epoch;
        books.made.insert((epoch, step), newest);
    }

    /// SI-2: what the training loop counts was made while its epoch was the newest. It may say so
    /// later: it publishes first. Where a report was lost with its maker, the epoch is not known.
    pub(crate) fn step_taken(&self, epoch: Option<u32>, step: u64) {
        self.note(format_args!("step {step} of epoch {epoch:?}"));
        let mut books = self.books();
        books.steps += 1;
        let mut made = books.made.iter();
        let counts = made.any(|((of, made), newest)| {
            *made == step && of == newest && epoch.is_none_or(|epoch| epoch == *of)
        });
        drop(books);
        if !counts {
            self.breaks(
                "SI-2",
                format_args!("step {step} of {epoch:?} is not of the newest group"),
            );
        }
    }

    /// What a publication came to, as the training loop says.
    pub(crate) fn spread(&self, given_on: u64, saved: u64) {
        let mut books = self.books();
        books.given_on += given_on;
        books.saved += saved;
    }

    /// SI-3: actions that a learner trains on were sampled from the newest weights that were published
    /// by then. What an older group still trains on does not count.
    pub(crate) fn on_policy(&self, epoch: u32, batch: &[StateGroup]) {
        let books = self.books();
        let newest = books.newest;
        if epoch < books.epoch {
            return;
        }
        drop(books);
        let mut samples = batch.iter().flat_map(|group| &group.samples);
        if let Some(stale) = samples.find(|sample| sample.weight_version != newest) {
            let found = stale.weight_version;
            let how = format_args!("an action of {found} where {newest} were published");
            self.breaks("SI-3", how);
        }
    }

    /// SI-5: weights of one process only rise.
    pub(crate) fn serves(&self, node: &NodeName, boot: u64, version: WeightVersion) {
        let mut books = self.books();
        let before = books.served.insert((node.clone(), boot), version);
        books.newest = books.newest.max(version);
        drop(books);
        self.note(format_args!("{node} serves {version}"));
        if let Some(before) = before.filter(|before| version < *before) {
            self.breaks(
                "SI-5",
                format_args!("{node} goes from {before} back to {version}"),
            );
        }
    }

    /// A new engine of a process begins without published weights.
    pub(crate) fn serves_anew(&self, node: &NodeName, boot: u64) {
        self.books().served.remove(&(node.clone(), boot));
    }

    pub(crate) fn acknowledged(&self, stored: u64) {
        let mut books = self.books();
        if stored > books.acknowledged {
            books.acknowledged = stored;
            drop(books);
            self.note(format_args!("{stored} are stored"));
        }
    }

    /// SI-1: what was acknowledged is there after whatever happened.
    pub(crate) fn store_opened(&self, holds: u64) {
        let acknowledged = self.books().acknowledged;
        self.note(format_args!("the store holds {holds}"));
        if holds < acknowledged {
            let how = format_args!("{acknowledged} were acknowledged, {holds} are stored");
            self.breaks("SI-1", how);
        }
    }

    /// SI-7: a name is had by one process.
    pub(crate) fn members(&self, members: &[(NodeName, u64)]) {
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = members.iter().find(|(name, _)| !seen.insert(name)) {
            self.breaks("SI-7", format_args!("two members are called {name}"));
        }
    }

    pub(crate) fn finish(&self) -> Finished {
        let books = self.books();
        let mut hasher = DefaultHasher::new();
        books.log.hash(&mut hasher);
        Finished {
            log: books.log.clone(),
            hash: hasher.finish(),
            breaks: books.breaks.clone(),
            faults: books.faults.clone(),
            stored: books.acknowledged,
            steps: books.steps,
            shared_steps: books.shared_steps,
            given_on: books.given_on,
            saved: books.saved,
        }
    }
}

pub(crate) struct Finished {
    pub log: Vec<String>,
    pub hash: u64,
    pub breaks: Vec<String>,
    pub faults: BTreeMap<&'static str, u64>,
    pub stored: u64,
    pub steps: u64,
    pub shared_steps: u64,
    pub given_on: u64,
    pub saved: u64,
}
