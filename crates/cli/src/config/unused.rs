//! Settings that were written and would have no effect.
//!
//! - **US-1 (nothing is read and ignored).** A setting that no part of the run looks at is refused by
//!   name, with what would make it count. One that another command takes from the same file
//!   (`swirl eval`), or that counts once the run is led over a cluster or by another judge, is
//!   remarked on.
//! - **US-2 (resolved means effective).** The stored configuration holds no default of a setting that
//!   has no effect, so that it can be read again.

use super::load::ConfigError;
use super::sections::{Config, OutcomeJudgeKind, ProcessJudgeKind};
use algo::advantage::Baseline;
use learner::{ImportanceMode, LearnerConfig, LossKind, Schedule};
use proto::Role;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Settings that a learner has for policy steps alone.
const OF_POLICY: [&str; 6] = [
    "loss",
    "kl",
    "baseline",
    "baseline_decay",
    "normalise_std",
    "importance",
];

/// Settings of a learner that only concern several side by side.
const OF_REPLICAS: [&str; 3] = ["shard_optimizer", "compare_replicas_every", "gradient_wire"];

/// The parts of a configuration that `swirl eval` reads.
const OF_EVALUATION: [&str; 20] = [
    "run.seed",
    "model",
    "prompt",
    "questions.selection",
    "tools",
    "malformed",
    "rollout.max_context_tokens",
    "rollout.items_per_sampler",
    "rollout.kept_sequences",
    "rollout.lease_ms",
    "rollout.max_tries",
    "rollout.max_losses",
    "rollout.straggler_factor",
    "judge",
    "actors",
    "evaluation.samples",
    "evaluation.temperature",
    "evaluation.max_steps",
    "evaluation.max_action_tokens",
    "run.name",
];

/// Treatment of a setting that is written and has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Nothing looks at it: the run is refused.
    Refused,
    /// Something else may: a remark.
    Remarked,
}

/// Settings that have no effect in a configuration, by the key of a setting or of a whole section.
#[derive(Debug, Default)]
pub(super) struct Unused(BTreeMap<String, (Weight, String)>);

impl Unused {
    /// Those of a run of `config`.
    pub(super) fn of(config: &Config) -> Self {
        let mut unused = Self::default();
        unused.tools_and_prompts(config);
        unused.rollout(config);
        unused.judges(config);
        unused.training(config);
        unused.evaluation(config);
        unused.cluster(config);
        unused
    }

    fn refuse(&mut self, key: impl Into<String>, why: &str) {
        self.0.insert(key.into(), (Weight::Refused, why.to_owned()));
    }

    fn remark(&mut self, key: impl Into<String>, why: &str) {
        let key = key.into();
        self.0
            .entry(key)
            .or_insert_with(|| (Weight::Remarked, why.to_owned()));
    }

    fn tools_and_prompts(&mut self, config: &Config) {
        if config.tools.enabled.is_empty() {
            let why = "tools.enabled is empty, so that no tool is offered";
            self.refuse("tools.limits", why);
            self.refuse("malformed.call_and_answer", why);
            self.refuse(
                "prompt.system",
                "tools.enabled is empty, and where no tool is offered the model is told \
                 prompt.system_without_tools",
            );
            self.remark("actors.tools", why);
        } else if !config.evaluation.without_tools || config.evaluation.sets.is_empty() {
            self.remark(
                "prompt.system_without_tools",
                "tools are offered everywhere in this run (set evaluation.without_tools = true to \
                 measure without them, too); only `swirl eval --without-tools` reads it",
            );
        }
    }

    fn rollout(&mut self, config: &Config) {
        if config.rollout.temperature == 0.0 {
            for key in ["top_p", "top_k"] {
                self.refuse(
                    format!("rollout.{key}"),
                    "rollout.temperature = 0 always takes the most probable token",
                );
            }
        }
        if config.cluster.is_here(Role::Sampler) && config.actors.samplers == 1 {
            self.remark(
                "rollout.straggler_factor",
                "there is no second sampler to give an item to (actors.samplers)",
            );
        }
    }

    fn judges(&mut self, config: &Config) {
        let process = config.judge.process == ProcessJudgeKind::Llm;
        let outcome = config.judge.outcome == OutcomeJudgeKind::Llm;
        if !process && !outcome {
            let why = "neither judge.process nor judge.outcome is \"llm\"";
            self.remark("judge.llm", why);
            self.remark("judge.max_unjudged_share", why);
            if config.cluster.is_here(Role::Judge) {
                self.remark("judge.patience", why);
            }
            return;
        }
        if config
            .judge
            .llm
            .as_ref()
            .is_some_and(|llm| !llm.use_logprobs)
        {
            self.refuse(
                "judge.llm.top_logprobs",
                "judge.llm.use_logprobs = false asks for none",
            );
        }
        if !process {
            self.refuse("judge.llm.rubric", "judge.process is not \"llm\"");
        }
        if !outcome {
            self.refuse("judge.llm.outcome_rubric", "judge.outcome is not \"llm\"");
        }
    }

