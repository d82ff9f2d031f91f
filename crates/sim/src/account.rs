//! What happened in a simulation, and what must not have.

use crate::scenario::LONGEST_WAIT_MS;
use crate::{BACK_AFTER, Scenario};
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
    /// SI-13 to SI-15: bounds in milliseconds, where they hold.
    bounds: Option<Bounds>,
    books: Mutex<Books>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    step_ms: u64,
    /// More for each learner but the first that falls ill within a step.
    finding_ms: u64,
    /// Time that a step takes when all are well.
    pace_ms: u64,
    return_ms: u64,
    /// Whether every learner may take part.
    have_all_a_place: bool,
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
    /// Machines whose samplers are or were sick: since when they are well.
    ill: BTreeMap<NodeName, Option<Instant>>,
    /// Trajectories of which the controller said that they are stored.
    acknowledged: u64,
    steps: u64,
    /// Members' parts in steps of groups of several.
    shared_steps: u64,
    /// Steps that learners made, by epoch and number: the newest epoch at that time.
    made: BTreeMap<(u32, u64), u32>,
    /// Who made them.
    makers: BTreeMap<(u32, u64), BTreeSet<NodeName>>,
    /// When learners were first asked for a step, and when the last of them had made it.
    begun_ms: BTreeMap<u64, u64>,
    made_ms: BTreeMap<u64, u64>,
    longest_step_ms: u64,
    /// When learners fell ill that may not have been found out by the step before.
    falls_ms: Vec<u64>,
    /// Learners that take no part, and since when.
    absent: BTreeMap<NodeName, u64>,
    takers: BTreeSet<NodeName>,
    /// Longest absence of each.
    longest_ms: BTreeMap<NodeName, u64>,
    /// Learners that are or were ill, and since when they are not.
    ailing: BTreeMap<NodeName, Option<u64>>,
    /// Bytes of weights: pulled from nodes, and not pulled because of deltas.
    given_on: u64,
    files_given_on: u64,
    saved: u64,
}

