//! Questions, steps and trajectories for tests.

use proto::{
    Action, FinishReason, ItemId, Label, MalformedKind, Observation, Question, ReferenceStep, Span,
    Step, StepView, ToolCall, Trajectory, TrajectoryEnd, Verdict, WeightVersion,
};

pub fn question(text: &str, key: &str) -> Question {
    Question {
        id: "q-1".into(),
        dataset: "unit".into(),
        split: "test".into(),
        question: text.into(),
        answer: key.into(),
        answer_aliases: vec![],
        reference_steps: vec![],
    }
}

/// A question with calculator reference steps, each `(arguments, result)`.
pub fn solved(text: &str, key: &str, steps: &[(&str, &str)]) -> Question {
    let reference_steps = steps
        .iter()
        .map(|(arguments, result)| reference_step("calculator", arguments, result))
        .collect();
    Question {
        reference_steps,
        ..question(text, key)
    }
}

pub fn reference_step(tool: &str, arguments: &str, result: &str) -> ReferenceStep {
    ReferenceStep {
        thought: String::new(),
        tool: tool.into(),
        arguments: arguments.into(),
        result: result.into(),
    }
}

fn view(action: Action, text: String, observation: Option<&str>) -> StepView {
    StepView {
        text,
        thought: String::new(),
        action,
        observation: observation.map(Into::into),
    }
}

pub fn call_of(tool: &str, arguments: &str, observation: &str) -> StepView {
    let action = Action::Call(ToolCall {
        tool: tool.into(),
        arguments: arguments.into(),
    });
    view(
        action,
        format!("<{tool}>{arguments}</{tool}>"),
        Some(observation),
    )
}

pub fn call(arguments: &str, observation: &str) -> StepView {
    call_of("calculator", arguments, observation)
}

pub fn answer(text: &str) -> StepView {
    view(
        Action::Answer(text.into()),
        format!("<answer>{text}</answer>"),
        None,
    )
}

pub fn malformed(kind: MalformedKind) -> StepView {
    view(Action::Malformed(kind), "hmm".into(), None)
}

/// A trajectory of these steps; each step is one sampled token, each observation another.
pub fn trajectory(question: Question, views: Vec<StepView>) -> Trajectory {
    let mut tokens = vec![0];
    let mut steps = vec![];
    for view in views {
        let start = tokens.len() as u32;
        tokens.push(1);
        let observation = view.observation.map(|text| {
            tokens.push(2);
            let span = Span {
                start: start + 1,
                end: start + 2,
            };
            Observation {
                text,
                span,
                is_error: false,
                latency_us: 0,
            }
        });
        steps.push(Step {
            sampled: Span {
                start,
                end: start + 1,
            },
            logprobs: vec![-0.5],
            weight_version: WeightVersion(0),
            finish: FinishReason::StopText,
            text: view.text,
            thought: view.thought,
            action: view.action,
            observation,
            verdicts: vec![],
        });
    }
    let item = ItemId {
        question: question.id.clone(),
        sample: 0,
    };
    let end = TrajectoryEnd::Answered;
    let model = "m".to_owned();
    Trajectory {
        run: "r".into(),
        item,
        question,
        model,
        tokens,
        steps,
        end,
        outcome: None,
    }
}

pub fn verdict(judge: &str, label: Label) -> Verdict {
    Verdict {
        judge: judge.into(),
        model: "v1".into(),
        prompt_hash: String::new(),
        label,
        score: if label == Label::Good { 1.0 } else { 0.0 },
        rationale: String::new(),
    }
}
