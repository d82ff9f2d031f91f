//! `swirl data …`: look at trajectories, export them, make questions.

use crate::args::DataCommand;
use crate::console;
use crate::usage::UsageError;
use anyhow::{Context, Result, ensure};
use proto::{Action, ItemId, Label, Question, ReferenceStep, Step, Trajectory};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::TrajectoryStore;

/// Performs the command.
///
/// # Errors
/// When the folder holds no trajectories, the item is not there, or a file cannot be written.
pub fn run(command: DataCommand) -> Result<ExitCode> {
    match command {
        DataCommand::Inspect {
            folder,
            item: Some(item),
        } => show(&folder, &item)?,
        DataCommand::Inspect { folder, item: None } => list(&folder)?,
        DataCommand::Export { folder, out } => export(&folder, &out)?,
        DataCommand::Make {
            generator,
            out,
            count,
            seed,
        } => make(&generator, &out, count, seed)?,
        DataCommand::Questions { file, json } => return questions(&file, json),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how each row of a question file is read; fails where one cannot be.
fn questions(file: &Path, json: bool) -> Result<ExitCode> {
    let mut rows = data::rows(&crate::questions::expand(file)?)?;
    let (mut read, mut wrong) = (0u64, 0u64);
    console::print_with(|out| {
        while let Some(row) = rows.next() {
            match &row {
                Ok(_) => read += 1,
                Err(_) => wrong += 1,
            }
            match json {
                true => writeln!(out, "{}", row_as_json(rows.line(), &row))?,
                false => writeln!(out, "{}", row_as_text(&row))?,
            }
        }
        Ok(())
    })?;
    console::remark(format_args!("{read} questions, {wrong} rows that are none"));
    Ok(ExitCode::from(u8::from(wrong > 0 || read == 0)))
}

fn row_as_text(row: &Result<Question, data::DataError>) -> String {
    let question = match row {
        Ok(question) => question,
        Err(error) => return format!("error: {error}"),
    };
    let steps = question.reference_steps.iter().map(|step| {
        let ReferenceStep {
            tool,
            arguments,
            result,
            ..
        } = step;
        format!("\n    {tool} {arguments} -> {result}")
    });
    let aliases = match question.answer_aliases.as_slice() {
        [] => String::new(),
        aliases => format!("  or {}", aliases.join(" | ")),
    };
    format!(
        "{}  key {}{aliases}{}",
        question.id,
        question.answer,
        steps.collect::<String>()
    )
}

fn row_as_json(line: usize, row: &Result<Question, data::DataError>) -> serde_json::Value {
    match row {
        Ok(question) => serde_json::json!({
            "line": line,
            "id": question.id,
            "key": question.answer,
            "aliases": question.answer_aliases,
            "reference_steps": question.reference_steps,
        }),
        Err(error) => serde_json::json!({ "line": line, "error": error.to_string() }),
    }
}

/// A run folder's trajectories, or the folder itself. Opening a store makes its folder and files:
/// what holds none is refused before.
fn open(folder: &Path) -> Result<TrajectoryStore> {
    let inner = folder.join("trajectories");
    let inner = if inner.is_dir() { &inner } else { folder };
    let none = || format!("{} holds no trajectories", folder.display());
    let entries = std::fs::read_dir(inner).with_context(none)?;
    let names = entries
        .map(|entry| Ok(PathBuf::from(entry?.file_name())))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(none)?;
    let is_record = |name: &PathBuf| {
        name.extension()
            .is_some_and(|ending| ending == "swl" || ending == "parquet")
    };
    ensure!(names.iter().any(is_record), none());
    let store = TrajectoryStore::open(inner)?;
    ensure!(!store.is_empty(), none());
    Ok(store)
}

fn list(folder: &Path) -> Result<()> {
    let store = open(folder)?;
    console::print_with(|out| {
        for trajectory in store.iter() {
            let t = trajectory?;
            let good = t.outcome.as_ref().map_or("-", |v| label(v.label));
            let answer = t.answer().unwrap_or("-");
            writeln!(
                out,
                "{:<28} {:>2} steps  {:<13} outcome {good:<4}  answer {answer}",
                t.item.to_string(),
                t.steps.len(),
                t.end.name()
            )?;
        }
        Ok(())
    })
}

fn show(folder: &Path, item: &str) -> Result<()> {
    console::print(&render(&trajectory(folder, item)?))
}

/// One trajectory of a run folder or a folder of trajectories; `item` is `question#sample`.
///
/// # Errors
/// When it is not there.
pub fn trajectory(folder: &Path, item: &str) -> Result<Trajectory> {
    let (question, sample) = item.rsplit_once('#').unwrap_or((item, "0"));
    let sample = sample
        .parse()
        .map_err(|_| UsageError::new(format!("{item:?} is not question#sample")))?;
    let id = ItemId {
        question: question.into(),
        sample,
    };
    open(folder)?.get(&id)?.with_context(|| {
        format!(
            "{id} is not there: list the items with `swirl data inspect {}`",
            folder.display()
        )
    })
}

/// A trajectory for people.
fn render(t: &Trajectory) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}  data set {}  model {}  run {}",
        t.item, t.question.dataset, t.model, t.run
    );
    let _ = writeln!(text, "Question: {}", t.question.question);
    let _ = writeln!(text, "Answer key: {}\n", t.question.answer);
    for (index, step) in t.steps.iter().enumerate() {
        render_step(&mut text, index, step);
    }
    let trained = t.loss_mask().iter().filter(|&&m| m == 1).count();
    let _ = writeln!(
        text,
        "End: {}  {} tokens, {trained} of them sampled",
        t.end.name(),
        t.tokens.len()
    );
    if let Some(v) = &t.outcome {
        let _ = writeln!(
            text,
            "Outcome: {} by {} {}",
            label(v.label),
            v.judge,
            v.rationale
        );
    }
    text
}

