//! One row of a question file, and the steps of a known solution in each data set's own notation.

use crate::{SEARCH, expression, gsm8k};
use proto::{Question, QuestionId, ReferenceStep};
use serde::{Deserialize, de::DeserializeOwned};
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
    let marked = answer.contains("####");
    let known_steps = known_steps(&fields)?;
    // GSM8K as published has the annotated solution in the place of the answer.
    let published_gsm8k = marked && known_steps.is_none();
    let default_dataset = if published_gsm8k {
        "gsm8k"
    } else {
        &names.stem
    };
    let dataset = optional(&fields, "dataset")?.unwrap_or_else(|| default_dataset.to_owned());
    let split = optional(&fields, "split")?.unwrap_or_else(|| names.split.to_owned());
    let id = optional(&fields, "id")?.unwrap_or_else(|| made_id(&dataset, &split, row));
    let reference_steps = match known_steps {
        Some(steps) => steps,
        None if marked => gsm8k::steps(&answer)?,
        None => Vec::new(),
    };
    let answer = match marked {
        true => gsm8k::final_answer(&answer)?,
        false => answer,
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
        Some(text) => Ok(text.trim().to_owned()),
        None if fields.get(name).is_some_and(|value| !value.is_null()) => {
            Err(format!("`{name}` is empty; {EXPECTED}"))
        }
        None => Err(format!("`{name}` is missing; {EXPECTED}")),
    }
}

/// A column that says something: one that is null, or an empty text, list or object, is as one that
/// is absent.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !is_empty(value))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.iter().all(Value::is_null),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A field as text: numbers are taken too, as answers often are numbers.
fn optional(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match present(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("`{name}` is {other}; expected text or a number")),
    }
}

/// Other spellings of the answer; empty ones are left out.
fn aliases(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let Some(value) = present(fields, "answer_aliases") else {
        return Ok(Vec::new());
    };
    let what = "a list of texts";
    let aliases: Vec<Option<String>> = typed(value, "answer_aliases", what)?;
    let said = |alias: &String| !alias.trim().is_empty();
    Ok(aliases.into_iter().flatten().filter(said).collect())
}

/// Reads a column. Fields of its rows that are null are as absent.
fn typed<T: DeserializeOwned>(value: &Value, name: &str, what: &str) -> Result<T, String> {
    serde_json::from_value(without_nulls(value))
        .map_err(|error| format!("`{name}`: {error}; expected {what}"))
}

/// Without the null fields of objects, at any depth; items of lists keep their places.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                said.map(|(name, value)| (name.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// The steps of the first column that has any; `None` where there is none.
fn known_steps(fields: &Map<String, Value>) -> Result<Option<Vec<ReferenceStep>>, String> {
    if let Some(value) = present(fields, "reference_steps") {
        let what = "a list of {thought, tool, arguments, result}";
        let steps: Vec<Known> = typed(value, "reference_steps", what)?;
        return Ok(Some(steps.into_iter().map(Known::step).collect()));
    }
    if let Some(value) = present(fields, "solution") {
        let text: String = typed(value, "solution", "text")?;
        return gsm8k::steps(&text).map(Some);
    }
    if let Some(value) = present(fields, "decomposition") {
        let hops: Vec<Hop> = typed(value, "decomposition", "a list of {question, answer}")?;
        return Ok(Some(decomposition_steps(&hops)));
    }
    if let Some(value) = present(fields, "steps") {
        let steps: Vec<Demo> = typed(value, "steps", "a list of {titles, snippets, cot}")?;
        return Ok(Some(demo_steps(&steps)));
    }
    // Many data sets have a field of this name; other notations say nothing about steps.
    let equation = present(fields, "equation").and_then(Value::as_str);
    Ok(equation.and_then(expression::bracketed_steps))
}

/// A step as this project writes it.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    thought: String,
    tool: String,
    arguments: String,
    result: String,
}

impl Known {
    fn step(self) -> ReferenceStep {
        ReferenceStep {
            thought: self.thought,
            tool: self.tool,
            arguments: self.arguments,
            result: self.result,
        }
    }
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
    #[serde(default)]
    snippets: Vec<Option<String>>,
    #[serde(default)]
    cot: String,
}

/// The conclusion of one step is the thought that leads to the next look-up.
fn demo_steps(demos: &[Demo]) -> Vec<ReferenceStep> {
    let mut steps = Vec::new();
    let mut thought = String::new();
    for demo in demos {
        for (index, title) in demo.titles.iter().enumerate() {
            let result = match demo.snippets.get(index) {
                Some(Some(snippet)) => format!("{title}: {snippet}"),
                _ => title.clone(),
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
