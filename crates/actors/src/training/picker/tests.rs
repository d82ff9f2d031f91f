use super::*;
use crate::training::states_of;
use proto::{
    Action, FinishReason, ItemId, Question, ReferenceStep, SamplingParams, Span, Step, Trajectory,
    TrajectoryEnd, WeightVersion,
};
use tools::parser::ActionTags;

/// A trajectory of `steps` steps, of a question whose solution has `solution` steps.
fn trajectory(name: usize, solution: usize, steps: usize) -> Trajectory {
    let reference = ReferenceStep {
        thought: String::new(),
        tool: "calculator".into(),
        arguments: "1+1".into(),
        result: "2".into(),
    };
    let step = Step {
        sampled: Span { start: 1, end: 1 },
        logprobs: Vec::new(),
        weight_version: WeightVersion(0),
        finish: FinishReason::EndOfTurn,
        text: String::new(),
        thought: String::new(),
        action: Action::Answer("2".into()),
        observation: None,
        verdicts: Vec::new(),
    };
    let question = format!("q{name}");
    Trajectory {
        run: "run".into(),
        item: ItemId {
            question: question.as_str().into(),
            sample: 0,
        },
        question: Question {
            id: question.as_str().into(),
            dataset: "d".into(),
            split: "s".into(),
            question,
            answer: "2".into(),
            answer_aliases: Vec::new(),
            reference_steps: vec![reference; solution],
        },
        model: "m".into(),
        tokens: vec![1],
        steps: vec![step; steps],
        end: TrajectoryEnd::Answered,
        outcome: None,
    }
}

pub(in crate::training) fn plan(
    trajectories: &[(usize, usize)],
    balance: StateBalance,
) -> PolicyPlan {
    let trajectories = trajectories.iter().enumerate();
    PolicyPlan {
        states: states_of(
            trajectories.map(|(i, &(solution, steps))| trajectory(i, solution, steps)),
        ),
        weighting: StateWeighting::PerTrajectory,
        balance,
        steps: 60,
        updates_per_batch: 1,
        states_per_step: 4,
        actions_per_state: 1,
        refill: 0,
        params: SamplingParams::greedy(1, Vec::new()),
        tags: ActionTags::new([]),
        seed: 3,
        checkpoint_every: 0,
        max_logprob_difference: 1.0,
        max_unjudged_share: 0.0,
        unjudged_before: 0,
    }
}

/// The states of a batch's first draw.
fn of_batch<'a>(picker: &mut Picker<'a>, batch: u64) -> Vec<&'a State> {
    let places = 0..picker.plan.states_per_step;
    places.map(|place| picker.at(batch, place, 0)).collect()
}

fn kind(state: &State) -> (usize, usize) {
    (state.trajectory.question.reference_steps.len(), state.step)
}

/// Number of draws of each kind in 60 batches of 4 states.
fn drawn(plan: &PolicyPlan) -> BTreeMap<(usize, usize), usize> {
    let mut picker = Picker::new(plan).expect("there are states");
    let mut counts = BTreeMap::new();
    for state in (0..60).flat_map(|batch| of_batch(&mut picker, batch)) {
        *counts.entry(kind(state)).or_default() += 1;
    }
    counts
}

/// Nine easy trajectories of one call and an answer, and one hard one of three steps.
fn mostly_easy() -> Vec<(usize, usize)> {
    let mut trajectories = vec![(1, 2); 9];
    trajectories.push((2, 3));
    trajectories
}

#[test]
fn without_a_balance_what_is_common_fills_the_batches() {
    let counts = drawn(&plan(&mostly_easy(), StateBalance::Off));
    let easy: usize = counts
        .iter()
        .filter(|(kind, _)| kind.0 == 1)
        .map(|(_, n)| n)
        .sum();
    assert_eq!(easy, 216, "nine of ten");
}

#[test]
fn every_kind_is_drawn_equally_often() {
    use StateBalance::{Position, SolutionSteps, SolutionStepsAndPosition};
    type Kind = fn((usize, usize)) -> (usize, usize);
    let cases: [(StateBalance, Kind, usize); 3] = [
        (SolutionSteps, |(solution, _)| (solution, 0), 120),
        (Position, |(_, position)| (0, position), 80),
        (SolutionStepsAndPosition, |kind| kind, 48),
    ];
    for (balance, kind, each) in cases {
        let mut by_kind: BTreeMap<_, usize> = BTreeMap::new();
        for (state, count) in drawn(&plan(&mostly_easy(), balance)) {
            *by_kind.entry(kind(state)).or_default() += count;
        }
        assert!(
            by_kind.values().all(|count| *count == each),
            "{balance:?}: {by_kind:?}"
        );
    }
}

#[test]
fn tl_1_a_batch_does_not_depend_on_the_batches_before() {
    for balance in [StateBalance::Off, StateBalance::SolutionStepsAndPosition] {
        let plan = plan(&mostly_easy(), balance);
        let names = |states: Vec<&State>| -> Vec<String> {
            let name = |s: &State| format!("{} {}", s.trajectory.item, s.step);
            states.into_iter().map(name).collect()
        };
        let mut all = Picker::new(&plan).expect("there are states");
        let batches: Vec<_> = (0..20)
            .map(|batch| names(of_batch(&mut all, batch)))
            .collect();
        for first in [1, 7, 19] {
            let mut resumed = Picker::new(&plan).expect("there are states");
            assert_eq!(
                names(of_batch(&mut resumed, first)),
                batches[first as usize]
            );
        }
    }
}

#[test]
fn further_draws_turn_to_other_positions_of_questions_as_long() {
    let mut trajectories = mostly_easy();
    trajectories.push((2, 3));
    let plan = plan(&trajectories, StateBalance::SolutionStepsAndPosition);
    let mut picker = Picker::new(&plan).expect("there are states");
    for (batch, place) in (0..20).flat_map(|batch| (0..4).map(move |place| (batch, place))) {
        let (solution, position) = kind(picker.at(batch, place, 0));
        let positions = solution + 1;
        for draw in 1..6 {
            let turned = (position + draw) % positions;
            let drawn = picker.at(batch, place, draw as u32);
            assert_eq!(kind(drawn), (solution, turned));
        }
    }
}

#[test]
fn further_draws_stay_with_what_another_balance_balances() {
    use StateBalance::{Off, Position, SolutionSteps};
    type Kind = fn((usize, usize)) -> usize;
    let cases: [(StateBalance, Kind); 3] = [
        (Off, |_| 0),
        (SolutionSteps, |(solution, _)| solution),
        (Position, |(_, position)| position),
    ];
    for (balance, balanced) in cases {
        let mut trajectories = mostly_easy();
        trajectories.push((2, 3));
        let plan = plan(&trajectories, balance);
        let mut picker = Picker::new(&plan).expect("there are states");
        let mut others = 0;
        for (batch, place) in (0..20).flat_map(|batch| (0..4).map(move |place| (batch, place))) {
            let first = picker.at(batch, place, 0);
            for draw in 1..3 {
                let other = picker.at(batch, place, draw);
                assert_eq!(balanced(kind(other)), balanced(kind(first)), "{balance:?}");
                others += usize::from(other.trajectory.item != first.trajectory.item);
            }
        }
        assert!(others > 80, "{balance:?}: {others} of 160");
    }
}