impl Account {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let bounds = || Bounds {
            step_ms: scenario.longest_step_ms(),
            finding_ms: scenario.finding_ms(),
            pace_ms: scenario.pace_ms(),
            return_ms: scenario.return_ms(),
            have_all_a_place: scenario.replicas >= scenario.machines.len(),
        };
        Self {
            started: Instant::now(),
            bounds: scenario.is_grey.then(bounds),
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

    /// Number of engines that have been opened so far.
    pub(crate) fn engines_opened(&self) -> u64 {
        self.books().opened
    }

    /// A machine's samplers get sick, or well again.
    pub(crate) fn sick(&self, node: &NodeName, is_sick: bool) {
        let now = Instant::now();
        let well_since = (!is_sick).then_some(now);
        self.books().ill.insert(node.clone(), well_since);
    }

    /// SI-11: who is left out is sick, or was not long ago.
    pub(crate) fn left_out(&self, names: &[String]) {
        for name in names {
            let since = self.books().ill.iter().find_map(|(node, since)| {
                let is_it = node.as_str() == name;
                is_it.then_some(*since)
            });
            match since {
                None => self.breaks(
                    "SI-11",
                    format_args!("{name} is left out and never was sick"),
                ),
                Some(Some(since)) if since.elapsed() > BACK_AFTER => {
                    let well = since.elapsed().as_secs();
                    let how = format_args!("{name} is left out and has been well for {well} s");
                    self.breaks("SI-11", how);
                }
                Some(_) => {}
            }
        }
    }

    /// SI-12: a batch of actions took so long; samplers that are well take `well`, and a call of one that
    /// is not ends after `limit`.
    pub(crate) fn batch_took(&self, took: Duration, well: Duration, limit: Duration) {
        let sick = self.books().ill.len() as u32;
        let most = 3 * well + limit * sick;
        if took > most {
            let how = format_args!("a batch took {took:?}, at most {most:?} with {sick} ever sick");
            self.breaks("SI-12", how);
        }
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

    fn now_ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }

    /// Steps that the training loop was told of.
    pub(crate) fn steps(&self) -> u64 {
        self.books().steps
    }

    /// A learner is asked for a step.
    pub(crate) fn step_begun(&self, step: u64) {
        let now = self.now_ms();
        let mut books = self.books();
        // What was begun after it was of learners that are lost.
        books.begun_ms.retain(|begun, _| *begun <= step);
        books.begun_ms.entry(step).or_insert(now);
    }

    /// These learners are ill.
    pub(crate) fn falls_ill(&self, who: &[NodeName]) {
        let now = self.now_ms();
        let mut books = self.books();
        books.falls_ms.push(now);
        books
            .ailing
            .extend(who.iter().map(|name| (name.clone(), None)));
    }

    /// They are not any more.
    pub(crate) fn recovers(&self, who: &[NodeName]) {
        self.note(format_args!("{who:?} recover"));
        let now = self.now_ms();
        let mut books = self.books();
        books
            .ailing
            .extend(who.iter().map(|name| (name.clone(), Some(now))));
    }

    /// A learner made a step, as one of so many.
    pub(crate) fn step_made(&self, node: &NodeName, epoch: u32, step: u64, world: usize) {
        let now = self.now_ms();
        let mut books = self.books();
        books.made_ms.insert(step, now);
        let makers = books.makers.entry((epoch, step)).or_default();
        makers.insert(node.clone());
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
        if let Some(bounds) = self.bounds {
            self.took_its_time(step, bounds);
            self.take_part(step, bounds);
        }
    }

    /// SI-13.
    fn took_its_time(&self, step: u64, bounds: Bounds) {
        let mut books = self.books();
        let made = books.made_ms.get(&step).copied().unwrap_or_default();
        let begun = books.begun_ms.remove(&step).unwrap_or(made);
        let took = made.saturating_sub(begun);
        books.longest_step_ms = books.longest_step_ms.max(took);
        let ill = books.falls_ms.iter().filter(|at| **at < made).count();
        // Whoever has done its part by then is found out in the next step.
        let done = made.saturating_sub(bounds.pace_ms);
        books.falls_ms.retain(|at| *at >= done);
        drop(books);
        let others = ill.saturating_sub(1) as u64;
        let bound = bounds.step_ms + others * bounds.finding_ms;
        if took > bound {
            let how = format_args!(
                "step {step} took {took} ms, and {bound} is the bound where {ill} fall ill"
            );
            self.breaks("SI-13", how);
        }
    }

    /// Who had a part in a step. SI-15.
    fn take_part(&self, step: u64, bounds: Bounds) {
        let now = self.now_ms();
        let mut guard = self.books();
        let books = &mut *guard;
        let made = books.makers.iter().filter(|((_, made), _)| *made == step);
        let Some((_, makers)) = made.max_by_key(|((epoch, _), _)| *epoch) else {
            return;
        };
        books.takers.extend(makers.iter().cloned());
        for node in &books.takers {
            match makers.contains(node) {
                true => {
                    if let Some(since) = books.absent.remove(node) {
                        let longest = books.longest_ms.entry(node.clone()).or_default();
                        *longest = (*longest).max(now - since);
                    }
                }
                false => drop(books.absent.entry(node.clone()).or_insert(now)),
            }
        }
        let returns = LONGEST_WAIT_MS + bounds.return_ms;
        let is_late = |node: &&NodeName| {
            let well = books.ailing.get(*node).copied().flatten();
            let since = well.map(|well| well.max(books.absent[*node]));
            since.is_some_and(|since| now - since > returns)
        };
        let late = books.absent.keys().find(is_late).cloned();
        if let Some(node) = late.filter(|_| bounds.have_all_a_place) {
            let since = books.absent[&node];
            drop(guard);
            let how = format_args!("{node} has recovered, and takes no part since {since} ms");
            self.breaks("SI-15", how);
        }
    }

    /// SI-14, once training has ended.
    pub(crate) fn trained(&self) {
        let Some(bounds) = self.bounds.filter(|bounds| bounds.have_all_a_place) else {
            return;
        };
        let now = self.now_ms();
        let (longest, ailing) = {
            let mut books = self.books();
            let absent = std::mem::take(&mut books.absent);
            for (node, since) in absent {
                let longest = books.longest_ms.entry(node).or_default();
                *longest = (*longest).max(now - since);
            }
            (books.longest_ms.clone(), books.ailing.clone())
        };
        let (longest, ailing) = (&longest, &ailing);
        let of = |is_ill: bool| {
            let some = longest
                .iter()
                .filter(move |(node, _)| ailing.contains_key(*node) == is_ill);
            some.max_by_key(|(_, longest)| **longest)
        };
        let sick = of(true).map_or(0, |(_, longest)| *longest);
        if let Some((node, away)) =
            of(false).filter(|(_, away)| **away > sick.max(bounds.return_ms))
        {
            let how =
                format_args!("{node} is well, and was left out for {away} ms; the sick {sick}");
            self.breaks("SI-14", how);
        }
    }

    /// What a publication came to, as the training loop says.
    pub(crate) fn spread(&self, given_on: u64, saved: u64) {
        let mut books = self.books();
        books.given_on += given_on;
        books.saved += saved;
    }

    /// A folder has come to a node, so much of it from other nodes.
    pub(crate) fn files_came(&self, from_nodes: u64) {
        self.books().files_given_on += from_nodes;
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
            longest_step: Duration::from_millis(books.longest_step_ms),
            stored: books.acknowledged,
            steps: books.steps,
            shared_steps: books.shared_steps,
            given_on: books.given_on,
            files_given_on: books.files_given_on,
            saved: books.saved,
        }
    }
}

