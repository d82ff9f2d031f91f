//! Learners being opened: how long each may take, how long others wait for it, and whose process hangs.
//!
//! The first opening takes as long as a model takes to be pulled and loaded, which nobody knows before
//! somebody has done it. So limits follow what others took.
//!
//! - **OP-1 (by the others).** Once half of the learners have opened since all were to begin
//!   ([`Openings::begin`]), another one may take three times as long as the slowest of them and 30 s, and
//!   10 min more if its process opens its first: the model may have to be pulled to there alone. Before
//!   that it may take three times what openings took lately, and the same 10 min.
//! - **OP-2 (nobody waits for it).** Others do not wait for one that takes longer than three times what
//!   the slowest took, and 30 s, whether its own limit is over or not.
//! - **OP-3 (a process that hangs ends).** A process whose learner hangs a second time is to end: what
//!   hangs in it may be its device. In between it has three times what openings took lately, and 30 s.
//! - **OP-4 (one process a name).** Of each name the newest process alone is remembered.

use crate::replicas::Pace;
use proto::NodeName;
use std::collections::BTreeMap;

/// More time for what may be the first model of a process, in milliseconds.
const FIRST_MS: u64 = 600_000;

/// After so many times that its learner hung a process is to end.
const HANGS: u32 = 2;

/// A process of a node: its name, and what it drew at its start.
pub type Process = (NodeName, u64);

/// Keeps account of openings. All times are in milliseconds.
#[derive(Debug, Default)]
pub struct Openings {
    pace: Pace,
    processes: BTreeMap<NodeName, Record>,
    /// Time of each that has opened a learner since all were to begin.
    opened: BTreeMap<NodeName, u64>,
}

#[derive(Debug, Default)]
struct Record {
    boot: u64,
    /// Times that its learner hung.
    hangs: u32,
    /// Models and other large files lie there.
    has_opened: bool,
}

impl Openings {
    /// All learners are to be opened, or opened again.
    pub fn begin(&mut self) {
        self.opened.clear();
    }

    /// A process joins: those before it do not come back.
    pub fn joined(&mut self, (name, boot): &Process) {
        if self.processes.get(name).is_some_and(|r| r.boot != *boot) {
            self.left(name);
        }
    }

    /// The process of this name ends.
    pub fn left(&mut self, name: &NodeName) {
        self.processes.remove(name);
    }

    /// A process has opened a learner.
    pub fn opened(&mut self, process: &Process, took_ms: u64) {
        self.pace.done(took_ms, 1);
        self.opened.insert(process.0.clone(), took_ms);
        self.record(process).has_opened = true;
    }

    /// The learner of a process did not answer, or was not opened in time; whether the process is to end
    /// (OP-3).
    pub fn hung(&mut self, process: &Process) -> bool {
        let record = self.record(process);
        record.hangs += 1;
        record.hangs >= HANGS
    }

    /// Whether a process is to end.
    pub fn has_to_end(&self, process: &Process) -> bool {
        self.known(process).is_some_and(|r| r.hangs >= HANGS)
    }

    /// Whether the learner of a process has hung.
    pub fn has_hung(&self, process: &Process) -> bool {
        self.known(process).is_some_and(|r| r.hangs > 0)
    }

    /// Time in which a process is to open a learner, as one of `learners`; none while nothing is known
    /// (OP-1, OP-3).
    pub fn limit_ms(&self, process: &Process, learners: usize) -> Option<u64> {
        let lately = self.lately_ms();
        if self.has_hung(process) {
            return lately;
        }
        let longer = |limit: u64| limit.saturating_add(FIRST_MS);
        let has_opened = self.known(process).is_some_and(|r| r.has_opened);
        match self.by_others_ms(learners) {
            Some(limit) if has_opened => Some(limit),
            limit => limit.or(lately).map(longer),
        }
    }

    /// Time for which others wait for one of `learners`; none while nothing is known (OP-2).
    pub fn wait_ms(&self, learners: usize) -> Option<u64> {
        let longer = |limit: u64| limit.saturating_add(FIRST_MS);
        let lately = || self.lately_ms().map(longer);
        self.by_others_ms(learners).or_else(lately)
    }

    fn lately_ms(&self) -> Option<u64> {
        Some(self.pace.limit_ms(1, u64::MAX)).filter(|limit| *limit < u64::MAX)
    }

