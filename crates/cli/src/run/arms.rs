//! The models a run trains: the warm start, the imitation baseline, and one SWiRL learner per seed.

use super::{Run, generate, preflight};
use crate::cluster::{Elsewhere, JudgeOrder, LearnerOrder, SamplerOrder};
use crate::config::{Config, TrainSection, WarmStartSection};
use crate::ending::Stopped;
use crate::engine::{ChatTurns, LearnerPort};
use crate::judges;
use crate::machine_memory::{self, Load};
use crate::progress::Progress;
use crate::prompt;
use actors::ports::StepReport;
use actors::training::{self, PolicyPlan, State, SupervisedPlan};
use actors::{Controller, Fleet, FleetPlan, Judges};
use anyhow::{Result, bail};
use judge::ProcessJudge;
use learner::{Learner, LearnerConfig};
use proto::{Role, SamplingParams, SftSample};
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

/// States that were left out of a batch for want of a verdict, among a step's metrics.
pub const UNJUDGED_GROUPS: &str = "unjudged_groups";

/// The arm of a seed.
pub fn swirl(seed: u64) -> String {
    format!("swirl-seed{seed}")
}

/// Every arm that a configuration trains, in the order of the report.
pub fn names(config: &Config) -> Vec<String> {
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
    let questions = &run.sources.warm_start;
    let turns = turns(run)?;
    let dialogues = data::dialogue::dialogues(questions, &section.dialogue);
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
    let config = &naming_base(config.clone(), start)?;
    let longest = plan.samples.iter().map(|s| s.tokens.len()).max();
    let demand = preflight::dialogues(plan.batch, longest.unwrap_or_default() as u64);
    let elsewhere = (!run.is_here(Role::Learner)).then(|| LearnerOrder {
        start: start.to_owned(),
        config: config.clone(),
        demand,
        arm: arm.to_owned(),
        checkpoints: run.folder.checkpoints(arm),
    });
    let learner = match &elsewhere {
        Some(_) => None,
        None => {
            let spec = model::spec_of(start)?;
            let load = preflight::supervised_load(config, &run.machine, &spec, demand);
            Some(learner(run, arm, start, config, load).await?)
        }
    };
    let fleet = FleetPlan {
        learner: learner.map(|learner| Arc::new(learner) as _),
        patience: run.config.actors.patience.0,
        ..FleetPlan::default()
    };
    let elsewhere = Elsewhere {
        learner: elsewhere,
        ..Elsewhere::default()
    };
    let controller = Controller::start(run.fleet(fleet, elsewhere)).await?;
    let trained = supervised_steps(run, arm, controller.fleet(), plan).await;
    // Also after an error: no actor is to work on beyond the phase.
    controller.stop().await;
    trained
}

async fn supervised_steps(run: &Run, arm: &str, fleet: &Fleet, plan: SupervisedPlan) -> Result<()> {
    let done = steps_done(run, fleet).await?;
    run.rewind(arm, done);
    let mut progress = Progress::new(arm, plan.steps, done, 1, &run.overview);
    loop {
        training::supervised(fleet, &plan, |report| {
            run.record(arm, report);
            progress.set(report.step, &note(report, &["loss"]));
        })
        .await?;
        if is_exported(fleet, &run.folder.model(arm)).await? {
            break;
        }
    }
    progress.finish("");
    Ok(())
}

async fn policy(run: &Run, section: &TrainSection, seed: u64) -> Result<()> {
    let arm = swirl(seed);
    if is_finished(run, &arm) {
        return Ok(());
    }
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    let states = states(run, judges.process.as_ref())?;
    let mut plan = policy_plan(section, seed, states, tags(run)?);
    plan.max_unjudged_share = run.config.judge.max_unjudged_share;
    let (fleet, elsewhere) = policy_fleet(run, section, seed, judges).await?;
    let controller = Controller::start(run.fleet(fleet, elsewhere)).await?;
    let trained = policy_steps(run, &arm, controller.fleet(), plan).await;
    // Also after an error: no actor is to work on beyond the phase.
    controller.stop().await;
    trained
}

async fn policy_steps(run: &Run, arm: &str, fleet: &Fleet, mut plan: PolicyPlan) -> Result<()> {
    let done = steps_done(run, fleet).await?;
    run.rewind(arm, done);
    plan.unjudged_before = run.metrics().sum(arm, UNJUDGED_GROUPS)? as u64;
    let mut progress = Progress::new(arm, plan.steps, done, 1, &run.overview);
    loop {
        training::policy(fleet, &plan, |report| {
            run.record(arm, report);
            let shown = ["reward_mean", "kl", "well_formed_share"];
            progress.set(report.step, &note(report, &shown));
        })
        .await?;
        if is_exported(fleet, &run.folder.model(arm)).await? {
            break;
        }
    }
    progress.finish("");
    Ok(())
}