pub(crate) struct Finished {
    pub log: Vec<String>,
    pub hash: u64,
    pub breaks: Vec<String>,
    pub faults: BTreeMap<&'static str, u64>,
    pub longest_step: Duration,
    pub stored: u64,
    pub steps: u64,
    pub shared_steps: u64,
    pub given_on: u64,
    pub files_given_on: u64,
    pub saved: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is broken after such a course.
    fn breaks(account: &Account) -> Vec<String> {
        let breaks = account.finish().breaks;
        let invariant = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        breaks.iter().map(invariant).collect()
    }

    fn account() -> Account {
        Account::new(&Scenario::of(1))
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn si_11_who_never_was_sick_must_not_be_left_out() {
        let account = account();
        account.sick(&node("bad"), true);
        account.left_out(&["bad".to_owned()]);
        assert!(breaks(&account).is_empty());
        account.left_out(&["bad".to_owned(), "good".to_owned()]);
        assert_eq!(breaks(&account), ["SI-11"]);
        assert!(account.is_broken());
    }

    #[tokio::test(start_paused = true)]
    async fn si_11_who_has_been_well_for_long_must_not_be_left_out() {
        let (account, left_out) = (account(), ["bad".to_owned()]);
        let bad = node("bad");
        account.sick(&bad, true);
        // However long it is sick.
        tokio::time::sleep(2 * BACK_AFTER).await;
        account.left_out(&left_out);
        account.sick(&bad, false);
        tokio::time::sleep(BACK_AFTER).await;
        account.left_out(&left_out);
        assert!(breaks(&account).is_empty());
        tokio::time::sleep(Duration::from_secs(1)).await;
        account.left_out(&[]);
        assert!(breaks(&account).is_empty());
        account.left_out(&left_out);
        assert_eq!(breaks(&account), ["SI-11"]);
    }

    /// A learner that falls ill when the one before is found out costs a step the time of another one.
    #[tokio::test(start_paused = true)]
    async fn si_13_each_that_falls_ill_in_a_step_may_cost_one_limit() {
        let scenario = Scenario::of(1).grey(crate::Ailment::Hangs);
        let least = Duration::from_millis(scenario.longest_step_ms());
        let more = Duration::from_millis(scenario.finding_ms());
        let instant = Duration::from_millis(1);
        for (ill, most) in [
            (0, least),
            (1, least),
            (2, least + more),
            (3, least + 2 * more),
        ] {
            for (took, broken) in [(most, &[][..]), (most + instant, &["SI-13"])] {
                let account = Account::new(&scenario);
                let (one, step) = (node("one"), 1);
                // The step before: whoever fell ill by then is no reason.
                account.falls_ill(std::slice::from_ref(&one));
                tokio::time::sleep(Duration::from_millis(scenario.pace_ms() + 1)).await;
                account.epoch_handed_out(1);
                account.step_made(&one, 1, step, 2);
                account.step_taken(Some(1), step);
                account.step_begun(step + 1);
                tokio::time::sleep(instant).await;
                for _ in 0..ill {
                    account.falls_ill(std::slice::from_ref(&one));
                }
                tokio::time::sleep(took - instant).await;
                account.step_made(&one, 1, step + 1, 2);
                account.step_taken(Some(1), step + 1);
                assert_eq!(breaks(&account), broken, "{ill} {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn si_12_a_batch_must_not_take_longer_than_the_sick_explain() {
        let (well, limit) = (Duration::from_secs(2), Duration::from_secs(100));
        let instant = Duration::from_millis(1);
        for sick in 0..3_u32 {
            let account = account();
            for number in 0..sick {
                let node = node(&format!("bad{number}"));
                account.sick(&node, true);
                account.sick(&node, false);
            }
            let most = 3 * well + sick * limit;
            account.batch_took(most, well, limit);
            assert!(breaks(&account).is_empty(), "{sick}");
            account.batch_took(most + instant, well, limit);
            assert_eq!(breaks(&account), ["SI-12"], "{sick}");
        }
    }
}
