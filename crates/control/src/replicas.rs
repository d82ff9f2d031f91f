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
//! - **RG-6 (who cannot be met is left out).** Members say whom they could not meet. One that several
//!   name is left out, and so is one that is named and says nothing; otherwise the others try in an order
//!   that avoids the way that did not work. Where nobody is named, as through NCCL, half of the members
//!   go on. Those left out come back one at a time, and go first when a meeting fails again.
//! - **RG-7 (shares).** Where each member keeps a share of the optimizer's state, nobody has all of it
//!   once one is lost: then all are opened anew from the newest checkpoint, and meet when all of them
//!   are there. Who arrives becomes a member after the next checkpoint. A meeting that fails before
//!   anybody has given anything away costs nothing.
//! - **RG-8 (who hangs is left out).** A task that takes too long is given up. A member that does not
//!   even say how far it is then is left out, and so is one that was still computing while others waited
//!   for it.

mod blame;
mod pace;
#[cfg(test)]
mod tests;

pub use pace::Pace;

use blame::{Evidence, Failed};
use proto::cluster::{Occupation, Unmet};
use std::collections::{BTreeMap, BTreeSet};

/// Meetings in a row that may fail before somebody is left out.
const MEETINGS: u32 = 3;

/// The same where nobody is named.
const BLIND_MEETINGS: u32 = 2;

/// Number of times that a task of one may fall apart while nobody comes or goes.
const REPEATS: u32 = 8;

/// Number of times that a task of several may, before half of them go on. One that took too long counts twice.
const STALLS: u32 = 3;

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
    /// A replica is there that was left out before ([`Effect::LeaveOut`]) and has made no step since.
    Returned(ReplicaId),
    /// It is not any more.
    Lost(ReplicaId),
    /// Somebody waits for this. One at a time.
    Wanted(Task),
    /// A replica says how far it is.
    Counted(ReplicaId, Progress),
    /// The group to come has an epoch, or there is none to be had.
    Numbered(Result<u32, String>),
    /// A replica has met the others and has this many steps behind it, or could not.
    Met(ReplicaId, Result<u64, Unmet>),
    /// A replica answers what it was asked.
    Answered(ReplicaId, Answer),
    /// How many replicas there will be when those that are being opened have arrived (RG-7).
    Expected(usize),
    /// What a replica was at when it was told to give its group up.
    Found(ReplicaId, Occupation),
    /// What has been waited for since this [`Replicas::stage`] takes too long.
    Overdue(u64),
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
    /// The others go on without this one. It is to be opened anew some time later, and then
    /// [`Event::Returned`].
    LeaveOut(ReplicaId, Cause),
    /// All replicas are opened anew, from the newest checkpoint: what is there now counts no more.
    Reopen,
    /// Nobody is there who has what the last group had. Somebody may find back, or begin anew.
    Starved,
    /// The task is over.
    Finish(Outcome),
}

/// Why a replica is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It cannot be met; the reason.
    Unmet(String),
    /// It does not answer.
    Hung,
    /// It computed while the others had waited for it for too long.
    Slow,
    /// The group does not get on and nobody is known to be at fault: half of it tries without this
    /// one. The last reason.
    Stalled(String),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Replicas say how far they are.
    Counts,
    /// Replicas meet.
    Meeting,
    /// One could not meet the others: what these say of it.
    LastWords,
    /// A task is done.
    Task,
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
    Meeting(Meeting),
    Working(BTreeSet<ReplicaId>),
}

#[derive(Debug)]
struct Meeting {
    ranks: Vec<ReplicaId>,
    epoch: Option<u32>,
    waiting: BTreeSet<ReplicaId>,
    steps: u64,
    unmet: BTreeMap<ReplicaId, Unmet>,
    /// Rank 0 has steps that nobody else has.
    is_leader_ahead: bool,
}

/// A replica that is there.
#[derive(Debug, Clone, Copy)]
struct Present {
    /// It may hold on to a group.
    holds: bool,
    /// It was left out, and has made no step since.
    is_on_trial: bool,
}

/// What took too long (RG-8).
#[derive(Debug, Default)]
struct Late {
    /// Those that a task was asked of.
    members: Vec<ReplicaId>,
    found: BTreeMap<ReplicaId, Occupation>,
}

