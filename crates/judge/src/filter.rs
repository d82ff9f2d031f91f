//! Which trajectories are trained on, how many that leaves, and equal-n subsampling.
//!
//! - **FI-1 (unjudged is not good).** A trajectory that lacks a verdict its filter needs is not
//!   kept, and is counted as unjudged, so that a judge's failure shows in the report (PITFALLS 14).
//! - **FI-2 (order does not matter).** [`subsample`] depends on the set of items, on `n` and on the
//!   seed, never on the order in which trajectories were finished or read.

use proto::{ItemId, Label, Trajectory};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Which trajectories to keep (arXiv 2504.04736, section on filtering).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// All of them.
    None,
    /// Those whose every step the process judge called GOOD.
    #[default]
    Process,
    /// Those whose answer the outcome judge called GOOD.
    Outcome,
    /// Those that both keep.
    ProcessAndOutcome,
}

impl Filter {
    /// Every filter, in the order of reports.
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::Process,
        Self::Outcome,
        Self::ProcessAndOutcome,
    ];

    /// The filter's name in configuration and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Outcome => "outcome",
            Self::ProcessAndOutcome => "process_and_outcome",
        }
    }

    fn needs_process(self) -> bool {
        matches!(self, Self::Process | Self::ProcessAndOutcome)
    }

    fn needs_outcome(self) -> bool {
        matches!(self, Self::Outcome | Self::ProcessAndOutcome)
    }
}

/// Whether `filter` keeps the trajectory, by the step verdicts of the process judge named `judge`
/// and the outcome verdict. A trajectory without a step has nothing good in it: only
/// [`Filter::None`] keeps it.
pub fn keep(trajectory: &Trajectory, judge: &str, filter: Filter) -> bool {
    let process = || !trajectory.steps.is_empty() && labels(trajectory, judge).all(is_good);
    let outcome = || is_good(trajectory.outcome.as_ref().map(|v| v.label));
    (!filter.needs_process() || process()) && (!filter.needs_outcome() || outcome())
}

/// Whether every verdict that `filter` asks for is there.
pub fn is_judged(trajectory: &Trajectory, judge: &str, filter: Filter) -> bool {
    let process = || labels(trajectory, judge).all(|label| label.is_some());
    (!filter.needs_process() || process())
        && (!filter.needs_outcome() || trajectory.outcome.is_some())
}

/// Which states of a kept trajectory are trained on. A state is everything before a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateFilter {
    /// All of them, as in the paper.
    #[default]
    All,
    /// Those with nothing but GOOD steps before them. A weak model goes astray early, and from
    /// there hardly an action is GOOD: all actions of such a state are rewarded alike, and teach
    /// nothing.
    OnTrack,
}

impl StateFilter {
    /// Both, in the order of reports.
    pub const ALL: [Self; 2] = [Self::All, Self::OnTrack];

    /// The filter's name in configuration and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnTrack => "on_track",
        }
    }

    /// How many of the trajectory's states it keeps: the first so many. A step without a verdict of
    /// the process judge named `judge` is not good (FI-1).
    pub fn states(self, trajectory: &Trajectory, judge: &str) -> usize {
        let steps = trajectory.steps.len();
        match self {
            Self::All => steps,
            Self::OnTrack => {
                let good = labels(trajectory, judge).take_while(|label| is_good(*label));
                steps.min(good.count() + 1)
            }
        }
    }
}

fn labels(trajectory: &Trajectory, judge: &str) -> impl Iterator<Item = Option<Label>> {
    trajectory.steps.iter().map(move |step| {
        step.verdicts
            .iter()
            .find(|verdict| verdict.judge == judge)
            .map(|verdict| verdict.label)
    })
}

fn is_good(label: Option<Label>) -> bool {
    label == Some(Label::Good)
}

/// What a filter leaves of a set of trajectories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// How many there were.
    pub trajectories: u64,
    /// How many were kept.
    pub kept: u64,
    /// How many were not kept because a verdict is missing; 0 in a healthy run.
    pub unjudged: u64,
    /// Steps of all trajectories: states to train on without a filter.
    pub steps: u64,
    /// Steps of the kept trajectories: states to train on.
    pub steps_kept: u64,
}

impl Yield {
    /// Counts one trajectory.
    pub fn add(&mut self, trajectory: &Trajectory, judge: &str, filter: Filter) {
        let steps = trajectory.steps.len() as u64;
        self.trajectories += 1;
        self.steps += steps;
        if !is_judged(trajectory, judge, filter) {
            self.unjudged += 1;
        } else if keep(trajectory, judge, filter) {
            self.kept += 1;
            self.steps_kept += steps;
        }
    }

