//! The judges against the annotated solutions of GSM8K: what people wrote must mostly be GOOD, and
//! what is made wrong on purpose must be BAD.

use judge::{ProcessJudge, ReferenceJudge, RulesJudge, StepContext};
use proto::{Action, Label, Question, ReferenceStep, StepView, ToolCall};
use tools::calculator::evaluate;
use tools::number::format_number;

/// Questions with at least one annotated step, as dialogues; `None` where there is no data.
fn questions() -> Option<Vec<Question>> {
    let Ok(folder) = std::env::var("SWIRL_TEST_DATA") else {
        println!("skipped: SWIRL_TEST_DATA is not set");
        return None;
    };
    let path = std::path::Path::new(&folder).join("gsm8k_train.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let rows = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON row"));
    let annotated = rows.map(|row: serde_json::Value| question(&row));
    let judge = ReferenceJudge::new();
    Some(annotated.filter(|q| judge.can_judge(q)).collect())
}

fn question(row: &serde_json::Value) -> Question {
    let text = |key: &str| row[key].as_str().expect(key).to_owned();
    let solution = text("solution");
    let steps = solution.split("<<").skip(1).map(|rest| {
        let (inside, _) = rest.split_once(">>").expect("a closed annotation");
        let (arguments, result) = inside
            .rsplit_once('=')
            .expect("an annotation with a result");
        ReferenceStep {
            thought: String::new(),
            tool: "calculator".into(),
            arguments: arguments.into(),
            result: result.into(),
        }
    });
    Question {
        id: text("id").as_str().into(),
        dataset: text("dataset"),
        split: text("split"),
        question: text("question"),
        answer: text("answer"),
        answer_aliases: vec![],
        reference_steps: steps.collect(),
    }
}

/// The solution as a dialogue: each annotation a call with its result, then the answer.
fn dialogue(question: &Question) -> Vec<StepView> {
    let calls = question.reference_steps.iter().map(|step| {
        let arguments = step.arguments.clone();
        let result = evaluate(&arguments).map_or_else(|e| e.to_string(), |v| format_number(&v));
        let call = Action::Call(ToolCall {
            tool: step.tool.clone(),
            arguments,
        });
        view(call, Some(format!("{} -> {result}", step.arguments)))
    });
    calls
        .chain([view(Action::Answer(question.answer.clone()), None)])
        .collect()
}

fn view(action: Action, observation: Option<String>) -> StepView {
    StepView {
        text: String::new(),
        thought: String::new(),
        action,
        observation,
    }
}

/// GOOD and all, of calls and of answers.
#[derive(Default)]
struct Tally {
    calls: [usize; 2],
    answers: [usize; 2],
}

impl Tally {
    fn add(&mut self, step: &StepView, label: Label) {
        let counts = match step.action {
            Action::Answer(_) => &mut self.answers,
            _ => &mut self.calls,
        };
        counts[0] += usize::from(label == Label::Good);
        counts[1] += 1;
    }

    fn shares(&self) -> [f64; 2] {
        [self.calls, self.answers].map(|[good, all]| good as f64 / all as f64)
    }
}

fn tally(
    questions: &[Question],
    change: impl Fn(&StepView) -> StepView,
    judge: impl Fn(&StepContext) -> Label,
) -> Tally {
    let mut tally = Tally::default();
    for question in questions {
        let steps = dialogue(question);
        for (index, step) in steps.iter().enumerate() {
            let history = steps[..index].to_vec();
            let context = StepContext::new(question.clone(), history, change(step));
            tally.add(step, judge(&context));
        }
    }
    tally
}

/// A call with one number from nowhere, or another answer.
fn spoiled(step: &StepView) -> StepView {
    let action = match &step.action {
        Action::Call(call) => Action::Call(ToolCall {
            tool: call.tool.clone(),
            arguments: format!("{}+97531", call.arguments),
        }),
        _ => Action::Answer("97531.5".into()),
    };
    StepView {
        action,
        ..step.clone()
    }
}

#[test]
fn the_reference_judge_accepts_the_solutions_and_refuses_spoiled_ones() {
    let Some(questions) = questions() else { return };
    let judge = ReferenceJudge::new();
    let label = |context: &StepContext| judge.verdict(context).unwrap().label;
    let [calls, answers] = tally(&questions, StepView::clone, label).shares();
    // 15 of 23,716 annotations do not evaluate to what stands beside them.
    assert!(calls > 0.999 && answers == 1.0, "{calls} {answers}");
    assert_eq!(tally(&questions, spoiled, label).shares(), [0.0, 0.0]);
}

#[test]
fn the_rules_judge_accepts_most_of_the_solutions_and_refuses_spoiled_ones() {
    let Some(questions) = questions() else { return };
    let judge = RulesJudge::default();
    let label = |context: &StepContext| judge.verdict(context).label;
    let [calls, answers] = tally(&questions, StepView::clone, label).shares();
    // Most of the rest use a number that was counted or worked out in the head, or none at all
    // (`<<120=120>>`), or answer with an earlier result than the last.
    assert!(calls > 0.94 && answers > 0.94, "{calls} {answers}");
    assert_eq!(tally(&questions, spoiled, label).shares(), [0.0, 0.0]);
}
