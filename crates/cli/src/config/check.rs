//! What a value must be like, asked before anything is loaded or begun.

use super::load::ConfigError;
use super::sections::{
    Config, EvaluationSection, JudgeSection, ModelSection, OutcomeJudgeKind, ProcessJudgeKind,
    QuestionSource, RolloutSection, ToolSection, TrainSection, WITHOUT_TOOLS,
};
use crate::engine::DeviceChoice;
use learner::ComputeType;
use std::collections::BTreeSet;
use tools::registry::Registry;

/// libtorch takes any number and then fails to start its threads.
const MOST_THREADS: usize = 1024;

/// File systems allow 255 bytes; suffixes of the program's own come on top.
const LONGEST_NAME_BYTES: usize = 200;

/// Checks every value that can be checked by itself.
///
/// # Errors
/// The first that is wrong.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    run_name(&config.run.name)?;
    model(&config.model)?;
    source("questions", &config.questions)?;
    tools(&config.tools)?;
    rollout(&config.rollout)?;
    judge(&config.judge)?;
    if let Some(limit) = config.filter.limit {
        at_least_one("filter.limit", limit as u64)?;
    }
    for (key, count) in [
        ("actors.samplers", config.actors.samplers),
        ("actors.tools", config.actors.tools),
        ("actors.judges", config.actors.judges),
        ("cluster.weight_fan_out", config.cluster.weight_fan_out),
    ] {
        at_least_one(key, count as u64)?;
    }
    at_least_one(
        "actors.quarantine_after",
        u64::from(config.actors.quarantine_after),
    )?;
    ensure(
        !config.actors.patience.0.is_zero(),
        "actors.patience",
        "must be longer than nothing: nodes that are lost come back, and take a while",
    )?;
    if let Some(warm) = &config.warm_start {
        source("warm_start.questions", &warm.questions)?;
        at_least_one("warm_start.steps", warm.steps)?;
        at_least_one("warm_start.batch", warm.batch as u64)?;
        tag(&warm.dialogue.tag, &config.tools)?;
    }
    if let Some(section) = &config.train {
        train(section, config.model.dtype)?;
    }
    if let Some(imitation) = &config.imitation {
        at_least_one("imitation.steps", imitation.steps)?;
        at_least_one("imitation.batch", imitation.batch as u64)?;
    }
    learners(config)?;
    adapters(config)?;
    evaluation(&config.evaluation)
}

fn run_name(name: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    ensure(
        is_file_name(name) && !name.starts_with('.') && name.chars().all(plain),
        "run.name",
        "write letters, digits, `-`, `_` and `.` only: it becomes a folder's name",
    )
}

fn is_file_name(name: &str) -> bool {
    let is_bad = |c: char| c == '/' || c.is_control();
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST_NAME_BYTES && !name.contains(is_bad)
}

fn model(section: &ModelSection) -> Result<(), ConfigError> {
    ensure(
        section.threads <= MOST_THREADS,
        "model.threads",
        "must be at most 1024; 0 takes one thread per core",
    )?;
    let is_device = DeviceChoice::parse(&section.device).is_some();
    ensure(is_device, "model.device", "write auto, cpu or cuda:N")?;
    let is_pair = match section.thinking_tags.as_slice() {
        [] => true,
        [open, close] => !open.is_empty() && !close.is_empty() && open != close,
        _ => false,
    };
    ensure(
        is_pair,
        "model.thinking_tags",
        "write the opening and the closing tag, as in [\"<think>\", \"</think>\"], or [] for a model \
         without thinking sections",
    )
}

fn tools(section: &ToolSection) -> Result<(), ConfigError> {
    Registry::builtin(&section.enabled, section.limits.clone())
        .map_err(|error| wrong("tools.enabled", error.to_string()))?;
    let limits = &section.limits;
    at_least_one("tools.limits.timeout_ms", limits.timeout_ms)?;
    at_least_one(
        "tools.limits.max_argument_bytes",
        limits.max_argument_bytes as u64,
    )?;
    at_least_one(
        "tools.limits.max_result_bytes",
        limits.max_result_bytes as u64,
    )
}

