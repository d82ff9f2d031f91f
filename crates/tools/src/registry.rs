//! Tools and the registry that runs them under limits.
//!
//! - **RE-1 (two kinds of failure).** A call that is itself at fault becomes an error observation,
//!   which the model sees and learns from. A failure of the environment is an `Err`, which is
//!   retried and reported and never turned into a reward (tinker-cookbook#497).
//! - **RE-2 (limits first).** Arguments over the limit never reach a tool.
//! - **RE-3 (panics pass).** A panic inside a tool is a panic of the caller, whose supervisor
//!   restarts it; the registry holds no state that a panic could spoil.

use crate::calculator::Calculator;
use crate::nearest::nearest;
use crate::parser::{ANSWER_TAG, ActionTags};
use async_trait::async_trait;
use proto::ToolCall;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Something that a model can call.
#[async_trait]
pub trait Tool: Send + Sync {
    /// The name in configurations and trajectories.
    fn name(&self) -> &str;

    /// The tag that surrounds a call in the model's text: ASCII letters, digits and `_`.
    fn tag(&self) -> &str;

    /// One sentence for the model.
    fn description(&self) -> &str;

    /// A use of it in the imperative, without a full stop, as in "either calculate, like this: …".
    fn purpose(&self) -> String {
        format!("use {}", self.name())
    }

    /// JSON Schema of the arguments; the first of its `examples` is shown to the model as a call.
    fn schema(&self) -> serde_json::Value;

    /// Runs one call. Must not block the thread: work without an await goes through [`blocking`].
    /// The future may be dropped at any await when the time is up.
    ///
    /// # Errors
    /// See [`ToolError`].
    async fn call(&self, arguments: &str) -> Result<String, ToolError>;
}

/// Why a tool gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ToolError {
    /// The call itself is at fault; the sentence is for the model. [`Registry::call`] makes an error
    /// observation of it.
    #[error("{0}")]
    Rejected(String),
    /// The environment failed: time-out, network, shutdown. Retry, then report; never a reward.
    #[error("tool infrastructure failed: {0}")]
    Infrastructure(String),
}

/// Runs work that does not await on a thread for such work, so that other tasks go on. A panic of
/// the work is a panic of the caller.
///
/// # Errors
/// `Infrastructure` when the runtime shuts down before the work has begun.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ToolError::Infrastructure(error.to_string())),
        },
    }
}

/// Bounds on one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Milliseconds after which a call is given up, as an infrastructure error. Default 10,000.
    pub timeout_ms: u64,
    /// The most bytes of arguments; a longer call is answered with an error observation. Default
    /// 4,096, which is the calculator's own bound.
    pub max_argument_bytes: usize,
    /// The most bytes of a result; a longer one is cut and ends with a note that says so (the note,
    /// of under 100 bytes, comes on top). Default 8,192, about 2,000 tokens.
    pub max_result_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 10_000,
            max_argument_bytes: 4_096,
            max_result_bytes: 8_192,
        }
    }
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolReply {
    /// The result, or a sentence for the model that starts with `Error: `.
    pub text: String,
    /// Whether `text` is an error message.
    pub is_error: bool,
    /// How long the call took, in microseconds.
    pub latency_us: u64,
}

/// A configuration names a tool that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no tool `{name}`{}; known tools: {}", hint(.nearest), known.join(", "))]
pub struct UnknownTool {
    /// The name that was asked for.
    pub name: String,
    /// A known name like it.
    pub nearest: Option<String>,
    /// Every known name.
    pub known: Vec<String>,
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

/// The tools of a run. Clones share the tools.
#[derive(Clone)]
pub struct Registry {
    tools: Vec<Arc<dyn Tool>>,
    limits: Limits,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.tools.iter().map(|tool| tool.name()).collect();
        f.debug_struct("Registry")
            .field("tools", &names)
            .field("limits", &self.limits)
            .finish()
    }
}

