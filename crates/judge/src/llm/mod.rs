//! Judges that ask a language model, over any endpoint that speaks OpenAI's chat-completions
//! protocol (vLLM, llama.cpp, SGLang, Ollama, hosted services).
//!
//! - **LL-1 (no key in the prompt).** The process judge's prompt holds the question's text, the
//!   earlier steps and the step; never the answer key or reference steps.
//! - **LL-2 (content is content).** Placeholders are found in the rubric once, when it is read;
//!   braces in a question or a step are never expanded.
//! - **LL-3 (a verdict is one word).** A reply counts only if its last line is the verdict word and
//!   nothing else, it is whole, and the word stands outside of reasoning. Anything else is asked
//!   again and then is an error, never a guess.
//! - **LL-4 (sections stay closed).** Material stands between tags that nothing in it can write
//!   ([`mark`]).
//! - **LL-5 (once).** The same prompt is judged once by an endpoint's judges, as long as the verdict
//!   is kept; errors are not kept.
//!
//! Not promised: that the same request gives the same reply twice. Temperature is 0, but servers
//! that batch are not deterministic to the last bit.

mod config;
mod endpoint;
mod exchange;
mod grader;
mod headers;
mod logprobs;
mod mark;
mod memo;
mod pace;
mod refusal;
mod reply;
mod setup_error;
mod template;
#[cfg(test)]
mod tests;
mod thinking;

pub use config::{LlmJudgeConfig, MaxTokensField, Temperature};
pub use endpoint::LlmEndpoint;
pub use exchange::{Exchange, RawReply};
pub use grader::{Judgement, ReplyReading};
pub use setup_error::LlmSetupError;

use crate::{JudgeError, OutcomeJudge, ProcessJudge, Ruling, StepContext};
use async_trait::async_trait;
use grader::Grader;
use mark::Mark;
use proto::{Action, Question, StepView, Verdict};
use reply::Words;
use serde_json::Value;
use std::path::Path;
use std::time::SystemTime;
use template::Template;

/// The rubric that [`LlmJudge`] follows unless the configuration names another file.
pub const PROCESS_RUBRIC: &str = include_str!("../../../../configs/rubrics/process.md");
/// The rubric that [`LlmOutcomeJudge`] follows unless the configuration names another file.
pub const OUTCOME_RUBRIC: &str = include_str!("../../../../configs/rubrics/outcome.md");

const NAME: &str = "llm";
const STEP_WORDS: Words = Words {
    good: "GOOD",
    bad: "BAD",
};
const ANSWER_WORDS: Words = Words {
    good: "YES",
    bad: "NO",
};

/// Judges steps by a rubric that a language model follows. Label-free.
///
/// A step that is not exactly one action is BAD by definition and costs no request: a model could
/// be talked into liking half a tool call.
#[derive(Debug)]
pub struct LlmJudge {
    grader: Grader,
    template: Template<3>,
}

impl LlmJudge {
    /// A judge with an endpoint of its own.
    ///
    /// # Errors
    /// When the configuration is unusable; the endpoint itself is not contacted yet.
    pub fn new(config: &LlmJudgeConfig) -> Result<Self, LlmSetupError> {
        Self::on(LlmEndpoint::new(config)?, config.rubric.as_deref())
    }

    /// A judge on an endpoint that it shares, limits included, with other judges.
    ///
    /// # Errors
    /// When the rubric cannot be read or its placeholders are wrong.
    pub fn on(endpoint: LlmEndpoint, rubric: Option<&Path>) -> Result<Self, LlmSetupError> {
        let slots = ["question", "history", "step"];
        let template = read_rubric(rubric, "process.md", PROCESS_RUBRIC, slots)?;
        Ok(Self {
            grader: Grader::new(endpoint, STEP_WORDS, template.source()),
            template,
        })
    }

    /// Judges whether or not the verdict is known already, and gives all that was said.
    pub async fn judgement(&self, context: &StepContext) -> Judgement {
        match self.without_asking(context) {
            Some(verdict) => Judgement::unasked(verdict),
            None => self.grader.judgement(self.prompt(context)).await,
        }
    }

    /// The body of the first request about a step.
    pub fn request(&self, context: &StepContext) -> Value {
        self.grader.request(self.prompt(context))
    }

    /// Reads an answer that the endpoint gave at `now`, without asking anything.
    pub fn read(&self, raw: &RawReply, now: SystemTime) -> ReplyReading {
        self.grader.read(raw, now)
    }

    fn without_asking(&self, context: &StepContext) -> Option<Verdict> {
        let Action::Malformed(kind) = context.step.action else {
            return None;
        };
        let why = format!("malformed ({}): not asked", kind.name());
        Some(self.grader.bad(why))
    }

    fn prompt(&self, context: &StepContext) -> String {
        let history = context.history.iter();
        let history = history.flat_map(|s| [Some(s.text.as_str()), s.observation.as_deref()]);
        let question = context.question.question.trim();
        let step = context.step.text.trim();
        let material = history.flatten().chain([question, step]);
        let mark = Mark::absent_from(self.template.source(), material);
        let history = render_history(&context.history, &mark);
        self.template.fill(&mark, [question, &history, step])
    }
}

