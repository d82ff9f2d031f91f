//! `swirl try judge`: one judgement with all that is said on the way.

use super::{call, json_of, stdin_rows, tags};
use crate::args::TryJudgeArgs;
use crate::config::{self, Config, OutcomeJudgeKind, ProcessJudgeKind};
use crate::console;
use crate::data_commands;
use crate::judges;
use crate::usage::UsageError;
use anyhow::{Context, Result};
use judge::llm::{Exchange, Judgement, RawReply, ReplyReading};
use judge::{JudgeError, LlmEndpoint, LlmJudge, LlmOutcomeJudge, StepContext};
use proto::{Action, FinishReason, Label, Question, StepView, Verdict};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::SystemTime;
use tools::parser::parse_action;
use tools::registry::Registry;

/// Asks the configured judge, or reads replies that were given.
///
/// # Errors
/// When the configuration is wrong, or there is no such trajectory or step. A judge that gives no
/// verdict is a result here.
pub async fn run(arguments: TryJudgeArgs) -> Result<()> {
    let files = std::slice::from_ref(&arguments.config);
    let config = config::load_for(Path::new(""), files, &arguments.set)?;
    if arguments.stdin {
        return replies(&config, &arguments);
    }
    let subject = subject(&config, &arguments).await?;
    let judged = match &arguments.reply {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            Reader::new(&config, &arguments)?.read(&text)?
        }
        None => ask(&config, &subject).await?,
    };
    match arguments.json {
        true => console::print_line(&json_of(&judged)?),
        false => console::print(&judged.text()?),
    }
}

/// Subject of the judgement.
enum Subject {
    Step(Box<StepContext>),
    Answer(Box<Question>, Option<String>),
}

async fn subject(config: &Config, arguments: &TryJudgeArgs) -> Result<Subject> {
    if let [folder, item] = arguments.trajectory.as_slice() {
        return recorded(Path::new(folder), item, arguments);
    }
    let question = Question {
        id: "tried".into(),
        dataset: "tried".into(),
        split: "tried".into(),
        question: arguments.question.clone().unwrap_or_default(),
        answer: arguments.key.clone().unwrap_or_default(),
        answer_aliases: Vec::new(),
        reference_steps: Vec::new(),
    };
    if let Some(answer) = &arguments.answer {
        return Ok(Subject::Answer(Box::new(question), Some(answer.clone())));
    }
    let (last, earlier) = match arguments.steps.split_last() {
        Some(steps) => steps,
        None if arguments.reply.is_some() => return Ok(Subject::Answer(Box::new(question), None)),
        None => {
            let message = "nothing to judge: give --step TEXT, --answer TEXT with --key TEXT, or \
                           --trajectory FOLDER ITEM";
            return Err(UsageError::new(message).into());
        }
    };
    let registry = Registry::builtin(&config.tools.enabled, config.tools.limits.clone())?;
    let mut history = Vec::new();
    for text in earlier {
        history.push(played(text, config, &registry).await?);
    }
    let step = view(text_of(last), config, &registry);
    Ok(Subject::Step(Box::new(StepContext::new(
        question, history, step,
    ))))
}

/// A line break is written `\n` on the command line.
fn text_of(argument: &str) -> String {
    argument.replace("\\n", "\n")
}

fn view(text: String, config: &Config, registry: &Registry) -> StepView {
    let parsed = parse_action(
        &text,
        FinishReason::StopText,
        &tags(config, registry, false),
    );
    StepView {
        text,
        thought: parsed.thought,
        action: parsed.action,
        observation: None,
    }
}

/// An earlier step, with what its tool answers.
async fn played(text: &str, config: &Config, registry: &Registry) -> Result<StepView> {
    let mut step = view(text_of(text), config, registry);
    if let Action::Call(made) = &step.action {
        let told = call(registry, &made.tool, &made.arguments).await?;
        step.observation = Some(format!("{} -> {told}", made.arguments));
    }
    Ok(step)
}

/// A step or the answer of a stored trajectory.
fn recorded(folder: &Path, item: &str, arguments: &TryJudgeArgs) -> Result<Subject> {
    let trajectory = data_commands::trajectory(folder, item)?;
    if arguments.outcome {
        let answer = trajectory.answer().map(str::to_owned);
        return Ok(Subject::Answer(Box::new(trajectory.question), answer));
    }
    let steps = trajectory.steps.len();
    let number = arguments.number.unwrap_or(steps);
    if number == 0 || number > steps {
        let message = format!("{item} has no step {number}: it has {steps}");
        return Err(UsageError::new(message).into());
    }
    let context = StepContext::of(&trajectory, number - 1);
    Ok(Subject::Step(Box::new(context)))
}

async fn ask(config: &Config, subject: &Subject) -> Result<Judged> {
    let tools = &config.tools.enabled;
    let section = &config.judge;
    let judgement = match subject {
        Subject::Step(context) if section.process == ProcessJudgeKind::Llm => {
            step_judge(config)?.judgement(context).await
        }
        Subject::Step(context) => {
            unasked(judges::build(section, tools)?.process.judge(context).await)
        }
        Subject::Answer(question, answer) if section.outcome == OutcomeJudgeKind::Llm => {
            let judge = answer_judge(config)?;
            judge.judgement(question, answer.as_deref()).await
        }
        Subject::Answer(question, answer) => {
            let judge = judges::build(section, tools)?.outcome;
            unasked(judge.judge(question, answer.as_deref()).await)
        }
    };
    Ok(Judged::from(judgement))
}

fn unasked(verdict: Result<Verdict, JudgeError>) -> Judgement {
    Judgement {
        exchanges: Vec::new(),
        verdict,
    }
}

