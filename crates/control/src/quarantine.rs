//! Which workers are left out because they are sick: alive, connected, and of no use.
//!
//! - **QU-1 (in a row).** A worker is quarantined after `failures` failures with nothing between them, in
//!   the order in which it was asked, that it did or may still do; and at once when it gives no answer in
//!   time. Failures are quick and work takes its time: in the order of the answers a worker that is asked
//!   for many things at once fails many times before its first success.
//! - **QU-2 (longer each time).** The pauses double up to a limit. A first quarantine asks for a new
//!   engine, each one after it for a new process, until the worker has worked for `clean_ms`.
//! - **QU-3 (one trial).** A worker comes back for one trial: a success admits it, a failure begins the
//!   next quarantine.
//! - **QU-4 (no outage of one).** With `needs_witness` failures in a row count only if another worker
//!   succeeded since the first of them: what all depend on may be away, which is no worker's fault.
//!
//! Not promised: that a worker which fails now and then is ever left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Patience with workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// Failures in a row that begin a quarantine; 0: nobody is ever quarantined.
    pub failures: u32,
    /// Length of the first quarantine, in milliseconds.
    pub first_pause_ms: u64,
    /// Greatest length of a quarantine, in milliseconds.
    pub longest_pause_ms: u64,
    /// A worker that has worked for so long since its last quarantine counts as new, in milliseconds.
    pub clean_ms: u64,
    /// Whether failures count only while others succeed.
    pub needs_witness: bool,
}

/// Cure for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Its engine is closed and opened again.
    Reopen,
    /// Its process ends, to be started again by whatever started it.
    Restart,
}

/// A quarantine that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a worker that is quarantined must be left out"]
pub struct Sentence {
    /// Cure to be tried meanwhile.
    pub remedy: Remedy,
    /// Length in milliseconds.
    pub pause_ms: u64,
    /// Quarantines of this worker in a row, this one included.
    pub times: u32,
}

/// Terms on which a worker takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As any other.
    Full,
    /// For one trial.
    Trial,
    /// Not before this time.
    Later {
        /// On the clock of the `now_ms` arguments.
        until_ms: u64,
    },
}

/// Names a call of a worker; what is asked later has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn(u64);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Working,
    Out {
        until_ms: u64,
    },
    Trial,
}

#[derive(Debug, Clone, Default)]
struct Record {
    state: State,
    /// Quarantines in a row.
    times: u32,
    /// When it was last admitted.
    admitted_ms: u64,
    /// Calls under way.
    pending: BTreeSet<Turn>,
    /// Failures of calls that began after the last one that it is known to have done, each with the
    /// successes of all workers before it.
    failures: BTreeMap<Turn, u64>,
    /// The last call that it has done.
    done: Option<Turn>,
}

/// Keeps account of the workers of one role. See the module's invariants.
#[derive(Debug)]
pub struct Quarantine<W> {
    config: QuarantineConfig,
    records: BTreeMap<W, Record>,
    /// Of all workers.
    successes: u64,
    /// Calls so far.
    turns: u64,
}

impl<W: Ord + Clone> Quarantine<W> {
    /// Without a worker; each one that is named is taken to be well.
    pub fn new(config: QuarantineConfig) -> Self {
        Self {
            config,
            records: BTreeMap::new(),
            successes: 0,
            turns: 0,
        }
    }

    /// Whether anybody is ever quarantined.
    pub fn is_on(&self) -> bool {
        self.config.failures > 0
    }

    /// A worker is asked for something. The turn is to be handed back when that ends.
    pub fn began(&mut self, worker: &W) -> Turn {
        self.turns += 1;
        let turn = Turn(self.turns);
        if self.is_on() {
            let record = self.records.entry(worker.clone()).or_default();
            record.pending.insert(turn);
        }
        turn
    }

    /// A call has ended, also if it says nothing of the worker.
    pub fn ended(&mut self, worker: &W, turn: Turn) {
        if let Some(record) = self.records.get_mut(worker) {
            record.pending.remove(&turn);
        }
    }

    /// A worker did what it was asked. True when that was its trial, and it is admitted.
    pub fn succeeded(&mut self, worker: &W, turn: Turn, now_ms: u64) -> bool {
        self.successes += 1;
        let Some(record) = self.records.get_mut(worker) else {
            return false;
        };
        record.pending.remove(&turn);
        // Its engine is being opened again: what it answers late changes nothing.
        if matches!(record.state, State::Out { .. }) {
            return false;
        }
        record.done = record.done.max(Some(turn));
        record.failures.retain(|failed, _| *failed > turn);
        let is_admitted = record.state == State::Trial;
        if is_admitted {
            record.admitted_ms = now_ms;
            record.state = State::Working;
        }
        is_admitted
    }