#[async_trait]
impl ProcessJudge for LlmJudge {
    fn name(&self) -> &str {
        NAME
    }

    fn uses_reference(&self) -> bool {
        false
    }

    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        self.rule(context).await.map(|ruling| ruling.verdict)
    }

    async fn rule(&self, context: &StepContext) -> Result<Ruling, JudgeError> {
        let is_fresh = false;
        match self.without_asking(context) {
            Some(verdict) => Ok(Ruling { verdict, is_fresh }),
            None => self.grader.rule(self.prompt(context)).await,
        }
    }
}

/// Compares answers with the key by a rubric that a language model follows.
#[derive(Debug)]
pub struct LlmOutcomeJudge {
    grader: Grader,
    template: Template<3>,
}

impl LlmOutcomeJudge {
    /// A judge with an endpoint of its own.
    ///
    /// # Errors
    /// When the configuration is unusable; the endpoint itself is not contacted yet.
    pub fn new(config: &LlmJudgeConfig) -> Result<Self, LlmSetupError> {
        Self::on(LlmEndpoint::new(config)?, config.outcome_rubric.as_deref())
    }

    /// A judge on an endpoint that it shares, limits included, with other judges.
    ///
    /// # Errors
    /// When the rubric cannot be read or its placeholders are wrong.
    pub fn on(endpoint: LlmEndpoint, rubric: Option<&Path>) -> Result<Self, LlmSetupError> {
        let slots = ["question", "key", "answer"];
        let template = read_rubric(rubric, "outcome.md", OUTCOME_RUBRIC, slots)?;
        Ok(Self {
            grader: Grader::new(endpoint, ANSWER_WORDS, template.source()),
            template,
        })
    }

    /// Judges whether or not the verdict is known already, and gives all that was said.
    pub async fn judgement(&self, question: &Question, answer: Option<&str>) -> Judgement {
        match given(answer) {
            Some(answer) => self.grader.judgement(self.prompt(question, answer)).await,
            None => Judgement::unasked(self.none_given()),
        }
    }

    /// The body of the first request about an answer.
    pub fn request(&self, question: &Question, answer: &str) -> Value {
        self.grader.request(self.prompt(question, answer))
    }

    /// Reads an answer that the endpoint gave at `now`, without asking anything.
    pub fn read(&self, raw: &RawReply, now: SystemTime) -> ReplyReading {
        self.grader.read(raw, now)
    }

    fn none_given(&self) -> Verdict {
        self.grader.bad("no answer was given: not asked".to_owned())
    }

    fn prompt(&self, question: &Question, answer: &str) -> String {
        let key = render_key(question);
        let material = [question.question.trim(), key.as_str(), answer];
        let mark = Mark::absent_from(self.template.source(), material);
        self.template.fill(&mark, material)
    }
}

#[async_trait]
impl OutcomeJudge for LlmOutcomeJudge {
    fn name(&self) -> &str {
        NAME
    }

    async fn judge(
        &self,
        question: &Question,
        answer: Option<&str>,
    ) -> Result<Verdict, JudgeError> {
        let ruling = self.rule(question, answer).await;
        ruling.map(|ruling| ruling.verdict)
    }

    async fn rule(&self, question: &Question, answer: Option<&str>) -> Result<Ruling, JudgeError> {
        let Some(answer) = given(answer) else {
            let (verdict, is_fresh) = (self.none_given(), false);
            return Ok(Ruling { verdict, is_fresh });
        };
        self.grader.rule(self.prompt(question, answer)).await
    }
}

fn given(answer: Option<&str>) -> Option<&str> {
    answer.map(str::trim).filter(|answer| !answer.is_empty())
}

fn read_rubric<const N: usize>(
    path: Option<&Path>,
    default_name: &str,
    default_text: &str,
    slots: [&'static str; N],
) -> Result<Template<N>, LlmSetupError> {
    let (name, text) = match path {
        None => (Path::new(default_name), default_text.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| LlmSetupError::Rubric {
                path: path.to_owned(),
                source,
            })?;
            (path, text)
        }
    };
    Template::parse(text, slots).map_err(|reason| LlmSetupError::Template {
        path: name.to_owned(),
        reason,
    })
}

fn render_history(history: &[StepView], mark: &Mark) -> String {
    if history.is_empty() {
        return "(none: the last message is the first step)".to_owned();
    }
    let messages = history.iter().enumerate().map(|(index, step)| {
        let result = step.observation.as_deref().unwrap_or("(none)");
        let message = mark.section(&format!("message-{}", index + 1), step.text.trim());
        let result = mark.section(&format!("result-{}", index + 1), result.trim());
        format!("{message}\n{result}")
    });
    messages.collect::<Vec<_>>().join("\n\n")
}

fn render_key(question: &Question) -> String {
    let mut key = question.answer.trim().to_owned();
    for alias in &question.answer_aliases {
        key.push_str("\nalso accepted: ");
        key.push_str(alias.trim());
    }
    key
}
