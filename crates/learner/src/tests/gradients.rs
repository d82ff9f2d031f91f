//! Packed gradients against those of separate sequences, masks, normalisation, and the KL term.

use super::separate::{Separate, plain_policy, separate_gradient, stale_groups, token_mean};
use super::*;
use crate::LoraConfig;
use crate::batch::{Limits, actions, packed};
use crate::pass::{HeadOptions, StepError, score};
use algo::loss::{KlTerm, Normalisation};
use model::Projection;
use proptest::prelude::*;
use std::cell::RefCell;

fn reinforce(actions: &[Separate]) -> Tensor {
    token_mean(actions, |a| -a.reward * &a.logprobs)
}

/// Trajectories of several states, each state the one before with something behind it.
fn random_groups() -> impl Strategy<Value = Vec<StateGroup>> {
    // Few distinct tokens, so that actions often begin alike, and like what follows a state.
    let token = || 1u32..4;
    let action = (proptest::collection::vec(token(), 1..7), -1.0f32..1.0);
    let start = proptest::collection::vec(1..VOCABULARY, 1..9);
    let state = (
        proptest::collection::vec(token(), 1..5),
        proptest::collection::vec(action, 1..5),
    );
    let trajectory = (start, proptest::collection::vec(state, 1..4)).prop_map(|(start, states)| {
        let mut prompt = start.clone();
        let mut groups = Vec::new();
        for (more, actions) in states {
            let samples: Vec<(&[u32], f32)> = actions.iter().map(|(a, r)| (&a[..], *r)).collect();
            groups.push(StateGroup {
                trajectory_id: format!("from {start:?}"),
                ..group(&prompt, &samples)
            });
            prompt.extend(more);
        }
        groups
    });
    proptest::collection::vec(trajectory, 1..4).prop_map(|all| all.concat())
}

/// Packed equals separate, for every architecture, any budget, with and without recomputation.
fn packed_equals_separate(config: &LearnerConfig, cases: u32) {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let mut learner = learner(home.path(), config.clone());
        // Fresh adapters have no gradient by A: away from the start.
        learner.rl_step(&stale_groups()).unwrap();
        let learner = RefCell::new(learner);
        let cases = ProptestConfig {
            cases,
            failure_persistence: None,
            ..Default::default()
        };
        let batches = (random_groups(), 1usize..60, any::<bool>());
        proptest!(cases, |((groups, budget, recompute) in batches)| {
            let mut learner = learner.borrow_mut();
            learner.set_micro_batch_tokens(budget);
            learner.set_activation_checkpointing(recompute);
            learner.accumulate_policy(&groups).unwrap();
            let found = take_gradient(&mut learner);
            let expected = separate_gradient(&mut learner, &groups, reinforce);
            let difference = relative_difference(&found, &expected);
            prop_assert!(difference < 1e-5, "{}: {}", name, difference);
        });
    }
}

/// PITFALLS 15 and 8.
#[test]
fn le_1_packed_equals_separate_sequences() {
    packed_equals_separate(&plain_policy(), 24);
}

#[test]
fn le_1_packed_equals_separate_under_lora() {
    let lora = LoraConfig {
        rank: 3,
        alpha: 5.0,
        targets: vec![Projection::VProj, Projection::QProj, Projection::UpProj],
        ..Default::default()
    };
    packed_equals_separate(
        &LearnerConfig {
            lora: Some(lora),
            ..plain_policy()
        },
        8,
    );
}

#[test]
fn le_1_packed_equals_separate_above_frozen_layers() {
    let freeze = ["embedding", "output", "layers.0."].map(String::from);
    // The tied embedding is the output matrix, too, and stays trained in neither role.
    for frozen in [&freeze[..1], &freeze[2..]] {
        packed_equals_separate(
            &LearnerConfig {
                freeze: frozen.to_vec(),
                ..plain_policy()
            },
            6,
        );
    }
}

