use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn id(number: u64) -> ReplicaId {
    ReplicaId(number)
}

fn progress(epoch: u32, steps: u64) -> Progress {
    Progress { epoch, steps }
}

/// A machine whose replicas 0.. stand in a group of epoch 9 at step 5, and nothing is wanted.
fn standing(count: u64, most: usize) -> Replicas {
    let mut replicas = Replicas::new(most, 0);
    for number in 0..count {
        replicas.on(Event::Arrived(id(number)));
    }
    replicas.on(Event::Wanted(Task::Settle));
    for number in 0..count {
        replicas.on(Event::Counted(id(number), progress(1, 5)));
    }
    replicas.on(Event::Numbered(Ok(9)));
    let mut last = Vec::new();
    for number in 0..count.min(most as u64) {
        last = replicas.on(Event::Met(id(number), Ok(5)));
    }
    assert_eq!(last, [Effect::Finish(Outcome::Done(5))]);
    replicas
}

fn ids(numbers: &[u64]) -> Vec<ReplicaId> {
    numbers.iter().copied().map(ReplicaId).collect()
}

#[test]
fn rg_3_the_furthest_of_the_newest_group_leads() {
    let mut replicas = Replicas::new(3, 7);
    for number in 0..4 {
        replicas.on(Event::Arrived(id(number)));
    }
    let wanted = replicas.on(Event::Wanted(Task::Settle));
    assert_eq!(wanted, [Effect::Count(ids(&[0, 1, 2, 3]))]);
    replicas.on(Event::Counted(id(0), progress(6, 90)));
    replicas.on(Event::Counted(id(1), progress(7, 40)));
    replicas.on(Event::Counted(id(2), progress(7, 41)));
    let counted = replicas.on(Event::Counted(id(3), progress(7, 41)));
    assert_eq!(counted, [Effect::Form(ids(&[2, 3, 1]))], "three at most");
}

#[test]
fn rg_1_a_step_is_repeated_by_those_who_are_left() {
    let mut replicas = standing(3, 8);
    let step = [Effect::Ask(ids(&[0, 1, 2]))];
    assert_eq!(replicas.on(Event::Wanted(Task::Step)), step);
    replicas.on(Event::Answered(id(0), Answer::Apart("0 heard it".into())));
    let lost = replicas.on(Event::Lost(id(1)));
    assert_eq!(lost, [], "it is being counted already");
    replicas.on(Event::Counted(id(0), progress(9, 5)));
    let counted = replicas.on(Event::Counted(id(2), progress(9, 5)));
    assert_eq!(counted, [Effect::Form(ids(&[0, 2]))]);
    replicas.on(Event::Numbered(Ok(10)));
    replicas.on(Event::Met(id(2), Ok(5)));
    let met = replicas.on(Event::Met(id(0), Ok(5)));
    assert_eq!(met, [Effect::Ask(ids(&[0, 2]))]);
    replicas.on(Event::Answered(id(2), Answer::Done));
    let done = replicas.on(Event::Answered(id(0), Answer::Done));
    assert_eq!(done, [Effect::Finish(Outcome::Done(6))]);
}

#[test]
fn rg_1_a_step_that_one_had_made_is_taken_over() {
    let mut replicas = standing(3, 8);
    replicas.on(Event::Wanted(Task::Step));
    replicas.on(Event::Answered(id(2), Answer::Done));
    let lost = replicas.on(Event::Lost(id(0)));
    let expected = [Effect::Abandon(ids(&[1, 2])), Effect::Count(ids(&[1, 2]))];
    assert_eq!(lost, expected, "RG-2");
    replicas.on(Event::Counted(id(1), progress(9, 5)));
    let counted = replicas.on(Event::Counted(id(2), progress(9, 6)));
    assert_eq!(counted, [Effect::Form(ids(&[2, 1]))]);
    replicas.on(Event::Numbered(Ok(10)));
    replicas.on(Event::Met(id(1), Ok(6)));
    let met = replicas.on(Event::Met(id(2), Ok(6)));
    assert_eq!(met, [Effect::Finish(Outcome::Done(6))]);
}

#[test]
fn rg_4_who_arrives_within_a_step_waits_for_the_next() {
    let mut replicas = standing(2, 8);
    replicas.on(Event::Wanted(Task::Step));
    assert_eq!(replicas.on(Event::Arrived(id(7))), []);
    replicas.on(Event::Answered(id(0), Answer::Done));
    let done = replicas.on(Event::Answered(id(1), Answer::Done));
    assert_eq!(done, [Effect::Finish(Outcome::Done(6))]);
    let next = replicas.on(Event::Wanted(Task::Step));
    let expected = [
        Effect::Abandon(ids(&[0, 1])),
        Effect::Count(ids(&[0, 1, 7])),
    ];
    assert_eq!(next, expected);
    for (number, progress) in [(7, progress(0, 0)), (0, progress(9, 6))] {
        replicas.on(Event::Counted(id(number), progress));
    }
    let counted = replicas.on(Event::Counted(id(1), progress(9, 6)));
    assert_eq!(counted, [Effect::Form(ids(&[0, 1, 7]))]);
}

