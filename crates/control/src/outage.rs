//! Whether a service can be asked: when many callers ask it, a service that is away is tried by one of
//! them at a time.
//!
//! - **OU-1 (one tries).** While the service is away, at most one call is under way that began since;
//!   the pauses between tries double up to a limit, and are no shorter than the service asked for.
//! - **OU-2 (patience).** Callers are sent away only once the service has been away for the whole of
//!   the patience, without an answer in between. Any answer ends an outage.
//! - **OU-3 (no outage of one).** A call that fails although others that ended after its beginning
//!   were answered says nothing of the service.
//!
//! Not promised: which caller tries next.

/// Patience of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageConfig {
    /// Time that the service may be away, in milliseconds.
    pub patience_ms: u64,
    /// Pause before it is tried again first, in milliseconds.
    pub first_pause_ms: u64,
    /// Longest pause between two tries, in milliseconds.
    pub longest_pause_ms: u64,
}

/// Instruction to a caller.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Ask, and say how it ended.
    Go(Attempt),
    /// Come again at this time, or as soon as another call has ended.
    Wait {
        /// On the clock of the `now_ms` arguments.
        until_ms: u64,
    },
    /// The patience is used up.
    GiveUp {
        /// Time that the service has been away, in milliseconds.
        away_ms: u64,
    },
}

/// A call under way. It is to end as answered, failed or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Answers that there had been when it began.
    answers: u64,
    /// Whether it tries a service that is away.
    is_probe: bool,
}

/// Meaning of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The service is away.
    Away {
        /// Whether that is news.
        is_news: bool,
    },
    /// Others were answered meanwhile: the service is there.
    Alone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Away {
        since_ms: u64,
        /// When it is tried next.
        next_ms: u64,
        tries: u32,
        is_tried: bool,
    },
}

/// Keeps account of one service. See the module's invariants.
#[derive(Debug)]
pub struct Outage {
    config: OutageConfig,
    state: State,
    answers: u64,
}

impl Outage {
    /// A service that is taken to be there.
    pub fn new(config: OutageConfig) -> Self {
        Self {
            config,
            state: State::Up,
            answers: 0,
        }
    }

    /// Whether the service is known to be away.
    pub fn is_away(&self) -> bool {
        self.state != State::Up
    }

    /// Instruction to a caller at this time.
    pub fn turn(&mut self, now_ms: u64) -> Turn {
        let answers = self.answers;
        let State::Away {
            since_ms,
            next_ms,
            is_tried,
            ..
        } = &mut self.state
        else {
            let is_probe = false;
            return Turn::Go(Attempt { answers, is_probe });
        };
        let end_ms = since_ms.saturating_add(self.config.patience_ms);
        if now_ms >= end_ms {
            let away_ms = now_ms - *since_ms;
            return Turn::GiveUp { away_ms };
        }
        if *is_tried || now_ms < *next_ms {
            // The last moment before the end is used.
            let until_ms = if *is_tried {
                end_ms
            } else {
                end_ms.min(*next_ms)
            };
            return Turn::Wait { until_ms };
        }
        *is_tried = true;
        let is_probe = true;
        Turn::Go(Attempt { answers, is_probe })
    }

    /// A call was answered, be it by a refusal of what it asked for. Returns the time that the
    /// service had been away, in milliseconds, if it had.
    pub fn answered(&mut self, now_ms: u64) -> Option<u64> {
        self.answers += 1;
        match std::mem::replace(&mut self.state, State::Up) {
            State::Up => None,
            State::Away { since_ms, .. } => Some(now_ms.saturating_sub(since_ms)),
        }
    }

    /// A call was not answered. `asked_ms` is the pause that the service asked for.
    pub fn failed(&mut self, attempt: Attempt, now_ms: u64, asked_ms: Option<u64>) -> Failure {
        if self.answers != attempt.answers {
            return Failure::Alone;
        }
        let is_news = self.state == State::Up;
        let (since_ms, tries) = match self.state {
            State::Up => (now_ms, 0),
            // One that began before the outage tells nothing new.
            State::Away { .. } if !attempt.is_probe => return Failure::Away { is_news },
            State::Away {
                since_ms, tries, ..
            } => (since_ms, tries + 1),
        };
        let doubled = 1_u64.checked_shl(tries).unwrap_or(u64::MAX);
        let pause = self.config.first_pause_ms.saturating_mul(doubled);
        let pause = pause.min(self.config.longest_pause_ms);
        self.state = State::Away {
            since_ms,
            next_ms: now_ms.saturating_add(pause.max(asked_ms.unwrap_or_default())),
            tries,
            is_tried: false,
        };
        Failure::Away { is_news }
    }

