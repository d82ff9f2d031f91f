//! What other processes of this machine ask of the one that works on a run folder, over a Unix socket
//! in it: `swirl stop` and `swirl drain`.

use crate::console;
use crate::folder::{self, SOCKET};
use crate::usage::UsageError;
use actors::Stop;
use actors::cluster::Cluster;
use anyhow::{Context, Result};
use proto::NodeName;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::AbortHandle;

/// Longest request in bytes, and how long it may take to come.
const LONGEST_BYTES: u64 = 256;
const PROMPT: Duration = Duration::from_secs(5);

/// Begins the answer to a request that was performed, and to one that was not.
const DONE: &str = "done";
const REFUSED: &str = "refused";

/// Answers requests, until it is dropped.
pub struct Requests {
    folder: PathBuf,
    serving: AbortHandle,
}

impl Requests {
    /// Takes requests in a run folder that belongs to this process.
    ///
    /// # Errors
    /// When the file system takes no sockets.
    pub fn take(folder: &Path, stop: Stop, cluster: Option<Cluster>) -> std::io::Result<Self> {
        remove(folder)?;
        let place = Place::of(folder)?;
        let listener = UnixListener::bind(place.path())?;
        std::fs::set_permissions(folder.join(SOCKET), PermissionsExt::from_mode(0o600))?;
        let serving = tokio::spawn(async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    // Too many open files, such things pass.
                    Err(_) => {
                        tokio::time::sleep(PROMPT).await;
                        continue;
                    }
                };
                tokio::spawn(serve(stream, stop.clone(), cluster.clone()));
            }
        });
        Ok(Self {
            folder: folder.to_owned(),
            serving: serving.abort_handle(),
        })
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = remove(&self.folder);
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(folder.join(SOCKET)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A path of the socket that is short enough, wherever the folder is: the address of a socket has 108
/// bytes at most.
struct Place {
    folder: File,
}

impl Place {
    fn of(folder: &Path) -> std::io::Result<Self> {
        let folder = File::open(folder)?;
        Ok(Self { folder })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.folder.as_raw_fd()).into()
    }
}

async fn serve(mut stream: tokio::net::UnixStream, stop: Stop, cluster: Option<Cluster>) {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader.take(LONGEST_BYTES));
    let read = tokio::time::timeout(PROMPT, reader.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(1..))) {
        return;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (answer, is_last) = match words.as_slice() {
        ["stop"] => {
            tracing::info!("The run is asked to end (swirl stop).");
            stop.ask();
            (Ok("the run ends in order".to_owned()), true)
        }
        ["drain", node] => (drain(node, cluster.as_ref()).await, false),
        _ => (Err("that is no request".to_owned()), false),
    };
    let answer = match answer {
        Ok(said) => format!("{DONE} {said}\n"),
        Err(reason) => format!("{REFUSED} {reason}\n"),
    };
    let _ = writer.write_all(answer.as_bytes()).await;
    if is_last {
        // Whoever asked learns by its end that this process has ended.
        std::future::pending::<()>().await;
    }
}

async fn drain(node: &str, cluster: Option<&Cluster>) -> Result<String, String> {
    let name = node.parse::<NodeName>();
    let name = name.map_err(|error| format!("{node}: {error}"))?;
    let cluster = cluster.ok_or("this run has no nodes (cluster.listen)")?;
    cluster.drain(&name).await?;
    Ok(format!("{name} has left the run"))
}

/// `swirl stop RUN`: returns once the run has ended.
///
/// # Errors
/// When nothing works on that folder.
pub fn stop(run: &Path) -> Result<ExitCode> {
    let mut stream = ask(run, "stop")?;
    console::remark(format_args!(
        "The run ends in order: what is under way is finished, and a checkpoint written."
    ));
    // Nothing comes but the end.
    let _ = stream.read_to_end(&mut Vec::new());
    let run = run.display();
    console::remark(format_args!(
        "Nothing works on {run} any more; --resume goes on with it."
    ));
    Ok(ExitCode::SUCCESS)
}

/// `swirl drain RUN NODE`: returns once the node has left.
///
/// # Errors
/// When nothing works on that folder, or it has no such node.
pub fn drain_command(run: &Path, node: &NodeName) -> Result<ExitCode> {
    ask(run, &format!("drain {node}"))?;
    console::remark(format_args!("{node} has left the run and ends."));
    Ok(ExitCode::SUCCESS)
}

/// Asks the process that works on a run folder; the stream, behind its answer.
fn ask(run: &Path, words: &str) -> Result<BufReader<UnixStream>> {
    let shown = run.display();
    if !folder::is_there(run)? {
        return Err(UsageError::new(format!("there is no run folder {shown}")).into());
    }
    let place = Place::of(run).with_context(|| format!("cannot open {shown}"))?;
    let stream = UnixStream::connect(place.path()).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            let who = folder::holder(run);
            UsageError::new(match who {
                Some(who) => format!(
                    "the process that works on {shown} takes no requests here: end {who} with SIGTERM"
                ),
                None => format!("no process works on {shown}"),
            })
            .into()
        }
        _ => anyhow::Error::new(error).context(format!("cannot reach what works on {shown}")),
    })?;
    let mut stream = BufReader::new(stream);
    stream
        .get_mut()
        .write_all(format!("{words}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    match answer.trim_end().split_once(' ') {
        Some((DONE, _)) => Ok(stream),
        Some((REFUSED, reason)) => Err(UsageError::new(reason).into()),
        _ => anyhow::bail!("the process that works on {shown} ended before it answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deep(home: &Path) -> PathBuf {
        let folder = home.join("a-long-name".repeat(12)).join("run");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    async fn asked(folder: &Path, words: &'static str) -> Result<(), String> {
        let folder = folder.to_owned();
        let asked = tokio::task::spawn_blocking(move || ask(&folder, words).map(drop));
        asked.await.unwrap().map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_run_is_asked_to_stop_wherever_its_folder_is() {
        let home = tempfile::tempdir().unwrap();
        let folder = deep(home.path());
        let none = asked(&folder, "stop").await.unwrap_err();
        assert!(none.contains("no process works on"), "{none}");

        let stop = Stop::default();
        let requests = Requests::take(&folder, stop.clone(), None).unwrap();
        let mode = std::fs::metadata(folder.join(SOCKET))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        for (words, says) in [
            ("dance", "that is no request"),
            ("drain s1", "has no nodes"),
            ("drain S_1", "S_1"),
        ] {
            let refused = asked(&folder, words).await.unwrap_err();
            assert!(refused.contains(says), "{words}: {refused}");
        }
        assert!(!stop.is_asked());
        asked(&folder, "stop").await.unwrap();
        assert!(stop.is_asked());
        drop(requests);
        assert!(!folder.join(SOCKET).exists());
        // One that was killed leaves its socket.
        drop(std::os::unix::net::UnixListener::bind(Place::of(&folder).unwrap().path()).unwrap());
        assert!(asked(&folder, "stop").await.is_err());
        Requests::take(&folder, Stop::default(), None).unwrap();
    }
}
