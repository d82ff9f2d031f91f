//! The models a run trains: the warm start, the imitation baseline, and one SWiRL learner per seed.

use super::{Run, generate, preflight};
use crate::config::{TrainSection, WarmStartSection};
use crate::engine::{ChatTurns, LearnerPort};
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
use tools::parser::ActionTags;
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
    let plan = SupervisedPlan {
        samples: dialogues(run, section)?,
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

fn dialogues(run: &Run, section: &WarmStartSection) -> Result<Vec<SftSample>> {
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
    Ok(samples)
}

/// Trains every arm that is not finished.
pub async fn train(run: &Run) -> Result<()> {
    if let Some(section) = &run.config.imitation {
        let samples = generate::imitated(run, section)?
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
    if let Some(section) = &run.config.train {
        for &seed in &section.seeds {
            policy(run, section, seed).await?;
        }
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
    let spec = model::spec_of(start)?;
    let longest = plan.samples.iter().map(|s| s.tokens.len()).max();
    let batch = preflight::dialogues(plan.batch, longest.unwrap_or_default() as u64);
    let load = preflight::supervised_load(config, &run.machine, &spec, batch);
    let learner = learner(run, arm, start, config, load).await?;
    let controller = Controller::start(FleetPlan {
        learner: Some(Arc::new(learner)),
        ..FleetPlan::default()
    })
    .await?;
    let fleet = controller.fleet().clone();
    let done = fleet.learner().await?.steps_done().await?;
    run.rewind(arm, done);
    let mut progress = Progress::new(arm, plan.steps, done);
    training::supervised(&fleet, &plan, |report| {
        run.record(arm, report);
        progress.set(report.step, &note(report, &["loss"]));
    })
    .await?;
    progress.finish("");
    fleet.learner().await?.export(run.folder.model(arm)).await?;
    controller.stop().await;
    Ok(())
}

async fn policy(run: &Run, section: &TrainSection, seed: u64) -> Result<()> {
    let arm = swirl(seed);
    if is_finished(run, &arm) {
        return Ok(());
    }
    let registry = registry(run)?;
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    let states = states(run, judges.process.as_ref())?;
    let plan = policy_plan(section, seed, states, registry.tags());
    let controller = Controller::start(FleetPlan {
        // First: it asks whether all that is held beside it fits.
        learner: Some(Arc::new(policy_learner(run, section, seed).await?)),
        samplers: policy_samplers(run, section).await?,
        judges: Some(judges),
        judge_actors: run.config.actors.judges,
        ..FleetPlan::default()
    })
    .await?;
    let fleet = controller.fleet().clone();
    let done = fleet.learner().await?.steps_done().await?;
    run.rewind(&arm, done);
    let mut progress = Progress::new(&arm, plan.steps, done);
    training::policy(&fleet, &plan, |report| {
        run.record(&arm, report);
        let shown = ["reward_mean", "kl", "well_formed_share"];
        progress.set(report.step, &note(report, &shown));
    })
    .await?;
    progress.finish("");
    fleet.learner().await?.export(run.folder.model(&arm)).await?;
    controller.stop().await;
    Ok(())
}

fn registry(run: &Run) -> Result<Arc<Registry>> {
    let tools = &run.config.tools;
    Ok(Arc::new(Registry::builtin(
        &tools.enabled,
        tools.limits.clone(),
    )?))
}

fn policy_plan(
    section: &TrainSection,
    seed: u64,
    states: Vec<Vec<State>>,
    tags: ActionTags,
) -> PolicyPlan {
    PolicyPlan {
        states,
        weighting: section.weighting,
        steps: section.steps,
        updates_per_batch: section.updates_per_batch,
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
        max_logprob_difference: section.max_logprob_difference,
    }
}

async fn policy_samplers(run: &Run, section: &TrainSection) -> Result<Vec<Arc<dyn Generator>>> {
    let engine = EngineConfig {
        max_batch: section
            .states_per_step
            .saturating_mul(section.actions_per_state as usize),
        max_context_tokens: run.config.rollout.max_context_tokens as usize
            + section.max_action_tokens as usize,
        kept_sequences: 0, // no two requests of the same weights go on from one another
        ..EngineConfig::default()
    };
    let count = run.config.actors.samplers;
    run.machine
        .samplers(&run.start_model(), engine, count)
        .await
}

async fn policy_learner(run: &Run, section: &TrainSection, seed: u64) -> Result<LearnerPort> {
    let config = LearnerConfig {
        seed,
        temperature: section.temperature,
        ..section.learner.clone()
    };
    let spec = model::spec_of(&run.start_model())?;
    let load = preflight::policy_load(&run.config, section, &run.machine, &spec);
    learner(run, &swirl(seed), &run.start_model(), &config, load).await
}

/// The states that training may start from: those of filtered trajectories that the filter of states
/// keeps, and whose fresh actions the judge will be able to rate. One that it could not would end
/// the run hours later.
pub fn states(run: &Run, judge: &dyn ProcessJudge) -> Result<Vec<Vec<State>>> {
    let mut kept = generate::kept(run, run.config.filter.keep, "filter.keep")?;
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
    let filter = run.config.filter.states;
    let mut states = training::states_of(kept);
    for group in &mut states {
        let keep = group
            .first()
            .map_or(0, |state| filter.states(&state.trajectory, judge.name()));
        group.truncate(keep);
    }
    Ok(states)
}

/// An export is atomic: where the model is, it is whole.
fn is_finished(run: &Run, arm: &str) -> bool {
    run.folder.model(arm).join("config.json").exists()
}

/// A learner, when `load`, which is held with it, fits.
async fn learner(
    run: &Run,
    arm: &str,
    start: &Path,
    config: &LearnerConfig,
    load: Load,
) -> Result<LearnerPort> {
    machine_memory::check("training", start, run.machine.device, load)?;
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
