//! What would stop a run later, found before a folder is made or an hour is spent.

use super::overlap::{self, Overlap};
use crate::config::{Config, TrainSection};
use crate::console;
use crate::engine::{ChatTurns, Machine};
use crate::judges;
use crate::machine_memory::{self, Demand, Learning, Load, Sampling};
use crate::prompt;
use crate::questions::Sources;
use crate::usage::UsageError;
use anyhow::Result;
use control::phases::Phase;
use learner::{BatchSize, Learner, LearnerConfig, LossKind};
use model::DecoderSpec;
use proto::Role;
use tools::registry::Registry;

/// The phases in which steps or answers are judged.
const JUDGED: [Phase; 3] = [Phase::Generate, Phase::Train, Phase::Evaluate];

/// All that can be asked without the device, the model and the judge's endpoint: prompts, questions
/// that are trained on and measured on, the judges' keys and rubrics. Returns the overlaps that the
/// configuration lets pass.
///
/// # Errors
/// The first thing that is wrong.
pub fn offline(config: &Config, sources: &Sources) -> Result<Vec<Overlap>> {
    for remark in prompt::check(config)? {
        console::remark(format_args!("warning: {remark}"));
    }
    let overlaps = overlap::check(config, sources)?;
    judges::build(&config.judge, &config.tools.enabled)?;
    Ok(overlaps)
}

/// After [`offline`]: the device, the model, and what the phases that are `due` need: memory, and the
/// judge's endpoint.
///
/// # Errors
/// The first thing that is wrong.
pub async fn all(config: &Config, due: &[Phase]) -> Result<Machine> {
    let machine = Machine::new(&config.model)?;
    let spec = model::spec_of(&config.model.path)?;
    let system = prompt::system(config, true)?;
    let turns = ChatTurns::load(&config.model.path, &config.model, &system)?;
    let registry = Registry::builtin(&config.tools.enabled, config.tools.limits.clone())?;
    turns.shows(&registry.tags().with_thinking(turns.thinking().cloned()))?;
    contexts(config, &spec)?;
    learners(config, &machine, &spec)?;
    memory(config, &machine, &spec, due)?;
    // Where nodes judge, they need not be able to reach the endpoint from here.
    if due.iter().any(|phase| JUDGED.contains(phase)) && config.cluster.is_here(Role::Judge) {
        judges::probe(&config.judge).await?;
    }
    Ok(machine)
}

/// Every learner's names of frozen parameters and adapter to start from. Trained models have the
/// start model's parameters.
fn learners(config: &Config, machine: &Machine, spec: &DecoderSpec) -> Result<(), UsageError> {
    for (section, learner) in config.learners() {
        Learner::check(learner, &config.model.path, spec, machine.device)
            .map_err(|error| UsageError::new(format!("{section}: {error}")))?;
    }
    Ok(())
}

/// Every sequence that a phase makes must fit the model's context.
fn contexts(config: &Config, spec: &DecoderSpec) -> Result<(), UsageError> {
    let rollout = u64::from(config.rollout.max_context_tokens);
    fits_context("rollout.max_context_tokens", rollout, spec)?;
    if let Some(train) = &config.train {
        fits_context(
            "rollout.max_context_tokens + train.max_action_tokens",
            rollout + u64::from(train.max_action_tokens),
            spec,
        )?;
    }
    if let Some(warm) = &config.warm_start {
        fits_context("warm_start.max_tokens", warm.max_tokens as u64, spec)?;
    }
    Ok(())
}

/// Refuses settings that let sequences grow beyond the model's context.
///
/// # Errors
/// Names the settings and the context.
pub fn fits_context(settings: &str, tokens: u64, spec: &DecoderSpec) -> Result<(), UsageError> {
    let context = u64::try_from(spec.max_context).unwrap_or(0);
    if tokens <= context {
        return Ok(());
    }
    Err(UsageError::new(format!(
        "{settings} = {tokens}, but the model's context is {context} tokens: lower it"
    )))
}

