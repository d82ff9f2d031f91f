//! Logs: to stderr, filtered; and, once a run has its folder, to a file there, in more detail.
//!
//! - **LO-1 (nobody waits).** No thread that logs waits for whoever reads: lines wait in a bounded
//!   queue, and those that find no room are lost and counted. The count stands where they would have
//!   stood.
//! - **LO-2 (bounded).** The file of a run is cut into pieces of a size, and old pieces go.

mod format;
mod queue;
mod rotate;

pub use format::LogFormat;

use crate::console;
use format::{line_of, now};
use queue::Queue;
use rotate::Rotating;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Levels that the file takes, whatever stderr shows.
const FILE_FILTER: &str = "info";

/// Time that a remark waits for its line to be out, so that it stands before what follows elsewhere.
const REMARK: Duration = Duration::from_millis(100);

/// At the end of the program: how long nothing may be read before what is left is lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

static FORMAT: OnceLock<LogFormat> = OnceLock::new();
static NAME: OnceLock<String> = OnceLock::new();
static STDERR: OnceLock<Queue> = OnceLock::new();
static FILE: OnceLock<Queue> = OnceLock::new();

/// Ends logging: what still waits is written when it is dropped, if somebody reads it.
pub struct Logging(());

impl Drop for Logging {
    fn drop(&mut self) {
        for queue in [STDERR.get(), FILE.get()].into_iter().flatten() {
            queue.flush(LAST_WORDS);
        }
    }
}

/// Starts logging. Without a filter: warnings, and what the phases of a run say.
///
/// # Errors
/// When the system gives no thread.
pub fn init(filter: Option<&str>, format: LogFormat) -> io::Result<Logging> {
    let stderr = Queue::start(io::stderr(), lost)?;
    // A process starts once.
    let _ = (FORMAT.set(format), STDERR.set(stderr));
    let filter = EnvFilter::try_new(filter.unwrap_or("warn,swirl=info")).unwrap_or_else(|error| {
        console::remark(format_args!(
            "The log filter is not understood ({error}); warnings are shown."
        ));
        EnvFilter::new("warn")
    });
    let is_terminal = io::stderr().is_terminal();
    let layers = vec![
        layer(&STDERR, format, is_terminal, filter),
        layer(&FILE, format, false, EnvFilter::new(FILE_FILTER)),
    ];
    tracing_subscriber::registry().with(layers).init();
    Ok(Logging(()))
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn layer(
    lines: &'static OnceLock<Queue>,
    format: LogFormat,
    is_ansi: bool,
    filter: EnvFilter,
) -> BoxedLayer {
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(is_ansi && format == LogFormat::Text)
        // Complaints about a closed stderr would go there too, and panic.
        .log_internal_errors(false)
        .with_writer(Lines(lines));
    match format {
        LogFormat::Text => layer
            .event_format(format::named_text(&NAME))
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => layer
            .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
            .event_format(format::named_json(&NAME))
            .with_filter(filter)
            .boxed(),
    }
}

/// Names this node in every line from now on. The first name stays.
pub fn name(name: &str) {
    let _ = NAME.set(name.to_owned());
}

/// Writes logs to `folder/swirl.log` too from now on, behind what earlier runs left there (LO-2).
///
/// # Errors
/// When the file cannot be opened, or the system gives no thread.
pub fn to_file(folder: &Path) -> io::Result<()> {
    let file = Rotating::open(folder.join("swirl.log"))?;
    // A process has one run; the first folder stays.
    let _ = FILE.set(Queue::start(file, lost)?);
    Ok(())
}

/// Writes a remark to stderr, between log lines, and in their format where that is JSON. It waits for
/// a moment until it is out, and no longer.
pub fn remark(text: &str) {
    let format = FORMAT.get().copied().unwrap_or_default();
    let line = match format {
        LogFormat::Text => format!("{text}\n"),
        LogFormat::Json => line_of(format, &now(), "INFO", NAME.get(), text),
    };
    match STDERR.get() {
        Some(queue) => {
            queue.push(line.as_bytes());
            queue.flush(REMARK);
        }
        // Before there are logs. One that nobody reads is lost.
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    }
}

/// The line in the place of lines that were lost.
fn lost(count: u64) -> String {
    let text = format!("{count} log lines were lost here: they were not taken in time");
    let format = FORMAT.get().copied().unwrap_or_default();
    line_of(format, &now(), "WARN", NAME.get(), &text)
}

/// Puts lines into a queue, once there is one.
struct Lines(&'static OnceLock<Queue>);

/// The formatter writes each event as a whole, with one call.
struct Line(Option<&'static Queue>);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.0.get())
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(queue) = self.0 {
            queue.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
