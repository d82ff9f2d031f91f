//! What of a configuration a run's results depend on.

use super::load::ConfigError;
use super::sections::{
    ActorSection, ClusterSection, Config, EvaluationSection, JudgeSection, QuestionSource,
    RolloutSection,
};
use super::span::Span;
use judge::LlmJudgeConfig;
use learner::LearnerConfig;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tools::registry::Limits;

/// The configuration with every setting that results do not depend on at its default. A
/// deterministic learner depends on `model.threads`: its checkpoints know that by themselves.
pub(super) fn without_operational(config: &Config) -> Config {
    let mut config = config.clone();
    // Trajectories keep the name that they were made under; a folder may be renamed.
    config.run.name = String::new();
    config.run.dir = PathBuf::new();
    config.run.skip = Vec::new();
    config.run.stop_grace = Span(Duration::ZERO);
    config.model.threads = 0;
    // Which GPU is no matter; whether it is one, is.
    if config.model.device.starts_with("cuda:") {
        config.model.device = "cuda".into();
    }
    // Files and folders count by their contents, not by these names: `Identity::with_contents`.
    config.model.path = PathBuf::new();
    without_path(&mut config.questions);
    config.evaluation.overlap = EvaluationSection::default().overlap;
    for set in &mut config.evaluation.sets {
        without_path(&mut set.questions);
    }
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
    config.judge = JudgeSection {
        process: config.judge.process,
        outcome: config.judge.outcome,
        llm: config.judge.llm.map(judge_results),
        ..JudgeSection::default()
    };
    if let Some(warm) = &mut config.warm_start {
        warm.checkpoint_every = 0;
        without_path(&mut warm.questions);
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
        learner.keep_every = usual.keep_every;
        learner.max_bad_steps = usual.max_bad_steps;
        if let Some(lora) = &mut learner.lora {
            lora.start = lora.start.take().map(|_| PathBuf::new());
        }
        // The pieces that a step is cut into change sums by their rounding only.
        if !learner.deterministic {
            learner.micro_batch_tokens = usual.micro_batch_tokens;
            learner.loss_chunk_tokens = usual.loss_chunk_tokens;
            learner.activation_checkpointing = usual.activation_checkpointing;
        }
        learner.shard_optimizer = usual.shard_optimizer;
        learner.compare_replicas_every = usual.compare_replicas_every;
    }
    config
}

fn without_path(source: &mut QuestionSource) {
    source.path = source.path.take().map(|_| PathBuf::new());
}

/// The judge's settings that decide its verdicts: those of a model, at a temperature, by rubrics.
/// The settings by which they are asked for (limits, log-probabilities, names of fields, headers)
/// may change, so that a run whose judge cannot be read or refuses a field can go on.
fn judge_results(llm: LlmJudgeConfig) -> LlmJudgeConfig {
    LlmJudgeConfig {
        model: llm.model,
        temperature: llm.temperature,
        body: llm.body,
        rubric: llm.rubric,
        outcome_rubric: llm.outcome_rubric,
        ..LlmJudgeConfig::default()
    }
}

pub(super) fn digest(key: &str, rubric: Option<&Path>) -> Result<Vec<u8>, ConfigError> {
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
    use crate::config::Identity;

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
        Identity::of_settings(&loaded.config).unwrap().hash()
    }

    #[test]
    fn it_depends_on_what_results_depend_on_and_on_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let rubric = dir.path().join("rubric.md");
        std::fs::write(&rubric, "one").unwrap();
        let begun = hash(&rubric, "");
        let operational = [
            "run.dir=elsewhere",
            "run.stop_grace=5m",
            "cluster.listen=h:1 cluster.wait_for.sampler=7 cluster.wait_at_most=1h",
            "cluster.weight_fan_out=2 cluster.weight_deltas=true cluster.require_gpu=true",
            "model.threads=7",
            "actors.samplers=2 actors.tools=3 actors.judges=9",
            "actors.quarantine_after=9 actors.patience=1m",
            "rollout.items_per_sampler=2 rollout.kept_sequences=0 rollout.lease_ms=5 rollout.max_tries=9",
            "rollout.max_losses=2 rollout.straggler_factor=0",
            "tools.limits.timeout_ms=1",
            "judge.llm.base_url=http://h:1 judge.llm.timeout_ms=1 judge.llm.max_tries=1",
            "judge.llm.max_concurrent=1 judge.llm.requests_per_minute=3",
            "judge.llm.max_tokens=9 judge.llm.max_tokens_field=max_completion_tokens",
            "judge.llm.use_logprobs=false",
            "judge.llm.top_logprobs=5",
            "judge.llm.system_message=false judge.llm.headers.x=y judge.llm.api_key_env=K",
            "judge.patience=1m judge.max_unjudged_share=0.1",
            "train.max_logprob_difference=0.3 train.checkpoint_every=3",
            "train.learner.keep_last=9 train.learner.shard_optimizer=true",
            "train.learner.keep_every=7 train.learner.max_bad_steps=1",
            "train.learner.compare_replicas_every=3",
            // The pieces that a step is cut into: rounding alone.
            "train.learner.micro_batch_tokens=64 train.learner.loss_chunk_tokens=64",
            "train.learner.activation_checkpointing=true",
            // Where things lie, and what they are called.
            "run.name=other model.path=m questions.path=moved.jsonl",
            "run.skip=[\"q1\"]",
        ];
        for setting in operational {
            assert_eq!(hash(&rubric, setting), begun, "{setting}");
        }
        let results = [
            "run.seed=1",
            "model.device=cuda:0",
            "model.dtype=f32",
            "model.template_arguments.enable_thinking=false",
            "rollout.samples=2",
            "questions.selection.limit=3",
            "prompt.system=<math_exp>",
            "train.learner.gradient_wire=bf16",
            "train.learner.lora.rank=2",
            "tools.limits.max_result_bytes=9",
            "judge.llm.model=other",
            "judge.llm.temperature=1",
            "judge.llm.body.reasoning_effort=low",
            "train.steps=2",
            "train.learner.learning_rate=1",
        ];
        for setting in results {
            assert_ne!(hash(&rubric, setting), begun, "{setting}");
        }
        let on_a_gpu = |n| hash(&rubric, &format!("model.device=cuda:{n}"));
        assert_eq!(on_a_gpu(0), on_a_gpu(1));
        // Bit for bit means the same pieces, too.
        let repeatable = "model.dtype=f32 train.learner.deterministic=true";
        assert_ne!(
            hash(
                &rubric,
                &format!("{repeatable} train.learner.micro_batch_tokens=64")
            ),
            hash(&rubric, repeatable)
        );
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
