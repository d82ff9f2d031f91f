//! Verdicts that were given, by the prompt they answer: the same prompt is judged once.

use crate::JudgeError;
use crate::verdict::Ruling;
use proto::Verdict;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// SHA-256 of everything that a verdict follows from.
pub(super) type Key = [u8; 32];

/// Keeps the verdicts that were asked for last. Errors are not kept, but whoever asks the same while
/// it is being tried shares in the error.
#[derive(Debug)]
pub(super) struct Memo {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, (u64, Arc<Entry>)>,
    /// Keys by when they were asked for last.
    ages: BTreeMap<u64, Key>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Tries begun so far.
    tries: AtomicU64,
    /// Held during a try.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    verdict: Option<Verdict>,
    /// The number of the last try that failed, and why.
    failed: Option<(u64, JudgeError)>,
}

impl Memo {
    /// A memo of at most `capacity` verdicts.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            kept: Mutex::default(),
        }
    }

    /// The verdict of this key: the one that is known, or what `judge` says, which is asked by one
    /// caller at a time.
    pub async fn rule(
        &self,
        key: Key,
        judge: impl Future<Output = Result<Verdict, JudgeError>>,
    ) -> Result<Ruling, JudgeError> {
        let entry = self.entry(key);
        let under_way = entry.tries.load(Ordering::SeqCst);
        let mut waited = false;
        let mut state = match entry.state.try_lock() {
            Ok(state) => state,
            Err(_) => {
                waited = true;
                entry.state.lock().await
            }
        };
        if let Some(verdict) = state.verdict.clone() {
            let is_fresh = false;
            return Ok(Ruling { verdict, is_fresh });
        }
        if let Some((number, error)) = &state.failed
            && waited
            && *number >= under_way
        {
            return Err(error.clone());
        }
        let number = entry.tries.fetch_add(1, Ordering::SeqCst) + 1;
        match judge.await {
            Ok(verdict) => {
                state.verdict = Some(verdict.clone());
                let is_fresh = true;
                Ok(Ruling { verdict, is_fresh })
            }
            Err(error) => {
                state.failed = Some((number, error.clone()));
                Err(error)
            }
        }
    }

    #[cfg(test)]
    async fn verdict(
        &self,
        key: Key,
        judge: impl Future<Output = Result<Verdict, JudgeError>>,
    ) -> Result<Verdict, JudgeError> {
        self.rule(key, judge).await.map(|ruling| ruling.verdict)
    }

    fn entry(&self, key: Key) -> Arc<Entry> {
        let mut kept = self.kept();
        let kept = &mut *kept;
        kept.clock += 1;
        let now = kept.clock;
        let (age, entry) = kept.entries.entry(key).or_default();
        kept.ages.remove(age);
        *age = now;
        kept.ages.insert(now, key);
        let entry = entry.clone();
        while kept.entries.len() > self.capacity {
            let Some((_, oldest)) = kept.ages.pop_first() else {
                break;
            };
            kept.entries.remove(&oldest);
        }
        entry
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change leaves it whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Label;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    fn verdict(score: f32) -> Verdict {
        Verdict {
            judge: "j".into(),
            model: "m".into(),
            prompt_hash: String::new(),
            label: Label::Good,
            score,
            rationale: String::new(),
        }
    }

    fn down() -> JudgeError {
        JudgeError::Elsewhere("down".into())
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_key_is_asked_once_however_many_want_it_at_a_time() {
        let memo = Memo::new(8);
        let asked = AtomicU64::new(0);
        let one = |key: u8| {
            memo.verdict([key; 32], async {
                asked.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                Ok(verdict(0.5))
            })
        };
        let start = Instant::now();
        let (a, b, c, d) = tokio::join!(one(1), one(1), one(2), one(1));
        assert_eq!([a, b, c, d], std::array::from_fn(|_| Ok(verdict(0.5))));
        assert_eq!(one(1).await, Ok(verdict(0.5)));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_shared_by_those_who_wait_and_not_kept() {
        let memo = Memo::new(8);
        let asked = AtomicU64::new(0);
        let one = |fails: bool| {
            let asked = &asked;
            memo.verdict([1; 32], async move {
                asked.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                match fails {
                    true => Err(down()),
                    false => Ok(verdict(1.0)),
                }
            })
        };
        let (a, b) = tokio::join!(one(true), one(true));
        assert_eq!((a, b), (Err(down()), Err(down())));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(one(true).await, Err(down()));
        assert_eq!(one(false).await, Ok(verdict(1.0)));
        assert_eq!(one(true).await, Ok(verdict(1.0)));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_the_others_to_ask() {
        let memo = Memo::new(8);
        let slow = memo.verdict([1; 32], async {
            sleep(Duration::from_secs(100)).await;
            Ok(verdict(0.0))
        });
        let given_up = tokio::time::timeout(Duration::from_secs(1), slow);
        let other = async {
            sleep(Duration::from_millis(500)).await;
            memo.verdict([1; 32], async { Ok(verdict(1.0)) }).await
        };
        let (given_up, other) = tokio::join!(given_up, other);
        assert!(given_up.is_err());
        assert_eq!(other, Ok(verdict(1.0)));
    }

    #[tokio::test]
    async fn those_that_were_asked_for_longest_ago_make_room() {
        let memo = Memo::new(2);
        let asked = AtomicU64::new(0);
        for key in [1, 2, 1, 3, 1, 2] {
            let judge = async {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(verdict(1.0))
            };
            memo.verdict([key; 32], judge).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 4, "1, 2, 3, and 2 again");
        let kept = memo.kept();
        assert_eq!((kept.entries.len(), kept.ages.len()), (2, 2));
    }
}
