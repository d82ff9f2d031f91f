//! Checkpoints.

use super::*;
use crate::{LearnerError, newest_checkpoint};
use rand::Rng;
use std::path::PathBuf;

/// A batch that depends on the learner's own random numbers.
fn step(learner: &mut Learner) {
    let token = learner.rng().random_range(1..VOCABULARY);
    let other = learner.rng().random_range(1..VOCABULARY);
    let actions: [(&[u32], f32); 3] = [(&[token, 2], 1.0), (&[other, 3, 2], 0.0), (&[7], 0.5)];
    learner
        .rl_step(&[group(&[3, 4, 5], &actions), group(&[6], &actions)])
        .unwrap();
    learner
        .sft_step(&[dialogue(&[3, token, other], &[0, 1, 1])])
        .unwrap();
}

fn bits(learner: &Learner) -> Vec<u32> {
    let tensors = [
        &learner.flat.master,
        &learner.optimizer.exp_avg,
        &learner.optimizer.exp_avg_sq,
    ];
    let values = tensors
        .iter()
        .flat_map(|t| Vec::<f32>::try_from(*t).unwrap());
    values.map(f32::to_bits).collect()
}

fn with_kl() -> LearnerConfig {
    let mut config = LearnerConfig {
        schedule: crate::Schedule::Cosine,
        warmup_steps: 2,
        total_steps: 12,
        weight_decay: 0.1,
        ..config()
    };
    config.kl.coefficient = 0.05;
    config
}

/// PITFALLS 13.
#[test]
fn le_4_a_resumed_run_makes_the_same_bits() {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let mut straight = learner(home.path(), with_kl());
        (0..6).for_each(|_| step(&mut straight));

        let mut first = learner(home.path(), with_kl());
        (0..3).for_each(|_| step(&mut first));
        first.set_cursor(b"row 41".to_vec());
        let root = home.path().join("checkpoints");
        first.save_checkpoint(&root).unwrap();
        drop(first);
        let mut resumed =
            Learner::open(&home.path().join("model"), &root, Device::Cpu, with_kl()).unwrap();
        assert_eq!((resumed.step(), resumed.cursor()), (6, &b"row 41"[..]));
        (0..3).for_each(|_| step(&mut resumed));
        assert!(bits(&resumed) == bits(&straight), "{name}");
    }
}

#[test]
fn a_checkpoint_loads_as_a_model_with_the_same_weights() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    step(&mut learner);
    let folder = learner
        .save_checkpoint(&home.path().join("checkpoints"))
        .unwrap()
        .unwrap();
    let export = home.path().join("export");
    for _ in 0..2 {
        learner.export(&export).unwrap(); // the second replaces the first
    }
    for path in [folder, export] {
        let loaded = model::load(&path, Device::Cpu, Kind::Float).unwrap();
        for (loaded, own) in loaded
            .parameters()
            .iter()
            .zip(learner.decoder().parameters())
        {
            assert!(loaded.tensor.equal(&own.tensor), "{}", own.slot.name);
        }
    }
    let snapshot = learner.snapshot(WeightVersion(3), SnapshotScope::All);
    assert!(snapshot.is_intact());
    assert_eq!(snapshot.manifest.version, WeightVersion(3));
}

#[test]
fn the_newest_checkpoints_and_every_nth_are_kept() {
    let home = folder(LLAMA);
    let mut learner = learner(
        home.path(),
        LearnerConfig {
            keep_last: 2,
            keep_every: 4,
            ..config()
        },
    );
    let root = home.path().join("checkpoints");
    assert_eq!(newest_checkpoint(&root).unwrap(), None);
    for _ in 0..6 {
        step(&mut learner);
        learner.save_checkpoint(&root).unwrap();
        learner.save_checkpoint(&root).unwrap(); // again at the same step
    }
    let mut names: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The newest two, and every fourth.
    assert_eq!(names, ["step_10", "step_12", "step_4", "step_8"]);
    assert_eq!(
        newest_checkpoint(&root).unwrap(),
        Some(root.join("step_12"))
    );
}

/// What a resumed learner writes takes nothing from the checkpoint it came from: that one goes when
/// newer ones are there.
#[test]
fn a_resumed_learner_saves_and_exports_after_its_checkpoint_is_gone() {
    let home = folder(LLAMA);
    let mut first = learner(home.path(), config());
    step(&mut first);
    let root = home.path().join("checkpoints");
    let from = first.save_checkpoint(&root).unwrap().unwrap();
    drop(first);
    let model = home.path().join("model");
    let mut resumed = Learner::open(&model, &root, Device::Cpu, config()).unwrap();
    for _ in 0..3 {
        step(&mut resumed);
        resumed.save_checkpoint(&root).unwrap();
    }
    assert!(!from.exists(), "two newer ones are kept");
    let export = home.path().join("export");
    resumed.export(&export).unwrap();
    model::load(&export, Device::Cpu, Kind::Float).unwrap();
}

fn saved(home: &Path) -> PathBuf {
    let mut learner = learner(home, config());
    step(&mut learner);
    let root = home.join("checkpoints");
    learner.save_checkpoint(&root).unwrap().unwrap()
}

/// LE-5: what is damaged after the fact is found and named.
#[test]
fn damage_is_found_and_named() {
    let home = folder(LLAMA);
    for file in [
        "model.safetensors",
        "training_state/exp_avg.f32",
        "training_state/state.json",
    ] {
        for (damage, words) in [
            ("flip", "SHA-256"),
            ("truncate", "bytes"),
            ("remove", "missing"),
        ] {
            let checkpoint = saved(home.path());
            let path = checkpoint.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            match damage {
                "flip" => *bytes.last_mut().unwrap() ^= 1,
                "truncate" => bytes.truncate(bytes.len() / 2),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            if damage != "remove" {
                std::fs::write(&path, bytes).unwrap();
            }
            let model = home.path().join("model");
            let error = Learner::resume(&checkpoint, &model, Device::Cpu, config()).unwrap_err();
            assert!(matches!(error, LearnerError::Checkpoint(_)), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(words) && text.contains(file),
                "{damage} {file}: {text}"
            );
        }
    }
}

#[test]
fn another_set_of_trained_parameters_is_refused() {
    let home = folder(LLAMA);
    let checkpoint = saved(home.path());
    let config = LearnerConfig {
        freeze: vec!["embedding".into()],
        ..config()
    };
    let error = Learner::resume(&checkpoint, &home.path().join("model"), Device::Cpu, config);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("trains other parameters")
    );
}

#[test]
fn a_write_that_fails_leaves_the_older_checkpoint() {
    let home = folder(LLAMA);
    let before = saved(home.path());
    let mut learner = learner(home.path(), config());
    (0..2).for_each(|_| step(&mut learner));
    std::fs::remove_file(home.path().join("model/config.json")).unwrap(); // what exports copy
    let root = home.path().join("checkpoints");
    learner.save_checkpoint(&root).unwrap_err();
    assert_eq!(newest_checkpoint(&root).unwrap(), Some(before));
    assert_eq!(
        std::fs::read_dir(&root).unwrap().count(),
        1,
        "nothing half-written is left"
    );
}