#[test]
fn rg_5_older_replicas_wait_for_somebody_newer() {
    let mut replicas = standing(1, 8);
    replicas.on(Event::Lost(id(0)));
    replicas.on(Event::Arrived(id(1)));
    replicas.on(Event::Wanted(Task::Step));
    let counted = replicas.on(Event::Counted(id(1), progress(3, 5)));
    assert_eq!(counted, [Effect::Starved]);
    assert!(replicas.is_starving());
    let arrived = replicas.on(Event::Arrived(id(2)));
    assert_eq!(arrived, [Effect::Count(ids(&[1, 2]))]);
    replicas.on(Event::Counted(id(1), progress(3, 5)));
    let counted = replicas.on(Event::Counted(id(2), progress(11, 2)));
    assert_eq!(counted, [Effect::Form(ids(&[2, 1]))]);
    replicas.on(Event::Numbered(Ok(12)));
    replicas.on(Event::Met(id(1), Ok(2)));
    let met = replicas.on(Event::Met(id(2), Ok(2)));
    assert_eq!(met, [Effect::Finish(Outcome::Behind)]);
    let settled = replicas.on(Event::Wanted(Task::Settle));
    assert!(settled.contains(&Effect::Abandon(ids(&[1, 2]))));
}

/// What goes wrong when replicas meet.
#[derive(Default)]
struct Sick {
    /// They say nothing.
    hung: BTreeSet<u64>,
    /// Ways that do not work, by who dials and who is dialled.
    ways: BTreeSet<(u64, u64)>,
    /// Who cannot be dialled, cannot dial, or does not work.
    deaf: BTreeSet<u64>,
    mute: BTreeSet<u64>,
    broken: BTreeSet<u64>,
    /// They meet without a word of who is missing, as through NCCL.
    is_blind: bool,
}

impl Sick {
    fn fails(&self, from: u64, to: u64) -> bool {
        let is_off = |id| self.hung.contains(&id) || self.broken.contains(&id);
        let is_closed = self.deaf.contains(&to) || self.mute.contains(&from);
        is_off(from) || is_off(to) || is_closed || self.ways.contains(&(from, to))
    }
}

/// How replicas came to a group.
#[derive(Debug, Default)]
struct Course {
    meetings: u32,
    reopened: u32,
    /// Of the group that stands.
    members: BTreeSet<u64>,
    left_out: Vec<u64>,
}

/// Hands in what healthy and sick replicas say, until nothing is to be done.
fn meet(replicas: &mut Replicas, sick: &Sick, event: Event) -> Course {
    let mut course = Course::default();
    let mut effects = VecDeque::from(replicas.on(event));
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Count(ids) => {
                for id in ids {
                    effects.extend(replicas.on(Event::Counted(id, progress(100, 5))));
                }
            }
            Effect::Form(ranks) => {
                course.meetings += 1;
                assert!(course.meetings < 100, "no group stands: {course:?}");
                effects.extend(one_meeting(replicas, sick, &ranks, course.meetings));
                course.members = replicas.ranks().iter().map(|id| id.0).collect();
            }
            Effect::LeaveOut(ReplicaId(number), _) => course.left_out.push(number),
            Effect::Reopen => course.reopened += 1,
            Effect::Abandon(_) | Effect::Ask(_) | Effect::Starved | Effect::Finish(_) => {}
        }
    }
    course
}

fn one_meeting(
    replicas: &mut Replicas,
    sick: &Sick,
    ranks: &[ReplicaId],
    number: u32,
) -> Vec<Effect> {
    let count = ranks.len();
    let mut effects = replicas.on(Event::Numbered(Ok(9 + number)));
    let (round, next) = (replicas.round(), |rank: usize| ranks[(rank + 1) % count].0);
    let is_met = count == 1 || (0..count).all(|rank| !sick.fails(ranks[rank].0, next(rank)));
    for (rank, id) in ranks.iter().enumerate() {
        let previous = ranks[(rank + count - 1) % count].0;
        let is_own_fault = sick.broken.contains(&id.0);
        let unmet = Unmet {
            reason: "no way".into(),
            misses_next: !sick.is_blind && sick.fails(id.0, next(rank)),
            misses_previous: !sick.is_blind && sick.fails(previous, id.0),
            is_own_fault,
            is_whole: true,
        };
        if !sick.hung.contains(&id.0) && round == replicas.round() {
            let steps = replicas.at.unwrap_or(5);
            let met = if is_met { Ok(steps) } else { Err(unmet) };
            effects.extend(replicas.on(Event::Met(*id, met)));
        }
    }
    let is_open = matches!(replicas.wait(), Some(Wait::LastWords | Wait::Meeting));
    if round == replicas.round() && is_open {
        effects.extend(replicas.on(Event::Overdue(replicas.stage())));
    }
    effects
}

fn arrived(count: u64, keep_shares: bool) -> Replicas {
    let mut replicas = Replicas::new(usize::MAX, 0);
    if keep_shares {
        replicas = replicas.keeping_shares();
        replicas.on(Event::Expected(count as usize));
    }
    (0..count).for_each(|number| drop(replicas.on(Event::Arrived(id(number)))));
    replicas
}

/// Meets with shares: who is left out is not expected any more.
fn meet_with_shares(replicas: &mut Replicas, sick: &Sick, event: Event) -> Course {
    let mut course = meet(replicas, sick, event);
    while course.members.is_empty() {
        let left = replicas.present.len();
        let next = meet(replicas, sick, Event::Expected(left));
        assert!(next.meetings > 0, "nothing happens: {course:?}");
        course.meetings += next.meetings;
        course.reopened += next.reopened;
        course.left_out.extend(next.left_out);
        course.members = next.members;
    }
    course
}

fn set(numbers: &[u64]) -> BTreeSet<u64> {
    numbers.iter().copied().collect()
}

