use sim::{Outcome, simulate};
use std::time::{SystemTime, UNIX_EPOCH};

/// Simulates a seed and says how to see it again.
fn check(seed: u64) -> Outcome {
    let outcome = simulate(seed);
    let tail = outcome.log.len().saturating_sub(30);
    assert!(
        outcome.breaks.is_empty(),
        "seed {seed} breaks {:#?}\nthe last lines of {}:\n{}\n\
         again: SWIRL_SIM_SEED={seed} cargo test -p sim, or cargo run -p sim -- --start {seed} \
         --seeds 1 --log",
        outcome.breaks,
        outcome.log.len(),
        outcome.log[tail..].join("\n"),
    );
    outcome
}

/// The seed that is asked for alone.
fn asked() -> Option<u64> {
    std::env::var("SWIRL_SIM_SEED")
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn all(seeds: impl Iterator<Item = u64>) {
    if asked().is_none() {
        seeds.for_each(|seed| {
            check(seed);
        });
    }
}

#[test]
fn the_seed_that_is_asked_for_keeps_the_invariants() {
    if let Some(seed) = asked() {
        check(seed);
    }
}

/// Weights and files take the way through nodes in some of them, and deltas are used.
#[test]
fn fixed_seeds_keep_the_invariants() {
    if asked().is_some() {
        return;
    }
    let outcomes: Vec<Outcome> = (0..20).map(check).collect();
    assert!(outcomes.iter().any(|outcome| outcome.given_on > 0));
    assert!(outcomes.iter().any(|outcome| outcome.saved > 0));
    assert!(outcomes.iter().any(|outcome| outcome.files_given_on > 0));
}

#[test]
fn seeds_that_broke_an_invariant_once_keep_them() {
    // A call that the controller gave up before it took the node for lost; a learner that was asked
    // while it was opened anew; a bulk lane that stayed open when the data lane could not be opened;
    // learners that came back with shares of what was lost, and some that were taken in as they closed.
    all([30304, 496, 1989, 2571, 56].into_iter());
}

#[test]
fn seeds_in_which_learners_that_are_half_there_broke_a_bound_once_keep_it() {
    // Processes that hung over their first learner, each for an hour: a step took hours, and others that
    // had recovered were let in late.
    all([40333, 60177, 60349, 80120, 80486].into_iter());
    // Several that fell ill within a step, one when the one before was found out.
    all([60450, 80119, 80415, 80538].into_iter());
}

#[test]
fn seeds_in_which_the_first_sampler_hung_before_a_pace_was_known_keep_the_bound() {
    // The others joined while it was at the first batch, and had nothing to do.
    all([501429, 502117].into_iter());
}

#[test]
fn more_fixed_seeds_keep_the_invariants() {
    all(20..40);
}

#[test]
fn new_seeds_keep_the_invariants() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let first = now.as_nanos() as u64 ^ u64::from(std::process::id());
    all((0..10).map(|i| first.wrapping_add(i)));
}

#[test]
fn si_9_the_same_seed_takes_the_same_course() {
    if asked().is_some() {
        return;
    }
    // Of the last two, learners meet that wait for the same, and the run ends while a sampler takes
    // weights: it shows who is woken first, and who is told first to end.
    for seed in [3, 7, 11, 18, 19] {
        assert_eq!(check(seed).hash, check(seed).hash, "seed {seed}");
    }
}
