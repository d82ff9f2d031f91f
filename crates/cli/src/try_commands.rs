//! `swirl try …`: how one answer, tool call, action or judge's reply is read.
//!
//! With `--stdin` each row gives one line of JSON, also a row that is wrong, so that lines of input
//! and output belong together.

mod judge;

use crate::args::{Finish, TryActionArgs, TryCommand};
use crate::config::{self, Config};
use crate::console;
use crate::usage::UsageError;
use ::judge::answer::{self, Reading};
use anyhow::{Context, Result};
use clap::ValueEnum as _;
use proto::{Action, FinishReason, Thinking, ToolCall};
use serde::Serialize;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tools::parser::{ActionTags, malformed_message, parse_action};
use tools::registry::Registry;

/// Performs the command.
///
/// # Errors
/// When the configuration is wrong, there is no such tool, or a tool's environment fails.
pub async fn run(command: TryCommand) -> Result<ExitCode> {
    match command {
        TryCommand::Answer {
            key,
            answer,
            stdin,
            json,
        } => match (key, answer) {
            (Some(key), Some(answer)) if !stdin => show(&equality(&key, &answer), json)?,
            _ => rows(|columns| match columns {
                [key, answer, ..] => json_of(&equality(key, answer)),
                _ => missing("KEY<tab>ANSWER"),
            })?,
        },
        TryCommand::Tool {
            name,
            arguments,
            stdin,
            config,
            json,
        } => match (name, arguments) {
            (Some(name), Some(arguments)) if !stdin => {
                let registry = registry(config.as_deref(), &name)?;
                show(&call(&registry, &name, &arguments).await?, json)?;
            }
            (name, _) => tool_rows(name.as_deref(), config.as_deref()).await?,
        },
        TryCommand::Action(arguments) => action(arguments)?,
        TryCommand::Judge(arguments) => judge::run(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints one result, for people or as JSON.
fn show<T: Serialize + std::fmt::Display>(result: &T, json: bool) -> Result<()> {
    match json {
        true => console::print_line(&json_of(result)?),
        false => console::print_line(&result.to_string()),
    }
}

fn json_of(result: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(result)?)
}

/// The line of a row with too few columns.
fn missing(expected: &str) -> Result<String> {
    let error = format!("the row has too few columns; expected {expected}");
    json_of(&serde_json::json!({ "error": error }))
}

/// The rows of stdin.
fn stdin_rows() -> impl Iterator<Item = Result<String>> {
    let lines = std::io::stdin().lock().lines();
    lines.map(|line| line.context("cannot read stdin as UTF-8 text"))
}

/// Prints one line for each row of stdin.
fn rows(line_of: impl Fn(&[&str]) -> Result<String>) -> Result<()> {
    console::print_with(|out| {
        for row in stdin_rows() {
            let row = row?;
            let columns: Vec<&str> = row.split('\t').collect();
            writeln!(out, "{}", line_of(&columns)?)?;
        }
        Ok(())
    })
}

/// The configuration of a file, or the defaults.
fn configuration(file: Option<&Path>) -> Result<Config> {
    let files: Vec<PathBuf> = file.iter().map(|&file| file.to_owned()).collect();
    Ok(config::load_for(Path::new(""), &files, &[])?)
}

/// Whether an answer equals a key, and the type and value that each was read as.
#[derive(Debug, Serialize)]
struct Equality {
    equal: bool,
    key: Reading,
    answer: Reading,
}

impl std::fmt::Display for Equality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.equal { "equal" } else { "not equal" };
        let Self { key, answer, .. } = self;
        write!(f, "{verdict}\nkey:    {key}\nanswer: {answer}")
    }
}

fn equality(key: &str, answer: &str) -> Equality {
    let (key, answer) = (answer::read_key(key), answer::read(answer));
    Equality {
        equal: key.accepts(&answer),
        key,
        answer,
    }
}

/// Message that the model would get after a call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Result(String),
    Error(String),
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Result(text) | Self::Error(text)) = self;
        f.write_str(text)
    }
}

