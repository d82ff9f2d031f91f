//! Results on stdout, remarks on stderr. A reader that closed its end (`swirl … | head -1`) has read
//! enough: that is no error, and never a panic.

use crate::logs;
use anyhow::Result;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Prints a result.
///
/// # Errors
/// When stdout cannot be written for another reason than that nobody reads it.
pub fn print(text: &str) -> Result<()> {
    print_with(|out| Ok(out.write_all(text.as_bytes())?))
}

/// Prints a result and ends the line.
///
/// # Errors
/// As [`print`].
pub fn print_line(text: &str) -> Result<()> {
    print_with(|out| Ok(writeln!(out, "{text}")?))
}

/// Prints a result as it comes.
///
/// # Errors
/// What `write` returns, but for a closed pipe; or as [`print`].
pub fn print_with(write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = write(&mut out).and_then(|()| Ok(out.flush()?));
    match printed {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        printed => printed,
    }
}

/// Writes a line to stderr, as logs are written there: nobody waits for one who does not read.
pub fn remark(line: impl std::fmt::Display) {
    logs::remark(&line.to_string());
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