impl Registry {
    /// The names that [`Registry::builtin`] knows.
    pub const BUILTIN: [&'static str; 1] = [Calculator::NAME];

    /// A registry without tools, for a run that only answers.
    pub fn empty(limits: Limits) -> Self {
        Self {
            tools: Vec::new(),
            limits,
        }
    }

    /// The built-in tools of these names, each once however often it is named.
    ///
    /// # Errors
    /// The first name that no built-in tool has.
    pub fn builtin(names: &[String], limits: Limits) -> Result<Self, UnknownTool> {
        let mut registry = Self::empty(limits);
        for name in names {
            match name.as_str() {
                Calculator::NAME => registry.insert(Arc::new(Calculator)),
                _ => {
                    return Err(UnknownTool {
                        name: name.clone(),
                        nearest: nearest(name, Self::BUILTIN),
                        known: Self::BUILTIN.map(str::to_owned).to_vec(),
                    });
                }
            }
        }
        Ok(registry)
    }

    /// Adds a tool; it takes the place of one that has the same name or tag.
    ///
    /// # Panics
    /// If the tag is the answer's, is empty, or has other characters than ASCII letters, digits and
    /// `_`: no text could call such a tool.
    pub fn insert(&mut self, tool: Arc<dyn Tool>) {
        let tag = tool.tag();
        let plain = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(
            plain && !tag.is_empty() && tag != ANSWER_TAG,
            "`{tag}` cannot be a tool's tag"
        );
        self.tools
            .retain(|known| known.name() != tool.name() && known.tag() != tag);
        self.tools.push(tool);
    }

    /// The tools in the order they were added.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.tools.iter()
    }

    /// The bounds on each call.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tags of the tools and the answer.
    pub fn tags(&self) -> ActionTags {
        ActionTags::new(
            self.tools
                .iter()
                .map(|t| (t.tag().to_owned(), t.name().to_owned())),
        )
    }

    /// Name, tag, description, purpose, argument schema and an example call of each tool, as one JSON
    /// array: what a prompt can tell of them.
    pub fn schema(&self) -> serde_json::Value {
        self.tools
            .iter()
            .map(|tool| {
                let (tag, arguments) = (tool.tag(), tool.schema());
                let example = arguments["examples"][0].as_str().unwrap_or("…");
                serde_json::json!({
                    "name": tool.name(),
                    "tag": tag,
                    "description": tool.description(),
                    "purpose": tool.purpose(),
                    "example": format!("<{tag}>{example}</{tag}>"),
                    "arguments": arguments,
                })
            })
            .collect()
    }

    /// Runs one call under the limits. A call at fault (no such tool, arguments too long, rejected by
    /// the tool) is a reply with `is_error` (RE-1).
    ///
    /// # Errors
    /// Only `Infrastructure`: the time was up, or the tool reported it.
    ///
    /// # Panics
    /// When the tool panics (RE-3).
    pub async fn call(&self, call: &ToolCall) -> Result<ToolReply, ToolError> {
        let start = Instant::now();
        let (text, is_error) = match self.run(call).await {
            Ok(result) => (self.cut(result), false),
            Err(ToolError::Rejected(why)) => (self.cut(format!("Error: {why}")), true),
            Err(error @ ToolError::Infrastructure(_)) => return Err(error),
        };
        let latency_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(ToolReply {
            text,
            is_error,
            latency_us,
        })
    }

    async fn run(&self, call: &ToolCall) -> Result<String, ToolError> {
        let Some(tool) = self.tools.iter().find(|tool| tool.name() == call.tool) else {
            return Err(ToolError::Rejected(format!(
                "there is no tool `{}`",
                call.tool
            )));
        };
        let (bytes, limit) = (call.arguments.len(), self.limits.max_argument_bytes);
        if bytes > limit {
            return Err(ToolError::Rejected(format!(
                "the call is {bytes} bytes long and at most {limit} are allowed; make it shorter"
            )));
        }
        let time = Duration::from_millis(self.limits.timeout_ms);
        tokio::time::timeout(time, tool.call(&call.arguments))
            .await
            .unwrap_or_else(|_| {
                Err(ToolError::Infrastructure(format!(
                    "`{}` did not answer within {} ms",
                    call.tool, self.limits.timeout_ms
                )))
            })
    }

    /// The text within the limit, cut at a character's border.
    fn cut(&self, text: String) -> String {
        let (bytes, limit) = (text.len(), self.limits.max_result_bytes);
        if bytes <= limit {
            return text;
        }
        let kept = &text[..text.floor_char_boundary(limit)];
        format!(
            "{kept}\n[cut: the result has {bytes} bytes, shown are {}]",
            kept.len()
        )
    }
}

#[cfg(test)]
mod tests;
