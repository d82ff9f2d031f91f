//! Judges as the configuration asks for them.

use crate::config::{JudgeSection, OutcomeJudgeKind, ProcessJudgeKind};
use actors::Judges;
use anyhow::{Context, Result};
use judge::{
    AnswerMatch, LlmEndpoint, LlmJudge, LlmJudgeConfig, LlmOutcomeJudge, LlmSetupError,
    OutcomeJudge, ProcessJudge, ReferenceJudge, RulesConfig, RulesJudge, StepContext,
};
use proto::{Action, Question, StepView};
use std::sync::{Arc, Mutex, PoisonError};

/// Asks a judge model for one verdict before hours of work depend on it; judges without a model
/// need no asking.
///
/// # Errors
/// What the endpoint said, or that it cannot be reached.
pub async fn probe(section: &JudgeSection) -> Result<()> {
    let judges = build(section, &[])?;
    let question = Question {
        id: "probe".into(),
        dataset: "probe".into(),
        split: "probe".into(),
        question: "A box holds 3 pens. How many pens do 4 boxes hold?".into(),
        answer: "12".into(),
        answer_aliases: Vec::new(),
        reference_steps: Vec::new(),
    };
    if section.process == ProcessJudgeKind::Llm {
        let step = StepView {
            text: "<answer>12</answer>".into(),
            thought: String::new(),
            action: Action::Answer("12".into()),
            observation: None,
        };
        judges
            .process
            .judge(&StepContext::new(question.clone(), Vec::new(), step))
            .await?;
    }
    if section.outcome == OutcomeJudgeKind::Llm {
        judges.outcome.judge(&question, Some("12")).await?;
    }
    Ok(())
}

/// Builds the judges of work in which the tools of these names are offered. Where none is, an answer
/// cannot follow from a call, and the rules do not ask for one.
///
/// # Errors
/// When the LLM judge's endpoint, key or rubric is missing.
pub fn build(section: &JudgeSection, tools: &[String]) -> Result<Judges> {
    let llm = match &section.llm {
        Some(config) => Some((endpoint(config)?, config)),
        None => None,
    };
    let llm = || llm.clone().context("[judge.llm] is missing");
    let process: Arc<dyn ProcessJudge> = match section.process {
        ProcessJudgeKind::Rules => Arc::new(RulesJudge::new(RulesConfig {
            allow_answer_without_call: tools.is_empty(),
        })),
        ProcessJudgeKind::Reference => Arc::new(ReferenceJudge::new()),
        ProcessJudgeKind::Llm => {
            let (endpoint, config) = llm()?;
            Arc::new(LlmJudge::on(endpoint, config.rubric.as_deref())?)
        }
    };
    let outcome: Arc<dyn OutcomeJudge> = match section.outcome {
        OutcomeJudgeKind::Match => Arc::new(AnswerMatch::new()),
        OutcomeJudgeKind::Llm => {
            let (endpoint, config) = llm()?;
            Arc::new(LlmOutcomeJudge::on(
                endpoint,
                config.outcome_rubric.as_deref(),
            )?)
        }
    };
    Ok(Judges { process, outcome })
}

/// The endpoint that was used last. One for both judges and for all phases of a run: its limits hold for
/// them together, and what one phase has had judged another need not ask again.
static LAST: Mutex<Option<LlmEndpoint>> = Mutex::new(None);

fn endpoint(config: &LlmJudgeConfig) -> Result<LlmEndpoint, LlmSetupError> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some(endpoint) if endpoint.config() == config => Ok(endpoint.clone()),
        _ => Ok(last.insert(LlmEndpoint::new(config)?).clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Label;

    #[tokio::test]
    async fn rules_ask_for_a_call_only_where_there_is_a_tool() {
        let question = Question {
            id: "q".into(),
            dataset: "d".into(),
            split: "s".into(),
            question: "What is 3 times 4?".into(),
            answer: "12".into(),
            answer_aliases: Vec::new(),
            reference_steps: Vec::new(),
        };
        let step = StepView {
            text: "<answer>12</answer>".into(),
            thought: String::new(),
            action: Action::Answer("12".into()),
            observation: None,
        };
        let context = StepContext::new(question, Vec::new(), step);
        let calculator = ["calculator".to_owned()];
        for (tools, expected) in [(&calculator[..], Label::Bad), (&[], Label::Good)] {
            let judges = build(&JudgeSection::default(), tools).unwrap();
            let verdict = judges.process.judge(&context).await.unwrap();
            assert_eq!(verdict.label, expected, "{tools:?}");
        }
    }
}
