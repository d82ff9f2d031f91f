//! Whole evaluations, from stored trajectories to the table.

#![expect(
    clippy::unwrap_used,
    reason = "clippy counts only functions marked as tests as tests"
)]

use eval::{
    EvalError, SampleScores, Scores, Table, compare, is_right, majority, paired_bootstrap,
    process_scores, summarise,
};
use proptest::prelude::*;
use proto::{
    Action, FinishReason, ItemId, Label, MalformedKind, Observation, Question, QuestionId,
    ReferenceStep, Span, Step, ToolCall, Trajectory, TrajectoryEnd, Verdict, WeightVersion,
};

fn verdict(judge: &str, label: Label) -> Verdict {
    Verdict {
        judge: judge.into(),
        model: "1".into(),
        prompt_hash: "0".repeat(64),
        label,
        score: if label == Label::Good { 1.0 } else { 0.0 },
        rationale: String::new(),
    }
}

/// A trajectory that grows step by step; each step samples two tokens.
struct Build(Trajectory);

impl Build {
    fn new(question: &str, sample: u32) -> Self {
        Self(Trajectory {
            run: "r".into(),
            item: ItemId {
                question: question.into(),
                sample,
            },
            question: Question {
                id: question.into(),
                dataset: "d".into(),
                split: "s".into(),
                question: "?".into(),
                answer: "72".into(),
                answer_aliases: vec!["seventy two".into()],
                reference_steps: vec![],
            },
            model: "m".into(),
            tokens: vec![0; 3],
            steps: vec![],
            end: TrajectoryEnd::StepLimit,
            outcome: None,
        })
    }

    fn step(mut self, action: Action, observed: Option<bool>, labels: &[(&str, Label)]) -> Self {
        let start = self.0.tokens.len() as u32;
        let end = start + 2;
        let observation = observed.map(|is_error| Observation {
            text: "o".into(),
            span: Span {
                start: end,
                end: end + 3,
            },
            is_error,
            latency_us: 1,
        });
        self.0
            .tokens
            .resize(end as usize + if observation.is_some() { 3 } else { 0 }, 0);
        self.0.steps.push(Step {
            sampled: Span { start, end },
            logprobs: vec![-0.1; 2],
            weight_version: WeightVersion(0),
            finish: FinishReason::StopText,
            text: String::new(),
            thought: String::new(),
            action,
            observation,
            verdicts: labels
                .iter()
                .map(|(judge, label)| verdict(judge, *label))
                .collect(),
        });
        self
    }

    fn call(self, failed: bool, labels: &[(&str, Label)]) -> Self {
        let call = ToolCall {
            tool: "calculator".into(),
            arguments: "1+1".into(),
        };
        self.step(Action::Call(call), Some(failed), labels)
    }

    fn answer(
        mut self,
        text: &str,
        outcome: Option<Label>,
        labels: &[(&str, Label)],
    ) -> Trajectory {
        self.0.end = TrajectoryEnd::Answered;
        self.0.outcome = outcome.map(|label| verdict("outcome", label));
        self.step(Action::Answer(text.into()), None, labels).0
    }
}

fn answered(question: &str, sample: u32, text: &str, right: bool) -> Trajectory {
    let label = if right { Label::Good } else { Label::Bad };
    Build::new(question, sample).answer(text, Some(label), &[])
}

/// Questions `q000`, `q001`, … with one sample each.
fn run(right: &[bool]) -> Vec<Trajectory> {
    let one = |(n, right): (usize, &bool)| answered(&format!("q{n:03}"), 0, "72", *right);
    right.iter().enumerate().map(one).collect()
}

const GOOD: Label = Label::Good;
const BAD: Label = Label::Bad;

