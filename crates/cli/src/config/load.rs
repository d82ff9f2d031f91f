//! From files and command line to a checked [`Config`].

use super::check::check;
use super::sections::Config;
use learner::{ComputeType, Schedule};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

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
    /// The judge model's section.
    #[error(transparent)]
    Judge(#[from] judge::LlmSetupError),
}

/// A configuration and the text it is stored as.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// All of it as TOML, defaults included.
    pub resolved: String,
}

/// Reads the files, later over earlier, and puts `overrides` (`train.steps=10`) over all.
///
/// # Errors
/// One error, about the first thing that is wrong.
pub fn load(files: &[PathBuf], overrides: &[String]) -> Result<Loaded, ConfigError> {
    let mut table = Table::new();
    for path in files {
        merge(&mut table, read(path)?);
    }
    finish(table, overrides)
}

/// The same for other questions: those of the files are left out.
///
/// # Errors
/// As [`load`].
pub fn load_for(
    questions: &Path,
    files: &[PathBuf],
    overrides: &[String],
) -> Result<Loaded, ConfigError> {
    let mut table = Table::new();
    for path in files {
        merge(&mut table, read(path)?);
    }
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
    finish(table, overrides)
}

fn finish(mut table: Table, overrides: &[String]) -> Result<Loaded, ConfigError> {
    for text in overrides {
        apply(&mut table, text)?;
    }
    let mut config = parse(table)?;
    resolve(&mut config);
    check(&config)?;
    let resolved = to_toml(&config)?;
    Ok(Loaded { config, resolved })
}

/// The configuration as it is stored.
pub(super) fn to_toml(config: &Config) -> Result<String, ConfigError> {
    toml::to_string_pretty(config).map_err(|error| ConfigError::Value {
        key: "configuration".into(),
        message: format!("cannot be written as TOML: {error}"),
    })
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

/// Puts `a.b.c=value` into the table. The value is read as TOML, and as a plain string where that
/// fails, so that paths need no quotes.
fn apply(table: &mut Table, text: &str) -> Result<(), ConfigError> {
    let bad = || ConfigError::Override {
        text: text.to_owned(),
    };
    let (key, value) = text.split_once('=').ok_or_else(bad)?;
    let mut path: Vec<&str> = key.trim().trim_start_matches("--").split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or_else(bad)?;
    let value = format!("v = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let mut here = table;
    for part in path {
        let next = here
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()));
        here = next.as_table_mut().ok_or_else(bad)?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

fn parse(table: Table) -> Result<Config, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().message().to_owned();
        unknown_key(&path, &message).unwrap_or(ConfigError::Value { key: path, message })
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
        for (schedule, total, expected) in [("constant", 0, 0), ("cosine", 0, 9), ("linear", 4, 4)]
        {
            let settings = [
                format!("warm_start.learner.schedule={schedule}"),
                format!("warm_start.learner.total_steps={total}"),
            ];
            let found = learner(warm, &settings.each_ref().map(String::as_str)).total_steps;
            assert_eq!(found, expected, "{schedule} {total}");
        }
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
}
