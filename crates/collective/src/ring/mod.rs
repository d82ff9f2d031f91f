//! A group whose members stand in a ring, in processes of their own.
//!
//! Each member writes to the next one and reads from the one before, over streams that whoever makes
//! the group provides ([`Links`]; [`meeting`] makes them). Large tensors go round in frames, received and
//! sent at the same time; small ones go round whole, and each member adds them up itself. Sums run in
//! an order that follows from rank and place alone: all members get the same bits, every time.
//!
//! A call of which a small tensor is made is worked on by whoever waits for it, at the latest; a large
//! one by a thread of the ring's own, at once.

mod elements;
mod engine;
mod local;
pub mod meeting;
mod memory;
mod plan;
mod sender;
mod socket;
pub(crate) mod wire;

pub use socket::Listener;
pub use wire::Wire;

use crate::call::{Call, Operation, Reduce};
use crate::{Abort, CollectiveError, Communicator, Group, Pending};
use engine::{Engine, Job};
use memory::Memory;
use std::collections::VecDeque;
use std::fmt::{self, Debug, Formatter};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use tch::{Kind, Tensor};

type Output = Box<dyn Write + Send>;
type Breaker = Arc<dyn Fn() + Send + Sync>;

/// Streams to the two neighbours.
pub struct Links {
    /// What is written here, the next member reads. A stream that hands on memory it was given, and
    /// not a copy, must be done with it when `write` returns. Dropped, it ends for the reader.
    pub next: Box<dyn Write + Send>,
    /// What the member before writes. A read that waits longer than [`Links::patience`] fails with
    /// [`io::ErrorKind::TimedOut`] or [`io::ErrorKind::WouldBlock`].
    pub previous: Box<dyn Read + Send>,
    /// Ends reads and writes that are under way, and all later ones.
    pub breaker: Arc<dyn Fn() + Send + Sync>,
    /// How long a read or a write waits. A member that computes says nothing meanwhile: much longer
    /// than a step.
    pub patience: Duration,
}

/// How a ring works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How f32 travels while large tensors are reduced.
    pub wire: Wire,
    /// Bytes of a frame's elements in memory, at most.
    pub frame: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wire: Wire::F32,
            frame: 256 << 10,
        }
    }
}

/// A member of a ring.
pub struct Ring {
    group: Group,
    /// Calls made.
    calls: u64,
    shared: Arc<Shared>,
}

struct Shared {
    breaker: Breaker,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Calls that nobody works on yet.
    jobs: VecDeque<Job>,
    /// Calls that are over.
    finished: u64,
    /// Away while somebody works with it, and once the group is over.
    engine: Option<Engine>,
    is_running: bool,
    failure: Option<CollectiveError>,
    /// The member is gone: what it called for is finished, and no more.
    is_closing: bool,
}

impl Ring {
    /// Joins a group. Its members make the same calls in the same order, with the same options.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(group: Group, links: Links, options: Options) -> io::Result<Self> {
        let breaker = links.breaker.clone();
        let state = State {
            jobs: VecDeque::new(),
            finished: 0,
            engine: Some(Engine::new(group, links, options)?),
            is_running: false,
            failure: None,
            is_closing: false,
        };
        let shared = Arc::new(Shared {
            breaker,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let of_thread = shared.clone();
        thread::Builder::new()
            .name(format!("ring-{}", group.rank))
            .spawn(move || of_thread.work())?;
        Ok(Self {
            group,
            calls: 0,
            shared,
        })
    }

    fn start(&mut self, operation: Operation, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        let call = Call::on(operation, tensor);
        let reduces = matches!(
            operation,
            Operation::AllReduce(_) | Operation::ReduceScatter(_)
        );
        operation.check(self.group.world)?;
        if reduces && !matches!(call.kind, Kind::Float | Kind::Double) {
            return Err(CollectiveError::Unsupported(format!(
                "a ring reduces f32 and f64, and not {:?}",
                call.kind
            )));
        }
        let memory = Arc::new(Memory::of(tensor)?);
        if self.group.world == 1 {
            return Ok(Pending::done());
        }
        let number = self.calls;
        let mut state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        self.calls += 1;
        state.jobs.push_back(Job {
            number,
            call,
            memory,
        });
        drop(state);
        self.shared.changed.notify_all();
        let shared = self.shared.clone();
        Ok(Pending::new(move || shared.wait(number)))
    }
}

impl Shared {
    /// A panic while the lock is held leaves the state as it was: nothing here is changed halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Returns when a call is over, working on it if nobody else does.
    fn wait(&self, number: u64) -> Result<(), CollectiveError> {
        let mut state = self.lock();
        loop {
            if state.finished > number {
                return Ok(());
            }
            // Not before the tensor is left alone.
            if state.is_running {
                state = self.sleep(state);
                continue;
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state = self.run_first(state);
        }
    }

    /// The thread: works on large calls, and on all that are left at the end.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() && !state.is_running {
                // Links are closed when the engine is.
                state.engine = None;
                return;
            }
            let has_work = match state.is_closing {
                true => !state.jobs.is_empty(),
                false => state.jobs.iter().any(Job::is_large),
            };
            state = match (state.is_running, has_work) {
                (false, true) => self.run_first(state),
                (false, false) if state.is_closing => {
                    state.engine = None;
                    return;
                }
                _ => self.sleep(state),
            };
        }
    }

    /// Works on the call whose turn it is.
    fn run_first<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (Some(engine), Some(job)) = (state.engine.take(), state.jobs.pop_front()) else {
            unreachable!("a call that is not over waits for its turn")
        };
        state.is_running = true;
        drop(state);
        // Others wait for the end of this call, whatever it is.
        let result = catch_unwind(AssertUnwindSafe(|| engine.run(&job)));
        let result = result.unwrap_or_else(|_| {
            let reason = "an operation panicked: see the log".to_owned();
            Err(CollectiveError::Aborted(reason))
        });
        let mut state = self.lock();
        state.is_running = false;
        match result {
            Ok(engine) => {
                state.finished += 1;
                state.engine = Some(engine);
            }
            // What this side said first is the reason.
            Err(error) => drop(state.failure.get_or_insert(error)),
        }
        if state.failure.is_some() {
            state.jobs.clear();
        }
        self.changed.notify_all();
        state
    }

    fn abort(&self, reason: &str) {
        let mut state = self.lock();
        let aborted = CollectiveError::Aborted(reason.to_owned());
        state.failure.get_or_insert(aborted);
        drop(state);
        (self.breaker)();
        self.changed.notify_all();
    }
}

impl Communicator for Ring {
    fn group(&self) -> Group {
        self.group
    }

    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError> {
        self.start(Operation::AllReduce(reduce), tensor)
    }

    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError> {
        self.start(Operation::ReduceScatter(reduce), tensor)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        self.start(Operation::AllGather, tensor)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError> {
        self.start(Operation::Broadcast { root }, tensor)
    }

    fn is_over(&self) -> bool {
        self.shared.lock().failure.is_some()
    }

    fn aborter(&self) -> Abort {
        let shared = self.shared.clone();
        Abort::new(move |reason| shared.abort(reason))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_all();
    }
}

impl Debug for Ring {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Ring").field(&self.group).finish()
    }
}

#[cfg(test)]
mod tests;