fn sample() -> Vec<Trajectory> {
    let long = Build::new("a", 0)
        .call(false, &[("rules", GOOD), ("llm", GOOD)])
        .call(true, &[("rules", BAD)])
        .call(false, &[("rules", BAD)])
        .answer("seventy-two", Some(BAD), &[("rules", GOOD)]);
    let short = Build::new("b", 0).answer("72", Some(GOOD), &[("rules", GOOD)]);
    let mut broken = Build::new("c", 0)
        .step(Action::Malformed(MalformedKind::NoAction), Some(true), &[])
        .step(Action::Malformed(MalformedKind::Truncated), None, &[])
        .0;
    broken.end = TrajectoryEnd::Malformed;
    vec![long, short, broken]
}

#[test]
fn a_summary_counts_everything_once() {
    for trajectory in sample() {
        trajectory.validate().unwrap();
    }
    let s = summarise(&sample()).unwrap();
    assert_eq!((s.questions, s.trajectories), (3, 3));
    assert!((s.accuracy.estimate - 1.0 / 3.0).abs() < 1e-12);
    assert!(
        (s.exact_match - 1.0 / 3.0).abs() < 1e-12,
        "`seventytwo` is not `seventy two`"
    );
    assert!((s.calls_per_question - 1.0).abs() < 1e-12);
    assert!((s.steps_per_question - 7.0 / 3.0).abs() < 1e-12);
    assert!((s.well_formed - 5.0 / 7.0).abs() < 1e-12);
    assert_eq!((s.malformed["no_action"], s.malformed["truncated"]), (1, 1));
    assert_eq!(
        (s.malformed.len(), s.malformed.values().sum::<usize>()),
        (5, 2)
    );
    assert_eq!(
        (
            s.ends["answered"],
            s.ends["malformed"],
            s.ends["step_limit"]
        ),
        (2, 1, 0)
    );
    assert!(
        (s.tool_error_share - 1.0 / 3.0).abs() < 1e-12,
        "malformed steps are not tool errors"
    );
    assert_eq!(s.sampled_tokens, 14);
    assert!((s.mean_length_tokens - (20.0 + 5.0 + 10.0) / 3.0).abs() < 1e-12);
    let json = serde_json::to_value(&s).unwrap();
    assert_eq!(json["malformed"]["several_actions"], 0);
    assert_eq!(json["process"]["rules"]["steps"], 5);
}

#[test]
fn the_process_score_is_a_mean_of_means_by_judge() {
    let scores = process_scores(&sample(), 0);
    let rules = scores["rules"];
    // 2 of 4 good in the long one and 1 of 1 in the short one: not 3 of 5.
    assert!((rules.score - 0.75).abs() < 1e-12, "{rules:?}");
    assert_eq!((rules.trajectories, rules.steps), (2, 5));
    // Of the seven steps of all three, two were malformed and judged by nobody.
    assert!((rules.judged_share - 5.0 / 7.0).abs() < 1e-12, "{rules:?}");
    assert_eq!(rules.interval.estimate, rules.score);
    assert!(
        rules.interval.low >= 0.5 && rules.interval.high <= 1.0,
        "{rules:?}"
    );
    assert_eq!((scores["llm"].score, scores["llm"].trajectories), (1.0, 1));
    assert!(process_scores(&run(&[true]), 0).is_empty());
}

#[test]
fn ev_3_samples_of_a_question_are_one_in_the_process_score() {
    let mut all = Vec::new();
    for sample in 0..3 {
        all.push(Build::new("a", sample).answer("1", Some(BAD), &[("rules", BAD)]));
    }
    all.push(Build::new("b", 0).answer("72", Some(GOOD), &[("rules", GOOD)]));
    let score = process_scores(&all, 0)["rules"];
    assert_eq!((score.score, score.trajectories), (0.5, 4));
}

/// A question with `steps` known steps, answered after `calls` calls.
fn known(question: &str, steps: usize, calls: usize, right: bool) -> Trajectory {
    let mut build = Build::new(question, 0);
    for _ in 0..calls {
        build = build.call(false, &[("rules", GOOD)]);
    }
    let label = if right { GOOD } else { BAD };
    let mut trajectory = build.answer("72", Some(label), &[("rules", label)]);
    let step = ReferenceStep {
        thought: String::new(),
        tool: "calculator".into(),
        arguments: "1+1".into(),
        result: "2".into(),
    };
    trajectory.question.reference_steps = vec![step; steps];
    trajectory
}

