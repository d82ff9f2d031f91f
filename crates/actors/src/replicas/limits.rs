//! Time that the group waits for what its members do. Tasks and meetings are measured: their limits
//! follow what such a task or meeting took before.

use super::tasks::Kind;
use super::{GroupMessage, State};
use control::replicas::{Event, Pace, Wait};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Limit of a task while its pace is not known: the first steps of a large model on a CPU.
const UNKNOWN: Duration = Duration::from_secs(3500);

/// Limit of a meeting while none is known that took as long: all weights and moments of the largest model
/// go round.
const MEETING: Duration = Duration::from_secs(3500);

/// Added to what meetings took: members look for each other for 20 s, and GPUs for 60 s more. Whoever
/// misses somebody says so by then.
const FINDING: Duration = Duration::from_secs(90);

/// Time that members have to say how far they are, while no pace is known: the step that they are at is
/// given up by then, and ends with its next micro-batch.
const COUNTS: Duration = Duration::from_secs(580);

/// Time by which others than the first may be later to say that they could not meet: they all try equally long.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Kinds of meetings, by what becomes of weights in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Meeting {
    /// There is one.
    Alone,
    /// All have the same ones.
    Level,
    /// They go round.
    Anew,
}

/// What is measured, and what is waited for.
#[derive(Default)]
pub(super) struct Limits {
    paces: BTreeMap<Kind, Pace>,
    meetings: BTreeMap<Meeting, Pace>,
    /// The meeting under way, and since when.
    meeting: Option<(Meeting, Instant)>,
    /// The task under way: its kind, how much work it is, and since when.
    task: Option<(Kind, u64, Instant)>,
    /// The stage whose limit the timer is for.
    stage: u64,
    timer: Option<AbortHandle>,
}

impl Drop for Limits {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl Limits {
    /// A task is asked for.
    pub(super) fn begin(&mut self, kind: Kind, work: u64) {
        self.task = Some((kind, work, Instant::now()));
    }

    /// The task that was asked for, if there was one, is done.
    pub(super) fn done(&mut self) {
        if let Some((kind, work, since)) = self.task.take() {
            let took = since.elapsed().as_millis() as u64;
            self.paces.entry(kind).or_default().done(took, work);
        }
    }

    /// It will not be done by this group.
    pub(super) fn given_up(&mut self) {
        self.task = None;
        self.meeting = None;
    }

    /// Members are to meet.
    pub(super) fn meet(&mut self, meeting: Meeting) {
        self.meeting = Some((meeting, Instant::now()));
    }

    /// They have met.
    pub(super) fn met(&mut self) {
        if let Some((meeting, since)) = self.meeting.take() {
            let took = since.elapsed().as_millis() as u64;
            self.meetings.entry(meeting).or_default().done(took, 1);
        }
    }

    /// The one is found that things took too long for.
    pub(super) fn excuse(&mut self) {
        let paces = self.paces.values_mut();
        paces
            .chain(self.meetings.values_mut())
            .for_each(Pace::excuse);
    }

    /// The meeting under way took too long.
    fn missed_meeting(&mut self) {
        if let Some((meeting, _)) = self.meeting {
            self.meetings.entry(meeting).or_default().missed();
        }
    }

    fn of(&self, wait: Wait) -> Duration {
        match (wait, self.task) {
            (Wait::Task, Some((kind, work, _))) => self.of_task(kind, work, UNKNOWN),
            (Wait::Task, None) => UNKNOWN,
            (Wait::Meeting, _) => self.of_meeting(),
            (Wait::LastWords, _) => LAST_WORDS,
            (Wait::Counts, _) => {
                let steps = [Kind::Supervised, Kind::Policy].into_iter();
                let known = steps.filter(|kind| self.paces.contains_key(kind));
                let limits = known.map(|kind| self.of_task(kind, 0, COUNTS));
                limits.max().unwrap_or(COUNTS)
            }
        }
    }

    fn of_meeting(&self) -> Duration {
        let pace = self.meeting.and_then(|(m, _)| self.meetings.get(&m));
        let unknown_ms = MEETING.as_millis() as u64;
        let limit = pace.map(|pace| Duration::from_millis(pace.limit_ms(1, unknown_ms)));
        limit.map_or(MEETING, |limit| (limit + FINDING).min(MEETING))
    }