/// The actors of reinforcement learning: those of this process, and those of other nodes.
async fn policy_fleet(
    run: &Run,
    section: &TrainSection,
    seed: u64,
    judges: Judges,
) -> Result<(FleetPlan, Elsewhere)> {
    let enabled = &run.config.tools.enabled;
    let mut fleet = FleetPlan {
        judge_actors: run.config.actors.judges,
        judge_patience: run.config.judge.patience.0,
        quarantine_after: run.config.actors.quarantine_after,
        patience: run.config.actors.patience.0,
        ..FleetPlan::default()
    };
    let mut elsewhere = Elsewhere::default();
    let config = naming_base(policy_learner_config(section, seed), &run.start_model())?;
    // First: it asks whether all that is held beside it fits.
    if run.is_here(Role::Learner) {
        let spec = model::spec_of(&run.start_model())?;
        let load = preflight::policy_load(&run.config, section, &run.machine, &spec);
        let learner = learner(run, &swirl(seed), &run.start_model(), &config, load).await?;
        fleet.learner = Some(Arc::new(learner));
    } else {
        elsewhere.learner = Some(LearnerOrder {
            start: run.start_model(),
            config,
            demand: preflight::policy_steps(&run.config, section),
            arm: swirl(seed),
            checkpoints: run.folder.checkpoints(&swirl(seed)),
        });
    }
    let engine = policy_engine(run, section);
    if run.is_here(Role::Sampler) {
        let (model, count) = (run.start_model(), run.config.actors.samplers);
        let arguments = &run.config.model.template_arguments;
        let samplers = run.machine.samplers(&model, arguments, engine, count);
        fleet.samplers = samplers.await?;
    } else {
        elsewhere.sampler = Some(SamplerOrder {
            model: run.start_model(),
            template_arguments: run.config.model.template_arguments.clone(),
            dtype: run.config.model.dtype,
            f32_head: run.config.model.f32_head,
            engine,
        });
    }
    match run.is_here(Role::Judge) {
        true => fleet.judges = Some(judges),
        false => elsewhere.judges = Some(JudgeOrder::new(&run.config, enabled)?),
    }
    Ok((fleet, elsewhere))
}

/// How many steps the learner has behind it, once there is one that stays.
async fn steps_done(run: &Run, fleet: &Fleet) -> Result<u64> {
    let done = run.stop.unless(steps_of_next(fleet)).await;
    done.ok_or(Stopped::InOrder)?
}

async fn steps_of_next(fleet: &Fleet) -> Result<u64> {
    loop {
        match fleet.learner().await?.steps_done().await {
            Err(error) if error.is_gone() => {}
            done => return Ok(done?),
        }
    }
}

/// Exports what was trained. False when the learner was lost over it: the next one trains to the end
/// first.
async fn is_exported(fleet: &Fleet, folder: &Path) -> Result<bool> {
    match fleet.learner().await?.export(folder.to_owned()).await {
        Err(error) if error.is_gone() => Ok(false),
        exported => Ok(exported.map(|()| true)?),
    }
}

fn registry(run: &Run) -> Result<Arc<Registry>> {
    let tools = &run.config.tools;
    Ok(Arc::new(Registry::builtin(
        &tools.enabled,
        tools.limits.clone(),
    )?))
}

/// The dialogues of the model that the run starts from; every arm's are alike.
fn turns(run: &Run) -> Result<ChatTurns> {
    let model = &run.config.model;
    ChatTurns::load(&model.path, model, &prompt::system(&run.config, true)?)
}

fn tags(run: &Run) -> Result<ActionTags> {
    let thinking = turns(run)?.thinking().cloned();
    Ok(registry(run)?.tags().with_thinking(thinking))
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
        balance: section.balance,
        steps: section.steps,
        updates_per_batch: section.updates_per_batch,
        states_per_step: section.states_per_step,
        actions_per_state: section.actions_per_state,
        refill: section.refill,
        params: SamplingParams {
            temperature: section.temperature,
            top_p: 1.0,
            top_k: 0,
            max_tokens: section.max_action_tokens,
            stop: tags.close_tags(),
            thinking: tags.thinking().cloned(),
        },
        tags,
        seed,
        checkpoint_every: section.checkpoint_every,
        max_logprob_difference: section.max_logprob_difference,
        max_unjudged_share: 0.0,
        unjudged_before: 0,
    }
}

fn policy_engine(run: &Run, section: &TrainSection) -> EngineConfig {
    EngineConfig {
        max_batch: section
            .states_per_step
            .saturating_mul(section.actions_per_state as usize),
        max_context_tokens: run.config.rollout.max_context_tokens as usize
            + section.max_action_tokens as usize,
        kept_sequences: 0, // no two requests of the same weights go on from one another
        ..EngineConfig::default()
    }
}

fn policy_learner_config(section: &TrainSection, seed: u64) -> LearnerConfig {
    LearnerConfig {
        seed,
        temperature: section.temperature,
        ..section.learner.clone()
    }
}

/// The settings with the name of the weights that adapters will belong to: the base of `start`, or
/// `start` itself. The learner may read a copy of it elsewhere.
fn naming_base(mut config: LearnerConfig, start: &Path) -> Result<LearnerConfig> {
    if let Some(lora) = &mut config.lora {
        let base = model::base_of(start)?;
        lora.base_name = Some(std::path::absolute(base.as_deref().unwrap_or(start))?);
    }
    Ok(config)
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
    let folder = run.folder.model(arm);
    let marks = ["config.json", "adapter_config.json"];
    marks.iter().any(|mark| folder.join(mark).exists())
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