fn render_step(text: &mut String, index: usize, step: &Step) {
    let mean = step.logprobs.iter().sum::<f32>() / step.logprobs.len().max(1) as f32;
    let _ = writeln!(
        text,
        "Step {} [{} tokens, mean log-probability {mean:.3}, {}, weights {}]",
        index + 1,
        step.sampled.len(),
        match step.action {
            Action::Call(_) => "call",
            Action::Answer(_) => "answer",
            Action::Malformed(kind) => kind.name(),
        },
        step.weight_version
    );
    let _ = writeln!(text, "  {}", step.text.trim().replace('\n', "\n  "));
    if let Some(observation) = &step.observation {
        let mark = if observation.is_error { "!" } else { ">" };
        let _ = writeln!(
            text,
            "  {mark} {} ({} µs)",
            observation.text, observation.latency_us
        );
    }
    for v in &step.verdicts {
        let _ = writeln!(
            text,
            "  {} by {} ({:.2}) {}",
            label(v.label),
            v.judge,
            v.score,
            v.rationale
        );
    }
    text.push('\n');
}

fn label(label: Label) -> &'static str {
    match label {
        Label::Good => "GOOD",
        Label::Bad => "BAD",
    }
}

/// The target appears, or is replaced, when it is complete.
fn export(folder: &Path, out: &Path) -> Result<()> {
    let store = open(folder)?;
    let count = crate::files::write_with(out, |file| Ok(store.export_jsonl(file)?))?;
    console::remark(format_args!(
        "{count} trajectories written to {}",
        out.display()
    ));
    Ok(())
}

fn make(generator: &str, out: &Path, count: usize, seed: u64) -> Result<()> {
    let questions = match generator {
        "wordmath" => data::wordmath(&data::WordMathConfig {
            count,
            seed,
            ..data::WordMathConfig::default()
        })?,
        "wikihop" => {
            let world = data::wikihop(&data::WikiHopConfig {
                count,
                seed,
                ..data::WikiHopConfig::default()
            })?;
            lines(
                "articles",
                &out.with_extension("articles.jsonl"),
                &world.articles,
            )?;
            world.questions
        }
        other => {
            let message = format!("unknown generator {other:?}: there are wordmath and wikihop");
            return Err(UsageError::new(message).into());
        }
    };
    lines("questions", out, &questions)
}

fn lines<T: serde::Serialize>(what: &str, path: &Path, rows: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    crate::files::write_atomically(path, &text)?;
    console::remark(format_args!(
        "{} {what} written to {}",
        rows.len(),
        path.display()
    ));
    Ok(())
}
