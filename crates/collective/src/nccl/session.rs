//! What a communicator, its operations under way and whoever gives it up have in common.
//!
//! Each operation is a [`Ticket`]. In the communication stream come, one after the other: waiting for
//! the tensor, an all-gather of what every member calls for (CO-3), a copy of it to the host, and the
//! operation. Whoever waits looks at the events behind these, and at what NCCL says of the communicator.
//!
//! The first failure is the group's. Whoever takes the communicator out of the state ends it; all
//! others wait until that is done (CO-4).
#![allow(unsafe_code)]

use super::comm::{Buffer, Comm};
use super::driver::{Event, Fault, Gpu, Stream, Words};
use super::library::{Code, Library};
use super::plan::{self, Collective, Step, Unit};
use crate::call::{Call, Operation};
use crate::error::GIVEN_UP;
use crate::ring::wire::{HEADER, Header};
use crate::{CollectiveError, Group};
use cudarc::nccl::sys::ncclDataType_t;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use tch::Tensor;

/// Words of what one member calls for.
const WORDS: usize = HEADER / size_of::<u64>();

/// How long a farewell may take, at most: members that are gone do not answer it.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where a member works.
pub(super) struct Site {
    pub library: Library,
    pub gpu: Arc<Gpu>,
    /// The device of its tensors.
    pub device: tch::Device,
    /// Where tensors are made and used.
    pub compute: Stream,
}

/// A member of a group, for its life.
pub(super) struct Session {
    group: Group,
    /// For each wait.
    pub(super) deadline: Duration,
    state: Mutex<State>,
    changed: Condvar,
    stream: Stream,
    site: Site,
}

struct State {
    /// Away once somebody ends it.
    comm: Option<Comm>,
    /// It was ended, and nothing writes to tensors any more.
    is_over: bool,
    failure: Option<CollectiveError>,
    queue: Queue,
}

#[derive(Default)]
struct Queue {
    /// In order; those that are over are gone from the front.
    tickets: VecDeque<Ticket>,
    /// Operations that are over.
    finished: u64,
    spare: Vec<Slip>,
}

/// How far the start of an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// What is called for is being gathered.
    Announced,
    /// What others call for is on its way to the host.
    Compared,
    /// The operation is in the stream.
    Launched,
}

/// An operation under way.
struct Ticket {
    call: Call,
    /// Kept until nothing uses its memory.
    _tensor: Tensor,
    slip: Slip,
    stage: Stage,
    /// All members call for the same.
    fits: bool,
}

/// What an operation needs of the GPU's driver.
struct Slip {
    /// The tensor is ready.
    ready: Event,
    /// What members call for is on the host.
    compared: Event,
    /// The result is there.
    done: Event,
    /// What members call for, by rank.
    words: Words,
}

/// What failed below.
enum Broken {
    Nccl(Code),
    Gpu(Fault),
}

impl From<Code> for Broken {
    fn from(code: Code) -> Self {
        Self::Nccl(code)
    }
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Gpu(fault)
    }
}

impl Slip {
    fn new(gpu: &Arc<Gpu>, world: usize) -> Result<Self, Fault> {
        Ok(Self {
            ready: Event::new(gpu)?,
            compared: Event::new(gpu)?,
            done: Event::new(gpu)?,
            words: Words::new(gpu, WORDS * world)?,
        })
    }
}