    /// A call was given up by its caller.
    pub fn dropped(&mut self, attempt: Attempt) {
        if let State::Away { is_tried, .. } = &mut self.state
            && attempt.is_probe
            && self.answers == attempt.answers
        {
            *is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage() -> Outage {
        Outage::new(OutageConfig {
            patience_ms: 60_000,
            first_pause_ms: 1000,
            longest_pause_ms: 8000,
        })
    }

    fn go(outage: &mut Outage, now_ms: u64) -> Attempt {
        match outage.turn(now_ms) {
            Turn::Go(attempt) => attempt,
            other => panic!("{other:?} at {now_ms}"),
        }
    }

    const NEWS: Failure = Failure::Away { is_news: true };
    const KNOWN: Failure = Failure::Away { is_news: false };

    #[test]
    fn ou_1_one_at_a_time_tries_a_service_that_is_away() {
        let mut outage = outage();
        let calls: Vec<Attempt> = (0..5).map(|_| go(&mut outage, 0)).collect();
        assert_eq!(outage.failed(calls[0], 100, None), NEWS);
        for call in &calls[1..] {
            assert_eq!(outage.failed(*call, 200, None), KNOWN);
        }
        assert_eq!(outage.turn(1099), Turn::Wait { until_ms: 1100 });
        // Pauses of 1, 2, 4, 8, 8 s.
        let mut now = 1100;
        for pause in [2000, 4000, 8000, 8000] {
            let call = go(&mut outage, now);
            assert_eq!(outage.turn(now), Turn::Wait { until_ms: 60_100 });
            assert_eq!(outage.failed(call, now + 10, None), KNOWN);
            now += 10 + pause;
            assert_eq!(outage.turn(now - 1), Turn::Wait { until_ms: now });
        }
        let call = go(&mut outage, now);
        assert_eq!(outage.failed(call, now, Some(20_000)), KNOWN);
        assert_eq!(
            outage.turn(now),
            Turn::Wait {
                until_ms: now + 20_000
            }
        );
    }

    #[test]
    fn ou_2_patience_ends_an_outage_and_any_answer_does() {
        let mut outage = outage();
        let (early, call) = (go(&mut outage, 0), go(&mut outage, 0));
        assert_eq!(outage.failed(call, 500, None), NEWS);
        let probe = go(&mut outage, 50_000);
        assert_eq!(outage.failed(probe, 59_500, None), KNOWN);
        assert_eq!(outage.turn(60_000), Turn::Wait { until_ms: 60_500 });
        assert_eq!(outage.turn(60_500), Turn::GiveUp { away_ms: 60_000 });
        // A call that had begun before all that is answered after all.
        assert_eq!(outage.answered(61_000), Some(60_500));
        assert!(!outage.is_away());
        assert_eq!(outage.failed(early, 61_000, None), Failure::Alone);
        let call = go(&mut outage, 61_000);
        assert_eq!(outage.failed(call, 61_500, None), NEWS);
        assert!(outage.is_away());
        assert_eq!(outage.answered(62_000), Some(500));
    }

    #[test]
    fn ou_3_a_call_that_fails_alone_is_no_outage() {
        let mut outage = outage();
        let (bad, good) = (go(&mut outage, 0), go(&mut outage, 0));
        assert_eq!(outage.answered(10), None);
        assert_eq!(outage.failed(bad, 20, None), Failure::Alone);
        assert!(!outage.is_away());
        assert_eq!(outage.failed(good, 20, None), Failure::Alone);
    }

    #[test]
    fn a_try_that_is_given_up_leaves_its_turn_to_another() {
        let mut outage = outage();
        let call = go(&mut outage, 0);
        assert_eq!(outage.failed(call, 0, None), NEWS);
        let probe = go(&mut outage, 1000);
        assert!(matches!(outage.turn(1000), Turn::Wait { .. }));
        outage.dropped(probe);
        let _next = go(&mut outage, 1000);
        outage.dropped(call);
        assert!(
            matches!(outage.turn(1000), Turn::Wait { .. }),
            "it was no try"
        );
    }
}
