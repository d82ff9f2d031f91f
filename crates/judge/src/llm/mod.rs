//! Judges that ask a language model, over any endpoint that speaks OpenAI's chat-completions
//! protocol (vLLM, llama.cpp, SGLang, Ollama, hosted services).
//!
//! - **LL-1 (no key in the prompt).** The process judge's prompt holds the question's text, the
//!   earlier steps and the step; never the answer key or reference steps.
//! - **LL-2 (content is content).** Placeholders are found in the rubric once, when it is read;
//!   braces in a question or a step are never expanded.
//! - **LL-3 (a verdict is one word).** A reply counts only if its last line is the verdict word and
//!   nothing else. Anything else is asked again and then is an error, never a guess.
//!
//! Not promised: that the same request gives the same reply twice. Temperature is 0, but servers
//! that batch are not deterministic to the last bit.

mod config;
mod endpoint;
mod pace;
mod reply;
mod template;
#[cfg(test)]
mod tests;

pub use config::{LlmJudgeConfig, LlmSetupError};
pub use endpoint::LlmEndpoint;

use crate::{JudgeError, OutcomeJudge, ProcessJudge, StepContext, verdict::hash};
use async_trait::async_trait;
use endpoint::Message;
use proto::{Action, Label, Question, StepView, Verdict};
use reply::Words;
use std::path::Path;
use template::Template;

/// The rubric that [`LlmJudge`] follows unless the configuration names another file.
pub const PROCESS_RUBRIC: &str = include_str!("../../../../configs/rubrics/process.md");
/// The rubric that [`LlmOutcomeJudge`] follows unless the configuration names another file.
pub const OUTCOME_RUBRIC: &str = include_str!("../../../../configs/rubrics/outcome.md");

const NAME: &str = "llm";
const SYSTEM: &str = "You are a careful and impartial grader. You follow the rubric you are given, \
                      reason briefly, and always end with the verdict on a line of its own.";
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

    fn prompt(&self, context: &StepContext) -> String {
        let history = render_history(&context.history);
        self.template.fill([
            context.question.question.trim(),
            &history,
            context.step.text.trim(),
        ])
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
        if let Action::Malformed(kind) = context.step.action {
            return Ok(self
                .grader
                .bad(format!("malformed ({}): not asked", kind.name())));
        }
        self.grader.grade(self.prompt(context)).await
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

    fn prompt(&self, question: &Question, answer: &str) -> String {
        let key = render_key(question);
        self.template.fill([question.question.trim(), &key, answer])
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
        match answer.map(str::trim).filter(|answer| !answer.is_empty()) {
            Some(answer) => self.grader.grade(self.prompt(question, answer)).await,
            None => Ok(self.grader.bad("no answer was given: not asked".to_owned())),
        }
    }
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

fn render_history(history: &[StepView]) -> String {
    if history.is_empty() {
        return "(none: the last message is the first step)".to_owned();
    }
    let messages = history.iter().enumerate().map(|(index, step)| {
        let result = step.observation.as_deref().unwrap_or("(none)");
        format!(
            "Message {}:\n{}\nResult:\n{}",
            index + 1,
            step.text.trim(),
            result.trim()
        )
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

/// Asks until a reply holds a verdict.
#[derive(Debug)]
struct Grader {
    endpoint: LlmEndpoint,
    words: Words,
    prompt_hash: String,
}

impl Grader {
    fn new(endpoint: LlmEndpoint, words: Words, rubric: &str) -> Self {
        let prompt_hash = hash(&[SYSTEM, rubric, &reminder(words)]);
        Self {
            endpoint,
            words,
            prompt_hash,
        }
    }

    /// BAD without a request.
    fn bad(&self, rationale: String) -> Verdict {
        let model = self.endpoint.model().to_owned();
        self.verdict(model, Label::Bad, 0.0, rationale)
    }

    fn verdict(&self, model: String, label: Label, score: f32, rationale: String) -> Verdict {
        let judge = NAME.to_owned();
        Verdict {
            judge,
            model,
            prompt_hash: self.prompt_hash.clone(),
            label,
            score,
            rationale,
        }
    }

    /// An unreadable reply is shown to the model with a reminder: at temperature 0 the bare
    /// request would only bring the same reply again.
    async fn grade(&self, prompt: String) -> Result<Verdict, JudgeError> {
        let mut messages = vec![Message::system(SYSTEM), Message::user(prompt)];
        let mut tries = 0;
        loop {
            let reply = self.endpoint.chat(&messages).await?;
            tries += 1;
            let model = reply
                .model
                .as_deref()
                .unwrap_or(self.endpoint.model())
                .to_owned();
            if let Some(found) = reply::read(&reply, self.words) {
                return Ok(self.verdict(model, found.label, found.score, found.rationale));
            }
            if tries >= self.endpoint.max_tries() {
                let ending = reply::ending(&reply.text);
                return Err(JudgeError::Unreadable {
                    model,
                    tries,
                    ending,
                });
            }
            tracing::debug!(tries, "The judge's reply holds no verdict; asking again.");
            messages.truncate(2);
            messages.push(Message::assistant(reply.text));
            messages.push(Message::user(reminder(self.words)));
        }
    }
}

fn reminder(words: Words) -> String {
    format!(
        "Your reply does not end with a verdict. Reply again with one last line that holds one \
         word and nothing else: {} or {}.",
        words.good, words.bad
    )
}
