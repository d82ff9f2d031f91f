//! Questions as the configuration asks for them.

use crate::config::QuestionSource;
use crate::usage::UsageError;
use anyhow::{Result, bail};
use proto::Question;
use std::path::{Path, PathBuf};

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
