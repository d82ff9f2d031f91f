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

        let exported = home.path().join("exported");
        trained.export(&exported).unwrap();
        assert_eq!(
            says(&load(&exported)),
            expected,
            "{name}: exported, to the bit"
        );
        let merged = home.path().join("merged");
        model::merge(&exported, &merged, Kind::Float).unwrap();
        assert!(near(&says(&load(&merged)), &expected), "{name}: merged");

        let start = home.path().join("model");
        let mut sampler = load(&start);
        let full = model::snapshot(&sampler, WeightVersion(0), SnapshotScope::All);
        let [all, alone] = [SnapshotScope::All, SnapshotScope::Adapters]
            .map(|scope| trained.snapshot(WeightVersion(3), scope));
        assert!(alone.bytes.len() < all.bytes.len() / 2, "{name}");
        for snapshot in [&alone, &all, &alone] {
            sampler.apply(snapshot).unwrap();
            assert_eq!(says(&sampler), expected, "{name}: published, to the bit");
        }
        sampler.apply(&full).unwrap();
        assert_eq!(
            says(&sampler),
            says(&load(&start)),
            "{name}: and taken back"
        );

        // The adapters by themselves start another run, from the base and from the folder they are in.
        let mut again = lora();
        let from_folder = Learner::new(&exported, Device::Cpu, again.clone()).unwrap();
        assert_eq!(
            says(from_folder.decoder()),
            expected,
            "{name}: gone on with"
        );
        again.lora.as_mut().unwrap().start = Some(exported);
        let again = learner(home.path(), again);
        assert_eq!(says(again.decoder()), expected, "{name}: loaded");
    }
}

/// In bf16, with updates far below what weights in bf16 can hold: what is evaluated, and what a later
/// phase starts from, is what training sampled from, to the bit; merging would have lost it.
#[test]
fn small_updates_in_bf16_reach_evaluation_and_later_phases() {
    let home = folder(LLAMA);
    let in_bf16 = LearnerConfig {
        dtype: crate::ComputeType::Bf16,
        deterministic: false,
        learning_rate: 1e-5,
        ..lora()
    };
    // Weights as they are stored in bf16.
    let base = model::load(&home.path().join("model"), Device::Cpu, Kind::BFloat16).unwrap();
    let source = home.path().join("source");
    let start = home.path().join("bf16");
    model::save(&start, base.parameters(), Kind::BFloat16, &source).unwrap();
    let mut trained = Learner::new(&start, Device::Cpu, in_bf16.clone()).unwrap();
    trained.matrix_rate = Some(1e12);
    for _ in 0..10 {
        trained.rl_step(&batch()).unwrap();
    }
    let mut sampler = model::load(&start, Device::Cpu, Kind::BFloat16).unwrap();
    let alone = trained.snapshot(WeightVersion(10), SnapshotScope::Adapters);
    sampler.apply(&alone).unwrap();
    let sampled_from = says(&sampler);
    assert_ne!(sampled_from, says(&base), "something was learned");

    let exported = home.path().join("exported");
    trained.export(&exported).unwrap();
    let evaluated = model::load(&exported, Device::Cpu, Kind::BFloat16).unwrap();
    assert_eq!(says(&evaluated), sampled_from);
    let later = Learner::new(&exported, Device::Cpu, in_bf16.clone()).unwrap();
    assert_eq!(says(later.decoder()), sampled_from);
    // Its masters have all the digits, and its reference is where it starts.
    let masters = |learner: &Learner| Vec::<f32>::try_from(&learner.flat.master).unwrap();
    assert_eq!(masters(&later), masters(&trained));
    let crate::learner::Reference::Loaded(reference) = &later.reference else {
        panic!("under LoRA it is at hand");
    };
    assert_eq!(says(reference), sampled_from);
    // Full fine-tuning takes the sum over into its masters, in f32.
    let full = LearnerConfig {
        lora: None,
        ..in_bf16
    };
    let full = Learner::new(&exported, Device::Cpu, full).unwrap();
    let wide = model::load(&exported, Device::Cpu, Kind::Float).unwrap();
    for parameter in wide.merged_parameters() {
        let master = full.flat.master_of(&parameter.slot.name).unwrap();
        assert!(master.allclose(&parameter.tensor, 0.0, 1e-7, false));
    }

    let update = model::update_of(&exported).unwrap().unwrap();
    let (kept, merged) = (
        update.kept_share.unwrap(),
        update.merged_bf16_share.unwrap(),
    );
    assert!((kept - 1.0).abs() < 0.01, "{kept}");
    assert!(merged < 0.5, "{merged}");
    for (kind, least, most) in [(Kind::Float, 0.9999, 1.0001), (Kind::BFloat16, 0.0, 0.5)] {
        let out = home.path().join(format!("{kind:?}"));
        let share = model::merge(&exported, &out, kind).unwrap().kept_share;
        assert!((least..most).contains(&share), "{kind:?}: {share}");
    }
}

