//! Progress of a whole run and the time that it still takes: pure, with the time as an argument.
//!
//! - **WR-1 (known paces only).** There is an estimate once the pace of every kind of work that is
//!   still to come is known from work of that kind in this process.

use super::pace::Pace;
use control::phases::Phase;
use std::collections::BTreeMap;
use std::time::Duration;

/// Work whose units take about as long as each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Dialogues that are imitated.
    Dialogue,
    /// Items that are rolled out.
    Item,
    /// Steps of reinforcement learning.
    PolicyStep,
}

/// One piece of a run, such as the training of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name; each once.
    pub name: String,
    /// The phase it belongs to.
    pub phase: Phase,
    /// Its kind of work.
    pub kind: Kind,
    /// Units that progress is counted in.
    pub units: u64,
    /// Units of `kind` in each of these.
    pub per_unit: u64,
}

/// The pieces of a run in their order, and how long each kind of work took.
#[derive(Debug, Clone, Default)]
pub struct WholeRun {
    phases: Vec<Phase>,
    pieces: Vec<Piece>,
    /// Units and seconds, of pieces that are over.
    took: BTreeMap<Kind, (f64, f64)>,
    now: Option<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    index: usize,
    began: Duration,
    pace: Pace,
}

impl WholeRun {
    /// A run of these phases and pieces, each in order.
    pub fn new(phases: Vec<Phase>, pieces: Vec<Piece>) -> Self {
        Self {
            phases,
            pieces,
            took: BTreeMap::new(),
            now: None,
        }
    }

    /// The piece of this name begins at `now`; all before it are over. A name that the run does not
    /// know leaves everything as it is.
    pub fn begin(&mut self, name: &str, pace: Pace, now: Duration) {
        self.end(now);
        let index = self.pieces.iter().position(|piece| piece.name == name);
        self.now = index.map(|index| Current {
            index,
            began: now,
            pace,
        });
    }

    /// The piece under way has finished `done` units at `now`.
    pub fn observe(&mut self, done: u64, now: Duration) {
        if let Some(current) = &mut self.now {
            let since = now.saturating_sub(current.began);
            current.pace.observe(done, since);
        }
    }

    /// The piece under way is over at `now`.
    pub fn end(&mut self, now: Duration) {
        if let Some(current) = self.now.take() {
            let piece = &self.pieces[current.index];
            let units = current.pace.made() * piece.per_unit;
            let seconds = now.saturating_sub(current.began).as_secs_f64();
            let (all_units, all_seconds) = self.took.entry(piece.kind).or_default();
            *all_units += units as f64;
            *all_seconds += seconds;
        }
    }

    /// One line: phases done, the phase and piece under way, and the time left once it is known.
    /// `None` between pieces.
    pub fn line(&self, now: Duration) -> Option<String> {
        let current = self.now.as_ref()?;
        let piece = &self.pieces[current.index];
        let done = self
            .phases
            .iter()
            .take_while(|p| **p != piece.phase)
            .count();
        let mut same = self.pieces.iter().filter(|p| p.phase == piece.phase);
        let pieces = same.clone().count();
        let phase = piece.phase.name().replace('_', " ");
        let place = match pieces {
            1 => String::new(),
            _ => {
                let number = 1 + same.position(|p| p.name == piece.name).unwrap_or(0);
                format!(" ({}, {number} of {pieces})", piece.name)
            }
        };
        let left = match self.left(now) {
            Some(left) => format!("about {} left of the run", super::rounded(left)),
            None => "time left of the run not known yet".to_owned(),
        };
        let all = self.phases.len();
        Some(format!(
            "Run: {done} of {all} phases done, now {phase}{place}; {left}"
        ))
    }

    /// The time left of the whole run (WR-1).
    fn left(&self, now: Duration) -> Option<Duration> {
        let current = self.now.as_ref()?;
        let since = now.saturating_sub(current.began);
        let of_piece = current.pace.left(since)?;
        let later = self.pieces[current.index + 1..].iter().map(|piece| {
            let seconds = self.seconds_per_unit(piece.kind, since)?;
            Some(seconds * (piece.units * piece.per_unit) as f64)
        });
        let later: f64 = later.sum::<Option<f64>>()?;
        Some(of_piece + Duration::try_from_secs_f64(later).ok()?)
    }

