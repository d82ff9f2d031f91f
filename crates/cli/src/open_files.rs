//! The limit of open files. A model lies in dozens of them and a run keeps hundreds open, while many
//! systems let a program have 1,024 unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Number of open files that is enough for every run so far.
pub const ENOUGH: u64 = 4096;

/// Raises the limit to what this process may have at most.
///
/// # Errors
/// When the system refuses; the limit is as it was.
pub fn raise() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let current = limit.maximum;
        setrlimit(Resource::Nofile, Rlimit { current, ..limit })?;
    }
    Ok(())
}

/// Number of files that this process may have open; none where there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
