//! What of a configuration a run's results depend on.

use super::load::ConfigError;
use super::sections::{ActorSection, ClusterSection, Config, RolloutSection};
use judge::LlmJudgeConfig;
use learner::LearnerConfig;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tools::registry::Limits;

/// A hash of every setting that results depend on, and of the rubrics' text. The others may differ
/// between a run and its resumption, so that what stopped it can be mended: how many actors, how
/// long to wait, how often to try, where the judge is, what is kept on disk.
///
/// # Errors
/// When a rubric cannot be read.
pub fn fingerprint(config: &Config) -> Result<String, ConfigError> {
    let mut hash = Sha256::new();
    let mut config = without_operational(config);
    if let Some(llm) = &mut config.judge.llm {
        let rubrics = [
            ("judge.llm.rubric", llm.rubric.take()),
            ("judge.llm.outcome_rubric", llm.outcome_rubric.take()),
        ];
        for (key, rubric) in rubrics {
            hash.update(digest(key, rubric.as_deref())?);
        }
    }
    hash.update(super::load::to_toml(&config)?);
    Ok(hex(&hash.finalize()))
}

/// The configuration with every setting that results do not depend on at its default. A
/// deterministic learner depends on `model.threads`: its checkpoints know that by themselves.
fn without_operational(config: &Config) -> Config {
    let mut config = config.clone();
    config.run.dir = PathBuf::new();
    config.model.threads = 0;
    config.actors = ActorSection::default();
    config.cluster = ClusterSection::default();
    config.tools.limits.timeout_ms = Limits::default().timeout_ms;
    let usual = RolloutSection::default();
    config.rollout = RolloutSection {
        items_per_sampler: usual.items_per_sampler,
        kept_sequences: usual.kept_sequences,
        lease_ms: usual.lease_ms,
        max_tries: usual.max_tries,
        max_losses: usual.max_losses,
        straggler_factor: usual.straggler_factor,
        ..config.rollout
    };
    config.judge.llm = config.judge.llm.map(judge_results);
    if let Some(warm) = &mut config.warm_start {
        warm.checkpoint_every = 0;
    }
    if let Some(train) = &mut config.train {
        train.checkpoint_every = 0;
        train.max_logprob_difference = 0.0;
    }
    if let Some(imitation) = &mut config.imitation {
        imitation.checkpoint_every = 0;
    }
    for (_, learner, _) in config.learners_mut() {
        let usual = LearnerConfig::default();
        learner.keep_last = usual.keep_last;
        learner.shard_optimizer = usual.shard_optimizer;
        learner.compare_replicas_every = usual.compare_replicas_every;
    }
    config
}

/// What of a judge's settings its verdicts depend on: model, rubrics, and what is asked of them.
fn judge_results(llm: LlmJudgeConfig) -> LlmJudgeConfig {
    LlmJudgeConfig {
        model: llm.model,
        max_tokens: llm.max_tokens,
        use_logprobs: llm.use_logprobs,
        rubric: llm.rubric,
        outcome_rubric: llm.outcome_rubric,
        ..LlmJudgeConfig::default()
    }
}

fn digest(key: &str, rubric: Option<&Path>) -> Result<Vec<u8>, ConfigError> {
    let Some(path) = rubric else {
        return Ok(b"built in".to_vec());
    };
    let text = std::fs::read(path).map_err(|error| ConfigError::Value {
        key: key.to_owned(),
        message: format!("cannot read {}: {error}", path.display()),
    })?;
    Ok(Sha256::digest(text).to_vec())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "
        [run]
        name = \"r\"
        [questions]
        path = \"q.jsonl\"
        [judge]
        process = \"llm\"
        [judge.llm]
        model = \"m\"
        rubric = \"RUBRIC\"
        [train]
        steps = 1
        states_per_step = 1
        actions_per_state = 1
    ";

    fn hash(rubric: &Path, setting: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let text = BASE.replace("RUBRIC", &rubric.display().to_string());
        std::fs::write(&file, text).unwrap();
        let overrides: Vec<String> = setting.split_whitespace().map(str::to_owned).collect();
        let loaded = crate::config::load(&[file], &overrides).unwrap();
        fingerprint(&loaded.config).unwrap()
    }

    #[test]
    fn it_depends_on_what_results_depend_on_and_on_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let rubric = dir.path().join("rubric.md");
        std::fs::write(&rubric, "one").unwrap();
        let begun = hash(&rubric, "");
        let operational = [
            "run.dir=elsewhere",
            "cluster.listen=h:1 cluster.wait_for.sampler=7",
            "cluster.weight_fan_out=2 cluster.weight_deltas=true",
            "model.threads=7",
            "actors.samplers=2 actors.tools=3 actors.judges=9",
            "rollout.items_per_sampler=2 rollout.kept_sequences=0 rollout.lease_ms=5 rollout.max_tries=9",
            "rollout.max_losses=2 rollout.straggler_factor=0",
            "tools.limits.timeout_ms=1",
            "judge.llm.base_url=http://h:1 judge.llm.timeout_ms=1 judge.llm.max_tries=1",
            "judge.llm.max_concurrent=1 judge.llm.requests_per_minute=3",
            "train.max_logprob_difference=0.3 train.checkpoint_every=3",
            "train.learner.keep_last=9 train.learner.shard_optimizer=true",
        ];
        for setting in operational {
            assert_eq!(hash(&rubric, setting), begun, "{setting}");
        }
        let results = [
            "run.seed=1",
            "model.path=m",
            "model.template_arguments.enable_thinking=false",
            "rollout.samples=2",
            "tools.limits.max_result_bytes=9",
            "judge.llm.model=other",
            "judge.llm.use_logprobs=false",
            "train.steps=2",
            "train.learner.learning_rate=1",
        ];
        for setting in results {
            assert_ne!(hash(&rubric, setting), begun, "{setting}");
        }
    }

    #[test]
    fn it_depends_on_what_a_rubric_says_and_not_on_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["a.md", "b.md"].map(|name| dir.path().join(name));
        std::fs::write(&first, "one").unwrap();
        std::fs::write(&second, "one").unwrap();
        let begun = hash(&first, "");
        assert_eq!(hash(&second, ""), begun);
        std::fs::write(&first, "two").unwrap();
        assert_ne!(hash(&first, ""), begun);
    }
}