    /// From all work of a kind, that of the piece under way included.
    fn seconds_per_unit(&self, kind: Kind, since: Duration) -> Option<f64> {
        let (mut units, mut seconds) = self.took.get(&kind).copied().unwrap_or_default();
        if let Some(current) = &self.now {
            let piece = &self.pieces[current.index];
            if piece.kind == kind {
                units += (current.pace.made() * piece.per_unit) as f64;
                seconds += since.as_secs_f64();
            }
        }
        (units > 0.0).then(|| seconds / units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn piece(name: &str, phase: Phase, kind: Kind, units: u64, per_unit: u64) -> Piece {
        Piece {
            name: name.into(),
            phase,
            kind,
            units,
            per_unit,
        }
    }

    fn run() -> WholeRun {
        use Phase::{Evaluate, Filter, Generate, Report, Train, WarmStart};
        WholeRun::new(
            vec![WarmStart, Generate, Filter, Train, Evaluate, Report],
            vec![
                piece("warm_start", WarmStart, Kind::Dialogue, 30, 8),
                piece("trajectories", Generate, Kind::Item, 200, 1),
                piece("imitation", Train, Kind::Dialogue, 20, 4),
                piece("swirl-seed1", Train, Kind::PolicyStep, 10, 1),
                piece("swirl-seed2", Train, Kind::PolicyStep, 10, 1),
                piece("base on a", Evaluate, Kind::Item, 100, 1),
                piece("swirl-seed1 on a", Evaluate, Kind::Item, 100, 1),
            ],
        )
    }

    /// Makes a piece from its first unit to its last, `seconds` for each unit; returns its end.
    fn make(run: &mut WholeRun, name: &str, units: u64, seconds: u64, begin: u64) -> u64 {
        run.begin(name, Pace::new(units, 0, 1), at(begin));
        for unit in 1..=units {
            run.observe(unit, at(begin + unit * seconds));
        }
        let end = begin + units * seconds;
        run.end(at(end));
        end
    }

    #[test]
    fn wr_1_the_whole_run_is_estimated_once_every_kind_of_work_is_known() {
        let mut run = run();
        assert_eq!(run.line(at(0)), None);
        let now = make(&mut run, "warm_start", 30, 8, 0);
        let now = make(&mut run, "trajectories", 200, 2, now);
        assert_eq!(run.line(at(now)), None, "between pieces");
        let now = make(&mut run, "imitation", 20, 4, now);
        run.begin("swirl-seed1", Pace::new(10, 0, 1), at(now));
        for unit in 1..=2 {
            run.observe(unit, at(now + 30 * unit));
        }
        assert_eq!(
            run.line(at(now + 60)).unwrap(),
            "Run: 3 of 6 phases done, now train (swirl-seed1, 2 of 3); time left of the run not \
             known yet"
        );
        run.observe(3, at(now + 90));
        // 7 steps and another seed's 10, 30 s each; 200 items, 2 s each: 910 s.
        assert_eq!(
            run.line(at(now + 90)).unwrap(),
            "Run: 3 of 6 phases done, now train (swirl-seed1, 2 of 3); about 15 min left of the run"
        );
    }

    #[test]
    fn a_resumed_run_knows_what_it_did_itself() {
        let mut run = run();
        // Everything before was done by an earlier process.
        run.begin("swirl-seed2", Pace::new(10, 5, 1), at(0));
        for unit in 1..=5 {
            run.observe(5 + unit, at(20 * unit));
        }
        let line = run.line(at(100)).unwrap();
        assert!(line.ends_with("not known yet"), "{line}");
        run.begin("base on a", Pace::new(100, 60, 1), at(100));
        for unit in 1..=20 {
            run.observe(60 + unit, at(100 + unit));
        }
        assert_eq!(
            run.line(at(120)).unwrap(),
            "Run: 4 of 6 phases done, now evaluate (base on a, 1 of 2); about 2 min left of the run"
        );
    }

    #[test]
    fn work_that_is_no_part_of_the_run_changes_nothing() {
        let mut run = run();
        run.begin("something else", Pace::new(1, 0, 1), at(0));
        run.observe(1, at(5));
        assert_eq!(run.line(at(5)), None);
        assert_eq!(WholeRun::default().line(at(0)), None);
    }
}
