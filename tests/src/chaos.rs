//! A run that is disturbed in every way, and how long each disturbance is felt.

use crate::stage::{HEAD, Stage};
use anyhow::{Result, ensure};
use std::fmt;
use std::time::{Duration, Instant};

/// No recovery takes as long.
const LIMIT: Duration = Duration::from_secs(120);

/// Nor does it take as long to leave out a process whose device hangs, and to take it in again.
const HANG_LIMIT: Duration = Duration::from_secs(300);

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
    /// It stays connected, and its device hangs until it is left out.
    Hang,
    /// The same again, in the same process: the controller has that end, and it is started again.
    HangAgain,
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
            Self::Hang => "its device hangs until it is left out",
            Self::HangAgain => {
                "its device hangs again: its process ends (75), and is started again"
            }
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

/// The controller's word for learners that train side by side.
const GROUP: &str = "A group of learners stands.";

/// Exit code of whoever was asked to end.
pub const STOPPED: i32 = 3;

/// Exit code of a node that is to be started again.
const SICK: i32 = 75;

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
    if role == "learner" && matches!(fault, Fault::Hang | Fault::HangAgain) {
        join_group(stage, name)?;
    }
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
        Fault::Hang | Fault::HangAgain => {
            let is_left_out = |line: &str| says_left_out(line, role, name);
            let is_back = |line: &str| says_back(line, role, name);
            let seen_out = stage.count_lines(HEAD, is_left_out);
            let seen_back = stage.count_lines(HEAD, is_back);
            let hang = stage.hang(name)?;
            let what = format!("that {name} is left out");
            stage.wait_for_lines(HEAD, &what, is_left_out, seen_out, HANG_LIMIT)?;
            noticed = Some(began.elapsed());
            if fault == Fault::HangAgain {
                let code = stage.left(name, HANG_LIMIT)?;
                ensure!(code == Some(SICK), "{name} ended with {code:?}");
            }
            possible = Instant::now();
            hang.end()?;
            if fault == Fault::HangAgain {
                stage.start(name)?;
            }
            let what = format!("that {name} works again");
            stage.wait_for_lines(HEAD, &what, is_back, seen_back, HANG_LIMIT)?;
            // A process that is told to end is lost by then.
            ensure!(
                fault == Fault::HangAgain || stage.count(HEAD, &lost) == seen_lost,
                "{name} hung, and was taken for lost:\n{}",
                stage.tail(HEAD)
            );
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

/// Waits until a learner trains side by side with others.
fn join_group(stage: &Stage, name: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let log = stage.log(HEAD);
        let mut groups = log.lines().filter(|line| line.contains(GROUP));
        if groups
            .next_back()
            .is_some_and(|line| says_back(line, "learner", name))
        {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{name} is in no group:\n{}",
            stage.tail(HEAD)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a line of the controller's log leaves a node of a role out.
fn says_left_out(line: &str, role: &str, name: &str) -> bool {
    match role {
        "learner" => line.contains(&format!("A learner does not answer; the others go on without it, and it is opened anew. node={name} ")),
        _ => {
            line.contains("A worker is quarantined for")
                && line.contains(&format!("role={role} worker={name} "))
        }
    }
}

/// Whether a line of the controller's log has a node of a role work again that was left out: a learner,
/// in a group with others.
fn says_back(line: &str, role: &str, name: &str) -> bool {
    match role {
        "learner" => {
            let (_, replicas) = line.split_once("replicas=\"").unwrap_or_default();
            let members: Vec<&str> = replicas.trim_end_matches('"').split(", ").collect();
            line.contains(GROUP) && members.len() > 1 && members.contains(&name)
        }
        _ => line.ends_with(&format!(
            "A worker works again. role=\"{role}\" worker={name}"
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_by_role_and_name() {
        let out = [
            "head 2026-01-01T00:00:00Z  WARN actors::vitals: A worker is quarantined for 10s. role=sampler worker=s1 reason=\"no answer\" times=1 cure=Reopen",
            "head 2026-01-01T00:00:00Z  WARN actors::replicas: A learner does not answer; the others go on without it, and it is opened anew. node=l2 again_s=30",
        ];
        let back = [
            "head 2026-01-01T00:00:00Z  INFO actors::pool: A worker works again. role=\"sampler\" worker=s1",
            "head 2026-01-01T00:00:00Z  INFO actors::replicas: A group of learners stands. epoch=7 replicas=\"l1, l2\"",
        ];
        let alone = "A group of learners stands. epoch=8 replicas=\"l2\"";
        for (place, (role, name)) in [("sampler", "s1"), ("learner", "l2")]
            .into_iter()
            .enumerate()
        {
            for (line, text) in out.iter().enumerate() {
                assert_eq!(
                    says_left_out(text, role, name),
                    line == place,
                    "{role}: {text}"
                );
            }
            for (line, text) in back.iter().enumerate() {
                assert_eq!(says_back(text, role, name), line == place, "{role}: {text}");
            }
            assert!(!says_left_out(out[place], role, "x9"));
            assert!(!says_back(back[place], role, "x9"));
        }
        assert!(
            !says_back(alone, "learner", "l2"),
            "alone it is no group with others"
        );
    }
}
