//! The identity of a run: all that its results depend on, as the run folder keeps it and a resume
//! compares it.

use super::contents::{model_digest, questions_digest, short};
use super::fingerprint::{digest, hex, without_operational};
use super::load::{ConfigError, to_table};
use super::sections::{Config, PromptSection};
use crate::questions::Sources;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// All that a run's results depend on: settings by their value, and files by what they hold, wherever
/// they lie. All else may differ between a run and its resumption, so that what stopped it can be
/// mended: how many actors, how long to wait, how often to try, where the judge is, what is kept on
/// disk (`docs/runs.md` lists them).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Values by the settings' keys.
    settings: BTreeMap<String, String>,
    /// Size and hash of what a setting names: questions, a model.
    contents: BTreeMap<String, String>,
}

/// A setting that differs between a run and its resumption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// Value before, if it was set.
    pub before: Option<String>,
    /// Value now, if it is set.
    pub now: Option<String>,
}

impl Identity {
    /// That of the settings alone, with the text of prompts and rubrics: what needs neither the
    /// questions nor the model.
    ///
    /// # Errors
    /// When a rubric cannot be read or a prompt cannot be rendered.
    pub fn of_settings(config: &Config) -> Result<Self, ConfigError> {
        let prompt = PromptSection {
            system: message(config, true)?,
            system_without_tools: message(config, false)?,
        };
        let mut config = Config {
            prompt,
            ..without_operational(config)
        };
        let mut settings = BTreeMap::new();
        if let Some(llm) = &mut config.judge.llm {
            let rubrics = [
                ("judge.llm.rubric", llm.rubric.take()),
                ("judge.llm.outcome_rubric", llm.outcome_rubric.take()),
            ];
            for (key, rubric) in rubrics {
                let digest = digest(key, rubric.as_deref())?;
                settings.insert(key.to_owned(), format!("text {}", short(&digest)));
            }
        }
        flatten("", &to_table(&config)?.into(), &mut settings);
        Ok(Self {
            settings,
            contents: BTreeMap::new(),
        })
    }

    /// The same with the questions and the models that the run starts from.
    ///
    /// # Errors
    /// When a model's folder cannot be read.
    pub fn with_contents(
        mut self,
        config: &Config,
        sources: &Sources,
    ) -> Result<Self, ConfigError> {
        for (name, questions) in sources.named(config) {
            self.contents.insert(name, questions_digest(questions));
        }
        let adapters = config.learners().filter_map(|(section, learner)| {
            let start = learner.lora.as_ref()?.start.as_deref()?;
            Some((format!("{section}.learner.lora.start"), start))
        });
        let model = ("model.path".to_owned(), config.model.path.as_path());
        for (key, folder) in std::iter::once(model).chain(adapters) {
            let digest = model_digest(folder).map_err(|error| ConfigError::Value {
                key: key.clone(),
                message: format!("cannot read {}: {error}", folder.display()),
            })?;
            self.contents.insert(key, digest);
        }
        Ok(self)
    }

    /// A hash of all of it.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in self.settings.iter().chain(&self.contents) {
            for text in [key, value] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        hex(&hash.finalize())
    }

    /// The same with settings that it lacks as `reread` has them: those that a later version of the
    /// program knows, at the values that they have for a configuration which does not name them.
    pub fn with_later_settings(mut self, reread: &Self) -> Self {
        for (key, value) in &reread.settings {
            let value = || value.clone();
            self.settings.entry(key.clone()).or_insert_with(value);
        }
        self
    }

    /// Every setting in which a run that begun as `self` differs from `now`, by key.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let pairs = [
            (&self.settings, &now.settings),
            (&self.contents, &now.contents),
        ];
        let mut found = Vec::new();
        for (before, now) in pairs {
            let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
            let differs = |key: &&&String| before.get(**key) != now.get(**key);
            found.extend(keys.iter().filter(differs).map(|key| Difference {
                key: (*key).clone(),
                before: before.get(*key).cloned(),
                now: now.get(*key).cloned(),
            }));
        }
        found
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |value: &Option<String>| match value {
            Some(value) => brief(value),
            None => "not set".to_owned(),
        };
        let (before, now) = (said(&self.before), said(&self.now));
        write!(f, "`{}` was {before} and is {now}", self.key)
    }
}

/// Long texts by their beginning and their length.
fn brief(value: &str) -> String {
    const SHOWN: usize = 60;
    let count = value.chars().count();
    match count > SHOWN {
        true => {
            let start: String = value.chars().take(SHOWN).collect();
            format!("{start}… ({count} characters)")
        }
        false => value.to_owned(),
    }
}

/// The system message, with the tools written out.
fn message(config: &Config, with_tools: bool) -> Result<String, ConfigError> {
    crate::prompt::system(config, with_tools).map_err(|error| ConfigError::Value {
        key: "prompt".into(),
        message: error.to_string(),
    })
}

/// Every value by its full key.
fn flatten(key: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let full = match key {
                    "" => name.clone(),
                    key => format!("{key}.{name}"),
                };
                flatten(&full, value, into);
            }
        }
        toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&format!("{key}[{index}]"), value, into);
            }
        }
        value => drop(into.insert(key.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests;
