//! Replicas that keep shares of the optimizer's state.

use super::replicas::{as_a_replica, batch, processes, replicas, share, steady};
use super::*;
use crate::{BatchSize, CheckpointError, ComputeType, LoraConfig, MemoryNeed, StepError, Traffic};
use collective::{
    Abort, CollectiveError, Communicator, Group, Pending, Reduce, ThreadMember, threads,
};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

/// Which must not matter: the compute type, what is trained, and whether gradients are clipped.
fn configs() -> Vec<(&'static str, LearnerConfig)> {
    let f32 = LearnerConfig {
        weight_decay: 0.1,
        clip_grad_norm: 0.0,
        ..config()
    };
    let clipped = LearnerConfig {
        clip_grad_norm: 1e-2,
        ..f32.clone()
    };
    let bf16 = |config: &LearnerConfig| LearnerConfig {
        deterministic: false,
        dtype: ComputeType::Bf16,
        ..config.clone()
    };
    let lora = |config: LearnerConfig| LearnerConfig {
        lora: Some(LoraConfig {
            rank: 3,
            ..Default::default()
        }),
        ..config
    };
    vec![
        ("f32", f32.clone()),
        ("f32, clipped", clipped.clone()),
        ("bf16", bf16(&f32)),
        ("bf16, clipped", bf16(&clipped)),
        ("LoRA in f32, clipped", lora(clipped.clone())),
        ("LoRA in bf16, clipped", lora(bf16(&clipped))),
    ]
}

fn sharded(config: &LearnerConfig) -> LearnerConfig {
    LearnerConfig {
        shard_optimizer: true,
        ..config.clone()
    }
}

/// A policy step and a supervised one, of which each replica has a share.
fn steps(learner: &mut Learner, rank: usize, world: usize) {
    let groups = share(&batch(), rank, world);
    let dialogues: Vec<SftSample> = (3..9u32)
        .map(|i| dialogue(&(1..i).collect::<Vec<u32>>(), &vec![1; i as usize - 1]))
        .map(|mut sample| {
            sample.mask[0] = 0;
            sample
        })
        .collect();
    let dialogues: Vec<_> = dialogues.into_iter().skip(rank).step_by(world).collect();
    learner.rl_step(&groups).unwrap();
    learner.sft_step(&dialogues).unwrap();
    learner.compare_replicas().unwrap();
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(&tensor.to_kind(Kind::Float)).unwrap()
}

/// What a replica keeps of weights and moments, each with its place in the flat buffers.
type State = Vec<(i64, [f32; 3])>;

fn state(learner: &Learner) -> State {
    let flat = &learner.flat;
    let [master, m, v] = [
        &flat.master,
        &learner.optimizer.exp_avg,
        &learner.optimizer.exp_avg_sq,
    ]
    .map(floats);
    let stretches = flat.kept.stretches().iter();
    let elements = stretches.flat_map(|s| (s.start..s.end()).map(|i| (i, s.place_of(i) as usize)));
    elements
        .map(|(index, place)| {
            let of_master = match flat.computes_in_f32() {
                true => index as usize,
                false => place,
            };
            (index, [master[of_master], m[place], v[place]])
        })
        .collect()
}

/// Of all replicas, in the order of places.
fn whole(states: impl IntoIterator<Item = State>) -> State {
    let mut all: State = states.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    all
}

/// LE-6: full and LoRA, f32 and bf16, clipped or not, on 1 to 4 replicas: the same weights, masters and
/// moments as without shares, bit for bit, and each of them at one replica only.
#[test]
fn le_6_sharded_steps_are_the_same() {
    let home = folder(LLAMA);
    for (name, config) in configs() {
        for world in 1..=4 {
            let run = |config: &LearnerConfig| {
                replicas(home.path(), world, config, |rank, mut learner| {
                    (0..3).for_each(|_| steps(&mut learner, rank, world));
                    let kept = learner.flat.kept.len() as usize;
                    assert_eq!(learner.optimizer.exp_avg.numel(), kept);
                    assert_eq!(learner.optimizer.exp_avg_sq.numel(), kept);
                    if !learner.flat.computes_in_f32() {
                        assert_eq!(learner.flat.master.numel(), kept);
                    }
                    (floats(&learner.flat.compute), state(&learner))
                })
            };
            let mut expected = run(&config);
            let (weights, expected) = expected.swap_remove(0);
            let found = run(&sharded(&config));
            assert!(
                found.iter().all(|(w, _)| *w == weights),
                "{name} on {world}: other weights"
            );
            let found = whole(found.into_iter().map(|(_, state)| state));
            assert!(found == expected, "{name} on {world}: other state");
        }
    }
}