/// Of eight, with and without shares: who is left out, and after how many meetings a group stands.
#[test]
fn rg_6_the_sick_are_left_out_in_few_meetings() {
    let sick = Sick::default;
    let cases: Vec<(&str, Sick, Vec<u64>, u32)> = vec![
        ("nobody", sick(), vec![], 1),
        (
            "cut off",
            Sick {
                deaf: set(&[1]),
                mute: set(&[1]),
                ..sick()
            },
            vec![1],
            2,
        ),
        (
            "hung",
            Sick {
                hung: set(&[1]),
                ..sick()
            },
            vec![1],
            2,
        ),
        (
            "a closed port",
            Sick {
                deaf: set(&[1]),
                ..sick()
            },
            vec![1],
            3,
        ),
        (
            "no way out",
            Sick {
                mute: set(&[1]),
                ..sick()
            },
            vec![1],
            3,
        ),
        (
            "the first one, cut off",
            Sick {
                deaf: set(&[0]),
                mute: set(&[0]),
                ..sick()
            },
            vec![0],
            2,
        ),
        (
            "the first one, hung",
            Sick {
                hung: set(&[0]),
                ..sick()
            },
            vec![0],
            2,
        ),
        (
            "no GPU",
            Sick {
                broken: set(&[5]),
                ..sick()
            },
            vec![5],
            2,
        ),
        (
            "one way",
            Sick {
                ways: [(0, 1)].into(),
                ..sick()
            },
            vec![],
            2,
        ),
        (
            "two ways",
            Sick {
                ways: [(0, 1), (4, 5)].into(),
                ..sick()
            },
            vec![],
            2,
        ),
        (
            "two hang side by side",
            Sick {
                hung: set(&[3, 4]),
                ..sick()
            },
            vec![3, 4],
            2,
        ),
        (
            "two are cut off side by side",
            Sick {
                deaf: set(&[3, 4]),
                mute: set(&[3, 4]),
                ..sick()
            },
            vec![3, 4],
            2,
        ),
        (
            "two closed ports",
            Sick {
                deaf: set(&[2, 6]),
                ..sick()
            },
            vec![2, 6],
            3,
        ),
    ];
    for (name, sick, left_out, meetings) in cases {
        for keep_shares in [false, true] {
            let mut replicas = arrived(8, keep_shares);
            let run = if keep_shares { meet_with_shares } else { meet };
            let mut course = run(&mut replicas, &sick, Event::Wanted(Task::Settle));
            course.left_out.sort_unstable();
            assert_eq!(course.left_out, left_out, "{name}");
            assert_eq!(course.meetings, meetings, "{name}");
            assert_eq!(course.members.len(), 8 - left_out.len(), "{name}");
            assert_eq!(course.reopened, 0, "{name}: nobody had given anything away");
        }
    }
}

/// One that was left out goes at the first word against it, and the ways of the others are known.
#[test]
fn rg_6_one_that_comes_back_costs_one_meeting() {
    let sick = Sick {
        deaf: set(&[1, 20]),
        ..Sick::default()
    };
    let mut replicas = arrived(8, false);
    meet(&mut replicas, &sick, Event::Wanted(Task::Settle));
    replicas.on(Event::Returned(id(20)));
    let course = meet(&mut replicas, &sick, Event::Wanted(Task::Step));
    assert_eq!((course.meetings, course.left_out), (2, vec![20]));
    assert_eq!(course.members.len(), 7);
    // Its port is open by now.
    answer_all(&mut replicas);
    replicas.on(Event::Returned(id(21)));
    let course = meet(&mut replicas, &sick, Event::Wanted(Task::Step));
    assert_eq!((course.meetings, course.members.len()), (1, 8));
    answer_all(&mut replicas);
    assert!(replicas.on(Event::Lost(id(21))).is_empty());
}

fn answer_all(replicas: &mut Replicas) {
    for id in replicas.ranks().to_vec() {
        replicas.on(Event::Answered(id, Answer::Done));
    }
}

/// Two name each other and nobody else can: the one that is dialled in vain goes, unless it alone has
/// the newest steps.
#[test]
fn rg_6_of_two_one_goes_on() {
    let way = |way| Sick {
        ways: [way].into(),
        ..Sick::default()
    };
    for (sick, left_out) in [(way((0, 1)), 1), (way((1, 0)), 0)] {
        let mut replicas = arrived(2, false);
        let course = meet(&mut replicas, &sick, Event::Wanted(Task::Settle));
        assert_eq!((course.meetings, course.left_out), (2, vec![left_out]));
    }
    let mut replicas = standing(1, 8);
    replicas.on(Event::Arrived(id(1)));
    replicas.on(Event::Wanted(Task::Step));
    replicas.on(Event::Counted(id(0), progress(9, 5)));
    replicas.on(Event::Counted(id(1), progress(0, 0)));
    let effects = one_meeting(&mut replicas, &way((1, 0)), &ids(&[0, 1]), 2);
    let left_out = Effect::LeaveOut(id(1), Cause::Unmet("no way".into()));
    assert!(effects.contains(&left_out), "{effects:?}");
}

/// Half of them try without the others, who come back one at a time.
#[test]
fn rg_6_where_nobody_is_named_halves_try() {
    for sick_one in 1..8 {
        let sick = Sick {
            hung: set(&[sick_one]),
            is_blind: true,
            ..Sick::default()
        };
        let mut replicas = arrived(8, false);
        let mut course = meet(&mut replicas, &sick, Event::Wanted(Task::Settle));
        assert!(course.meetings <= 7, "{course:?}");
        assert!(!course.members.contains(&sick_one));
        for number in course.left_out.clone() {
            // Whoever is left out again has a longer wait.
            replicas.on(Event::Returned(id(number)));
        }
        for _ in 0..8 {
            if replicas.ranks().len() == replicas.present.len() {
                break;
            }
            answer_all(&mut replicas);
            course = meet(&mut replicas, &sick, Event::Wanted(Task::Step));
        }
        assert_eq!(course.members.len(), 7, "{sick_one}: {course:?}");
    }
}

