//! Which states a batch is made of.
//!
//! States fall into strata (one, without a balance). Strata take turns, and each deals its own
//! entries out in an order of its own, so that a rare kind of state is drawn as often as a common
//! one. Further draws for a place turn to the next stratum of the same family: questions whose
//! solutions have as many steps. So positions that teach nothing (the answer behind all calls) make
//! room for those that do, and short questions none for themselves. The states of a batch depend on
//! the seed and the batch's number alone (TL-1).

use super::TrainingError;
use super::batches::Batches;
use super::policy::{PolicyPlan, State, StateWeighting};
use crate::seeds;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// Which kinds of states are drawn equally often. Without a balance, questions that are easy to
/// solve fill the batches: more of their states are on track, and what is learned of them (answer
/// behind the first call) is wrong everywhere else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateBalance {
    /// None: as often as there are.
    #[default]
    Off,
    /// By the number of steps of the question's annotated solution; questions without one are a
    /// kind of their own.
    SolutionSteps,
    /// By the number of steps before the state; needs no annotation.
    Position,
    /// By both.
    SolutionStepsAndPosition,
}

impl StateBalance {
    /// The stratum of a state.
    fn stratum(self, state: &State) -> (usize, usize) {
        let solution = state.trajectory.question.reference_steps.len();
        match self {
            Self::Off => (0, 0),
            Self::SolutionSteps => (solution, 0),
            Self::Position => (0, state.step),
            Self::SolutionStepsAndPosition => (solution, state.step),
        }
    }

    /// The family of a stratum, within which further draws stay.
    fn family(self, stratum: (usize, usize)) -> (usize, usize) {
        match self {
            Self::SolutionStepsAndPosition => (stratum.0, 0),
            Self::Off | Self::SolutionSteps | Self::Position => stratum,
        }
    }
}

/// Chooses the states of a batch (TL-1).
pub(super) struct Picker<'a> {
    strata: Vec<Stratum<'a>>,
    plan: &'a PolicyPlan,
}

/// States of one kind.
struct Stratum<'a> {
    /// Of each group one state is drawn at a time.
    groups: Vec<Vec<&'a State>>,
    batches: Batches,
    /// The strata of its family, itself among them.
    family: Range<usize>,
}

impl<'a> Picker<'a> {
    pub(super) fn new(plan: &'a PolicyPlan) -> Result<Self, TrainingError> {
        let mut groups: BTreeMap<_, Vec<Vec<&State>>> = BTreeMap::new();
        for trajectory in &plan.states {
            for (stratum, states) in by_stratum(trajectory, plan.balance) {
                let groups = groups.entry(stratum).or_default();
                match plan.weighting {
                    StateWeighting::PerTrajectory => groups.push(states),
                    StateWeighting::PerState => groups.extend(states.into_iter().map(|s| vec![s])),
                }
            }
        }
        if groups.is_empty() {
            return Err(TrainingError::Empty(
                "no trajectory passed the filter: generate more, or choose another filter",
            ));
        }
        let families: Vec<_> = groups.keys().map(|&s| plan.balance.family(s)).collect();
        // Strata are in the order of their families.
        let family = |index: usize| {
            let first = families.partition_point(|family| *family < families[index]);
            first..families.partition_point(|family| *family <= families[index])
        };
        let strata = groups.into_values().enumerate().map(|(index, groups)| {
            let seed = match index {
                0 => seeds::derive(plan.seed, &["states"]),
                _ => seeds::derive(plan.seed, &["states", &index.to_string()]),
            };
            let batches = Batches::new(seed, groups.len());
            Stratum {
                groups,
                batches,
                family: family(index),
            }
        });
        Ok(Self {
            strata: strata.collect(),
            plan,
        })
    }

    /// The state at a place of a batch in its nth draw. Later draws give other states of the same
    /// family, so that questions of every length stay balanced.
    pub(super) fn at(&mut self, batch: u64, place: usize, draw: u32) -> &'a State {
        let (size, place) = (self.plan.states_per_step as u64, place as u64);
        let (turn, count) = (batch * size + place, self.strata.len() as u64);
        let first = (turn % count) as usize;
        let family = &self.strata[first].family;
        let next = family.start + (first - family.start + draw as usize) % family.len();
        let stratum = &mut self.strata[next];
        let turns = turn / count + u64::from(draw) * REDRAW;
        let group = &stratum.groups[stratum.batches.at(turns)];
        let parts = ["state", &numbered(batch, draw), &place.to_string()];
        let choice = seeds::derive(self.plan.seed, &parts);
        group[(choice % group.len() as u64) as usize]
    }
}

/// Entries that further draws take lie behind those of all batches.
const REDRAW: u64 = 1 << 40;

/// Name of a batch's draw, for seeds.
pub(super) fn numbered(batch: u64, draw: u32) -> String {
    (batch + u64::from(draw) * REDRAW).to_string()
}

/// The states of a trajectory, by stratum.
fn by_stratum(states: &[State], balance: StateBalance) -> BTreeMap<(usize, usize), Vec<&State>> {
    let mut strata: BTreeMap<_, Vec<&State>> = BTreeMap::new();
    for state in states {
        let stratum = strata.entry(balance.stratum(state)).or_default();
        stratum.push(state);
    }
    strata
}

#[cfg(test)]
pub(super) mod tests;
