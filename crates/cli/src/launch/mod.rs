//! `swirl launch`: a run whose nodes are started over ssh.
//!
//! This machine leads; each node's certificate is made here and sent along, so a host needs nothing
//! but ssh, bash and the program. What ends too early is started again, for as long as enough is left
//! (`control::launching` decides). However this ends, it leaves nothing behind: a node ends when the
//! connection that started it does, and so does the controller.

mod hosts;
mod start;

pub use hosts::Hosts;

use crate::args::LaunchArgs;
use crate::config;
use crate::console;
use crate::ending::{SICK, STOPPED, Signals, Stopped};
use actors::Stop;
use anyhow::{Context, Result, bail};
use control::backoff::Backoff;
use control::launching::{Failure, LaunchConfig, Launching, Shortage};
use start::{MARGIN, run_here};
use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Waits before something is started again, in milliseconds.
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = 60_000;

/// What ran for so long was no failure of its start.
const STEADY: Duration = Duration::from_secs(60);

/// Number of times that a controller may be ended by signals, one time soon after the other.
const STARTS: u32 = 10;

/// Time limit for nodes to end by themselves once the run is done.
const DISMISSAL: Duration = Duration::from_secs(30);

/// How a launch came to its end.
enum End {
    /// The controller ended, with this code.
    Head(Result<u8>),
    /// This process was told to end, by this signal.
    Signal(&'static str),
    /// Too few nodes could be had.
    Short(anyhow::Error),
}

/// Runs the run to its end.
///
/// # Errors
/// When the hosts' file or the configuration is wrong, a certificate cannot be made, the controller
/// fails, or too few nodes can be had for too long. Nothing is left running.
pub async fn run(args: LaunchArgs) -> Result<ExitCode> {
    let hosts = Arc::new(Hosts::read(&args.hosts)?);
    let loaded = config::load(&args.configs, &args.set)?;
    hosts.suffice(&loaded.config)?;
    hosts.certify()?;
    let grace = loaded.config.run.stop_grace.0;
    let mut signals = Signals::new()?;
    let close_head = Stop::default();
    let words = controller(&args, &hosts);
    let mut head = std::pin::pin!(keep_head(words, grace, &close_head));
    let mut nodes = Nodes::new(hosts.clone(), &loaded.config, grace);
    let end = loop {
        tokio::select! {
            biased;
            code = &mut head => break End::Head(code),
            signal = signals.next() => break End::Signal(signal),
            turn = nodes.turn() => if let Err(error) = turn { break End::Short(error) },
        }
    };
    let ending = async {
        close_head.ask();
        let code = match end {
            End::Head(code) => code,
            End::Signal(signal) => {
                let shown = humantime::format_duration(grace);
                console::remark(format_args!(
                    "{signal}: the controller ends in order, within {shown}, then the nodes; \
                     again to leave at once."
                ));
                // What learners hold is brought to it: they are ended later.
                head.await
            }
            End::Short(error) => {
                let _ = head.await;
                Err(error)
            }
        };
        let is_done = matches!(code, Ok(0));
        nodes.end(is_done, grace).await;
        code
    };
    tokio::select! {
        biased;
        code = ending => Ok(ExitCode::from(code?)),
        _ = signals.next() => Err(Stopped::AtOnce.into()),
    }
}

/// The words of a controller's command line.
fn controller(args: &LaunchArgs, hosts: &Hosts) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["run".into()];
    words.extend(args.configs.iter().map(|path| path.as_os_str().to_owned()));
    for setting in &args.set {
        words.extend(["--set".into(), setting.into()]);
    }
    words.extend(["--listen".into(), hosts.listen().into()]);
    let certs = hosts.controller_certs().into_os_string();
    words.extend(["--certs".into(), certs, "--resume".into()]);
    words
}

/// A controller that a signal ended.
#[derive(Debug, PartialEq, Eq)]
enum HeadEnd {
    /// With a code of its own, or as it was told to.
    Final(u8),
    /// It crashed, or was killed.
    Crashed,
}

impl HeadEnd {
    /// `bash` tells the number of a signal as 128 and more.
    fn of(status: ExitStatus) -> Self {
        const TOLD: [i32; 3] = [128 + 1, 128 + 2, 128 + 15]; // SIGHUP, SIGINT, SIGTERM
        match status.code() {
            Some(code) if TOLD.contains(&code) => Self::Final(STOPPED),
            Some(code @ 0..=128) => Self::Final(u8::try_from(code).unwrap_or(1)),
            Some(_) | None => Self::Crashed,
        }
    }
}

/// Runs the controller until it ends or `close` is asked; again, where it crashed. Its exit code.
async fn keep_head(words: Vec<OsString>, grace: Duration, close: &Stop) -> Result<u8> {
    let program = std::env::current_exe()?;
    let mut backoff = Backoff::new(FIRST_WAIT_MS, LONGEST_WAIT_MS);
    let mut crashes = 0;
    while crashes < STARTS {
        let began = Instant::now();
        let status = run_here(&program, &words, grace, close).await?;
        let end = HeadEnd::of(status);
        match end {
            HeadEnd::Final(code) => return Ok(code),
            HeadEnd::Crashed if close.is_asked() => return Ok(STOPPED),
            HeadEnd::Crashed => {}
        }
        if began.elapsed() >= STEADY {
            backoff.worked();
            crashes = 0;
        }
        crashes += 1;
        console::remark(format_args!(
            "The controller ended ({status}) and is started again."
        ));
        let wait = Duration::from_millis(backoff.failed(1.0));
        if close.unless(tokio::time::sleep(wait)).await.is_none() {
            return Ok(STOPPED);
        }
    }
    bail!("the controller was ended by a signal {STARTS} times")
}

