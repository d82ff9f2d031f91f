//! What was found, and what to do about it.

use serde::Serialize;

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is.
    Ok,
    /// It works, but something is missing that a user may want.
    Note,
    /// It is not.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    /// All is well.
    pub fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self::but(what, Status::Ok, found, "")
    }

    /// All is not.
    pub fn but(
        what: impl Into<String>,
        status: Status,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            status,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    /// As a line for people, or two, with the first column this wide.
    pub fn text(&self, width: usize) -> String {
        let mark = match self.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Problem => "PROBLEM",
        };
        let mut line = format!("{mark:<7} {:<width$} {}\n", self.what, self.found);
        if !self.remedy.is_empty() {
            line += &format!("{:indent$}{}\n", "", self.remedy, indent = width + 9);
        }
        line
    }
}
