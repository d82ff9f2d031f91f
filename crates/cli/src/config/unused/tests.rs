use super::*;
use crate::config::load::{to_table, with_defaults};
use crate::config::tests::read;
use std::collections::BTreeSet;

const WARM: &str = "[warm_start]\nsteps = 1\nbatch = 1\nquestions.path = \"w\"\n";
const TRAIN: &str = "[train]\nsteps = 1\nstates_per_step = 1\nactions_per_state = 2\n";
const IMITATION: &str = "[imitation]\nsteps = 1\nbatch = 1\n";
const SET: &str = "[[evaluation.sets]]\nname = \"a\"\nquestions.path = \"e\"\n";
const LLM: &str = "judge.llm.model=m";

/// One case a line: sections (warm start, train, imitation, an evaluation set), settings, of which
/// the last is looked at, and what becomes of it: refused or remarked on, in which words, or taken.
const CASES: &str = r#"
# Tools and prompts.
- | tools.enabled=[] prompt.system=x | refused prompt.system_without_tools
- | tools.enabled=[] tools.limits.timeout_ms=1 | refused no tool is offered
- | tools.enabled=[] tools.limits.max_argument_bytes=1 | refused no tool
- | tools.enabled=[] tools.limits.max_result_bytes=1 | refused no tool
- | tools.enabled=[] malformed.call_and_answer=end | refused no tool
- | tools.enabled=[] actors.tools=3 | remarked no tool
- | tools.enabled=[] prompt.system_without_tools=x | taken
- | prompt.system_without_tools=x | remarked `swirl eval --without-tools`
e | evaluation.without_tools=true prompt.system_without_tools=x | taken
- | prompt.system=<math_exp> | taken
# Rollouts.
- | rollout.temperature=0 rollout.top_p=0.5 | refused rollout.temperature = 0
- | rollout.temperature=0 rollout.top_k=5 | refused rollout.temperature = 0
- | rollout.top_k=5 | taken
- | rollout.straggler_factor=2 | remarked actors.samplers
- | actors.samplers=2 rollout.straggler_factor=2 | taken
# Judges.
- | judge.llm.model=m | remarked neither judge.process nor judge.outcome
- | judge.patience=1m | remarked neither judge.process nor judge.outcome
- | judge.max_unjudged_share=0.1 | remarked neither judge.process nor judge.outcome
- | cluster.listen=h:1 judge.patience=1m | taken
- | judge.outcome=llm judge.llm.model=m judge.llm.rubric=r | refused judge.process
- | judge.process=llm judge.llm.model=m judge.llm.outcome_rubric=r | refused judge.outcome
- | judge.process=llm judge.llm.model=m judge.llm.rubric=r | taken
- | judge.process=llm judge.llm.model=m judge.llm.use_logprobs=false judge.llm.top_logprobs=5 | refused use_logprobs = false
- | judge.process=llm judge.llm.model=m judge.llm.top_logprobs=5 | taken
# What is trained.
- | filter.states=on_track | refused there is no [train]
i | filter.states=on_track | refused whole trajectories
t | filter.states=on_track | taken
w | warm_start.dialogue.thoughts=false warm_start.dialogue.max_thought_words=3 | refused leaves all thoughts out
w | warm_start.dialogue.max_thought_words=3 | taken
# Supervised learners.
w | warm_start.learner.kl.coefficient=0.5 | refused without rewards; it belongs to train.learner.
w | warm_start.learner.kl.coefficient=0.01 | refused without rewards; it belongs to train.learner.
w | warm_start.learner.loss.kind=ppo_clip | refused without rewards; it belongs to train.learner.
w | warm_start.learner.baseline=none | refused without rewards; it belongs to train.learner.
i | imitation.learner.loss.clip_low=0.1 | refused without rewards; it belongs to train.learner.
i | imitation.learner.baseline=none | refused without rewards; it belongs to train.learner.
i | imitation.learner.baseline_decay=0.1 | refused without rewards; it belongs to train.learner.
i | imitation.learner.normalise_std=true | refused without rewards; it belongs to train.learner.
i | imitation.learner.importance.mode=masked | refused without rewards; it belongs to train.learner.
i | imitation.learner.normalisation=sequence_mean | taken
# Policy learners.
t | train.learner.loss.clip_low=0.1 | refused "ppo_clip" clips
t | train.learner.loss.clip_high=0.1 | refused "ppo_clip" clips
t | train.learner.loss.clip_dual=3 | refused "ppo_clip" clips
t | train.learner.loss.kind=ppo_clip train.learner.loss.clip_dual=3 | taken
t | train.learner.loss.old_logprobs=sampled | refused "ppo_clip" clips
t | train.learner.loss.kind=ppo_clip train.learner.loss.old_logprobs=sampled | taken
t | train.learner.loss.beta=0.2 | refused "dpo" has it
t | train.learner.loss.label_smoothing=0.2 | refused "dpo" has it
t | train.learner.loss.kind=dpo train.learner.loss.beta=0.2 | taken
t | train.learner.loss.kind=dpo train.learner.loss.clip_low=0.1 | refused "ppo_clip" clips
t | train.learner.loss.kind=dpo train.learner.kl.coefficient=0.1 | refused train.learner.loss.beta
t | train.learner.loss.kind=dpo train.learner.baseline=none | refused pairs
t | train.learner.loss.kind=dpo train.learner.normalisation=sequence_mean | refused pairs
t | train.learner.loss.kind=dpo train.learner.normalise_std=true | refused pairs
t | train.learner.loss.kind=dpo train.learner.baseline_decay=0.5 | refused pairs
t | train.learner.baseline_decay=0.5 | refused "running_mean" has it
t | train.learner.baseline=running_mean train.learner.baseline_decay=0.5 | taken
t | train.learner.kl.coefficient=0 train.learner.kl.term=k3_loss | refused turns the KL term off
t | train.learner.kl.term=k3_loss | taken
t | train.learner.importance.cap=3 | refused weighs all actions alike
t | train.learner.importance.floor=0.1 | refused "masked" has it
t | train.learner.importance.mode=truncated train.learner.importance.floor=0.1 | refused "masked" has it
t | train.learner.importance.mode=truncated train.learner.importance.cap=3 | taken
# Every learner.
t | train.learner.total_steps=9 | refused "constant" never ends
w | warm_start.learner.min_lr_ratio=0.1 | refused "constant" never ends
t | train.learner.schedule=linear train.learner.total_steps=9 | taken
t | train.learner.shard_optimizer=true | remarked the only learner
t | train.learner.compare_replicas_every=5 | remarked the only learner
w | warm_start.learner.gradient_wire=bf16 | remarked the only learner
t | cluster.listen=h:1 train.learner.shard_optimizer=true | taken
# Evaluation.
- | evaluation.base=false | refused no [[evaluation.sets]]
- | evaluation.without_tools=true | refused no [[evaluation.sets]]
- | evaluation.overlap=allow | refused no [[evaluation.sets]]
- | evaluation.temperature=0.5 | remarked only `swirl eval` reads it
- | evaluation.temperature=1 evaluation.samples=5 | remarked only `swirl eval`
- | evaluation.max_steps=5 | remarked only `swirl eval` reads it
- | evaluation.max_action_tokens=5 | remarked only `swirl eval` reads it
e | evaluation.max_steps=5 | taken
# Clusters.
- | cluster.certs=c | remarked cluster.listen is not set
- | cluster.wait_for.sampler=2 | remarked cluster.listen is not set
- | cluster.here=["judge"] | remarked cluster.listen is not set
- | cluster.replicas=2 | remarked cluster.listen is not set
- | cluster.weight_deltas=true | remarked cluster.listen is not set
- | cluster.listen=h:1 cluster.wait_for.sampler=2 | taken
- | cluster.listen=h:1 actors.samplers=2 | remarked samplers are on nodes
- | cluster.listen=h:1 cluster.here=["judge"] cluster.wait_for.judge=2 | remarked be the judge itself
- | cluster.listen=h:1 cluster.here=["learner"] cluster.ring_tls=false | remarked be the learner itself
- | cluster.listen=h:1 cluster.here=["sampler"] cluster.weight_fan_out=9 | remarked be the sampler itself
- | cluster.listen=h:1 cluster.require_gpu=true | taken
- | cluster.listen=h:1 cluster.here=["sampler"] cluster.require_gpu=true | taken
- | cluster.listen=h:1 cluster.here=["sampler","learner"] cluster.require_gpu=true | remarked be sampler and learner itself
- | cluster.require_gpu=true | remarked cluster.listen is not set
"#;

