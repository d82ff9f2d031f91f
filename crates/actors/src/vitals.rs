//! The health and the pace of the members of a pool: who is left out, how long a call may take, how
//! work is shared, and how long a role without a working member is waited for.
//!
//! Decisions are those of `control`: `quarantine`, `pace`, `shares`, `reminder`.

use crate::pool::{Home, Who};
use control::pace::{Pace, PaceConfig};
use control::quarantine::{Admission, Quarantine, QuarantineConfig, Sentence, Turn};
use control::reminder::Reminder;
use control::shares::{Dealt, Shares, Took};
use proto::Role;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The first quarantine, long enough for an engine to be opened again.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// The longest quarantine: what a machine that was mended waits at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Work without a quarantine after which a machine counts as any other.
const CLEAN: Duration = Duration::from_secs(1800);

/// Bound on a call of a sampler before any was measured. Generous: a CPU is slow.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(3600);

/// Added to the bound by pace: a first call warms caches up, and others have their turn before.
const LIMIT_FLOOR: Duration = Duration::from_secs(120);

/// Times as long as the slowest sampler that is well may a call take.
const LIMIT_FACTOR: u32 = 3;

/// The longest bound on a call of a sampler.
pub(crate) const LONGEST_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Times as long as others took for new weights may a sampler take, beside what any work is given: the
/// path to it may be slower by as much.
const DELIVERY_FACTOR: u32 = 4;

/// More time for the first weights that a sampler takes: they come whole, and maybe to it alone.
const FIRST_DELIVERY: Duration = Duration::from_secs(600);

/// The longest bound on the delivery of weights, and the only one before any was measured.
pub(crate) const LONGEST_DELIVERY: Duration = Duration::from_secs(3600);

/// Member that is quarantined.
#[derive(Debug, Clone)]
pub(crate) struct Sick {
    pub role: Role,
    pub who: Who,
    pub sentence: Sentence,
    pub reason: String,
}

/// Told of members that are quarantined: they are to be cured.
pub(crate) type Infirmary = Box<dyn Fn(Sick) + Send + Sync>;

/// What a wait for a role without a working member comes to.
pub(crate) enum Look {
    /// Come again at this time.
    Again(Instant),
    /// The patience is used up: for how long nobody works, and the last reason.
    GiveUp(Duration, String),
}

/// See the module.
pub(crate) struct Vitals {
    role: Role,
    origin: Instant,
    /// Time that a role may have no working member; zero: for ever.
    patience: Duration,
    infirmary: Infirmary,
    state: Mutex<State>,
}

struct State {
    quarantine: Quarantine<Who>,
    pace: Pace<Who>,
    shares: Shares<Who>,
    /// Of new weights, by their bytes.
    deliveries: control::replicas::Pace,
    /// The most tokens that a call was to sample at most.
    longest_call: u32,
    /// Of the wait for a working member, while there is none.
    without: Option<Reminder>,
    /// Members of this process that come back.
    own_patients: BTreeSet<Who>,
    /// Why the last one was left out.
    reason: String,
}

impl Vitals {
    /// Of a role whose members are quarantined after so many failures in a row; 0: never.
    pub(crate) fn new(role: Role, failures: u32, patience: Duration, infirmary: Infirmary) -> Self {
        let ms = |span: Duration| span.as_millis() as u64;
        let quarantine = QuarantineConfig {
            failures,
            first_pause_ms: ms(FIRST_PAUSE),
            longest_pause_ms: ms(LONGEST_PAUSE),
            clean_ms: ms(CLEAN),
            // All judges may depend on one model, and all tools on one index.
            needs_witness: role != Role::Sampler,
        };
        let pace = PaceConfig {
            factor: LIMIT_FACTOR,
            floor_ms: ms(LIMIT_FLOOR),
            unknown_ms: ms(UNKNOWN_LIMIT),
            longest_ms: ms(LONGEST_LIMIT),
        };
        Self {
            role,
            origin: Instant::now(),
            patience,
            infirmary,
            state: Mutex::new(State {
                quarantine: Quarantine::new(quarantine),
                pace: Pace::new(pace),
                shares: Shares::default(),
                deliveries: control::replicas::Pace::default(),
                longest_call: 0,
                without: Some(Reminder::new(0)),
                own_patients: BTreeSet::new(),
                reason: String::new(),
            }),
        }
    }

