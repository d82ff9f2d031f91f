//! Loading files: small ones written here, and the real ones in the folder `SWIRL_TEST_DATA`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy counts only functions marked as tests as tests"
)]

use data::{
    CALCULATOR, DataError, DialogueOptions, SEARCH, Selection, SkipReason, Turn, dialogue,
    dialogue_with, dialogues, load, select,
};
use proto::Question;
use std::{collections::BTreeMap, io::Write, path::PathBuf};

fn load_named(name: &str, text: &[u8]) -> Result<Vec<Question>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::File::create(&path)
        .unwrap()
        .write_all(text)
        .unwrap();
    load(&path)
}

fn real(name: &str) -> Option<Vec<Question>> {
    let Some(folder) = std::env::var_os("SWIRL_TEST_DATA") else {
        eprintln!("skipped: SWIRL_TEST_DATA is not set");
        return None;
    };
    Some(load(&PathBuf::from(folder).join(name)).unwrap())
}

const PUBLISHED: &str = r#"{"question": "Clips?", "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"}"#;

#[test]
fn the_published_layout_of_gsm8k_is_read() {
    let row = &load_named("train.jsonl", PUBLISHED.as_bytes()).unwrap()[0];
    assert_eq!(
        (row.id.0.as_str(), row.dataset.as_str()),
        ("gsm8k-train-00000", "gsm8k")
    );
    assert_eq!((row.split.as_str(), row.answer.as_str()), ("train", "72"));
    let calls: Vec<_> = row
        .reference_steps
        .iter()
        .map(|s| s.arguments.as_str())
        .collect();
    assert_eq!(calls, ["48/2", "48+24"]);
    let thousands = r#####"{"question": "q", "answer": "#### 1,234"}"#####;
    let row = &load_named("questions.jsonl", thousands.as_bytes()).unwrap()[0];
    assert_eq!(
        (row.id.0.as_str(), row.answer.as_str()),
        ("gsm8k-00000", "1234")
    );
}

#[test]
fn null_and_empty_columns_are_as_absent_ones() {
    let bare = serde_json::json!({"question": "q", "answer": "Two and two is <<2+2=4>>4.\n#### 4"});
    let load_row = |row: &serde_json::Value| {
        load_named("gsm8k_train.jsonl", row.to_string().as_bytes())
            .unwrap()
            .remove(0)
    };
    let wanted = load_row(&bare);
    assert_eq!(
        (wanted.answer.as_str(), wanted.reference_steps.len()),
        ("4", 1)
    );
    let columns = [
        "id",
        "dataset",
        "split",
        "answer_aliases",
        "reference_steps",
        "solution",
        "decomposition",
        "steps",
        "equation",
        "unknown",
    ];
    for empty in [
        serde_json::json!(null),
        serde_json::json!(""),
        serde_json::json!("  "),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([null]),
    ] {
        for column in columns {
            let mut row = bare.clone();
            row[column] = empty.clone();
            assert_eq!(load_row(&row), wanted, "{column}: {empty}");
        }
        let mut row = bare.clone();
        columns.iter().for_each(|name| row[name] = empty.clone());
        assert_eq!(load_row(&row), wanted, "all: {empty}");
    }
}