/// Adapters alone are of use to those who hold the weights they belong to, and to nobody else (SN-2).
#[test]
fn sn_2_adapters_alone_are_refused_on_other_weights() {
    let home = folder(LLAMA);
    let mut trained = learner(home.path(), lora());
    trained.rl_step(&batch()).unwrap();
    let [all, alone] = [SnapshotScope::All, SnapshotScope::Adapters]
        .map(|scope| trained.snapshot(WeightVersion(1), scope));
    // Another type has another checksum; what came with everything is known by that of the sender.
    let load = |kind| model::load(&home.path().join("model"), Device::Cpu, kind).unwrap();
    let mut sampler = load(Kind::BFloat16);
    let before = says(&sampler);
    let error = sampler.apply(&alone).unwrap_err();
    assert!(
        matches!(error, model::ApplyError::OtherBase { .. }),
        "{error}"
    );
    assert_eq!(says(&sampler), before);
    sampler.apply(&all).unwrap();
    sampler.apply(&alone).unwrap();
    let mut other = learner(home.path(), config());
    other.rl_step(&batch()).unwrap();
    let full = other.snapshot(WeightVersion(2), SnapshotScope::Adapters);
    assert_eq!(
        full.bytes.len(),
        4 * other.decoder().spec().parameter_count() as usize
    );
    sampler.apply(&full).unwrap();
    assert!(sampler.apply(&alone).is_err(), "the weights are others now");
}

/// A phase may train larger adapters than the one before it: these become part of them.
#[test]
fn smaller_adapters_become_part_of_larger_ones() {
    let home = folder(LLAMA);
    let mut small = lora();
    let targets = vec![model::Projection::VProj, model::Projection::DownProj];
    small.lora.as_mut().unwrap().targets = targets;
    let mut trained = learner(home.path(), small);
    for _ in 0..3 {
        trained.rl_step(&batch()).unwrap();
    }
    let exported = home.path().join("exported");
    trained.export(&exported).unwrap();
    let mut larger = lora();
    larger.lora.as_mut().unwrap().rank = 5;
    larger.lora.as_mut().unwrap().alpha = 10.0;
    let mut grown = Learner::new(&exported, Device::Cpu, larger.clone()).unwrap();
    assert!(near(&says(grown.decoder()), &says(trained.decoder())));
    grown.rl_step(&batch()).unwrap();
    let again = home.path().join("again");
    grown.export(&again).unwrap();
    let loaded = model::load(&again, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(says(&loaded), says(grown.decoder()));
    assert_eq!(
        model::base_of(&again).unwrap(),
        model::base_of(&exported).unwrap()
    );

    // Two of them would have to be added up.
    larger.lora.as_mut().unwrap().start = Some(exported.clone());
    let error = Learner::new(&exported, Device::Cpu, larger).unwrap_err();
    assert!(
        error.to_string().contains("has adapters of its own"),
        "{error}"
    );
}

/// As `transformers` reads it: with a configuration beside them, adapters are of the weights there.
#[test]
fn a_whole_model_with_adapters_in_its_folder_is_both() {
    let home = folder(LLAMA);
    let mut trained = learner(home.path(), lora());
    trained.rl_step(&batch()).unwrap();
    let (exported, start) = (home.path().join("exported"), home.path().join("model"));
    trained.export(&exported).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(start.join(name), exported.join(name)).unwrap();
    }
    std::fs::rename(&start, home.path().join("moved")).unwrap();
    let loaded = model::load(&exported, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(says(&loaded), says(trained.decoder()));
    let later = Learner::new(&exported, Device::Cpu, lora()).unwrap();
    assert_eq!(says(later.decoder()), says(trained.decoder()));
    assert_eq!(model::base_of(&exported).unwrap(), Some(exported));
}

/// Never on another base than they were trained on.
#[test]
fn an_exported_folder_knows_its_base() {
    let home = folder(LLAMA);
    learner(home.path(), lora())
        .export(&home.path().join("exported"))
        .unwrap();
    let (exported, start) = (home.path().join("exported"), home.path().join("model"));
    let refusal = || {
        let loaded = model::load(&exported, Device::Cpu, Kind::Float);
        loaded.unwrap_err().to_string()
    };
    std::fs::rename(&start, home.path().join("moved")).unwrap();
    assert!(
        refusal().contains("is no model folder here"),
        "{}",
        refusal()
    );
    // Taken along, it is found wherever the folder is.
    std::fs::rename(home.path().join("moved"), exported.join(model::BASE_FOLDER)).unwrap();
    model::load(&exported, Device::Cpu, Kind::Float).unwrap();
    let weights = exported.join(model::BASE_FOLDER).join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    assert!(
        refusal().contains("has other weights than"),
        "{}",
        refusal()
    );
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

    first.export(&home.path().join("exported")).unwrap();
    config.lora.as_mut().unwrap().start = Some(home.path().join("exported"));
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
        .export(&home.path().join("exported"))
        .unwrap();
    let mut config = lora();
    let other = config.lora.as_mut().unwrap();
    other.rank = 1;
    other.start = Some(home.path().join("exported"));
    let error = Learner::new(&home.path().join("model"), Device::Cpu, config).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rank = 2, alpha = 6 and targets q_proj, k_proj")
    );
}