/// LE-6 between processes.
#[test]
fn le_6_processes_in_a_ring_come_to_the_same_weights() {
    let home = folder(LLAMA);
    let bf16 = LearnerConfig {
        deterministic: false,
        dtype: ComputeType::Bf16,
        ..steady()
    };
    for (world, config) in [(2, bf16), (3, steady())] {
        let expected = processes(home.path(), world, &config);
        let found = processes(home.path(), world, &sharded(&config));
        for (digest, weights) in &found {
            assert_eq!(digest, &found[0].0);
            assert!(*weights == expected[0].1, "{world} processes");
        }
    }
}

#[test]
fn a_sharded_gradient_is_whole_when_it_is_asked_for() {
    let home = folder(LLAMA);
    let run = |config: &LearnerConfig| {
        replicas(home.path(), 3, config, |rank, mut learner| {
            let share = share(&batch(), rank, 3);
            let (metrics, gradient) = learner.policy_gradient(&share).unwrap();
            learner.rl_step(&share).unwrap();
            (metrics.loss.to_bits(), gradient.bytes)
        })
    };
    let expected = run(&config());
    assert!(run(&sharded(&config())) == expected);
}

/// LE-3 with shares: what one replica finds in its share, all leave the step out for.
#[test]
fn le_3_a_bad_step_is_left_out_by_all() {
    let home = folder(LLAMA);
    let config = sharded(&config());
    replicas(home.path(), 3, &config, |rank, mut learner| {
        let share = share(&batch(), rank, 3);
        learner.rl_step(&share).unwrap();
        let before = (floats(&learner.flat.compute), state(&learner));
        let mut metrics = learner.accumulate_policy(&share).unwrap();
        if rank == 1 {
            let own = learner.flat.kept.stretches()[0];
            let _ = own
                .of_all(&learner.flat.gradient)
                .narrow(0, 3, 1)
                .fill_(f64::NAN);
        }
        learner.apply(&mut metrics).unwrap();
        assert!(metrics.skipped && metrics.grad_norm.is_nan());
        assert_eq!((floats(&learner.flat.compute), state(&learner)), before);
        assert_eq!((learner.step(), learner.optimizer.updates), (2, 1));
        assert_eq!(learner.bad_steps, 1);
        assert!(!learner.rl_step(&share).unwrap().skipped);
    });
}

