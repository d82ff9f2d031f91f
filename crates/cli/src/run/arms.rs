//! The models a run trains: the warm start, the imitation baseline, and one SWiRL learner per seed.

use super::{Run, generate};
use crate::engine::{ChatTurns, LearnerPort, SamplerPort};
use crate::judges;
use crate::machine_memory::{self, Load};
use crate::progress::Progress;
use crate::questions;
use actors::ports::{Generator, StepReport};
use actors::training::{self, PolicyPlan, State, SupervisedPlan};
use actors::{Controller, FleetPlan};
use anyhow::{Result, bail};
use judge::ProcessJudge;
use learner::{Learner, LearnerConfig};
use proto::{SamplingParams, SftSample};
use sampler::EngineConfig;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tools::registry::Registry;

/// The arm that later ones start from.
pub const WARM_START: &str = "warm_start";

/// The baseline that imitates the filtered trajectories.
pub const IMITATION: &str = "imitation";

/// The arm of a seed.
pub fn swirl(seed: u64) -> String {
    format!("swirl-seed{seed}")
}

/// Every arm that a configuration trains, in the order of the report.
pub fn names(run: &Run) -> Vec<String> {
    let config = &run.config;
    let warm = config.warm_start.iter().map(|_| WARM_START.to_owned());
    let imitation = config.imitation.iter().map(|_| IMITATION.to_owned());
    let seeds = config
        .train
        .iter()
        .flat_map(|train| train.seeds.iter().map(|&s| swirl(s)));
    warm.chain(imitation).chain(seeds).collect()
}

/// Imitates annotated solutions.
pub async fn warm_start(run: &Run) -> Result<()> {
    let Some(section) = &run.config.warm_start else {
        return Ok(());
    };
    let questions = questions::load(&section.questions)?;
    let turns = ChatTurns::load(&run.config.model.path, &run.config.prompt.system)?;
    let dialogues = data::dialogue::dialogues(&questions, &section.dialogue);
    tracing::info!(
        questions = questions.len(),
        dialogues = dialogues.kept.len(),
        left_out = ?dialogues.skipped,
        "Solutions became dialogues."
    );
    let by_id: HashMap<_, _> = questions.iter().map(|q| (&q.id, q)).collect();
    let samples: Vec<SftSample> = dialogues
        .kept
        .iter()
        .map(|(id, dialogue)| turns.dialogue(by_id[id], dialogue))
        .filter(|sample| sample.tokens.len() <= section.max_tokens)
        .collect();
    if samples.is_empty() {
        bail!(
            "none of {} questions has a solved dialogue of at most {} tokens: raise \
             warm_start.max_tokens, or choose questions with annotated solutions",
            questions.len(),
            section.max_tokens
        );
    }
    let plan = SupervisedPlan {
        samples,
        steps: section.steps,
        batch: section.batch,
        seed: run.config.run.seed,
        checkpoint_every: section.checkpoint_every,
    };
    supervised(
        run,
        WARM_START,
        &run.config.model.path,
        &section.learner,
        plan,
    )
    .await
}

/// Trains every arm that is not finished.
pub async fn train(run: &Run) -> Result<()> {
    if let Some(section) = &run.config.imitation {
        let keep = section.keep.unwrap_or(run.config.filter.keep);
        let samples = generate::kept(run, keep)?
            .into_iter()
            .map(|t| SftSample {
                mask: t.loss_mask(),
                tokens: t.tokens,
            })
            .collect();
        let plan = SupervisedPlan {
            samples,
            steps: section.steps,
            batch: section.batch,
            seed: run.config.run.seed,
            checkpoint_every: section.checkpoint_every,
        };
        supervised(run, IMITATION, &run.start_model(), &section.learner, plan).await?;
    }
    for &seed in run.config.train.iter().flat_map(|train| &train.seeds) {
        policy(run, seed).await?;
    }
    Ok(())
}

async fn supervised(
    run: &Run,
    arm: &str,
    start: &Path,
    config: &LearnerConfig,
    plan: SupervisedPlan,
) -> Result<()> {
    if is_finished(run, arm) {
        return Ok(());
    }
    let learner = learner(run, arm, start, config, Load::default()).await?;
    let controller = Controller::start(FleetPlan {
        samplers: Vec::new(),
        registry: Arc::new(Registry::builtin(&[], run.config.tools.limits.clone())?),
        tool_executors: 1,
        judges: judges::build(&run.config.judge)?,
        judge_actors: 1,
        learner: Some(Arc::new(learner)),
    })
    .await?;
    let fleet = controller.fleet().clone();
    let mut progress = Progress::new(arm, plan.steps, fleet.learner_steps().await?);
    training::supervised(&fleet, &plan, |report| {
        run.record(arm, report);
        progress.set(report.step, note(report, &["loss"]));
    })
    .await?;
    progress.finish("");
    fleet.export(run.folder.model(arm)).await?;
    controller.stop().await;
    Ok(())
}

