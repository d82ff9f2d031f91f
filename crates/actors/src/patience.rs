//! Waiting for a service that is away: callers of judges wait here until it is back, or until the
//! patience that the run has is used up.

use control::outage::{Attempt, Failure, Outage, OutageConfig, Turn};
use futures::future::BoxFuture;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Pause before a service that is away is tried again first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Time between two reminders in the log that the service is still away.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// Failures of a call, while others are answered, that make it the call's own fault.
const STRIKES: u32 = 3;

/// Sign that an error gives of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It is there: it answered, if with a refusal.
    There,
    /// It may be away.
    Away {
        /// Whether it says that it has too much to do, which no call is to blame for.
        is_overload: bool,
        /// Whether the call got there.
        is_reached: bool,
        /// The pause that it asked for, in milliseconds.
        asked_ms: Option<u64>,
    },
    /// Nothing.
    Nothing,
}

/// Why a call had no answer.
#[derive(Debug)]
pub(crate) enum Unanswered<E> {
    /// The call's own error.
    Error(E),
    /// The call failed again and again while others were answered.
    Stubborn(u32, E),
    /// The service was away for too long; the last error.
    GaveUp(Duration, String),
}

/// State that callers of a service share.
pub(crate) struct Patience {
    service: &'static str,
    /// None: errors are given to the caller at once.
    patience: Duration,
    origin: Instant,
    outage: Mutex<Outage>,
    /// Notified of every call that ended.
    ended: Notify,
    /// Callers that wait for an answer.
    callers: AtomicUsize,
    known: Mutex<Known>,
}

/// An outage as far as the log knows it.
struct Known {
    reason: String,
    told: Instant,
}

