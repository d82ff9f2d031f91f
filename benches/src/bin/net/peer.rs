//! A program that is measured.

use crate::words::{Answer, Ask};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub struct Peer {
    pub name: &'static str,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let asks = child.stdin.take().context("it was asked for above")?;
        let answers = child.stdout.take().context("it was asked for above")?;
        let mut peer = Self {
            name,
            child,
            asks,
            answers: BufReader::new(answers),
        };
        let ready = peer.ask(&Ask::Ready)?;
        let version = ready.version.unwrap_or_default();
        eprintln!("{name} {version} is ready");
        Ok(peer)
    }

    pub fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        let name = self.name;
        writeln!(self.asks, "{}", serde_json::to_string(ask)?)?;
        self.asks.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{name} ended in the middle of {ask:?}: see what it said above");
        }
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("{name}: {line}"))?;
        if let Some(error) = &answer.error {
            bail!("{name}: {error}");
        }
        if answer.unsupported.is_none() {
            ask.check(&answer).with_context(|| name)?;
        }
        Ok(answer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What children it has ends with it only if it ends by itself.
        if self.ask(&Ask::Quit).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