/// Rests between two looks, longer and longer.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    fn rest(&mut self) {
        self.0 = self.0.saturating_add(1);
        match self.0 {
            ..100 => thread::yield_now(),
            100..1000 => thread::sleep(Duration::from_micros(20)),
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Session {
    /// Meets the other members.
    pub(super) fn join(
        site: Site,
        group: Group,
        id: &super::UniqueId,
        deadline: Duration,
        stop: &AtomicBool,
    ) -> Result<Self, CollectiveError> {
        let gpu = site.gpu.clone();
        let of = |broken| site.error(group, "joining", broken);
        let _current = gpu.enter().map_err(|fault| of(fault.into()))?;
        let comm = Comm::begin(&site.library, group, id).map_err(|code| of(code.into()))?;
        let met = meet(&comm, deadline, stop).and_then(|()| Ok(Stream::new(&gpu)?));
        let stream = match met {
            Ok(stream) => stream,
            Err(reason) => {
                comm.abort();
                return Err(match reason {
                    Refusal::Late => overdue(group, "joining", deadline),
                    Refusal::GivenUp => CollectiveError::Aborted(GIVEN_UP.to_owned()),
                    Refusal::Broken(broken) => of(broken),
                });
            }
        };
        let state = State {
            comm: Some(comm),
            is_over: false,
            failure: None,
            queue: Queue::default(),
        };
        Ok(Self {
            group,
            deadline,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stream,
            site,
        })
    }

    pub(super) fn group(&self) -> Group {
        self.group
    }

    pub(super) fn device(&self) -> tch::Device {
        self.site.device
    }

    /// Starts an operation. One at a time: the caller has the only member.
    pub(super) fn start(
        &self,
        number: u64,
        operation: Operation,
        tensor: &Tensor,
    ) -> Result<(), CollectiveError> {
        let call = Call::on(operation, tensor);
        operation.check(self.group.world)?;
        let unit = plan::unit(&call)?;
        let announced = words_of(number, call)?;
        self.check_memory(tensor)?;
        let buffer = Buffer {
            start: tensor.data_ptr(),
            unit,
        };
        let _current = self.enter()?;
        let launched = self
            .announce(call, tensor, &announced)
            .and_then(|()| self.settle(&call))
            .and_then(|()| self.launch(&call, buffer))
            .and_then(|()| self.settle(&call))
            .and_then(|()| self.mark(&call));
        launched.map_err(|error| self.fail(error))
    }

    /// Returns when an operation is over.
    pub(super) fn wait(&self, number: u64) -> Result<(), CollectiveError> {
        let since = Instant::now();
        let _current = self.enter()?;
        let mut pause = Pause::default();
        loop {
            let mut state = self.lock();
            if state.queue.finished > number {
                return Ok(());
            }
            let advanced = self.advance(&mut state);
            if state.queue.finished > number {
                return Ok(());
            }
            let place = number - state.queue.finished;
            let call = state
                .queue
                .tickets
                .get(place as usize)
                .map(|ticket| ticket.call);
            drop(state);
            advanced.map_err(|error| self.fail(error))?;
            if since.elapsed() >= self.deadline {
                let call = call.map_or_else(|| "an operation".to_owned(), |call| call.to_string());
                return Err(self.fail(overdue(self.group, &call, self.deadline)));
            }
            pause.rest();
        }
    }

    /// Gives the group up.
    pub(super) fn abort(&self, reason: &str) {
        self.fail(CollectiveError::Aborted(reason.to_owned()));
    }

    fn check_memory(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        let refused = |what: String| Err(CollectiveError::Unsupported(what));
        let (found, own) = (tensor.device(), self.site.device);
        if found != own {
            return refused(format!(
                "this member of an NCCL group works on {own:?}, and this tensor is on {found:?}: \
                 move it there"
            ));
        }
        if !tensor.is_contiguous() {
            return refused("NCCL moves contiguous tensors only".to_owned());
        }
        Ok(())
    }

    /// A panic while the lock is held leaves the state as it was: nothing here is changed halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn enter(&self) -> Result<super::driver::Current<'_>, CollectiveError> {
        self.site
            .gpu
            .enter()
            .map_err(|fault| self.error("entering the GPU", fault.into()))
    }

    fn error(&self, call: &str, broken: Broken) -> CollectiveError {
        self.site.error(self.group, call, broken)
    }

    /// Does `work` with the communicator, if the group still stands.
    fn with<T>(
        &self,
        call: &Call,
        work: impl FnOnce(&Comm, &mut Queue) -> Result<T, Broken>,
    ) -> Result<T, CollectiveError> {
        let mut state = self.lock();
        let State {
            comm,
            queue,
            failure,
            ..
        } = &mut *state;
        let result = work(standing(comm, failure)?, queue);
        result.map_err(|broken| self.error(&call.to_string(), broken))
    }

    /// Has the stream wait for the tensor, and tell all members what this one calls for.
    fn announce(
        &self,
        call: Call,
        tensor: &Tensor,
        words: &[u64; WORDS],
    ) -> Result<(), CollectiveError> {
        let Group { rank, world, .. } = self.group;
        self.with(&call, |comm, queue| {
            let slip = match queue.spare.pop() {
                Some(slip) => slip,
                None => Slip::new(&self.site.gpu, world)?,
            };
            // It is in the state from now on, and stays there until nothing uses it.
            queue.tickets.push_back(Ticket {
                call,
                _tensor: tensor.shallow_clone(),
                slip,
                stage: Stage::Announced,
                fits: false,
            });
            let slip = &mut queue
                .tickets
                .back_mut()
                .expect("it was just put there")
                .slip;
            slip.ready.record(&self.site.compute)?;
            self.stream.wait_for(&slip.ready)?;
            slip.words.send(rank * WORDS, words, &self.stream)?;
            let gathered = Step {
                collective: Collective::AllGather,
                from: rank * WORDS,
                to: 0,
                count: WORDS,
            };
            let buffer = Buffer {
                start: slip.words.on_gpu(),
                unit: Unit {
                    element: ncclDataType_t::ncclUint64,
                    bytes: size_of::<u64>(),
                    per_element: 1,
                },
            };
            // SAFETY: the slip has the words of all members, and stays with the ticket.
            Ok(unsafe { comm.start(&[gathered], buffer, &self.stream) }?)
        })
    }

    /// Starts the operation itself.
    fn launch(&self, call: &Call, buffer: Buffer) -> Result<(), CollectiveError> {
        let Group { rank, world, .. } = self.group;
        let steps = plan::plan(call, rank, world);
        self.with(call, |comm, queue| {
            let ticket = queue.tickets.back_mut().expect("it was announced");
            ticket.slip.words.fetch(&self.stream)?;
            ticket.slip.compared.record(&self.stream)?;
            ticket.stage = Stage::Compared;
            // SAFETY: the plan stays within the tensor, which the ticket keeps; callers of a
            // communicator leave it alone.
            Ok(unsafe { comm.start(&steps, buffer, &self.stream) }?)
        })
    }

    /// Marks the operation's end in the stream.
    fn mark(&self, call: &Call) -> Result<(), CollectiveError> {
        self.with(call, |_, queue| {
            let ticket = queue.tickets.back_mut().expect("it was announced");
            ticket.slip.done.record(&self.stream)?;
            ticket.stage = Stage::Launched;
            Ok(())
        })
    }

    /// Returns when NCCL has put into the stream what it was asked for: only then may anything come
    /// behind it.
    fn settle(&self, call: &Call) -> Result<(), CollectiveError> {
        let since = Instant::now();
        let mut pause = Pause::default();
        while !self.advance(&mut self.lock())? {
            if since.elapsed() >= self.deadline {
                return Err(overdue(self.group, &call.to_string(), self.deadline));
            }
            pause.rest();
        }
        Ok(())
    }

    /// Looks how far operations have come, and whether the communicator is settled.
    fn advance(&self, state: &mut State) -> Result<bool, CollectiveError> {
        let State {
            comm,
            queue,
            failure,
            ..
        } = state;
        let is_settled = standing(comm, failure)?.is_settled().map_err(|code| {
            let call = queue.tickets.front().map(|ticket| ticket.call.to_string());
            self.error(call.as_deref().unwrap_or("a call"), code.into())
        })?;
        for ticket in queue.tickets.iter_mut().filter(|ticket| !ticket.fits) {
            if ticket.stage < Stage::Compared || !self.is_reached(&ticket.slip.compared)? {
                break;
            }
            self.compare(ticket)?;
            ticket.fits = true;
        }
        while let Some(ticket) = queue.tickets.front()
            && ticket.fits
            && ticket.stage == Stage::Launched
            && self.is_reached(&ticket.slip.done)?
        {
            let ticket = queue.tickets.pop_front().expect("it was just seen");
            queue.spare.push(ticket.slip);
            queue.finished += 1;
        }
        Ok(is_settled)
    }

    fn is_reached(&self, event: &Event) -> Result<bool, CollectiveError> {
        let reached = event.is_reached();
        reached.map_err(|fault| self.error("waiting", fault.into()))
    }

    /// CO-3: whether all members call for what this one does. All see the same words, and so name the
    /// same member.
    fn compare(&self, ticket: &Ticket) -> Result<(), CollectiveError> {
        let words = ticket.slip.words.on_host();
        let calls: Vec<&[u64]> = words.chunks_exact(WORDS).collect();
        let Some(rank) = (0..calls.len()).find(|rank| calls[*rank] != calls[0]) else {
            return Ok(());
        };
        Err(CollectiveError::Mismatch {
            rank,
            found: text_of(calls[rank]),
            expected: text_of(calls[0]),
        })
    }

    /// Ends the group, for this reason unless there is an earlier one; returns what the reason is.
    fn fail(&self, error: CollectiveError) -> CollectiveError {
        let mut state = self.lock();
        let failure = state.failure.get_or_insert(error).clone();
        if let Some(comm) = state.comm.take() {
            drop(state);
            let _current = self.site.gpu.enter();
            comm.abort();
            let is_quiet = self.drain();
            state = self.lock();
            if is_quiet {
                state.queue.tickets.clear();
            } else {
                // CO-4: what a GPU that does not answer may still write to is never used again.
                state.queue.tickets.drain(..).for_each(mem::forget);
            }
            state.is_over = true;
            self.changed.notify_all();
        }
        while !state.is_over {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        failure
    }

    /// Waits until the stream has nothing to do; whether that was before the deadline.
    fn drain(&self) -> bool {
        let since = Instant::now();
        let mut pause = Pause::default();
        while since.elapsed() < self.deadline {
            match self.stream.is_idle() {
                Ok(true) => return true,
                Ok(false) => pause.rest(),
                Err(_) => return false,
            }
        }
        false
    }

    /// Says farewell; whether all that was called for is finished.
    fn part(comm: &Comm, limit: Duration) -> bool {
        let since = Instant::now();
        let mut pause = Pause::default();
        if comm.finalize().is_err() {
            return false;
        }
        while since.elapsed() < limit {
            match comm.is_settled() {
                Ok(true) => return true,
                Ok(false) => pause.rest(),
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let gpu = self.site.gpu.clone();
        let _current = gpu.enter();
        let comm = self.lock().comm.take();
        if let Some(comm) = comm {
            match Self::part(&comm, self.deadline.min(FAREWELL)) {
                true => comm.destroy(),
                false => comm.abort(),
            }
        }
        let is_quiet = self.drain();
        let mut state = self.lock();
        if !is_quiet {
            state.queue.tickets.drain(..).for_each(mem::forget);
        }
        state.queue.tickets.clear();
        state.queue.spare.clear();
    }
}

impl Site {
    fn error(&self, group: Group, call: &str, broken: Broken) -> CollectiveError {
        let Group { rank, epoch, .. } = group;
        match broken {
            Broken::Nccl(code) => CollectiveError::Nccl {
                rank,
                epoch,
                call: call.to_owned(),
                code,
                reason: self.library.reason(code),
            },
            Broken::Gpu(Fault {
                call: function,
                name,
            }) => CollectiveError::Gpu {
                rank,
                epoch,
                call: format!("{call} ({function})"),
                reason: name,
            },
        }
    }
}

/// The communicator of a group that still stands.
fn standing<'a>(
    comm: &'a Option<Comm>,
    failure: &Option<CollectiveError>,
) -> Result<&'a Comm, CollectiveError> {
    match (comm, failure) {
        (_, Some(failure)) => Err(failure.clone()),
        (Some(comm), None) => Ok(comm),
        (None, None) => unreachable!("only a failure takes the communicator away"),
    }
}

/// Why members did not meet.
enum Refusal {
    Late,
    GivenUp,
    Broken(Broken),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault.into())
    }
}

