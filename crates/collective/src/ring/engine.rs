//! What carries operations out.
#![allow(unsafe_code)]

use super::elements::{self, Element};
use super::memory::Memory;
use super::plan::{Into, plan};
use super::sender::{Gate, SenderThread, Sends, write_fault};
use super::wire::{HEADER, Header, Wire, failure_of};
use super::{Breaker, Links, Options, Output};
use crate::call::{Call, Operation, Reduce, share};
use crate::{CollectiveError, Group};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tch::Kind;

/// Tensors up to so many bytes go round whole: one write for each member instead of two for each, and
/// no other thread. All members write before they read, so it has to fit the buffers of a socket.
const SMALL: usize = 32 << 10;

/// Read ahead, in bytes: enough for headers. What is larger goes straight to where it belongs.
const AHEAD: usize = 2 << 10;

/// A call and its tensor.
pub(super) struct Job {
    pub number: u64,
    pub call: Call,
    pub memory: Arc<Memory>,
}

impl Job {
    pub(super) fn is_large(&self) -> bool {
        self.call.elements * self.call.kind.elt_size_in_bytes() > SMALL
    }
}

pub(super) struct Engine {
    options: Options,
    receiving: Receiving,
    next: Output,
    sender: SenderThread,
    breaker: Breaker,
}

impl Engine {
    pub(super) fn new(group: Group, links: Links, options: Options) -> io::Result<Self> {
        Ok(Self {
            options,
            receiving: Receiving {
                group,
                patience: links.patience,
                wire: options.wire,
                previous: BufReader::with_capacity(AHEAD, links.previous),
                frame: Vec::new(),
            },
            next: links.next,
            sender: SenderThread::start(group, links.patience, links.breaker.clone())?,
            breaker: links.breaker,
        })
    }

    /// Carries an operation out. After an error the group is over, and all who can be told are.
    pub(super) fn run(self, job: &Job) -> Result<Self, CollectiveError> {
        match job.is_large() {
            true => self.run_large(job),
            false => self.run_small(job),
        }
    }

    fn run_large(mut self, job: &Job) -> Result<Self, CollectiveError> {
        let Group { rank, world, .. } = self.receiving.group;
        let segment = (self.options.frame / job.call.kind.elt_size_in_bytes()).max(1);
        let plan = plan(&job.call, rank, world, segment);
        let is_bf16 = self.is_bf16(&job.call);
        let gate = Arc::new(Gate::default());
        let sends = Sends {
            number: job.number,
            call: job.call,
            wire: self.options.wire,
            is_bf16,
            ranges: plan.sends,
            head: plan.head,
            memory: job.memory.clone(),
        };
        self.sender.send(self.next, sends, gate.clone());
        let mut received = self.receiving.call(job);
        for (range, into) in &plan.receives {
            if received.is_err() {
                break;
            }
            received = self.receiving.segment(job, range, *into, is_bf16);
            gate.received();
        }
        if let Err(error) = &received {
            gate.fail(error);
            gate.watch(&self.breaker);
            self.receiving.drain();
        }
        let sent = self.sender.outcome();
        gate.over();
        received?;
        self.next = sent?;
        Ok(self)
    }

    /// Sums are rounded on the way; what is only handed on stays as it is.
    fn is_bf16(&self, call: &Call) -> bool {
        let reduces = matches!(
            call.operation,
            Operation::AllReduce(_) | Operation::ReduceScatter(_)
        );
        reduces && call.kind == Kind::Float && self.options.wire == Wire::Bf16
    }

    fn run_small(mut self, job: &Job) -> Result<Self, CollectiveError> {
        match self.pass_round(job) {
            Ok(tensors) => {
                combine(self.receiving.group, job, &tensors);
                Ok(self)
            }
            Err(error) => {
                let gate = Arc::new(Gate::default());
                gate.watch(&self.breaker);
                self.sender.farewell(self.next, error.clone());
                self.receiving.drain();
                drop(self.sender.outcome());
                gate.over();
                Err(error)
            }
        }
    }