/// What a task of these takes too long for: each is computing, waiting, or says nothing more.
fn overdue(replicas: &mut Replicas, found: &[(u64, Option<Occupation>)]) -> Vec<Effect> {
    let mut effects = replicas.on(Event::Overdue(replicas.stage()));
    for (number, occupation) in found {
        if let Some(occupation) = occupation {
            replicas.on(Event::Found(id(*number), *occupation));
        }
    }
    for (number, occupation) in found {
        if occupation.is_some() {
            effects.extend(replicas.on(Event::Counted(id(*number), progress(100, 5))));
        }
    }
    if replicas.wait() == Some(Wait::Counts) {
        effects.extend(replicas.on(Event::Overdue(replicas.stage())));
    }
    effects
}

#[test]
fn rg_8_who_hangs_or_is_waited_for_is_left_out() {
    use Occupation::{Computing, Waiting};
    type Found = [(u64, Option<Occupation>); 3];
    let (computes, waits) = (Some(Computing), Some(Waiting));
    let cases: [(Found, &[(u64, Cause)]); 5] = [
        ([(0, waits), (1, None), (2, waits)], &[(1, Cause::Hung)]),
        ([(0, waits), (1, computes), (2, waits)], &[(1, Cause::Slow)]),
        // The slow one is found again when it is as slow again.
        ([(0, computes), (1, None), (2, waits)], &[(1, Cause::Hung)]),
        // Most of them: the task is long.
        ([(0, computes), (1, computes), (2, waits)], &[]),
        (
            [(0, None), (1, None), (2, waits)],
            &[(0, Cause::Hung), (1, Cause::Hung)],
        ),
    ];
    for (found, expected) in cases {
        let mut replicas = standing(3, 8);
        replicas.on(Event::Wanted(Task::Step));
        let effects = overdue(&mut replicas, &found);
        let left_out = effects.iter().filter_map(|effect| match effect {
            Effect::LeaveOut(id, cause) => Some((id.0, cause.clone())),
            _ => None,
        });
        assert_eq!(left_out.collect::<Vec<_>>(), expected, "{found:?}");
        let is_formed = |effect: &Effect| matches!(effect, Effect::Form(ranks) if ranks.len() == 3 - expected.len());
        assert!(effects.iter().any(is_formed), "{effects:?}");
    }
}

/// As where small packets pass between two of them and large ones do not.
#[test]
fn rg_8_a_group_that_stalls_goes_on_by_half() {
    let waits = Some(Occupation::Waiting);
    let mut replicas = standing(4, 8);
    replicas.on(Event::Wanted(Task::Step));
    let found = [(0, waits), (1, waits), (2, waits), (3, waits)];
    let effects = overdue(&mut replicas, &found);
    assert!(
        effects.contains(&Effect::Form(ids(&[0, 1, 2, 3]))),
        "{effects:?}"
    );
    replicas.on(Event::Numbered(Ok(10)));
    (0..4).for_each(|number| drop(replicas.on(Event::Met(id(number), Ok(5)))));
    let effects = overdue(&mut replicas, &found);
    assert!(effects.contains(&Effect::Form(ids(&[0, 1]))), "{effects:?}");
}

#[test]
fn rg_8_an_errand_that_takes_too_long_is_run_again() {
    let mut replicas = standing(3, 8);
    replicas.on(Event::Wanted(Task::Errand));
    let idle = Some(Occupation::Idle);
    let found = [(0, Some(Occupation::Computing)), (1, idle), (2, idle)];
    for number in 10..20 {
        let effects = overdue(&mut replicas, &found);
        assert!(
            effects.contains(&Effect::Form(ids(&[0, 1, 2]))),
            "{effects:?}"
        );
        replicas.on(Event::Numbered(Ok(number)));
        (0..3).for_each(|number| drop(replicas.on(Event::Met(id(number), Ok(5)))));
    }
}

/// What was waited for before takes no time of what is waited for now.
#[test]
fn rg_8_a_limit_of_before_counts_for_nothing() {
    let mut replicas = standing(2, 8);
    replicas.on(Event::Wanted(Task::Step));
    let stage = replicas.stage();
    answer_all(&mut replicas);
    assert_eq!(replicas.wait(), None);
    assert_eq!(replicas.on(Event::Overdue(stage)), []);
    replicas.on(Event::Wanted(Task::Step));
    assert_eq!(replicas.on(Event::Overdue(stage)), []);
    assert_eq!(replicas.wait(), Some(Wait::Task));
}

/// Nobody is opened anew before it is known who hangs: it would be waited for.
#[test]
fn rg_7_who_hangs_is_left_out_before_all_are_opened_anew() {
    let waits = Some(Occupation::Waiting);
    let mut replicas = standing_with_shares(3);
    replicas.on(Event::Wanted(Task::Step));
    let effects = overdue(&mut replicas, &[(0, waits), (1, None), (2, waits)]);
    let end = [
        Effect::Abandon(ids(&[1])),
        Effect::LeaveOut(id(1), Cause::Hung),
        Effect::Reopen,
    ];
    assert!(effects.ends_with(&end), "{effects:?}");
}

