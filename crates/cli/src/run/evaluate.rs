//! Evaluation: the loop of stage 1 on held-out questions, for every model of the run.

use super::generate::{Rollouts, refuse_failures, roll_out};
use super::{Run, arms};
use crate::config::{Config, WITHOUT_TOOLS};
use anyhow::Result;
use std::path::PathBuf;

/// The arm of the model that the run started from.
pub const BASE: &str = "base";

/// One evaluation: a model on a set, with tools or without.
pub struct Evaluation {
    /// The model's arm.
    pub arm: String,
    /// The set's name, marked where no tool is offered.
    pub set: String,
    /// Index of the set in the configuration.
    pub index: usize,
    /// Whether tools are offered.
    pub with_tools: bool,
}

impl Evaluation {
    /// Its name in progress lines.
    pub fn title(&self) -> String {
        format!("{} on {}", self.arm, self.set)
    }

    /// The model's directory.
    fn model(&self, run: &Run) -> PathBuf {
        match self.arm == BASE {
            true => run.config.model.path.clone(),
            false => run.folder.model(&self.arm),
        }
    }
}

/// Every evaluation of a run, in the order of the report.
pub fn plan(config: &Config) -> Vec<Evaluation> {
    let base = config.evaluation.base.then(|| BASE.to_owned());
    let arms: Vec<String> = base.into_iter().chain(arms::names(config)).collect();
    let tools: &[bool] = match config.evaluation.without_tools {
        true => &[true, false],
        false => &[true],
    };
    let mut evaluations = Vec::new();
    for (index, set) in config.evaluation.sets.iter().enumerate() {
        for &with_tools in tools {
            for arm in &arms {
                let suffix = if with_tools { "" } else { WITHOUT_TOOLS };
                evaluations.push(Evaluation {
                    arm: arm.clone(),
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
    for evaluation in plan(&run.config) {
        let settings = &run.config.evaluation;
        let report = roll_out(
            &run.config,
            &run.machine,
            run.head.as_ref(),
            Rollouts {
                title: &evaluation.title(),
                model: &evaluation.model(run),
                store: &run.folder.evaluation(&evaluation.arm, &evaluation.set),
                questions: run.sources.sets[evaluation.index].clone(),
                samples: settings.samples,
                temperature: settings.temperature,
                top_p: 1.0,
                top_k: 0,
                max_steps: settings.max_steps,
                max_action_tokens: settings.max_action_tokens,
                with_tools: evaluation.with_tools,
                seed: run.config.run.seed,
                overview: &run.overview,
                stop: &run.stop,
            },
        )
        .await?;
        refuse_failures(&report)?;
    }
    Ok(())
}