/// Every phase that is due must fit the memory. Trained models have the start model's size.
fn memory(config: &Config, machine: &Machine, spec: &DecoderSpec, due: &[Phase]) -> Result<()> {
    let trains_here = config.cluster.is_here(Role::Learner);
    let check = |phase: Phase, what: &str, load: Load| {
        let learning = load.learning.filter(|_| trains_here);
        let load = Load { learning, ..load };
        match due.contains(&phase) {
            true => machine_memory::check(what, &config.model.path, machine.device, load),
            false => Ok(()),
        }
    };
    if let Some(warm) = &config.warm_start {
        let demand = dialogues(warm.batch, warm.max_tokens as u64);
        let load = supervised_load(&warm.learner, machine, spec, demand);
        check(Phase::WarmStart, "warm start", load)?;
    }
    let rollouts = rollout_load(config, machine);
    check(Phase::Generate, "generation of trajectories", rollouts)?;
    if let Some(imitation) = &config.imitation {
        let longest = u64::from(config.rollout.max_context_tokens);
        let demand = dialogues(imitation.batch, longest);
        let load = supervised_load(&imitation.learner, machine, spec, demand);
        check(Phase::Train, "imitation", load)?;
    }
    if let Some(train) = &config.train {
        let load = policy_load(config, train, machine, spec);
        check(Phase::Train, "training", load)?;
    }
    check(Phase::Evaluate, "evaluation", rollouts)
}

/// What rollouts hold, those of evaluations included.
pub fn rollout_load(config: &Config, machine: &Machine) -> Load {
    Load {
        sampling: config.cluster.is_here(Role::Sampler).then(|| Sampling {
            samplers: config.actors.samplers as u64,
            sequences: u64::from(config.rollout.items_per_sampler)
                + u64::from(config.rollout.kept_sequences),
            context_tokens: u64::from(config.rollout.max_context_tokens),
            kind: machine.kind,
            f32_head: machine.f32_head,
        }),
        learning: None,
    }
}

/// Supervised steps of `count` dialogues of up to `longest` tokens.
pub fn dialogues(count: usize, longest: u64) -> Demand {
    let tokens = (count as u64).saturating_mul(longest);
    Demand {
        batch: BatchSize { tokens, longest },
        has_reference: false,
    }
}

/// Steps of reinforcement learning.
pub fn policy_steps(config: &Config, train: &TrainSection) -> Demand {
    let longest = u64::from(config.rollout.max_context_tokens) + u64::from(train.max_action_tokens);
    let learner = &train.learner;
    Demand {
        batch: BatchSize {
            tokens: sequences(train).saturating_mul(longest),
            longest,
        },
        has_reference: learner.kl.coefficient > 0.0 || learner.loss.kind == LossKind::Dpo,
    }
}

fn sequences(train: &TrainSection) -> u64 {
    (train.states_per_step as u64).saturating_mul(train.actions_per_state.into())
}

/// What supervised steps hold.
pub fn supervised_load(
    learner: &LearnerConfig,
    machine: &Machine,
    spec: &DecoderSpec,
    demand: Demand,
) -> Load {
    Load {
        sampling: None,
        learning: Some(Learning::of(spec, learner, machine.device, demand, 1)),
    }
}

/// What reinforcement learning holds.
pub fn policy_load(
    config: &Config,
    train: &TrainSection,
    machine: &Machine,
    spec: &DecoderSpec,
) -> Load {
    let (device, demand) = (machine.device, policy_steps(config, train));
    Load {
        sampling: config.cluster.is_here(Role::Sampler).then_some(Sampling {
            samplers: config.actors.samplers as u64,
            sequences: sequences(train),
            context_tokens: demand.batch.longest,
            kind: machine.kind,
            f32_head: machine.f32_head,
        }),
        learning: Some(Learning::of(spec, &train.learner, device, demand, 1)),
    }
}
