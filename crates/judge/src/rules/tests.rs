use super::*;
use crate::samples::{answer, call, call_of, malformed, question, solved};
use proto::{Label, MalformedKind};

const CLIPS: &str = "Natalia sold clips to 48 of her friends in April, and then she sold half as \
                     many in May. How many clips did she sell altogether?";
const SALE: &str = "A coat costs $80 and is sold at 25% off. What does it cost now?";
const TOWER: &str = "In which city does the Eiffel Tower stand?";

fn judged(text: &str, history: Vec<StepView>, step: StepView) -> Verdict {
    RulesJudge::default().verdict(&StepContext::new(question(text, "unused"), history, step))
}

#[test]
fn calculations() {
    let half = || vec![call("48/2", "48/2 -> 24")];
    let third = || vec![call("48/7", "48/7 -> 6.85714285714")];
    // question, history, expression, what the rationale says; `ok` where it is good
    let rows: Vec<(&str, Vec<StepView>, &str, &str)> = vec![
        (CLIPS, vec![], "48/2", "ok"),
        (CLIPS, vec![], "48*0.5", "ok"),
        (CLIPS, vec![], "48*1/2", "ok"),
        (CLIPS, half(), "48+24", "ok"),
        (CLIPS, vec![], "48+25", "operand: 25 is neither"),
        (CLIPS, vec![], "48*60", "ok"),
        (CLIPS, vec![], "48*61", "operand: 61 is neither"),
        (CLIPS, half(), "48/2", "repetition"),
        (CLIPS, half(), "48 / 2.0", "repetition"),
        (CLIPS, half(), "24/2", "ok"),
        (CLIPS, vec![], "48", "calculates nothing"),
        (CLIPS, vec![], "(48)", "calculates nothing"),
        (CLIPS, vec![], "-48", "calculates nothing"),
        (CLIPS, vec![], "pi", "calculates nothing"),
        (CLIPS, vec![], "48/0", "no value"),
        (CLIPS, vec![], "48+", "no value"),
        (CLIPS, vec![], "clips", "no value"),
        (CLIPS, vec![], "", "no value"),
        (CLIPS, third(), "6.86*2", "ok"),
        (CLIPS, third(), "6.85714285714*2", "ok"),
        (CLIPS, third(), "6.87*2", "operand: 6.87 is neither"),
        (CLIPS, third(), "7.5*2", "operand: 7.5 is neither"),
        // a result that was never shown grounds nothing; nor do the operands of an earlier call
        (
            CLIPS,
            vec![call("48/5", "error: timed out")],
            "48+9.6",
            "operand: 9.6",
        ),
        (CLIPS, vec![call("48/5", "48/5 -> 9.6")], "48+9.6", "ok"),
        (
            CLIPS,
            vec![call("99+1", "99+1 -> 100")],
            "99*2",
            "operand: 99",
        ),
        (
            CLIPS,
            vec![malformed(MalformedKind::NoAction)],
            "48/2",
            "ok",
        ),
        // percent: the number, its share, the rest
        (SALE, vec![], "80*25/100", "ok"),
        (SALE, vec![], "80*0.25", "ok"),
        (SALE, vec![], "80*25%", "ok"),
        (SALE, vec![], "80*0.75", "ok"),
        (SALE, vec![], "80*75/100", "ok"),
        (SALE, vec![], "80*0.3", "operand: 0.3"),
        // a number that a search found
        (
            TOWER,
            vec![call_of("search", "Eiffel Tower", "It is 330 m high.")],
            "330*100",
            "ok",
        ),
    ];
    for (text, history, expression, wanted) in rows {
        let verdict = judged(text, history, call(expression, "unseen"));
        check(&verdict, wanted, expression);
    }
}

fn check(verdict: &Verdict, wanted: &str, what: &str) {
    let good = wanted == "ok";
    assert_eq!(
        verdict.label == Label::Good,
        good,
        "{what}: {}",
        verdict.rationale
    );
    assert_eq!(verdict.score, if good { 1.0 } else { 0.0 });
    assert!(
        good || verdict.rationale.contains(wanted),
        "{what}: {}",
        verdict.rationale
    );
}