/// The nodes that are kept running.
struct Nodes {
    hosts: Arc<Hosts>,
    /// Time limit for a node to leave.
    grace: Duration,
    launching: Launching,
    running: JoinSet<(usize, Result<ExitStatus>)>,
    close: Stop,
    began: Instant,
}

impl Nodes {
    fn new(hosts: Arc<Hosts>, config: &config::Config, grace: Duration) -> Self {
        let give_up_ms = u64::try_from(hosts.give_up_after.0.as_millis()).unwrap_or(u64::MAX);
        let limits = LaunchConfig {
            first_wait_ms: FIRST_WAIT_MS,
            longest_wait_ms: LONGEST_WAIT_MS,
            // Before anybody is given up, whoever works is known to.
            steady_ms: (STEADY.as_millis() as u64).min(give_up_ms / 2),
            give_up_ms,
        };
        let launching = Launching::new(limits, hosts.roles(), &config.cluster.wanted());
        Self {
            hosts,
            grace,
            launching,
            running: JoinSet::new(),
            close: Stop::default(),
            began: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Starts what is due, and waits until something else is to be done.
    ///
    /// # Errors
    /// When too few nodes can be had.
    async fn turn(&mut self) -> Result<()> {
        let now = self.now_ms();
        for index in self.launching.due(now) {
            let (hosts, grace) = (self.hosts.clone(), self.grace);
            let close = self.close.clone();
            self.running.spawn(async move {
                let run = async { hosts.start_of(index, grace)?.run(&close).await };
                (index, run.await)
            });
        }
        if let Some(shortage) = self.launching.shortage(now) {
            bail!(told(&shortage));
        }
        let next = self.launching.next_ms(now);
        let asleep = async {
            match next {
                // Clocks tell less than what timers sleep.
                Some(at) => tokio::time::sleep(Duration::from_millis(at - now + 1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.running.join_next() => {
                let (index, status) = ended.context("a task that keeps a node ended")?;
                self.ended(index, status);
            }
            () = asleep => {}
        }
        Ok(())
    }

    fn ended(&mut self, index: usize, status: Result<ExitStatus>) {
        let said = match status {
            Ok(status) if status.success() => return self.launching.dismissed(index),
            Ok(status) if status.code() == Some(SICK.into()) => return self.sick(index),
            Ok(status) => status.to_string(),
            Err(error) => format!("{error:#}"),
        };
        let failure = self
            .launching
            .failed(index, self.now_ms(), rand::random::<f64>());
        let Some(Failure {
            in_a_row,
            wait_ms,
            is_told: true,
        }) = failure
        else {
            return;
        };
        let name = self.hosts.name(index);
        let seconds = wait_ms.div_ceil(1000);
        let times = match in_a_row {
            1 => String::new(),
            times => format!(", for the {times}th time in a row"),
        };
        console::remark(format_args!(
            "Node {name} ended ({said}){times}; it is started again in {seconds} s, and whenever it \
             ends."
        ));
    }

    fn sick(&mut self, index: usize) {
        let share = rand::random::<f64>();
        let Some(wait_ms) = self.launching.sick(index, self.now_ms(), share) else {
            return;
        };
        let (name, seconds) = (self.hosts.name(index), wait_ms.div_ceil(1000));
        console::remark(format_args!(
            "Node {name} does not work as it is; it is started again in {seconds} s."
        ));
    }

    /// Ends the nodes. Once the run is done they end by themselves, unless that takes too long.
    async fn end(&mut self, is_done: bool, grace: Duration) {
        if is_done {
            let rest = async { while self.running.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(DISMISSAL, rest).await;
        }
        self.close.ask();
        let rest = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(grace + 2 * MARGIN, rest)
            .await
            .is_err()
        {
            console::remark(format_args!(
                "Some connections to hosts did not end and are cut; the nodes end once their hosts \
                 notice."
            ));
        }
    }
}

/// Why a run is given up.
fn told(shortage: &Shortage) -> String {
    let Shortage {
        role,
        has,
        wanted,
        for_ms,
    } = shortage;
    let shown = humantime::format_duration(Duration::from_secs(for_ms / 1000));
    format!(
        "for {shown} only {has} of {wanted} nodes with the role {role} could be kept running: mend \
         what their hosts say above, ask for fewer (cluster.wait_for.{role}), or wait for longer \
         (give_up_after in the hosts' file); --resume is implied"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_controller_is_started_again_only_where_it_crashed() {
        // Codes as `waitpid` tells them: the exit code times 256, or the signal.
        for (raw, expected) in [
            (0, HeadEnd::Final(0)),
            (1 << 8, HeadEnd::Final(1)),
            (2 << 8, HeadEnd::Final(2)),
            (3 << 8, HeadEnd::Final(3)),
            (127 << 8, HeadEnd::Final(127)),
            ((128 + 15) << 8, HeadEnd::Final(STOPPED)),
            ((128 + 1) << 8, HeadEnd::Final(STOPPED)),
            ((128 + 9) << 8, HeadEnd::Crashed),
            ((128 + 11) << 8, HeadEnd::Crashed),
            (9, HeadEnd::Crashed),
        ] {
            assert_eq!(HeadEnd::of(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }
}