/// States share what they have in common, whatever trajectory they are of: fewer tokens run than for
/// each alone.
#[test]
fn states_share_their_prefix() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), plain_policy());
    let mut tokens_run = |groups: &[StateGroup]| {
        let metrics = learner.accumulate_policy(groups).unwrap();
        let _ = take_gradient(&mut learner);
        metrics.packed_tokens
    };
    let mut groups = stale_groups();
    let alone: usize = groups
        .iter()
        .map(|g| tokens_run(std::slice::from_ref(g)))
        .sum();
    // The first state's three tokens and the action 6, 7 that the second goes on from; the last
    // token of an action is never run.
    assert_eq!(alone - tokens_run(&groups), 3 + 1);
    groups[1].trajectory_id = "another".into();
    assert_eq!(alone - tokens_run(&groups), 3 + 1);
}

/// Dialogues that begin alike, as with the same system message, run their beginning once.
#[test]
fn dialogues_share_their_prefix() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    let dialogue = |own: &[u32]| SftSample {
        tokens: [&[5, 6, 7, 8], own].concat(),
        mask: [&[0; 4][..], &vec![1; own.len()]].concat(),
    };
    let samples = [
        dialogue(&[1, 2, 3]),
        dialogue(&[1, 4]),
        dialogue(&[9, 2, 3]),
    ];
    let metrics = learner.accumulate_supervised(&samples).unwrap();
    assert_eq!(metrics.sequence_tokens, 6 + 5 + 6);
    assert_eq!(metrics.packed_tokens, 4 + 2 + 2);
}

#[test]
fn packed_logprobs_equal_separate_ones() {
    for (name, json) in ARCHITECTURES {
        let home = folder(json);
        let learner = learner(home.path(), config());
        let groups = [
            group(
                &[5, 6, 7, 8, 9],
                &[(&[1, 2, 3, 4], 0.0), (&[1, 2, 9], 0.0), (&[4], 0.0)],
            ),
            group(&[5, 6], &[(&[7, 8, 1], 0.0), (&[7, 8, 1], 0.0)]),
        ];
        let limits = Limits::of(learner.decoder().spec());
        let batches = packed(&actions(&groups, limits).unwrap(), 100).unwrap();
        assert_eq!(batches.len(), 1);
        let samples: Vec<_> = groups
            .iter()
            .flat_map(|g| g.samples.iter().map(move |s| (g, s)))
            .collect();
        let mut seen = 0;
        let options = HeadOptions {
            temperature: 0.8,
            chunk_tokens: 2,
            in_f32: false,
        };
        score(learner.decoder(), &batches, options, |target, logprob| {
            let (group, sample) = samples[target.sample];
            let plain = plain_logprobs(learner.decoder(), &group.prompt, &sample.tokens, 0.8);
            let expected = plain[target.offset - group.prompt.len()];
            assert!(
                (logprob - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{name}"
            );
            seen += 1;
        });
        assert_eq!(seen, 4 + 3 + 1 + 3 + 3);
    }
}

#[test]
fn le_1_micro_batches_do_not_change_a_supervised_gradient() {
    let home = folder(LLAMA);
    let samples: Vec<SftSample> = (1..9u32)
        .map(|i| {
            let tokens: Vec<u32> = (0..4 + i).map(|t| (t * i) % VOCABULARY).collect();
            let mask: Vec<u8> = (0..tokens.len())
                .map(|t| u8::from(t > 0 && t % 3 != 0))
                .collect();
            dialogue(&tokens, &mask)
        })
        .collect();
    for normalisation in [Normalisation::TokenMean, Normalisation::SequenceMean] {
        let mut learner = learner(
            home.path(),
            LearnerConfig {
                normalisation,
                ..config()
            },
        );
        let mut gradient = |budget| {
            learner.set_micro_batch_tokens(budget);
            let metrics = learner.accumulate_supervised(&samples).unwrap();
            (take_gradient(&mut learner), metrics)
        };
        let (whole, at_once) = gradient(1000);
        let (pieces, apart) = gradient(1);
        assert_eq!((at_once.micro_batches, apart.micro_batches), (1, 8));
        assert!(relative_difference(&pieces, &whole) < 1e-5);
        assert!((at_once.loss - apart.loss).abs() < 1e-6);
    }
}

/// PITFALLS 3 and 16: the loss hears of trained tokens only.
#[test]
fn le_2_an_untrained_label_does_not_change_the_loss() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    let mut loss = |tokens: &[u32], mask: &[u8]| {
        learner
            .accumulate_supervised(&[dialogue(tokens, mask)])
            .unwrap()
            .loss
    };
    let mask = [0, 0, 1, 1, 0, 0];
    let base = loss(&[3, 4, 5, 6, 7, 8], &mask);
    assert_eq!(
        base,
        loss(&[3, 4, 5, 6, 9, 1], &mask),
        "what follows is neither label nor context"
    );
    assert_ne!(
        base,
        loss(&[3, 4, 5, 7, 7, 8], &mask),
        "a trained label counts"
    );
    let expected = {
        let plain = plain_logprobs(learner.decoder(), &[3, 4], &[5, 6], 1.0);
        -plain.iter().sum::<f64>() / 2.0
    };
    assert!((base - expected).abs() < 1e-5, "{base} for {expected}");
}

