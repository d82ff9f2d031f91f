use super::compact::Done;
use super::*;
use crate::Imported;
use crate::log::tests::{Disk, files_on};
use crate::samples::{any_trajectory, trajectory};
use proptest::prelude::*;
use std::fs;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

/// Small enough for two records a file.
const SMALL: StoreOptions = StoreOptions { rotate_bytes: 900 };

fn batch(numbers: Range<u32>) -> Vec<Trajectory> {
    numbers.map(trajectory).collect()
}

fn open(dir: &Path) -> TrajectoryStore {
    TrajectoryStore::open_with(dir, SMALL).unwrap()
}

/// Checks that the store holds exactly these, each once and by every way to it.
fn check(store: &TrajectoryStore, numbers: impl IntoIterator<Item = u32>) {
    let expected: BTreeMap<ItemId, Trajectory> = numbers
        .into_iter()
        .map(trajectory)
        .map(|t| (t.item.clone(), t))
        .collect();
    let mut found = BTreeMap::new();
    for trajectory in store.iter() {
        let trajectory = trajectory.unwrap();
        let twice = found.insert(trajectory.item.clone(), trajectory);
        assert_eq!(twice, None, "ST-1: an item came twice");
    }
    assert_eq!(found, expected);
    assert_eq!(store.ids(), expected.keys().cloned().collect());
    assert_eq!(
        (store.len(), store.is_empty()),
        (expected.len(), expected.is_empty())
    );
    for (item, trajectory) in &expected {
        assert!(store.contains(item));
        assert_eq!(store.get(item).unwrap().as_ref(), Some(trajectory));
    }
    assert_eq!(
        store
            .get(&ItemId {
                question: "none".into(),
                sample: 0
            })
            .unwrap(),
        None
    );
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_stored_comes_back_from_log_and_segments() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/b");
    let mut store = open(&dir);
    check(&store, []);
    store.compact().unwrap();
    assert_eq!(names(&dir), ["lock"], "there is nothing to compact");
    store.append(&trajectory(0)).unwrap();
    store.append_all(&batch(1..6)).unwrap();
    check(&store, 0..6);
    store.compact().unwrap();
    assert_eq!(names(&dir), ["lock", "segment-00000001.parquet"]);
    check(&store, 0..6);
    store.append_all(&batch(6..8)).unwrap();
    check(&store, 0..8);
    store.compact().unwrap();
    store.append(&trajectory(8)).unwrap();
    drop(store);
    let store = open(&dir);
    check(&store, 0..9);
    assert_eq!(
        store.opened(),
        &Opened {
            records: 9,
            repaired: None
        }
    );
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = TrajectoryStore::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Locked { dir: named } if named == dir.path()),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&dir.path().display().to_string())
    );
    drop(store);
    open(dir.path());
}

#[test]
fn st_1_a_second_trajectory_of_an_item_is_refused_with_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.append_all(&batch(0..2)).unwrap();
    for repeated in [vec![5, 1], vec![6, 6]] {
        let again: Vec<Trajectory> = repeated.into_iter().map(trajectory).collect();
        let error = store.append_all(&again).unwrap_err();
        assert!(matches!(error, StoreError::Duplicate { .. }), "{error}");
        check(&store, 0..2);
    }
    store.compact().unwrap();
    assert!(store.append(&trajectory(0)).is_err(), "a segment holds it");
}

#[test]
fn st_1_a_torn_tail_is_reported_and_the_item_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TrajectoryStore::open(dir.path()).unwrap();
    store.append(&trajectory(0)).unwrap();
    store.append(&trajectory(1)).unwrap();
    drop(store);
    let path = Kind::Log.path(dir.path(), 1);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let mut store = TrajectoryStore::open(dir.path()).unwrap();
    let repair = store.opened().repaired.clone().unwrap();
    assert_eq!((store.opened().records, &repair.path), (1, &path));
    assert_eq!(
        repair.bytes_kept + repair.bytes_dropped,
        bytes.len() as u64 - 3
    );
    check(&store, 0..1);
    store.append(&trajectory(1)).unwrap();
    check(&store, 0..2);
}