#[test]
fn null_fields_within_columns_are_as_absent_ones() {
    let row = |columns: &str| {
        let text = format!(r#"{{"question": "q", "answer": "1", {columns}}}"#);
        load_named("x.jsonl", text.as_bytes()).unwrap().remove(0)
    };
    let aliased = row(r#""answer_aliases": ["one", null, " "]"#);
    assert_eq!(aliased.answer_aliases, ["one"]);
    let known = row(
        r#""reference_steps": [{"thought": null, "tool": "calculator", "arguments": "1+0", "result": "1"}]"#,
    );
    assert_eq!(known.reference_steps[0].thought, "");
    let demo = row(
        r#""steps": [{"titles": ["A", "B"], "snippets": [null, "b"], "cot": null}, {"titles": ["C"], "snippets": null}]"#,
    );
    let results: Vec<&str> = demo
        .reference_steps
        .iter()
        .map(|s| s.result.as_str())
        .collect();
    assert_eq!(results, ["A", "B: b", "C"]);
}

#[test]
fn keys_keep_their_blanks_and_units() {
    let key = |answer: &str| {
        let row = serde_json::json!({"question": "q", "answer": answer});
        load_named("x_train.jsonl", row.to_string().as_bytes())
            .unwrap()
            .remove(0)
            .answer
    };
    assert_eq!(key("He cuts it. #### 3 1/2"), "3 1/2");
    assert_eq!(key("It costs this. #### 18 dollars"), "18 dollars");
    assert_eq!(key(" 3 1/2 "), "3 1/2");
    assert_eq!(key("1,234"), "1,234");
    assert_eq!(key("New  York"), "New  York");
    let both = serde_json::json!({"question": "q", "answer": "So it is.\n#### 4 hours", "solution": "<<2+2=4>>"});
    let row = load_named("x.jsonl", both.to_string().as_bytes())
        .unwrap()
        .remove(0);
    assert_eq!(
        (row.answer.as_str(), row.reference_steps.len()),
        ("4 hours", 1)
    );
}

#[test]
fn a_bad_row_does_not_end_the_reading_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quiz.jsonl");
    let text = b"{\"question\": \"q\", \"answer\": 7}\n\n[]\n{\n\xff\n\
        {\"question\": \"r\", \"answer\": 8, \"id\": \"quiz-00000\"}\n\
        {\"question\": \"r\", \"answer\": 8}\n";
    std::fs::write(&path, text).unwrap();
    let mut rows = data::rows(&path).unwrap();
    let mut read = Vec::new();
    while let Some(row) = rows.next() {
        read.push((rows.line(), row));
    }
    let lines: Vec<usize> = read.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 6, 7]);
    let ids: Vec<_> = read.iter().flat_map(|(_, row)| row).collect();
    assert_eq!(ids[0].id.0, "quiz-00000");
    assert_eq!(
        ids[1].id.0, "quiz-00005",
        "rows before it count, wrong or not"
    );
    for ((_, row), expected) in
        read[1..5]
            .iter()
            .zip(["not a JSON object", "not JSON", "UTF-8", "taken by line 1"])
    {
        let error = row.as_ref().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_a_row_does_not_say_comes_from_the_file_name() {
    let text = "\u{feff}{\"question\": \"q\", \"answer\": 7}\n\n{\"question\": \"r\", \"answer\": \"8\", \"id\": \"mine\", \"split\": \"s\"}\n";
    let rows = load_named("quiz_dev.jsonl", text.as_bytes()).unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|r| {
            (
                r.id.0.as_str(),
                r.dataset.as_str(),
                r.split.as_str(),
                r.answer.as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("quiz_dev-dev-00000", "quiz_dev", "dev", "7"),
            ("mine", "quiz_dev", "s", "8")
        ]
    );
}

#[test]
fn questions_written_as_json_come_back_as_they_were() {
    let config = data::WordMathConfig {
        count: 20,
        ..Default::default()
    };
    let made = data::wordmath(&config).unwrap();
    let lines: Vec<String> = made
        .iter()
        .map(|q| serde_json::to_string(q).unwrap())
        .collect();
    assert_eq!(
        load_named("made.jsonl", lines.join("\n").as_bytes()).unwrap(),
        made
    );
}

#[test]
fn bad_files_are_refused_with_file_line_and_what_is_expected() {
    let good = r#"{"id": "a", "question": "q", "answer": "1"}"#;
    let cases: &[(&[u8], &[&str])] = &[
        (b"", &["bad.jsonl", "holds no question"]),
        (b"\n  \n", &["holds no question"]),
        (
            b"{\"question\": \"q\", \"answer\"",
            &["bad.jsonl:1:", "one JSON object per line"],
        ),
        (b"[1, 2]", &["bad.jsonl:1:", "not a JSON object"]),
        (
            b"{\"answer\": \"1\"}",
            &["`question` is missing", "expected"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": \" \"}",
            &["`answer` is empty"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": [1]}",
            &["`answer` is [1]", "text or a number"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": \"1\", \"answer_aliases\": \"x\"}",
            &["answer_aliases"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": \"1\", \"decomposition\": [{}]}",
            &["`decomposition`"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": \"<<1+1=2 #### 2\"}",
            &["not closed"],
        ),
        (
            b"{\"question\": \"q\", \"answer\": \"so ####\"}",
            &["behind `####`"],
        ),
        (b"\xff\xfe", &["bad.jsonl:1:", "UTF-8"]),
    ];
    for (text, expected) in cases {
        let message = load_named("bad.jsonl", text).unwrap_err().to_string();
        for part in *expected {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
    let second = load_named("bad.jsonl", format!("{good}\n{{}}").as_bytes()).unwrap_err();
    assert!(second.to_string().contains("bad.jsonl:2:"), "{second}");
    let twice = load_named("bad.jsonl", format!("{good}\n\n{good}").as_bytes()).unwrap_err();
    assert!(
        matches!(
            twice,
            DataError::DuplicateId {
                line: 3,
                first: 1,
                ..
            }
        ),
        "{twice}"
    );
    let missing = load(&PathBuf::from("no/such/file.jsonl")).unwrap_err();
    assert!(matches!(missing, DataError::Open { .. }), "{missing}");
}

fn turns(question: &Question, options: &DialogueOptions) -> Vec<(char, String)> {
    let plain = |turn| match turn {
        Turn::Assistant(text) => ('a', text),
        Turn::Observation(text) => ('o', text),
    };
    dialogue_with(question, options)
        .unwrap()
        .into_iter()
        .map(plain)
        .collect()
}

#[test]
fn an_annotated_solution_becomes_a_dialogue() {
    let row = &load_named("train.jsonl", PUBLISHED.as_bytes()).unwrap()[0];
    let of = |turns: Vec<(char, String)>| -> Vec<String> {
        turns
            .into_iter()
            .map(|(who, text)| format!("{who}: {text}"))
            .collect()
    };
    let default = DialogueOptions::default();
    assert_eq!(
        of(turns(row, &default)),
        [
            "a: She sold 48/2 clips in May. <math_exp>48/2</math_exp>",
            "o: 48/2 -> 24",
            "a: In all 48+24. <math_exp>48+24</math_exp>",
            "o: 48+24 -> 72",
            "a: <answer>72</answer>",
        ]
    );
    let bare = DialogueOptions {
        thoughts: false,
        tag: "calc".into(),
        ..default.clone()
    };
    assert_eq!(of(turns(row, &bare))[0], "a: <calc>48/2</calc>");
    let short = DialogueOptions {
        max_thought_words: 3,
        ..default
    };
    assert_eq!(of(turns(row, &short))[0], "a: <math_exp>48/2</math_exp>");
    assert_eq!(
        of(turns(row, &short))[2],
        "a: In all 48+24. <math_exp>48+24</math_exp>"
    );
}

#[test]
fn solutions_that_cannot_be_played_out_truthfully_are_counted() {
    let row = |solution: &str, answer: &str| {
        let value = serde_json::json!({"question": "q", "answer": answer, "solution": solution});
        load_named("x.jsonl", value.to_string().as_bytes())
            .unwrap()
            .remove(0)
    };
    let cases = [
        (row("none", "2"), SkipReason::NoSteps),
        (row("<<1/0=2>>", "2"), SkipReason::NotEvaluable),
        (row("<<2/3=0.67>>", "0.67"), SkipReason::ResultDiffers),
        (row("<<1+1=2>>", "3"), SkipReason::AnswerDiffers),
        (row(&"<<1+1=2>>".repeat(11), "2"), SkipReason::TooManySteps),
    ];
    for (question, reason) in &cases {
        assert_eq!(
            dialogue_with(question, &DialogueOptions::default()),
            Err(*reason)
        );
        assert_eq!(dialogue(question), None);
    }
    let mut questions: Vec<Question> = cases.into_iter().map(|(question, _)| question).collect();
    questions.push(row("<<1+1=2>>", "2.0"));
    let made = dialogues(&questions, &DialogueOptions::default());
    assert_eq!(made.kept.len(), 1);
    assert_eq!(made.skipped.values().sum::<usize>(), 5);
}

#[test]
fn gsm8k_is_read_whole_and_gives_dialogues() {
    let Some(rows) = real("gsm8k_train.jsonl") else {
        return;
    };
    let split = |name: &str| Selection {
        split: Some(name.into()),
        ..Default::default()
    };
    assert_eq!(select(rows.clone(), &split("train")).unwrap().len(), 6996);
    assert_eq!(select(rows.clone(), &split("val")).unwrap().len(), 477);
    let steps: usize = rows.iter().map(|r| r.reference_steps.len()).sum();
    assert_eq!(steps, 23_716);
    let made = dialogues(&rows, &DialogueOptions::default());
    println!("{} dialogues, skipped {:?}", made.kept.len(), made.skipped);
    assert_eq!(made.skipped[&SkipReason::NoSteps], 95);
    assert!(!made.skipped.contains_key(&SkipReason::NotEvaluable));
    assert!(made.kept.len() > 7000, "only {} dialogues", made.kept.len());
    assert_eq!(made.kept.len() + made.skipped.values().sum::<usize>(), 7473);
    let thoughts = rows
        .iter()
        .flat_map(|r| &r.reference_steps)
        .filter(|s| !s.thought.is_empty());
    let thoughts = thoughts.count();
    println!("{thoughts} of {steps} steps have a thought");
    assert!(thoughts > steps * 9 / 10, "only {thoughts} thoughts");
    for (_, turns) in made.kept {
        for turn in turns {
            let (Turn::Assistant(text) | Turn::Observation(text)) = turn;
            assert!(!text.contains("<<") && !text.contains("####"), "{text}");
        }
    }
}

#[test]
fn svamp_equations_become_steps() {
    let Some(rows) = real("svamp_dev.jsonl") else {
        return;
    };
    assert_eq!(rows.len(), 721);
    assert!(rows.iter().all(|r| !r.reference_steps.is_empty()));
    assert_eq!(rows[0].reference_steps[0].arguments, "4-3");
    let agree = rows.iter().filter(|r| dialogue(r).is_some()).count();
    println!("{agree} of 721 equations give the answer");
    assert!(agree > 700, "{agree}");
}

#[test]
fn multi_hop_files_become_search_steps() {
    let Some(musique) = real("musique_train100.jsonl") else {
        return;
    };
    assert_eq!(musique.len(), 100);
    assert_eq!(musique[0].answer_aliases, ["Stanley Hall"]);
    let hop = &musique[0].reference_steps[1];
    assert_eq!(hop.tool, SEARCH);
    assert_eq!(
        hop.arguments,
        "Who was the first president of American Psychological Association?"
    );
    assert_eq!(hop.result, "G. Stanley Hall");
    for row in &musique {
        assert!(
            row.reference_steps
                .iter()
                .all(|s| !s.arguments.contains('#')),
            "{row:?}"
        );
    }

    let demos = real("ircot_demos.jsonl").unwrap();
    assert_eq!(demos.len(), 69);
    let first = &demos[0].reference_steps;
    assert_eq!((first.len(), first[1].arguments.as_str()), (2, "Unsane"));
    assert!(first[1].thought.contains("it has 4 members"));
    assert!(
        first[1]
            .result
            .starts_with("Unsane: Unsane is an influential")
    );

    let hotpot = real("hotpotqa_dev.jsonl").unwrap();
    let mut splits: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &hotpot {
        *splits.entry(&row.split).or_default() += 1;
        assert!(row.reference_steps.iter().all(|s| s.tool != CALCULATOR));
    }
    assert_eq!(
        splits,
        [("official-dev", 570), ("official-train", 200)].into()
    );
}
