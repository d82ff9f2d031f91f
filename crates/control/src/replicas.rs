//! Learners that train one model side by side, and what becomes of a step when one of them is lost.
//!
//! Whoever trains wants one [`Task`] after the other done. Replicas arrive and are lost meanwhile; a
//! group of them meets anew, under a new epoch, whenever that is needed, and then goes on where the
//! caller was.
//!
//! - **RG-1 (once).** A step counts when all members of the group that stands have made it, and each
//!   step counts once: one that some had made when others were lost is taken over, and not repeated.
//! - **RG-2 (one group).** Before replicas meet, all who were in a group are told to give it up, and
//!   what is heard of an earlier round counts for nothing.
//! - **RG-3 (furthest first).** Rank 0, whose weights the others take over, has the weights of the
//!   newest group, and of those the most steps.
//! - **RG-4 (at the border).** Who arrives becomes a member before the next task, never within a step.
//! - **RG-5 (no going back in secret).** No group is formed of replicas that are all older than the
//!   last one that stood; and when the next group has other steps behind it than the caller, the task
//!   ends with [`Outcome::Behind`].
//! - **RG-6 (who cannot be met is left out).** Meetings that fail again and again go on without those
//!   that came last.
//! - **RG-7 (shares).** Where each member keeps a share of the optimizer's state, nobody has all of it
//!   once one is lost: then all are opened anew from the newest checkpoint, and meet when all of them
//!   are there. Who arrives becomes a member after the next checkpoint.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

/// Meetings in a row that may fail before somebody is left out.
const MEETINGS: u32 = 3;

/// How often a task may fall apart while nobody comes or goes.
const REPEATS: u32 = 8;

/// Names one stay of a replica. Later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// How far a replica is. The newer group comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// The epoch of the last group whose weights it took over. Before its first, the number that it
    /// was opened under, counted together with epochs, if no group could go on at that time; else 0.
    pub epoch: u32,
    /// Steps made.
    pub steps: u64,
}

/// What whoever trains wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A group that stands, and how many steps it has made.
    Settle,
    /// A step, by all.
    Step,
    /// Something that one member does for all, between steps.
    Errand,
    /// Something that all members do, between steps.
    Together,
}

/// What a replica says of its part in a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// The group fell apart over it.
    Apart(String),
    /// It cannot be done, in whatever group.
    Failed,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A replica is there.
    Arrived(ReplicaId),
    /// It is not any more.
    Lost(ReplicaId),
    /// Somebody waits for this. One at a time.
    Wanted(Task),
    /// A replica says how far it is.
    Counted(ReplicaId, Progress),
    /// The group to come has an epoch, or there is none to be had.
    Numbered(Result<u32, String>),
    /// A replica has met the others and has this many steps behind it, or could not.
    Met(ReplicaId, Result<u64, String>),
    /// A replica answers what it was asked.
    Answered(ReplicaId, Answer),
    /// How many replicas there will be when those that are being opened have arrived (RG-7).
    Expected(usize),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// These give the group up that they are in, or about to meet.
    Abandon(Vec<ReplicaId>),
    /// These say how far they are ([`Event::Counted`]).
    Count(Vec<ReplicaId>),
    /// These meet, by rank: first comes the epoch ([`Event::Numbered`]), then each ([`Event::Met`]).
    Form(Vec<ReplicaId>),
    /// These, by rank, do the task ([`Event::Answered`]).
    Ask(Vec<ReplicaId>),
    /// The others cannot meet this one; the reason.
    LeaveOut(ReplicaId, String),
    /// All replicas are opened anew, from the newest checkpoint: what is there now counts no more.
    Reopen,
    /// Nobody is there who has what the last group had. Somebody may find back, or begin anew.
    Starved,
    /// The task is over.
    Finish(Outcome),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and this many steps are made.
    Done(u64),
    /// This replica says why it cannot be done.
    Failed(ReplicaId),
    /// The group that there is now has other steps behind it.
    Behind,
    /// It was tried in vain; the reason.
    Cannot(String),
}

#[derive(Debug)]
enum Phase {
    Resting,
    /// Nobody can go on.
    Starving,
    Counting(BTreeMap<ReplicaId, Progress>),
    Meeting {
        ranks: Vec<ReplicaId>,
        epoch: Option<u32>,
        waiting: BTreeSet<ReplicaId>,
        steps: u64,
    },
    Working(BTreeSet<ReplicaId>),
}

/// Keeps account of replicas and of what is under way.
#[derive(Debug)]
pub struct Replicas {
    /// Members of a group at most.
    most: usize,
    /// Those that are there, and whether they may hold on to a group.
    present: BTreeMap<ReplicaId, bool>,
    /// Of the group that stands, by rank; empty when none does.
    ranks: Vec<ReplicaId>,
    /// Epoch of the last group that stood.
    newest: u32,
    round: u64,
    phase: Phase,
    task: Option<Task>,
    /// RG-7.
    keep_shares: bool,
    /// RG-7: those who have arrived since may become members now.
    may_reopen: bool,
    /// RG-7: a member of several was lost, and with it its share.
    is_share_lost: bool,
    expected: usize,
    /// Steps that whoever trains counts with.
    at: Option<u64>,
    failed_meetings: u32,
    repeats: u32,
}

