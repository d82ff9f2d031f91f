//! Questions as the configuration asks for them.

use crate::config::{Config, QuestionSource};
use crate::usage::UsageError;
use anyhow::{Context, Result, bail};
use proto::{Question, QuestionId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The questions of a run, read once: what is checked before it begins is what it works on, even if
/// a file is edited meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    /// Those that trajectories are generated for.
    pub questions: Vec<Question>,
    /// Those of the warm start; none where there is none.
    pub warm_start: Vec<Question>,
    /// Those of every evaluation set, in the configuration's order.
    pub sets: Vec<Vec<Question>>,
}

impl Sources {
    /// Loads or makes the questions of every source.
    ///
    /// # Errors
    /// As [`load`], with the setting's name.
    pub fn load(config: &Config) -> Result<Self> {
        let named = |key: String, source: &QuestionSource| load(source).with_context(|| key);
        let warm_start = config.warm_start.as_ref();
        let warm_start =
            warm_start.map(|warm| named("warm_start.questions".into(), &warm.questions));
        let sets = config.evaluation.sets.iter();
        Ok(Self {
            questions: named("questions".into(), &config.questions)?,
            warm_start: warm_start.transpose()?.unwrap_or_default(),
            sets: sets
                .map(|set| named(format!("evaluation set {:?}", set.name), &set.questions))
                .collect::<Result<_>>()?,
        })
    }

    /// Every source with the name that a user knows it by.
    pub fn named<'a>(&'a self, config: &'a Config) -> Vec<(String, &'a [Question])> {
        let mut all = vec![("questions".to_owned(), &self.questions[..])];
        if config.warm_start.is_some() {
            all.push(("warm_start.questions".to_owned(), &self.warm_start));
        }
        for (set, questions) in config.evaluation.sets.iter().zip(&self.sets) {
            all.push((format!("evaluation set {:?}", set.name), questions));
        }
        all
    }

    /// The same without the questions of `skip`, and how many each source lost.
    ///
    /// # Errors
    /// When a name is none of the run's questions, or nothing is left of a source.
    pub fn without(mut self, skip: &[QuestionId], config: &Config) -> Result<(Self, Vec<Skipped>)> {
        let names: BTreeSet<&QuestionId> = skip.iter().collect();
        let is_left_out = |question: &Question| names.contains(&question.id);
        let all = self.named(config);
        let unknown = names.iter().find(|name| {
            let mut each = all.iter().flat_map(|(_, questions)| questions.iter());
            !each.any(|question| question.id == ***name)
        });
        if let Some(unknown) = unknown {
            return Err(UsageError::new(format!(
                "`run.skip` names `{unknown}`, which is the id of no question of this run: write \
                 the ids of questions, without `#` and the number of a sample"
            ))
            .into());
        }
        let skipped: Vec<Skipped> = all
            .into_iter()
            .map(|(source, questions)| Skipped {
                source,
                questions: questions.len(),
                left_out: questions.iter().filter(|q| is_left_out(q)).count(),
            })
            .filter(|skipped| skipped.left_out > 0)
            .collect();
        if let Some(empty) = skipped.iter().find(|s| s.left_out == s.questions) {
            let message = format!("`run.skip` leaves no question of {}", empty.source);
            return Err(UsageError::new(message).into());
        }
        let lists = [&mut self.questions, &mut self.warm_start];
        for list in lists.into_iter().chain(&mut self.sets) {
            list.retain(|question| !is_left_out(question));
        }
        Ok((self, skipped))
    }
}

/// Number of a source's questions that `run.skip` leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The source.
    pub source: String,
    /// Its questions.
    pub questions: usize,
    /// Those left out.
    pub left_out: usize,
}

/// Loads or makes the questions of `source`.
///
/// # Errors
/// When the file cannot be read, or no question is left.
pub fn load(source: &QuestionSource) -> Result<Vec<Question>> {
    let all = match (&source.path, &source.wordmath) {
        (Some(path), _) => data::load(&expand(path)?)?,
        (None, Some(wordmath)) => data::wordmath(wordmath)?,
        (None, None) => bail!("a question source needs `path` or `wordmath`"),
    };
    Ok(data::select(all, &source.selection)?)
}

/// Replaces a leading `$NAME` by the environment variable's value.
///
/// # Errors
/// When there is no such variable.
pub fn expand(path: &Path) -> Result<PathBuf, UsageError> {
    let mut parts = path.components();
    let first = parts
        .next()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let Some(name) = first.as_deref().and_then(|first| first.strip_prefix('$')) else {
        return Ok(path.to_owned());
    };
    let folder = std::env::var_os(name).ok_or_else(|| {
        UsageError::new(format!(
            "{} needs the environment variable {name}: set it to the folder of the data",
            path.display()
        ))
    })?;
    Ok(Path::new(&folder).join(parts))
}
