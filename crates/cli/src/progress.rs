//! Progress: a bar with an estimate of the time left on a terminal, a plain line now and then
//! elsewhere. Everything goes to stderr; stdout is for results.

use crate::console;
use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// The progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    is_terminal: bool,
    began: Instant,
    last_line: Instant,
    pace: Pace,
}

/// What an estimate of the time left goes by. The bar's own takes what an earlier process did for
/// work of the first second.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Units that were done before this process began.
    before: u64,
    total: u64,
}

impl Pace {
    /// The time left when `done` units, those before included, are done after `elapsed`; `None`
    /// before the first.
    fn left(self, done: u64, elapsed: Duration) -> Option<Duration> {
        let made = done.checked_sub(self.before).filter(|&made| made > 0)?;
        let left = self.total.saturating_sub(done);
        let seconds = elapsed.as_secs_f64() * left as f64 / made as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
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
            "{prefix:>22} [{bar:30}] {pos}/{len} {elapsed_precise} {msg}",
        )
        .expect("the template is valid")
        .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style)
            .with_prefix(name.to_owned())
            .with_position(done);
        bar.tick();
        if !is_terminal {
            console::remark(format_args!("{name}: {done} of {total}"));
        }
        let now = Instant::now();
        Self {
            bar,
            name: name.to_owned(),
            is_terminal,
            began: now,
            last_line: now,
            pace: Pace {
                before: done,
                total,
            },
        }
    }

    /// `done` units are finished; `note` says how it goes.
    pub fn set(&mut self, done: u64, note: &str) {
        let left = match self.pace.left(done, self.began.elapsed()) {
            Some(left) => format!("about {} left, ", FormattedDuration(left)),
            None => String::new(),
        };
        self.bar.set_message(format!("{left}{note}"));
        self.bar.set_position(done);
        if !self.is_terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let (name, total) = (&self.name, self.pace.total);
            console::remark(format_args!("{name}: {done} of {total}, {left}{note}"));
        }
    }

    /// The work is finished.
    pub fn finish(self, note: &str) {
        self.bar.set_message(note.to_owned());
        self.bar.finish();
        if !self.is_terminal {
            let (name, seconds) = (&self.name, self.began.elapsed().as_secs());
            console::remark(format_args!("{name}: done in {seconds} s. {note}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_this_process_did() {
        let cases = [
            // before, total, done, elapsed → left, in seconds
            (0, 10, 0, 5, None),
            (0, 10, 1, 5, Some(45)),
            (0, 10, 10, 50, Some(0)),
            // Resumed at 90: five of the last ten took ten seconds.
            (90, 100, 90, 10, None),
            (90, 100, 95, 10, Some(10)),
            (3, 10, 2, 1, None),
        ];
        for (before, total, done, elapsed, expected) in cases {
            let left = Pace { before, total }.left(done, Duration::from_secs(elapsed));
            assert_eq!(
                left.map(|left| left.as_secs()),
                expected,
                "{done} of {total}"
            );
        }
    }
}
