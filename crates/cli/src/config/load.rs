//! From files and command line to a checked [`Config`].

use super::sections::{Config, OutcomeJudgeKind, ProcessJudgeKind, QuestionSource};
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
    let config = parse(table)?;
    check(&config)?;
    let resolved = toml::to_string_pretty(&config).map_err(|error| ConfigError::Value {
        key: "configuration".into(),
        message: format!("cannot be written as TOML: {error}"),
    })?;
    Ok(Loaded { config, resolved })
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

fn check(config: &Config) -> Result<(), ConfigError> {
    let name = &config.run.name;
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    ensure(
        !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
        "run.name",
        "write letters, digits, `-`, `_` and `.` only: it becomes a folder's name",
    )?;
    check_source("questions", &config.questions)?;
    let rollout = &config.rollout;
    at_least_one("rollout.samples", rollout.samples as u64)?;
    at_least_one("rollout.max_steps", rollout.max_steps as u64)?;
    at_least_one(
        "rollout.max_action_tokens",
        rollout.max_action_tokens as u64,
    )?;
    at_least_one(
        "rollout.items_per_sampler",
        rollout.items_per_sampler as u64,
    )?;
    at_least_one("rollout.max_tries", rollout.max_tries as u64)?;
    temperature("rollout.temperature", rollout.temperature, 0.0)?;
    ensure(
        rollout.top_p > 0.0 && rollout.top_p <= 1.0,
        "rollout.top_p",
        "must be in (0, 1]",
    )?;
    for (key, count) in [
        ("actors.samplers", config.actors.samplers),
        ("actors.tools", config.actors.tools),
        ("actors.judges", config.actors.judges),
    ] {
        at_least_one(key, count as u64)?;
    }
    let uses_llm = config.judge.process == ProcessJudgeKind::Llm
        || config.judge.outcome == OutcomeJudgeKind::Llm;
    ensure(
        !uses_llm || config.judge.llm.is_some(),
        "judge.llm",
        "is missing: give the endpoint as [judge.llm] base_url = \"…\" and model = \"…\"",
    )?;
    if let Some(warm) = &config.warm_start {
        check_source("warm_start.questions", &warm.questions)?;
        at_least_one("warm_start.steps", warm.steps)?;
        at_least_one("warm_start.batch", warm.batch as u64)?;
    }
    if let Some(train) = &config.train {
        at_least_one("train.steps", train.steps)?;
        at_least_one("train.states_per_step", train.states_per_step as u64)?;
        at_least_one("train.actions_per_state", train.actions_per_state as u64)?;
        at_least_one("train.max_action_tokens", train.max_action_tokens as u64)?;
        temperature("train.temperature", train.temperature, f32::MIN_POSITIVE)?;
        ensure(
            !train.seeds.is_empty(),
            "train.seeds",
            "needs at least one seed",
        )?;
    }
    if let Some(imitation) = &config.imitation {
        at_least_one("imitation.steps", imitation.steps)?;
        at_least_one("imitation.batch", imitation.batch as u64)?;
    }
    let evaluation = &config.evaluation;
    at_least_one("evaluation.samples", evaluation.samples as u64)?;
    at_least_one("evaluation.max_steps", evaluation.max_steps as u64)?;
    temperature("evaluation.temperature", evaluation.temperature, 0.0)?;
    for (index, set) in evaluation.sets.iter().enumerate() {
        check_source(
            &format!("evaluation.sets[{index}].questions"),
            &set.questions,
        )?;
    }
    Ok(())
}

fn check_source(key: &str, source: &QuestionSource) -> Result<(), ConfigError> {
    ensure(
        source.path.is_some() != source.wordmath.is_some(),
        key,
        "give exactly one of `path` and `wordmath`",
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
    Err(ConfigError::Value {
        key: key.to_owned(),
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[run]\nname = \"r\"\n[questions]\npath = \"q.jsonl\"\n";

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
        ];
        for (extra, overrides, expected) in cases {
            let error = with(extra, overrides).expect_err(expected).to_string();
            assert_eq!(&error, expected, "for {extra:?} {overrides:?}");
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
