use super::*;
use MalformedKind::{NoAction, Truncated};
use proptest::prelude::*;
use proto::{FinishReason, WeightVersion};

fn limits() -> Limits {
    Limits {
        max_steps: 3,
        max_context_tokens: 100,
        max_action_tokens: 10,
        ends_on: BTreeSet::from([Truncated]),
    }
}

fn question() -> Question {
    Question {
        id: "q".into(),
        dataset: "d".into(),
        split: "train".into(),
        question: "48/2?".into(),
        answer: "24".into(),
        answer_aliases: vec![],
        reference_steps: vec![],
    }
}

fn begin(prompt: Vec<u32>, limits: Limits) -> (Rollout, Effect) {
    Rollout::new(
        ItemId {
            question: "q".into(),
            sample: 0,
        },
        question(),
        prompt,
        limits,
    )
}

fn completion(tokens: &[u32]) -> Completion {
    Completion {
        tokens: tokens.to_vec(),
        logprobs: tokens.iter().map(|&t| -(t as f32)).collect(),
        finish: FinishReason::StopText,
        text: "text".into(),
        weight_version: WeightVersion(2),
    }
}

fn call() -> Action {
    Action::Call(ToolCall {
        tool: "calculator".into(),
        arguments: "48/2".into(),
    })
}

fn answer() -> Action {
    Action::Answer("24".into())
}

fn sample(prompt: &[u32], max_tokens: u32) -> Effect {
    Effect::Sample {
        prompt: prompt.to_vec(),
        max_tokens,
    }
}

fn act(rollout: &mut Rollout, tokens: &[u32], action: Action) -> Effect {
    rollout
        .sampled(completion(tokens), "so".into(), action)
        .expect("an action is asked for")
}

fn see(rollout: &mut Rollout, tokens: &[u32]) -> Effect {
    rollout
        .observed("24".into(), tokens.to_vec(), false, 7)
        .expect("an observation is asked for")
}

