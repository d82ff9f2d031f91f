//! Steps do what they are for.

use super::*;
use crate::optimizer::{AdamW, Update};
use rand::Rng;

#[test]
fn supervised_loss_falls() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    let samples = [
        dialogue(&[3, 4, 5, 6, 7], &[0, 0, 1, 1, 1]),
        dialogue(&[8, 9, 10, 11], &[0, 1, 1, 1]),
    ];
    let losses: Vec<f64> = (0..40)
        .map(|_| learner.sft_step(&samples).unwrap().loss)
        .collect();
    assert!(
        losses[39] < losses[0] / 4.0,
        "{} → {}",
        losses[0],
        losses[39]
    );
}

/// Two actions of one state: the rewarded one becomes more probable, the other less.
#[test]
fn rewarded_tokens_become_more_probable() {
    for (kl, name) in [(0.0, "without KL"), (0.01, "with KL")] {
        let home = folder(LLAMA);
        let mut config = LearnerConfig {
            learning_rate: 3e-3,
            ..config()
        };
        config.kl.coefficient = kl;
        let mut learner = learner(home.path(), config);
        let (prompt, good, bad) = ([3, 4, 5], [7, 2], [8, 2]);
        let probability = |learner: &Learner, action: &[u32]| {
            plain_logprobs(learner.decoder(), &prompt, action, 1.0)
                .iter()
                .sum::<f64>()
                .exp()
        };
        let before = (probability(&learner, &good), probability(&learner, &bad));
        for _ in 0..30 {
            learner
                .rl_step(&[group(&prompt, &[(&good, 1.0), (&bad, 0.0)])])
                .unwrap();
        }
        let after = (probability(&learner, &good), probability(&learner, &bad));
        assert!(after.0 > 5.0 * before.0, "{name}: {before:?} → {after:?}");
        assert!(after.1 < before.1, "{name}: {before:?} → {after:?}");
    }
}

/// One update against the published formula, in f64.
#[test]
fn adamw_follows_its_formula() {
    let home = folder(LLAMA);
    let flat = learner(home.path(), config()).flat;
    let mut optimizer = AdamW::new(&flat);
    let update = Update {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 0.5,
    };
    let host = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double)).unwrap();
    let mut weights = host(&flat.master);
    let (mut m, mut v) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
    for t in 1..4 {
        let gradient: Vec<f32> = (0..weights.len()).map(|i| ((i * t) as f32).sin()).collect();
        flat.gradient
            .shallow_clone()
            .copy_(&Tensor::from_slice(&gradient));
        optimizer.updates += 1;
        optimizer.update(&flat, flat.kept.stretches()[0], update);
        for (i, w) in weights.iter_mut().enumerate() {
            let g = f64::from(gradient[i]) * 0.5;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.99 * v[i] + 0.01 * g * g;
            let m_hat = m[i] / (1.0 - 0.9f64.powi(t as i32));
            let v_hat = v[i] / (1.0 - 0.99f64.powi(t as i32));
            let decay = if (i as i64) < flat.layout.decayed {
                0.1
            } else {
                0.0
            };
            *w -= 0.01 * decay * *w + 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
        }
    }
    for (i, (found, expected)) in host(&flat.master).iter().zip(&weights).enumerate() {
        assert!(
            (found - expected).abs() < 1e-5,
            "element {i}: {found} for {expected}"
        );
    }
    assert!(flat.layout.decayed > 0 && flat.layout.decayed < flat.layout.total);
}

#[test]
fn frozen_parameters_stay_and_the_rest_moves() {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let freeze = vec!["embedding".to_owned(), "layers.0.".to_owned()];
        let mut learner = learner(home.path(), LearnerConfig { freeze, ..config() });
        let values = |learner: &Learner| -> Vec<(String, Vec<f32>)> {
            let flat = |t: &Tensor| Vec::<f32>::try_from(t.detach().reshape([-1])).unwrap();
            let parameters = learner.decoder().parameters();
            parameters
                .iter()
                .map(|p| (p.slot.name.clone(), flat(&p.tensor)))
                .collect()
        };
        let before = values(&learner);
        learner
            .sft_step(&[dialogue(&[3, 4, 5, 6], &[0, 1, 1, 1])])
            .unwrap();
        for ((slot, before), (_, after)) in before.iter().zip(&values(&learner)) {
            let frozen = slot == "embedding" || slot.starts_with("layers.0.");
            assert_eq!(before == after, frozen, "{name}: {slot}");
        }
    }
}