    /// By the slowest of those that have opened since all were to begin, if these are half.
    fn by_others_ms(&self, learners: usize) -> Option<u64> {
        let slowest = self.opened.values().copied().max()?;
        let are_many = 2 * self.opened.len() >= learners;
        let mut pace = Pace::default();
        pace.done(slowest, 1);
        are_many.then(|| pace.limit_ms(1, u64::MAX))
    }

    fn known(&self, (name, boot): &Process) -> Option<&Record> {
        self.processes.get(name).filter(|r| r.boot == *boot)
    }

    fn record(&mut self, process: &Process) -> &mut Record {
        self.joined(process);
        let record = self.processes.entry(process.0.clone()).or_default();
        record.boot = process.1;
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(number: u64, boot: u64) -> Process {
        (format!("n{number}").parse().unwrap(), boot)
    }

    fn opened(took_ms: &[u64]) -> Openings {
        let mut openings = Openings::default();
        for (number, took) in (0..).zip(took_ms) {
            openings.opened(&process(number, 1), *took);
        }
        openings
    }

    #[test]
    fn op_1_limits_follow_what_others_took() {
        let (old, new) = (process(0, 1), process(9, 1));
        type Case<'a> = (&'a [u64], usize, &'a Process, Option<u64>);
        let cases: [Case<'_>; 6] = [
            (&[], 4, &new, None),
            (&[1000, 2000], 4, &old, Some(36_000)),
            // The first one of its process.
            (&[1000, 2000], 4, &new, Some(636_000)),
            // One of four says little; it is known what openings took lately.
            (&[1000], 4, &old, Some(633_000)),
            (&[1000], 4, &new, Some(633_000)),
            (&[u64::MAX / 3, u64::MAX / 3], 4, &new, Some(u64::MAX)),
        ];
        for (took, learners, who, limit) in cases {
            assert_eq!(opened(took).limit_ms(who, learners), limit, "{took:?}");
        }
    }

    #[test]
    fn op_1_all_that_begin_again_say_what_it_takes_now() {
        let mut openings = opened(&[1000, 1000, 1000, 1000]);
        openings.begin();
        openings.opened(&process(0, 1), 50_000);
        assert_eq!(openings.limit_ms(&process(1, 1), 4), Some(633_000));
        openings.opened(&process(0, 1), 50_000);
        assert_eq!(openings.limit_ms(&process(1, 1), 4), Some(633_000), "one");
        openings.opened(&process(2, 1), 40_000);
        assert_eq!(openings.limit_ms(&process(1, 1), 4), Some(180_000));
    }

    /// A process that hangs over its first learner would be waited for as long as it may take.
    #[test]
    fn op_2_nobody_waits_for_a_first_opening_that_takes_much_longer() {
        let new = process(9, 1);
        let openings = opened(&[1000, 2000]);
        assert_eq!(openings.wait_ms(3), Some(36_000));
        assert!(openings.wait_ms(3) < openings.limit_ms(&new, 3));
        assert_eq!(openings.wait_ms(5), Some(636_000), "too few to tell");
        assert_eq!(Openings::default().wait_ms(3), None);
    }

    #[test]
    fn op_3_a_process_ends_when_its_learner_hangs_again() {
        let who = process(0, 1);
        let mut openings = opened(&[1000, 2000, 4000]);
        assert!(!openings.hung(&who));
        assert!(openings.has_hung(&who) && !openings.has_to_end(&who));
        assert_eq!(openings.limit_ms(&who, 3), Some(36_000), "the median");
        assert!(openings.hung(&who));
        assert!(openings.has_to_end(&who));
        assert!(!openings.has_hung(&process(1, 1)));
    }

    #[test]
    fn op_4_processes_that_do_not_come_back_are_forgotten() {
        let mut openings = Openings::default();
        for boot in 0..1000 {
            let who = process(0, boot);
            openings.joined(&who);
            assert!(!openings.has_hung(&who));
            openings.hung(&who);
            openings.joined(&who);
            assert!(openings.has_hung(&who), "it has found back");
            openings.opened(&who, 1000);
            assert_eq!(openings.processes.len(), 1);
        }
        openings.left(&process(0, 0).0);
        assert!(openings.processes.is_empty());
    }
}