/// Like [`replicas`], each opened from the newest checkpoint below `root`.
fn reopened<T: Send>(
    home: &Path,
    root: &Path,
    world: usize,
    config: &LearnerConfig,
    work: impl Fn(usize, Learner) -> T + Sync,
) -> Vec<T> {
    let work = |(rank, member)| {
        let model = home.join("model");
        let mut learner = Learner::open(&model, root, Device::Cpu, config.clone()).unwrap();
        as_a_replica(&mut learner);
        if config.shard_optimizer {
            let nothing = learner.optimizer.exp_avg.numel();
            assert_eq!(nothing, 0, "shares are read when it is known which");
        }
        learner.join(Box::new(member)).unwrap();
        work(rank, learner)
    };
    thread::scope(|scope| {
        let members = threads(world).into_iter().enumerate();
        let handles: Vec<_> = members.map(|m| scope.spawn(|| work(m))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

fn saved(home: &Path, name: &str, config: &LearnerConfig) -> PathBuf {
    let root = home.join(name);
    let folders = replicas(home, 3, config, |rank, mut learner| {
        steps(&mut learner, rank, 3);
        match config.shard_optimizer || rank == 0 {
            true => learner.save_checkpoint(&root).unwrap(),
            false => None,
        }
    });
    assert!(folders[1].is_none() && folders[2].is_none());
    assert_eq!(folders[0], Some(root.join("step_2")));
    root
}

/// LE-6: a checkpoint of three replicas with shares is that of replicas without them, byte for byte,
/// and one replica, two or four go on from it as if they had never had shares.
#[test]
fn le_6_checkpoints_are_the_same_and_groups_of_any_size_go_on_from_them() {
    for (name, config) in configs() {
        let home = folder(LLAMA);
        let plain = saved(home.path(), "plain", &config);
        let root = saved(home.path(), "shares", &sharded(&config));
        let weights = match config.lora {
            Some(_) => "adapter_model.safetensors",
            None => "model.safetensors",
        };
        for file in [weights, "training_state/manifest.json"] {
            let read = |root: &Path| std::fs::read(root.join("step_2").join(file)).unwrap();
            assert!(read(&plain) == read(&root), "{name}: {file}");
        }
        for world in [1, 2, 4] {
            let run = |config: &LearnerConfig| {
                reopened(home.path(), &root, world, config, |rank, mut learner| {
                    steps(&mut learner, rank, world);
                    let weights = floats(&learner.flat.compute);
                    assert_eq!(learner.step(), 4);
                    (weights, state(&learner))
                })
            };
            let (weights, expected) = run(&config).swap_remove(0);
            let found = run(&sharded(&config));
            assert!(
                found.iter().all(|(w, _)| *w == weights),
                "{name}, resumed on {world}: other weights"
            );
            let found = whole(found.into_iter().map(|(_, state)| state));
            assert!(found == expected, "{name}, resumed on {world}: other state");
        }
    }
}

/// Rank 0 cannot write: all learn it, and go on.
#[test]
fn a_checkpoint_that_fails_fails_for_all() {
    let home = folder(LLAMA);
    let no_folder = home.path().join("file");
    std::fs::write(&no_folder, "in the way").unwrap();
    let config = sharded(&config());
    let errors = replicas(home.path(), 3, &config, |rank, mut learner| {
        let error = learner.save_checkpoint(&no_folder).unwrap_err();
        steps(&mut learner, rank, 3);
        learner
            .save_checkpoint(&home.path().join("checkpoints"))
            .unwrap();
        error
    });
    assert!(matches!(errors[0], CheckpointError::Io { .. }));
    for error in &errors[1..] {
        assert!(matches!(error, CheckpointError::Replica), "{error}");
    }
}

/// What the members of a group of two say to joining it, after `prepare`.
fn joined(
    home: &Path,
    config: &LearnerConfig,
    prepare: impl Fn(usize, &mut Learner) + Sync,
) -> Vec<CollectiveError> {
    let join = |(rank, member): (usize, ThreadMember)| {
        let mut learner = learner(home, config.clone());
        prepare(rank, &mut learner);
        learner.join(Box::new(member)).unwrap_err()
    };
    thread::scope(|scope| {
        let members = threads(2).into_iter().enumerate();
        let handles: Vec<_> = members.map(|m| scope.spawn(|| join(m))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// Nobody's moments are sent around: members have to begin from the same state.
#[test]
fn members_that_begin_from_different_states_are_refused() {
    let home = folder(LLAMA);
    let config = sharded(&config());
    let other_weight = |learner: &Learner| {
        let mut one = learner.flat.compute.narrow(0, 5, 1);
        tch::no_grad(|| one += 1.0);
    };
    let steps_apart = joined(home.path(), &config, |rank, learner| {
        (0..rank).for_each(|_| steps(learner, 0, 1));
    });
    let weights_apart = joined(home.path(), &config, |rank, learner| {
        if rank == 1 {
            other_weight(learner);
        }
    });
    let from_elsewhere = joined(home.path(), &config, |rank, learner| {
        if rank == 1 {
            let mut other = super::learner(home.path(), config.clone());
            let mut members = threads(2);
            let (member, of_other) = (members.remove(0), members.remove(0));
            thread::scope(|scope| {
                scope.spawn(move || other.join(Box::new(of_other)).unwrap());
                learner.join(Box::new(member)).unwrap();
            });
        }
    });
    for (errors, words) in [
        (steps_apart, "their steps are 0 to 2"),
        (weights_apart, "their weights differ"),
        (from_elsewhere, "kept in another group"),
    ] {
        for error in errors {
            assert!(matches!(error, CollectiveError::Unlike(_)), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

/// Moments that are to be read when a group is joined, and are gone by then.
#[test]
fn a_checkpoint_that_is_gone_ends_the_joining_for_all() {
    let home = folder(LLAMA);
    let config = sharded(&config());
    let root = saved(home.path(), "shares", &config);
    let errors = joined(home.path(), &config, |rank, learner| {
        *learner = Learner::open(
            &home.path().join("model"),
            &root,
            Device::Cpu,
            config.clone(),
        )
        .unwrap();
        if rank == 1 {
            let gone = root.join("elsewhere");
            learner.later = Some(crate::open::Origin::Checkpoint(gone));
        }
    });
    assert!(matches!(&errors[1], CollectiveError::Aborted(why) if why.contains("elsewhere")));
}

/// What a member calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Reduce,
    Scatter,
    Gather,
}

/// A member whose calls are seen before they are made.
struct Watched<W> {
    member: ThreadMember,
    watch: W,
}

impl<W> std::fmt::Debug for Watched<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.member.fmt(formatter)
    }
}

impl<W: FnMut(&ThreadMember, Call, &Tensor) + Send> Communicator for Watched<W> {
    fn group(&self) -> Group {
        self.member.group()
    }

    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError> {
        (self.watch)(&self.member, Call::Reduce, tensor);
        self.member.all_reduce(tensor, reduce)
    }

    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError> {
        (self.watch)(&self.member, Call::Scatter, tensor);
        self.member.reduce_scatter(tensor, reduce)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        (self.watch)(&self.member, Call::Gather, tensor);
        self.member.all_gather(tensor)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError> {
        self.member.broadcast(tensor, root)
    }

    fn aborter(&self) -> Abort {
        self.member.aborter()
    }
}

/// LE-7.
#[test]
fn le_7_torn_weights_are_never_trained_on() {
    let home = folder(LLAMA);
    let config = sharded(&config());
    let run = |(rank, member)| {
        let mut learner = learner(home.path(), config.clone());
        as_a_replica(&mut learner);
        let buckets = learner.buckets.iter().count();
        assert!(buckets > 2);
        let mut left = buckets + 2; // in the second step, after one bucket
        let watch = move |member: &ThreadMember, call, _: &Tensor| {
            left -= usize::from(call == Call::Gather && left > 0);
            if left == 0 {
                member.aborter().abort("a link broke");
            }
        };
        learner.join(Box::new(Watched { member, watch })).unwrap();
        let share = share(&batch(), rank, 2);
        learner.rl_step(&share).unwrap();
        let before = floats(&learner.flat.compute);
        let error = learner.rl_step(&share).unwrap_err();
        assert!(matches!(error, StepError::Torn(_)), "{error}");
        let torn = floats(&learner.flat.compute);
        assert_ne!(torn, before); // of its own shares at least
        for _ in 0..2 {
            let error = learner.rl_step(&share).unwrap_err();
            assert!(matches!(error, StepError::Torn(_)), "{error}");
            let error = learner.supervised_gradient(&[]).unwrap_err();
            assert!(matches!(error, StepError::Torn(_)), "{error}");
        }
        assert_eq!(floats(&learner.flat.compute), torn);
        for error in [
            learner.save_checkpoint(home.path()).map(|_| ()),
            learner.export(&home.path().join("export")),
        ] {
            assert!(matches!(error, Err(CheckpointError::Torn(_))), "{error:?}");
        }
        let alone = threads(1).remove(0);
        let error = learner.join(Box::new(alone)).unwrap_err();
        assert!(matches!(error, CollectiveError::Unlike(_)), "{error}");
    };
    thread::scope(|scope| {
        let members = threads(2).into_iter().enumerate();
        members.for_each(|member| drop(scope.spawn(|| run(member))));
    });
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

/// What training takes, and the weights beside it.
fn held_bytes(learner: &Learner) -> (u64, u64) {
    let (flat, moments) = (&learner.flat, &learner.optimizer);
    let training = [
        &flat.master,
        &flat.gradient,
        &moments.exp_avg,
        &moments.exp_avg_sq,
    ];
    let base = learner.decoder.parameters().iter();
    let base: u64 = match learner.config().lora {
        Some(_) => base.map(|p| bytes(&p.tensor)).sum(),
        None => 0,
    };
    let computes = match flat.computes_in_f32() {
        true => 0,
        false => bytes(&flat.compute),
    };
    (training.map(bytes).iter().sum(), base + computes)
}

/// What stays from step to step takes what it was said to take, to the byte.
#[test]
fn the_memory_of_a_replica_is_what_was_estimated() {
    let home = folder(LLAMA);
    let spec = model::spec_of(&home.path().join("model")).unwrap();
    let batch = BatchSize {
        tokens: 100,
        longest: 10,
    };
    for (name, config) in configs() {
        for (world, config) in [
            (1, sharded(&config)),
            (3, config.clone()),
            (3, sharded(&config)),
        ] {
            let need = MemoryNeed::of(&spec, &config, Device::Cpu, batch, false, world);
            let held = |(rank, member)| {
                let mut learner = learner(home.path(), config.clone());
                learner.matrix_rate = Some(1e12);
                learner.join(Box::new(member)).unwrap();
                learner
                    .rl_step(&share(&super::replicas::batch(), rank, world))
                    .unwrap();
                held_bytes(&learner)
            };
            let held: Vec<_> = thread::scope(|scope| {
                let members = threads(world).into_iter().enumerate();
                let handles: Vec<_> = members.map(|m| scope.spawn(|| held(m))).collect();
                handles.into_iter().map(|h| h.join().unwrap()).collect()
            });
            let most = held.iter().map(|(training, _)| *training).max().unwrap();
            assert_eq!(most, need.training, "{name} on {world}");
            assert_eq!(held[0].1, need.weights, "{name} on {world}");
        }
    }
}

/// What replicas say to each other in a step is as much as was estimated, in the types that travel.
#[test]
fn the_traffic_of_a_step_is_what_was_estimated() {
    let home = folder(LLAMA);
    let spec = model::spec_of(&home.path().join("model")).unwrap();
    for (name, config) in configs() {
        for (world, config) in [(2, config.clone()), (3, sharded(&config))] {
            let sums: Arc<Mutex<Vec<[u64; 2]>>> = Arc::new(Mutex::new(vec![[0; 2]; world]));
            let run = |(rank, member): (usize, ThreadMember)| {
                let mut learner = learner(home.path(), config.clone());
                as_a_replica(&mut learner);
                let sums = sums.clone();
                let watch = move |_: &ThreadMember, call, tensor: &Tensor| {
                    let (kind, rounds) = match call {
                        Call::Reduce if tensor.kind() == Kind::Double => return, // numbers
                        Call::Reduce => (0, 2),
                        Call::Scatter => (0, 1),
                        Call::Gather => (1, 1),
                    };
                    sums.lock().unwrap()[rank][kind] += rounds * bytes(tensor);
                };
                learner.join(Box::new(Watched { member, watch })).unwrap();
                learner.rl_step(&share(&batch(), rank, world)).unwrap();
            };
            thread::scope(|scope| {
                let members = threads(world).into_iter().enumerate();
                members.for_each(|member| drop(scope.spawn(|| run(member))));
            });
            let traffic = Traffic::of(&spec, &config, Device::Cpu, world);
            let sent = |bytes: u64| bytes * (world as u64 - 1) / world as u64;
            for [gradients, weights] in sums.lock().unwrap().iter() {
                assert_eq!(sent(*gradients), traffic.gradients, "{name} on {world}");
                assert_eq!(sent(*weights), traffic.weights, "{name} on {world}");
            }
        }
    }
}
