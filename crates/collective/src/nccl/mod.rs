//! A group of GPUs, each with a process or a thread of its own, through NVIDIA's NCCL.
//!
//! NCCL and the CUDA driver are loaded when they are needed ([`Library`]). The group's first member
//! makes a [`UniqueId`], whose bytes the others get by any means, such as the links of a ring
//! ([`UniqueId::agree`]); then each calls [`Nccl::join`].
//!
//! - **NC-1 (nothing blocks for ever).** The communicator is of NCCL's kind that does not block; every
//!   wait looks whether it has failed, and ends after [`Options::deadline`] with
//!   [`CollectiveError::Overdue`]. After a failure, and when the group is given up, it is aborted.
//! - **NC-2 (in order with libtorch).** Operations run in a stream of their own. They begin when
//!   libtorch's stream, CUDA's default one, has come to where they were called for; a wait returns
//!   when they are done, so that what libtorch is given afterwards comes after them. Meanwhile the
//!   tensor's memory is kept.
//! - **CO-3 through NCCL.** Before each operation, what all members call for is gathered, 24 bytes of
//!   each, in the same stream and without holding up the host. Members that differ all get
//!   [`CollectiveError::Mismatch`], and the operation that NCCL would hang in is aborted; what it has
//!   done to the tensors until then is not said. A member that makes one call more than the others
//!   waits for them until the deadline.
//!
//! CO-2 holds by the deadline: NCCL does not always notice that a member is gone, and never says which
//! one. CO-1 holds as far as NCCL's algorithms give all members the same bits, which its ring and tree
//! do. NCCL neither encrypts nor authenticates: its network has to be the cluster's own.
//!
//! Where a tensor has been used on another stream than libtorch's default one, whoever did that waits
//! for it before.

mod comm;
mod driver;
mod library;
mod plan;
mod session;
mod symbols;

pub use library::{Library, LoadError, VARIABLE, Version};

use crate::call::{Operation, Reduce};
use crate::error::GIVEN_UP;
use crate::ring::Links;
use crate::{Abort, CollectiveError, Communicator, Group, Pending};
use driver::{Gpu, OpenError, Stream};
use session::{Session, Site};
use std::fmt::{self, Debug, Formatter};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Bytes of a unique id.
const ID_BYTES: usize = 128;

/// How often whoever joins looks whether the group is given up.
const LOOK: Duration = Duration::from_millis(5);

/// What the members of one group have in common, and no other group has. It says where the process
/// that made it listens: that one lives at least until all have joined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; ID_BYTES]);

impl UniqueId {
    /// A new one, of this process.
    ///
    /// # Errors
    /// When there is no NCCL here, or no network that it can use.
    pub fn new() -> Result<Self, CollectiveError> {
        Self::from_library(&Library::find()?)
    }

    /// One for all members of a group: the first makes it, and each hands it on to the next.
    ///
    /// # Errors
    /// As [`UniqueId::new`] on the first member; [`CollectiveError::Gone`] when a neighbour is.
    pub fn agree(group: Group, links: &mut Links) -> Result<Self, CollectiveError> {
        Self::agree_on(group, links, Self::new)
    }

    fn agree_on(
        group: Group,
        links: &mut Links,
        make: impl FnOnce() -> Result<Self, CollectiveError>,
    ) -> Result<Self, CollectiveError> {
        let gone = |rank| move |_| CollectiveError::Gone { rank };
        let id = match group.rank {
            0 => make()?,
            _ => {
                let mut bytes = [0; ID_BYTES];
                let read = links.previous.read_exact(&mut bytes);
                read.map_err(gone(group.previous()))?;
                Self(bytes)
            }
        };
        if group.rank + 1 < group.world {
            let written = links.next.write_all(&id.0);
            let written = written.and_then(|()| links.next.flush());
            written.map_err(gone(group.next()))?;
        }
        Ok(id)
    }

    fn from_library(library: &Library) -> Result<Self, CollectiveError> {
        let id = library.unique_id().map_err(|code| {
            let reason = library.reason(code);
            CollectiveError::Unsupported(format!("NCCL makes no unique id: {reason}"))
        })?;
        Ok(Self(id))
    }

    /// For a message.
    pub fn to_bytes(&self) -> [u8; ID_BYTES] {
        self.0
    }

