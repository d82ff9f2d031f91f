//! Time that the group waits for what its members do. Tasks are measured: their limits follow what such
//! a task took before.

use super::tasks::Kind;
use super::{GroupMessage, State};
use control::replicas::{Event, Pace, Wait};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Limit of a task while its pace is not known: the first steps of a large model on a CPU.
const UNKNOWN: Duration = Duration::from_secs(3500);

/// Limit of a meeting once its members have found each other, all weights and moments of the largest
/// model included, which go round.
const MEETING: Duration = Duration::from_secs(3500);

/// Time that members have to say how far they are, while no pace is known: the step that they are at is
/// given up by then, and ends with its next micro-batch.
const COUNTS: Duration = Duration::from_secs(580);

/// Time by which others than the first may be later to say that they could not meet: they all try equally long.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What is measured, and what is waited for.
#[derive(Default)]
pub(super) struct Limits {
    paces: BTreeMap<Kind, Pace>,
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
    }

    /// The one is found that things took too long for.
    pub(super) fn excuse(&mut self) {
        self.paces.values_mut().for_each(Pace::excuse);
    }

    fn of(&self, wait: Wait) -> Duration {
        match (wait, self.task) {
            (Wait::Task, Some((kind, work, _))) => self.of_task(kind, work, UNKNOWN),
            (Wait::Task, None) => UNKNOWN,
            (Wait::Meeting, _) => MEETING,
            (Wait::LastWords, _) => LAST_WORDS,
            (Wait::Counts, _) => {
                let steps = [Kind::Supervised, Kind::Policy].into_iter();
                let known = steps.filter(|kind| self.paces.contains_key(kind));
                let limits = known.map(|kind| self.of_task(kind, 0, COUNTS));
                limits.max().unwrap_or(COUNTS)
            }
        }
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
        self.feed(Event::Overdue(stage));
        // After it: members have the usual time to say how far they are.
        if let (Some(Wait::Task), Some((kind, ..))) = (waited_for, task) {
            self.limits.paces.entry(kind).or_default().missed();
        }
    }
}
