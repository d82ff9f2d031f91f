//! How a process is started so that it never outlives whoever started it: under a few lines of bash
//! that end it once their standard input ends.

use actors::Stop;
use anyhow::{Context, Result};
use proto::NodeName;
use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Defines `keep`.
const KEEP: &str = include_str!("keep.sh");

/// Time beyond its own grace period that a process may take to end before it is killed.
pub const MARGIN: Duration = Duration::from_secs(15);

/// What starts something on a host.
pub struct Start {
    /// The node that it is.
    pub name: NodeName,
    ssh: Vec<String>,
    /// Puts the certificate, which it reads as lines of shell, where it belongs; then runs it.
    script: String,
}

impl Start {
    /// Runs `before`, which are lines of bash that have to succeed, and then `command`, by way of `ssh`.
    /// The command has `grace` to end, and a margin.
    pub fn new(
        name: NodeName,
        ssh: Vec<String>,
        before: &str,
        command: &str,
        grace: Duration,
    ) -> Self {
        let seconds = (grace + MARGIN).as_secs();
        // Bash reads a group to its end before it does anything: half a script does nothing.
        let script = format!("{{\nset -e\n{before}{KEEP}keep {seconds} {command}\n}}\n");
        Self { name, ssh, script }
    }

    #[cfg(test)]
    pub fn script(&self) -> &str {
        &self.script
    }

    /// Runs it until it ends; it is ended once `close` is asked.
    ///
    /// # Errors
    /// When what starts things on hosts cannot be started itself.
    pub async fn run(&self, close: &Stop) -> Result<ExitStatus> {
        let mut command = Command::new(&self.ssh[0]);
        command.args(&self.ssh[1..]).kill_on_drop(true);
        let child = spawn(command);
        let mut child = child.with_context(|| format!("cannot start {}", self.ssh[0]))?;
        let mut input = child.stdin.take();
        if let Some(input) = &mut input {
            // A host that cannot be reached says so by its exit code.
            let _ = input.write_all(self.script.as_bytes()).await;
        }
        Ok(until_closed(child, input, close).await?)
    }
}

/// Runs a program of this machine until it ends; it is ended once `close` is asked, and has `grace` for
/// that.
///
/// # Errors
/// When bash cannot be started.
pub async fn run_here(
    program: &Path,
    words: &[OsString],
    grace: Duration,
    close: &Stop,
) -> Result<ExitStatus> {
    let script = format!("{KEEP}keep \"$@\"");
    let seconds = (grace + MARGIN).as_secs().to_string();
    let mut command = Command::new("bash");
    command.args(["-c", &script, "swirl", &seconds]);
    // What it keeps would outlive it if it were killed.
    command.arg(program).args(words).kill_on_drop(false);
    let mut child = spawn(command).context("cannot start bash")?;
    let input = child.stdin.take();
    Ok(until_closed(child, input, close).await?)
}

/// Apart from this process's group: what is typed at a terminal is for this process alone.
fn spawn(mut command: Command) -> std::io::Result<Child> {
    command.stdin(Stdio::piped()).process_group(0).spawn()
}

async fn until_closed<T>(mut child: Child, input: T, close: &Stop) -> std::io::Result<ExitStatus> {
    if let Some(status) = close.unless(child.wait()).await {
        return status;
    }
    drop(input);
    child.wait().await
}

/// As one word for a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Instant;

    /// Generous: machines are busy.
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn words_for_a_shell_stay_words() {
        let run = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted("a 'b' $(c) \"d\""))])
            .output()
            .unwrap();
        assert_eq!(run.stdout, b"a 'b' $(c) \"d\"");
    }

    /// Runs these lines of bash as a node is run, with `grace` seconds to end.
    fn start(before: &str, lines: &str, grace: u64) -> Start {
        let ssh = ["sh", "-c", "exec bash -s", "host", "bash -s"];
        let command = format!("bash -c {}", quoted(lines));
        let ssh = ssh.map(str::to_owned).to_vec();
        let start = Start::new("n".parse().unwrap(), ssh, before, &command, Duration::ZERO);
        let (from, to) = (
            format!("keep {} bash", MARGIN.as_secs()),
            format!("keep {grace} bash"),
        );
        Start {
            script: start.script.replace(&from, &to),
            ..start
        }
    }

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LIMIT, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_alive(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // A zombie has ended.
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
    }

    #[tokio::test]
    async fn the_exit_code_is_that_of_the_program() {
        let never = Stop::default();
        for (before, lines, code) in [
            ("", "exit 0", Some(0)),
            ("", "exit 7", Some(7)),
            ("", "kill -9 $$", Some(137)),
            ("false\n", "exit 7", Some(1)),
            ("export A='b c'\n", "test \"$A\" = 'b c'", Some(0)),
        ] {
            let status = start(before, lines, 5).run(&never).await.unwrap();
            assert_eq!(status.code(), code, "{before:?} {lines:?}");
        }
    }

    #[tokio::test]
    async fn half_a_script_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made");
        let before = format!("touch {}\n", quoted(&file.display().to_string()));
        let whole = start(&before, "exit 0", 5);
        let half = Start {
            script: whole.script[..whole.script.len() / 2].to_owned(),
            ..whole
        };
        let close = Stop::default();
        close.ask();
        assert!(!half.run(&close).await.unwrap().success());
        assert!(!file.exists());
    }

    /// One that ends when it is told to; one that does not; and one whose starter is killed.
    #[tokio::test]
    async fn a_program_ends_with_whoever_started_it() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("trap 'exit 3' TERM", false, Some(3)),
            ("trap '' TERM", false, Some(137)),
            ("trap 'exit 3' TERM", true, None),
            ("trap '' TERM", true, None),
        ];
        for (index, (trap, is_killed, code)) in cases.into_iter().enumerate() {
            let file = dir.path().join(index.to_string());
            let lines = format!(
                "{trap}; echo $$ > {0}.part; mv {0}.part {0}; while :; do sleep 0.05; done",
                file.display()
            );
            let start = start("", &lines, 1);
            let close = Stop::default();
            let closing = close.clone();
            let running = tokio::spawn(async move { start.run(&closing).await.unwrap() });
            until("it starts", || file.exists()).await;
            let pid = std::fs::read_to_string(&file).unwrap();
            assert!(is_alive(&pid));
            match is_killed {
                // As when this process is killed: its end of the pipe is closed, and ssh is gone.
                true => running.abort(),
                false => {
                    close.ask();
                    let status = running.await.unwrap();
                    assert_eq!(status.code(), code, "{trap}: {:?}", status.signal());
                }
            }
            until("it ends", || !is_alive(&pid)).await;
        }
    }

    #[tokio::test]
    async fn a_program_of_this_machine_ends_with_whoever_started_it() {
        let never = Stop::default();
        let words = ["-c", "exit \"$1\"", "x", "4"].map(OsString::from);
        let bash = Path::new("bash");
        let ended = run_here(bash, &words, Duration::from_secs(1), &never).await;
        assert_eq!(ended.unwrap().code(), Some(4));
        let close = Stop::default();
        close.ask();
        let words = ["-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"].map(OsString::from);
        let ended = run_here(bash, &words, Duration::from_secs(1), &close).await;
        // It may be told before it listens.
        assert!([Some(3), Some(143)].contains(&ended.unwrap().code()));
    }
}