    /// All members' tensors, by rank.
    fn pass_round(&mut self, job: &Job) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let Group { rank, world, .. } = self.receiving.group;
        let (group, patience) = (self.receiving.group, self.receiving.patience);
        let failed = |error| write_fault(group, patience, &error);
        let mut tensors = vec![Vec::new(); world];
        // SAFETY: nobody else works on this call.
        let own = unsafe { job.memory.bytes(&(0..job.call.elements)) };
        tensors[rank] = own.to_vec();
        let number = job.number;
        let data = Header::Data {
            number,
            bytes: own.len() as u64,
        };
        let call = Header::Call {
            number,
            call: job.call,
            wire: self.options.wire,
        };
        let [call, data] = [call, data].map(|header| header.encode().expect("it has a place"));
        for hop in 0..world - 1 {
            let mut message = Vec::with_capacity(2 * HEADER + own.len());
            if hop == 0 {
                message.extend_from_slice(&call);
            }
            message.extend_from_slice(&data);
            message.extend_from_slice(&tensors[(rank + world - hop) % world]);
            let written = self.next.write_all(&message);
            written.and_then(|()| self.next.flush()).map_err(failed)?;
            if hop == 0 {
                self.receiving.call(job)?;
            }
            self.receiving.data(number, own.len())?;
            let of = (rank + 2 * world - 1 - hop) % world;
            tensors[of] = self.receiving.frame.clone();
        }
        Ok(tensors)
    }
}

/// Makes one tensor of those of all members.
fn combine(group: Group, job: &Job, tensors: &[Vec<u8>]) {
    let all = 0..job.call.elements;
    // SAFETY: nobody else works on this call, here and below.
    let own = unsafe { job.memory.bytes_mut(&all) };
    match job.call.operation {
        Operation::AllReduce(reduce) | Operation::ReduceScatter(reduce) => {
            own.copy_from_slice(&tensors[0]);
            for tensor in &tensors[1..] {
                reduce_into(job, &all, tensor, reduce);
            }
        }
        Operation::AllGather => {
            let size = job.call.kind.elt_size_in_bytes();
            for (rank, tensor) in tensors.iter().enumerate() {
                let share = share(job.call.elements, group.world, rank);
                let bytes = share.start * size..share.end * size;
                own[bytes.clone()].copy_from_slice(&tensor[bytes]);
            }
        }
        Operation::Broadcast { root } => own.copy_from_slice(&tensors[root]),
    }
}

fn reduce_into(job: &Job, range: &Range<usize>, frame: &[u8], reduce: Reduce) {
    fn typed<E: Element>(job: &Job, range: &Range<usize>, frame: &[u8], reduce: Reduce) {
        // SAFETY: the caller's kind says the type; nobody else works on these elements now.
        let own = unsafe { job.memory.elements_mut::<E>(range) };
        elements::reduce(own, frame, reduce);
    }
    match job.call.kind {
        Kind::Double => typed::<f64>(job, range, frame, reduce),
        _ => typed::<f32>(job, range, frame, reduce), // no others are taken
    }
}

/// What is read from the member before.
struct Receiving {
    group: Group,
    patience: Duration,
    wire: Wire,
    previous: BufReader<Box<dyn Read + Send>>,
    /// What a frame is read into.
    frame: Vec<u8>,
}

impl Receiving {
    /// Whether the member before asks for the same.
    fn call(&mut self, job: &Job) -> Result<(), CollectiveError> {
        let words = |number: u64, call: &Call, wire: Wire| match wire {
            Wire::F32 => format!("{call} (call {number})"),
            Wire::Bf16 => format!("{call} over bf16 (call {number})"),
        };
        match self.header()? {
            Header::Call { number, call, wire }
                if (number, call, wire) == (job.number, job.call, self.wire) =>
            {
                Ok(())
            }
            Header::Call { number, call, wire } => Err(CollectiveError::Mismatch {
                rank: self.group.previous(),
                found: words(number, &call, wire),
                expected: words(job.number, &job.call, self.wire),
            }),
            header => Err(self.nonsense(&format!("{header:?} where a call belongs"))),
        }
    }

