//! Progress: a bar with an estimate of the time left on a terminal, a plain line now and then
//! elsewhere. Everything goes to stderr; stdout is for results.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// The progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    is_terminal: bool,
    last_line: Instant,
}

impl Progress {
    /// Work of `total` units, `done` of which are there already.
    pub fn new(name: &str, total: u64, done: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(
            "{prefix:>22} [{bar:30}] {pos}/{len} {elapsed_precise} left {eta} {msg}",
        )
        .expect("the template is valid")
        .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style)
            .with_prefix(name.to_owned())
            .with_position(done);
        bar.reset_eta();
        eprintln_unless(is_terminal, || format!("{name}: {done} of {total}"));
        Self {
            bar,
            name: name.to_owned(),
            is_terminal,
            last_line: Instant::now(),
        }
    }

    /// `done` units are finished; `note` says how it goes.
    pub fn set(&mut self, done: u64, note: String) {
        self.bar.set_position(done);
        if !self.is_terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let total = self.bar.length().unwrap_or_default();
            let left = self.bar.eta().as_secs();
            eprintln!(
                "{}: {done} of {total}, about {left} s left, {note}",
                self.name
            );
        }
        self.bar.set_message(note);
    }

    /// The work is finished.
    pub fn finish(self, note: &str) {
        self.bar.set_message(note.to_owned());
        self.bar.finish();
        eprintln_unless(self.is_terminal, || {
            format!(
                "{}: done in {} s. {note}",
                self.name,
                self.bar.elapsed().as_secs()
            )
        });
    }
}

fn eprintln_unless(skip: bool, line: impl FnOnce() -> String) {
    if !skip {
        eprintln!("{}", line());
    }
}