/// Returns when all members are there.
fn meet(comm: &Comm, deadline: Duration, stop: &AtomicBool) -> Result<(), Refusal> {
    let since = Instant::now();
    let mut pause = Pause::default();
    loop {
        match comm.is_settled() {
            Ok(true) => return Ok(()),
            Ok(false) if stop.load(Ordering::Relaxed) => return Err(Refusal::GivenUp),
            Ok(false) if since.elapsed() >= deadline => return Err(Refusal::Late),
            Ok(false) => pause.rest(),
            Err(code) => return Err(Refusal::Broken(code.into())),
        }
    }
}

fn overdue(group: Group, call: &str, after: Duration) -> CollectiveError {
    CollectiveError::Overdue {
        rank: group.rank,
        epoch: group.epoch,
        call: call.to_owned(),
        after,
    }
}

/// A call as the ring writes it too, in words.
fn words_of(number: u64, call: Call) -> Result<[u64; WORDS], CollectiveError> {
    let header = Header::Call {
        number,
        call,
        wire: Default::default(),
    };
    let Some(bytes) = header.encode() else {
        return Err(CollectiveError::Unsupported(format!(
            "NCCL groups move no tensors of {:?}",
            call.kind
        )));
    };
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

/// What a member calls for, for people.
fn text_of(words: &[u64]) -> String {
    let mut bytes = [0; HEADER];
    for (word, bytes) in words.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = word.to_le_bytes();
    }
    match Header::decode(&bytes) {
        Ok(Header::Call { number, call, .. }) => format!("{call} as call {number}"),
        Ok(_) => "no call".to_owned(),
        Err(reason) => reason,
    }
}
