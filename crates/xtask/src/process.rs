//! Other programs, and what is said when one of them fails.

use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Whether a program is there and ends well; it prints nothing.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a program on the terminal and waits for it.
///
/// # Errors
/// When it cannot be started or ends with an error; `what` says which work failed.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| cannot_start(what, command))?;
    ended_well(what, command, status)
}

/// Runs a program and takes its standard output; its errors stay on the terminal.
pub fn output(what: &str, command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_start(what, command))?;
    ended_well(what, command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("{what}: the output is not UTF-8"))
}

/// The sentence for a program that could not be started.
pub fn cannot_start(what: &str, command: &Command) -> String {
    format!(
        "{what}: `{}` cannot be started",
        command.get_program().display()
    )
}

fn ended_well(what: &str, command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!(
        "{what} failed: `{}` ended with {status}",
        command.get_program().display()
    )
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Minutes and seconds, as short as they can be read: `4.2 s`, `12 min 05 s`.
pub fn human(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_work_and_the_program() {
        run("nothing", &mut Command::new("true")).unwrap();
        let failed = run("the check", &mut Command::new("false"))
            .unwrap_err()
            .to_string();
        assert!(failed.starts_with("the check failed: `false`"), "{failed}");
        let missing = run("the check", &mut Command::new("no-such-program")).unwrap_err();
        assert!(
            missing.to_string().contains("cannot be started"),
            "{missing}"
        );
        assert!(!succeeds("no-such-program", &[]) && succeeds("true", &[]));
    }

    #[test]
    fn times_are_short() {
        let cases = [
            (0.04, "0.0 s"),
            (59.94, "59.9 s"),
            (60.0, "1 min 00 s"),
            (725.0, "12 min 05 s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(Duration::from_secs_f64(seconds)), text);
        }
    }
}
