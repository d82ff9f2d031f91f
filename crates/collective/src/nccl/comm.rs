//! One member's communicator in NCCL. No call blocks: whether the last one is through, is asked.
#![allow(unsafe_code)]

use super::UniqueId;
use super::driver::Stream;
use super::library::{Code, Library};
use super::plan::{Collective, Step, Unit};
use crate::Group;
use crate::call::Reduce;
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclRedOp_t, ncclUniqueId};
use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

/// `ncclInProgress`.
const IN_PROGRESS: Code = 7;
/// `NCCL_API_MAGIC`.
const MAGIC: u32 = 0xcafe_beef;
/// The version whose `ncclConfig_t` cudarc is asked for, the oldest: libraries that have more fields
/// take their defaults for them.
const CONFIG_VERSION: u32 = 22_403;
/// `NCCL_CONFIG_UNDEF_INT`: NCCL decides.
const UNDEFINED: c_int = c_int::MIN;

pub(super) struct Comm {
    library: Library,
    raw: ncclComm_t,
}

// SAFETY: NCCL allows any thread to make the calls, one at a time, which the owner's lock sees to.
unsafe impl Send for Comm {}

/// Where a call's elements are on the GPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffer {
    pub start: *mut c_void,
    pub unit: Unit,
}

impl Comm {
    /// Begins to meet the other members.
    pub(super) fn begin(library: &Library, group: Group, id: &UniqueId) -> Result<Self, Code> {
        let mut config = config();
        let mut raw = null_mut();
        let id = ncclUniqueId {
            internal: id.to_bytes().map(|byte| byte as c_char),
        };
        let (world, rank) = (group.world as c_int, group.rank as c_int);
        // SAFETY: it writes one handle, and reads the configuration before it returns.
        let code = unsafe { (library.functions.init)(&mut raw, world, id, rank, &mut config) };
        accepted(code)?;
        Ok(Self {
            library: library.clone(),
            raw,
        })
    }

    /// Whether the last call is through; what it was to start is then in its stream.
    pub(super) fn is_settled(&self) -> Result<bool, Code> {
        let mut state = 0;
        // SAFETY: the communicator is open, here and below; it writes one code.
        accepted(unsafe { (self.library.functions.async_error)(self.raw, &mut state) })?;
        accepted(state)?;
        Ok(state != IN_PROGRESS)
    }

    /// Starts the steps as one group.
    ///
    /// # Safety
    /// The buffer has the elements of the steps, and nobody else uses them until the stream has come
    /// past them or the communicator was aborted and the stream is idle.
    pub(super) unsafe fn start(
        &self,
        steps: &[Step],
        buffer: Buffer,
        stream: &Stream,
    ) -> Result<(), Code> {
        let functions = &self.library.functions;
        // SAFETY: groups need nothing; each is closed below, on the same thread.
        accepted(unsafe { (functions.group_start)() })?;
        // SAFETY: promised by the caller.
        let started = steps
            .iter()
            .try_for_each(|step| accepted(unsafe { self.call(step, buffer, stream) }));
        // SAFETY: as above.
        let ended = accepted(unsafe { (functions.group_end)() });
        started.and(ended)
    }

    /// # Safety
    /// As for `start`.
    unsafe fn call(&self, step: &Step, buffer: Buffer, stream: &Stream) -> Code {
        let Unit {
            element,
            bytes,
            per_element,
        } = buffer.unit;
        let at = |place: usize| buffer.start.wrapping_byte_add(place * per_element * bytes);
        let (from, to) = (at(step.from).cast_const(), at(step.to));
        let count = step.count * per_element;
        let (comm, stream, nccl) = (self.raw, stream.raw(), &self.library.functions);
        // SAFETY: the addresses are within the buffer, as the caller promises.
        unsafe {
            match step.collective {
                Collective::AllReduce(reduce) => {
                    (nccl.all_reduce)(from, to, count, element, of(reduce), comm, stream)
                }
                Collective::Reduce { reduce, root } => {
                    let root = root as c_int;
                    (nccl.reduce)(from, to, count, element, of(reduce), root, comm, stream)
                }
                Collective::ReduceScatter(reduce) => {
                    (nccl.reduce_scatter)(from, to, count, element, of(reduce), comm, stream)
                }
                Collective::AllGather => (nccl.all_gather)(from, to, count, element, comm, stream),
                Collective::Broadcast { root } => {
                    (nccl.broadcast)(from, to, count, element, root as c_int, comm, stream)
                }
            }
        }
    }

    /// Begins to say farewell; what was started is finished.
    pub(super) fn finalize(&self) -> Result<(), Code> {
        // SAFETY: the communicator is open.
        accepted(unsafe { (self.library.functions.finalize)(self.raw) })
    }

    /// Frees it, after a farewell that is through.
    pub(super) fn destroy(self) {
        // SAFETY: it is open, and nobody has it any more; an error leaves nothing to be done.
        let _ = unsafe { (self.library.functions.destroy)(self.raw) };
    }

    /// Ends what was started, whatever state it is in, and frees it.
    pub(super) fn abort(self) {
        // SAFETY: as above.
        let _ = unsafe { (self.library.functions.abort)(self.raw) };
    }
}

/// What is under way is no error.
fn accepted(code: Code) -> Result<(), Code> {
    match code {
        0 | IN_PROGRESS => Ok(()),
        code => Err(code),
    }
}

fn of(reduce: Reduce) -> ncclRedOp_t {
    match reduce {
        Reduce::Sum => ncclRedOp_t::ncclSum,
        Reduce::Max => ncclRedOp_t::ncclMax,
    }
}

/// `NCCL_CONFIG_INITIALIZER`, without blocking.
fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: null(),
        splitShare: UNDEFINED,
    }
}
