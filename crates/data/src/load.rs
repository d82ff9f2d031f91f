//! Reading question files.

use crate::rows::{self, FileNames};
use proto::{Question, QuestionId};
use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
};

/// Why a question file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file is not there or may not be read: check the path.
    #[error("cannot open question file {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Reading stopped within the file: it is not UTF-8 text, or the disk failed.
    #[error("{}:{line}: cannot read the line as UTF-8 text", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// The line is not a JSON value: the file is not JSON Lines, or it was cut off.
    #[error("{}:{line}: not JSON ({source}); expected one JSON object per line", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Where in the line.
        source: serde_json::Error,
    },
    /// The line is JSON, but not a question.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// Two rows have one id, so results could not be told apart: rename one.
    #[error("{}:{line}: id `{id}` is already taken by line {first}; ids must be unique", path.display())]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The id.
        id: String,
        /// The line that has it first.
        first: usize,
    },
    /// No line of the file is a question.
    #[error("{} holds no question; expected JSON Lines with one question per line", .0.display())]
    Empty(PathBuf),
}

/// Loads every question of a JSON Lines file, in order. Blank lines are passed over.
///
/// A column that is null, or an empty text, list or object, is as one that is absent.
///
/// Two layouts are told apart row by row:
/// - **rows with fields**: `question` and `answer` (text or number), and where known `id`,
///   `dataset`, `split`, `answer_aliases`. Steps of a known solution are taken from the first of
///   `reference_steps` (this project's own), `solution` (GSM8K's annotated text), `decomposition`
///   (MuSiQue's, with `#1` for the first answer), `steps` (titles and snippets per step) and
///   `equation` (SVAMP's bracketed arithmetic; other notations give no steps) that is there;
/// - **GSM8K as published** (Cobbe et al. 2021): `question`, and an `answer` that is the annotated
///   solution and ends in a line `#### 72`. With such a line only what stands behind the last `####`
///   is the key, in the first layout too.
///
/// What a row does not say is taken from the file's name: `dataset` is `gsm8k` for the second
/// layout and the file's stem for the first; `split` is `train`, `val`, `dev` or `test` if the name
/// has such a word, else `all`; `id` is `<dataset>-<split>-<row from 0, five digits>`, without the
/// split where that is `all`.
///
/// # Errors
/// Names file and line of the first thing that is wrong, and what is expected there. A file without
/// any question is an error, too.
pub fn load(path: &Path) -> Result<Vec<Question>, DataError> {
    let questions: Vec<Question> = rows(path)?.collect::<Result<_, _>>()?;
    if questions.is_empty() {
        return Err(DataError::Empty(path.to_owned()));
    }
    Ok(questions)
}

/// The same row by row: what is wrong with one does not end the reading.
///
/// # Errors
/// When the file cannot be opened.
pub fn rows(path: &Path) -> Result<Rows, DataError> {
    let open = |source| DataError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    Ok(Rows {
        lines: BufReader::new(file).lines(),
        names: FileNames::of(path),
        path: path.to_owned(),
        line: 0,
        row: 0,
        lines_by_id: HashMap::new(),
    })
}

/// The rows of a question file, each a question or what is wrong with it.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    names: FileNames,
    /// The last line that was read, from 1.
    line: usize,
    /// Rows so far, those that are wrong included.
    row: usize,
    lines_by_id: HashMap<QuestionId, usize>,
}

impl Rows {
    /// The line of the row that came last, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    fn read(&mut self, text: std::io::Result<String>) -> Option<Result<Question, DataError>> {
        let text = match text {
            Ok(text) => text,
            Err(source) => {
                self.row += 1;
                return Some(Err(DataError::Read {
                    path: self.path.clone(),
                    line: self.line,
                    source,
                }));
            }
        };
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return None;
        }
        let question = parse_line(&self.path, self.line, text, &self.names, self.row);
        self.row += 1;
        Some(question.and_then(|question| self.unique(question)))
    }

    fn unique(&mut self, question: Question) -> Result<Question, DataError> {
        match self.lines_by_id.entry(question.id.clone()) {
            Entry::Vacant(free) => {
                free.insert(self.line);
                Ok(question)
            }
            Entry::Occupied(taken) => Err(DataError::DuplicateId {
                path: self.path.clone(),
                line: self.line,
                id: question.id.0,
                first: *taken.get(),
            }),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Question, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let text = self.lines.next()?;
            self.line += 1;
            if let Some(row) = self.read(text) {
                return Some(row);
            }
        }
    }
}

fn parse_line(
    path: &Path,
    line: usize,
    text: &str,
    names: &FileNames,
    row: usize,
) -> Result<Question, DataError> {
    let value = serde_json::from_str(text).map_err(|source| DataError::Json {
        path: path.to_owned(),
        line,
        source,
    })?;
    rows::question(value, names, row).map_err(|problem| DataError::Row {
        path: path.to_owned(),
        line,
        problem,
    })
}