fn registry(config: Option<&Path>, tool: &str) -> Result<Registry> {
    let limits = configuration(config)?.tools.limits;
    Registry::builtin(&[tool.to_owned()], limits)
        .map_err(|unknown| UsageError::new(unknown.to_string()).into())
}

async fn call(registry: &Registry, tool: &str, arguments: &str) -> Result<Told> {
    let call = ToolCall {
        tool: tool.to_owned(),
        arguments: arguments.to_owned(),
    };
    let reply = registry.call(&call).await?;
    Ok(match reply.is_error {
        true => Told::Error(reply.text),
        false => Told::Result(reply.text),
    })
}

/// One line for each row of stdin: rows are calls, of the tool of this name or of the one they name.
async fn tool_rows(name: Option<&str>, config: Option<&Path>) -> Result<()> {
    if let Some(name) = name {
        registry(config, name)?;
    }
    for row in stdin_rows() {
        let row = row?;
        let (tool, arguments) = match (name, row.split_once('\t')) {
            (Some(name), columns) => (name, columns.map_or(row.as_str(), |(first, _)| first)),
            (None, Some((tool, rest))) => (tool, rest.split('\t').next().unwrap_or(rest)),
            (None, None) => {
                console::print_line(&missing("NAME<tab>ARGUMENTS")?)?;
                continue;
            }
        };
        let told = match registry(config, tool) {
            Ok(registry) => call(&registry, tool, arguments).await?,
            Err(unknown) => Told::Error(format!("{unknown:#}")),
        };
        console::print_line(&json_of(&told)?)?;
    }
    Ok(())
}

/// An action as it was read.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Read {
    Call {
        tool: String,
        text: String,
        thought: String,
    },
    Answer {
        text: String,
        thought: String,
    },
    Malformed {
        kind: &'static str,
        told: String,
    },
}

impl std::fmt::Display for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call { tool, text, .. } => write!(f, "a call of {tool}: {text}"),
            Self::Answer { text, .. } => write!(f, "an answer: {text}"),
            Self::Malformed { kind, told } => write!(f, "malformed, {kind}\n{told}"),
        }
    }
}

fn read(text: &str, finish: Finish, tags: &ActionTags) -> Read {
    let finish = match finish {
        Finish::Stop => FinishReason::StopText,
        Finish::Length => FinishReason::Length,
    };
    let parsed = parse_action(text, finish, tags);
    let thought = parsed.thought;
    match parsed.action {
        Action::Call(ToolCall { tool, arguments }) => Read::Call {
            tool,
            text: arguments,
            thought,
        },
        Action::Answer(text) => Read::Answer { text, thought },
        Action::Malformed(kind) => Read::Malformed {
            kind: kind.name(),
            told: malformed_message(kind, tags),
        },
    }
}

/// The tags of actions and of thinking.
fn tags(config: &Config, registry: &Registry, begins_open: bool) -> ActionTags {
    let thinking = config.model.thinking_tags().map(|(open, close)| Thinking {
        open: open.to_owned(),
        close: close.to_owned(),
        begins_open,
    });
    registry.tags().with_thinking(thinking)
}

fn action(arguments: TryActionArgs) -> Result<()> {
    let config = configuration(arguments.config.as_deref())?;
    let registry = Registry::builtin(&config.tools.enabled, config.tools.limits.clone())?;
    let tags = tags(&config, &registry, arguments.inside_thinking);
    if let Some(text) = &arguments.text {
        return show(&read(text, arguments.finish, &tags), arguments.json);
    }
    rows(|columns| {
        let finish = match columns.get(1).filter(|name| !name.is_empty()) {
            Some(name) => Finish::from_str(name, true),
            None => Ok(arguments.finish),
        };
        match finish {
            Ok(finish) => json_of(&read(&columns[0].replace("\\n", "\n"), finish, &tags)),
            Err(_) => missing("TEXT or TEXT<tab>stop or TEXT<tab>length"),
        }
    })
}