impl Replicas {
    /// Nobody yet. `most` members may be in a group, at least one; no group may be older than
    /// `newest`.
    pub fn new(most: usize, newest: u32) -> Self {
        Self {
            most: most.max(1),
            present: BTreeMap::new(),
            ranks: Vec::new(),
            newest,
            round: 0,
            phase: Phase::Resting,
            task: None,
            keep_shares: false,
            may_reopen: false,
            is_share_lost: false,
            expected: 0,
            at: None,
            failed_meetings: 0,
            repeats: 0,
        }
    }

    /// The same for members that keep shares of the optimizer's state (RG-7).
    pub fn keeping_shares(mut self) -> Self {
        self.keep_shares = true;
        self
    }

    /// What is asked for now belongs to this round; answers of another are not to be handed in.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The members of the group that stands, by rank.
    pub fn ranks(&self) -> &[ReplicaId] {
        &self.ranks
    }

    /// The epoch of the last group that stood.
    pub fn epoch(&self) -> u32 {
        self.newest
    }

    /// Whether a task waits for somebody who can go on.
    pub fn is_starving(&self) -> bool {
        matches!(self.phase, Phase::Starving)
    }

    /// Takes notice of an event of the present round.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Arrived(id) => self.arrived(id, &mut out),
            Event::Lost(id) => self.lost(id, &mut out),
            Event::Wanted(task) => {
                self.task = Some(task);
                self.begin(&mut out);
            }
            Event::Counted(id, progress) => {
                if let Phase::Counting(counted) = &mut self.phase {
                    counted.insert(id, progress);
                    self.look_at_counts(&mut out);
                }
            }
            Event::Numbered(Ok(number)) => {
                if let Phase::Meeting { epoch, .. } = &mut self.phase {
                    *epoch = Some(number);
                    self.look_at_meeting(&mut out);
                }
            }
            Event::Numbered(Err(reason)) => self.finish(Outcome::Cannot(reason), &mut out),
            Event::Met(id, Ok(made)) => {
                if let Phase::Meeting { waiting, steps, .. } = &mut self.phase {
                    waiting.remove(&id);
                    *steps = made;
                    self.look_at_meeting(&mut out);
                }
            }
            Event::Met(_, Err(reason)) => self.not_met(reason, &mut out),
            Event::Answered(id, answer) => self.answered(id, answer, &mut out),
            Event::Expected(count) => {
                self.expected = count;
                self.look_at_counts(&mut out);
            }
        }
        out
    }

    fn arrived(&mut self, id: ReplicaId, out: &mut Vec<Effect>) {
        self.present.insert(id, false);
        self.repeats = 0;
        match self.phase {
            Phase::Starving => self.gather(out),
            Phase::Counting(_) => out.push(Effect::Count(vec![id])),
            Phase::Resting | Phase::Meeting { .. } | Phase::Working(_) => {}
        }
    }

    fn lost(&mut self, id: ReplicaId, out: &mut Vec<Effect>) {
        let holders = self.present.values().filter(|holds| **holds).count();
        let Some(held) = self.present.remove(&id) else {
            return;
        };
        self.is_share_lost |= self.keep_shares && held && holders > 1;
        self.repeats = 0;
        let was_member = self.ranks.contains(&id);
        if was_member {
            self.ranks.clear();
        }
        let is_needed = match &mut self.phase {
            Phase::Resting | Phase::Starving => false,
            Phase::Counting(counted) => {
                counted.remove(&id);
                self.look_at_counts(out);
                false
            }
            Phase::Meeting { ranks, .. } => ranks.contains(&id),
            // An errand of another member goes on.
            Phase::Working(waiting) => {
                waiting.contains(&id) || (was_member && self.task != Some(Task::Errand))
            }
        };
        if is_needed {
            self.gather(out);
        }
    }

    /// Begins the task, or has a group meet first.
    fn begin(&mut self, out: &mut Vec<Effect>) {
        let is_full = self.ranks.len() >= self.present.len().min(self.most)
            || (self.keep_shares && !self.may_reopen);
        match (self.at, is_full && !self.ranks.is_empty()) {
            (Some(steps), true) => self.stands(steps, out),
            // RG-4.
            _ => self.gather(out),
        }
    }

    /// Has all who are there say how far they are.
    fn gather(&mut self, out: &mut Vec<Effect>) {
        self.round += 1;
        self.ranks.clear();
        // RG-2.
        let members = self.present.iter_mut().filter(|(_, holds)| **holds);
        let members: Vec<ReplicaId> = members
            .map(|(id, holds)| {
                *holds = false;
                *id
            })
            .collect();
        let were_members = !members.is_empty();
        if were_members {
            out.push(Effect::Abandon(members));
        }
        if self.keep_shares && (were_members || self.is_share_lost) {
            self.may_reopen = false;
            self.is_share_lost = false;
            self.present.clear();
            self.phase = Phase::Starving;
            out.push(Effect::Reopen);
            return;
        }
        self.phase = Phase::Counting(BTreeMap::new());
        if !self.present.is_empty() {
            out.push(Effect::Count(self.present.keys().copied().collect()));
        }
        self.look_at_counts(out);
    }

    /// Once all are counted, the furthest lead (RG-3), if they are far enough (RG-5).
    fn look_at_counts(&mut self, out: &mut Vec<Effect>) {
        let Phase::Counting(counted) = &self.phase else {
            return;
        };
        let awaited = match self.keep_shares && !self.present.is_empty() {
            true => self.expected.min(self.most),
            false => 0,
        };
        let are_all = self.present.keys().all(|id| counted.contains_key(id));
        if !are_all || counted.len() < awaited {
            return;
        }
        let mut ranks: Vec<ReplicaId> = self.present.keys().copied().collect();
        ranks.sort_by_key(|id| (std::cmp::Reverse(counted[id]), *id));
        let furthest = ranks.first().map(|id| counted[id]);
        if furthest.is_none_or(|progress| progress.epoch < self.newest) {
            self.phase = Phase::Starving;
            out.push(Effect::Starved);
            return;
        }
        ranks.truncate(self.most);
        for id in &ranks {
            self.present.insert(*id, true);
        }
        out.push(Effect::Form(ranks.clone()));
        self.phase = Phase::Meeting {
            waiting: ranks.iter().copied().collect(),
            ranks,
            epoch: None,
            steps: 0,
        };
    }

    fn look_at_meeting(&mut self, out: &mut Vec<Effect>) {
        let Phase::Meeting {
            ranks,
            epoch: Some(epoch),
            waiting,
            steps,
        } = &mut self.phase
        else {
            return;
        };
        if waiting.is_empty() {
            let steps = *steps;
            self.newest = *epoch;
            self.ranks = std::mem::take(ranks);
            self.failed_meetings = 0;
            self.phase = Phase::Resting;
            self.stands(steps, out);
        }
    }

    /// RG-6: those who joined after rank 0 go first, and of equals the last.
    fn not_met(&mut self, reason: String, out: &mut Vec<Effect>) {
        let Phase::Meeting { ranks, .. } = &self.phase else {
            return;
        };
        self.failed_meetings += 1;
        let last = ranks.last().copied().filter(|_| ranks.len() > 1);
        if self.failed_meetings >= MEETINGS
            && let Some(last) = last
        {
            self.failed_meetings = 0;
            self.present.remove(&last);
            out.push(Effect::Abandon(vec![last]));
            out.push(Effect::LeaveOut(last, reason));
        } else if self.failed_meetings >= MEETINGS {
            self.failed_meetings = 0;
            return self.finish(Outcome::Cannot(reason), out);
        }
        self.gather(out);
    }

    /// A group stands, with this many steps behind it: the task may begin, or is done already.
    fn stands(&mut self, steps: u64, out: &mut Vec<Effect>) {
        let Some(task) = self.task else { return };
        let at = *self.at.get_or_insert(steps);
        match task {
            Task::Settle => self.finish(Outcome::Done(steps), out),
            // RG-1: those whose weights all have now had made it.
            Task::Step if steps == at + 1 => self.finish(Outcome::Done(steps), out),
            _ if steps != at => self.finish(Outcome::Behind, out),
            Task::Step => self.ask(self.ranks.clone(), out),
            Task::Errand => self.ask(self.ranks[..1].to_vec(), out),
            Task::Together => self.ask(self.ranks.clone(), out),
        }
    }

    fn ask(&mut self, whom: Vec<ReplicaId>, out: &mut Vec<Effect>) {
        self.phase = Phase::Working(whom.iter().copied().collect());
        out.push(Effect::Ask(whom));
    }

    fn answered(&mut self, id: ReplicaId, answer: Answer, out: &mut Vec<Effect>) {
        let Phase::Working(waiting) = &mut self.phase else {
            return;
        };
        match answer {
            Answer::Done => {
                waiting.remove(&id);
                if waiting.is_empty() {
                    let made = u64::from(self.task == Some(Task::Step));
                    let have_come = self.present.len() > self.ranks.len();
                    self.may_reopen |= have_come && self.task == Some(Task::Together);
                    let steps = self.at.unwrap_or(0) + made;
                    self.finish(Outcome::Done(steps), out);
                }
            }
            Answer::Apart(reason) => {
                self.repeats += 1;
                match self.repeats >= REPEATS {
                    true => self.finish(Outcome::Cannot(reason), out),
                    false => self.gather(out),
                }
            }
            Answer::Failed => self.finish(Outcome::Failed(id), out),
        }
    }

    fn finish(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.round += 1;
        self.task = None;
        self.phase = Phase::Resting;
        match &outcome {
            Outcome::Done(steps) => {
                self.at = Some(*steps);
                self.repeats = 0;
            }
            Outcome::Behind => self.at = None,
            // Some may be in the middle of it: the next task finds them in no group.
            Outcome::Failed(_) | Outcome::Cannot(_) => self.ranks.clear(),
        }
        out.push(Effect::Finish(outcome));
    }
}
