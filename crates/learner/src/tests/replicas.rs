//! Data-parallel replicas: however a batch is shared out, it is the same step.

use super::*;
use crate::{
    ImportanceConfig, ImportanceMode, KlConfig, LossConfig, LossKind, StepError, StepMetrics,
};
use algo::advantage::Baseline;
use algo::loss::{KlTerm, Normalisation};
use collective::ring::{Listener, Options, meeting};
use collective::{CollectiveError, Group, Ring, threads};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

/// Runs `work` on each replica of a group, on a thread of its own.
pub(super) fn replicas<T: Send>(
    home: &Path,
    world: usize,
    config: &LearnerConfig,
    work: impl Fn(usize, Learner) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let handles: Vec<_> = threads(world)
            .into_iter()
            .enumerate()
            .map(|(rank, member)| {
                let work = &work;
                scope.spawn(move || {
                    let mut learner = learner(home, config.clone());
                    as_a_replica(&mut learner);
                    learner.join(Box::new(member)).unwrap();
                    work(rank, learner)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// Buckets of which there are several, with shares of unequal size; and a rate of the device, which to
/// measure in bf16 takes seconds on a CPU that does not know it.
pub(super) fn as_a_replica(learner: &mut Learner) {
    learner.set_bucket(700);
    learner.matrix_rate = Some(1e12);
}

/// Three trajectories of one to three states, with rewards of every kind.
pub(super) fn batch() -> Vec<StateGroup> {
    let path = [3, 4, 5, 6, 7, 11, 2, 9];
    let mut groups = vec![
        group(&path[..3], &[(&[6, 7], 1.0), (&[8, 1, 2], 0.0)]),
        group(&path[..6], &[(&[9, 9, 1, 2], 0.5), (&[8], 0.25)]),
        group(&path, &[(&[1, 2, 3, 4, 5], 0.5), (&[1], 0.5)]),
        group(&[12, 13], &[(&[1, 2, 3], 1.0), (&[1, 3], -1.0)]),
        group(&[14], &[(&[20, 21], 0.0), (&[20, 22], 0.75)]),
        group(&[14, 20, 21], &[(&[2], 0.0), (&[3], 1.0)]),
    ];
    for (index, first) in [(1, 0), (2, 0), (5, 4)] {
        groups[index].trajectory_id = groups[first].trajectory_id.clone();
    }
    groups
}

/// The share of `rank`: whole trajectories. Of three trajectories the fourth replica gets none.
pub(super) fn share(groups: &[StateGroup], rank: usize, world: usize) -> Vec<StateGroup> {
    let starts = [3u32, 12, 14];
    let number = |group: &StateGroup| starts.iter().position(|s| *s == group.prompt[0]).unwrap();
    let mine = |group: &&StateGroup| number(group) % world == rank;
    groups.iter().filter(mine).cloned().collect()
}

fn configs() -> Vec<(&'static str, LearnerConfig)> {
    let plain = config();
    let kl = |term| KlConfig {
        coefficient: 0.1,
        term,
    };
    vec![
        ("leave one out", plain.clone()),
        (
            "batch statistics, k3, entropy, by trajectory",
            LearnerConfig {
                baseline: Baseline::BatchMean,
                normalise_std: true,
                normalisation: Normalisation::TrajectoryMean,
                kl: kl(KlTerm::K3Loss),
                loss: LossConfig {
                    entropy: 0.01,
                    ..Default::default()
                },
                ..plain.clone()
            },
        ),
        (
            "running baseline, KL in the reward, by sequence",
            LearnerConfig {
                baseline: Baseline::RunningMean,
                normalisation: Normalisation::SequenceMean,
                kl: kl(KlTerm::K1Reward),
                ..plain.clone()
            },
        ),
        (
            "clipped, importance, running baseline",
            LearnerConfig {
                baseline: Baseline::RunningMean,
                loss: LossConfig {
                    kind: LossKind::PpoClip,
                    ..Default::default()
                },
                importance: ImportanceConfig {
                    mode: ImportanceMode::Truncated,
                    ..Default::default()
                },
                ..plain.clone()
            },
        ),
        (
            "preferences",
            LearnerConfig {
                loss: LossConfig {
                    kind: LossKind::Dpo,
                    ..Default::default()
                },
                ..plain
            },
        ),
    ]
}

/// LE-1 over replicas: 1, 2 and 4 of them, and any micro-batching, give the same gradient and the
/// same metrics, and after some steps all have the same weights, bit for bit.
#[test]
fn le_1_shares_do_not_change_a_step() {
    let home = folder(LLAMA);
    let groups = batch();
    for (name, config) in configs() {
        let run = |learner: &mut Learner, share: &[StateGroup]| {
            let metrics = learner.accumulate_policy(share).unwrap();
            let gradient = take_gradient(learner);
            for _ in 0..3 {
                learner.rl_step(share).unwrap();
            }
            let weights = Vec::<f32>::try_from(&learner.flat.master).unwrap();
            (metrics, gradient, weights)
        };
        let mut alone = learner(home.path(), config.clone());
        let expected = run(&mut alone, &groups);
        for (world, budget) in [(1, 3), (2, 1000), (4, 5)] {
            let found = replicas(home.path(), world, &config, |rank, mut learner| {
                learner.set_micro_batch_tokens(budget);
                run(&mut learner, &share(&groups, rank, world))
            });
            for (metrics, gradient, weights) in &found {
                let difference = relative_difference(gradient, &expected.1);
                assert!(difference < 1e-5, "{name} on {world}: {difference}");
                assert_eq!(weights, &found[0].2, "{name} on {world}");
                assert!(relative_difference(weights, &expected.2) < 1e-3);
                same_metrics(name, metrics, &expected.0);
            }
        }
    }
}

fn same_metrics(name: &str, found: &StepMetrics, expected: &StepMetrics) {
    let (found, expected) = (found.values(), expected.values());
    assert_eq!(found.len(), expected.len());
    for (key, value) in &found {
        // What depends on how the batch was cut.
        let cut = ["micro_batches", "packed_tokens", "sharing_factor"].contains(&&**key);
        let cut = cut || key.ends_with("flops");
        let near = (value - expected[key]).abs() <= 1e-5 * expected[key].abs().max(1.0);
        assert!(
            cut || key.ends_with("_seconds") || key.ends_with("_second") || near,
            "{name}: {key} is {value} for {}",
            expected[key]
        );
    }
}

#[test]
fn le_1_shares_do_not_change_a_supervised_step() {
    let home = folder(LLAMA);
    let samples: Vec<SftSample> = (2..9u32)
        .map(|i| dialogue(&(0..i).collect::<Vec<u32>>(), &vec![1; i as usize]))
        .map(|mut sample| {
            sample.mask[0] = 0;
            sample
        })
        .collect();
    let mut alone = learner(home.path(), config());
    let loss = alone.accumulate_supervised(&samples).unwrap().loss;
    let expected = take_gradient(&mut alone);
    for world in [2, 4] {
        let found = replicas(home.path(), world, &config(), |rank, mut learner| {
            let share: Vec<_> = samples.iter().skip(rank).step_by(world).cloned().collect();
            let metrics = learner.accumulate_supervised(&share).unwrap();
            (metrics.loss, take_gradient(&mut learner))
        });
        for (found_loss, gradient) in found {
            assert!((found_loss - loss).abs() < 1e-5);
            assert!(relative_difference(&gradient, &expected) < 1e-5);
        }
    }
}

/// 20 steps on the batch, as replica `rank` of `world`: a hash of the weights, and the weights.
fn twenty_steps(learner: &mut Learner, rank: usize, world: usize) -> ([u8; 32], Vec<f32>) {
    let share = share(&batch(), rank, world);
    for _ in 0..20 {
        learner.rl_step(&share).unwrap();
        learner.compare_replicas().unwrap();
    }
    let weights = Vec::<f32>::try_from(&learner.flat.compute.to_kind(Kind::Float)).unwrap();
    (learner.weights_digest(), weights)
}

/// As a learner is used in earnest.
pub(super) fn steady() -> LearnerConfig {
    LearnerConfig {
        learning_rate: 1e-4,
        ..config()
    }
}

/// LE-1 between processes: 1, 2 and 4 of them in a ring, threads, and one replica alone come to the
/// same weights in 20 steps.
#[test]
fn le_1_processes_in_a_ring_come_to_the_same_weights() {
    let home = folder(LLAMA);
    let mut alone = learner(home.path(), steady());
    let (_, expected) = twenty_steps(&mut alone, 0, 1);
    let change = {
        let start = learner(home.path(), steady());
        let start = Vec::<f32>::try_from(&start.flat.master).unwrap();
        relative_difference(&start, &expected)
    };
    assert!(change > 1e-4, "{change}");
    for world in [2, 4] {
        let found = replicas(home.path(), world, &steady(), |rank, mut learner| {
            twenty_steps(&mut learner, rank, world)
        });
        for (digest, weights) in &found {
            assert_eq!(digest, &found[0].0);
            assert!(relative_difference(weights, &expected) < 1e-5);
        }
    }
    for world in [1, 2, 4] {
        let found = processes(home.path(), world, &steady());
        for (rank, (digest, weights)) in found.iter().enumerate() {
            assert_eq!(digest, &found[0].0);
            let difference = relative_difference(weights, &expected);
            assert!(difference < 1e-5, "{rank} of {world}: {difference}");
        }
    }
}

/// Twenty steps by processes in a ring: a digest and the weights of each.
pub(super) fn processes(
    home: &Path,
    world: usize,
    config: &LearnerConfig,
) -> Vec<(Vec<u8>, Vec<f32>)> {
    let meeting = tempfile::tempdir().unwrap();
    let start = |rank| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::replicas::a_member_of_a_ring"])
            // Threads of several processes that spin beside each other take each other's cores.
            .env("OMP_NUM_THREADS", "1")
            .env(HOME, home)
            .env(MEETING, meeting.path())
            .env(PLACE, format!("{rank} {world}"))
            .env(CONFIG, serde_json::to_string(config).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let members: Vec<Child> = (0..world).map(start).collect();
    let result = |(rank, member): (usize, Child)| {
        let output = member.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let result = std::fs::read(meeting.path().join(format!("{rank}.weights"))).unwrap();
        let (digest, weights) = result.split_at(32);
        let weights = weights.as_chunks().0.iter();
        (
            digest.to_vec(),
            weights.map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        )
    };
    members.into_iter().enumerate().map(result).collect()
}

const HOME: &str = "SWIRL_TEST_HOME";
const MEETING: &str = "SWIRL_TEST_MEETING";
const PLACE: &str = "SWIRL_TEST_PLACE";
const CONFIG: &str = "SWIRL_TEST_CONFIG";

/// One of the processes above; a test only so that the test's program can be started as one.
#[test]
fn a_member_of_a_ring() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let folder = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let (home, meeting) = (folder(HOME), folder(MEETING));
    let place: Vec<usize> = place.split(' ').map(|n| n.parse().unwrap()).collect();
    let group = Group {
        rank: place[0],
        world: place[1],
        epoch: 0,
    };
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let own = listener.address().unwrap();
    let address_of = |rank| meeting.join(format!("{rank}.address"));
    let written = meeting.join(format!("{}.new", group.rank));
    std::fs::write(&written, own.to_string()).unwrap();
    std::fs::rename(&written, address_of(group.rank)).unwrap();
    let next = loop {
        match std::fs::read_to_string(address_of(group.next())) {
            Ok(address) => break address.parse().unwrap(),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let links = meeting::connect(&meeting::Meeting {
        group,
        run: [1; 16],
        listener: &listener,
        own,
        next,
        limit: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        stop: &AtomicBool::new(false),
    });
    let ring = Ring::new(group, links.unwrap(), Options::default()).unwrap();
    let config = serde_json::from_str(&std::env::var(CONFIG).unwrap()).unwrap();
    let mut learner = learner(&home, config);
    as_a_replica(&mut learner);
    learner.join(Box::new(ring)).unwrap();
    let (digest, weights) = twenty_steps(&mut learner, group.rank, group.world);
    let mut bytes = digest.to_vec();
    weights
        .iter()
        .for_each(|w| bytes.extend_from_slice(&w.to_le_bytes()));
    std::fs::write(meeting.join(format!("{}.weights", group.rank)), bytes).unwrap();
}

/// Everybody learns that somebody's weights are others.
#[test]
fn replicas_that_have_come_apart_are_found() {
    let home = folder(LLAMA);
    let found = replicas(home.path(), 3, &config(), |rank, mut learner| {
        let before = learner.compare_replicas();
        if rank == 1 {
            let one = learner.flat.master.narrow(0, 5, 1);
            let next = f64::from(f32::from_bits(
                (one.double_value(&[0]) as f32).to_bits() ^ 1,
            ));
            let _ = tch::no_grad(|| one.shallow_clone().fill_(next));
        }
        (before, learner.compare_replicas())
    });
    for (before, after) in found {
        assert!(before.is_ok());
        assert!(matches!(after, Err(StepError::Apart { step: 0 })));
    }
}

/// Whoever has a bad share says what is wrong with it, nobody hangs, and the next step is made.
#[test]
fn an_error_of_one_replica_is_one_of_all() {
    let home = folder(LLAMA);
    let found = replicas(home.path(), 2, &config(), |rank, mut learner| {
        let mut share = share(&batch(), rank, 2);
        let good = share.clone();
        if rank == 1 {
            share[0].samples[0].reward = f32::NAN;
        }
        let error = learner.rl_step(&share).unwrap_err();
        let next = learner.rl_step(&good).unwrap();
        (error, next.step)
    });
    assert!(matches!(found[0].0, StepError::Replica));
    assert!(matches!(found[1].0, StepError::Reward { .. }));
    assert_eq!((found[0].1, found[1].1), (1, 1));
}

/// LE-3: a replica that goes takes no one's weights along.
#[test]
fn a_replica_that_leaves_fails_the_step_of_the_others_and_changes_nothing() {
    let home = folder(LLAMA);
    let found = replicas(home.path(), 2, &config(), |rank, mut learner| {
        if rank == 1 {
            return None;
        }
        let before = Vec::<f32>::try_from(&learner.flat.master).unwrap();
        let error = learner.rl_step(&batch()).unwrap_err();
        let after = Vec::<f32>::try_from(&learner.flat.master).unwrap();
        let clean = take_gradient(&mut learner).iter().all(|g| *g == 0.0);
        Some((error, before == after && clean))
    });
    let (error, unchanged) = found.into_iter().flatten().next().unwrap();
    assert!(matches!(
        error,
        StepError::Collective(CollectiveError::Gone { rank: 1 })
    ));
    assert!(unchanged);
}

/// Who joins takes over where rank 0 is.
#[test]
fn members_start_from_the_same_state() {
    let home = folder(LLAMA);
    let found = thread::scope(|scope| {
        let handles: Vec<_> = threads(2)
            .into_iter()
            .enumerate()
            .map(|(rank, member)| {
                let home = home.path();
                scope.spawn(move || {
                    let mut learner = learner(home, config());
                    for _ in 0..2 + rank {
                        learner.rl_step(&batch()).unwrap();
                    }
                    learner.join(Box::new(member)).unwrap();
                    learner.rl_step(&share(&batch(), rank, 2)).unwrap();
                    let weights = Vec::<f32>::try_from(&learner.flat.master).unwrap();
                    (learner.step(), learner.optimizer.updates, weights)
                })
            })
            .collect();
        let results = handles.into_iter().map(|h| h.join().unwrap());
        results.collect::<Vec<_>>()
    });
    assert_eq!(found[0], found[1]);
    assert_eq!((found[0].0, found[0].1), (3, 3));
}