async fn policy(run: &Run, seed: u64) -> Result<()> {
    let arm = swirl(seed);
    let Some(section) = &run.config.train else {
        return Ok(());
    };
    if is_finished(run, &arm) {
        return Ok(());
    }
    let start = run.start_model();
    let registry = Arc::new(Registry::builtin(
        &run.config.tools.enabled,
        run.config.tools.limits.clone(),
    )?);
    let tags = registry.tags();
    let judges = judges::build(&run.config.judge)?;
    let plan = PolicyPlan {
        states: states(run, judges.process.as_ref())?,
        weighting: section.weighting,
        steps: section.steps,
        states_per_step: section.states_per_step,
        actions_per_state: section.actions_per_state,
        params: SamplingParams {
            temperature: section.temperature,
            top_p: 1.0,
            top_k: 0,
            max_tokens: section.max_action_tokens,
            stop: tags.close_tags(),
        },
        tags,
        seed,
        checkpoint_every: section.checkpoint_every,
    };
    let engine = EngineConfig {
        max_batch: section.states_per_step * section.actions_per_state as usize,
        max_context_tokens: run.config.rollout.max_context_tokens as usize
            + section.max_action_tokens as usize,
        ..EngineConfig::default()
    };
    let load = Load {
        samplers: run.config.actors.samplers as u64,
        sequences: engine.max_batch as u64,
        context_tokens: engine.max_context_tokens as u64,
        references: u64::from(section.learner.kl.coefficient > 0.0),
        ..Load::default()
    };
    let config = LearnerConfig {
        seed,
        temperature: section.temperature,
        ..section.learner.clone()
    };
    let learner = learner(run, &arm, &start, &config, load).await?;
    let mut samplers: Vec<Arc<dyn Generator>> = Vec::new();
    for _ in 0..run.config.actors.samplers {
        samplers.push(Arc::new(SamplerPort(
            run.machine.sampler(&start, engine).await?,
        )));
    }
    let controller = Controller::start(FleetPlan {
        samplers,
        registry,
        tool_executors: 1,
        judges,
        judge_actors: run.config.actors.judges,
        learner: Some(Arc::new(learner)),
    })
    .await?;
    let fleet = controller.fleet().clone();
    let mut progress = Progress::new(&arm, plan.steps, fleet.learner_steps().await?);
    training::policy(&fleet, &plan, |report| {
        run.record(&arm, report);
        progress.set(
            report.step,
            note(report, &["reward_mean", "kl", "well_formed_share"]),
        );
    })
    .await?;
    progress.finish("");
    fleet.export(run.folder.model(&arm)).await?;
    controller.stop().await;
    Ok(())
}

/// The states that training may start from: those of filtered trajectories whose fresh actions the
/// judge will be able to rate. One that it could not would end the run hours later.
fn states(run: &Run, judge: &dyn ProcessJudge) -> Result<Vec<Vec<State>>> {
    let mut kept = generate::kept(run, run.config.filter.keep)?;
    let before = kept.len();
    kept.retain(|trajectory| judge.can_judge(&trajectory.question));
    let left_out = before - kept.len();
    if left_out > 0 {
        let judge = judge.name();
        tracing::warn!(
            judge,
            left_out,
            "Trajectories whose steps this judge cannot rate are not trained on."
        );
    }
    Ok(training::states_of(kept))
}

/// An export is atomic: where the model is, it is whole.
fn is_finished(run: &Run, arm: &str) -> bool {
    run.folder.model(arm).join("config.json").exists()
}

/// A learner with what else is to be held at the same time in `beside`.
async fn learner(
    run: &Run,
    arm: &str,
    start: &Path,
    config: &LearnerConfig,
    beside: Load,
) -> Result<LearnerPort> {
    let kind = config.dtype.kind(run.machine.device);
    machine_memory::check(
        start,
        run.machine.device,
        kind,
        Load {
            learners: 1,
            ..beside
        },
    )?;
    let checkpoints = run.folder.checkpoints(arm);
    let (start, root, config, device) = (
        start.to_owned(),
        checkpoints.clone(),
        config.clone(),
        run.machine.device,
    );
    let learner = run
        .machine
        .run(move || Learner::open(&start, &root, device, config))
        .await??;
    Ok(LearnerPort::new(run.machine.clone(), learner, checkpoints))
}

fn note(report: &StepReport, names: &[&str]) -> String {
    let shown = names.iter().filter_map(|name| {
        report
            .metrics
            .get(*name)
            .map(|value| format!("{} {value:.3}", name.replace('_', " ")))
    });
    shown.collect::<Vec<_>>().join(", ")
}