/// Dialogues that are imitated call a tool: by its own tag, and only where it is offered.
fn tag(tag: &str, section: &ToolSection) -> Result<(), ConfigError> {
    let registry = Registry::builtin(&section.enabled, section.limits.clone());
    let tags = registry.map(|registry| registry.tags());
    ensure(
        tags.is_ok_and(|tags| tags.tool_of(tag) == Some(data::CALCULATOR)),
        "warm_start.dialogue.tag",
        &format!(
            "no tool that is offered is called by <{tag}>, so that the warm start would teach calls \
             which nothing answers: offer the calculator in tools.enabled, and write its own tag"
        ),
    )
}

fn rollout(section: &RolloutSection) -> Result<(), ConfigError> {
    for (key, value) in [
        ("rollout.samples", section.samples),
        ("rollout.max_steps", section.max_steps),
        ("rollout.max_action_tokens", section.max_action_tokens),
        ("rollout.max_context_tokens", section.max_context_tokens),
        ("rollout.items_per_sampler", section.items_per_sampler),
        ("rollout.max_tries", section.max_tries),
        ("rollout.max_losses", section.max_losses),
    ] {
        at_least_one(key, u64::from(value))?;
    }
    at_least_one("rollout.lease_ms", section.lease_ms)?;
    temperature("rollout.temperature", section.temperature, 0.0)?;
    distinct_samples("rollout", section.samples, section.temperature)?;
    ensure(
        section.top_p > 0.0 && section.top_p <= 1.0,
        "rollout.top_p",
        "must be in (0, 1]",
    )
}

fn judge(section: &JudgeSection) -> Result<(), ConfigError> {
    let uses_llm =
        section.process == ProcessJudgeKind::Llm || section.outcome == OutcomeJudgeKind::Llm;
    ensure(
        !uses_llm || section.llm.is_some(),
        "judge.llm",
        "is missing: give the endpoint as [judge.llm] base_url = \"…\" and model = \"…\"",
    )?;
    ensure(
        (0.0..=1.0).contains(&section.max_unjudged_share),
        "judge.max_unjudged_share",
        "must be a share, from 0 to 1",
    )?;
    match &section.llm {
        Some(llm) => Ok(llm.validate()?),
        None => Ok(()),
    }
}

fn train(section: &TrainSection, dtype: ComputeType) -> Result<(), ConfigError> {
    at_least_one("train.steps", section.steps)?;
    at_least_one("train.updates_per_batch", section.updates_per_batch)?;
    ensure(
        section.steps.is_multiple_of(section.updates_per_batch),
        "train.updates_per_batch",
        "must divide train.steps: every batch is trained on as often as any other",
    )?;
    ensure(
        section.updates_per_batch == 1 || !section.learner.is_biased_off_policy(),
        "train.updates_per_batch",
        "must be 1 with the loss reinforce and no importance weights: behind the first update of a \
         batch nothing would hold the policy near the one that sampled it. Set \
         train.learner.loss.kind = \"ppo_clip\", or train.learner.importance.mode = \"truncated\"",
    )?;
    at_least_one("train.states_per_step", section.states_per_step as u64)?;
    at_least_one(
        "train.actions_per_state",
        u64::from(section.actions_per_state),
    )?;
    at_least_one(
        "train.max_action_tokens",
        u64::from(section.max_action_tokens),
    )?;
    temperature("train.temperature", section.temperature, f32::MIN_POSITIVE)?;
    let limit = section.max_logprob_difference;
    ensure(
        limit.is_finite() && limit > 0.0,
        "train.max_logprob_difference",
        "must be a positive number",
    )?;
    ensure(
        !section.seeds.is_empty(),
        "train.seeds",
        "needs at least one seed",
    )?;
    let unique: BTreeSet<u64> = section.seeds.iter().copied().collect();
    ensure(
        unique.len() == section.seeds.len(),
        "train.seeds",
        "names a seed twice: each seed is one learner",
    )?;
    ensure(
        !section.learner.deterministic || dtype == ComputeType::F32,
        "train.learner.deterministic",
        "set model.dtype = \"f32\" too: sampler and learner must compute in the same type, and only \
         f32 repeats bit for bit",
    )
}