#[test]
fn a_call_its_result_and_the_answer() {
    let (mut rollout, first) = begin(vec![1, 2], limits());
    assert_eq!(first, sample(&[1, 2], 10));
    let Action::Call(tool_call) = call() else {
        unreachable!("call() is a call")
    };
    assert_eq!(
        act(&mut rollout, &[3, 4], call()),
        Effect::Execute(tool_call)
    );
    assert_eq!(rollout.last_sampled(), [3, 4]);
    assert_eq!(see(&mut rollout, &[5]), sample(&[1, 2, 3, 4, 5], 10));
    let end = act(&mut rollout, &[6, 7], answer());
    assert_eq!(end, Effect::Finish(TrajectoryEnd::Answered));
    let trajectory = rollout.into_trajectory("r".into(), "m").unwrap();
    trajectory.validate().unwrap();
    assert_eq!(trajectory.tokens, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(trajectory.loss_mask(), [0, 0, 1, 1, 0, 1, 1]);
    assert_eq!(trajectory.answer(), Some("24"));
    assert_eq!(trajectory.steps[0].logprobs, [-3.0, -4.0]);
    let observation = trajectory.steps[0].observation.as_ref().unwrap();
    assert_eq!(
        (observation.span, observation.latency_us),
        (Span { start: 4, end: 5 }, 7)
    );
    assert_eq!(trajectory.steps[1].observation, None);
}

#[test]
fn ro_3_a_truncated_call_never_executes() {
    for ends in [false, true] {
        let ends_on = if ends {
            BTreeSet::from([Truncated])
        } else {
            BTreeSet::new()
        };
        let (mut rollout, _) = begin(
            vec![1],
            Limits {
                ends_on,
                ..limits()
            },
        );
        let effect = act(&mut rollout, &[2], Action::Malformed(Truncated));
        let expected = match ends {
            true => Effect::Finish(TrajectoryEnd::Malformed),
            false => Effect::Tell(Truncated),
        };
        assert_eq!(effect, expected);
    }
}

#[test]
fn the_model_is_told_of_a_malformed_action_and_goes_on() {
    let (mut rollout, _) = begin(vec![1], limits());
    assert_eq!(
        act(&mut rollout, &[2], Action::Malformed(NoAction)),
        Effect::Tell(NoAction)
    );
    let next = rollout
        .observed("Error: no action".into(), vec![3], true, 0)
        .unwrap();
    assert_eq!(next, sample(&[1, 2, 3], 10));
    assert!(rollout.steps()[0].observation.as_ref().unwrap().is_error);
}

#[test]
fn ro_4_limits_end_a_trajectory() {
    use TrajectoryEnd::{Answered, ContextLimit, Malformed, StepLimit};
    // A prompt of 4 tokens and one action of 3: the end it leads to, if it does.
    let cases: [(u32, u32, Action, Option<TrajectoryEnd>); 12] = [
        (0, 100, call(), Some(StepLimit)),
        (1, 4, call(), Some(ContextLimit)),
        (1, 100, call(), Some(StepLimit)),
        (1, 100, Action::Malformed(NoAction), Some(StepLimit)),
        (1, 100, Action::Malformed(Truncated), Some(Malformed)),
        (1, 100, answer(), Some(Answered)),
        (2, 7, call(), Some(ContextLimit)),
        (2, 7, Action::Malformed(Truncated), Some(ContextLimit)),
        (2, 7, Action::Malformed(NoAction), Some(ContextLimit)),
        (2, 7, answer(), Some(Answered)),
        (2, 8, call(), None),
        (2, 8, Action::Malformed(NoAction), None),
    ];
    for (max_steps, max_context_tokens, action, end) in cases {
        let limits = Limits {
            max_steps,
            max_context_tokens,
            ..limits()
        };
        let (mut rollout, mut effect) = begin(vec![9; 4], limits);
        if let Effect::Sample { max_tokens, .. } = effect {
            assert_eq!(max_tokens, 10.min(max_context_tokens - 4));
            effect = act(&mut rollout, &[1, 2, 3], action.clone());
        }
        let found = match effect {
            Effect::Finish(end) => Some(end),
            _ => None,
        };
        assert_eq!(
            found, end,
            "{max_steps} steps, {max_context_tokens} tokens, {action:?}"
        );
    }
}

#[test]
fn ro_4_a_long_observation_ends_the_trajectory_and_is_kept() {
    let (mut rollout, _) = begin(vec![1], limits());
    let _ = act(&mut rollout, &[2], call());
    assert_eq!(
        see(&mut rollout, &[3; 200]),
        Effect::Finish(TrajectoryEnd::ContextLimit)
    );
    let trajectory = rollout.into_trajectory("r".into(), "m").unwrap();
    trajectory.validate().unwrap();
    assert_eq!(trajectory.tokens.len(), 202);
    assert_eq!(
        trajectory.loss_mask().iter().filter(|&&m| m == 1).count(),
        1
    );
}

#[test]
fn ro_5_a_broken_completion_is_refused_and_changes_nothing() {
    type Damage = fn(&mut Completion);
    let damages: [(Damage, &str); 5] = [
        (
            |c| c.logprobs.truncate(1),
            "1 log-probabilities for 2 tokens",
        ),
        (|c| c.logprobs[1] = f32::NAN, "NaN is not finite"),
        (|c| c.logprobs[0] = f32::NEG_INFINITY, "-inf is not finite"),
        (|c| *c = completion(&[]), "no token"),
        (|c| *c = completion(&[7; 11]), "11 tokens where at most 10"),
    ];
    for (damage, words) in damages {
        let (mut rollout, _) = begin(vec![1], limits());
        let mut broken = completion(&[2, 3]);
        damage(&mut broken);
        let error = rollout
            .sampled(broken, String::new(), call())
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
        assert!(rollout.steps().is_empty() && rollout.last_sampled().is_empty());
        let _ = act(&mut rollout, &[2, 3], call());
    }
}

#[test]
fn an_event_that_nobody_asked_for_is_refused() {
    let observe = |r: &mut Rollout| r.observed(String::new(), vec![1], false, 0);
    let action = |r: &mut Rollout| r.sampled(completion(&[1]), String::new(), answer());
    let (mut rollout, _) = begin(vec![1], limits());
    assert!(matches!(
        observe(&mut rollout),
        Err(RolloutError::Unexpected { .. })
    ));
    let early = rollout
        .clone()
        .into_trajectory("r".into(), "m")
        .unwrap_err();
    assert_eq!(
        early.to_string(),
        "the end was reported while the rollout waits for an action"
    );
    let _ = act(&mut rollout, &[2], call());
    assert!(matches!(
        action(&mut rollout),
        Err(RolloutError::Unexpected { .. })
    ));
    let _ = see(&mut rollout, &[3]);
    let _ = act(&mut rollout, &[4], answer());
    for refused in [observe(&mut rollout), action(&mut rollout)] {
        assert!(refused.unwrap_err().to_string().ends_with("has ended"));
    }
}

#[derive(Debug, Clone)]
struct Turn {
    tokens: Vec<u32>,
    action: Action,
    observation: Vec<u32>,
}

fn turn() -> impl Strategy<Value = Turn> {
    let action = prop_oneof![
        5 => Just(call()),
        1 => Just(answer()),
        2 => (0..5usize).prop_map(|kind| Action::Malformed(MalformedKind::ALL[kind])),
    ];
    let ids = |range| proptest::collection::vec(any::<u32>(), range);
    (ids(1..12), action, ids(0..12)).prop_map(|(tokens, action, observation)| Turn {
        tokens,
        action,
        observation,
    })
}

proptest! {
    /// PITFALLS 1 and 3, under any dialogue and any limits.
    #[test]
    fn ro_1_to_5_hold_for_any_dialogue(
        prompt in proptest::collection::vec(any::<u32>(), 1..20),
        turns in proptest::collection::vec(turn(), 10),
        max_steps in 0..8u32,
        max_context_tokens in 0..80u32,
        max_action_tokens in 1..12u32,
        ends_on in proptest::collection::btree_set((0..5usize).prop_map(|k| MalformedKind::ALL[k]), 0..3),
    ) {
        let limits = Limits { max_steps, max_context_tokens, max_action_tokens, ends_on };
        let (mut rollout, mut effect) = begin(prompt.clone(), limits);
        let mut turns = turns.into_iter();
        let mut context = prompt;
        let mut mask = vec![0u8; context.len()];
        let mut observation = Vec::new();
        let mut calls = 0;
        loop {
            effect = match effect {
                Effect::Sample { prompt, max_tokens } => {
                    prop_assert_eq!(&prompt, &context, "RO-1");
                    prop_assert!(max_tokens >= 1 && max_tokens <= max_action_tokens, "RO-4");
                    prop_assert!(prompt.len() + max_tokens as usize <= max_context_tokens as usize);
                    let turn = turns.next().expect("RO-4 bounds the steps");
                    let tokens = &turn.tokens[..turn.tokens.len().min(max_tokens as usize)];
                    context.extend(tokens);
                    mask.resize(context.len(), 1);
                    observation = turn.observation;
                    calls += usize::from(matches!(turn.action, Action::Call(_)));
                    act(&mut rollout, tokens, turn.action)
                }
                Effect::Execute(_) | Effect::Tell(_) => {
                    let last = &rollout.steps().last().expect("an action came first").action;
                    let executes = matches!(&effect, Effect::Execute(_));
                    prop_assert_eq!(executes, matches!(last, Action::Call(_)), "RO-3");
                    context.extend(&observation);
                    mask.resize(context.len(), 0);
                    see(&mut rollout, &observation)
                }
                Effect::Finish(_) => break,
            };
        }
        let trajectory = rollout.into_trajectory("r".into(), "m").unwrap();
        prop_assert_eq!(trajectory.validate(), Ok(()), "RO-5");
        prop_assert_eq!(trajectory.loss_mask(), mask, "RO-2");
        prop_assert!(trajectory.steps.len() <= max_steps as usize, "RO-4");
        prop_assert_eq!(&trajectory.tokens, &context);
        let called = trajectory.steps.iter().filter(|s| matches!(s.action, Action::Call(_)));
        prop_assert_eq!(called.count(), calls);
    }
}