    /// The header of a frame that has to be of `bytes`.
    fn announced(&mut self, number: u64, bytes: usize) -> Result<(), CollectiveError> {
        let expected = Header::Data {
            number,
            bytes: bytes as u64,
        };
        match self.header()? {
            header if header == expected => Ok(()),
            header => Err(self.nonsense(&format!("{header:?} and not {expected:?}"))),
        }
    }

    /// Reads a frame.
    fn data(&mut self, number: u64, bytes: usize) -> Result<(), CollectiveError> {
        self.announced(number, bytes)?;
        self.frame.resize(bytes, 0);
        let read = self.previous.read_exact(&mut self.frame);
        read.map_err(|error| self.fault(&error))
    }

    /// Reads a frame of a large tensor and does with it what has to be done.
    fn segment(
        &mut self,
        job: &Job,
        range: &Range<usize>,
        into: Into,
        is_bf16: bool,
    ) -> Result<(), CollectiveError> {
        let size = match is_bf16 {
            true => elements::f32_on(Wire::Bf16),
            false => job.call.kind.elt_size_in_bytes(),
        };
        let bytes = range.len() * size;
        if into == Into::Replace && !is_bf16 {
            self.announced(job.number, bytes)?;
            // SAFETY: the elements were sent before: what comes now depends on that.
            let own = unsafe { job.memory.bytes_mut(range) };
            let read = self.previous.read_exact(own);
            return read.map_err(|error| self.fault(&error));
        }
        self.data(job.number, bytes)?;
        let (Operation::AllReduce(reduce) | Operation::ReduceScatter(reduce)) = job.call.operation
        else {
            unreachable!("other operations replace")
        };
        if !is_bf16 {
            reduce_into(job, range, &self.frame, reduce);
            return Ok(());
        }
        // SAFETY: f32, and as above.
        let own = unsafe { job.memory.elements_mut::<f32>(range) };
        match into {
            Into::Replace => elements::replace_bf16(own, &self.frame),
            Into::Reduce => elements::reduce_bf16(own, &self.frame, reduce),
            Into::Complete => {
                elements::reduce_bf16(own, &self.frame, reduce);
                elements::round_bf16(own);
            }
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Header, CollectiveError> {
        let mut header = [0; HEADER];
        let read = self.previous.read_exact(&mut header);
        read.map_err(|error| self.fault(&error))?;
        match Header::decode(&header) {
            Ok(Header::Failure {
                detail,
                rank,
                bytes,
            }) => {
                let mut texts = vec![0; bytes as usize];
                let read = self.previous.read_exact(&mut texts);
                read.map_err(|error| self.fault(&error))?;
                Err(failure_of(detail, rank, &texts))
            }
            Ok(header) => Ok(header),
            Err(reason) => Err(self.nonsense(&reason)),
        }
    }

    /// Reads on until the member before ends, so that it can write what it has to say. The links
    /// are broken when that takes too long.
    fn drain(&mut self) {
        self.frame.resize(AHEAD.max(64 << 10), 0);
        while self
            .previous
            .read(&mut self.frame)
            .is_ok_and(|read| read > 0)
        {}
    }

    fn nonsense(&self, reason: &str) -> CollectiveError {
        CollectiveError::Protocol {
            rank: self.group.previous(),
            reason: reason.to_owned(),
        }
    }

    fn fault(&self, error: &io::Error) -> CollectiveError {
        let rank = self.group.previous();
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CollectiveError::TimedOut {
                rank,
                after: self.patience,
            },
            io::ErrorKind::InvalidData => self.nonsense(&error.to_string()),
            _ => CollectiveError::Gone { rank },
        }
    }
}