/// Phases behind a warm start of adapters go on with these.
fn adapters(config: &Config) -> Result<(), ConfigError> {
    let warm = config.warm_start.as_ref();
    let Some(from) = warm.and_then(|warm| warm.learner.lora.as_ref()) else {
        return Ok(());
    };
    for (section, learner) in config.learners() {
        let Some(lora) = learner.lora.as_ref().filter(|_| section != "warm_start") else {
            continue;
        };
        let key = |name: &str| format!("{section}.learner.lora.{name}");
        ensure(
            lora.start.is_none(),
            &key("start"),
            "is not read behind warm_start.learner.lora: training goes on with the adapters of the \
             warm start. Leave one of the two out",
        )?;
        ensure(
            lora.rank >= from.rank,
            &key("rank"),
            "must be at least that of warm_start.learner.lora: training goes on with its adapters",
        )?;
        ensure(
            from.targets
                .iter()
                .all(|target| lora.targets.contains(target)),
            &key("targets"),
            "must hold those of warm_start.learner.lora: training goes on with its adapters",
        )?;
    }
    Ok(())
}

fn learners(config: &Config) -> Result<(), ConfigError> {
    for (section, learner) in config.learners() {
        learner.validate().map_err(|error| {
            wrong(
                &format!("{section}.learner.{}", error.key),
                format!("is {}: it must be {}", error.value, error.rule),
            )
        })?;
    }
    Ok(())
}

fn evaluation(section: &EvaluationSection) -> Result<(), ConfigError> {
    for (key, value) in [
        ("evaluation.samples", section.samples),
        ("evaluation.max_steps", section.max_steps),
        ("evaluation.max_action_tokens", section.max_action_tokens),
    ] {
        at_least_one(key, u64::from(value))?;
    }
    temperature("evaluation.temperature", section.temperature, 0.0)?;
    distinct_samples("evaluation", section.samples, section.temperature)?;
    let mut names = BTreeSet::new();
    for (index, set) in section.sets.iter().enumerate() {
        let key = |name: &str| format!("evaluation.sets[{index}].{name}");
        source(&key("questions"), &set.questions)?;
        ensure(
            is_file_name(&set.name),
            &key("name"),
            "write a name without `/`: it becomes a folder's name",
        )?;
        let mut is_new = names.insert(set.name.clone());
        if section.without_tools {
            is_new &= names.insert(format!("{}{WITHOUT_TOOLS}", set.name));
        }
        ensure(
            is_new,
            &key("name"),
            "is taken by another set: their trajectories would lie in one folder",
        )?;
    }
    Ok(())
}

fn source(key: &str, source: &QuestionSource) -> Result<(), ConfigError> {
    ensure(
        source.path.is_some() != source.wordmath.is_some(),
        key,
        "give exactly one of `path` and `wordmath`",
    )
}

fn distinct_samples(section: &str, samples: u32, temperature: f32) -> Result<(), ConfigError> {
    ensure(
        samples == 1 || temperature > 0.0,
        &format!("{section}.samples"),
        &format!(
            "{samples} samples at temperature 0 would be the same one each time: set \
             {section}.temperature"
        ),
    )
}

fn temperature(key: &str, value: f32, least: f32) -> Result<(), ConfigError> {
    ensure(
        value.is_finite() && value >= least,
        key,
        "must be a positive number",
    )
}

fn at_least_one(key: &str, value: u64) -> Result<(), ConfigError> {
    ensure(value >= 1, key, "must be at least 1")
}

fn ensure(holds: bool, key: &str, message: &str) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(wrong(key, message.to_owned()))
}

fn wrong(key: &str, message: String) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        message,
    }
}