#[test]
fn a_model_that_stops_after_one_call_shows_by_steps() {
    let all: Vec<Trajectory> = (0..40)
        .map(|n| known(&format!("q{n:02}"), 1 + n % 2, 1, n % 2 == 0))
        .chain((40..43).map(|n| known(&format!("q{n}"), 5 + n % 40, 2, true)))
        .collect();
    let summary = summarise(&all).unwrap();
    let groups: Vec<_> = summary
        .by_steps
        .iter()
        .map(|g| {
            (
                g.steps,
                g.questions,
                g.accuracy.estimate,
                g.calls_per_question,
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            (1, 20, 1.0, 1.0),
            (2, 20, 0.0, 1.0),
            (5, 1, 1.0, 2.0),
            (6, 2, 1.0, 2.0)
        ]
    );
    assert!((summary.by_steps[1].process["rules"].score - 0.5).abs() < 1e-12);
    let plain = Table::new().row("SWiRL", summary.clone()).plain();
    let lines: Vec<&str> = plain.lines().collect();
    assert!(
        lines[4].contains("1 step, n = 20") && lines[4].ends_with("6 steps or more, n = 2"),
        "{plain}"
    );
    assert!(
        lines[5].contains("0.0 % [0.0, 16.1], 1.00, 0.500"),
        "{plain}"
    );
    let markdown = Table::new().row("SWiRL", summary).markdown();
    assert!(
        markdown.contains("| model | 1 step, n = 20 |"),
        "{markdown}"
    );
    // Where no solution is known, there is nothing to tell apart.
    assert!(summarise(&run(&[true])).unwrap().by_steps.is_empty());
}

#[test]
fn ev_4_several_tests_are_adjusted_over_all_tables() {
    let scores = |right: &[bool]| Scores::of(&run(right)).unwrap();
    let base = scores(&[false; 10]);
    let paired = |right: usize| {
        let right: Vec<bool> = (0..10).map(|n| n < right).collect();
        compare(&base, &scores(&right), 0).unwrap()
    };
    let mut one = Table::new().comparison("base", "a", paired(8));
    Table::adjust([&mut one]);
    assert!(
        !one.plain().contains("Holm"),
        "one test needs no adjusting: {}",
        one.plain()
    );
    let mut two =
        Table::new()
            .comparison("base", "b", paired(6))
            .comparison("base", "c", paired(1));
    Table::adjust([&mut one, &mut two]);
    assert!(
        one.plain()
            .contains("p = 0.0078 (adjusted for 3 tests after Holm p = 0.0234), 8 won"),
        "{}",
        one.plain()
    );
    let plain = two.plain();
    assert!(
        plain.contains("p = 0.0313 (adjusted for 3 tests after Holm p = 0.0625)"),
        "{plain}"
    );
    assert!(
        plain.contains("p = 1.0000 (adjusted for 3 tests after Holm p = 1.0000)"),
        "{plain}"
    );
}

#[test]
fn ev_1_an_unjudged_answer_is_an_error_and_no_answer_is_wrong() {
    let unjudged = Build::new("q", 0).answer("72", None, &[]);
    let error = summarise(&[unjudged]).unwrap_err();
    assert!(
        matches!(&error, EvalError::Unjudged(item) if item.question.0 == "q"),
        "{error}"
    );
    let mut silent = Build::new("q", 0).call(false, &[]).0;
    assert_eq!(is_right(&silent), Ok(false));
    silent.outcome = Some(verdict("outcome", GOOD));
    assert_eq!(is_right(&silent), Ok(false));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    assert_eq!(summarise(&[]), Err(EvalError::Empty));
    let twice = [answered("q", 0, "72", true), answered("q", 0, "72", true)];
    assert!(matches!(summarise(&twice), Err(EvalError::Duplicate(_))));
    let uneven = [
        answered("p", 0, "72", true),
        answered("q", 0, "72", true),
        answered("q", 1, "72", true),
    ];
    let expected = EvalError::UnevenSamples {
        question: "q".into(),
        found: 2,
        expected: 1,
    };
    assert_eq!(summarise(&uneven), Err(expected));
}

#[test]
fn ev_2_different_id_lists_are_refused_by_the_first_differing_id() {
    let scores = |ids: &[&str]| {
        let all: Vec<_> = ids.iter().map(|id| answered(id, 0, "72", true)).collect();
        Scores::of(&all).unwrap()
    };
    for (first, second, question, side) in [
        (&["a", "b", "c"][..], &["a", "c"][..], "b", "first"),
        (&["a", "c"], &["a", "b", "c"], "b", "second"),
        (&["a", "d"], &["a", "c"], "c", "second"),
        (&["a", "c"], &["a", "d"], "c", "first"),
    ] {
        let error = compare(&scores(first), &scores(second), 0).unwrap_err();
        assert_eq!(
            error,
            EvalError::DifferentIds {
                question: QuestionId::from(question),
                side
            }
        );
    }
    // The order in which trajectories are stored does not matter.
    assert!(compare(&scores(&["a", "b"]), &scores(&["b", "a"]), 0).is_ok());
}

#[test]
fn a_comparison_counts_what_was_won_and_lost() {
    let first: Vec<bool> = (0..100).map(|n| n < 30).collect();
    let second: Vec<bool> = (0..100).map(|n| (2..50).contains(&n)).collect();
    let scores = |right: &[bool]| Scores::of(&run(right)).unwrap();
    let paired = compare(&scores(&first), &scores(&second), 1).unwrap();
    let test = paired.mcnemar.unwrap();
    assert_eq!(
        (test.only_first, test.only_second, paired.questions),
        (2, 20, 100)
    );
    assert!((paired.difference.estimate - 0.18).abs() < 1e-12);
    // 254 of 2^22 outcomes have at most 2 heads of 22, twice.
    assert!(
        (test.p - 2.0 * 254.0 / 4_194_304.0).abs() < 1e-12,
        "{test:?}"
    );
    // Normal interval of the paired difference: .18 ± 1.96 · √((.22 − .18²)/100) = .095 … .265.
    let interval = paired.difference;
    assert!((interval.low - 0.095).abs() < 0.012 && (interval.high - 0.265).abs() < 0.012);
    assert_eq!(
        paired,
        compare(&scores(&first), &scores(&second), 1).unwrap()
    );
}

#[test]
fn several_samples_are_averaged_before_questions_are() {
    let mut all = Vec::new();
    for (sample, text, right) in [
        (0, "71", false),
        (1, "72", true),
        (2, "72.0", true),
        (3, "5", false),
    ] {
        all.push(answered("a", sample, text, right));
    }
    for sample in 0..4 {
        all.push(answered(
            "b",
            sample,
            ["1", "2", "1", "72"][sample as usize],
            sample == 3,
        ));
    }
    all.reverse();
    let scores = SampleScores::of(&all).unwrap();
    assert_eq!(scores.samples, 4);
    assert!((scores.mean - 0.375).abs() < 1e-12);
    assert_eq!(scores.majority, 0.5, "`72` wins for a, `1` wins for b");
    assert_eq!(
        scores.pass_at.keys().copied().collect::<Vec<_>>(),
        [1, 2, 4]
    );
    assert!((scores.pass_at[&1] - 0.375).abs() < 1e-12);
    // a: 1 − C(2,2)/C(4,2) = 5/6; b: 1 − C(3,2)/C(4,2) = 1/2.
    assert!((scores.pass_at[&2] - (5.0 / 6.0 + 0.5) / 2.0).abs() < 1e-12);
    assert_eq!(scores.pass_at[&4], 1.0);
    let summary = summarise(&all).unwrap();
    assert!((summary.accuracy.estimate - 0.375).abs() < 1e-12);
    assert_eq!((summary.questions, summary.trajectories), (2, 8));
    let single = compare(&Scores::of(&all).unwrap(), &Scores::of(&all).unwrap(), 0).unwrap();
    assert_eq!(single.mcnemar, None);
}

#[test]
fn of_equally_frequent_answers_the_first_sampled_counts() {
    let tied = [answered("a", 1, "72", true), answered("a", 0, "5", false)];
    assert_eq!(majority(&tied).unwrap(), 0.0);
    let tied = [answered("a", 0, "72", true), answered("a", 1, "5", false)];
    assert_eq!(majority(&tied).unwrap(), 1.0);
}

fn table() -> Table {
    let (base, tuned) = (
        run(&[false; 10]),
        run(&[true, true, true, true, true, true, true, true, false, false]),
    );
    let paired = compare(&Scores::of(&base).unwrap(), &Scores::of(&tuned).unwrap(), 0).unwrap();
    Table::new()
        .row("base | x", summarise(&base).unwrap())
        .row("SWiRL", summarise(&tuned).unwrap())
        .row("mixed", summarise(&sample()).unwrap())
        .comparison("base", "SWiRL", paired)
}

#[test]
fn tables_show_rows_and_differences() {
    let markdown = table().markdown();
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(
        lines[0],
        "| model | n | accuracy [95 %] | calls/question | well-formed | process score [95 %] (steps \
         judged) |"
    );
    assert_eq!(lines[1], "| --- | ---: | ---: | ---: | ---: | ---: |");
    assert_eq!(
        lines[2],
        "| base \\| x | 10 | 0.0 % [0.0, 27.8] | 0.00 | 100.0 % | – |"
    );
    assert_eq!(
        lines[3],
        "| SWiRL | 10 | 80.0 % [49.0, 94.3] | 0.00 | 100.0 % | – |"
    );
    assert!(
        lines[4].ends_with(
            "| 1.00 | 71.4 % | llm 1.000 [0.207, 1.000] (14 %), rules 0.750 [0.500, 1.000] (71 %) |"
        ),
        "{}",
        lines[4]
    );
    assert!(
        lines[6].starts_with("- SWiRL − base: +80.0 points ["),
        "{}",
        lines[6]
    );
    assert!(
        lines[6].ends_with("(McNemar exact p = 0.0078, 8 won and 0 lost)"),
        "{}",
        lines[6]
    );
    assert_eq!(Table::new().markdown().lines().count(), 2);
}

#[test]
fn plain_tables_line_up() {
    let plain = table().plain();
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines.len(), 5);
    let width = lines[0].chars().count();
    assert!(
        lines[..4].iter().all(|line| line.chars().count() == width),
        "{plain}"
    );
    let column = |line: &str| line.chars().position(|c| c == '[');
    assert!(lines[4].contains("+80.0 points"), "{plain}");
    assert!(column(lines[1]).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    #[test]
    fn differences_contain_their_estimate_and_turn_round(
        pairs in proptest::collection::vec(any::<(bool, bool)>(), 1..60), seed in any::<u64>(),
    ) {
        let (one, two): (Vec<bool>, Vec<bool>) = pairs.into_iter().unzip();
        let (one, two) = (Scores::of(&run(&one)).unwrap(), Scores::of(&run(&two)).unwrap());
        let forth = paired_bootstrap(&one, &two, seed).unwrap();
        prop_assert!(-1.0 <= forth.low && forth.low <= forth.estimate);
        prop_assert!(forth.estimate <= forth.high && forth.high <= 1.0);
        let back = paired_bootstrap(&two, &one, seed).unwrap();
        prop_assert!((forth.estimate + back.estimate).abs() < 1e-12);
        prop_assert!((forth.low + back.high).abs() < 1e-9);
    }
}