    fn training(&mut self, config: &Config) {
        if config.train.is_none() {
            self.refuse(
                "filter.states",
                "it chooses what reinforcement learning starts from, and there is no [train]; \
                 imitation takes whole trajectories",
            );
        }
        for (section, learner) in config.learners() {
            match section {
                "train" => self.policy(learner),
                _ => self.supervised(section),
            }
            self.learner(section, learner, config);
        }
        let dialogue = config.warm_start.as_ref().map(|warm| &warm.dialogue);
        if dialogue.is_some_and(|dialogue| !dialogue.thoughts) {
            self.refuse(
                "warm_start.dialogue.max_thought_words",
                "warm_start.dialogue.thoughts = false leaves all thoughts out",
            );
        }
    }

    fn supervised(&mut self, section: &str) {
        for key in OF_POLICY {
            self.refuse(
                format!("{section}.learner.{key}"),
                &format!(
                    "[{section}] imitates dialogues, without rewards; it belongs to \
                     train.learner.{key}"
                ),
            );
        }
    }

    fn policy(&mut self, learner: &LearnerConfig) {
        let kind = learner.loss.kind;
        let mut refuse = |keys: &[&str], why: &str| {
            for key in keys {
                self.refuse(format!("train.learner.{key}"), why);
            }
        };
        if kind == LossKind::Dpo {
            refuse(
                &[
                    "kl",
                    "baseline",
                    "baseline_decay",
                    "normalise_std",
                    "normalisation",
                    "importance",
                ],
                "train.learner.loss.kind = \"dpo\" compares pairs of actions, each pair alike; what \
                 holds it near the start model is train.learner.loss.beta",
            );
        }
        if kind != LossKind::Dpo {
            refuse(
                &["loss.beta", "loss.label_smoothing"],
                "only train.learner.loss.kind = \"dpo\" has it",
            );
        }
        if kind != LossKind::PpoClip {
            refuse(
                &[
                    "loss.clip_low",
                    "loss.clip_high",
                    "loss.clip_dual",
                    "loss.old_logprobs",
                ],
                "only train.learner.loss.kind = \"ppo_clip\" clips",
            );
        }
        if kind != LossKind::Dpo && learner.baseline != Baseline::RunningMean {
            let why = "only train.learner.baseline = \"running_mean\" has it";
            refuse(&["baseline_decay"], why);
        }
        if kind != LossKind::Dpo && learner.kl.coefficient == 0.0 {
            let why = "train.learner.kl.coefficient = 0 turns the KL term off";
            refuse(&["kl.term"], why);
        }
        let mode = learner.importance.mode;
        if kind != LossKind::Dpo && mode != ImportanceMode::Masked {
            let why = "only train.learner.importance.mode = \"masked\" has it";
            refuse(&["importance.floor"], why);
        }
        if kind != LossKind::Dpo && mode == ImportanceMode::Off {
            let why = "train.learner.importance.mode = \"off\" weighs all actions alike";
            refuse(&["importance.cap"], why);
        }
    }

    fn learner(&mut self, section: &str, learner: &LearnerConfig, config: &Config) {
        if learner.schedule == Schedule::Constant {
            for key in ["total_steps", "min_lr_ratio"] {
                self.refuse(
                    format!("{section}.learner.{key}"),
                    &format!("{section}.learner.schedule = \"constant\" never ends"),
                );
            }
        }
        if config.cluster.is_here(Role::Learner) {
            for key in OF_REPLICAS {
                self.remark(
                    format!("{section}.learner.{key}"),
                    "this process has the only learner; several train side by side on nodes \
                     (cluster.listen)",
                );
            }
        }
    }

    fn evaluation(&mut self, config: &Config) {
        if !config.evaluation.sets.is_empty() {
            return;
        }
        let why = "there is no [[evaluation.sets]] to measure on";
        for key in ["base", "without_tools", "overlap"] {
            self.refuse(format!("evaluation.{key}"), why);
        }
        for key in ["samples", "temperature", "max_steps", "max_action_tokens"] {
            let why = format!("{why}; only `swirl eval` reads it");
            self.remark(format!("evaluation.{key}"), &why);
        }
    }

