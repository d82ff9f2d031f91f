//! A program that is measured: it reads a question and writes an answer, a line of JSON each.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One under way.
pub struct Program {
    name: String,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When the system does not.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let asks = child.stdin.take().context("it was asked for above")?;
        let answers = child.stdout.take().context("it was asked for above")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            asks,
            answers: BufReader::new(answers),
        })
    }

    /// What it is called in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// As [`Program::tell`] and [`Program::hear`].
    pub fn ask<A: DeserializeOwned>(&mut self, ask: &impl Serialize) -> Result<A> {
        self.tell(ask)?;
        self.hear()
    }

    /// Asks; [`Program::hear`] waits for the answer.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, ask: &impl Serialize) -> Result<()> {
        let written = writeln!(self.asks, "{}", serde_json::to_string(ask)?);
        let written = written.and_then(|()| self.asks.flush());
        written.with_context(|| format!("{} takes no more questions", self.name))
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// When it ends instead, answers `{"error": …}`, or something else.
    pub fn hear<A: DeserializeOwned>(&mut self) -> Result<A> {
        let name = &self.name;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{name} ended in the middle of its work: see what it said above");
        }
        let answer: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("{name}: {line}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{name}: {error}");
        }
        serde_json::from_value(answer).with_context(|| format!("{name}: {line}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What children it has ends with it only if it ends by itself.
        let quit = serde_json::json!({"op": "quit"});
        if self.tell(&quit).is_err() || self.hear::<serde_json::Value>().is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