/// The same where they meet and nobody says anything.
#[test]
fn rg_7_who_says_nothing_is_found_out_before_all_are_opened_anew() {
    let mut replicas = standing_with_shares(3);
    replicas.on(Event::Wanted(Task::Step));
    replicas.on(Event::Answered(id(0), Answer::Apart("lost".into())));
    replicas.on(Event::Expected(3));
    for number in 10..13 {
        replicas.on(Event::Arrived(id(number)));
        replicas.on(Event::Counted(id(number), progress(10, 5)));
    }
    assert_eq!(replicas.wait(), Some(Wait::Meeting));
    let effects = replicas.on(Event::Overdue(replicas.stage()));
    assert!(!effects.contains(&Effect::Reopen), "{effects:?}");
    replicas.on(Event::Counted(id(10), progress(10, 5)));
    replicas.on(Event::Counted(id(12), progress(10, 5)));
    let effects = replicas.on(Event::Overdue(replicas.stage()));
    let end = [Effect::LeaveOut(id(11), Cause::Hung), Effect::Reopen];
    assert!(effects.ends_with(&end), "{effects:?}");
}

/// Alone it has nobody to wait for: others take its place, or its process comes back.
#[test]
fn rg_8_one_that_is_alone_and_hangs_is_left_out() {
    let mut replicas = arrived(1, false);
    replicas.on(Event::Wanted(Task::Settle));
    replicas.on(Event::Counted(id(0), progress(1, 5)));
    replicas.on(Event::Numbered(Ok(9)));
    let effects = replicas.on(Event::Overdue(replicas.stage()));
    let left_out = Effect::LeaveOut(id(0), Cause::Hung);
    assert!(effects.contains(&left_out), "{effects:?}");
    assert!(replicas.is_starving());
}

