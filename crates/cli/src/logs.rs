//! Logs: to stderr, filtered; and, once a run has its folder, to a file there, in more detail.

use crate::console;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What the file takes, whatever stderr shows.
const FILE_FILTER: &str = "info";

static FILE: OnceLock<File> = OnceLock::new();

/// Starts logging. Without a filter: warnings, and what the phases of a run say.
pub fn init(filter: Option<&str>) {
    let filter = EnvFilter::try_new(filter.unwrap_or("warn,swirl=info")).unwrap_or_else(|error| {
        console::remark(format_args!(
            "The log filter is not understood ({error}); warnings are shown."
        ));
        EnvFilter::new("warn")
    });
    let stderr = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        // Complaints about a closed stderr would go there too, and panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    let file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(RunFile)
        .with_filter(EnvFilter::new(FILE_FILTER));
    tracing_subscriber::registry()
        .with(stderr)
        .with(file)
        .init();
}

/// Writes logs to `folder/swirl.log` too from now on, behind what earlier runs left there.
///
/// # Errors
/// When the file cannot be opened.
pub fn to_file(folder: &Path) -> std::io::Result<()> {
    let path = folder.join("swirl.log");
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // A process has one run; the first folder stays.
    let _ = FILE.set(file);
    Ok(())
}

/// The file of the run, and nowhere before there is one.
struct RunFile;

impl<'a> MakeWriter<'a> for RunFile {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        match FILE.get() {
            Some(file) => Box::new(file),
            None => Box::new(std::io::sink()),
        }
    }
}