    fn cluster(&mut self, config: &Config) {
        let cluster = &config.cluster;
        if cluster.listen.is_none() {
            let why = "cluster.listen is not set, so that there are no nodes";
            self.remark("cluster", why);
            return;
        }
        let roles = [
            (Role::Sampler, "sampler"),
            (Role::Tool, "tool"),
            (Role::Judge, "judge"),
            (Role::Learner, "learner"),
        ];
        for (role, name) in roles {
            if cluster.is_here(role) {
                let why = format!("cluster.here has this process be the {name} itself");
                self.remark(format!("cluster.wait_for.{name}"), &why);
            }
        }
        let here = |keys: &[&str], why: &str, unused: &mut Self| {
            for key in keys {
                unused.remark(*key, why);
            }
        };
        if cluster.is_here(Role::Learner) {
            let why = "cluster.here has this process be the learner itself";
            here(&["cluster.replicas", "cluster.ring_tls"], why, self);
        }
        if cluster.is_here(Role::Sampler) && cluster.is_here(Role::Learner) {
            let why = "cluster.here has this process be sampler and learner itself";
            here(&["cluster.require_gpu"], why, self);
        }
        match cluster.is_here(Role::Sampler) {
            true => here(
                &["cluster.weight_fan_out", "cluster.weight_deltas"],
                "cluster.here has this process be the sampler itself",
                self,
            ),
            false => here(
                &["actors.samplers"],
                "samplers are on nodes, one each",
                self,
            ),
        }
    }

    /// Looks at what was written in `written`. Returns the remarks.
    ///
    /// # Errors
    /// Names every setting that nothing looks at (US-1).
    pub(super) fn check(&self, written: &Table) -> Result<Vec<String>, ConfigError> {
        let mut keys = Vec::new();
        leaves("", written, &mut keys);
        let mut remarked: Vec<(&str, Vec<String>)> = Vec::new();
        let mut refused = Vec::new();
        for key in keys {
            match self.find(&key) {
                Some((Weight::Refused, why)) => refused.push((key, why.clone())),
                Some((Weight::Remarked, why)) => {
                    match remarked
                        .iter_mut()
                        .find(|(known, _)| *known == why.as_str())
                    {
                        Some((_, same)) => same.push(key),
                        None => remarked.push((why.as_str(), vec![key])),
                    }
                }
                None => {}
            }
        }
        if !refused.is_empty() {
            return Err(ConfigError::NoEffect { settings: refused });
        }
        let remark = |(why, keys): (&str, Vec<String>)| {
            let have = if keys.len() > 1 { "have" } else { "has" };
            format!("`{}` {have} no effect: {why}", keys.join("`, `"))
        };
        Ok(remarked.into_iter().map(remark).collect())
    }

    /// A table of effective settings: without those that nothing looks at, and without the defaults
    /// of those that something else may look at (US-2).
    pub(super) fn prune(&self, mut table: Table, defaults: &Table) -> Table {
        let mut keys = Vec::new();
        leaves("", &table, &mut keys);
        for key in keys {
            let path: Vec<&str> = key.split('.').collect();
            let is_default = at(&table, &path) == at(defaults, &path);
            match self.find(&key) {
                Some((Weight::Refused, _)) => remove(&mut table, &path),
                Some((Weight::Remarked, _)) if is_default => remove(&mut table, &path),
                _ => {}
            }
        }
        table
    }

    /// The verdict on a setting: its own, or that of the section it is in.
    fn find(&self, key: &str) -> Option<&(Weight, String)> {
        let ends = key.match_indices('.').map(|(at, _)| at);
        let mut prefixes = ends.chain([key.len()]).map(|end| &key[..end]);
        prefixes.find_map(|prefix| self.0.get(prefix))
    }
}

/// Settings of the command line of `swirl eval` that an evaluation does not read.
///
/// # Errors
/// Names the first.
pub(super) fn of_evaluation(keys: impl IntoIterator<Item = String>) -> Result<(), ConfigError> {
    let is_read = |key: &str| {
        OF_EVALUATION
            .iter()
            .any(|read| key == *read || key.starts_with(&format!("{read}.")))
    };
    match keys.into_iter().find(|key| !is_read(key)) {
        Some(key) => {
            let why = match key.starts_with("questions.") {
                true => "the questions are those of --data",
                false => "an evaluation does not read it",
            };
            let settings = vec![(key, why.to_owned())];
            Err(ConfigError::NoEffect { settings })
        }
        None => Ok(()),
    }
}

/// The keys of all values; an empty section counts as one.
fn leaves(key: &str, table: &Table, into: &mut Vec<String>) {
    for (name, value) in table {
        let full = match key {
            "" => name.clone(),
            key => format!("{key}.{name}"),
        };
        match value {
            Value::Table(inner) if !inner.is_empty() => leaves(&full, inner, into),
            _ => into.push(full),
        }
    }
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(table.get(*first)?, |here, part| here.get(*part))
}

/// Removes a value, and the sections that it leaves empty.
fn remove(table: &mut Table, path: &[&str]) {
    match path {
        [] => {}
        [name] => drop(table.remove(*name)),
        [section, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(*section) {
                remove(inner, rest);
                if inner.is_empty() {
                    table.remove(*section);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
