//! From files and command line to a checked [`Config`].

use super::check::check;
use super::overrides::Override;
use super::sections::{
    ActorSection, ClusterSection, Config, EvaluationSection, JudgeSection, PromptSection,
    RolloutSection,
};
use super::unused::{self, Unused};
use judge::LlmJudgeConfig;
use learner::{ComputeType, LearnerConfig, Schedule};
use model::TemplateArguments;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Serde's words where it wants text: a string, or a path.
const WANTS_TEXT: [&str; 2] = ["expected a string", "expected path string"];

/// What is wrong with a configuration. Every message names the place and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// An override is not `key=value`.
    #[error("cannot read `{text}`: write it as section.key=value")]
    Override {
        /// The override.
        text: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`{}", .nearest.as_ref().map(|n| format!(": did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// Full path of the key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type or range, or a missing key.
    #[error("`{key}`: {message}")]
    Value {
        /// Full path of the key.
        key: String,
        /// What is expected.
        message: String,
    },
    /// Something else stands where text is wanted.
    #[error("`{key}`: {message}: write it in quotes")]
    WantsText {
        /// Full path of the key.
        key: String,
        /// The value found, and the type expected.
        message: String,
    },
    /// Settings were written that nothing looks at.
    #[error("{}", no_effect(.settings))]
    NoEffect {
        /// Each with the reason.
        settings: Vec<(String, String)>,
    },
    /// The judge model's section.
    #[error(transparent)]
    Judge(#[from] judge::LlmSetupError),
}

/// The most settings that one error names.
const NAMED: usize = 5;

fn no_effect(settings: &[(String, String)]) -> String {
    let named = settings.iter().take(NAMED);
    let mut text = named
        .map(|(key, why)| format!("`{key}` has no effect: {why}"))
        .collect::<Vec<_>>()
        .join("; ");
    if let Some(more) = settings.len().checked_sub(NAMED).filter(|&more| more > 0) {
        text += &format!("; and {more} more");
    }
    text + ". Remove what has no effect, or change what it depends on"
}

/// A configuration and the text it is stored as.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// All of it as TOML, with the defaults of all settings that have an effect.
    pub resolved: String,
    /// Settings that were written and have no effect here.
    pub remarks: Vec<String>,
}

/// Reads the files, later over earlier, and puts `overrides` (`train.steps=10`) over all.
///
/// # Errors
/// One error, about the first thing that is wrong.
pub fn load(files: &[PathBuf], overrides: &[String]) -> Result<Loaded, ConfigError> {
    let mut table = merged(files)?;
    let config = apply(&mut table, &read_overrides(overrides)?)?;
    let unused = Unused::of(&config);
    let remarks = unused.check(&table)?;
    let effective = unused.prune(to_table(&config)?, &to_table(&with_defaults(&config))?);
    Ok(Loaded {
        resolved: toml::to_string_pretty(&effective).map_err(no_toml)?,
        config,
        remarks,
    })
}

/// The configuration of an evaluation of `questions`: those of the files are left out, and of the
/// files' other settings those are taken that an evaluation reads.
///
/// # Errors
/// As [`load`], and about an override that an evaluation does not read.
pub fn load_for(
    questions: &Path,
    files: &[PathBuf],
    overrides: &[String],
) -> Result<Config, ConfigError> {
    let mut table = merged(files)?;
    let path = Value::String(questions.display().to_string());
    let source = Table::from_iter([("path".to_owned(), path)]);
    table.insert("questions".into(), Value::Table(source));
    let run = table
        .entry("run")
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(run) = run {
        run.entry("name")
            .or_insert_with(|| Value::String("eval".into()));
    }
    let overrides = read_overrides(overrides)?;
    let config = apply(&mut table, &overrides)?;
    unused::of_evaluation(overrides.iter().map(Override::key))?;
    Ok(config)
}

fn merged(files: &[PathBuf]) -> Result<Table, ConfigError> {
    let mut table = Table::new();
    for path in files {
        merge(&mut table, read(path)?);
    }
    Ok(table)
}

fn read_overrides(overrides: &[String]) -> Result<Vec<Override>, ConfigError> {
    overrides.iter().map(|text| Override::read(text)).collect()
}

/// The configuration of a table with the settings of the command line over it, which the table has
/// then, too.
fn apply(table: &mut Table, overrides: &[Override]) -> Result<Config, ConfigError> {
    for setting in overrides {
        setting.apply(table)?;
    }
    let mut config = parse_with(table, overrides)?;
    resolve(&mut config);
    check(&config)?;
    Ok(config)
}

/// The same sections with every setting at its default that may have no effect and yet be kept.
pub(super) fn with_defaults(config: &Config) -> Config {
    let mut config = config.clone();
    config.prompt = PromptSection::default();
    config.rollout = RolloutSection::default();
    config.actors = ActorSection::default();
    config.cluster = ClusterSection::default();
    config.judge = JudgeSection {
        llm: config.judge.llm.map(|_| LlmJudgeConfig::default()),
        ..JudgeSection::default()
    };
    config.evaluation = EvaluationSection {
        sets: config.evaluation.sets,
        ..EvaluationSection::default()
    };
    for (_, learner, _) in config.learners_mut() {
        *learner = LearnerConfig::default();
    }
    config
}

/// The configuration as a table, every default included.
pub(super) fn to_table(config: &Config) -> Result<Table, ConfigError> {
    Table::try_from(config).map_err(no_toml)
}

fn no_toml(error: toml::ser::Error) -> ConfigError {
    ConfigError::Value {
        key: "configuration".into(),
        message: format!("cannot be written as TOML: {error}"),
    }
}

/// Fills in what follows from other settings where it was not given.
fn resolve(config: &mut Config) {
    let (dtype, f32_head) = (config.model.dtype, config.model.f32_head);
    for (_, learner, steps) in config.learners_mut() {
        if learner.dtype == ComputeType::Auto {
            // Sampler and learner compute in the same type; what must repeat bit for bit, in f32.
            learner.dtype = match learner.deterministic {
                true => ComputeType::F32,
                false => dtype,
            };
        }
        learner.f32_head = f32_head;
        if learner.schedule != Schedule::Constant && learner.total_steps == 0 {
            learner.total_steps = steps;
        }
    }
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    text.parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            message: error.to_string().trim_end().to_owned(),
        })
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// Variables for a chat template, each as `name=value`.
///
/// # Errors
/// One is not written like that, or names what the dialogue itself sets.
pub fn template_arguments(texts: &[String]) -> Result<TemplateArguments, ConfigError> {
    let mut table = Table::new();
    for text in texts {
        Override::read(text)?.apply(&mut table)?;
    }
    serde::Deserialize::deserialize(Value::Table(table)).map_err(|error: toml::de::Error| {
        ConfigError::Value {
            key: "--template-argument".into(),
            message: error.message().to_owned(),
        }
    })
}

/// Reads the table. Where a setting wants text and the command line gave it what TOML takes for a
/// number, a date or a truth value, its text is meant.
fn parse_with(table: &mut Table, overrides: &[Override]) -> Result<Config, ConfigError> {
    loop {
        return match parse(table.clone()) {
            Err(ConfigError::WantsText { key, .. }) if as_text(table, overrides, &key) => continue,
            read => read,
        };
    }
}

/// The last of several settings of one key is the one that counts.
fn as_text(table: &mut Table, overrides: &[Override], key: &str) -> bool {
    let mut latest = overrides.iter().rev();
    latest.any(|setting| setting.apply_as_text(table, key))
}

fn parse(table: Table) -> Result<Config, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().message().to_owned();
        if let Some(error) = unknown_key(&path, &message) {
            return error;
        }
        match WANTS_TEXT.iter().any(|wanted| message.ends_with(wanted)) {
            true => ConfigError::WantsText { key: path, message },
            false => ConfigError::Value { key: path, message },
        }
    })
}

/// serde's message about an unknown field lists the known ones: the nearest of them is what the
/// user meant.
fn unknown_key(path: &str, message: &str) -> Option<ConfigError> {
    let names = message.strip_prefix("unknown field ")?;
    let mut names = names.split('`').skip(1).step_by(2);
    let wrong = names.next()?.to_owned();
    let nearest = names
        .map(|known| (strsim::jaro_winkler(&wrong, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned());
    let parent = path
        .strip_suffix(&wrong)
        .unwrap_or(path)
        .trim_end_matches('.');
    let full = |name: &str| match parent {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    };
    Some(ConfigError::UnknownKey {
        key: full(&wrong),
        nearest: nearest.as_deref().map(full),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[run]\nname = \"r\"\n[questions]\npath = \"q.jsonl\"\n";

    const TRAIN: &str = "[train]\nsteps = 1\nstates_per_step = 1\nactions_per_state = 1\n";

    fn with(extra: &str, overrides: &[&str]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, format!("{LEAST}{extra}")).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        load(&[file], &overrides)
    }

    #[test]
    fn wrong_configurations_get_one_clear_error() {
        let cases: &[(&str, &[&str], &str)] = &[
            (
                "[rolout]\nsamples = 1\n",
                &[],
                "unknown key `rolout`: did you mean `rollout`?",
            ),
            (
                "[rollout]\nsample = 1\n",
                &[],
                "unknown key `rollout.sample`: did you mean `rollout.samples`?",
            ),
            (
                "[rollout]\nsamples = \"two\"\n",
                &[],
                "`rollout.samples`: invalid type: string \"two\", expected u32",
            ),
            (
                "[model.template_arguments]\nmessages = \"x\"\n",
                &[],
                "`model.template_arguments`: `messages` is set by the dialogue or the tokenizer: choose one of the template's other variables",
            ),
            (
                "",
                &["model.template_arguments=3"],
                "`model.template_arguments`: invalid type: integer `3`, expected a map",
            ),
            (
                "",
                &["rollout.samples=0"],
                "`rollout.samples`: must be at least 1",
            ),
            (
                "",
                &["cluster.weight_fan_out=0"],
                "`cluster.weight_fan_out`: must be at least 1",
            ),
            (
                "",
                &["--rollout.top_p=1.5"],
                "`rollout.top_p`: must be in (0, 1]",
            ),
            (
                "",
                &["rollout.samples"],
                "cannot read `rollout.samples`: write it as section.key=value",
            ),
            (
                "",
                &["run.name=a/b"],
                "`run.name`: write letters, digits, `-`, `_` and `.` only: it becomes a folder's name",
            ),
            (
                "",
                &["judge.process=llm"],
                "`judge.llm`: is missing: give the endpoint as [judge.llm] base_url = \"…\" and model = \"…\"",
            ),
            (
                "[train]\nsteps = 1\nstates_per_step = 1\nactions_per_state = 1\ntemperature = 0.0\n",
                &[],
                "`train.temperature`: must be a positive number",
            ),
            (
                TRAIN,
                &["train.seeds=[1,2,1]"],
                "`train.seeds`: names a seed twice: each seed is one learner",
            ),
            (
                TRAIN,
                &["train.updates_per_batch=2"],
                "`train.updates_per_batch`: must divide train.steps: every batch is trained on as often \
                 as any other",
            ),
            (
                TRAIN,
                &["train.steps=4", "train.updates_per_batch=2"],
                "`train.updates_per_batch`: must be 1 with the loss reinforce and no importance \
                 weights: behind the first update of a batch nothing would hold the policy near the \
                 one that sampled it. Set train.learner.loss.kind = \"ppo_clip\", or \
                 train.learner.importance.mode = \"truncated\"",
            ),
            (
                TRAIN,
                &["train.updates_per_batch=0"],
                "`train.updates_per_batch`: must be at least 1",
            ),
            (
                TRAIN,
                &["train.max_logprob_difference=0"],
                "`train.max_logprob_difference`: must be a positive number",
            ),
            (
                TRAIN,
                &["train.learner.learning_rate=-1"],
                "`train.learner.learning_rate`: is -1: it must be above 0",
            ),
            (
                TRAIN,
                &["train.learner.deterministic=true"],
                "`train.learner.deterministic`: set model.dtype = \"f32\" too: sampler and learner must compute in the same type, and only f32 repeats bit for bit",
            ),
            (
                TRAIN,
                &["train.learner.temperature=0.5"],
                "unknown key `train.learner.temperature`",
            ),
            (
                "",
                &["tools.enabled=[\"calculater\"]"],
                "`tools.enabled`: there is no tool `calculater` (did you mean `calculator`?); known tools: calculator",
            ),
            (
                "",
                &["tools.limits.timeout_ms=0"],
                "`tools.limits.timeout_ms`: must be at least 1",
            ),
            (
                "",
                &["rollout.max_context_tokens=0"],
                "`rollout.max_context_tokens`: must be at least 1",
            ),
            (
                "",
                &["actors.quarantine_after=0"],
                "`actors.quarantine_after`: must be at least 1",
            ),
            (
                "",
                &["actors.patience=0s"],
                "`actors.patience`: must be longer than nothing: nodes that are lost come back, and take a while",
            ),
            (
                "",
                &["rollout.lease_ms=0"],
                "`rollout.lease_ms`: must be at least 1",
            ),
            (
                "",
                &["evaluation.max_action_tokens=0"],
                "`evaluation.max_action_tokens`: must be at least 1",
            ),
            (
                "",
                &["evaluation.samples=2"],
                "`evaluation.samples`: 2 samples at temperature 0 would be the same one each time: set evaluation.temperature",
            ),
            (
                "",
                &["filter.limit=0"],
                "`filter.limit`: must be at least 1",
            ),
            (
                "",
                &["model.device=gpu"],
                "`model.device`: write auto, cpu or cuda:N",
            ),
            (
                "",
                &["model.threads=5000000000"],
                "`model.threads`: must be at most 1024; 0 takes one thread per core",
            ),
            (
                "",
                &["judge.llm.model=m", "judge.llm.timeout_ms=0"],
                "[judge.llm] timeout_ms is 0: it must be at least 1",
            ),
            (
                "",
                &["judge.max_unjudged_share=2"],
                "`judge.max_unjudged_share`: must be a share, from 0 to 1",
            ),
            (
                "",
                &["judge.patience=2"],
                "`judge.patience`: write a length of time with its unit, such as \"2h\", \"90m\" or \"0s\"",
            ),
            (
                "",
                &["judge.llm.model=m", "judge.llm.body.max_tokens=9"],
                "[judge.llm.body] max_tokens cannot be set there, it is the matter of [judge.llm] \
                 max_tokens and max_tokens_field: remove it from body",
            ),
            (
                "",
                &["run.name=.."],
                "`run.name`: write letters, digits, `-`, `_` and `.` only: it becomes a folder's name",
            ),
        ];
        for (extra, overrides, expected) in cases {
            let error = with(extra, overrides).expect_err(expected).to_string();
            assert_eq!(&error, expected, "for {extra:?} {overrides:?}");
        }
    }

    #[test]
    fn names_of_sets_become_folders_of_their_own() {
        let plain = "write a name without `/`: it becomes a folder's name";
        let taken = "is taken by another set: their trajectories would lie in one folder";
        type Refused = Option<(usize, &'static str)>;
        let cases: &[(&[&str], bool, Refused)] = &[
            (&["GSM8K val", "held out"], true, None),
            (&[""], false, Some((0, plain))),
            (&["a", "."], false, Some((1, plain))),
            (&[".."], false, Some((0, plain))),
            (&["a/b"], false, Some((0, plain))),
            (&["a", "b", "a"], false, Some((2, taken))),
            (&["a", "a without tools"], false, None),
            (&["a", "a without tools"], true, Some((1, taken))),
        ];
        for (names, without_tools, expected) in cases {
            let mut text = format!("[evaluation]\nwithout_tools = {without_tools}\n");
            for name in *names {
                text += &format!("[[evaluation.sets]]\nname = {name:?}\nquestions.path = \"q\"\n");
            }
            let found = with(&text, &[]).err().map(|error| error.to_string());
            let expected = expected
                .map(|(index, message)| format!("`evaluation.sets[{index}].name`: {message}"));
            assert_eq!(found, expected, "{names:?}");
        }
    }

    #[test]
    fn a_learner_takes_over_what_it_is_not_told() {
        let learner = |extra: &str, overrides: &[&str]| {
            let loaded = with(extra, overrides).unwrap();
            let (_, learner) = loaded.config.learners().next().unwrap();
            learner.clone()
        };
        use ComputeType::{Auto, Bf16, F32};
        for (model, own, expected) in [
            ("auto", "auto", Auto),
            ("bf16", "auto", Bf16),
            ("f32", "auto", F32),
            ("bf16", "f32", F32),
        ] {
            let settings = [
                format!("model.dtype={model}"),
                format!("train.learner.dtype={own}"),
            ];
            let found = learner(TRAIN, &settings.each_ref().map(String::as_str)).dtype;
            assert_eq!(found, expected, "{model} {own}");
        }
        let warm = "[warm_start]\nsteps = 9\nbatch = 1\nquestions.path = \"q\"\n";
        let repeatable = ["model.dtype=bf16", "warm_start.learner.deterministic=true"];
        assert_eq!(learner(warm, &repeatable).dtype, F32);
        assert_eq!(
            learner(warm, &["warm_start.learner.schedule=constant"]).total_steps,
            0
        );
        for (schedule, total, expected) in [("cosine", 0, 9), ("linear", 4, 4)] {
            let settings = [
                format!("warm_start.learner.schedule={schedule}"),
                format!("warm_start.learner.total_steps={total}"),
            ];
            let found = learner(warm, &settings.each_ref().map(String::as_str)).total_steps;
            assert_eq!(found, expected, "{schedule} {total}");
        }
    }

    #[test]
    fn text_on_the_command_line_needs_no_quotes_whatever_it_looks_like() {
        let cases = [
            ("run.name=20261130", "run", "name", "20261130"),
            ("run.name=0x1F", "run", "name", "0x1F"),
            ("run.name=1e5", "run", "name", "1e5"),
            ("run.name=1_000", "run", "name", "1_000"),
            ("run.name=2026-11-30", "run", "name", "2026-11-30"),
            ("run.name=true", "run", "name", "true"),
            ("run.name=nan", "run", "name", "nan"),
            ("run.name=0042", "run", "name", "0042"),
            ("--run.name= 7 ", "run", "name", "7"),
            ("run.name='7'", "run", "name", "7"),
            ("run.dir=2026", "run", "dir", "2026"),
            ("model.path=3", "model", "path", "3"),
            ("cluster.certs=2026-11-30", "cluster", "certs", "2026-11-30"),
            ("cluster.listen=7400", "cluster", "listen", "7400"),
            ("prompt.system=1", "prompt", "system", "1"),
        ];
        for (setting, section, key, expected) in cases {
            let loaded = with("", &[setting]).unwrap_or_else(|e| panic!("{setting}: {e}"));
            let written: Table = loaded.resolved.parse().unwrap();
            assert_eq!(written[section][key].as_str(), Some(expected), "{setting}");
        }
        let twice = with("", &["run.name=1", "run.name=2"]).unwrap();
        assert_eq!(twice.config.run.name, "2");
        let listed = "questions.selection.ids=[7, \"a\", 2026-11-30, 0x1F, true]";
        let selection = with("", &[listed, "questions.selection.split=1"]).unwrap();
        let selection = selection.config.questions.selection;
        let ids: Vec<String> = selection.ids.unwrap().into_iter().map(|id| id.0).collect();
        assert_eq!(ids, ["7", "a", "2026-11-30", "0x1F", "true"]);
        assert_eq!(selection.split.as_deref(), Some("1"));
    }

    #[test]
    fn what_is_no_text_in_a_file_is_to_be_put_in_quotes() {
        let error = with("[judge.llm]\nmodel = 7\n", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`judge.llm.model`: invalid type: integer `7`, expected a string: write it in quotes"
        );
        let error = with("", &["run.name=[1]"]).unwrap_err().to_string();
        assert!(error.contains("`run.name`: invalid type"), "{error}");
        let error = with("", &["run.seed=1\nrun.name=\"b\""])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`run.seed`: invalid type: string"),
            "{error}"
        );
    }

    #[test]
    fn the_command_line_wins_over_later_files_over_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let first = write(
            "a.toml",
            &format!("{LEAST}[rollout]\nsamples = 2\nmax_steps = 3\n"),
        );
        let second = write("b.toml", "[rollout]\nsamples = 4\ntop_k = 5\n");
        let loaded = load(&[first, second], &["rollout.top_k=7".into()]).unwrap();
        let rollout = loaded.config.rollout;
        assert_eq!(
            (rollout.samples, rollout.max_steps, rollout.top_k),
            (4, 3, 7)
        );
    }

    #[test]
    fn the_resolved_text_reads_back_to_the_same_configuration() {
        let loaded = with(
            "[warm_start]\nsteps = 2\nbatch = 3\n[warm_start.questions.wordmath]\ncount = 4\n",
            &[],
        )
        .unwrap();
        let again = parse(loaded.resolved.parse().unwrap()).unwrap();
        assert_eq!(again, loaded.config);
    }

    #[test]
    fn fields_and_headers_of_a_judge_read_back() {
        let judge = "[judge]\npatience = \"90m\"\n[judge.llm]\nmodel = \"m\"\n\
                     temperature = \"default\"\n[judge.llm.body]\nreasoning_effort = \"low\"\n\
                     chat_template_kwargs = { enable_thinking = false }\n\
                     [judge.llm.headers]\nX-Api-Key = \"$SECRET\"\n";
        let loaded = with(judge, &[]).unwrap();
        let again = parse(loaded.resolved.parse().unwrap()).unwrap();
        assert_eq!(again, loaded.config);
        let llm = loaded.config.judge.llm.unwrap();
        assert_eq!(llm.body["chat_template_kwargs"]["enable_thinking"], false);
        assert_eq!(
            llm.headers["X-Api-Key"], "$SECRET",
            "its value stands nowhere"
        );
    }

    #[test]
    fn every_configuration_of_the_project_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                load(std::slice::from_ref(&path), &[]).unwrap_or_else(|e| panic!("{e}"));
                names.push(path);
            }
        }
        assert!(names.len() >= 2, "{names:?}");
    }

    /// Values of every type of TOML reach the template, and what is stored says the same again.
    #[test]
    fn template_arguments_are_of_any_type() {
        let section = "[model.template_arguments]\nenable_thinking = false\nn = 3\nx = 0.5\n\
                       list = [1, \"a\"]\nday = 2024-07-26\nstyle = { tone = \"dry\" }\n";
        let loaded = with(section, &["model.template_arguments.word=yes please"]).unwrap();
        let arguments = &loaded.config.model.template_arguments;
        let found = serde_json::to_value(arguments).unwrap();
        let expected = serde_json::json!({"enable_thinking": false, "n": 3, "x": 0.5,
            "list": [1, "a"], "day": "2024-07-26", "style": {"tone": "dry"}, "word": "yes please"});
        assert_eq!(found, expected);
        let again: Config = toml::from_str(&loaded.resolved).unwrap();
        assert_eq!(again.model.template_arguments, *arguments);
        let texts = ["enable_thinking=false", "word=yes please"].map(str::to_owned);
        let given = template_arguments(&texts).unwrap();
        assert_eq!(
            serde_json::to_value(given).unwrap(),
            serde_json::json!({"enable_thinking": false, "word": "yes please"})
        );
        assert!(template_arguments(&["bos_token=x".to_owned()]).is_err());
    }
}
