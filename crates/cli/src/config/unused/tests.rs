use super::*;
use crate::config::load::{to_table, with_defaults};
use crate::config::tests::read;
use std::collections::BTreeSet;

const WARM: &str = "[warm_start]\nsteps = 1\nbatch = 1\nquestions.path = \"w\"\n";
const TRAIN: &str = "[train]\nsteps = 1\nstates_per_step = 1\nactions_per_state = 2\n";
const IMITATION: &str = "[imitation]\nsteps = 1\nbatch = 1\n";
const SET: &str = "[[evaluation.sets]]\nname = \"a\"\nquestions.path = \"e\"\n";
const LLM: &str = "judge.llm.model=m";

/// Sections, a setting, and what becomes of it: refused, remarked on, or taken.
enum Fate {
    Refused(&'static str),
    Remarked(&'static str),
    Taken,
}
use Fate::{Refused, Remarked, Taken};

/// The sections of a configuration, its settings, the last of which is looked at, and its fate.
type Row = (&'static [&'static str], &'static str, Fate);

fn rows() -> Vec<Row> {
    let no_rewards = "imitates dialogues, without rewards; it belongs to train.learner.";
    vec![
        // Tools and prompts.
        (
            &[],
            "tools.enabled=[] prompt.system=x",
            Refused("prompt.system_without_tools"),
        ),
        (
            &[],
            "tools.enabled=[] tools.limits.timeout_ms=1",
            Refused("no tool is offered"),
        ),
        (
            &[],
            "tools.enabled=[] tools.limits.max_argument_bytes=1",
            Refused("no tool"),
        ),
        (
            &[],
            "tools.enabled=[] tools.limits.max_result_bytes=1",
            Refused("no tool"),
        ),
        (
            &[],
            "tools.enabled=[] malformed.call_and_answer=end",
            Refused("no tool"),
        ),
        (&[], "tools.enabled=[] actors.tools=3", Remarked("no tool")),
        (&[], "tools.enabled=[] prompt.system_without_tools=x", Taken),
        (
            &[],
            "prompt.system_without_tools=x",
            Remarked("`swirl eval --without-tools`"),
        ),
        (
            &[SET],
            "evaluation.without_tools=true prompt.system_without_tools=x",
            Taken,
        ),
        (&[], "prompt.system=<math_exp>", Taken),
        // Rollouts.
        (
            &[],
            "rollout.temperature=0 rollout.top_p=0.5",
            Refused("rollout.temperature = 0"),
        ),
        (
            &[],
            "rollout.temperature=0 rollout.top_k=5",
            Refused("rollout.temperature = 0"),
        ),
        (&[], "rollout.top_k=5", Taken),
        (
            &[],
            "rollout.straggler_factor=2",
            Remarked("actors.samplers"),
        ),
        (&[], "actors.samplers=2 rollout.straggler_factor=2", Taken),
        // Judges.
        (
            &[],
            "judge.llm.model=m",
            Remarked("neither judge.process nor judge.outcome"),
        ),
        (
            &[],
            "judge.outcome=llm judge.llm.model=m judge.llm.rubric=r",
            Refused("judge.process"),
        ),
        (
            &[],
            "judge.process=llm judge.llm.model=m judge.llm.outcome_rubric=r",
            Refused("judge.outcome"),
        ),
        (
            &[],
            "judge.process=llm judge.llm.model=m judge.llm.rubric=r",
            Taken,
        ),
        // What is trained.
        (
            &[],
            "filter.states=on_track",
            Refused("there is no [train]"),
        ),
        (
            &[IMITATION],
            "filter.states=on_track",
            Refused("whole trajectories"),
        ),
        (&[TRAIN], "filter.states=on_track", Taken),
        (
            &[WARM],
            "warm_start.dialogue.thoughts=false warm_start.dialogue.max_thought_words=3",
            Refused("leaves all thoughts out"),
        ),
        (&[WARM], "warm_start.dialogue.max_thought_words=3", Taken),
        // Supervised learners.
        (
            &[WARM],
            "warm_start.learner.kl.coefficient=0.5",
            Refused(no_rewards),
        ),
        (
            &[WARM],
            "warm_start.learner.kl.coefficient=0.01",
            Refused(no_rewards),
        ),
        (
            &[WARM],
            "warm_start.learner.loss.kind=ppo_clip",
            Refused(no_rewards),
        ),
        (
            &[WARM],
            "warm_start.learner.baseline=none",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.loss.clip_low=0.1",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.baseline=none",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.baseline_decay=0.1",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.normalise_std=true",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.importance.mode=masked",
            Refused(no_rewards),
        ),
        (
            &[IMITATION],
            "imitation.learner.normalisation=sequence_mean",
            Taken,
        ),
        // Policy learners.
        (
            &[TRAIN],
            "train.learner.loss.clip_low=0.1",
            Refused("\"ppo_clip\" clips"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.clip_high=0.1",
            Refused("\"ppo_clip\" clips"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.clip_dual=3",
            Refused("\"ppo_clip\" clips"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=ppo_clip train.learner.loss.clip_dual=3",
            Taken,
        ),
        (
            &[TRAIN],
            "train.learner.loss.beta=0.2",
            Refused("\"dpo\" has it"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.label_smoothing=0.2",
            Refused("\"dpo\" has it"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.loss.beta=0.2",
            Taken,
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.loss.clip_low=0.1",
            Refused("\"ppo_clip\" clips"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.kl.coefficient=0.1",
            Refused("train.learner.loss.beta"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.baseline=none",
            Refused("pairs"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.normalisation=sequence_mean",
            Refused("pairs"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.normalise_std=true",
            Refused("pairs"),
        ),
        (
            &[TRAIN],
            "train.learner.loss.kind=dpo train.learner.baseline_decay=0.5",
            Refused("pairs"),
        ),
        (
            &[TRAIN],
            "train.learner.baseline_decay=0.5",
            Refused("\"running_mean\" has it"),
        ),
        (
            &[TRAIN],
            "train.learner.baseline=running_mean train.learner.baseline_decay=0.5",
            Taken,
        ),
        (
            &[TRAIN],
            "train.learner.kl.coefficient=0 train.learner.kl.term=k3_loss",
            Refused("turns the KL term off"),
        ),
        (&[TRAIN], "train.learner.kl.term=k3_loss", Taken),
        (
            &[TRAIN],
            "train.learner.importance.cap=3",
            Refused("weighs all actions alike"),
        ),
        (
            &[TRAIN],
            "train.learner.importance.floor=0.1",
            Refused("\"masked\" has it"),
        ),
        (
            &[TRAIN],
            "train.learner.importance.mode=truncated train.learner.importance.floor=0.1",
            Refused("\"masked\" has it"),
        ),
        (
            &[TRAIN],
            "train.learner.importance.mode=truncated train.learner.importance.cap=3",
            Taken,
        ),
        // Every learner.
        (
            &[TRAIN],
            "train.learner.total_steps=9",
            Refused("\"constant\" never ends"),
        ),
        (
            &[WARM],
            "warm_start.learner.min_lr_ratio=0.1",
            Refused("\"constant\" never ends"),
        ),
        (
            &[TRAIN],
            "train.learner.schedule=linear train.learner.total_steps=9",
            Taken,
        ),
        (
            &[TRAIN],
            "train.learner.shard_optimizer=true",
            Remarked("the only learner"),
        ),
        (
            &[TRAIN],
            "train.learner.compare_replicas_every=5",
            Remarked("the only learner"),
        ),
        (
            &[WARM],
            "warm_start.learner.gradient_wire=bf16",
            Remarked("the only learner"),
        ),
        (
            &[TRAIN],
            "cluster.listen=h:1 train.learner.shard_optimizer=true",
            Taken,
        ),
        // Evaluation.
        (
            &[],
            "evaluation.base=false",
            Refused("no [[evaluation.sets]]"),
        ),
        (
            &[],
            "evaluation.without_tools=true",
            Refused("no [[evaluation.sets]]"),
        ),
        (
            &[],
            "evaluation.overlap=allow",
            Refused("no [[evaluation.sets]]"),
        ),
        (
            &[],
            "evaluation.temperature=0.5",
            Remarked("only `swirl eval` reads it"),
        ),
        (
            &[],
            "evaluation.temperature=1 evaluation.samples=5",
            Remarked("only `swirl eval`"),
        ),
        (
            &[],
            "evaluation.max_steps=5",
            Remarked("only `swirl eval` reads it"),
        ),
        (
            &[],
            "evaluation.max_action_tokens=5",
            Remarked("only `swirl eval` reads it"),
        ),
        (&[SET], "evaluation.max_steps=5", Taken),
        // Clusters.
        (
            &[],
            "cluster.certs=c",
            Remarked("cluster.listen is not set"),
        ),
        (
            &[],
            "cluster.wait_for.sampler=2",
            Remarked("cluster.listen is not set"),
        ),
        (
            &[],
            "cluster.here=[\"judge\"]",
            Remarked("cluster.listen is not set"),
        ),
        (
            &[],
            "cluster.replicas=2",
            Remarked("cluster.listen is not set"),
        ),
        (
            &[],
            "cluster.weight_deltas=true",
            Remarked("cluster.listen is not set"),
        ),
        (&[], "cluster.listen=h:1 cluster.wait_for.sampler=2", Taken),
        (
            &[],
            "cluster.listen=h:1 actors.samplers=2",
            Remarked("samplers are on nodes"),
        ),
        (
            &[],
            "cluster.listen=h:1 cluster.here=[\"judge\"] cluster.wait_for.judge=2",
            Remarked("be the judge itself"),
        ),
        (
            &[],
            "cluster.listen=h:1 cluster.here=[\"learner\"] cluster.ring_tls=false",
            Remarked("be the learner itself"),
        ),
        (
            &[],
            "cluster.listen=h:1 cluster.here=[\"sampler\"] cluster.weight_fan_out=9",
            Remarked("be the sampler itself"),
        ),
    ]
}

fn settings(row: &str) -> Vec<&str> {
    row.split(' ').collect()
}

/// The key of a row's last setting.
fn looked_at(row: &str) -> &str {
    let last = settings(row).pop().expect("a setting");
    last.split('=').next().expect("a key")
}

#[test]
fn us_1_what_is_written_and_has_no_effect_is_named() {
    for (sections, row, fate) in rows() {
        let key = format!("`{}` has no effect", looked_at(row));
        match (read(&sections.concat(), &settings(row)), fate) {
            (Err(error), Refused(says)) => {
                let error = error.to_string();
                assert!(
                    error.contains(&key) && error.contains(says),
                    "{row}: {error}"
                );
            }
            (Ok(loaded), Remarked(says)) => {
                let found = |remark: &String| remark.contains(&key) && remark.contains(says);
                assert!(
                    loaded.remarks.iter().any(found),
                    "{row}: {:?}",
                    loaded.remarks
                );
            }
            (Ok(loaded), Taken) => {
                let named = loaded.remarks.iter().any(|remark| remark.contains(&key));
                assert!(!named, "{row}: {:?}", loaded.remarks);
            }
            (Ok(loaded), _) => panic!("{row}: taken, with {:?}", loaded.remarks),
            (Err(error), _) => panic!("{row}: {error}"),
        }
    }
}

#[test]
fn several_are_named_at_once() {
    let text = format!("{WARM}[warm_start.learner]\nbaseline = \"none\"\nnormalise_std = true\n");
    let error = read(&text, &["filter.states=all"]).unwrap_err().to_string();
    for key in [
        "`warm_start.learner.baseline` has",
        "`warm_start.learner.normalise_std` has",
        "`filter.states` has",
    ] {
        assert!(error.contains(key), "{key}: {error}");
    }
}

/// Settings that always have an effect where their section is there.
const ALWAYS: [&str; 37] = [
    "run",
    "model",
    "questions",
    "tools.enabled",
    "malformed.no_action",
    "malformed.several_actions",
    "malformed.unclosed_tag",
    "malformed.truncated",
    "rollout.samples",
    "rollout.max_steps",
    "rollout.max_action_tokens",
    "rollout.max_context_tokens",
    "rollout.temperature",
    "rollout.items_per_sampler",
    "rollout.kept_sequences",
    "rollout.lease_ms",
    "rollout.max_tries",
    "rollout.max_losses",
    "judge.process",
    "judge.outcome",
    "filter.keep",
    "filter.limit",
    "actors.judges",
    "warm_start.questions",
    "warm_start.dialogue.thoughts",
    "warm_start.dialogue.tag",
    "warm_start.dialogue.max_steps",
    "train.seeds",
    "train.updates_per_batch",
    "train.states_per_step",
    "train.actions_per_state",
    "train.temperature",
    "train.weighting",
    "train.max_logprob_difference",
    "imitation.keep",
    "evaluation.sets",
    "cluster.listen",
];

/// The same of every section that trains.
const ALWAYS_TRAINED: [&str; 24] = [
    "steps",
    "batch",
    "max_tokens",
    "max_action_tokens",
    "checkpoint_every",
    "learner.learning_rate",
    "learner.warmup_steps",
    "learner.schedule",
    "learner.beta1",
    "learner.beta2",
    "learner.eps",
    "learner.weight_decay",
    "learner.clip_grad_norm",
    "learner.dtype",
    "learner.micro_batch_tokens",
    "learner.activation_checkpointing",
    "learner.loss_chunk_tokens",
    "learner.deterministic",
    "learner.max_bad_steps",
    "learner.freeze",
    "learner.lora",
    "learner.keep_last",
    "learner.keep_every",
    "learner.loss.kind",
];

/// Settings of policy learners whose effect depends on nothing.
const ALWAYS_OF_POLICY: [&str; 3] = ["learner.loss.entropy", "learner.kl", "learner.importance"];

/// A new setting belongs into one of the lists above, or gets a rule and a row of its own.
#[test]
fn of_every_setting_it_is_known_when_it_has_an_effect() {
    let sections = [WARM, TRAIN, IMITATION, SET].concat();
    let full = read(
        &sections,
        &[
            LLM,
            "judge.process=llm",
            "judge.outcome=llm",
            "filter.limit=1",
            "cluster.listen=h:1",
        ],
    );
    let mut keys = Vec::new();
    leaves("", &to_table(&full.unwrap().config).unwrap(), &mut keys);
    assert!(keys.len() > 100, "{keys:?}");

    let mut known: BTreeSet<String> = ALWAYS.map(str::to_owned).into();
    for section in ["warm_start", "train", "imitation"] {
        known.extend(ALWAYS_TRAINED.map(|key| format!("{section}.{key}")));
    }
    known.extend(["warm_start", "imitation"].map(|s| format!("{s}.learner.normalisation")));
    known.extend(ALWAYS_OF_POLICY.map(|key| format!("train.{key}")));
    for (sections, row, _) in rows() {
        let relaxed = read(
            &sections.concat(),
            &settings(row)[..settings(row).len() - 1],
        );
        if let Ok(loaded) = relaxed {
            known.extend(Unused::of(&loaded.config).0.into_keys());
        }
    }
    let is_known = |key: &String| {
        let ends = key.match_indices('.').map(|(at, _)| at).chain([key.len()]);
        let mut prefixes = ends.map(|end| &key[..end]);
        prefixes.any(|prefix| known.contains(prefix))
    };
    let unknown: Vec<&String> = keys.iter().filter(|key| !is_known(key)).collect();
    assert!(
        unknown.is_empty(),
        "when do these have an effect? {unknown:?}"
    );
}

#[test]
fn us_2_the_stored_configuration_reads_back_without_a_remark() {
    for (sections, row, _) in rows() {
        // With all but what is refused.
        let kept = settings(row);
        let text = [sections.concat(), SET.to_owned()].concat();
        let loaded = match read(&text, &kept) {
            Ok(loaded) => loaded,
            Err(_) => match read(&text, &kept[..kept.len() - 1]) {
                Ok(loaded) => loaded,
                Err(_) => continue,
            },
        };
        let unused = Unused::of(&loaded.config);
        let table: Table = loaded.resolved.parse().unwrap();
        let remarks = unused
            .check(&table)
            .unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(remarks, loaded.remarks, "{row}");
        let defaults = to_table(&with_defaults(&loaded.config)).unwrap();
        let again = unused.prune(to_table(&loaded.config).unwrap(), &defaults);
        assert_eq!(again, table, "{row}");
    }
}

#[test]
fn an_evaluation_refuses_settings_of_the_command_line_that_it_does_not_read() {
    let read = |keys: &[&str]| of_evaluation(keys.iter().map(|&key| key.to_owned()));
    for key in [
        "model.threads",
        "rollout.max_context_tokens",
        "evaluation.max_steps",
        "questions.selection.limit",
        "judge.llm.model",
    ] {
        assert!(read(&[key]).is_ok(), "{key}");
    }
    for (key, says) in [
        ("train.steps", "an evaluation does not read it"),
        ("rollout.samples", "an evaluation does not read it"),
        ("evaluation.base", "an evaluation does not read it"),
        ("questions.path", "the questions are those of --data"),
    ] {
        let error = read(&["run.seed", key]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{key}` has no effect: {says}")),
            "{error}"
        );
    }
}