    /// A worker failed at what it was asked.
    pub fn failed(&mut self, worker: &W, turn: Turn, now_ms: u64) -> Option<Sentence> {
        if !self.is_on() {
            return None;
        }
        let (successes, config) = (self.successes, self.config);
        let record = self.records.entry(worker.clone()).or_default();
        record.pending.remove(&turn);
        match record.state {
            State::Out { .. } => None,
            State::Trial => Some(record.begin(&config, now_ms)),
            // It has done what it was asked for later.
            State::Working if record.done > Some(turn) => None,
            State::Working => {
                record.failures.insert(turn, successes);
                let (row, before) = record.row(turn, config.failures);
                let is_its_own = !config.needs_witness || successes > before;
                (row >= config.failures && is_its_own).then(|| record.begin(&config, now_ms))
            }
        }
    }

    /// A worker gave no answer in time, or one that shows that it must not be asked again as it is.
    pub fn hung(&mut self, worker: &W, now_ms: u64) -> Option<Sentence> {
        if !self.is_on() {
            return None;
        }
        let config = self.config;
        let record = self.records.entry(worker.clone()).or_default();
        let is_out = matches!(record.state, State::Out { .. });
        (!is_out).then(|| record.begin(&config, now_ms))
    }

    /// Terms for a worker that comes, or comes back.
    pub fn enter(&mut self, worker: &W, now_ms: u64) -> Admission {
        let Some(record) = self.records.get_mut(worker) else {
            return Admission::Full;
        };
        match record.state {
            State::Working => Admission::Full,
            State::Out { until_ms } if now_ms < until_ms => Admission::Later { until_ms },
            State::Out { .. } | State::Trial => {
                record.state = State::Trial;
                Admission::Trial
            }
        }
    }

    /// Whether a worker is in quarantine, trials aside.
    pub fn is_out(&self, worker: &W) -> bool {
        let record = self.records.get(worker);
        record.is_some_and(|record| matches!(record.state, State::Out { .. }))
    }

    /// Workers that are in quarantine or on trial.
    pub fn left_out(&self) -> impl Iterator<Item = &W> {
        let is_out = |record: &Record| record.state != State::Working;
        let all = self.records.iter();
        all.filter(move |(_, record)| is_out(record))
            .map(|(worker, _)| worker)
    }
}

impl Record {
    /// Failures in a row, that of this call among them: those with no call under way between them; and
    /// the successes of all workers before the first of them.
    fn row(&mut self, turn: Turn, most: u32) -> (u32, u64) {
        let after = self.pending.range(..turn).next_back().copied();
        let until = self.pending.range(turn..).next().copied();
        let bounds = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            until.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let row: Vec<(Turn, u64)> = self.failures.range(bounds).map(|(t, b)| (*t, *b)).collect();
        let before = row.first().map_or(0, |(_, before)| *before);
        let most = most as usize;
        // Who fails for long at what all fail at fills no memory; the first says since when.
        for (turn, _) in row.iter().skip(1).take(row.len().saturating_sub(most)) {
            self.failures.remove(turn);
        }
        (row.len() as u32, before)
    }

