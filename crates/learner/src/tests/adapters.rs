//! Low-rank adapters: they start as nothing, learn, and go where the weights go.

use super::*;
use crate::{CheckpointError, KlConfig, LearnerError, LoraConfig};
use algo::loss::KlTerm;

fn lora() -> LearnerConfig {
    LearnerConfig {
        lora: Some(LoraConfig {
            rank: 2,
            alpha: 6.0,
            ..Default::default()
        }),
        ..config()
    }
}

fn batch() -> [StateGroup; 2] {
    [
        group(&[3, 4, 5], &[(&[6, 7], 1.0), (&[8, 1], 0.0)]),
        group(&[9, 10], &[(&[11, 2], 0.0), (&[12, 2], 1.0)]),
    ]
}

fn says(decoder: &Decoder) -> Vec<f64> {
    [[6, 7], [8, 1]]
        .iter()
        .flat_map(|action| plain_logprobs(decoder, &[3, 4, 5], action, 1.0))
        .collect()
}

fn near(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// At first nothing is changed; then the adapters move, and what they belong to does not.
#[test]
fn adapters_start_as_nothing_and_learn() {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let plain = learner(home.path(), config());
        let mut learner = learner(home.path(), lora());
        assert!(
            near(&says(plain.decoder()), &says(learner.decoder())),
            "{name}"
        );
        let weights = model::checksum(learner.decoder().parameters(), Kind::Float);
        let first = learner.rl_step(&batch()).unwrap();
        for _ in 0..20 {
            learner.rl_step(&batch()).unwrap();
        }
        let (before, after) = (says(plain.decoder()), says(learner.decoder()));
        assert!(after[0] + after[1] > before[0] + before[1] + 0.5, "{name}");
        let unchanged = model::checksum(learner.decoder().parameters(), Kind::Float);
        assert_eq!(weights, unchanged, "{name}");
        assert!(first.grad_norm > 0.0);
    }
}

/// What is exported, published and written as a checkpoint is what was trained.
#[test]
fn adapters_go_where_the_weights_go() {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let mut trained = learner(home.path(), lora());
        for _ in 0..3 {
            trained.rl_step(&batch()).unwrap();
        }
        let expected = says(trained.decoder());
        let load = |folder: &Path| model::load(folder, Device::Cpu, Kind::Float).unwrap();

        let merged = home.path().join("merged");
        trained.export(&merged).unwrap();
        assert!(near(&says(&load(&merged)), &expected), "{name}: exported");

        let start = home.path().join("model");
        let mut sampler = load(&start);
        let full = model::snapshot(&sampler, WeightVersion(0));
        sampler.apply(&trained.snapshot(WeightVersion(3))).unwrap();
        assert_eq!(says(&sampler), expected, "{name}: published, to the bit");
        sampler.apply(&full).unwrap();
        assert_eq!(
            says(&sampler),
            says(&load(&start)),
            "{name}: and taken back"
        );

        // The adapter folder by itself starts another run.
        let mut again = lora();
        again.lora.as_mut().unwrap().start = Some(merged.join("adapter"));
        let again = learner(home.path(), again);
        assert!(near(&says(again.decoder()), &expected), "{name}: loaded");
    }
}

/// The reference is where the run started, adapters that it started from included.
#[test]
fn the_reference_needs_no_second_copy() {
    let home = folder(LLAMA);
    let mut config = lora();
    config.kl = KlConfig {
        coefficient: 0.5,
        term: KlTerm::K3Loss,
    };
    // The folder is not read again: there is nothing to load a second copy from.
    let mut first = learner(home.path(), config.clone());
    std::fs::rename(home.path().join("model"), home.path().join("moved")).unwrap();
    let at_start = first.rl_step(&batch()).unwrap().policy.unwrap().kl.unwrap();
    assert!(at_start.abs() < 1e-6, "{at_start}");
    let moved = first.rl_step(&batch()).unwrap().policy.unwrap().kl.unwrap();
    assert!(moved > 1e-6, "{moved}");
    std::fs::rename(home.path().join("moved"), home.path().join("model")).unwrap();

    first.export(&home.path().join("merged")).unwrap();
    config.lora.as_mut().unwrap().start = Some(home.path().join("merged/adapter"));
    let mut second = learner(home.path(), config);
    let at_start = second
        .rl_step(&batch())
        .unwrap()
        .policy
        .unwrap()
        .kl
        .unwrap();
    assert!(at_start.abs() < 1e-6, "{at_start}");
}

/// LE-4 under LoRA; and never on other weights than those the adapters were trained on.
#[test]
fn le_4_adapters_resume_to_the_bit_and_on_their_own_weights_only() {
    let home = folder(LLAMA);
    let start = home.path().join("model");
    let mut whole = learner(home.path(), lora());
    for _ in 0..2 {
        whole.rl_step(&batch()).unwrap();
    }
    let checkpoint = whole
        .save_checkpoint(&home.path().join("checkpoints"))
        .unwrap()
        .unwrap();
    let resume = |config| Learner::resume(&checkpoint, &start, Device::Cpu, config);
    let mut resumed = resume(lora()).unwrap();
    for learner in [&mut whole, &mut resumed] {
        learner.rl_step(&batch()).unwrap();
    }
    let weights = |learner: &Learner| Vec::<f32>::try_from(&learner.flat.master).unwrap();
    assert_eq!(weights(&whole), weights(&resumed));

    let mut other_alpha = lora();
    other_alpha.lora.as_mut().unwrap().alpha = 7.0;
    let mut full = config();
    full.freeze = vec!["norm".into()];
    for config in [other_alpha, full] {
        assert!(matches!(
            resume(config),
            Err(LearnerError::Checkpoint(CheckpointError::Mismatch { .. }))
        ));
    }
    // The same decoder with weights that have moved on, in the start model's place.
    let mut changed = learner(home.path(), config());
    changed
        .sft_step(&[dialogue(&[1, 2, 3], &[0, 1, 1])])
        .unwrap();
    changed.export(&home.path().join("changed")).unwrap();
    std::fs::rename(&start, home.path().join("kept")).unwrap();
    std::fs::rename(home.path().join("changed"), &start).unwrap();
    let error = resume(lora()).unwrap_err().to_string();
    assert!(
        error.contains("its adapters belong to other weights"),
        "{error}"
    );
}

#[test]
fn an_adapter_of_another_kind_is_refused_with_its_kind() {
    let home = folder(LLAMA);
    learner(home.path(), lora())
        .export(&home.path().join("merged"))
        .unwrap();
    let mut config = lora();
    let other = config.lora.as_mut().unwrap();
    other.rank = 3;
    other.start = Some(home.path().join("merged/adapter"));
    let error = Learner::new(&home.path().join("model"), Device::Cpu, config).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rank = 2, alpha = 6 and targets q_proj, k_proj")
    );
}