/// One of them had taken up its share when another one failed.
#[test]
fn rg_7_a_meeting_in_which_a_share_was_taken_up_has_all_opened_anew() {
    let mut replicas = arrived(3, true);
    replicas.on(Event::Wanted(Task::Settle));
    (0..3).for_each(|number| drop(replicas.on(Event::Counted(id(number), progress(1, 5)))));
    replicas.on(Event::Numbered(Ok(9)));
    replicas.on(Event::Met(id(0), Ok(5)));
    let unmet = Unmet {
        misses_next: true,
        is_whole: true,
        ..Unmet::default()
    };
    replicas.on(Event::Met(id(1), Err(unmet)));
    let effects = replicas.on(Event::Overdue(replicas.stage()));
    assert!(effects.contains(&Effect::Reopen), "{effects:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Of three or more, one that is cut off, hangs, cannot be dialled or cannot dial is left out, and
    /// nobody else is; with a broken way beside it one more may be.
    #[test]
    fn rg_6_nobody_healthy_goes_for_one_that_is_sick(
        count in 3u64..20,
        sick_one in 0u64..20,
        how in 0u8..4,
        ways in prop::collection::vec((0u64..20, 0u64..20), 0..2),
    ) {
        let sick_one = sick_one % count;
        let one = set(&[sick_one]);
        let mut sick = match how {
            0 => Sick { hung: one, ..Sick::default() },
            1 => Sick { deaf: one.clone(), mute: one, ..Sick::default() },
            2 => Sick { deaf: one, ..Sick::default() },
            _ => Sick { mute: one, ..Sick::default() },
        };
        if count > 5 {
            sick.ways = ways.into_iter().map(|(a, b)| (a % count, b % count)).collect();
        }
        let mut replicas = arrived(count, false);
        let course = meet(&mut replicas, &sick, Event::Wanted(Task::Settle));
        prop_assert!(course.meetings <= 6, "{:?}", course);
        let healthy: Vec<u64> = course.left_out.iter().copied().filter(|n| *n != sick_one).collect();
        prop_assert!(healthy.len() <= sick.ways.len(), "{:?} for {}", healthy, sick_one);
        prop_assert!(course.members.len() as u64 + 2 >= count);
    }

    /// Whatever is wrong, a group stands soon.
    #[test]
    fn rg_6_a_group_stands_whatever_is_wrong(
        count in 1u64..12,
        hung in prop::collection::btree_set(0u64..12, 0..4),
        deaf in prop::collection::btree_set(0u64..12, 0..6),
        mute in prop::collection::btree_set(0u64..12, 0..6),
        broken in prop::collection::btree_set(0u64..12, 0..3),
        ways in prop::collection::btree_set((0u64..12, 0u64..12), 0..20),
        keep_shares in any::<bool>(),
    ) {
        let sick = Sick { hung, deaf, mute, broken, ways, is_blind: false };
        prop_assume!((0..count).any(|id| !sick.hung.contains(&id)));
        let mut replicas = arrived(count, keep_shares);
        let run = if keep_shares { meet_with_shares } else { meet };
        let course = run(&mut replicas, &sick, Event::Wanted(Task::Settle));
        prop_assert!(!course.members.is_empty());
        prop_assert!(u64::from(course.meetings) <= 3 * count, "{:?}", course);
        prop_assert_eq!(course.reopened, 0);
    }
}

#[test]
fn an_errand_of_one_outlives_the_loss_of_another() {
    let mut replicas = standing(2, 8);
    let asked = replicas.on(Event::Wanted(Task::Errand));
    assert_eq!(asked, [Effect::Ask(ids(&[0]))]);
    assert_eq!(replicas.on(Event::Lost(id(1))), []);
    let done = replicas.on(Event::Answered(id(0), Answer::Done));
    assert_eq!(done, [Effect::Finish(Outcome::Done(5))]);
    let next = replicas.on(Event::Wanted(Task::Errand));
    assert_eq!(next[0], Effect::Abandon(ids(&[0])));
}

#[test]
fn what_falls_apart_again_and_again_ends() {
    let mut replicas = standing(1, 8);
    replicas.on(Event::Wanted(Task::Step));
    for _ in 1..REPEATS {
        replicas.on(Event::Answered(id(0), Answer::Apart("again".into())));
        replicas.on(Event::Counted(id(0), progress(10, 5)));
        replicas.on(Event::Numbered(Ok(10)));
        replicas.on(Event::Met(id(0), Ok(5)));
    }
    let end = replicas.on(Event::Answered(id(0), Answer::Apart("again".into())));
    assert_eq!(end, [Effect::Finish(Outcome::Cannot("again".into()))]);
}

#[test]
fn a_fault_of_the_batch_ends_the_task_and_the_group() {
    let mut replicas = standing(2, 8);
    replicas.on(Event::Wanted(Task::Step));
    let failed = replicas.on(Event::Answered(id(1), Answer::Failed));
    assert_eq!(failed, [Effect::Finish(Outcome::Failed(id(1)))]);
    let next = replicas.on(Event::Wanted(Task::Step));
    assert_eq!(next[0], Effect::Abandon(ids(&[0, 1])));
}

/// As [`standing`], for replicas that keep shares.
fn standing_with_shares(count: u64) -> Replicas {
    let mut replicas = Replicas::new(8, 0).keeping_shares();
    replicas.on(Event::Expected(count as usize));
    replicas.on(Event::Wanted(Task::Settle));
    for number in 0..count {
        replicas.on(Event::Arrived(id(number)));
        let counted = replicas.on(Event::Counted(id(number), progress(1, 5)));
        let all: Vec<u64> = (0..count).collect();
        let is_last = number + 1 == count;
        assert_eq!(
            counted.contains(&Effect::Form(ids(&all))),
            is_last,
            "all are waited for"
        );
    }
    replicas.on(Event::Numbered(Ok(9)));
    for number in 0..count {
        replicas.on(Event::Met(id(number), Ok(5)));
    }
    replicas
}

#[test]
fn rg_7_a_lost_share_has_all_opened_anew() {
    let mut replicas = standing_with_shares(3);
    replicas.on(Event::Wanted(Task::Step));
    let lost = replicas.on(Event::Lost(id(1)));
    assert_eq!(lost, [Effect::Abandon(ids(&[0, 2])), Effect::Reopen]);
    replicas.on(Event::Expected(2));
    replicas.on(Event::Arrived(id(3)));
    assert_eq!(replicas.on(Event::Counted(id(3), progress(10, 4))), []);
    replicas.on(Event::Arrived(id(4)));
    let counted = replicas.on(Event::Counted(id(4), progress(11, 4)));
    assert_eq!(counted, [Effect::Form(ids(&[4, 3]))]);
    replicas.on(Event::Numbered(Ok(12)));
    replicas.on(Event::Met(id(3), Ok(4)));
    let met = replicas.on(Event::Met(id(4), Ok(4)));
    assert_eq!(met, [Effect::Finish(Outcome::Behind)]);
}

/// What they come back with is of no use to anybody.
#[test]
fn rg_7_members_that_are_all_lost_between_steps_are_opened_anew() {
    let mut replicas = standing_with_shares(2);
    assert_eq!(replicas.on(Event::Lost(id(0))), []);
    assert_eq!(replicas.on(Event::Lost(id(1))), []);
    let wanted = replicas.on(Event::Wanted(Task::Step));
    assert_eq!(wanted, [Effect::Reopen]);
}

/// Alone it has all of the state, and comes back with it.
#[test]
fn rg_7_a_member_that_was_alone_keeps_what_it_has() {
    let mut replicas = standing_with_shares(1);
    assert_eq!(replicas.on(Event::Lost(id(0))), []);
    let wanted = replicas.on(Event::Wanted(Task::Step));
    assert_eq!(wanted, [Effect::Starved]);
}

#[test]
fn rg_7_one_that_is_expected_and_lost_is_not_waited_for() {
    let mut replicas = Replicas::new(8, 0).keeping_shares();
    replicas.on(Event::Expected(2));
    replicas.on(Event::Wanted(Task::Settle));
    replicas.on(Event::Arrived(id(0)));
    assert_eq!(replicas.on(Event::Counted(id(0), progress(1, 0))), []);
    let formed = replicas.on(Event::Expected(1));
    assert_eq!(formed, [Effect::Form(ids(&[0]))]);
}

#[test]
fn rg_7_who_arrives_becomes_a_member_after_a_checkpoint() {
    let mut replicas = standing_with_shares(2);
    replicas.on(Event::Arrived(id(7)));
    let step = replicas.on(Event::Wanted(Task::Step));
    assert_eq!(step, [Effect::Ask(ids(&[0, 1]))]);
    replicas.on(Event::Answered(id(0), Answer::Done));
    replicas.on(Event::Answered(id(1), Answer::Done));
    let together = replicas.on(Event::Wanted(Task::Together));
    assert_eq!(together, [Effect::Ask(ids(&[0, 1]))]);
    replicas.on(Event::Answered(id(0), Answer::Done));
    replicas.on(Event::Answered(id(1), Answer::Done));
    let next = replicas.on(Event::Wanted(Task::Step));
    assert_eq!(next, [Effect::Abandon(ids(&[0, 1])), Effect::Reopen]);
    replicas.on(Event::Expected(3));
    for number in [8, 9, 10] {
        replicas.on(Event::Arrived(id(number)));
        replicas.on(Event::Counted(id(number), progress(number as u32 + 2, 6)));
    }
    replicas.on(Event::Numbered(Ok(20)));
    replicas.on(Event::Met(id(8), Ok(6)));
    replicas.on(Event::Met(id(9), Ok(6)));
    let met = replicas.on(Event::Met(id(10), Ok(6)));
    assert_eq!(met, [Effect::Ask(ids(&[10, 9, 8]))], "no step is lost");
}

/// A replica as it might be: weights are what they were made from.
#[derive(Debug, Clone)]
struct Replica {
    progress: Progress,
    weights: Vec<u64>,
    /// The epoch of its group.
    group: Option<u32>,
    asked: VecDeque<(u64, Asked)>,
}

#[derive(Debug, Clone)]
enum Asked {
    Count,
    Meet(u32),
    Step(u32, u64),
    Errand(u32),
}

/// A group whose members meet, or make a step together.
#[derive(Debug, Clone, Default)]
struct Group {
    ranks: Vec<u64>,
    leader: Option<(u64, Vec<u64>)>,
    /// Members that are there for the step of this number.
    at_step: BTreeMap<u64, BTreeSet<u64>>,
}

struct World {
    machine: Replicas,
    replicas: BTreeMap<u64, Replica>,
    groups: BTreeMap<u32, Group>,
    numbers: u32,
    arrivals: u64,
    /// Steps of the caller, and the weights after them.
    caller: Option<(u64, Vec<u64>)>,
    checkpoint: (u64, Vec<u64>),
    task: Option<Task>,
    steps_done: u64,
    starved: bool,
    /// The outcomes the caller has seen.
    finished: u64,
}

impl World {
    fn new(most: usize) -> Self {
        Self {
            machine: Replicas::new(most, 0),
            replicas: BTreeMap::new(),
            groups: BTreeMap::new(),
            numbers: 0,
            arrivals: 0,
            caller: None,
            checkpoint: (0, Vec::new()),
            task: None,
            steps_done: 0,
            starved: false,
            finished: 0,
        }
    }

    fn feed(&mut self, event: Event) {
        let effects = self.machine.on(event);
        for effect in effects {
            self.perform(effect);
        }
    }

    fn ask(&mut self, whom: &[ReplicaId], asked: &Asked) {
        let round = self.machine.round();
        for ReplicaId(number) in whom {
            if let Some(replica) = self.replicas.get_mut(number) {
                replica.asked.push_back((round, asked.clone()));
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Abandon(ids) => {
                for ReplicaId(number) in ids {
                    if let Some(replica) = self.replicas.get_mut(&number) {
                        replica.group = None;
                    }
                }
            }
            Effect::Count(ids) => self.ask(&ids, &Asked::Count),
            Effect::Form(ids) => {
                self.numbers += 1;
                let epoch = self.numbers;
                let ranks = ids.iter().map(|id| id.0).collect();
                let group = Group {
                    ranks,
                    ..Group::default()
                };
                self.groups.insert(epoch, group);
                self.feed(Event::Numbered(Ok(epoch)));
                self.ask(&ids, &Asked::Meet(epoch));
            }
            Effect::Ask(ids) => {
                let epoch = self.machine.epoch();
                // RG-1: all members of a group begin a step with the same weights.
                let weights = |id: &ReplicaId| self.replicas.get(&id.0).map(|r| r.weights.clone());
                let all: BTreeSet<_> = ids.iter().filter_map(weights).collect();
                assert!(all.len() <= 1, "members differ");
                let (steps, known) = self.caller.clone().expect("it has settled");
                assert!(
                    all.iter().all(|weights| *weights == known),
                    "not the caller's"
                );
                match self.task {
                    Some(Task::Step) => self.ask(&ids, &Asked::Step(epoch, steps + 1)),
                    Some(Task::Errand) => self.ask(&ids, &Asked::Errand(epoch)),
                    task => panic!("{task:?} is asked of nobody"),
                }
            }
            Effect::LeaveOut(ReplicaId(number), _) => drop(self.replicas.remove(&number)),
            Effect::Starved => self.starved = true,
            Effect::Reopen => panic!("nobody keeps shares here"),
            Effect::Finish(outcome) => self.finish(outcome),
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.finished += 1;
        let task = self.task.take().expect("a task ends once");
        match outcome {
            Outcome::Done(steps) => {
                let leader = self.machine.ranks().first();
                let weights = leader.and_then(|id| self.replicas.get(&id.0));
                let weights = weights.map(|replica| replica.weights.clone());
                let before = self.caller.clone();
                if task == Task::Step {
                    let (at, known) = before.expect("it has settled");
                    assert_eq!(steps, at + 1);
                    let weights = weights.expect("a group stands");
                    assert_eq!(
                        weights[..known.len()],
                        known,
                        "a step goes on from the last"
                    );
                    assert_eq!(weights.len() as u64, steps);
                    self.caller = Some((steps, weights));
                    self.steps_done += 1;
                } else if let Some(weights) = weights {
                    assert_eq!(weights.len() as u64, steps);
                    self.caller = Some((steps, weights));
                }
                if task == Task::Errand {
                    self.checkpoint = self.caller.clone().expect("it has settled");
                }
            }
            Outcome::Behind => self.caller = None,
            Outcome::Failed(_) | Outcome::Cannot(_) => panic!("nothing fails here: {outcome:?}"),
        }
    }

    fn arrive(&mut self, number: u64, replica: Replica) {
        self.replicas.insert(number, replica);
        self.feed(Event::Arrived(id(number)));
    }

    /// A new process: it begins with the checkpoint, under an order's number. Only where no group can
    /// go on is that number newer than the last group's.
    fn open(&mut self) {
        let (steps, weights) = self.checkpoint.clone();
        let epoch = match self.starved && self.machine.is_starving() {
            true => {
                self.numbers += 1;
                self.numbers
            }
            false => 0,
        };
        self.arrivals += 1;
        let progress = Progress { epoch, steps };
        let replica = Replica {
            progress,
            weights,
            group: None,
            asked: VecDeque::new(),
        };
        self.arrive(self.arrivals, replica);
    }

    fn lose(&mut self, number: u64) -> Option<Replica> {
        let lost = self.replicas.remove(&number)?;
        self.feed(Event::Lost(id(number)));
        Some(lost)
    }

    /// It finds back, with what it holds, as another stay.
    fn find_back(&mut self, number: u64) {
        if let Some(mut replica) = self.lose(number) {
            replica.asked.clear();
            replica.group = None;
            self.arrivals += 1;
            self.arrive(self.arrivals, replica);
        }
    }

    /// One replica goes on with what it was asked first. False when it has to wait for others.
    fn work(&mut self, number: u64) -> bool {
        let Some(replica) = self.replicas.get_mut(&number) else {
            return false;
        };
        let Some((round, asked)) = replica.asked.front().cloned() else {
            return false;
        };
        let event = match asked {
            Asked::Count => Some(Event::Counted(id(number), replica.progress)),
            Asked::Errand(epoch) => Some(Event::Answered(
                id(number),
                match replica.group == Some(epoch) {
                    true => Answer::Done,
                    false => Answer::Apart("another group".into()),
                },
            )),
            Asked::Meet(epoch) => self.meet(number, round, epoch),
            Asked::Step(epoch, step) => self.step(number, epoch, step),
        };
        let Some(event) = event else { return false };
        if let Some(replica) = self.replicas.get_mut(&number) {
            replica.asked.pop_front();
        }
        if round == self.machine.round() {
            self.feed(event);
        }
        true
    }

    fn meet(&mut self, number: u64, round: u64, epoch: u32) -> Option<Event> {
        let is_over = round != self.machine.round();
        let group = self.groups.get_mut(&epoch).expect("it was formed");
        let replica = self.replicas.get_mut(&number).expect("it works");
        if is_over {
            return Some(Event::Met(id(number), Err(Unmet::default())));
        }
        if group.leader.is_none() && group.ranks[0] == number {
            group.leader = Some((replica.progress.steps, replica.weights.clone()));
        }
        let (steps, weights) = group.leader.clone()?;
        replica.progress = Progress { epoch, steps };
        replica.weights = weights;
        replica.group = Some(epoch);
        Some(Event::Met(id(number), Ok(steps)))
    }

    fn step(&mut self, number: u64, epoch: u32, step: u64) -> Option<Event> {
        let apart = Some(Event::Answered(id(number), Answer::Apart("lost".into())));
        let group = self.groups.get_mut(&epoch).expect("it was formed");
        let there = group.at_step.entry(step).or_default();
        let is_complete = there.len() == group.ranks.len();
        let is_lost = |rank: &u64| !self.replicas.contains_key(rank);
        let replica = self.replicas.get(&number);
        let is_member = replica.is_some_and(|r| r.group == Some(epoch));
        if !is_member {
            return apart;
        }
        there.insert(number);
        if !is_complete && there.len() < group.ranks.len() {
            return match group.ranks.iter().any(is_lost) {
                true => apart,
                false => None,
            };
        }
        // All have given their part: whoever goes on from here makes the step.
        let replica = self.replicas.get_mut(&number).expect("it works");
        replica.progress.steps = step;
        replica.weights.push(u64::from(epoch) << 32 | step);
        Some(Event::Answered(id(number), Answer::Done))
    }

    fn want(&mut self, choice: u32) {
        if self.task.is_some() {
            return;
        }
        let task = match (&self.caller, choice % 4) {
            (None, _) => Task::Settle,
            (_, 0) => Task::Errand,
            _ => Task::Step,
        };
        self.task = Some(task);
        self.feed(Event::Wanted(task));
    }

    fn pick(&self, choice: u32) -> Option<u64> {
        let count = self.replicas.len();
        let index = (choice as usize).checked_rem(count)?;
        self.replicas.keys().nth(index).copied()
    }

    fn act(&mut self, (what, choice): (u8, u32)) {
        match (what, self.pick(choice)) {
            (0..6, _) if self.replicas.len() < 5 => self.open(),
            (6..9, Some(number)) => drop(self.lose(number)),
            (9..12, Some(number)) => self.find_back(number),
            (12..30, _) => self.want(choice),
            (30.., Some(number)) => drop(self.work(number)),
            _ => {}
        }
    }

    /// Everybody who can goes on until nobody can.
    fn calm(&mut self) {
        for _ in 0..10_000 {
            let numbers: Vec<u64> = self.replicas.keys().copied().collect();
            let mut went_on = false;
            for number in numbers {
                went_on |= self.work(number);
            }
            if !went_on {
                return;
            }
        }
        panic!("it goes on for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes and goes in whatever order: no step counts twice or is lost in secret, all go
    /// on from the same weights, and once nothing goes wrong any more the caller gets on.
    #[test]
    fn replicas_come_and_go(
        most in 1usize..5,
        acts in prop::collection::vec((0u8..100, any::<u32>()), 1..250),
    ) {
        let mut world = World::new(most);
        for act in acts {
            world.act(act);
        }
        let before = world.finished;
        world.want(1);
        world.calm();
        if world.machine.is_starving() {
            world.open();
            world.calm();
        }
        prop_assert!(world.finished > before, "the caller waits for ever");
        while world.caller.is_none() {
            world.want(1);
            world.calm();
        }
        let steps = world.steps_done;
        for _ in 0..3 {
            world.want(1);
            world.calm();
        }
        prop_assert_eq!(world.steps_done, steps + 3);
    }
}
