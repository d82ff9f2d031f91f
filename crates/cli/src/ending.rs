//! How a process ends before its work is done: in order, within a grace period, when a signal or
//! another process asks for it.

use crate::console::remark;
use actors::Stop;
use actors::training::TrainingError;
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Exit code of a run or node that was asked to end: it goes on with `--resume`, or joins again.
pub const STOPPED: u8 = 3;

/// Exit code of a node that does not work as it is, which a new process may cure (EX_TEMPFAIL of
/// sysexits.h).
pub const SICK: u8 = 75;

/// Time that work that is told to end at once may keep its thread before the process ends all the same.
const HEARD: Duration = Duration::from_secs(1);

/// The process was asked to end before its work was done.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It did so in order.
    #[error("stopped: everything acknowledged is on disk, go on with --resume")]
    InOrder,
    /// It was told so a second time.
    #[error(
        "ended at once: what was under way is lost, everything acknowledged is on disk; go on with \
         --resume"
    )]
    AtOnce,
    /// Its grace period was over.
    #[error(
        "ended after {}, with work under way that is lost; everything acknowledged is on disk. Go on \
         with --resume, and next time give it longer (run.stop_grace, --stop-grace)",
        humantime::format_duration(*.0)
    )]
    Late(Duration),
}

/// Whether an error says that the work was stopped, and did not fail.
pub fn is_stop(error: &anyhow::Error) -> bool {
    let is_stop = |cause: &(dyn std::error::Error + 'static)| {
        let of_training = cause.downcast_ref::<TrainingError>();
        cause.is::<Stopped>() || of_training.is_some_and(TrainingError::is_stop)
    };
    error.chain().any(is_stop)
}

/// The signals that ask a process to end: SIGTERM, SIGINT (Ctrl-C) and SIGHUP.
pub struct Signals(Vec<(Signal, &'static str)>);

impl Signals {
    /// Takes them over from now on. Those that were ignored when the process started stay ignored:
    /// `nohup` has said so for SIGHUP, a shell for the SIGINT of what runs in its background.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let all = [
            (SignalKind::terminate(), "SIGTERM"),
            (SignalKind::interrupt(), "SIGINT"),
            (SignalKind::hangup(), "SIGHUP"),
        ];
        let heeded = all
            .into_iter()
            .filter(|(kind, _)| !is_ignored(&status, kind.as_raw_value()));
        let taken = heeded.map(|(kind, name)| Ok((signal(kind)?, name)));
        let taken: std::io::Result<Vec<_>> = taken.collect();
        Ok(Self(taken.context("signals cannot be taken over")?))
    }

    /// Waits for the next of them; its name.
    pub async fn next(&mut self) -> &'static str {
        let heard = self.0.iter_mut().map(|(signal, name)| {
            Box::pin(async move {
                match signal.recv().await {
                    Some(()) => *name,
                    None => std::future::pending().await,
                }
            })
        });
        let heard: Vec<_> = heard.collect();
        match heard.is_empty() {
            true => std::future::pending().await,
            false => futures::future::select_all(heard).await.0,
        }
    }
}

/// Whether a signal is among those that Linux says a process ignores.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::try_from(signal - 1).unwrap_or(u32::MAX);
    mask.is_some_and(|mask| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// Does `work`, which ends in order once `stop` is asked. A signal asks it, and so may others; after a
/// signal the work has `grace`, and a second signal ends it at once.
///
/// # Errors
/// Those of the work; or [`Stopped`], when it did not end in time.
pub async fn in_order<T>(
    grace: Duration,
    stop: &Stop,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut signals = Signals::new()?;
    let (tell, told) = oneshot::channel();
    let stop = stop.clone();
    // In a task of its own: signals are heard although the work may keep this one's thread for minutes.
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let signal = signals.next().await;
        stop.ask();
        let shown = humantime::format_duration(grace);
        remark(format_args!(
            "{signal}: ending in order, within {shown}; again to end at once."
        ));
        let stopped = tokio::select! {
            biased;
            _ = signals.next() => Stopped::AtOnce,
            () = tokio::time::sleep(grace) => Stopped::Late(grace),
        };
        let said = stopped.to_string();
        // The work may have ended meanwhile.
        let _ = tell.send(stopped);
        tokio::time::sleep(HEARD).await;
        remark(format_args!("error: {said}"));
        std::process::exit(STOPPED.into());
    });
    tokio::select! {
        biased;
        done = work => done,
        Ok(stopped) = told => Err(stopped.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_were_ignored_are_found() {
        let status = "Name:\tswirl\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        for (signal, expected) in [(1, true), (2, false), (13, true), (15, false), (0, false)] {
            assert_eq!(is_ignored(status, signal), expected, "{signal}");
        }
        assert!(!is_ignored("", 1));
        assert!(!is_ignored("SigIgn:\tnone\n", 1));
    }

    #[test]
    fn a_stop_is_no_failure_wherever_it_is_said() {
        let training: anyhow::Error = TrainingError::Stopped { step: 4 }.into();
        for error in [Stopped::InOrder.into(), training.context("an arm")] {
            assert!(is_stop(&error), "{error:#}");
            assert_eq!(crate::usage::exit_code(&error), STOPPED);
        }
        let other: anyhow::Error = TrainingError::NoProgress(5, 2).into();
        assert!(!is_stop(&other));
        assert_eq!(crate::usage::exit_code(&other), 1);
    }
}
