//! Learners that are half there, and nothing else that goes wrong.

use sim::{Ailment, Outcome, Scenario, run};
use std::time::Duration;

/// With this ailment; with shares of the optimizer's state or without.
fn simulate(seed: u64, ailment: Ailment, keep_shares: bool) -> Outcome {
    let scenario = Scenario {
        keep_shares,
        ..Scenario::of(seed).grey(ailment)
    };
    let outcome = run(scenario);
    let tail = outcome.log.len().saturating_sub(40);
    assert!(
        outcome.breaks.is_empty(),
        "seed {seed}, {ailment:?}, shares {keep_shares}: {:#?}\nthe last lines:\n{}",
        outcome.breaks,
        outcome.log[tail..].join("\n"),
    );
    outcome
}

fn some(ailment: Ailment) {
    let mut faults = 0;
    for seed in 0..6 {
        for keep_shares in [false, true] {
            let outcome = simulate(seed, ailment, keep_shares);
            faults += outcome.faults.values().sum::<u64>();
        }
    }
    assert!(faults > 6, "{faults}");
}

#[test]
fn a_learner_that_hangs_costs_one_limit() {
    some(Ailment::Hangs);
}

#[test]
fn a_process_that_hangs_is_ended_and_started_again() {
    some(Ailment::HangsForGood);
    let outcome = simulate(3, Ailment::HangsForGood, false);
    let is_told = |line: &&String| line.contains("did not answer");
    assert!(outcome.log.iter().any(|line| is_told(&line)));
}

#[test]
fn a_learner_that_cannot_be_dialled_is_left_out() {
    some(Ailment::Deaf);
}

#[test]
fn a_learner_that_is_cut_off_from_others_is_left_out() {
    some(Ailment::CutOff);
}

#[test]
fn a_way_that_does_not_work_is_avoided() {
    some(Ailment::OneWay);
}

#[test]
fn a_group_that_stalls_goes_on() {
    some(Ailment::Stalls);
}

#[test]
fn a_learner_that_is_slow_is_not_waited_for() {
    some(Ailment::Slow);
}

/// A hung learner takes half a minute of each run, and not an hour of each step.
#[test]
fn no_step_takes_an_hour() {
    let outcome = simulate(1, Ailment::Hangs, false);
    assert!(outcome.longest_step > Duration::from_secs(30), "none hung");
    assert!(outcome.longest_step < Duration::from_secs(600));
}