    fn of_task(&self, kind: Kind, work: u64, unknown: Duration) -> Duration {
        let unknown_ms = unknown.as_millis() as u64;
        let pace = self.paces.get(&kind);
        Duration::from_millis(pace.map_or(unknown_ms, |pace| pace.limit_ms(work, unknown_ms)))
    }
}

impl State {
    /// Sets the timer for what is waited for now.
    pub(super) fn watch(&mut self) {
        let (stage, wait) = (self.machine.stage(), self.machine.wait());
        if stage == self.limits.stage {
            return;
        }
        self.limits.stage = stage;
        if let Some(timer) = self.limits.timer.take() {
            timer.abort();
        }
        self.limits.timer = wait.map(|wait| {
            let limit = self.limits.of(wait);
            let timer = self
                .me
                .send_after(limit, move || GroupMessage::Overdue(stage));
            timer.abort_handle()
        });
    }

    pub(super) fn overdue(&mut self, stage: u64) {
        if stage != self.machine.stage() {
            return;
        }
        let (waited_for, task) = (self.machine.wait(), self.limits.task);
        if waited_for == Some(Wait::Task) {
            let replicas = self.names(self.machine.ranks());
            tracing::warn!(
                replicas,
                "A task of the learners takes too long and is given up."
            );
        } else {
            tracing::debug!(?waited_for, "The learners take too long.");
        }
        if waited_for == Some(Wait::Meeting) {
            // Before it: whoever is left out for it is why it took so long.
            self.limits.missed_meeting();
        }
        self.feed(Event::Overdue(stage));
        // After it: members have the usual time to say how far they are.
        if let (Some(Wait::Task), Some((kind, ..))) = (waited_for, task) {
            self.limits.paces.entry(kind).or_default().missed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Meeting::{Alone, Anew, Level};

    async fn took(limits: &mut Limits, meeting: Meeting, seconds: u64) {
        limits.meet(meeting);
        tokio::time::advance(Duration::from_secs(seconds)).await;
        limits.met();
    }

    fn seconds(limits: &mut Limits, meeting: Meeting) -> u64 {
        limits.meet(meeting);
        limits.of(Wait::Meeting).as_secs()
    }

    /// Where nobody says anything, nobody is missed by a neighbour either.
    #[tokio::test(start_paused = true)]
    async fn a_meeting_takes_about_as_long_as_others_did() {
        let mut limits = Limits::default();
        took(&mut limits, Alone, 0).await;
        assert_eq!(seconds(&mut limits, Alone), 30 + 90);
        assert_eq!(seconds(&mut limits, Anew), 3500, "it is not known");
        took(&mut limits, Anew, 40).await;
        assert_eq!(seconds(&mut limits, Level), 3500, "another kind");
        took(&mut limits, Level, 1).await;
        assert_eq!(seconds(&mut limits, Level), 3 + 30 + 90);
        assert_eq!(seconds(&mut limits, Anew), 120 + 30 + 90);
        took(&mut limits, Anew, 3000).await;
        took(&mut limits, Anew, 3000).await;
        assert_eq!(seconds(&mut limits, Anew), 3500, "at most");
    }

    #[tokio::test(start_paused = true)]
    async fn a_meeting_that_took_too_long_has_longer_until_the_one_at_fault_is_found() {
        let mut limits = Limits::default();
        took(&mut limits, Level, 10).await;
        assert_eq!(seconds(&mut limits, Level), 60 + 90);
        limits.missed_meeting();
        assert_eq!(seconds(&mut limits, Level), 120 + 90);
        limits.excuse();
        assert_eq!(seconds(&mut limits, Level), 60 + 90);
    }

    /// A group that is given up while it meets says nothing of how long that takes.
    #[tokio::test(start_paused = true)]
    async fn a_meeting_that_is_given_up_is_not_measured() {
        let mut limits = Limits::default();
        limits.meet(Level);
        limits.given_up();
        tokio::time::advance(Duration::from_secs(5)).await;
        limits.met();
        assert_eq!(seconds(&mut limits, Level), 3500);
    }
}
