//! Follows the output of Rust's test harness: counts the tests and thins out the log.
//!
//! A test that lacks its data ends early and prints a line that starts with `skipped:`. The harness
//! calls that passed and hides the line; here it is shown, and the test counts as skipped. This
//! needs the harness's option `--show-output`, whose other output is swallowed.

use std::fmt;

/// The counts so far, and where in the output the next line is.
#[derive(Debug, Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// In the part that shows what passed tests printed: the test, and whether it was skipped.
    shown: Option<(String, bool)>,
    skipped_here: u64,
}

impl Tally {
    /// Takes one line of output; the answer is what a reader should see of it.
    pub fn line(&mut self, line: &str) -> Option<String> {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.close_program(counts);
            return Some(line.to_owned());
        }
        match (&mut self.shown, line) {
            (shown, "successes:") => {
                *shown = Some((String::new(), true));
                None
            }
            (shown, "failures:") => {
                *shown = None;
                Some(line.to_owned())
            }
            (None, _) => Some(line.to_owned()),
            (Some((test, counted)), _) => {
                if let Some(name) = heading(line) {
                    (*test, *counted) = (name.to_owned(), false);
                    return None;
                }
                if *counted || !line.starts_with("skipped:") {
                    return None;
                }
                *counted = true;
                self.skipped_here += 1;
                Some(format!("{test}: {line}"))
            }
        }
    }

    /// Adds `ok. 3 passed; 0 failed; 1 ignored; …`, the last line of one test program.
    fn close_program(&mut self, counts: &str) {
        let count = |name: &str| {
            let mut parts = counts.split([';', '.']);
            parts
                .find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok())
                .unwrap_or(0)
        };
        let skipped = std::mem::take(&mut self.skipped_here);
        self.passed += count("passed") - skipped.min(count("passed"));
        self.failed += count("failed");
        self.skipped += count("ignored") + skipped;
        self.shown = None;
    }
}

/// The test's name in `---- name stdout ----`.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (String, Vec<String>) {
        let mut tally = Tally::default();
        let seen = output.lines().filter_map(|line| tally.line(line)).collect();
        (tally.to_string(), seen)
    }

    #[test]
    fn programs_add_up_and_ignored_tests_are_skipped() {
        let (counts, seen) = read(
            "running 3 tests\ntest a ... ok\n\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s\n\
             test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s\n",
        );
        assert_eq!(counts, "15 passed, 2 failed, 1 skipped");
        assert_eq!(seen.len(), 5, "nothing is hidden outside the shown output");
    }

    #[test]
    fn a_test_without_its_data_counts_as_skipped_once_and_is_named() {
        let (counts, seen) = read(
            "test a ... ok\n\nsuccesses:\n\n\
             ---- data::a stdout ----\nskipped: SWIRL_TEST_DATA is not set\nskipped: again\n\n\
             ---- data::b stdout ----\nchatter\n\n\n\
             successes:\n    data::a\n    data::b\n\n\
             failures:\n\n---- data::c stdout ----\npanicked\nskipped: not read here\n\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(counts, "1 passed, 1 failed, 1 skipped");
        assert_eq!(
            seen,
            [
                "test a ... ok",
                "",
                "data::a: skipped: SWIRL_TEST_DATA is not set",
                "failures:",
                "",
                "---- data::c stdout ----",
                "panicked",
                "skipped: not read here",
                "",
                "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            ]
        );
    }
}