    /// Share of the trajectories that were kept, in [0, 1]; `None` where there were none.
    pub fn kept_share(&self) -> Option<f64> {
        (self.trajectories > 0).then(|| self.kept as f64 / self.trajectories as f64)
    }
}

/// What `filter` leaves of `trajectories`.
pub fn yields<'a>(
    trajectories: impl IntoIterator<Item = &'a Trajectory>,
    judge: &str,
    filter: Filter,
) -> Yield {
    let mut total = Yield::default();
    for trajectory in trajectories {
        total.add(trajectory, judge, filter);
    }
    total
}

/// There are fewer trajectories than the comparison asks for: lower `n` or generate more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} trajectories are asked for and only {available} are left: lower the number or \
     generate more"
)]
pub struct TooFew {
    /// How many were asked for.
    pub wanted: usize,
    /// How many there are.
    pub available: usize,
}

/// Draws `n` of `items` without replacement, so that filters can be compared at equal size. The
/// result is sorted by item id (FI-2); item ids are unique within a run, and must be so here.
///
/// # Errors
/// When there are fewer than `n`: a smaller sample would break the comparison silently.
pub fn subsample<T>(
    mut items: Vec<T>,
    id: impl Fn(&T) -> &ItemId,
    n: usize,
    seed: u64,
) -> Result<Vec<T>, TooFew> {
    if items.len() < n {
        return Err(TooFew {
            wanted: n,
            available: items.len(),
        });
    }
    items.sort_by(|a, b| id(a).cmp(id(b)));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = vec![false; items.len()];
    for index in rand::seq::index::sample(&mut rng, items.len(), n) {
        chosen[index] = true;
    }
    let mut chosen = chosen.into_iter();
    items.retain(|_| chosen.next().expect("one flag for each item"));
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{answer, call, question, trajectory, verdict};
    use Label::{Bad, Good};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A trajectory with these process labels by the judge `j` and this outcome.
    fn judged(steps: &[Option<Label>], outcome: Option<Label>) -> Trajectory {
        let views = steps.iter().map(|_| call("1+1", "2")).collect();
        let mut trajectory = trajectory(question("q", "2"), views);
        for (step, label) in trajectory.steps.iter_mut().zip(steps) {
            step.verdicts.extend(label.map(|label| verdict("j", label)));
            step.verdicts.push(verdict("other", Bad));
        }
        trajectory.outcome = outcome.map(|label| verdict("answer_match", label));
        trajectory
    }

    #[test]
    fn filters_keep_what_the_paper_says() {
        // steps, outcome, kept by [none, process, outcome, both], judged for the same four
        type Row = (&'static [Option<Label>], Option<Label>, [u8; 4], [u8; 4]);
        let (g, b) = (Some(Good), Some(Bad));
        let all_good: &[_] = &[Some(Good), Some(Good)];
        let one_bad: &[_] = &[Some(Good), Some(Bad)];
        let one_missing: &[_] = &[Some(Good), None];
        let rows: [Row; 8] = [
            (all_good, g, [1, 1, 1, 1], [1, 1, 1, 1]),
            (all_good, b, [1, 1, 0, 0], [1, 1, 1, 1]),
            (all_good, None, [1, 1, 0, 0], [1, 1, 0, 0]),
            (one_bad, g, [1, 0, 1, 0], [1, 1, 1, 1]),
            (one_bad, b, [1, 0, 0, 0], [1, 1, 1, 1]),
            (one_missing, g, [1, 0, 1, 0], [1, 0, 1, 0]),
            (one_missing, None, [1, 0, 0, 0], [1, 0, 0, 0]),
            (&[], g, [1, 0, 1, 0], [1, 1, 1, 1]),
        ];
        for (steps, outcome, kept, ready) in rows {
            let trajectory = judged(steps, outcome);
            let is = |test: fn(&Trajectory, &str, Filter) -> bool| {
                Filter::ALL.map(|filter| u8::from(test(&trajectory, "j", filter)))
            };
            assert_eq!(is(keep), kept, "keep {steps:?} {outcome:?}");
            assert_eq!(is(is_judged), ready, "is_judged {steps:?} {outcome:?}");
        }
    }

    #[test]
    fn states_on_track_end_with_the_first_step_that_is_not_good() {
        let (g, b) = (Some(Good), Some(Bad));
        let rows: [(&[Option<Label>], [usize; 2]); 6] = [
            (&[g, g, g], [3, 3]),
            (&[g, b, g], [3, 2]),
            (&[b, g], [2, 1]),
            (&[g, None, g], [3, 2]),
            (&[b], [1, 1]),
            (&[], [0, 0]),
        ];
        for (steps, kept) in rows {
            let trajectory = judged(steps, None);
            let found = StateFilter::ALL.map(|filter| filter.states(&trajectory, "j"));
            assert_eq!(found, kept, "{steps:?}");
        }
    }

    #[test]
    fn another_judges_verdicts_do_not_count() {
        let trajectory = judged(&[Some(Good)], None);
        assert!(keep(&trajectory, "j", Filter::Process));
        assert!(!keep(&trajectory, "other", Filter::Process));
        assert!(!is_judged(&trajectory, "absent", Filter::Process));
    }

    #[test]
    fn yields_count_trajectories_and_steps() {
        let set = [
            judged(&[Some(Good), Some(Good)], Some(Bad)),
            judged(&[Some(Good), Some(Bad), Some(Good)], Some(Good)),
            judged(&[None], Some(Good)),
        ];
        let found = yields(&set, "j", Filter::Process);
        let wanted = Yield {
            trajectories: 3,
            kept: 1,
            unjudged: 1,
            steps: 6,
            steps_kept: 2,
        };
        assert_eq!(found, wanted);
        assert_eq!(yields(&set, "j", Filter::None).steps_kept, 6);
        assert_eq!(yields(&[], "j", Filter::None).kept_share(), None);
    }

    #[test]
    fn names_are_what_serde_writes() {
        for filter in Filter::ALL {
            let json = serde_json::to_string(&filter).unwrap();
            assert_eq!(json, format!("\"{}\"", filter.name()));
        }
    }

    #[test]
    fn an_equal_n_comparison_is_never_silently_smaller() {
        let ids = items(3);
        assert_eq!(
            subsample(ids, |i| i, 4, 0),
            Err(TooFew {
                wanted: 4,
                available: 3
            })
        );
    }

    #[test]
    fn seeds_differ() {
        let draw = |seed| subsample(items(100), |i| i, 10, seed).unwrap();
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn each_item_is_drawn_about_equally_often() {
        // 2,000 seeds, 3 of 6: each item is expected 1,000 times, standard deviation 22.4.
        let mut counts = [0_u32; 6];
        for seed in 0..2000 {
            for item in subsample(items(6), |i| i, 3, seed).unwrap() {
                counts[item.sample as usize] += 1;
            }
        }
        assert!(
            counts.iter().all(|&c| (888..=1112).contains(&c)),
            "{counts:?}"
        );
    }

    fn items(n: u32) -> Vec<ItemId> {
        (0..n)
            .map(|sample| ItemId {
                question: "q".into(),
                sample,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn fi_2_a_subsample_is_n_distinct_items_whatever_the_order(
            (ids, shuffled) in proptest::collection::btree_set((0_u8..20, 0_u32..10), 0..60)
                .prop_flat_map(|set| {
                    let ids: Vec<ItemId> = set
                        .into_iter()
                        .map(|(q, sample)| ItemId { question: format!("q{q}").as_str().into(), sample })
                        .collect();
                    (Just(ids.clone()), Just(ids).prop_shuffle())
                }),
            share in 0.0_f64..=1.0,
            seed in any::<u64>(),
        ) {
            let n = (ids.len() as f64 * share) as usize;
            let drawn = subsample(shuffled, |i| i, n, seed).unwrap();
            prop_assert_eq!(&drawn, &subsample(ids.clone(), |i| i, n, seed).unwrap());
            prop_assert_eq!(drawn.len(), n);
            prop_assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
            let all: BTreeSet<_> = ids.into_iter().collect();
            prop_assert!(drawn.iter().all(|item| all.contains(item)));
        }

        #[test]
        fn both_is_the_intersection_and_every_filter_keeps_a_subset(
            steps in proptest::collection::vec(prop_oneof![Just(None), Just(Some(Good)), Just(Some(Bad))], 0..5),
            outcome in prop_oneof![Just(None), Just(Some(Good)), Just(Some(Bad))],
        ) {
            let trajectory = judged(&steps, outcome);
            let is = |filter| keep(&trajectory, "j", filter);
            prop_assert!(is(Filter::None));
            prop_assert_eq!(
                is(Filter::ProcessAndOutcome),
                is(Filter::Process) && is(Filter::Outcome)
            );
            for filter in Filter::ALL {
                prop_assert!(!is(filter) || is_judged(&trajectory, "j", filter) || steps.is_empty());
            }
        }
    }

    #[test]
    fn an_answer_step_counts_like_any_other() {
        let mut trajectory = trajectory(question("q", "2"), vec![call("1+1", "2"), answer("2")]);
        trajectory.steps[0].verdicts.push(verdict("j", Good));
        assert!(!keep(&trajectory, "j", Filter::Process));
        trajectory.steps[1].verdicts.push(verdict("j", Good));
        assert!(keep(&trajectory, "j", Filter::Process));
    }
}
