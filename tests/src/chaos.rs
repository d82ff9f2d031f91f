//! A run that is disturbed in every way, and how long each disturbance is felt.

use crate::stage::{HEAD, Stage};
use anyhow::{Result, ensure};
use std::fmt;
use std::time::{Duration, Instant};

/// No recovery takes as long.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a link is cut.
const CUT: Duration = Duration::from_secs(10);

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a new start once the loss was noticed.
    Kill,
    /// SIGKILL, and a new start at once.
    KillAndRestart,
    /// Its host's link is cut for 10 s.
    Cut,
    /// It is stopped for three quarters of the time, for 10 s.
    Slow,
    /// It joins for the first time.
    Add,
    /// It joins for the first time, over a path with 20 ms more each way and 1 % of packets lost.
    AddFarAway,
    /// SIGTERM: it leaves.
    Leave,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::KillAndRestart => "kill -9, restarted at once",
            Self::Cut => "link cut for 10 s",
            Self::Slow => "stopped 3/4 of the time for 10 s",
            Self::Add => "added",
            Self::Leave => "told to leave (SIGTERM)",
            Self::AddFarAway => "added, 20 ms away each way, 1 % of packets lost",
        })
    }
}

/// How long a fault was felt.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// The role of the process.
    pub role: &'static str,
    /// What happened.
    pub fault: Fault,
    /// From the fault until the controller knew; none where it need not.
    pub noticed: Option<Duration>,
    /// From when it could come back (started again, mended) until it worked again; none where it was
    /// not away, or stays away.
    pub back: Option<Duration>,
}

/// Exit code of whoever was asked to end.
pub const STOPPED: i32 = 3;

/// Disturbs a process and waits until it works again.
///
/// # Errors
/// When it does not, or the controller fails.
pub fn disturb(
    stage: &mut Stage,
    name: &str,
    role: &'static str,
    fault: Fault,
) -> Result<Recovery> {
    let lost = format!("A node is lost. node={name} ");
    let works = format!("An engine of another node joins. role={role} node={name}");
    let (seen_lost, seen_works) = (stage.count(HEAD, &lost), stage.count(HEAD, &works));
    let began = Instant::now();
    let mut noticed = None;
    let mut possible = began;
    match fault {
        Fault::Kill => {
            stage.kill(name)?;
            stage.wait_for(HEAD, &lost, seen_lost, LIMIT)?;
            noticed = Some(began.elapsed());
            possible = Instant::now();
            stage.start(name)?;
            stage.wait_for(HEAD, &works, seen_works, LIMIT)?;
        }
        Fault::KillAndRestart => {
            stage.kill(name)?;
            stage.start(name)?;
            stage.wait_for(HEAD, &works, seen_works, LIMIT)?;
        }
        Fault::Cut => {
            stage.hosts().set_link(name, false)?;
            stage.wait_for(HEAD, &lost, seen_lost, LIMIT)?;
            noticed = Some(began.elapsed());
            std::thread::sleep(CUT.saturating_sub(began.elapsed()));
            possible = Instant::now();
            stage.hosts().set_link(name, true)?;
            stage.wait_for(HEAD, &works, seen_works, LIMIT)?;
        }
        Fault::Slow => {
            while began.elapsed() < CUT {
                stage.signal(name, "STOP")?;
                std::thread::sleep(Duration::from_millis(300));
                stage.signal(name, "CONT")?;
                std::thread::sleep(Duration::from_millis(100));
            }
            ensure!(
                stage.count(HEAD, &lost) == seen_lost,
                "{name} was slow, and taken for lost:\n{}",
                stage.tail(HEAD)
            );
        }
        Fault::Leave => {
            stage.signal(name, "TERM")?;
            stage.wait_for(HEAD, &format!("A node leaves. node={name}"), 0, LIMIT)?;
            noticed = Some(began.elapsed());
            let code = stage.left(name, LIMIT)?;
            ensure!(code == Some(STOPPED), "{name} left with {code:?}");
        }
        Fault::Add | Fault::AddFarAway => {
            stage.start(name)?;
            stage.wait_for(HEAD, &works, seen_works, LIMIT)?;
        }
    }
    Ok(Recovery {
        role,
        fault,
        noticed,
        back: (!matches!(fault, Fault::Slow | Fault::Leave)).then(|| possible.elapsed()),
    })
}

/// Kills the controller, starts it again on the same folder, and waits until a node of each of these
/// works again.
///
/// # Errors
/// When one does not, or the controller fails.
pub fn kill_head(stage: &mut Stage, works: &[(&str, &'static str)]) -> Result<Recovery> {
    let joins = "Joined the run.";
    let seen: Vec<usize> = works
        .iter()
        .map(|(name, _)| stage.count(name, joins))
        .collect();
    let text =
        |name: &str, role| format!("An engine of another node joins. role={role} node={name}");
    let open: Vec<usize> = works
        .iter()
        .map(|(name, role)| stage.count(HEAD, &text(name, role)))
        .collect();
    let began = Instant::now();
    stage.kill(HEAD)?;
    stage.start_head()?;
    for ((name, role), (seen, open)) in works.iter().zip(seen.into_iter().zip(open)) {
        stage.wait_for(name, joins, seen, LIMIT)?;
        stage.wait_for(HEAD, &text(name, role), open, LIMIT)?;
    }
    Ok(Recovery {
        role: "controller",
        fault: Fault::KillAndRestart,
        noticed: None,
        back: Some(began.elapsed()),
    })
}

/// The table of recoveries, in Markdown.
pub fn table(recoveries: &[Recovery]) -> String {
    let mut text = String::from(
        "| role | fault | noticed after (s) | works again after (s) |\n|---|---|---|---|\n",
    );
    for recovery in recoveries {
        let Recovery { role, fault, .. } = recovery;
        let shown = |time: Option<Duration>| {
            time.map_or("–".into(), |time| format!("{:.1}", time.as_secs_f64()))
        };
        let (noticed, back) = (shown(recovery.noticed), shown(recovery.back));
        text += &format!("| {role} | {fault} | {noticed} | {back} |\n");
    }
    text
}
