//! What tests order: faults, delays, and a look at what is still open.

use crate::driver::{self, Mark, submit};
use crate::handles::{MISUSES, lock};
use crate::nccl::{self, Code, Kind};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// What becomes of a collective.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It never ends.
    Hang,
    /// The communicator fails with this code.
    Error(Code),
}

/// What is to go wrong in a group.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Rank, which kind of collective, how many of them to let pass.
    faults: Vec<(usize, Kind, u64, Fault)>,
    /// By rank.
    refusals: HashMap<usize, Code>,
    /// Whether ranks notice that another one is lost.
    pub spreads: bool,
}

impl Orders {
    /// What becomes of a rank's next collective of a kind.
    pub(crate) fn fault(&mut self, rank: usize, kind: Kind) -> Option<Fault> {
        let place = self
            .faults
            .iter()
            .position(|(r, k, ..)| (*r, *k) == (rank, kind))?;
        let (_, _, pass, fault) = &mut self.faults[place];
        if *pass > 0 {
            *pass -= 1;
            return None;
        }
        let fault = *fault;
        self.faults.remove(place);
        Some(fault)
    }

    pub(crate) fn refusal(&self, rank: usize) -> Option<Code> {
        self.refusals.get(&rank).copied()
    }
}

/// Gates by number; a stream that has come to one waits until it is open.
static GATES: LazyLock<Mutex<HashMap<u64, Arc<Mark>>>> = LazyLock::new(Mutex::default);
static NEXT_GATE: AtomicU64 = AtomicU64::new(1);

/// Which collective a number stands for.
const KINDS: [Kind; 5] = [
    Kind::AllReduce,
    Kind::Reduce,
    Kind::Broadcast,
    Kind::ReduceScatter,
    Kind::AllGather,
];

/// Lets `pass` of a rank's collectives of kind `kind` (an index into all-reduce, reduce, broadcast,
/// reduce-scatter, all-gather) go by, and has the next one hang (`code` 0) or fail with `code`.
#[unsafe(no_mangle)]
pub extern "C" fn abi_fault(id: &[u8; 128], rank: usize, kind: usize, pass: u64, code: Code) {
    let fault = match code {
        0 => Fault::Hang,
        code => Fault::Error(code),
    };
    let group = nccl::group(id);
    lock(&group.orders)
        .faults
        .push((rank, KINDS[kind % KINDS.len()], pass, fault));
}

/// Has a rank's communicator refused with `code`.
#[unsafe(no_mangle)]
pub extern "C" fn abi_refuse(id: &[u8; 128], rank: usize, code: Code) {
    lock(&nccl::group(id).orders).refusals.insert(rank, code);
}

/// Says whether ranks notice that another one has failed or was aborted.
#[unsafe(no_mangle)]
pub extern "C" fn abi_spread(id: &[u8; 128], spreads: bool) {
    lock(&nccl::group(id).orders).spreads = spreads;
}

/// Has a stream wait at a gate; its number.
#[unsafe(no_mangle)]
pub extern "C" fn abi_hold(stream: u64) -> u64 {
    let gate = NEXT_GATE.fetch_add(1, Ordering::SeqCst);
    let mark = Arc::new(Mark::default());
    lock(&GATES).insert(gate, mark.clone());
    submit(stream, move || mark.wait());
    gate
}

/// Opens a gate.
#[unsafe(no_mangle)]
pub extern "C" fn abi_release(gate: u64) {
    if let Some(mark) = lock(&GATES).remove(&gate) {
        mark.reach();
    }
}

/// Fills `count` f32 at `to` when the stream comes to it.
#[unsafe(no_mangle)]
pub extern "C" fn abi_fill(stream: u64, to: *mut c_void, count: usize, value: f32) {
    driver::fill(stream, to, count, value);
}

/// How many streams, events, blocks of memory, contexts and communicators are open.
#[unsafe(no_mangle)]
pub extern "C" fn abi_open() -> usize {
    let retained = driver::RETAINED.load(Ordering::SeqCst).unsigned_abs() as usize;
    let handles = driver::STREAMS.len() + driver::EVENTS.len() + nccl::COMMS.len();
    handles + driver::blocks() + retained
}

/// How many calls NCCL or CUDA would have forbidden.
#[unsafe(no_mangle)]
pub extern "C" fn abi_misuses() -> u64 {
    MISUSES.load(Ordering::SeqCst)
}