    /// Out of a message.
    ///
    /// # Errors
    /// When there are more or fewer bytes than 128.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CollectiveError> {
        let id = bytes.try_into().map_err(|_| {
            CollectiveError::Unsupported(format!(
                "a unique id of NCCL has {ID_BYTES} bytes, and these are {}",
                bytes.len()
            ))
        })?;
        Ok(Self(id))
    }
}

impl Debug for UniqueId {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("UniqueId")
    }
}

/// How a group works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long joining takes at most.
    pub joining: Duration,
    /// How long each wait takes at most. Members that compute do not call meanwhile: much longer than a
    /// step.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            joining: Duration::from_secs(60),
            deadline: Duration::from_secs(600),
        }
    }
}

/// A member of a group of GPUs.
pub struct Nccl {
    session: Arc<Session>,
    /// Calls made.
    calls: u64,
}

impl Nccl {
    /// Joins a group on a GPU; returns when all members have, or soon after `stop` was set.
    ///
    /// # Errors
    /// When NCCL or the CUDA driver is not there ([`CollectiveError::Unavailable`]), when either
    /// refuses, when not all members come before the deadline or the group is given up
    /// ([`CollectiveError::Aborted`]), and for other devices than GPUs.
    pub fn join(
        group: Group,
        id: &UniqueId,
        device: Device,
        options: Options,
        stop: &AtomicBool,
    ) -> Result<Self, CollectiveError> {
        let Device::Cuda(ordinal) = device else {
            return Err(CollectiveError::Unsupported(format!(
                "NCCL works on GPUs, and this is {device:?}: take a ring"
            )));
        };
        let library = Library::find()?;
        let gpu = Gpu::open(ordinal).map_err(|error| refused(group, ordinal, error))?;
        let site = Site {
            library,
            compute: Stream::of_libtorch(&gpu),
            gpu,
            device,
        };
        Self::at(site, group, id, options, stop)
    }

    fn at(
        site: Site,
        group: Group,
        id: &UniqueId,
        options: Options,
        stop: &AtomicBool,
    ) -> Result<Self, CollectiveError> {
        let session = Session::join(site, group, id, options.joining, stop)?;
        let mut member = Self {
            session: Arc::new(session),
            calls: 0,
        };
        // NCCL connects members when they first call, which belongs to joining.
        member.first_barrier(stop)?;
        if let Some(session) = Arc::get_mut(&mut member.session) {
            session.deadline = options.deadline;
        }
        Ok(member)
    }

    /// A barrier that ends when `stop` is set.
    fn first_barrier(&mut self, stop: &AtomicBool) -> Result<(), CollectiveError> {
        let abort = self.aborter();
        thread::scope(|scope| {
            let (over, is_over) = channel::<()>();
            scope.spawn(move || {
                while is_over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    if stop.load(Ordering::Relaxed) {
                        return abort.abort(GIVEN_UP);
                    }
                }
            });
            let met = self.barrier();
            drop(over);
            met
        })
    }

    fn start(&mut self, operation: Operation, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        let number = self.calls;
        self.session.start(number, operation, tensor)?;
        self.calls += 1;
        let session = self.session.clone();
        Ok(Pending::new(move || session.wait(number)))
    }
}

fn refused(group: Group, ordinal: usize, error: OpenError) -> CollectiveError {
    match error {
        OpenError::Load(error) => error.into(),
        OpenError::Fault(fault) => CollectiveError::Gpu {
            rank: group.rank,
            epoch: group.epoch,
            call: format!("opening GPU {ordinal} ({})", fault.call),
            reason: fault.name,
        },
    }
}

impl Communicator for Nccl {
    fn group(&self) -> Group {
        self.session.group()
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

    fn aborter(&self) -> Abort {
        // Whoever may give the group up does not keep it.
        let session = Arc::downgrade(&self.session);
        Abort::new(move |reason| {
            if let Some(session) = session.upgrade() {
                session.abort(reason);
            }
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let nothing = Tensor::zeros([1], (Kind::Double, self.session.device()));
        self.all_reduce(&nothing, Reduce::Sum)?.wait()
    }

    fn all_reduce_numbers(
        &mut self,
        numbers: &mut [f64],
        reduce: Reduce,
    ) -> Result<(), CollectiveError> {
        let tensor = Tensor::from_slice(numbers).to_device(self.session.device());
        self.all_reduce(&tensor, reduce)?.wait()?;
        tensor
            .to_device(Device::Cpu)
            .copy_data(numbers, numbers.len());
        Ok(())
    }
}

impl Debug for Nccl {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Nccl").field(&self.group()).finish()
    }
}

#[cfg(test)]
mod tests;
