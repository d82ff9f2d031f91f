//! One row of a question file, and the steps of a known solution in each data set's own notation.

use crate::{SEARCH, expression, gsm8k};
use proto::{Question, QuestionId, ReferenceStep};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

const EXPECTED: &str = "expected an object with `question` and `answer`, and where known `id`, \
     `dataset`, `split`, `answer_aliases` and the solution's steps; or GSM8K's `question` and an \
     `answer` that ends in `#### <number>`";

/// What the file's name says about rows that do not say it themselves.
#[derive(Debug)]
pub(crate) struct FileNames {
    stem: String,
    split: &'static str,
}

impl FileNames {
    pub(crate) fn of(path: &Path) -> Self {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let lower = stem.to_lowercase();
        let split = lower
            .split(|c: char| !c.is_alphabetic())
            .find_map(|word| match word {
                "train" | "training" => Some("train"),
                "val" | "valid" | "validation" => Some("val"),
                "dev" => Some("dev"),
                "test" => Some("test"),
                _ => None,
            })
            .unwrap_or("all");
        Self { stem, split }
    }
}

/// Turns one row into a question; `row` counts from 0. An error says what is wrong and expected.
pub(crate) fn question(value: Value, names: &FileNames, row: usize) -> Result<Question, String> {
    let Value::Object(fields) = value else {
        return Err(format!("the line is not a JSON object; {EXPECTED}"));
    };
    let text = required(&fields, "question")?;
    let answer = required(&fields, "answer")?;
    let published_gsm8k = !fields.contains_key("solution") && answer.contains("####");
    let default_dataset = if published_gsm8k {
        "gsm8k"
    } else {
        &names.stem
    };
    let dataset = optional(&fields, "dataset")?.unwrap_or_else(|| default_dataset.to_owned());
    let split = optional(&fields, "split")?.unwrap_or_else(|| names.split.to_owned());
    let id = optional(&fields, "id")?.unwrap_or_else(|| made_id(&dataset, &split, row));
    let (answer, reference_steps) = if published_gsm8k {
        (gsm8k::final_answer(&answer)?, gsm8k::steps(&answer)?)
    } else {
        (answer, known_steps(&fields)?)
    };
    Ok(Question {
        id: QuestionId(id),
        dataset,
        split,
        question: text,
        answer,
        answer_aliases: aliases(&fields)?,
        reference_steps,
    })
}

fn made_id(dataset: &str, split: &str, row: usize) -> String {
    match split {
        "all" => format!("{dataset}-{row:05}"),
        _ => format!("{dataset}-{split}-{row:05}"),
    }
}

fn required(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    match optional(fields, name)? {
        Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some(_) => Err(format!("`{name}` is empty; {EXPECTED}")),
        None => Err(format!("`{name}` is missing; {EXPECTED}")),
    }
}

/// A field as text: numbers are taken too, as answers often are numbers.
fn optional(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("`{name}` is {other}; expected text or a number")),
    }
}

fn aliases(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    match fields.get("answer_aliases") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => typed(value, "answer_aliases", "a list of texts"),
    }
}

fn typed<'a, T: Deserialize<'a>>(value: &'a Value, name: &str, what: &str) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("`{name}`: {error}; expected {what}"))
}

fn known_steps(fields: &Map<String, Value>) -> Result<Vec<ReferenceStep>, String> {
    let present = |name: &str| fields.get(name).filter(|value| !value.is_null());
    if let Some(value) = present("reference_steps") {
        let what = "a list of {thought, tool, arguments, result}";
        return typed(value, "reference_steps", what);
    }
    if let Some(value) = present("solution") {
        return gsm8k::steps(typed(value, "solution", "text")?);
    }
    if let Some(value) = present("decomposition") {
        let hops: Vec<Hop> = typed(value, "decomposition", "a list of {question, answer}")?;
        return Ok(decomposition_steps(&hops));
    }
    if let Some(value) = present("steps") {
        let steps: Vec<Demo> = typed(value, "steps", "a list of {titles, snippets, cot}")?;
        return Ok(demo_steps(&steps));
    }
    if let Some(value) = present("equation") {
        // Many data sets have a field of this name; other notations say nothing about steps.
        return Ok(value
            .as_str()
            .and_then(expression::bracketed_steps)
            .unwrap_or_default());
    }
    Ok(Vec::new())
}

/// One hop of MuSiQue's decomposition (Trivedi et al. 2022).
#[derive(Deserialize)]
struct Hop {
    question: String,
    answer: String,
}

/// `#2` stands for the answer to the second hop; `Subject >> relation` is a hop without a sentence.
fn decomposition_steps(hops: &[Hop]) -> Vec<ReferenceStep> {
    let mut steps: Vec<ReferenceStep> = Vec::with_capacity(hops.len());
    for hop in hops {
        let mut query = hop.question.replace(" >> ", " ");
        // Last first, so that `#1` does not eat the start of `#12`.
        for (index, earlier) in steps.iter().enumerate().rev() {
            query = query.replace(&format!("#{}", index + 1), &earlier.result);
        }
        let query = query.replace(" ?", "?").trim().to_owned();
        steps.push(search_step(String::new(), query, hop.answer.clone()));
    }
    steps
}

/// One step of a written demonstration (IRCoT, Trivedi et al. 2023): what was looked up, then what
/// was concluded from it.
#[derive(Deserialize)]
struct Demo {
    titles: Vec<String>,
    snippets: Vec<String>,
    cot: String,
}

/// The conclusion of one step is the thought that leads to the next look-up.
fn demo_steps(demos: &[Demo]) -> Vec<ReferenceStep> {
    let mut steps = Vec::new();
    let mut thought = String::new();
    for demo in demos {
        for (index, title) in demo.titles.iter().enumerate() {
            let result = match demo.snippets.get(index) {
                Some(snippet) => format!("{title}: {snippet}"),
                None => title.clone(),
            };
            steps.push(search_step(
                std::mem::take(&mut thought),
                title.clone(),
                result,
            ));
        }
        thought.clone_from(&demo.cot);
    }
    steps
}

fn search_step(thought: String, arguments: String, result: String) -> ReferenceStep {
    ReferenceStep {
        thought,
        tool: SEARCH.to_owned(),
        arguments,
        result,
    }
}