/// Keeps account of replicas and of what is under way.
#[derive(Debug)]
pub struct Replicas {
    /// Members of a group at most.
    most: usize,
    present: BTreeMap<ReplicaId, Present>,
    /// Of the group that stands, by rank; empty when none does.
    ranks: Vec<ReplicaId>,
    /// Epoch of the last group that stood.
    newest: u32,
    round: u64,
    stage: u64,
    phase: Phase,
    task: Option<Task>,
    /// RG-7.
    keep_shares: bool,
    /// RG-7: those who have arrived since may become members now.
    may_reopen: bool,
    /// RG-7: a member of several was lost, and with it its share.
    is_share_lost: bool,
    /// RG-7: all are opened anew once it is known who hangs.
    must_reopen: bool,
    expected: usize,
    /// Steps that whoever trains counts with.
    at: Option<u64>,
    evidence: Evidence,
    failed_meetings: u32,
    repeats: u32,
    late: Option<Late>,
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
            stage: 0,
            phase: Phase::Resting,
            task: None,
            keep_shares: false,
            may_reopen: false,
            is_share_lost: false,
            must_reopen: false,
            expected: 0,
            at: None,
            evidence: Evidence::default(),
            failed_meetings: 0,
            repeats: 0,
            late: None,
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

    /// Rises with everything new that is waited for; see [`Event::Overdue`].
    pub fn stage(&self) -> u64 {
        self.stage
    }