impl Patience {
    /// Of callers that wait so long for a service that is away.
    pub(crate) fn new(service: &'static str, patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            service,
            patience,
            origin: now,
            outage: Mutex::new(Outage::new(OutageConfig {
                patience_ms: patience.as_millis() as u64,
                first_pause_ms: FIRST_PAUSE.as_millis() as u64,
                longest_pause_ms: LONGEST_PAUSE.as_millis() as u64,
            })),
            ended: Notify::new(),
            callers: AtomicUsize::new(0),
            known: Mutex::new(Known {
                reason: String::new(),
                told: now,
            }),
        }
    }

    /// Whether the service is known to be away.
    pub(crate) fn is_away(&self) -> bool {
        self.outage().is_away()
    }

    /// The answer to a call, which is made again while the service is away. `call` says whether the
    /// service was asked for its answer.
    pub(crate) async fn ask<'a, T, E: Display>(
        &self,
        call: impl Fn() -> BoxFuture<'a, Result<(T, bool), E>>,
        sign: impl Fn(&E) -> Sign,
    ) -> Result<T, Unanswered<E>> {
        if self.patience.is_zero() {
            let answer = call().await.map_err(Unanswered::Error);
            return answer.map(|(answer, _)| answer);
        }
        let _caller = Caller::of(&self.callers);
        let began = Instant::now();
        let (mut strikes, mut pauses) = (0, 0);
        loop {
            let pending = self.turn().await?;
            let error = match call().await {
                Ok((answer, is_fresh)) => {
                    if is_fresh {
                        pending.answered();
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let (is_overload, is_reached, asked_ms) = match sign(&error) {
                Sign::Away {
                    is_overload,
                    is_reached,
                    asked_ms,
                } => (is_overload, is_reached, asked_ms),
                Sign::There => {
                    pending.answered();
                    return Err(Unanswered::Error(error));
                }
                Sign::Nothing => return Err(Unanswered::Error(error)),
            };
            let is_alone = pending.failed(asked_ms, &error) == Failure::Alone;
            // A call that failed while others were answered, and is the last one left, gets no other
            // chance to be told from an outage.
            let is_last = strikes > 0 && is_reached && self.callers.load(Ordering::Relaxed) == 1;
            strikes += u32::from(!is_overload && (is_alone || is_last));
            if strikes >= STRIKES {
                return Err(Unanswered::Stubborn(strikes, error));
            }
            if is_alone {
                if began.elapsed() >= self.patience {
                    return Err(Unanswered::GaveUp(began.elapsed(), error.to_string()));
                }
                let pause = FIRST_PAUSE.saturating_mul(1 << pauses).min(LONGEST_PAUSE);
                pauses = (pauses + 1).min(16);
                let asked = Duration::from_millis(asked_ms.unwrap_or_default());
                tokio::time::sleep(pause.max(asked).min(self.patience)).await;
            }
        }
    }

    /// Waits until a call may be made.
    async fn turn<E>(&self) -> Result<Pending<'_>, Unanswered<E>> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let turn = self.outage().turn(self.now_ms());
            match turn {
                Turn::Go(attempt) => {
                    let attempt = Some(attempt);
                    let patience = self;
                    return Ok(Pending { patience, attempt });
                }
                Turn::Wait { until_ms } => {
                    let until = self.origin + Duration::from_millis(until_ms);
                    let _ = tokio::time::timeout_at(until, ended).await;
                }
                Turn::GiveUp { away_ms } => {
                    let away = Duration::from_millis(away_ms);
                    let reason = self.known().reason.clone();
                    return Err(Unanswered::GaveUp(away, reason));
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Says what has changed, and now and then that nothing has.
    fn tell(&self, is_news: bool, reason: String) {
        let service = self.service;
        let mut known = self.known();
        known.reason = reason;
        let reason = &known.reason;
        let patience = humantime::format_duration(self.patience);
        if is_news {
            tracing::warn!(
                "The {service} is away: {reason}. What needs it waits until it is back, {patience} at \
                 most; nothing is lost meanwhile."
            );
        } else if known.told.elapsed() >= REMIND_EVERY {
            tracing::warn!("The {service} is still away: {reason}.");
        } else {
            return;
        }
        known.told = Instant::now();
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().expect("no holder panics")
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder panics")
    }
}

/// Counts a caller for as long as it waits.
struct Caller<'a>(&'a AtomicUsize);

impl<'a> Caller<'a> {
    fn of(callers: &'a AtomicUsize) -> Self {
        callers.fetch_add(1, Ordering::Relaxed);
        Self(callers)
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call under way. One that is dropped says nothing of the service.
struct Pending<'a> {
    patience: &'a Patience,
    attempt: Option<Attempt>,
}

impl Pending<'_> {
    fn answered(mut self) {
        self.attempt = None;
        let patience = self.patience;
        let away_ms = patience.outage().answered(patience.now_ms());
        if let Some(away_ms) = away_ms {
            let away = humantime::format_duration(Duration::from_secs(away_ms / 1000));
            let service = patience.service;
            tracing::warn!("The {service} is back after {away}; the work goes on.");
        }
    }

    fn failed(mut self, asked_ms: Option<u64>, error: &impl Display) -> Failure {
        let patience = self.patience;
        let attempt = self.attempt.take().expect("it is taken once");
        let now_ms = patience.now_ms();
        let failure = patience.outage().failed(attempt, now_ms, asked_ms);
        if let Failure::Away { is_news } = failure {
            patience.tell(is_news, error.to_string());
        }
        failure
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt {
            self.patience.outage().dropped(attempt);
        }
        self.patience.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::AtomicU32;
    use tokio::time::sleep;

    const HOUR: Duration = Duration::from_secs(3600);

    fn away(_: &String) -> Sign {
        Sign::Away {
            is_overload: false,
            is_reached: true,
            asked_ms: None,
        }
    }

    /// A service that is away until a moment, and counts calls.
    struct Service {
        origin: Instant,
        until: Duration,
        calls: AtomicU32,
    }

    impl Service {
        fn until(until: Duration) -> Self {
            Self {
                origin: Instant::now(),
                until,
                calls: AtomicU32::new(0),
            }
        }

        async fn call(&self) -> Result<(u32, bool), String> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(3)).await;
            match self.origin.elapsed() < self.until {
                true => Err("refused".to_owned()),
                false => Ok((7, true)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_wait_for_a_service_that_comes_back_and_few_try() {
        let patience = Patience::new("judge", 2 * HOUR);
        let service = Service::until(Duration::from_secs(600));
        let start = Instant::now();
        let calls = (0..50).map(|_| patience.ask(|| service.call().boxed(), away));
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(7))));
        let took = start.elapsed().as_secs();
        assert!((600..660).contains(&took), "{took} s");
        let calls = service.calls.load(Ordering::Relaxed);
        assert!(
            (100..130).contains(&calls),
            "{calls} calls: 50 twice, and the tries"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn patience_has_an_end() {
        let patience = Patience::new("judge", HOUR);
        let service = Service::until(Duration::MAX);
        let start = Instant::now();
        let calls = (0..5).map(|_| patience.ask(|| service.call().boxed(), away));
        for answer in futures::future::join_all(calls).await {
            let Err(Unanswered::GaveUp(away, reason)) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(reason, "refused");
            assert!(
                (HOUR..HOUR + Duration::from_secs(5)).contains(&away),
                "{away:?}"
            );
        }
        assert!(start.elapsed() < HOUR + Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_errors_come_at_once() {
        let patience = Patience::new("judge", Duration::ZERO);
        let service = Service::until(Duration::from_secs(5));
        let first = patience.ask(|| service.call().boxed(), away).await;
        assert!(matches!(first, Err(Unanswered::Error(_))), "{first:?}");
        let second = patience.ask(|| service.call().boxed(), away).await;
        assert!(matches!(second, Ok(7)), "{second:?}");
        assert_eq!(service.calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_while_others_are_answered_is_at_fault_itself() {
        let patience = Patience::new("judge", HOUR);
        let poison = || async {
            sleep(Duration::from_secs(3)).await;
            Err::<((), bool), _>("it died".to_owned())
        };
        let poison = patience.ask(|| poison().boxed(), away);
        let others = async {
            for _ in 0..100 {
                let fine = || async {
                    sleep(Duration::from_secs(1)).await;
                    Ok(((), true))
                };
                patience.ask(|| fine().boxed(), away).await.unwrap();
            }
        };
        let (poison, ()) = tokio::join!(poison, others);
        assert!(
            matches!(poison, Err(Unanswered::Stubborn(STRIKES, _))),
            "{poison:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_goes_on_failing_once_it_is_the_last_is_no_outage() {
        let patience = Patience::new("judge", HOUR);
        let poison = || async {
            sleep(Duration::from_secs(30)).await;
            Err::<((), bool), _>("no reply in time".to_owned())
        };
        let fine = || async {
            sleep(Duration::from_secs(1)).await;
            Ok(((), true))
        };
        let poison = patience.ask(|| poison().boxed(), away);
        let fine = patience.ask(|| fine().boxed(), away);
        let start = Instant::now();
        let (poison, fine) = tokio::join!(poison, fine);
        assert!(
            matches!(poison, Err(Unanswered::Stubborn(STRIKES, _))),
            "{poison:?}"
        );
        assert!(fine.is_ok() && start.elapsed() < Duration::from_secs(120));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_was_asked_for_end_no_outage() {
        let patience = Patience::new("judge", HOUR);
        let service = Service::until(Duration::from_secs(600));
        let asked = patience.ask(|| service.call().boxed(), away);
        let known = async {
            sleep(Duration::from_secs(30)).await;
            let known = || async { Ok(((), false)) };
            patience.ask(|| known().boxed(), away).await.unwrap();
            assert!(patience.is_away());
        };
        let (asked, ()) = tokio::join!(asked, known);
        assert!(asked.is_ok());
    }
}