    /// Of members that are never left out, and waited for without end.
    #[cfg(test)]
    pub(crate) fn off(role: Role) -> Self {
        Self::new(role, 0, Duration::ZERO, Box::new(|_| {}))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    fn at(&self, ms: u64) -> Instant {
        self.origin + Duration::from_millis(ms)
    }

    /// Whether members are left out at all.
    pub(crate) fn is_on(&self) -> bool {
        self.state().quarantine.is_on()
    }

    /// Tools and judges of this process share their engine: none of them is sick alone.
    fn is_watched(&self, who: &Who) -> bool {
        self.role == Role::Sampler || matches!(who, Who::Node(_))
    }

    /// A member is asked for something.
    pub(crate) fn began(&self, who: &Who) -> Turn {
        self.state().quarantine.began(who)
    }

    /// What it was asked for has ended, whichever way.
    pub(crate) fn ended(&self, who: &Who, turn: Turn) {
        self.state().quarantine.ended(who, turn);
    }

    /// A member did what it was asked; whether that was its trial.
    pub(crate) fn succeeded(&self, who: &Who, turn: Turn) -> bool {
        let now = self.now_ms();
        self.state().quarantine.succeeded(who, turn, now)
    }

    /// A member failed at what it was asked; a quarantine that begins with it.
    pub(crate) fn failed(&self, who: &Who, turn: Turn) -> Option<Sentence> {
        let now = self.now_ms();
        let is_watched = self.is_watched(who);
        is_watched
            .then(|| self.state().quarantine.failed(who, turn, now))
            .flatten()
    }

    /// A member gave no answer in time, or cannot be asked again as it is.
    pub(crate) fn broke(&self, who: &Who) -> Option<Sentence> {
        let now = self.now_ms();
        let is_watched = self.is_watched(who);
        is_watched
            .then(|| self.state().quarantine.hung(who, now))
            .flatten()
    }

    /// A member is left out: it is to be cured.
    pub(crate) fn commit(&self, who: Who, sentence: Sentence, reason: String) {
        let role = self.role;
        let (pause, times) = (Duration::from_millis(sentence.pause_ms), sentence.times);
        tracing::warn!(
            %role, worker = %who, reason, times, cure = ?sentence.remedy,
            "A worker is quarantined for {}.", humantime::format_duration(pause)
        );
        {
            let mut state = self.state();
            state.reason = format!("{who}: {reason}");
            state.pace.forget(&who);
            state.shares.forget(&who);
        }
        let sick = Sick {
            role,
            who,
            sentence,
            reason,
        };
        (self.infirmary)(sick);
    }

    /// Waits until a member may take part; whether it is on trial.
    pub(crate) async fn admit(&self, who: &Who) -> bool {
        loop {
            let now = self.now_ms();
            let admission = self.state().quarantine.enter(who, now);
            match admission {
                Admission::Full => return false,
                Admission::Trial => return true,
                Admission::Later { until_ms } => tokio::time::sleep_until(self.at(until_ms)).await,
            }
        }
    }

    /// Whether a member of this process is to come back, or has.
    pub(crate) fn keep_patient(&self, who: &Who, is_awaited: bool) {
        let mut state = self.state();
        match is_awaited && who.home() == Home::Here {
            true => drop(state.own_patients.insert(who.clone())),
            false => drop(state.own_patients.remove(who)),
        }
    }

    /// Whether members of this process are to come back.
    pub(crate) fn has_patients(&self) -> bool {
        !self.state().own_patients.is_empty()
    }

    /// Whether a member is in quarantine.
    pub(crate) fn is_out(&self, who: &Who) -> bool {
        self.state().quarantine.is_out(who)
    }

    /// Workers that are in quarantine or on trial.
    pub(crate) fn left_out(&self) -> Vec<Who> {
        self.state().quarantine.left_out().cloned().collect()
    }

    /// Why the last member was left out; nothing if none was.
    pub(crate) fn last_reason(&self) -> String {
        self.state().reason.clone()
    }

    /// Time limit of a call that samples up to `tokens` tokens, by what is known now.
    pub(crate) fn limit(&self, tokens: u32) -> Duration {
        Duration::from_millis(self.state().pace.limit_ms(tokens))
    }

    /// Whether no call has been answered yet.
    pub(crate) fn is_unmeasured(&self) -> bool {
        self.state().pace.slowest_ms().is_none()
    }

    /// A call is to sample up to `tokens` tokens.
    pub(crate) fn asks(&self, tokens: u32) {
        let mut state = self.state();
        state.longest_call = state.longest_call.max(tokens);
    }

    /// A call whose longest continuation has `tokens` took so long.
    pub(crate) fn took(&self, who: &Who, tokens: usize, took: Duration) {
        let ms = took.as_millis() as u64;
        self.state().pace.took(who, tokens, ms);
    }

    /// New weights of so many bytes were served so long after they were sent.
    pub(crate) fn delivered(&self, bytes: usize, took: Duration) {
        let ms = took.as_millis() as u64;
        self.state().deliveries.done(ms, bytes as u64);
    }

    /// Time limit of the delivery of so many bytes of weights, by what is known now. A sampler first ends
    /// what it is at: a copy of a request may take a slow one long, and nobody waits for it.
    pub(crate) fn delivery_limit(&self, bytes: usize, is_first: bool) -> Duration {
        let longest = LONGEST_DELIVERY.as_millis() as u64;
        let state = self.state();
        let limit = state.deliveries.limit_ms(bytes as u64, longest);
        let call = match state.longest_call {
            0 => 0,
            tokens => state.pace.limit_ms(tokens),
        };
        drop(state);
        let limit = Duration::from_millis(limit).saturating_mul(DELIVERY_FACTOR);
        let limit = limit.saturating_add(Duration::from_millis(call));
        let more = if is_first {
            FIRST_DELIVERY
        } else {
            Duration::ZERO
        };
        limit.saturating_add(more).min(LONGEST_DELIVERY)
    }

    /// Shares of a batch.
    pub(crate) fn deal(&self, workers: &[Who], count: usize) -> Dealt {
        self.state().shares.deal(workers, count)
    }

    /// Times of the shares of a batch.
    pub(crate) fn shared(&self, batch: &[Took<Who>]) {
        self.state().shares.took(batch);
    }

    /// Time of a probe.
    pub(crate) fn probed(&self, who: &Who, took: Duration) {
        self.state().shares.probed(who, took.as_millis() as u64);
    }

    /// A member has left.
    pub(crate) fn forget_pace(&self, who: &Who) {
        self.state().pace.forget(who);
    }

    /// Whether there is a member that works, trials aside.
    pub(crate) fn set_works(&self, works: bool) {
        let now = self.now_ms();
        let mut state = self.state();
        match works {
            true => state.without = None,
            false => drop(state.without.get_or_insert_with(|| Reminder::new(now))),
        }
    }

    /// Looks after a wait for a member that works: says that it lasts, and ends it.
    pub(crate) fn look(&self) -> Look {
        let now = self.now_ms();
        let mut state = self.state();
        let state = &mut *state;
        let Some(reminder) = &mut state.without else {
            // Members on trial alone are no reason to wait.
            return Look::Again(self.at(now + 1000));
        };
        let end_ms = match self.patience.as_millis() as u64 {
            0 => u64::MAX,
            patience => reminder.since_ms().saturating_add(patience),
        };
        if now >= end_ms {
            let waited = Duration::from_secs(now.saturating_sub(reminder.since_ms()) / 1000);
            let reason = match state.reason.as_str() {
                "" => "none came".to_owned(),
                reason => reason.to_owned(),
            };
            return Look::GiveUp(waited, reason);
        }
        if let Some(waited_ms) = reminder.due(now) {
            let waited = humantime::format_duration(Duration::from_secs(waited_ms / 1000));
            let (role, reason) = (self.role, &state.reason);
            tracing::warn!(%role, reason, "No {role} has worked for {waited}; the run waits for one.");
        }
        Look::Again(self.at(reminder.next_ms().min(end_ms)))
    }
}