    /// What is waited for since this stage, if anything that may take too long.
    pub fn wait(&self) -> Option<Wait> {
        match &self.phase {
            Phase::Resting | Phase::Starving => None,
            Phase::Counting(_) => Some(Wait::Counts),
            Phase::Meeting(meeting) if meeting.unmet.is_empty() => Some(Wait::Meeting),
            Phase::Meeting(_) => Some(Wait::LastWords),
            Phase::Working(_) => Some(Wait::Task),
        }
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
            Event::Arrived(id) => self.arrived(id, false, &mut out),
            Event::Returned(id) => self.arrived(id, true, &mut out),
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
                if let Phase::Meeting(meeting) = &mut self.phase {
                    meeting.epoch = Some(number);
                    self.look_at_meeting(&mut out);
                }
            }
            Event::Numbered(Err(reason)) => self.finish(Outcome::Cannot(reason), &mut out),
            Event::Met(id, met) => self.met(id, met, &mut out),
            Event::Answered(id, answer) => self.answered(id, answer, &mut out),
            Event::Expected(count) => {
                self.expected = count;
                self.look_at_counts(&mut out);
            }
            Event::Found(id, occupation) => {
                if let Some(late) = &mut self.late {
                    late.found.insert(id, occupation);
                }
            }
            Event::Overdue(stage) if stage == self.stage => self.overdue(&mut out),
            Event::Overdue(_) => {}
        }
        out
    }

    fn enter(&mut self, phase: Phase) {
        self.stage += 1;
        self.phase = phase;
    }

    fn arrived(&mut self, id: ReplicaId, is_on_trial: bool, out: &mut Vec<Effect>) {
        let holds = false;
        self.present.insert(id, Present { holds, is_on_trial });
        // Where members keep shares all arrive anew when a step has fallen apart.
        if !self.keep_shares {
            self.repeats = 0;
        }
        match self.phase {
            Phase::Starving => self.gather(out),
            Phase::Counting(_) => out.push(Effect::Count(vec![id])),
            Phase::Resting | Phase::Meeting(_) | Phase::Working(_) => {}
        }
    }

    fn lost(&mut self, id: ReplicaId, out: &mut Vec<Effect>) {
        let holders = self.present.values().filter(|p| p.holds).count();
        let Some(present) = self.present.remove(&id) else {
            return;
        };
        self.evidence.forget(id);
        self.is_share_lost |= self.keep_shares && present.holds && holders > 1;
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
            Phase::Meeting(meeting) => meeting.ranks.contains(&id),
            // An errand of another member goes on.
            Phase::Working(waiting) => {
                waiting.contains(&id) || (was_member && self.task != Some(Task::Errand))
            }
        };
        if is_needed {
            self.gather(out);
        }
    }

    /// The others go on without it.
    fn leave_out(&mut self, id: ReplicaId, cause: Cause, out: &mut Vec<Effect>) {
        let Some(present) = self.present.remove(&id) else {
            return;
        };
        self.is_share_lost |= self.keep_shares && present.holds;
        self.evidence.forget(id);
        if let Phase::Counting(counted) = &mut self.phase {
            counted.remove(&id);
        }
        out.push(Effect::Abandon(vec![id]));
        out.push(Effect::LeaveOut(id, cause));
    }

    /// Nobody is known to be at fault: those go that were left out before, or else the later half.
    fn halve(&mut self, ranks: &[ReplicaId], reason: &str, out: &mut Vec<Effect>) {
        let tried = self.on_trial(ranks);
        let go = match tried.is_empty() || tried.len() == ranks.len() {
            true => ranks[ranks.len().div_ceil(2)..].to_vec(),
            false => tried.into_iter().collect(),
        };
        for id in go {
            self.leave_out(id, Cause::Stalled(reason.to_owned()), out);
        }
    }

    fn on_trial(&self, ranks: &[ReplicaId]) -> BTreeSet<ReplicaId> {
        let is_on_trial = |id: &ReplicaId| self.present.get(id).is_some_and(|p| p.is_on_trial);
        ranks.iter().copied().filter(is_on_trial).collect()
    }

    /// Number of members that a group may have now: of those on trial one.
    fn able(&self) -> usize {
        let on_trial = self.present.values().filter(|p| p.is_on_trial).count();
        self.present.len() - on_trial + on_trial.min(1)
    }

    /// Begins the task, or has a group meet first.
    fn begin(&mut self, out: &mut Vec<Effect>) {
        let is_full = self.ranks.len() >= self.able().min(self.most)
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
        let were_members = self.abandon(out);
        self.must_reopen |= self.keep_shares && (were_members || self.is_share_lost);
        if self.must_reopen && self.late.is_none() {
            return self.reopen(out);
        }
        self.enter(Phase::Counting(BTreeMap::new()));
        if !self.present.is_empty() {
            out.push(Effect::Count(self.present.keys().copied().collect()));
        }
        self.look_at_counts(out);
    }

    /// RG-2: whether there were members.
    fn abandon(&mut self, out: &mut Vec<Effect>) -> bool {
        let members = self.present.iter_mut().filter(|(_, p)| p.holds);
        let members: Vec<ReplicaId> = members
            .map(|(id, present)| {
                present.holds = false;
                *id
            })
            .collect();
        let were_members = !members.is_empty();
        if were_members {
            out.push(Effect::Abandon(members));
        }
        were_members
    }

    /// RG-7.
    fn reopen(&mut self, out: &mut Vec<Effect>) {
        self.may_reopen = false;
        self.is_share_lost = false;
        self.must_reopen = false;
        self.present.clear();
        self.enter(Phase::Starving);
        out.push(Effect::Reopen);
    }

    /// Once all are counted, the furthest lead (RG-3), if they are far enough (RG-5).
    fn look_at_counts(&mut self, out: &mut Vec<Effect>) {
        let Phase::Counting(counted) = &self.phase else {
            return;
        };
        if !self.present.keys().all(|id| counted.contains_key(id)) {
            return;
        }
        self.look_for_the_slow(out);
        if self.must_reopen {
            return self.reopen(out);
        }
        let Phase::Counting(counted) = &self.phase else {
            return;
        };
        let awaited = match self.keep_shares && !self.present.is_empty() {
            true => self.expected.min(self.most),
            false => 0,
        };
        if counted.len() < awaited {
            return;
        }
        let mut ranks: Vec<ReplicaId> = self.present.keys().copied().collect();
        ranks.sort_by_key(|id| (std::cmp::Reverse(counted[id]), *id));
        let furthest = ranks.first().map(|id| counted[id]);
        if furthest.is_none_or(|progress| progress.epoch < self.newest) {
            self.enter(Phase::Starving);
            out.push(Effect::Starved);
            return;
        }
        let second = ranks.get(1).map(|id| counted[id]);
        let is_leader_ahead = second.is_none_or(|second| Some(second) < furthest);
        self.form(ranks, is_leader_ahead, out);
    }

    /// Has them meet, the first one leading.
    fn form(&mut self, mut ranks: Vec<ReplicaId>, is_leader_ahead: bool, out: &mut Vec<Effect>) {
        // RG-6: of those on trial one at a time, so that it is known which of them is at fault.
        let tried = self.on_trial(&ranks[1..]);
        let one = tried.first().copied();
        let leader = ranks[0];
        ranks.retain(|id| *id == leader || !tried.contains(id) || Some(*id) == one);
        ranks.truncate(self.most);
        let ranks = self.evidence.order(ranks);
        for id in &ranks {
            if let Some(present) = self.present.get_mut(id) {
                present.holds = true;
            }
        }
        out.push(Effect::Form(ranks.clone()));
        self.enter(Phase::Meeting(Meeting {
            waiting: ranks.iter().copied().collect(),
            ranks,
            epoch: None,
            steps: 0,
            unmet: BTreeMap::new(),
            is_leader_ahead,
        }));
    }

    fn met(&mut self, id: ReplicaId, met: Result<u64, Unmet>, out: &mut Vec<Effect>) {
        let Phase::Meeting(meeting) = &mut self.phase else {
            return;
        };
        if !meeting.waiting.remove(&id) {
            return;
        }
        match met {
            Ok(made) => meeting.steps = made,
            Err(unmet) => {
                // The others have some time to say whom they miss.
                if meeting.unmet.is_empty() {
                    self.stage += 1;
                }
                meeting.unmet.insert(id, unmet);
            }
        }
        self.look_at_meeting(out);
    }

    fn look_at_meeting(&mut self, out: &mut Vec<Effect>) {
        let Phase::Meeting(meeting) = &mut self.phase else {
            return;
        };
        if !meeting.waiting.is_empty() {
            return;
        }
        if !meeting.unmet.is_empty() {
            return self.not_met(out);
        }
        let Some(epoch) = meeting.epoch else { return };
        let steps = meeting.steps;
        self.newest = epoch;
        self.ranks = std::mem::take(&mut meeting.ranks);
        self.failed_meetings = 0;
        self.evidence.stands();
        self.enter(Phase::Resting);
        self.stands(steps, out);
    }

    /// RG-6.
    fn not_met(&mut self, out: &mut Vec<Effect>) {
        let Phase::Meeting(meeting) = std::mem::replace(&mut self.phase, Phase::Resting) else {
            return;
        };
        self.failed_meetings += 1;
        let failed = Failed {
            ranks: &meeting.ranks,
            unmet: &meeting.unmet,
            silent: &meeting.waiting,
            on_trial: &self.on_trial(&meeting.ranks),
            is_leader_ahead: meeting.is_leader_ahead,
            times: self.failed_meetings,
        };
        let is_named = self.evidence.hear(&failed);
        let mut culprits = self.evidence.culprits(&failed);
        let reason = meeting.reason();
        if meeting.ranks.len() == 1 && !meeting.waiting.is_empty() {
            // Alone it has nobody to wait for.
            culprits.clone_from(&meeting.ranks);
        } else if meeting.ranks.len() == 1 && self.failed_meetings >= MEETINGS {
            self.failed_meetings = 0;
            return self.finish(Outcome::Cannot(reason), out);
        }
        self.keep_what_is_whole(&meeting, &culprits, out);
        let is_tried = !self.on_trial(&meeting.ranks).is_empty();
        let is_blind = !is_named && (is_tried || self.failed_meetings >= BLIND_MEETINGS);
        if !culprits.is_empty() {
            self.failed_meetings = 0;
            for id in culprits {
                let cause = match meeting.waiting.contains(&id) {
                    true => Cause::Hung,
                    false => Cause::Unmet(meeting.against(id)),
                };
                self.leave_out(id, cause, out);
            }
        } else if is_blind && meeting.ranks.len() > 1 {
            self.failed_meetings = 0;
            self.halve(&meeting.ranks, &reason, out);
        }
        if self.keep_shares
            && meeting
                .waiting
                .iter()
                .any(|id| self.present.contains_key(id))
        {
            // Who hangs is to be known before all are opened anew.
            self.late.get_or_insert_default();
        }
        self.gather(out);
    }

    /// RG-7: where nobody has taken up a share, nobody is opened anew.
    fn keep_what_is_whole(
        &mut self,
        meeting: &Meeting,
        culprits: &[ReplicaId],
        out: &mut Vec<Effect>,
    ) {
        let is_whole = |id: &ReplicaId| {
            culprits.contains(id) || meeting.unmet.get(id).is_some_and(|unmet| unmet.is_whole)
        };
        if self.keep_shares && meeting.ranks.iter().all(is_whole) {
            self.abandon(out);
        }
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
        self.enter(Phase::Working(whom.iter().copied().collect()));
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
                    let have_come = self.able() > self.ranks.len();
                    self.may_reopen |= have_come && self.task == Some(Task::Together);
                    let steps = self.at.unwrap_or(0) + made;
                    self.finish(Outcome::Done(steps), out);
                }
            }
            Answer::Apart(reason) => {
                self.repeats += 1;
                if self.ranks.len() > 1 {
                    let ranks = self.ranks.clone();
                    self.look_for_stalls(&ranks, &reason, out);
                } else if self.repeats >= REPEATS {
                    return self.finish(Outcome::Cannot(reason), out);
                }
                self.gather(out);
            }
            Answer::Failed => self.finish(Outcome::Failed(id), out),
        }
    }

    fn look_for_stalls(&mut self, ranks: &[ReplicaId], reason: &str, out: &mut Vec<Effect>) {
        if self.repeats >= STALLS {
            self.repeats = 0;
            self.halve(ranks, reason, out);
        }
    }

    /// RG-8: what is waited for takes too long.
    fn overdue(&mut self, out: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Resting | Phase::Starving => {}
            Phase::Counting(counted) => {
                let is_silent = |id: &ReplicaId| !counted.contains_key(id);
                let present = self.present.keys().copied();
                let silent: Vec<ReplicaId> = present.filter(is_silent).collect();
                if !silent.is_empty() {
                    // They are why it took so long.
                    self.late = None;
                }
                // Whoever is being opened meanwhile is waited for as long again.
                self.stage += 1;
                for id in silent {
                    self.leave_out(id, Cause::Hung, out);
                }
                self.look_at_counts(out);
            }
            Phase::Meeting(_) => self.not_met(out),
            Phase::Working(waiting) => {
                let are_all = self.task != Some(Task::Errand);
                let is_member =
                    |id: &ReplicaId| waiting.contains(id) || (are_all && self.ranks.contains(id));
                let members = self.present.keys().copied().filter(is_member).collect();
                self.late = Some(Late {
                    members,
                    found: BTreeMap::new(),
                });
                self.gather(out);
            }
        }
    }

    /// RG-8: all say how far they are, so none hangs. Those that were computing while others waited
    /// for them are left out, unless it was most of them.
    fn look_for_the_slow(&mut self, out: &mut Vec<Effect>) {
        let Some(Late { members, found }) = self.late.take() else {
            return;
        };
        let are = |occupation| -> Vec<ReplicaId> {
            let found = found.iter().filter(|(_, found)| **found == occupation);
            found.map(|(id, _)| *id).collect()
        };
        let (slow, waiting) = (are(Occupation::Computing), are(Occupation::Waiting));
        if !slow.is_empty() && slow.len() <= waiting.len() {
            for id in slow {
                self.leave_out(id, Cause::Slow, out);
            }
        } else if members.len() > 1 {
            let is_tried = !self.on_trial(&members).is_empty();
            self.repeats += if is_tried { STALLS } else { 2 };
            self.look_for_stalls(&members, "a task took too long", out);
        }
    }

    /// Those of the group are of use.
    fn end_trials(&mut self) {
        for id in &self.ranks {
            if let Some(present) = self.present.get_mut(id) {
                present.is_on_trial = false;
            }
        }
    }

    fn finish(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.round += 1;
        let task = self.task.take();
        self.enter(Phase::Resting);
        match &outcome {
            Outcome::Done(steps) => {
                self.at = Some(*steps);
                self.repeats = 0;
                if task == Some(Task::Step) {
                    self.end_trials();
                }
            }
            Outcome::Behind => self.at = None,
            // Some may be in the middle of it: the next task finds them in no group.
            Outcome::Failed(_) | Outcome::Cannot(_) => self.ranks.clear(),
        }
        out.push(Effect::Finish(outcome));
    }
}

impl Meeting {
    /// The first reason that is given.
    fn reason(&self) -> String {
        let given = self.unmet.values().next();
        given.map_or("the members did not meet in time".to_owned(), |unmet| {
            unmet.reason.clone()
        })
    }

    /// What is said against a member: by itself, by its neighbours, or by anybody.
    fn against(&self, id: ReplicaId) -> String {
        let own = self.unmet.get(&id).filter(|unmet| unmet.is_own_fault);
        let count = self.ranks.len();
        let rank = self
            .ranks
            .iter()
            .position(|other| *other == id)
            .unwrap_or(0);
        let previous = self.unmet.get(&self.ranks[(rank + count - 1) % count]);
        let next = self.unmet.get(&self.ranks[(rank + 1) % count]);
        let said = own
            .or(previous.filter(|unmet| unmet.misses_next))
            .or(next.filter(|unmet| unmet.misses_previous));
        said.map_or_else(|| self.reason(), |unmet| unmet.reason.clone())
    }
}
