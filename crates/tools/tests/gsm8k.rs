//! The calculator agrees with every calculator annotation of GSM8K's training questions.

use std::path::PathBuf;
use tools::{calculator, number};

const FILE: &str = "gsm8k_train.jsonl";
const ANNOTATIONS: usize = 23_716;

fn data_file() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("SWIRL_TEST_DATA") else {
        println!("skipped: SWIRL_TEST_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join(FILE))
}

/// The texts between `<<` and `>>`.
fn annotations(solution: &str) -> impl Iterator<Item = &str> {
    solution
        .split("<<")
        .skip(1)
        .filter_map(|rest| rest.split_once(">>"))
        .map(|(inner, _)| inner)
}

/// No annotation needs a tolerance: where the data writes a rounded value, it wrote the rounded
/// operands too.
#[test]
fn every_annotation_evaluates_to_its_value_exactly() {
    let Some(file) = data_file() else { return };
    let text = std::fs::read_to_string(&file).expect("SWIRL_TEST_DATA holds the GSM8K file");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a JSON object per line");
        for annotation in annotations(row["solution"].as_str().expect("a solution")) {
            seen += 1;
            let (_, result) = annotation.rsplit_once('=').expect("expression=value");
            let value = calculator::evaluate(annotation).ok();
            if value.is_none() || value != number::parse_number(result) {
                wrong.push(annotation.to_owned());
            }
        }
    }
    println!(
        "{seen} annotations, {} differ from their value",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(seen, ANNOTATIONS);
}

/// What grounding is for: nearly every operand of a real solution's first calculation stands in its
/// question, as digits or as a word.
#[test]
fn operands_of_first_calculations_are_found_in_their_questions() {
    let Some(file) = data_file() else { return };
    let text = std::fs::read_to_string(&file).expect("SWIRL_TEST_DATA holds the GSM8K file");
    let (mut grounded, mut total) = (0, 0);
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a JSON object per line");
        let question = row["question"].as_str().expect("a question");
        let Some(first) = annotations(row["solution"].as_str().expect("a solution")).next() else {
            continue;
        };
        let mut known = number::numbers_in(question);
        known.extend(number::number_words(question));
        for operand in calculator::operands(first).expect("an expression") {
            total += 1;
            grounded += usize::from(known.contains(&operand));
        }
    }
    println!("{grounded} of {total} operands are grounded in the question");
    assert!(grounded * 100 > total * 88, "{grounded} of {total}");
}
