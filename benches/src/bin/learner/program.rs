//! The programs that are compared, each in a process of its own: commands as JSON lines in, answers
//! as JSON lines out.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What a program can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// One optimisation step on some states or dialogues.
    Step {
        /// Their numbers in the work file.
        items: Vec<usize>,
    },
    /// The gradient of such a step, written as f32 under Hugging Face names.
    Gradient {
        /// Their numbers in the work file.
        items: Vec<usize>,
        /// The safetensors file to write.
        out: PathBuf,
    },
    /// The machine's rate of matrix products in the program's type; our own program only.
    Rate,
    /// End.
    Quit,
}

/// What it answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Set when the program is loaded.
    #[serde(default)]
    pub ready: bool,
    /// Versions of its libraries.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// What went wrong.
    #[serde(default)]
    pub error: Option<String>,
    /// Wall time of the step.
    #[serde(default)]
    pub seconds: f64,
    /// Sequences trained on.
    #[serde(default)]
    pub sequences: usize,
    /// Tokens that ran, without padding.
    #[serde(default)]
    pub tokens: usize,
    /// The loss.
    #[serde(default)]
    pub loss: f64,
    /// Floating-point operations per second of matrix products.
    #[serde(default)]
    pub flops: f64,
    /// Everything else a step of ours reports.
    #[serde(default)]
    pub values: BTreeMap<String, f64>,
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    /// What it is called in the results.
    pub name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What it said of itself.
    pub hello: Answer,
}

impl Program {
    /// Starts it and waits until it has loaded its model.
    pub fn start(name: &'static str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name}: {:?} cannot be started", command.get_program()))?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut program = Self {
            name,
            child,
            input,
            output,
            hello: Answer::default(),
        };
        program.hello = program.answer()?;
        Ok(program)
    }

    /// Asks and waits.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        let line = serde_json::to_string(request)?;
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let name = self.name;
        if line.is_empty() {
            bail!("{name} ended without an answer; its own messages are above");
        }
        let answer: Answer = serde_json::from_str(&line)
            .with_context(|| format!("{name} answered {}", line.trim()))?;
        match answer.error {
            Some(error) => bail!("{name}: {error}"),
            None => Ok(answer),
        }
    }

    /// The most memory it has had resident, in bytes, as Linux counts it; `None` elsewhere.
    pub fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Ends it.
    pub fn quit(mut self) -> Result<()> {
        writeln!(self.input, "{}", serde_json::to_string(&Request::Quit)?)?;
        self.input.flush()?;
        drop(self.input);
        self.child.wait()?;
        Ok(())
    }
}

/// A file for one program's answer.
pub fn gradient_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.safetensors"))
}