fn step_judge(config: &Config) -> Result<LlmJudge> {
    let (endpoint, llm) = endpoint(config)?;
    Ok(LlmJudge::on(endpoint, llm.rubric.as_deref())?)
}

fn answer_judge(config: &Config) -> Result<LlmOutcomeJudge> {
    let (endpoint, llm) = endpoint(config)?;
    Ok(LlmOutcomeJudge::on(
        endpoint,
        llm.outcome_rubric.as_deref(),
    )?)
}

fn endpoint(config: &Config) -> Result<(LlmEndpoint, &judge::LlmJudgeConfig)> {
    let llm = config.judge.llm.as_ref().ok_or_else(|| {
        UsageError::new("replies are those of a judge model: the configuration needs [judge.llm]")
    })?;
    Ok((LlmEndpoint::new(llm)?, llm))
}

/// Reads replies as a judge would.
enum Reader {
    Step(LlmJudge),
    Answer(LlmOutcomeJudge),
}

impl Reader {
    /// The judge of answers where the command line says so, or where no model judges steps.
    fn new(config: &Config, arguments: &TryJudgeArgs) -> Result<Self> {
        let section = &config.judge;
        let only_answers =
            section.process != ProcessJudgeKind::Llm && section.outcome == OutcomeJudgeKind::Llm;
        Ok(
            match arguments.outcome || arguments.answer.is_some() || only_answers {
                true => Self::Answer(answer_judge(config)?),
                false => Self::Step(step_judge(config)?),
            },
        )
    }

    /// `text` is a [`GivenReply`].
    fn read(&self, text: &str) -> Result<Judged> {
        let reply: GivenReply = serde_json::from_str(text).map_err(|error| {
            UsageError::new(format!(
                "a reply is {{\"status\": 200, \"headers\": {{…}}, \"body\": …}}: {error}"
            ))
        })?;
        let raw = reply.raw();
        let reading = match self {
            Self::Step(judge) => judge.read(&raw, SystemTime::now()),
            Self::Answer(judge) => judge.read(&raw, SystemTime::now()),
        };
        Ok(Judged::from(reading))
    }
}

/// One line for each line of stdin, which holds a reply.
fn replies(config: &Config, arguments: &TryJudgeArgs) -> Result<()> {
    let reader = Reader::new(config, arguments)?;
    for row in stdin_rows() {
        let line = match reader.read(&row?) {
            Ok(judged) => json_of(&judged)?,
            Err(error) => json_of(&serde_json::json!({ "error": format!("{error:#}") }))?,
        };
        console::print_line(&line)?;
    }
    Ok(())
}

/// A reply as it is written down; other fields are passed over.
#[derive(Debug, Deserialize)]
struct GivenReply {
    #[serde(default = "success")]
    status: u16,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    /// Text, or the JSON that the text is.
    body: serde_json::Value,
}

fn success() -> u16 {
    200
}

impl GivenReply {
    fn raw(self) -> RawReply {
        RawReply {
            status: self.status,
            headers: self.headers.into_iter().collect(),
            body: match self.body {
                serde_json::Value::String(text) => text,
                json => json.to_string(),
            },
        }
    }
}

/// Outcome of the judgement.
#[derive(Debug, Serialize)]
struct Judged {
    /// Every request with its reply, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exchanges: Vec<Exchange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// Why there is no verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether a run would ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_again: Option<bool>,
    /// The pause that the endpoint asks for first, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_seconds: Option<f64>,
}

impl Judged {
    fn new(verdict: Result<Verdict, JudgeError>) -> Self {
        let (verdict, error) = match verdict {
            Ok(verdict) => (Some(verdict), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            exchanges: Vec::new(),
            verdict,
            error,
            asked_again: None,
            after_seconds: None,
        }
    }

    fn text(&self) -> Result<String> {
        let mut lines = Vec::new();
        for exchange in &self.exchanges {
            lines.push(format!("request\n{}", pretty(&exchange.request)?));
            lines.push(match &exchange.reply {
                Ok(reply) => format!("reply, status {}\n{}", reply.status, reply.body),
                Err(why) => format!("no reply: {why}"),
            });
        }
        lines.extend(self.verdict.iter().map(|verdict| {
            let label = match verdict.label {
                Label::Good => "GOOD",
                Label::Bad => "BAD",
            };
            let (judge, score, why) = (&verdict.judge, verdict.score, &verdict.rationale);
            format!("verdict: {label} ({score:.2}) by {judge}\n{why}")
        }));
        lines.extend(
            self.error
                .iter()
                .map(|error| format!("no verdict: {error}")),
        );
        if self.asked_again == Some(true) {
            let pause = self.after_seconds.map(|s| format!(", after {s:.1} s"));
            lines.push(format!("a run asks again{}", pause.unwrap_or_default()));
        }
        Ok(lines.join("\n\n") + "\n")
    }
}

fn pretty(json: &serde_json::Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(json)?)
}

impl From<Judgement> for Judged {
    fn from(judgement: Judgement) -> Self {
        Self {
            exchanges: judgement.exchanges,
            ..Self::new(judgement.verdict)
        }
    }
}

impl From<ReplyReading> for Judged {
    fn from(reading: ReplyReading) -> Self {
        match reading {
            ReplyReading::Verdict(verdict) => Self::new(Ok(verdict)),
            ReplyReading::AskAgain { error, after } => Self {
                asked_again: Some(true),
                after_seconds: after.map(|pause| pause.as_secs_f64()),
                ..Self::new(Err(error))
            },
            ReplyReading::Error(error) => Self {
                asked_again: Some(false),
                ..Self::new(Err(error))
            },
        }
    }
}
