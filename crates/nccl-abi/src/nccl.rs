//! NCCL's functions: communicators between the threads of one process.

use crate::arithmetic::{reduce, size};
use crate::driver::{has_context, submit};
use crate::handles::{Table, lock, misuse};
use crate::orders::{Fault, Orders};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};

pub type Code = c_uint;

pub const SUCCESS: Code = 0;
pub const INVALID_ARGUMENT: Code = 4;
pub const INVALID_USAGE: Code = 5;
pub const REMOTE_ERROR: Code = 6;
pub const IN_PROGRESS: Code = 7;

/// What `ncclGetVersion` says.
const VERSION: c_int = 22_907;
/// The first bytes of every `ncclConfig_t`.
const MAGIC: c_uint = 0xcafe_beef;

/// As in `nccl.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId([u8; 128]);

/// The beginning of `ncclConfig_t`, which all versions have.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// What a collective does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AllReduce,
    Reduce,
    Broadcast,
    ReduceScatter,
    AllGather,
}

/// What all ranks must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    kind: Kind,
    count: usize,
    element: c_uint,
    /// Of a reduction.
    operation: c_uint,
    root: usize,
}

/// One rank's call.
#[derive(Debug, Clone, Copy)]
struct Collective {
    shape: Shape,
    send: usize,
    receive: usize,
    stream: u64,
}

/// A collective that ranks meet for.
#[derive(Default)]
struct Meeting {
    /// By rank; gone once it is done.
    parts: HashMap<usize, Collective>,
    is_done: bool,
}

#[derive(Default)]
struct GroupState {
    world: usize,
    joined: HashSet<usize>,
    /// By number.
    meetings: HashMap<u64, Meeting>,
    /// Ranks whose communicator was aborted, or has failed.
    lost: HashSet<usize>,
}

/// Communicators of one unique id.
#[derive(Default)]
pub struct Group {
    state: Mutex<GroupState>,
    changed: Condvar,
    pub orders: Mutex<Orders>,
}

#[derive(Default)]
struct CommState {
    error: Code,
    is_aborted: bool,
    is_finalized: bool,
    /// Called for, and not launched.
    waiting: Vec<Collective>,
    has_been_asked: bool,
    /// Collectives launched.
    launched: u64,
    /// Launched, and not over.
    running: usize,
}

pub struct Comm {
    group: Arc<Group>,
    rank: usize,
    state: Mutex<CommState>,
}

pub static COMMS: Table<Comm> = Table::new();
static GROUPS: LazyLock<Mutex<HashMap<[u8; 128], Arc<Group>>>> = LazyLock::new(Mutex::default);
static IDS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Depth of `ncclGroupStart`, and what was called for since the outermost.
    static OPEN: RefCell<(usize, Vec<(u64, Collective)>)> = const { RefCell::new((0, Vec::new())) };
}

/// The group of an id, made when it is asked for first.
pub fn group(id: &[u8; 128]) -> Arc<Group> {
    lock(&GROUPS).entry(*id).or_default().clone()
}

impl Group {
    fn sleep<'a>(&self, state: MutexGuard<'a, GroupState>) -> MutexGuard<'a, GroupState> {
        self.changed
            .wait(state)
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lose(&self, rank: usize) {
        lock(&self.state).lost.insert(rank);
        self.changed.notify_all();
    }
}

impl Comm {
    /// What `ncclCommGetAsyncError` answers; launches what was asked for twice (NA-2).
    fn ask(self: &Arc<Self>) -> Code {
        let group = lock(&self.group.state);
        let is_whole = group.joined.len() == group.world;
        let others_lost = group.lost.iter().any(|rank| *rank != self.rank);
        drop(group);
        let spreads = lock(&self.group.orders).spreads;
        let mut state = lock(&self.state);
        if state.error == SUCCESS && others_lost && spreads {
            state.error = REMOTE_ERROR;
        }
        if state.error != SUCCESS {
            return state.error;
        }
        if !is_whole || state.is_finalized && state.running > 0 {
            return IN_PROGRESS;
        }
        if state.waiting.is_empty() {
            return SUCCESS;
        }
        if !std::mem::replace(&mut state.has_been_asked, true) {
            return IN_PROGRESS;
        }
        state.has_been_asked = false;
        for collective in std::mem::take(&mut state.waiting) {
            let number = state.launched;
            state.launched += 1;
            state.running += 1;
            let comm = self.clone();
            submit(collective.stream, move || {
                comm.carry_out(number, collective)
            });
        }
        SUCCESS
    }

    fn carry_out(&self, number: u64, collective: Collective) {
        let fault = lock(&self.group.orders).fault(self.rank, collective.shape.kind);
        match fault {
            Some(Fault::Hang) => self.wait_for_abort(),
            Some(Fault::Error(code)) => {
                lock(&self.state).error = code;
                self.group.lose(self.rank);
                self.wait_for_abort();
            }
            None => self.meet(number, collective),
        }
        lock(&self.state).running -= 1;
    }

