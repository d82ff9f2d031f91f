//! Trajectories for tests.

use proptest::prelude::*;
use proto::*;

/// A small trajectory with a call, an observation and an answer.
pub(crate) fn trajectory(n: u32) -> Trajectory {
    let question = format!("q{n}");
    Trajectory {
        run: "r".into(),
        item: ItemId {
            question: question.as_str().into(),
            sample: n % 3,
        },
        question: Question {
            id: question.as_str().into(),
            dataset: "wordmath".into(),
            split: "train".into(),
            question: "What is half of 48?".into(),
            answer: "24".into(),
            answer_aliases: vec!["twenty-four".into()],
            reference_steps: vec![ReferenceStep {
                thought: "Half of 48 is".into(),
                tool: "calculator".into(),
                arguments: "48/2".into(),
                result: "24".into(),
            }],
        },
        model: "m".into(),
        tokens: (n..n + 9).collect(),
        steps: vec![call(), answer()],
        end: TrajectoryEnd::Answered,
        outcome: Some(verdict("exact")),
    }
}

fn call() -> Step {
    Step {
        sampled: Span { start: 2, end: 4 },
        logprobs: vec![-0.5, -0.25],
        weight_version: WeightVersion(1),
        finish: FinishReason::StopText,
        text: "Half: <math_exp>48/2</math_exp>".into(),
        thought: "Half: ".into(),
        action: Action::Call(ToolCall {
            tool: "calculator".into(),
            arguments: "48/2".into(),
        }),
        observation: Some(Observation {
            text: "48/2 -> 24".into(),
            span: Span { start: 4, end: 7 },
            is_error: false,
            latency_us: 12,
        }),
        verdicts: vec![verdict("rules"), verdict("llm")],
    }
}

fn answer() -> Step {
    Step {
        sampled: Span { start: 7, end: 9 },
        logprobs: vec![-1.0, 0.0],
        weight_version: WeightVersion(1),
        finish: FinishReason::EndOfTurn,
        text: "<answer>24</answer>".into(),
        thought: String::new(),
        action: Action::Answer("24".into()),
        observation: None,
        verdicts: vec![],
    }
}

fn verdict(judge: &str) -> Verdict {
    Verdict {
        judge: judge.into(),
        model: "v1".into(),
        prompt_hash: "00ff".into(),
        label: Label::Good,
        score: 0.75,
        rationale: String::new(),
    }
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let label = prop_oneof![Just(Label::Good), Just(Label::Bad)];
    ("[a-z]{0,4}", any::<String>(), label, any_f32()).prop_map(
        |(judge, rationale, label, score)| {
            let (model, prompt_hash) = (rationale.chars().rev().collect(), judge.to_uppercase());
            Verdict {
                judge,
                model,
                prompt_hash,
                label,
                score,
                rationale,
            }
        },
    )
}

/// Finite, of any magnitude, negative zero and denormals included.
fn any_f32() -> impl Strategy<Value = f32> {
    any::<u32>()
        .prop_map(f32::from_bits)
        .prop_filter("finite", |value| value.is_finite())
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (any::<String>(), any::<String>())
            .prop_map(|(tool, arguments)| Action::Call(ToolCall { tool, arguments })),
        any::<String>().prop_map(Action::Answer),
        (0..5usize).prop_map(|kind| Action::Malformed(MalformedKind::ALL[kind])),
    ]
}

/// What a step consists of, spans aside.
type Parts = (
    Vec<f32>,
    u64,
    FinishReason,
    (String, String),
    Action,
    Option<Seen>,
    Vec<Verdict>,
);
/// Text, number of tokens, error, latency.
type Seen = (String, u32, bool, u64);

fn any_parts() -> impl Strategy<Value = Parts> {
    let finish = prop_oneof![
        Just(FinishReason::EndOfTurn),
        Just(FinishReason::StopText),
        Just(FinishReason::Length)
    ];
    (
        proptest::collection::vec(any_f32(), 0..6),
        any::<u64>(),
        finish,
        any::<(String, String)>(),
        any_action(),
        proptest::option::of((any::<String>(), 0..6u32, any::<bool>(), any::<u64>())),
        proptest::collection::vec(any_verdict(), 0..3),
    )
}

fn steps(prompt: u32, parts: Vec<Parts>) -> (u32, Vec<Step>) {
    let mut at = prompt;
    let mut take = |len: u32| {
        at += len;
        Span {
            start: at - len,
            end: at,
        }
    };
    let mut steps = Vec::new();
    for (logprobs, version, finish, (text, thought), action, seen, verdicts) in parts {
        let sampled = take(logprobs.len() as u32);
        let observation = seen.map(|(text, len, is_error, latency_us)| Observation {
            text,
            span: take(len),
            is_error,
            latency_us,
        });
        steps.push(Step {
            sampled,
            logprobs,
            weight_version: WeightVersion(version),
            finish,
            text,
            thought,
            action,
            observation,
            verdicts,
        });
    }
    (at, steps)
}

fn any_question() -> impl Strategy<Value = Question> {
    let texts = any::<[String; 6]>();
    let aliases = proptest::collection::vec(any::<String>(), 0..3);
    let reference =
        any::<[String; 4]>().prop_map(|[thought, tool, arguments, result]| ReferenceStep {
            thought,
            tool,
            arguments,
            result,
        });
    (texts, aliases, proptest::collection::vec(reference, 0..3)).prop_map(
        |([id, dataset, split, question, answer, _], answer_aliases, reference_steps)| Question {
            id: QuestionId(id),
            dataset,
            split,
            question,
            answer,
            answer_aliases,
            reference_steps,
        },
    )
}

/// Any valid trajectory.
pub(crate) fn any_trajectory() -> impl Strategy<Value = Trajectory> {
    let ends = [
        TrajectoryEnd::Answered,
        TrajectoryEnd::Malformed,
        TrajectoryEnd::StepLimit,
        TrajectoryEnd::ContextLimit,
    ];
    (
        any_question(),
        any::<u32>(),
        any::<(String, String)>(),
        (0..8u32, any::<u32>()),
        proptest::collection::vec(any_parts(), 0..4),
        (0..ends.len()).prop_map(move |end| ends[end]),
        proptest::option::of(any_verdict()),
    )
        .prop_map(
            |(question, sample, (run, model), (prompt, seed), parts, end, outcome)| {
                let (len, steps) = steps(prompt, parts);
                Trajectory {
                    run: RunId(run),
                    item: ItemId {
                        question: question.id.clone(),
                        sample,
                    },
                    question,
                    model,
                    tokens: (0..len).map(|n| seed.wrapping_mul(n | 1)).collect(),
                    steps,
                    end,
                    outcome,
                }
            },
        )
}
