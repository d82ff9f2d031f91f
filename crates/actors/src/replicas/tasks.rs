//! What the group is asked, one thing after the other, and what its members answer.

use super::shares::{Shared, shares};
use super::{GroupMessage, ReplicaMessage, State};
use crate::ports::{EngineError, LearnerFault, StepReport};
use crate::workers::{LearnerMessage, LearnerPort, answer};
use control::replicas::{Answer, Event, Outcome, ReplicaId, Task};
use proto::{SnapshotScope, WeightSnapshot, WeightVersion};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a member gave for an answer.
pub(crate) enum Reply {
    Report(StepReport),
    Weights(WeightSnapshot),
    Checkpoint(Option<PathBuf>),
    Exported,
    /// Why it cannot be done.
    Fault(LearnerFault),
}

/// Tasks that take about as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Settle,
    Supervised,
    Policy,
    Weights,
    Adapters,
    Checkpoint,
    Export,
}

/// A task under way, and what members have answered to it so far.
pub(super) struct Job {
    message: LearnerMessage,
    replies: BTreeMap<ReplicaId, Reply>,
}

impl Job {
    pub(super) fn new(message: LearnerMessage) -> Self {
        Self {
            message,
            replies: BTreeMap::new(),
        }
    }

    pub(super) fn task(&self, keep_shares: bool) -> Task {
        match self.message {
            LearnerMessage::StepsDone(_) => Task::Settle,
            LearnerMessage::Supervised(..) | LearnerMessage::Policy(..) => Task::Step,
            LearnerMessage::Checkpoint(_) if keep_shares => Task::Together,
            LearnerMessage::Snapshot(..)
            | LearnerMessage::Checkpoint(_)
            | LearnerMessage::Export(..) => Task::Errand,
        }
    }

    pub(super) fn is_step(&self) -> bool {
        matches!(self.kind(), Kind::Supervised | Kind::Policy)
    }

    fn kind(&self) -> Kind {
        match self.message {
            LearnerMessage::StepsDone(_) => Kind::Settle,
            LearnerMessage::Supervised(..) => Kind::Supervised,
            LearnerMessage::Policy(..) => Kind::Policy,
            LearnerMessage::Snapshot(_, SnapshotScope::All, _) => Kind::Weights,
            LearnerMessage::Snapshot(_, SnapshotScope::Adapters, _) => Kind::Adapters,
            LearnerMessage::Checkpoint(_) => Kind::Checkpoint,
            LearnerMessage::Export(..) => Kind::Export,
        }
    }

    /// A report stays, whatever comes later: it is of a step that others may take over.
    pub(super) fn keep(&mut self, id: ReplicaId, reply: Reply) {
        let is_report = |reply: Option<&Reply>| matches!(reply, Some(Reply::Report(_)));
        if is_report(Some(&reply)) || !is_report(self.replies.get(&id)) {
            self.replies.insert(id, reply);
        }
    }

    /// Answers whoever asked.
    pub(super) fn finish(mut self, outcome: Outcome, ranks: &[ReplicaId], epoch: u32) {
        match outcome {
            Outcome::Done(steps) => self.succeed(steps, ranks, epoch),
            Outcome::Failed(id) => match self.replies.remove(&id) {
                Some(Reply::Fault(fault)) => self.fail(fault),
                _ => self.fail(fault("a learner failed, and did not say why")),
            },
            Outcome::Behind => self.fail(LearnerFault::Behind),
            Outcome::Cannot(reason) => self.fail(fault(&reason)),
        }
    }

    fn succeed(mut self, steps: u64, ranks: &[ReplicaId], epoch: u32) {
        // By rank, and then of those that are gone.
        let mut replies: Vec<Reply> = ranks
            .iter()
            .filter_map(|id| self.replies.remove(id))
            .collect();
        replies.extend(std::mem::take(&mut self.replies).into_values());
        let mut replies = replies.into_iter();
        match self.message {
            LearnerMessage::StepsDone(port) => answer(port, Ok(steps)),
            LearnerMessage::Supervised(_, port) | LearnerMessage::Policy(_, port) => {
                let report = replies.find_map(|reply| match reply {
                    Reply::Report(report) if report.step == steps => Some(report),
                    _ => None,
                });
                answer(port, Ok(complete(report, steps, ranks.len(), epoch)));
            }
            LearnerMessage::Snapshot(_, _, port) => give(port, replies, |reply| match reply {
                Reply::Weights(weights) => Some(weights),
                _ => None,
            }),
            LearnerMessage::Checkpoint(port) => give(port, replies, |reply| match reply {
                Reply::Checkpoint(folder) => folder,
                _ => None,
            }),
            LearnerMessage::Export(_, port) => give(port, replies, |reply| {
                matches!(reply, Reply::Exported).then_some(())
            }),
        }
    }

