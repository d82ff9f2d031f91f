use super::*;
use crate::samples::{answer, call, call_of, malformed, question, reference_step, solved};
use proto::{Label, MalformedKind};

fn clips() -> Question {
    solved("How many clips?", "72", &[("48/2", "24"), ("48+24", "72")])
}

fn check(question: &Question, history: &[StepView], step: StepView, wanted: &str) {
    let text = step.text.clone();
    let context = StepContext::new(question.clone(), history.to_vec(), step);
    let verdict = ReferenceJudge::new().verdict(&context).unwrap();
    let good = wanted == "ok";
    assert_eq!(
        verdict.label == Label::Good,
        good,
        "{text}: {}",
        verdict.rationale
    );
    assert!(
        good || verdict.rationale.contains(wanted),
        "{text}: {}",
        verdict.rationale
    );
}

#[test]
fn calculations() {
    let half = call("48/2", "24");
    let both = [half.clone(), call("48+24", "72")];
    let rows: Vec<(&[StepView], &str, &str)> = vec![
        (&[], "48/2", "ok"),
        (&[], "12*2", "ok"),  // the value counts, not the way to it
        (&[], "48+24", "ok"), // order is free
        (&[], "48*2", "96 is no open step"),
        (&[], "48/0", "no value"),
        (&[], "half", "no value"),
        (&both[..1], "48+24", "ok"),
        (&both[..1], "48/2", "24 is no open step"),
        (&both[1..], "48/2", "the answer had been obtained"),
        (&both, "72/1", "the answer had been obtained"),
    ];
    for (history, expression, wanted) in rows {
        check(&clips(), history, call(expression, "unseen"), wanted);
    }
}

#[test]
fn a_result_counts_as_often_as_it_occurs() {
    // 10, 20 and 10 again; the answer is 10.
    let question = solved("?", "10", &[("5+5", "10"), ("10+10", "20"), ("20/2", "10")]);
    let steps = [call("5+5", "10"), call("10+10", "20"), call("20/2", "10")];
    for index in 0..3 {
        check(&question, &steps[..index], steps[index].clone(), "ok");
    }
    check(&question, &steps[..1], steps[0].clone(), "ok"); // the value 10 is open once more
    check(
        &question,
        &steps,
        call("10+10", "20"),
        "the answer had been obtained",
    );
    check(
        &question,
        &steps[1..2],
        call("10+10", "20"),
        "20 is no open step",
    );
}

#[test]
fn rounded_results_agree() {
    let question = solved("?", "6.67", &[("10/3", "3.33"), ("10/3*2", "6.67")]);
    check(&question, &[], call("10/3", ""), "ok");
    check(
        &question,
        &[call("10/3", "3.33333333333")],
        call("3.33333333333*2", ""),
        "ok",
    );
    check(&question, &[], call("3.34*1", ""), "no open step");
    let percent = solved("?", "20%", &[("10/50", "20%")]);
    check(&percent, &[], call("10/50", ""), "ok");
    check(&percent, &[], call("10/50*100", ""), "ok");
}

#[test]
fn answers_and_malformed_steps() {
    check(&clips(), &[], answer("72"), "ok");
    check(&clips(), &[], answer("$72.00"), "ok");
    check(&clips(), &[], answer("73"), "differs from the key");
    check(&clips(), &[], answer(""), "differs from the key");
    for kind in MalformedKind::ALL {
        check(&clips(), &[], malformed(kind), kind.name());
    }
}

#[test]
fn earlier_failures_and_other_tools_use_nothing_up() {
    let history = [
        malformed(MalformedKind::NoAction),
        call("48/0", "error"),
        call_of("search", "24", "24"),
    ];
    check(&clips(), &history, call("48/2", ""), "ok");
}

#[test]
fn searches_stand_for_the_titles_of_the_solution() {
    let mut question = question("Who directed the film?", "Jean-Luc Godard");
    question.reference_steps = vec![
        reference_step("search", "Breathless (1960 film)", "…"),
        reference_step("search", "Jean-Luc Godard", "…"),
    ];
    let search = |query: &str| call_of("search", query, "");
    check(&question, &[], search("breathless 1960 film"), "ok");
    check(
        &question,
        &[],
        search("who directed Breathless (1960 film)?"),
        "ok",
    );
    check(&question, &[], search("jean luc godard"), "ok");
    check(&question, &[], search("breathless"), "no open step");
    check(
        &question,
        &[search("Jean-Luc Godard")],
        search("Jean-Luc Godard life"),
        "no open step",
    );
    check(
        &question,
        &[],
        call_of("web", "Jean-Luc Godard", ""),
        "does not use web",
    );
    check(&clips(), &[], search("clips"), "does not use search");
}

#[tokio::test]
async fn ju_2_no_annotation_is_an_error_and_no_verdict() {
    let judge = ReferenceJudge::new();
    assert!(judge.uses_reference());
    let bare = question("?", "72");
    assert!(!judge.can_judge(&bare) && judge.can_judge(&clips()));
    let context = |step| StepContext::new(bare.clone(), vec![], step);
    let error = judge.judge(&context(call("48/2", ""))).await.unwrap_err();
    assert_eq!(
        error,
        JudgeError::NoReference {
            question: "q-1".to_owned()
        }
    );
    assert_eq!(error.obstacle(), crate::Obstacle::Verdict);
    // What needs no annotation is judged all the same.
    assert_eq!(
        judge.judge(&context(answer("72"))).await.unwrap().label,
        Label::Good
    );
    let broken = context(malformed(MalformedKind::NoAction));
    assert_eq!(judge.judge(&broken).await.unwrap().label, Label::Bad);
}
