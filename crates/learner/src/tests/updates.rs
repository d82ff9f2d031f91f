//! Several updates on one batch: one baseline, one old policy.

use super::replicas::{as_a_replica, batch, share};
use super::separate::{plain_policy, separate_gradient, stale_groups};
use super::*;
use crate::{ImportanceConfig, ImportanceMode, LossConfig, LossKind, SurrogateMetrics};
use algo::advantage::Baseline;
use collective::threads;
use std::thread;

fn surrogate(metrics: &crate::StepMetrics) -> SurrogateMetrics {
    metrics.policy.as_ref().unwrap().surrogate.unwrap()
}

fn running() -> LearnerConfig {
    LearnerConfig {
        baseline: Baseline::RunningMean,
        ..config()
    }
}

/// RU-1. The next batch is compared with this one, which counts once.
#[test]
fn ru_1_the_running_baseline_takes_a_batch_in_once() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), running());
    let before = [group(&[3], &[(&[6], 1.0), (&[7], 0.5)])];
    learner.rl_step(&before).unwrap();
    let mut batch = batch();
    batch[0].samples[0].weight_version = WeightVersion(1);
    let first = learner.rl_step(&batch).unwrap();
    let after = learner.reward_history;
    for _ in 0..3 {
        let again = learner.rl_step(&batch).unwrap();
        let means = [&first, &again].map(|metrics| surrogate(metrics).advantage_mean);
        assert_eq!(means[0], means[1]);
        assert_eq!(learner.reward_history, after);
    }
    let mean = first.policy.unwrap().reward_mean;
    // 0.05 · (0.95 · 0.75 + mean), and 0.05 · (0.95 + 1).
    assert!((after.sum - 0.05 * (0.95 * 0.75 + mean)).abs() < 1e-12);
    assert!((after.weight - 0.05 * 1.95).abs() < 1e-12);
    batch[0].samples[0].weight_version = WeightVersion(5);
    learner.rl_step(&batch).unwrap();
    assert!(
        learner.reward_history.weight > after.weight,
        "another batch"
    );
}

/// RU-1 where a replica joins in the middle of a batch, and shares are others than before.
#[test]
fn ru_1_a_replica_that_joins_knows_the_batch() {
    let home = folder(LLAMA);
    let mut old = learner(home.path(), running());
    old.rl_step(&[group(&[3], &[(&[6], 1.0), (&[7], 0.5)])])
        .unwrap();
    let first = old.rl_step(&batch()).unwrap();
    let history = old.reward_history;
    let new = learner(home.path(), running());
    let found: Vec<_> = thread::scope(|scope| {
        let members = threads(2).into_iter().zip([old, new]).enumerate();
        let handles: Vec<_> = members
            .map(|(rank, (member, mut learner))| {
                scope.spawn(move || {
                    as_a_replica(&mut learner);
                    learner.join(Box::new(member)).unwrap();
                    let metrics = learner.rl_step(&share(&batch(), rank, 2)).unwrap();
                    (surrogate(&metrics).advantage_mean, learner.reward_history)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    for (mean, after) in found {
        assert!((mean - surrogate(&first).advantage_mean).abs() < 1e-12);
        assert_eq!(after, history);
    }
}

/// Beside a sampler that rounds otherwise, the first update has every ratio at 1: it descends what
/// REINFORCE does, and clips nothing.
#[test]
fn ru_2_the_first_update_clips_nothing_however_the_sampler_differs() {
    let groups = stale_groups();
    let home = folder(LLAMA);
    for mode in [
        ImportanceMode::Off,
        ImportanceMode::Truncated,
        ImportanceMode::Masked,
    ] {
        let gradients = [LossKind::Reinforce, LossKind::PpoClip].map(|kind| {
            let mut config = plain_policy();
            config.loss.kind = kind;
            config.importance.mode = mode;
            let mut learner = learner(home.path(), config);
            let metrics = learner.accumulate_policy(&groups).unwrap();
            let seen = surrogate(&metrics);
            assert_eq!([seen.clip_low_share, seen.clip_high_share], [0.0; 2]);
            assert_eq!(
                seen.importance_weight_mean == 1.0,
                mode == ImportanceMode::Off
            );
            take_gradient(&mut learner)
        });
        let difference = relative_difference(&gradients[0], &gradients[1]);
        assert!(difference < 1e-6, "{mode:?}: {difference}");
    }
}

/// RU-2, against autograd on sequences one by one: the ratio is that of the policy now and at the
/// batch's first update, the weight that of the latter and the sampler.
#[test]
fn ru_2_later_updates_are_held_near_the_first() {
    let groups = stale_groups();
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let config = LearnerConfig {
            loss: LossConfig {
                kind: LossKind::PpoClip,
                ..Default::default()
            },
            importance: ImportanceConfig {
                mode: ImportanceMode::Truncated,
                cap: 1.5,
                ..Default::default()
            },
            ..plain_policy()
        };
        let mut learner = learner(home.path(), config);
        let samples = groups
            .iter()
            .flat_map(|g| g.samples.iter().map(move |s| (g, s)));
        let old: Vec<Tensor> = samples
            .map(|(g, s)| plain_logprobs(learner.decoder(), &g.prompt, &s.tokens, 0.7f32.into()))
            .map(|old| Tensor::from_slice(&old).to_kind(Kind::Float))
            .collect();
        learner.rl_step(&groups).unwrap();
        learner.set_micro_batch_tokens(8);
        let second = learner.accumulate_policy(&groups).unwrap();
        let gradient = take_gradient(&mut learner);
        let plain = separate_gradient(&mut learner, &groups, |actions| {
            let losses = actions.iter().zip(&old).map(|(action, old)| {
                let weight = (old - &action.behaviour).exp().clamp_max(1.5);
                let ratio = (&action.logprobs - old).exp();
                let free = -(&ratio * action.reward);
                let held = -(ratio.clamp(0.8, 1.2) * action.reward);
                (weight * free.maximum(&held)).sum(Kind::Float)
            });
            let tokens: usize = old.iter().map(Tensor::numel).sum();
            losses.sum::<Tensor>() / tokens as f64
        });
        let difference = relative_difference(&gradient, &plain);
        assert!(difference < 1e-4, "{name}: {difference}");
        let seen = surrogate(&second);
        assert!(seen.clip_low_share + seen.clip_high_share > 0.0, "{name}");
        assert!(seen.importance_bounded_share > 0.0, "{name}");
    }
}