/// PITFALLS 16: of a longer trajectory only the last action is trained; 3: the state never is.
#[test]
fn le_2_a_policy_step_trains_the_last_action_only() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), plain_policy());
    let earlier_action_and_result = [3, 4, 5, 6, 11, 12];
    let metrics = learner
        .accumulate_policy(&[group(&earlier_action_and_result, &[(&[7, 8, 2], 1.0)])])
        .unwrap();
    assert_eq!(metrics.trained_tokens, 3);
    let plain = plain_logprobs(
        learner.decoder(),
        &earlier_action_and_result,
        &[7, 8, 2],
        0.7f32.into(),
    );
    assert!((metrics.loss + plain.iter().sum::<f64>() / 3.0).abs() < 1e-5);
}

/// PITFALLS 4: the last token, such as an end of turn, is trained, and id 0 is a token like others.
#[test]
fn the_last_token_and_token_zero_are_trained() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), plain_policy());
    for action in [&[7, 8, 2][..], &[7, 0, 2], &[0, 0, 0]] {
        let metrics = learner
            .accumulate_policy(&[group(&[0, 4], &[(action, 1.0)])])
            .unwrap();
        let plain = plain_logprobs(learner.decoder(), &[0, 4], action, 0.7f32.into());
        assert!(
            (metrics.loss + plain.iter().sum::<f64>() / 3.0).abs() < 1e-5,
            "{action:?}"
        );
    }
}

/// PITFALLS 9.
#[test]
fn a_zero_variance_group_pulls_by_exactly_nothing() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    let flat = group(
        &[3, 4, 5],
        &[(&[6, 7], 0.3), (&[8], 0.3), (&[9, 1, 2], 0.3)],
    );
    let metrics = learner
        .accumulate_policy(std::slice::from_ref(&flat))
        .unwrap();
    assert!(take_gradient(&mut learner).iter().all(|g| *g == 0.0));
    assert_eq!(metrics.policy.unwrap().zero_variance_share, 1.0);
    // With a term for all tokens, advantages of 0 still add nothing to it.
    let varied = group(&[3, 4], &[(&[6, 7], 1.0), (&[8], 0.0)]);
    learner
        .accumulate_policy(std::slice::from_ref(&varied))
        .unwrap();
    let alone: Vec<f32> = take_gradient(&mut learner);
    let metrics = learner.accumulate_policy(&[varied, flat]).unwrap();
    let beside = take_gradient(&mut learner);
    // Nine tokens in the global batch instead of three.
    let rescaled: Vec<f32> = beside.iter().map(|g| g * 3.0).collect();
    assert_eq!(metrics.trained_tokens, 9);
    assert!(relative_difference(&rescaled, &alone) < 1e-5);
}

/// PITFALLS 10: at the reference itself k2 and k3 pull by nothing; away from it they do.
#[test]
fn kl_is_zero_at_the_reference_and_positive_away_from_it() {
    let home = folder(LLAMA);
    let groups = [group(&[3, 4, 5], &[(&[6, 7], 0.5), (&[8, 1], 0.5)])];
    for term in [KlTerm::K2Loss, KlTerm::K3Loss] {
        let mut config = config();
        config.kl = crate::KlConfig {
            coefficient: 0.5,
            term,
        };
        let mut learner = learner(home.path(), config);
        let metrics = learner.accumulate_policy(&groups).unwrap();
        assert!(take_gradient(&mut learner).iter().all(|g| g.abs() < 1e-6));
        assert!(metrics.policy.unwrap().kl.unwrap().abs() < 1e-6);
        for _ in 0..3 {
            learner
                .sft_step(&[dialogue(&[3, 4, 5, 9, 9], &[0, 0, 0, 1, 1])])
                .unwrap();
        }
        let metrics = learner.accumulate_policy(&groups).unwrap();
        assert!(
            take_gradient(&mut learner).iter().any(|g| g.abs() > 1e-4),
            "{term:?}"
        );
        assert!(metrics.policy.unwrap().kl.unwrap() > 1e-3);
    }
}