    fn fail(self, fault: LearnerFault) {
        match self.message {
            LearnerMessage::StepsDone(port) => answer(port, Err(fault)),
            LearnerMessage::Supervised(_, port) | LearnerMessage::Policy(_, port) => {
                answer(port, Err(fault));
            }
            LearnerMessage::Snapshot(_, _, port) => answer(port, Err(fault)),
            LearnerMessage::Checkpoint(port) => answer(port, Err(fault)),
            LearnerMessage::Export(_, port) => answer(port, Err(fault)),
        }
    }
}

fn fault(reason: &str) -> LearnerFault {
    LearnerFault::Engine(EngineError(reason.to_owned()))
}

fn give<T: Send + 'static>(
    port: LearnerPort<T>,
    mut replies: impl Iterator<Item = Reply>,
    pick: impl Fn(Reply) -> Option<T>,
) {
    let odd = || fault("a learner gave another answer than it was asked for");
    answer(port, replies.find_map(pick).ok_or_else(odd));
}

/// A step's report with what only the group knows. Where the report was lost with its maker, there is
/// nothing else.
fn complete(report: Option<StepReport>, step: u64, replicas: usize, epoch: u32) -> StepReport {
    let mut report = report.unwrap_or_else(|| StepReport {
        step,
        metrics: BTreeMap::new(),
    });
    for (name, value) in [
        ("replicas", replicas as f64),
        ("group_epoch", f64::from(epoch)),
    ] {
        report.metrics.insert(name.to_owned(), value);
    }
    report
}

impl State {
    /// Has members do the task, a step by shares.
    pub(super) fn ask(&mut self, ranks: &[ReplicaId]) {
        let Some(job) = &mut self.job else { return };
        job.replies
            .retain(|_, reply| matches!(reply, Reply::Report(_)));
        let Some(job) = &self.job else { return };
        let (epoch, kind) = (self.machine.epoch(), job.kind());
        let work = match &job.message {
            LearnerMessage::StepsDone(_) => 1,
            LearnerMessage::Supervised(batch, _) => self.divide(ranks, batch, |share, port| {
                ReplicaMessage::Supervised(epoch, share, port)
            }),
            LearnerMessage::Policy(batch, _) => self.divide(ranks, batch, |share, port| {
                ReplicaMessage::Policy(epoch, share, port)
            }),
            LearnerMessage::Snapshot(version, scope, _) => {
                let version = WeightVersion::of(epoch, version.step());
                let message = |port| ReplicaMessage::Snapshot(version, *scope, port);
                self.errand(ranks, message, Reply::Weights)
            }
            LearnerMessage::Checkpoint(_) => {
                let message = |port| ReplicaMessage::Checkpoint(epoch, port);
                self.errand(ranks, message, Reply::Checkpoint)
            }
            LearnerMessage::Export(folder, _) => {
                let message = |port| ReplicaMessage::Export(epoch, folder.clone(), port);
                self.errand(ranks, message, |()| Reply::Exported)
            }
        };
        self.limits.begin(kind, work);
    }

    /// Gives each a share; the tokens of the largest.
    fn divide<T: Shared>(
        &self,
        ranks: &[ReplicaId],
        batch: &[T],
        message: impl Fn(Vec<T>, LearnerPort<StepReport>) -> ReplicaMessage,
    ) -> u64 {
        let mut largest = 0;
        for (id, share) in ranks.iter().zip(shares(batch, ranks.len())) {
            largest = largest.max(share.iter().map(Shared::tokens).sum::<usize>());
            self.send(*id, |port| message(share, port), Reply::Report);
        }
        largest as u64
    }

    /// Asks each for the same, which is one piece of work.
    fn errand<T: Send + 'static>(
        &self,
        ranks: &[ReplicaId],
        message: impl Fn(LearnerPort<T>) -> ReplicaMessage,
        reply: fn(T) -> Reply,
    ) -> u64 {
        ranks.iter().for_each(|id| self.send(*id, &message, reply));
        1
    }

    /// Asks one member, and tells the group what comes of it. Its loss is told by its own end.
    fn send<T: Send + 'static>(
        &self,
        id: ReplicaId,
        message: impl FnOnce(LearnerPort<T>) -> ReplicaMessage,
        reply: fn(T) -> Reply,
    ) {
        let Some(replica) = self.replicas.get(&id) else {
            return;
        };
        let (sender, answered) = ractor::concurrency::oneshot();
        if replica.actor.send_message(message(sender.into())).is_err() {
            return;
        }
        let (me, round) = (self.me.clone(), self.machine.round());
        tokio::spawn(async move {
            let (answer, reply) = match answered.await {
                Err(_) => return,
                Ok(Ok(value)) => (Answer::Done, Some(reply(value))),
                Ok(Err(LearnerFault::Apart(reason))) => (Answer::Apart(reason), None),
                Ok(Err(fault)) => (Answer::Failed, Some(Reply::Fault(fault))),
            };
            // A group that is gone has no use for it.
            let _ = me.send_message(GroupMessage::Heard(
                round,
                Event::Answered(id, answer),
                reply,
            ));
        });
    }
}