    fn is_aborted(&self) -> bool {
        lock(&self.state).is_aborted
    }

    fn wait_for_abort(&self) {
        let mut group = lock(&self.group.state);
        while !self.is_aborted() {
            group = self.group.sleep(group);
        }
    }

    fn meet(&self, number: u64, collective: Collective) {
        let mut group = lock(&self.group.state);
        let world = group.world;
        let meeting = group.meetings.entry(number).or_default();
        meeting.parts.insert(self.rank, collective);
        let is_complete = meeting.parts.len() == world;
        if is_complete
            && meeting
                .parts
                .values()
                .all(|part| part.shape == collective.shape)
        {
            let parts: Vec<Collective> = (0..world).map(|rank| meeting.parts[&rank]).collect();
            compute(&parts);
            meeting.is_done = true;
            self.group.changed.notify_all();
        }
        // NA-3: those that do not fit are never done.
        while !group.meetings[&number].is_done && !self.is_aborted() {
            group = self.group.sleep(group);
        }
        if let Some(meeting) = group.meetings.get_mut(&number) {
            // Whoever was aborted is not written to later; the last one clears up.
            meeting.parts.remove(&self.rank);
            if meeting.is_done && meeting.parts.is_empty() {
                group.meetings.remove(&number);
            }
        }
    }
}

/// Carries a collective out for all its parts, by rank. Results are complete before the first is
/// written, for they may lie where inputs do.
fn compute(parts: &[Collective]) {
    let shape = parts[0].shape;
    let Some(bytes) = size(shape.element).map(|size| size * shape.count) else {
        return;
    };
    let world = parts.len();
    // SAFETY: ranks that have joined keep their buffers until the stream has come past this task.
    let read = |part: &Collective, bytes| unsafe {
        std::slice::from_raw_parts(part.send as *const u8, bytes)
    };
    let sent = match shape.kind {
        Kind::ReduceScatter => bytes * world,
        _ => bytes,
    };
    let inputs: Vec<&[u8]> = parts.iter().map(|part| read(part, sent)).collect();
    let result = match shape.kind {
        Kind::Broadcast => inputs[shape.root].to_vec(),
        Kind::AllGather => inputs.concat(),
        Kind::AllReduce | Kind::Reduce | Kind::ReduceScatter => {
            reduce(&inputs, shape.element, shape.operation).unwrap_or_default()
        }
    };
    for (rank, part) in parts.iter().enumerate() {
        let own = match shape.kind {
            Kind::Reduce if rank != shape.root => continue,
            Kind::ReduceScatter => &result[rank * bytes..(rank + 1) * bytes],
            _ => &result[..],
        };
        // SAFETY: as above; the buffer has room for what the call's shape says.
        unsafe { std::ptr::copy(own.as_ptr(), part.receive as *mut u8, own.len()) };
    }
}

/// Notes a call; outside of a group it is a group of its own.
fn call(comm: u64, collective: Collective) -> Code {
    if size(collective.shape.element).is_none() {
        return INVALID_ARGUMENT;
    }
    let is_inside = OPEN.with_borrow_mut(|(depth, calls)| {
        calls.push((comm, collective));
        *depth > 0
    });
    match is_inside {
        true => SUCCESS,
        false => hand_over(),
    }
}

/// Gives communicators what was called for in a group.
fn hand_over() -> Code {
    let calls = OPEN.with_borrow_mut(|(_, calls)| std::mem::take(calls));
    let mut accepted = Vec::new();
    for (handle, collective) in calls {
        let Some(comm) = COMMS.get(handle) else {
            return INVALID_ARGUMENT;
        };
        let state = lock(&comm.state);
        if !state.waiting.is_empty() || state.is_finalized || !has_context() {
            misuse("a collective without a context, or before the last one was launched");
            return INVALID_USAGE;
        }
        if state.error != SUCCESS {
            return state.error;
        }
        drop(state);
        accepted.push((comm, collective));
    }
    for (comm, collective) in accepted {
        lock(&comm.state).waiting.push(collective);
    }
    IN_PROGRESS
}