#[test]
fn answers_to_calculations() {
    let both = || vec![call("48/2", "48/2 -> 24"), call("48+24", "48+24 -> 72")];
    let thirds = || vec![call("10/3", "10/3 -> 3.33333333333")];
    let rows: Vec<(Vec<StepView>, &str, &str)> = vec![
        (both(), "72", "ok"),
        (both(), "72 clips", "ok"),
        (both(), "$72.00", "ok"),
        (both(), "24", "not the last result, 72"),
        (both(), "48 + 24 = 72", "not say one number"),
        (both(), "many", "not say one number"),
        (both(), " ", "it is empty"),
        (vec![], "72", "too little evidence"),
        (
            vec![malformed(MalformedKind::NoAction)],
            "72",
            "too little evidence",
        ),
        (
            vec![call("48/0", "error: division by zero")],
            "0",
            "brought no result",
        ),
        (thirds(), "3.33", "ok"),
        (thirds(), "3.33333333333", "ok"),
        (thirds(), "3", "not the last result"),
        (vec![call("1/4", "0.25")], "25%", "ok"),
        // an answer after a broken message follows from the result before it
        (
            vec![
                call("48/2", "48/2 -> 24"),
                malformed(MalformedKind::NoAction),
            ],
            "24",
            "ok",
        ),
    ];
    for (history, text, wanted) in rows {
        check(&judged(CLIPS, history, answer(text)), wanted, text);
    }
}

#[test]
fn an_answer_without_a_call_can_be_allowed() {
    let lenient = RulesJudge::new(RulesConfig {
        allow_answer_without_call: true,
    });
    let context = |text| StepContext::new(question(CLIPS, "x"), vec![], answer(text));
    assert_eq!(lenient.verdict(&context("72")).label, Label::Good);
    assert_eq!(lenient.verdict(&context("")).label, Label::Bad);
    let strict = RulesJudge::default().verdict(&context("72"));
    assert_ne!(
        lenient.verdict(&context("72")).prompt_hash,
        strict.prompt_hash
    );
}

#[test]
fn searches_and_their_answers() {
    let search = |query: &str| call_of("search", query, "The Eiffel Tower is a tower in Paris.");
    let rows: Vec<(Vec<StepView>, StepView, &str)> = vec![
        (vec![], search("Eiffel Tower"), "ok"),
        (vec![], search("where does the tower stand"), "ok"),
        (
            vec![],
            search("football results"),
            "no word of the question",
        ),
        (vec![], search("is it in the"), "no word of the question"),
        (vec![], search(" ?"), "asks nothing"),
        (
            vec![search("Eiffel Tower")],
            search("the Eiffel tower!"),
            "repetition",
        ),
        (vec![search("Eiffel Tower")], search("Paris city"), "ok"),
        (vec![search("Eiffel Tower")], answer("Paris"), "ok"),
        (vec![search("Eiffel Tower")], answer("paris."), "ok"),
        (
            vec![search("Eiffel Tower")],
            answer("London"),
            "not found by any search",
        ),
        (
            vec![search("Eiffel Tower")],
            answer("Par"),
            "not found by any search",
        ),
        (vec![search("Eiffel Tower")], answer("Yes"), "ok"),
        (vec![], answer("Paris"), "too little evidence"),
    ];
    for (history, step, wanted) in rows {
        let what = step.text.clone();
        check(&judged(TOWER, history, step), wanted, &what);
    }
}

#[test]
fn malformed_steps_are_bad() {
    for kind in MalformedKind::ALL {
        check(
            &judged(CLIPS, vec![], malformed(kind)),
            kind.name(),
            kind.name(),
        );
    }
}

#[tokio::test]
async fn ju_4_labels_are_not_looked_at() {
    let judge = RulesJudge::default();
    assert!(!judge.uses_reference());
    let history = vec![call("48/2", "48/2 -> 24")];
    for step in [
        call("48+24", ""),
        call("48+25", ""),
        answer("24"),
        answer("72"),
    ] {
        let bare = question(CLIPS, "nothing");
        let known = solved(
            CLIPS,
            "72",
            &[("48/2", "24"), ("48+24", "72"), ("48+25", "73")],
        );
        let one = judge
            .judge(&StepContext::new(bare, history.clone(), step.clone()))
            .await;
        let other = judge
            .judge(&StepContext::new(known, history.clone(), step))
            .await;
        assert_eq!(one, other);
    }
}