enum Fate {
    Refused,
    Remarked,
    Taken,
}
use Fate::{Refused, Remarked, Taken};

struct Case {
    sections: String,
    settings: Vec<&'static str>,
    fate: Fate,
    says: &'static str,
}

impl Case {
    fn read(line: &'static str) -> Self {
        let parts: Vec<&str> = line.splitn(3, " | ").collect();
        let (fate, says) = parts[2].split_once(' ').unwrap_or((parts[2], ""));
        let section = |letter| match letter {
            'w' => WARM,
            't' => TRAIN,
            'i' => IMITATION,
            'e' => SET,
            _ => "",
        };
        Self {
            sections: parts[0].chars().map(section).collect(),
            settings: parts[1].split(' ').collect(),
            fate: match fate {
                "refused" => Refused,
                "remarked" => Remarked,
                "taken" => Taken,
                fate => panic!("{fate} in {line}"),
            },
            says,
        }
    }

    /// The key of the setting that is looked at.
    fn key(&self) -> &str {
        let last = self.settings.last().expect("a setting");
        last.split('=').next().expect("a key")
    }

    /// All settings but the one that is looked at.
    fn others(&self) -> &[&'static str] {
        &self.settings[..self.settings.len() - 1]
    }
}

fn cases() -> Vec<Case> {
    let lines = CASES.trim().lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(Case::read)
        .collect()
}