/// # Safety
/// As for NCCL's function of that name, here and below.
#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> Code {
    // SAFETY: the caller's promise, here and below.
    unsafe { version.write(VERSION) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> Code {
    let mut bytes = [0xa5; 128];
    bytes[..8].copy_from_slice(&IDS.fetch_add(1, Ordering::SeqCst).to_le_bytes());
    // SAFETY: see above.
    unsafe { id.write(UniqueId(bytes)) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut u64,
    world: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> Code {
    // SAFETY: see above.
    let (magic, blocking) = unsafe { ((*config).magic, (*config).blocking) };
    let (Ok(world), Ok(rank)) = (usize::try_from(world), usize::try_from(rank)) else {
        return INVALID_ARGUMENT;
    };
    if magic != MAGIC || blocking != 0 || rank >= world || !has_context() {
        return INVALID_ARGUMENT;
    }
    let group = group(&id.0);
    if let Some(code) = lock(&group.orders).refusal(rank) {
        return code;
    }
    let mut state = lock(&group.state);
    let is_first = state.joined.is_empty();
    if !state.joined.insert(rank) || !is_first && state.world != world {
        return INVALID_USAGE;
    }
    state.world = world;
    drop(state);
    let entry = Comm {
        group,
        rank,
        state: Mutex::default(),
    };
    // SAFETY: see above.
    unsafe { comm.write(COMMS.open(entry)) };
    IN_PROGRESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ncclCommGetAsyncError(comm: u64, error: *mut Code) -> Code {
    let Some(comm) = COMMS.get(comm) else {
        return INVALID_ARGUMENT;
    };
    // SAFETY: see above.
    unsafe { error.write(comm.ask()) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommFinalize(comm: u64) -> Code {
    let Some(comm) = COMMS.get(comm) else {
        return INVALID_ARGUMENT;
    };
    let mut state = lock(&comm.state);
    if !state.waiting.is_empty() || std::mem::replace(&mut state.is_finalized, true) {
        misuse("a communicator that is finalized twice, or too early");
        return INVALID_USAGE;
    }
    IN_PROGRESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommDestroy(comm: u64) -> Code {
    let Some(comm) = COMMS.close(comm) else {
        return INVALID_ARGUMENT;
    };
    let state = lock(&comm.state);
    if !state.is_finalized || state.running > 0 {
        misuse("a communicator that is destroyed at work");
    }
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclCommAbort(comm: u64) -> Code {
    let Some(comm) = COMMS.close(comm) else {
        return INVALID_ARGUMENT;
    };
    let mut group = lock(&comm.group.state);
    lock(&comm.state).is_aborted = true;
    group.lost.insert(comm.rank);
    drop(group);
    comm.group.changed.notify_all();
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupStart() -> Code {
    OPEN.with_borrow_mut(|(depth, _)| *depth += 1);
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn ncclGroupEnd() -> Code {
    let depth = OPEN.with_borrow_mut(|(depth, _)| {
        *depth = depth.saturating_sub(1);
        *depth
    });
    match depth {
        0 => hand_over(),
        _ => SUCCESS,
    }
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllReduce(
    send: usize,
    receive: usize,
    count: usize,
    element: c_uint,
    operation: c_uint,
    comm: u64,
    stream: u64,
) -> Code {
    let shape = Shape {
        kind: Kind::AllReduce,
        count,
        element,
        operation,
        root: 0,
    };
    call(
        comm,
        Collective {
            shape,
            send,
            receive,
            stream,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduce(
    send: usize,
    receive: usize,
    count: usize,
    element: c_uint,
    operation: c_uint,
    root: c_int,
    comm: u64,
    stream: u64,
) -> Code {
    let shape = Shape {
        kind: Kind::Reduce,
        count,
        element,
        operation,
        root: root as usize,
    };
    call(
        comm,
        Collective {
            shape,
            send,
            receive,
            stream,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn ncclReduceScatter(
    send: usize,
    receive: usize,
    count: usize,
    element: c_uint,
    operation: c_uint,
    comm: u64,
    stream: u64,
) -> Code {
    let shape = Shape {
        kind: Kind::ReduceScatter,
        count,
        element,
        operation,
        root: 0,
    };
    call(
        comm,
        Collective {
            shape,
            send,
            receive,
            stream,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn ncclBroadcast(
    send: usize,
    receive: usize,
    count: usize,
    element: c_uint,
    root: c_int,
    comm: u64,
    stream: u64,
) -> Code {
    let shape = Shape {
        kind: Kind::Broadcast,
        count,
        element,
        operation: 0,
        root: root as usize,
    };
    call(
        comm,
        Collective {
            shape,
            send,
            receive,
            stream,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn ncclAllGather(
    send: usize,
    receive: usize,
    count: usize,
    element: c_uint,
    comm: u64,
    stream: u64,
) -> Code {
    let shape = Shape {
        kind: Kind::AllGather,
        count,
        element,
        operation: 0,
        root: 0,
    };
    call(
        comm,
        Collective {
            shape,
            send,
            receive,
            stream,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(code: Code) -> *const c_char {
    let text = match code {
        SUCCESS => c"no error",
        1 => c"unhandled cuda error",
        2 => c"unhandled system error",
        3 => c"internal error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        IN_PROGRESS => c"NCCL operation in progress",
        _ => c"unknown result code",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_comm: u64) -> *const c_char {
    c"a fault that a test has ordered".as_ptr()
}
