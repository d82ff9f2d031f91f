//! Evaluation: the loop of stage 1 on held-out questions, for every model of the run.

use super::generate::{Rollouts, refuse_failures, roll_out};
use super::{Run, arms};
use crate::config::WITHOUT_TOOLS;
use crate::questions;
use anyhow::Result;
use std::path::PathBuf;

/// The arm of the model that the run started from.
pub const BASE: &str = "base";

/// One evaluation: a model on a set, with tools or without.
pub struct Evaluation {
    /// The model's arm.
    pub arm: String,
    /// The model's directory.
    pub model: PathBuf,
    /// The set's name, marked where no tool is offered.
    pub set: String,
    /// Index of the set in the configuration.
    pub index: usize,
    /// Whether tools are offered.
    pub with_tools: bool,
}

/// Every evaluation of a run, in the order of the report.
pub fn plan(run: &Run) -> Vec<Evaluation> {
    let base = (BASE.to_owned(), run.config.model.path.clone());
    let bases = run.config.evaluation.base.then_some(base).into_iter();
    let trained = arms::names(run).into_iter().map(|arm| {
        let model = run.folder.model(&arm);
        (arm, model)
    });
    let models: Vec<(String, PathBuf)> = bases.chain(trained).collect();
    let tools: &[bool] = match run.config.evaluation.without_tools {
        true => &[true, false],
        false => &[true],
    };
    let mut evaluations = Vec::new();
    for (index, set) in run.config.evaluation.sets.iter().enumerate() {
        for &with_tools in tools {
            for (arm, model) in &models {
                let suffix = if with_tools { "" } else { WITHOUT_TOOLS };
                evaluations.push(Evaluation {
                    arm: arm.clone(),
                    model: model.clone(),
                    set: format!("{}{suffix}", set.name),
                    index,
                    with_tools,
                });
            }
        }
    }
    evaluations
}

/// Runs every evaluation; those on disk are not repeated.
pub async fn all(run: &Run) -> Result<()> {
    for evaluation in plan(run) {
        let settings = &run.config.evaluation;
        let set = &settings.sets[evaluation.index];
        let report = roll_out(
            &run.config,
            &run.machine,
            run.head.as_ref(),
            Rollouts {
                title: &format!("{} on {}", evaluation.arm, evaluation.set),
                model: &evaluation.model,
                store: &run.folder.evaluation(&evaluation.arm, &evaluation.set),
                questions: questions::load(&set.questions)?,
                samples: settings.samples,
                temperature: settings.temperature,
                top_p: 1.0,
                top_k: 0,
                max_steps: settings.max_steps,
                max_action_tokens: settings.max_action_tokens,
                with_tools: evaluation.with_tools,
                seed: run.config.run.seed,
            },
        )
        .await?;
        refuse_failures(&report)?;
    }
    Ok(())
}