#[test]
fn st_2_a_crash_after_any_step_of_a_compaction_loses_and_doubles_nothing() {
    let steps = {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        (0..9).for_each(|n| store.append(&trajectory(n)).unwrap());
        let mut steps = Vec::new();
        store
            .compact_observed(&mut |done| {
                steps.push(done);
                ControlFlow::Continue(())
            })
            .unwrap();
        steps
    };
    assert_eq!(steps[..3], [Done::Written, Done::Verified, Done::Renamed]);
    assert!(steps[3..].len() > 2, "several log files: {steps:?}");
    for killed_after in 0..steps.len() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.append_all(&batch(100..102)).unwrap();
        store.compact().unwrap();
        (0..9).for_each(|n| store.append(&trajectory(n)).unwrap());
        let mut seen = 0;
        store
            .compact_observed(&mut |_| {
                seen += 1;
                if seen > killed_after {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        drop(store);
        let mut store = open(dir.path());
        let all = || (0..9).chain(100..102);
        check(&store, all());
        store.append(&trajectory(50)).unwrap();
        store.compact().unwrap();
        check(&store, all().chain([50]));
        drop(store);
        check(&open(dir.path()), all().chain([50]));
        let left = names(dir.path());
        assert!(
            left.iter().all(|n| n == "lock" || n.ends_with(".parquet")),
            "{left:?}"
        );
    }
}

#[test]
fn st_2_half_a_segment_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.append_all(&batch(0..3)).unwrap();
    drop(store);
    let half = files::unfinished(&Kind::Segment.path(dir.path(), 1));
    fs::write(&half, b"PAR1 and then the power went").unwrap();
    let mut store = open(dir.path());
    assert!(!half.exists());
    check(&store, 0..3);
    store.compact().unwrap();
    check(&store, 0..3);
}

#[test]
fn st_2_a_segment_that_differs_from_the_log_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.append_all(&batch(0..3)).unwrap();
    let path = dir.path().join("trial.parquet");
    let mut changed = batch(0..3);
    changed[1].steps[0].logprobs[0] = -0.500_000_1;
    for (rows, is_accepted) in [
        (batch(0..3), true),
        (batch(0..2), false),
        (batch(0..4), false),
        (changed, false),
    ] {
        segment::write(&path, rows.into_iter().map(Ok)).unwrap();
        let verdict = store.verify(&path);
        assert_eq!(verdict.is_ok(), is_accepted, "{verdict:?}");
    }
}

#[test]
fn st_2_a_compaction_that_fails_keeps_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.append_all(&batch(0..3)).unwrap();
    let blocked = files::unfinished(&Kind::Segment.path(dir.path(), 1));
    fs::create_dir(&blocked).unwrap();
    let error = store.compact().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    check(&store, 0..3);
    store.append(&trajectory(3)).unwrap();
    fs::remove_dir(&blocked).unwrap();
    store.compact().unwrap();
    check(&store, 0..4);
}

#[test]
fn st_3_invalid_trajectories_are_refused() {
    type Damage = fn(&mut Trajectory);
    let damages: [(Damage, &str); 5] = [
        (
            |t| t.steps[0].logprobs.truncate(1),
            "1 log-probabilities for 2",
        ),
        (|t| t.steps[0].logprobs[0] = f32::NAN, "not finite"),
        (|t| t.tokens.truncate(3), "past the tokens"),
        (|t| t.question.id = "other".into(), "its question is other"),
        (
            |t| t.outcome.iter_mut().for_each(|v| v.score = f32::NAN),
            "gave the score NaN",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for (damage, words) in damages {
        let mut bad = trajectory(1);
        damage(&mut bad);
        let error = store
            .append_all(&[trajectory(0), bad])
            .unwrap_err()
            .to_string();
        assert!(error.contains(words) && error.contains("q1#1"), "{error}");
        check(&store, []);
    }
}

#[test]
fn a_full_disk_is_one_clear_error_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Mutex::new(Disk {
        room: Some(1500),
        ..Disk::default()
    }));
    let options = StoreOptions::default();
    let mut store = TrajectoryStore::open_on(dir.path(), options, files_on(&disk)).unwrap();
    let mut stored = 0;
    let error = loop {
        match store.append(&trajectory(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 0, "there was room for one");
    let text = error.to_string();
    assert!(
        text.starts_with("no space is left for") && text.contains("log-00000001.swl"),
        "{text}"
    );
    check(&store, 0..stored);
    disk.lock().unwrap().room = None;
    store.append(&trajectory(stored)).unwrap();
    drop(store);
    let store = open(dir.path());
    check(&store, 0..=stored);
    assert_eq!(store.opened().repaired, None);
}

#[test]
fn a_damaged_segment_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.append_all(&batch(0..3)).unwrap();
    store.compact().unwrap();
    drop(store);
    let path = Kind::Segment.path(dir.path(), 1);
    fs::write(&path, b"PAR1").unwrap();
    let error = TrajectoryStore::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Segment { path: named, .. } if named == &path),
        "{error}"
    );
}

