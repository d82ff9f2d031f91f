//! Progress: a bar with an estimate of the time left on a terminal, a plain line now and then
//! elsewhere. Everything goes to stderr; stdout is for results.

mod pace;
mod whole;

pub use whole::{Kind, Piece, WholeRun};

use crate::console;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pace::Pace;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Time between lines on the whole run.
const RUN_LINE_EVERY: Duration = Duration::from_secs(60);

/// Progress of the whole run, shared by the progress of its pieces. The default knows of no run,
/// and says nothing.
#[derive(Clone, Default)]
pub struct Overview(Arc<Mutex<Shown>>);

struct Shown {
    run: WholeRun,
    began: Instant,
    line: Option<Instant>,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            run: WholeRun::default(),
            began: Instant::now(),
            line: None,
        }
    }
}

impl Overview {
    /// That of a run, which begins now.
    pub fn of(run: WholeRun) -> Self {
        let shown = Shown {
            run,
            ..Shown::default()
        };
        Self(Arc::new(Mutex::new(shown)))
    }

    fn with<T>(&self, tell: impl FnOnce(&mut WholeRun, Duration) -> T) -> T {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = shown.began.elapsed();
        tell(&mut shown.run, now)
    }

    /// The line on the whole run.
    fn line(&self) -> Option<String> {
        self.with(|run, now| run.line(now))
    }

    /// The same, where the last one is long enough ago.
    fn line_now_and_then(&self) -> Option<String> {
        let line = self.line()?;
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = shown.line.is_none_or(|at| at.elapsed() >= RUN_LINE_EVERY);
        is_due.then(|| {
            shown.line = Some(Instant::now());
            line
        })
    }
}

/// The progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    is_terminal: bool,
    began: Instant,
    last_line: Instant,
    latest: String,
    pace: Pace,
    overview: Overview,
}

impl Progress {
    /// Work of `total` units, `done` of which are there already and `at_once` of which are worked on
    /// at the same time. Its pace counts for the whole run, too.
    pub fn new(name: &str, total: u64, done: u64, at_once: u64, overview: &Overview) -> Self {
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
        let pace = Pace::new(total, done, at_once);
        overview.with(|run, now| run.begin(name, pace.clone(), now));
        Self {
            bar,
            name: name.to_owned(),
            is_terminal,
            began: now,
            last_line: now,
            latest: String::new(),
            pace,
            overview: overview.clone(),
        }
    }

    /// `done` units are finished; `note` says how it goes.
    pub fn set(&mut self, done: u64, note: &str) {
        let elapsed = self.began.elapsed();
        self.pace.observe(done, elapsed);
        self.overview.with(|run, now| run.observe(done, now));
        let left = match self.pace.left(elapsed) {
            Some(left) => format!("about {} left, ", rounded(left)),
            None => String::new(),
        };
        self.bar.set_position(done);
        if self.is_terminal {
            let run = self.overview.line().map(|line| format!(" | {line}"));
            let run = run.unwrap_or_default();
            self.bar.set_message(format!("{left}{note}{run}"));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            let (name, total) = (&self.name, self.pace.total());
            self.line(format!("{name}: {done} of {total}, {left}{note}"));
        }
    }

    /// Shows a line, and one on the whole run now and then. The same again is only shown after a
    /// while, to say that the program lives.
    fn line(&mut self, line: String) {
        if line == self.latest && self.last_line.elapsed() < RUN_LINE_EVERY {
            return;
        }
        console::remark(&line);
        if let Some(line) = self.overview.line_now_and_then() {
            console::remark(line);
        }
        (self.latest, self.last_line) = (line, Instant::now());
    }

    /// The work is finished.
    pub fn finish(self, note: &str) {
        self.overview.with(WholeRun::end);
        self.bar.set_message(note.to_owned());
        self.bar.finish();
        if !self.is_terminal {
            let (name, seconds) = (&self.name, self.began.elapsed().as_secs());
            console::remark(format_args!("{name}: done in {seconds} s. {note}"));
        }
    }
}

/// A time to go, no more exact than an estimate is.
pub fn rounded(left: Duration) -> String {
    let seconds = left.as_secs_f64();
    let minutes = (seconds / 60.0).round() as u64;
    match seconds.ceil() as u64 {
        seconds @ 0..=4 => format!("{seconds} s"),
        seconds @ 5..=89 => format!("{} s", seconds.div_ceil(5) * 5),
        _ if minutes < 60 => format!("{minutes} min"),
        _ if minutes < 600 => format!("{} h {:02} min", minutes / 60, minutes % 60),
        _ => format!("{} h", (minutes + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_as_estimates_are() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.2, "1 s"),
            (4.0, "4 s"),
            (41.0, "45 s"),
            (89.0, "90 s"),
            (90.0, "2 min"),
            (2955.0, "49 min"),
            (3599.0, "1 h 00 min"),
            (3700.0, "1 h 02 min"),
            (35_900.0, "9 h 58 min"),
            (36_000.0, "10 h"),
            (200_000.0, "56 h"),
        ] {
            let left = Duration::from_secs_f64(seconds);
            assert_eq!(rounded(left), expected, "{seconds} s");
        }
    }
}