#[test]
fn us_1_what_is_written_and_has_no_effect_is_named() {
    assert!(cases().len() > 70);
    for case in cases() {
        let row = case.settings.join(" ");
        let named = format!("`{}`", case.key());
        let says = |text: &str| {
            [named.as_str(), "no effect", case.says]
                .iter()
                .all(|part| text.contains(part))
        };
        match (read(&case.sections, &case.settings), &case.fate) {
            (Err(error), Refused) => assert!(says(&error.to_string()), "{row}: {error}"),
            (Ok(loaded), Remarked) => {
                let found = loaded.remarks.iter().any(|remark| says(remark));
                assert!(found, "{row}: {:?}", loaded.remarks);
            }
            (Ok(loaded), Taken) => {
                let found = loaded.remarks.iter().any(|remark| remark.contains(&named));
                assert!(!found, "{row}: {:?}", loaded.remarks);
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

#[test]
fn what_has_one_reason_is_one_remark() {
    let settings = ["cluster.replicas=2", "cluster.wait_for.sampler=3"];
    let loaded = read("", &settings).unwrap();
    assert_eq!(
        loaded.remarks,
        [
            "`cluster.replicas`, `cluster.wait_for.sampler` have no effect: cluster.listen is not \
             set, so that there are no nodes"
        ]
    );
}

/// Settings that always have an effect where their section is there.
const ALWAYS: [&str; 41] = [
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
    "actors.quarantine_after",
    "actors.patience",
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
    "train.balance",
    "train.refill",
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
    for case in cases() {
        if let Ok(loaded) = read(&case.sections, case.others()) {
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
    for case in cases() {
        let row = case.settings.join(" ");
        let text = [case.sections.as_str(), SET].concat();
        // With all but what is refused.
        let loaded = read(&text, &case.settings).or_else(|_| read(&text, case.others()));
        let Ok(loaded) = loaded else {
            continue;
        };
        let unused = Unused::of(&loaded.config);
        let table: Table = loaded.resolved.parse().unwrap();
        let remarks = unused
            .check(&table)
            .unwrap_or_else(|e| panic!("{row}: {e}"));
        let sorted = |remarks: Vec<String>| remarks.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(remarks), sorted(loaded.remarks), "{row}");
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