#[test]
fn json_lines_go_out_and_come_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = open(from.path());
    store.append_all(&batch(0..300)).unwrap();
    store.compact().unwrap();
    store.append(&trajectory(300)).unwrap();
    let mut text = Vec::new();
    assert_eq!(store.export_jsonl(&mut text).unwrap(), 301);
    assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 301);
    text.extend_from_slice(b"\n");
    let mut other = open(to.path());
    other.append(&trajectory(7)).unwrap();
    let imported = other.import_jsonl(text.as_slice()).unwrap();
    assert_eq!(
        imported,
        Imported {
            added: 300,
            already_stored: 1
        }
    );
    check(&other, 0..301);
    let again = other
        .import_jsonl([text.clone(), text].concat().as_slice())
        .unwrap();
    assert_eq!(
        again,
        Imported {
            added: 0,
            already_stored: 602
        }
    );
}

#[test]
fn a_line_that_is_no_trajectory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let good = serde_json::to_string(&trajectory(1)).unwrap();
    for bad in ["{}", "[1]", "not json", &good[..good.len() / 2]] {
        let error = store
            .import_jsonl(format!("{good}\n\n{bad}\n").as_bytes())
            .unwrap_err();
        assert!(
            error.to_string().starts_with("line 3 is no trajectory: "),
            "{error}"
        );
    }
}

#[derive(Debug, Clone)]
enum Event {
    Append(u32),
    Compact,
    /// Compacts, dies after so many steps, and opens again.
    DieCompacting(usize),
    Reopen,
    /// Dies while so many bytes of a record are on their way.
    DieAppending(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..4u32).prop_map(Event::Append),
        1 => Just(Event::Compact),
        2 => (0..6usize).prop_map(Event::DieCompacting),
        1 => Just(Event::Reopen),
        2 => (1..200usize).prop_map(Event::DieAppending),
    ]
}

/// Writes the beginning of a record behind the newest log, as a killed process would.
fn tear(dir: &Path, bytes: usize) {
    let Some(newest) = Kind::Log.list(dir).unwrap().pop() else {
        return;
    };
    let path = Kind::Log.path(dir, newest);
    let log = fs::read(&path).unwrap();
    let part = log.get(12..).unwrap_or_default();
    let part = &part[..bytes.min(part.len().saturating_sub(1))];
    // The batch of the copied record is the first, so that it is never taken for a later one.
    fs::write(&path, [log.as_slice(), part].concat()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn st_1_and_2_hold_under_any_events(events in proptest::collection::vec(event(), 0..14)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut count = 0;
        for event in events {
            store = match event {
                Event::Append(more) => {
                    store.append_all(&batch(count..count + more)).unwrap();
                    count += more;
                    store
                }
                Event::Compact => {
                    store.compact().unwrap();
                    store
                }
                Event::DieCompacting(steps) => {
                    let mut left = steps;
                    store.compact_observed(&mut |_| match left.checked_sub(1) {
                        Some(fewer) => {
                            left = fewer;
                            ControlFlow::Continue(())
                        }
                        None => ControlFlow::Break(()),
                    }).unwrap();
                    drop(store);
                    open(dir.path())
                }
                Event::Reopen => {
                    drop(store);
                    open(dir.path())
                }
                Event::DieAppending(bytes) => {
                    drop(store);
                    tear(dir.path(), bytes);
                    open(dir.path())
                }
            };
            check(&store, 0..count);
        }
    }

    #[test]
    fn any_trajectory_survives_log_segment_and_json(trajectory in any_trajectory()) {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut store = open(dir.path());
        store.append(&trajectory).unwrap();
        prop_assert_eq!(store.get(&trajectory.item).unwrap(), Some(trajectory.clone()));
        store.compact().unwrap();
        prop_assert_eq!(store.get(&trajectory.item).unwrap(), Some(trajectory.clone()));
        let mut text = Vec::new();
        store.export_jsonl(&mut text).unwrap();
        let mut other = open(other.path());
        other.import_jsonl(text.as_slice()).unwrap();
        prop_assert_eq!(other.get(&trajectory.item).unwrap(), Some(trajectory));
    }
}