#[test]
fn freezing_what_does_not_exist_is_an_error() {
    let home = folder(LLAMA);
    for (freeze, words) in [
        ("embeding", "no parameter's name begins with \"embeding\""),
        ("", "no parameter to train"),
    ] {
        let config = LearnerConfig {
            freeze: vec![freeze.to_owned()],
            ..config()
        };
        let error = Learner::new(&home.path().join("model"), Device::Cpu, config).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// bf16 compute with f32 masters: steps too small for bf16 still add up.
#[test]
fn small_updates_are_not_lost_in_bf16() {
    let home = folder(LLAMA);
    let config = LearnerConfig {
        dtype: crate::ComputeType::Bf16,
        deterministic: false,
        learning_rate: 1e-5,
        ..config()
    };
    let mut learner = learner(home.path(), config);
    let start = learner.flat.master.copy();
    for _ in 0..20 {
        learner
            .sft_step(&[dialogue(&[3, 4, 5, 6], &[0, 1, 1, 1])])
            .unwrap();
    }
    let moved = (&learner.flat.master - start).abs().max().double_value(&[]);
    assert!(moved > 1e-4, "{moved}");
    let rounded = learner.flat.master.to_kind(Kind::BFloat16);
    assert!(
        learner.flat.compute.equal(&rounded),
        "compute weights follow the master"
    );
}

#[test]
fn clipping_is_by_global_norm() {
    let home = folder(LLAMA);
    let sample = [dialogue(&[3, 4, 5, 6], &[0, 1, 1, 1])];
    for (limit, clipped) in [(1e-3, true), (1e3, false), (0.0, false)] {
        let mut learner = learner(
            home.path(),
            LearnerConfig {
                clip_grad_norm: limit,
                ..config()
            },
        );
        let metrics = learner.sft_step(&sample).unwrap();
        assert_eq!(metrics.clipped, clipped);
        // After one step the first moment is a tenth of the clipped gradient.
        let norm = learner.optimizer.exp_avg.norm().double_value(&[]) * 10.0;
        let expected = if clipped { limit } else { metrics.grad_norm };
        assert!(
            (norm - expected).abs() < 1e-4 * expected,
            "{norm} for {expected}"
        );
    }
}

#[test]
fn metrics_describe_the_batch() {
    let home = folder(LLAMA);
    let mut learner = learner(
        home.path(),
        LearnerConfig {
            warmup_steps: 4,
            ..config()
        },
    );
    let groups = [
        group(&[3, 4, 5, 6], &[(&[7, 2], 1.0), (&[8, 2], 0.0)]),
        group(&[9], &[(&[1], 0.5), (&[2], 0.5)]),
    ];
    let values = learner.rl_step(&groups).unwrap().values();
    let parameters = learner.decoder().spec().parameter_count() as f64;
    assert!(values["flop_share"] > 0.0 && values["tokens_per_second"] > 0.0);
    for (name, expected) in [
        ("trained_tokens", 6.0),
        ("model_flops", 6.0 * parameters * 6.0),
        // The second group pulls by nothing and is not run.
        ("packed_tokens", 6.0),
        ("sequence_tokens", 10.0),
        ("sharing_factor", 10.0 / 6.0),
        ("reward_mean", 0.5),
        ("zero_variance_share", 0.5),
        ("advantage_mean", 0.0),
        ("learning_rate", 0.0025),
        ("actions", 4.0),
        ("skipped", 0.0),
    ] {
        assert!(
            (values[name] - expected).abs() < 1e-9,
            "{name} = {}",
            values[name]
        );
    }
    assert!(values["logprob_difference_max"] >= values["logprob_difference_mean"]);
    assert!(values["entropy_nats"] > 0.0 && values["entropy_nats"] < f64::from(VOCABULARY).ln());
    assert!(!values.contains_key("kl"));
}

#[test]
fn seeds_decide_the_random_numbers() {
    let home = folder(LLAMA);
    let draw = |seed| {
        learner(home.path(), LearnerConfig { seed, ..config() })
            .rng()
            .random::<u64>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

/// Gemma 2's vocabulary: all logits of this batch at once, in f32, would take 2 GB, and their
/// gradient as much again.
#[test]
fn a_vocabulary_of_256_000_words_trains_in_little_memory() {
    let json = GEMMA2.replace("\"vocab_size\": 29", "\"vocab_size\": 256000");
    let home = folder(&json.replace(
        "\"max_position_embeddings\": 64",
        "\"max_position_embeddings\": 2048",
    ));
    let mut learner = learner(
        home.path(),
        LearnerConfig {
            loss_chunk_tokens: 128,
            ..config()
        },
    );
    let tokens: Vec<u32> = (0..2000).map(|i| i * 127 % 256_000).collect();
    let mask: Vec<u8> = (0..2000).map(|i| u8::from(i > 0)).collect();
    let before = peak_bytes();
    let first = learner.sft_step(&[dialogue(&tokens, &mask)]).unwrap();
    let second = learner.sft_step(&[dialogue(&tokens, &mask)]).unwrap();
    assert!(first.loss.is_finite() && second.loss < first.loss);
    assert_eq!(first.trained_tokens, 1999);
    let more = peak_bytes() - before;
    assert!(more < 1 << 30, "{more} bytes more than before");
}

/// The most memory this process has had resident, as Linux counts it; 0 elsewhere.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
