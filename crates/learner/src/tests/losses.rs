//! Losses and their gradients against what autograd makes of their published formulas.

use super::separate::{Separate, plain_policy, separate_gradient, stale_groups, token_mean};
use super::*;
use crate::{ImportanceConfig, ImportanceMode, LossConfig, LossKind, OldLogprobs, StepMetrics};
use std::cell::Cell;

/// The loss and its gradient under `config` on `stale_groups`, against `expected` on sequences one
/// by one, for every architecture, in one piece and in many.
fn compare(config: &LearnerConfig, expected: impl Fn(&[Separate]) -> Tensor) -> Vec<StepMetrics> {
    let groups = stale_groups();
    let mut found = Vec::new();
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let mut learner = learner(home.path(), config.clone());
        for budget in [1, 1000] {
            learner.set_micro_batch_tokens(budget);
            let metrics = learner.accumulate_policy(&groups).unwrap();
            let gradient = take_gradient(&mut learner);
            let loss = Cell::new(0.0);
            let plain = separate_gradient(&mut learner, &groups, |actions| {
                let value = expected(actions);
                loss.set(value.double_value(&[]));
                value
            });
            let loss = loss.get();
            let difference = relative_difference(&gradient, &plain);
            assert!(difference < 1e-5, "{name} in {budget}: {difference}");
            assert!(
                (metrics.loss - loss).abs() < 1e-5,
                "{name}: {} for {loss}",
                metrics.loss
            );
            found.push(metrics);
        }
    }
    found
}

#[test]
fn a_clipped_loss_with_entropy_is_what_autograd_makes_of_it() {
    let config = LearnerConfig {
        loss: LossConfig {
            kind: LossKind::PpoClip,
            clip_low: 0.2,
            clip_high: 0.3,
            clip_dual: Some(2.0),
            old_logprobs: OldLogprobs::Sampled,
            entropy: 0.02,
            ..Default::default()
        },
        ..plain_policy()
    };
    let found = compare(&config, |actions| {
        token_mean(actions, |action| {
            let ratio = (&action.logprobs - &action.behaviour).exp();
            let free = -(&ratio * action.reward);
            let held = -(ratio.clamp(0.8, 1.3) * action.reward);
            let mut loss = free.maximum(&held);
            if action.reward < 0.0 {
                loss = loss.clamp_max(-2.0 * action.reward);
            }
            loss - 0.02 * &action.entropies
        })
    });
    for metrics in found {
        let seen = metrics.policy.unwrap().surrogate.unwrap();
        assert!(seen.clip_low_share > 0.0 && seen.clip_high_share > 0.0);
        assert!(seen.clip_dual_share > 0.0);
    }
}

#[test]
fn importance_weights_are_constants_of_the_gradient() {
    for (mode, floor, cap) in [
        (ImportanceMode::Truncated, 0.0, 1.5),
        (ImportanceMode::Masked, 0.6, 1.5),
    ] {
        let config = LearnerConfig {
            importance: ImportanceConfig { mode, floor, cap },
            ..plain_policy()
        };
        let found = compare(&config, |actions| {
            token_mean(actions, |action| {
                let ratio = (&action.logprobs - &action.behaviour).exp().detach();
                let weight = match mode {
                    ImportanceMode::Masked => {
                        let inside = ratio.ge(floor).logical_and(&ratio.le(cap));
                        &ratio * inside.to_kind(Kind::Float)
                    }
                    _ => ratio.clamp_max(cap),
                };
                -action.reward * weight * &action.logprobs
            })
        });
        for metrics in found {
            let seen = metrics.policy.unwrap().surrogate.unwrap();
            assert!((0.01..0.99).contains(&seen.importance_bounded_share));
        }
    }
}

/// The reference is the start model, so the margin of a first step is 0; after other steps it is
/// not.
#[test]
fn preferences_are_what_autograd_makes_of_them() {
    let groups = stale_groups();
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let config = LearnerConfig {
            loss: LossConfig {
                kind: LossKind::Dpo,
                beta: 0.3,
                label_smoothing: 0.1,
                ..Default::default()
            },
            ..plain_policy()
        };
        let mut learner = learner(home.path(), config);
        let first = learner.rl_step(&groups).unwrap();
        assert!(
            (first.loss - 2f64.ln()).abs() < 1e-5,
            "{name}: {}",
            first.loss
        );
        let start = model::load(&home.path().join("model"), Device::Cpu, Kind::Float).unwrap();
        let of_reference: Vec<f64> = groups
            .iter()
            .flat_map(|g| g.samples.iter().map(move |s| (g, s)))
            .map(|(g, s)| {
                plain_logprobs(&start, &g.prompt, &s.tokens, 0.7f32.into())
                    .iter()
                    .sum()
            })
            .collect();
        learner.set_micro_batch_tokens(8); // a pair's actions in different micro-batches
        let second = learner.accumulate_policy(&groups).unwrap();
        let gradient = take_gradient(&mut learner);
        let plain = separate_gradient(&mut learner, &groups, |actions| {
            let gain = |i: usize| actions[i].logprobs.sum(Kind::Float) - of_reference[i];
            // The best and the worst of each state, by the rewards above.
            let losses = [(0, 1), (4, 3), (5, 6)].map(|(better, worse)| {
                let x = (gain(better) - gain(worse)) * 0.3;
                -0.9 * x.log_sigmoid() - 0.1 * x.neg().log_sigmoid()
            });
            losses.into_iter().sum::<Tensor>() / 3.0
        });
        let difference = relative_difference(&gradient, &plain);
        assert!(difference < 1e-5, "{name}: {difference}");
        let seen = second.policy.unwrap().preference.unwrap();
        assert_eq!(seen.pairs, 3, "{name}");
        assert!(seen.margin_mean > 0.0 && second.loss < first.loss);
    }
}