/// In the reward, the penalty changes advantages: the action the reference likes less is held back.
#[test]
fn k1_in_the_reward_makes_equal_rewards_differ() {
    let home = folder(LLAMA);
    let mut config = config();
    config.kl = crate::KlConfig {
        coefficient: 0.5,
        term: KlTerm::K1Reward,
    };
    let mut learner = learner(home.path(), config);
    let metrics = learner
        .accumulate_policy(&[group(&[3, 4, 5], &[(&[6, 7], 0.5), (&[8, 1], 0.5)])])
        .unwrap();
    assert!(take_gradient(&mut learner).iter().any(|g| *g != 0.0));
    let policy = metrics.policy.unwrap();
    assert!(policy.surrogate.unwrap().advantage_std > 0.0);
    assert_eq!(
        (policy.reward_mean, policy.reward_std),
        (0.5, 0.0),
        "the judge's rewards"
    );
}

#[test]
fn bad_batches_are_refused_by_name() {
    let home = folder(LLAMA);
    let mut learner = learner(home.path(), config());
    let good = group(&[3], &[(&[4], 1.0), (&[5], 0.0)]);
    let changed = |change: fn(&mut StateGroup)| {
        let mut group = good.clone();
        change(&mut group);
        vec![group]
    };
    for (groups, words) in [
        (vec![], "no trained token"),
        (changed(|g| g.samples.clear()), "no trained token"),
        (changed(|g| g.prompt.clear()), "no tokens to act upon"),
        (
            changed(|g| g.samples[1].tokens.clear()),
            "action 1: the action has no tokens",
        ),
        (
            changed(|g| g.samples[1].logprobs.clear()),
            "0 log-probabilities for 1 tokens",
        ),
        (
            changed(|g| g.samples[0].logprobs[0] = f32::NAN),
            "log-probability is NaN",
        ),
        (
            changed(|g| g.samples[0].reward = f32::NAN),
            "the reward is NaN",
        ),
        (
            changed(|g| g.samples[0].tokens[0] = VOCABULARY),
            "not in the vocabulary of 29",
        ),
        (
            changed(|g| g.prompt = vec![1; 64]),
            "65 tokens do not fit into the context of 64",
        ),
    ] {
        let error = learner.rl_step(&groups).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    for (sample, words) in [
        (dialogue(&[1, 2], &[0]), "1 mask entries for 2 tokens"),
        (dialogue(&[1, 2], &[1, 1]), "nothing predicts it"),
        (dialogue(&[1, 2], &[0, 7]), "must be 0 or 1"),
        (dialogue(&[1, 2], &[0, 0]), "no trained token"),
    ] {
        let error = learner.sft_step(&[sample]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(learner.step(), 0);
    assert!(take_gradient(&mut learner).iter().all(|g| *g == 0.0));
}

#[test]
fn le_3_a_gradient_that_is_not_finite_changes_nothing() {
    let home = folder(LLAMA);
    let mut learner = learner(
        home.path(),
        LearnerConfig {
            max_bad_steps: 2,
            ..config()
        },
    );
    let sample = [dialogue(&[3, 4, 5], &[0, 1, 1])];
    learner.sft_step(&sample).unwrap();
    let weights = |learner: &Learner| Vec::<f32>::try_from(&learner.flat.master).unwrap();
    let before = weights(&learner);
    let poison = |learner: &mut Learner| {
        let mut metrics = learner.accumulate_supervised(&sample).unwrap();
        let _ = learner.flat.gradient.get(5).fill_(f64::NAN);
        learner.apply(&mut metrics).map(|()| metrics)
    };
    let metrics = poison(&mut learner).unwrap();
    assert!(metrics.skipped && metrics.step == 2);
    assert_eq!(weights(&learner), before);
    assert!(matches!(
        poison(&mut learner),
        Err(StepError::TooManyBadSteps(2))
    ));
    assert!(
        !learner.sft_step(&sample).unwrap().skipped,
        "a good step goes on as if nothing was"
    );
}