    fn begin(&mut self, config: &QuarantineConfig, now_ms: u64) -> Sentence {
        let has_worked = self.state == State::Working;
        if has_worked && now_ms.saturating_sub(self.admitted_ms) >= config.clean_ms {
            self.times = 0;
        }
        let doubled = 1_u64.checked_shl(self.times).unwrap_or(u64::MAX);
        let pause_ms = config.first_pause_ms.saturating_mul(doubled);
        let pause_ms = pause_ms.min(config.longest_pause_ms);
        self.times = self.times.saturating_add(1);
        self.failures.clear();
        self.state = State::Out {
            until_ms: now_ms.saturating_add(pause_ms),
        };
        Sentence {
            remedy: match self.times {
                1 => Remedy::Reopen,
                _ => Remedy::Restart,
            },
            pause_ms,
            times: self.times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: QuarantineConfig = QuarantineConfig {
        failures: 3,
        first_pause_ms: 10,
        longest_pause_ms: 60,
        clean_ms: 1000,
        needs_witness: false,
    };

    fn quarantine() -> Quarantine<u8> {
        Quarantine::new(CONFIG)
    }

    fn succeeds(quarantine: &mut Quarantine<u8>, worker: u8, now_ms: u64) -> bool {
        let turn = quarantine.began(&worker);
        quarantine.succeeded(&worker, turn, now_ms)
    }

    fn fails(quarantine: &mut Quarantine<u8>, worker: u8, now_ms: u64) -> Option<Sentence> {
        let turn = quarantine.began(&worker);
        quarantine.failed(&worker, turn, now_ms)
    }

    fn sentence(remedy: Remedy, pause_ms: u64, times: u32) -> Option<Sentence> {
        Some(Sentence {
            remedy,
            pause_ms,
            times,
        })
    }

    const FIRST: Option<Sentence> = Some(Sentence {
        remedy: Remedy::Reopen,
        pause_ms: 10,
        times: 1,
    });

    /// `.` a success, `x` a failure, `!` no answer in time; what the last of them leads to.
    fn after(events: &str) -> Option<Sentence> {
        let mut quarantine = quarantine();
        let mut last = None;
        for event in events.chars() {
            last = match event {
                '.' => {
                    succeeds(&mut quarantine, 1, 5000);
                    None
                }
                'x' => fails(&mut quarantine, 1, 5000),
                _ => quarantine.hung(&1, 5000),
            };
        }
        last
    }

    #[test]
    fn qu_1_failures_count_in_a_row_and_no_answer_at_once() {
        for (events, expected) in [
            ("x", None),
            ("xx", None),
            ("xxx", FIRST),
            ("xx.xx", None),
            ("xx.xxx", FIRST),
            (".x.x.x.x.x", None),
            ("!", FIRST),
            ("x!", FIRST),
            // What it was asked before says nothing more.
            ("xxxx", None),
            ("!!", None),
            ("xxx.x", None),
        ] {
            assert_eq!(after(events), expected, "{events}");
        }
    }

    /// Calls that all begin before the first of them ends, which then end in this order.
    fn at_once(count: usize, ends: &[(usize, char)]) -> Option<Sentence> {
        let mut quarantine = quarantine();
        let turns: Vec<Turn> = (0..count).map(|_| quarantine.began(&1)).collect();
        let ends = ends.iter().map(|(call, how)| {
            let turn = turns[*call];
            match how {
                '.' => drop(quarantine.succeeded(&1, turn, 5000)),
                '-' => quarantine.ended(&1, turn),
                _ => return quarantine.failed(&1, turn, 5000),
            }
            None
        });
        ends.last().flatten()
    }

    #[test]
    fn qu_1_what_is_under_way_may_still_be_done() {
        let failed = |calls: &[usize]| -> Vec<(usize, char)> {
            calls.iter().map(|call| (*call, 'x')).collect()
        };
        let (every_other, all) = (failed(&[1, 3, 5]), failed(&[0, 1, 2]));
        assert_eq!(at_once(7, &every_other), None);
        assert_eq!(at_once(7, &all), FIRST);
        assert_eq!(at_once(7, &failed(&[6, 5, 4])), FIRST);
        assert_eq!(at_once(7, &failed(&[6, 4, 5])), FIRST);
        assert_eq!(at_once(7, &failed(&[1, 3, 2])), FIRST);
        // Done, or without a word of the worker.
        for (between, expected) in [('.', None), ('-', FIRST)] {
            let ends = [(1, 'x'), (2, 'x'), (3, between), (4, 'x')];
            assert_eq!(at_once(7, &ends), expected, "{between}");
        }
        // What it was asked for long ago excuses nothing that it failed at since.
        let ends = [(1, 'x'), (2, 'x'), (0, '.'), (3, 'x')];
        assert_eq!(at_once(7, &ends), FIRST);
        // It has done what it was asked for later.
        let ends = [(0, 'x'), (1, 'x'), (3, '.'), (2, 'x')];
        assert_eq!(at_once(7, &ends), None);
    }

    #[test]
    fn qu_4_a_long_outage_fills_no_memory() {
        let config = QuarantineConfig {
            needs_witness: true,
            ..CONFIG
        };
        let mut quarantine = Quarantine::new(config);
        for _ in 0..999 {
            assert_eq!(fails(&mut quarantine, 1, 0), None);
        }
        assert_eq!(quarantine.records[&1].failures.len(), 3);
        succeeds(&mut quarantine, 2, 0);
        assert!(fails(&mut quarantine, 1, 0).is_some());
    }

    #[test]
    fn qu_2_pauses_double_and_a_process_ends_from_the_second_on() {
        let mut quarantine = quarantine();
        let mut now = 5000;
        assert_eq!(quarantine.hung(&1, now), FIRST);
        for (pause, times) in [(20, 2), (40, 3), (60, 4), (60, 5)] {
            now += 60;
            assert_eq!(quarantine.enter(&1, now), Admission::Trial);
            let expected = sentence(Remedy::Restart, pause, times);
            assert_eq!(fails(&mut quarantine, 1, now), expected);
        }
        // Soon after it was admitted, the next one counts on; much later it does not.
        for (works_for, expected) in [(999, sentence(Remedy::Restart, 60, 6)), (1000, FIRST)] {
            now += 60;
            assert_eq!(quarantine.enter(&1, now), Admission::Trial);
            assert!(succeeds(&mut quarantine, 1, now));
            now += works_for;
            assert_eq!(quarantine.hung(&1, now), expected);
        }
    }

    #[test]
    fn qu_3_one_trial_decides() {
        let mut quarantine = quarantine();
        assert_eq!(quarantine.enter(&1, 0), Admission::Full);
        assert_eq!(quarantine.hung(&1, 5000), FIRST);
        let later = Admission::Later { until_ms: 5010 };
        assert_eq!(quarantine.enter(&1, 5009), later);
        assert_eq!(quarantine.left_out().collect::<Vec<_>>(), [&1]);
        assert_eq!(quarantine.enter(&1, 5010), Admission::Trial);
        assert_eq!(quarantine.enter(&1, 5011), Admission::Trial, "found back");
        assert!(succeeds(&mut quarantine, 1, 5020));
        assert!(!succeeds(&mut quarantine, 1, 5021), "admitted once");
        assert_eq!(quarantine.enter(&1, 5022), Admission::Full);
        assert_eq!(quarantine.left_out().count(), 0);
        assert_eq!(quarantine.enter(&2, 5009), Admission::Full);
    }

    #[test]
    fn qu_4_what_all_fail_at_is_no_ones_fault() {
        let config = QuarantineConfig {
            needs_witness: true,
            ..CONFIG
        };
        let mut quarantine = Quarantine::new(config);
        succeeds(&mut quarantine, 1, 0);
        succeeds(&mut quarantine, 2, 0);
        for _ in 0..9 {
            assert_eq!(fails(&mut quarantine, 1, 0), None);
            assert_eq!(fails(&mut quarantine, 2, 0), None);
        }
        // The other one works again: now it is this one's.
        succeeds(&mut quarantine, 2, 0);
        assert!(fails(&mut quarantine, 1, 0).is_some());
        assert_eq!(fails(&mut quarantine, 2, 0), None);
    }

    #[test]
    fn without_a_number_of_failures_nobody_is_left_out() {
        let mut quarantine = Quarantine::new(QuarantineConfig {
            failures: 0,
            ..CONFIG
        });
        for _ in 0..99 {
            assert_eq!(fails(&mut quarantine, 1, 0), None);
            assert_eq!(quarantine.hung(&1, 0), None);
        }
        assert_eq!(quarantine.enter(&1, 0), Admission::Full);
    }

    proptest! {
        /// Whatever happens: a quarantine begins only by a hang, by a trial, or after so many failures in
        /// a row, nobody comes back before its pause is over, and everybody comes back after it.
        #[test]
        fn qu_1_to_qu_3_hold_whatever_happens(
            events in proptest::collection::vec((0..4u8, 0..3u8, 0..40u64), 0..200),
        ) {
            let mut quarantine = quarantine();
            let mut now = 0;
            let (mut row, mut out, mut on_trial) = ([0; 3], [None; 3], [false; 3]);
            for (event, worker, wait) in events {
                now += wait;
                let at = usize::from(worker);
                let sentence = match event {
                    0 => {
                        let was_on_trial = on_trial[at] && out[at].is_none();
                        prop_assert_eq!(succeeds(&mut quarantine, worker, now), was_on_trial);
                        if out[at].is_none() {
                            (row[at], on_trial[at]) = (0, false);
                        }
                        None
                    }
                    1 => {
                        row[at] += 1;
                        fails(&mut quarantine, worker, now)
                    }
                    2 => {
                        row[at] = 3;
                        quarantine.hung(&worker, now)
                    }
                    _ => {
                        match quarantine.enter(&worker, now) {
                            Admission::Later { until_ms } => prop_assert!(now < until_ms),
                            Admission::Trial => {
                                prop_assert!(on_trial[at] || out[at].is_some_and(|until| now >= until));
                                (row[at], out[at], on_trial[at]) = (0, None, true);
                            }
                            Admission::Full => prop_assert!(out[at].is_none() && !on_trial[at]),
                        }
                        None
                    }
                };
                if let Some(sentence) = sentence {
                    prop_assert!(out[at].is_none(), "it was out");
                    prop_assert!(row[at] >= 3 || on_trial[at]);
                    prop_assert!((10..=60).contains(&sentence.pause_ms));
                    out[at] = Some(now + sentence.pause_ms);
                    on_trial[at] = false;
                }
            }
            for worker in 0..3 {
                let admission = quarantine.enter(&worker, now + 60);
                let is_later = matches!(admission, Admission::Later { .. });
                prop_assert!(!is_later);
            }
        }
    }
}
