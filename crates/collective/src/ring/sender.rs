//! The thread that writes to the next member, while another one reads from the one before.
#![allow(unsafe_code)]

use super::elements::encode_bf16;
use super::memory::Memory;
use super::wire::{Header, Wire, failure_frame, write_both};
use super::{Breaker, Output};
use crate::call::Call;
use crate::{CollectiveError, Group};
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// For so long a group that is over is kept open, so that all members learn why.
const GRACE: Duration = Duration::from_secs(2);

/// How far the one who receives has come.
#[derive(Debug, Default)]
pub(super) struct Gate {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    receipts: usize,
    failure: Option<CollectiveError>,
    is_over: bool,
}

impl Gate {
    fn update(&self, update: impl FnOnce(&mut Progress)) {
        update(&mut self.progress.lock().expect("no holder panics"));
        self.changed.notify_all();
    }

    pub(super) fn received(&self) {
        self.update(|progress| progress.receipts += 1);
    }

    pub(super) fn fail(&self, error: &CollectiveError) {
        self.update(|progress| {
            progress.failure.get_or_insert_with(|| error.clone());
        });
    }

    /// Nothing is read or written any more.
    pub(super) fn over(&self) {
        self.update(|progress| progress.is_over = true);
    }

    fn wait_for(&self, receipts: usize) -> Result<(), CollectiveError> {
        let progress = self.progress.lock().expect("no holder panics");
        let waiting = |p: &mut Progress| p.receipts < receipts && p.failure.is_none();
        let progress = self.changed.wait_while(progress, waiting);
        match &progress.expect("no holder panics").failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Breaks the links of a group that has failed, unless all is over after [`GRACE`]: for so long
    /// members may tell each other why.
    pub(super) fn watch(self: &Arc<Self>, breaker: &Breaker) {
        let (gate, to_break) = (self.clone(), breaker.clone());
        let watching = thread::Builder::new()
            .name("ring-end".to_owned())
            .spawn(move || {
                let progress = gate.progress.lock().expect("no holder panics");
                let waiting = |p: &mut Progress| !p.is_over;
                let waited = gate.changed.wait_timeout_while(progress, GRACE, waiting);
                if waited.expect("no holder panics").1.timed_out() {
                    to_break();
                }
            });
        if watching.is_err() {
            breaker();
        }
    }
}

/// One operation's frames.
pub(super) struct Sends {
    pub number: u64,
    pub call: Call,
    pub wire: Wire,
    /// Whether the frames are rounded to bf16.
    pub is_bf16: bool,
    pub ranges: Vec<Range<usize>>,
    /// As in a plan.
    pub head: usize,
    pub memory: Arc<Memory>,
}

enum Order {
    Send(Output, Sends, Arc<Gate>),
    Farewell(Output, CollectiveError),
}

type Outcome = Result<Output, CollectiveError>;

/// Its handle. The stream to write to is handed to and fro.
pub(super) struct SenderThread {
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
}

impl SenderThread {
    pub(super) fn start(group: Group, patience: Duration, breaker: Breaker) -> io::Result<Self> {
        let (orders, received) = channel();
        let (done, outcomes) = channel();
        let worker = Worker {
            group,
            patience,
            breaker,
        };
        thread::Builder::new()
            .name(format!("ring-send-{}", group.rank))
            .spawn(move || {
                for order in received {
                    if done.send(worker.carry_out(order)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { orders, outcomes })
    }

    pub(super) fn send(&self, output: Output, sends: Sends, gate: Arc<Gate>) {
        let _ = self.orders.send(Order::Send(output, sends, gate));
    }

    /// Tells the next member why the group is over.
    pub(super) fn farewell(&self, output: Output, error: CollectiveError) {
        let _ = self.orders.send(Order::Farewell(output, error));
    }

    /// Waits until the order is carried out.
    pub(super) fn outcome(&self) -> Outcome {
        let ended = || CollectiveError::Aborted("the thread that sends panicked".to_owned());
        self.outcomes.recv().unwrap_or_else(|_| Err(ended()))
    }
}

struct Worker {
    group: Group,
    patience: Duration,
    breaker: Breaker,
}

impl Worker {
    fn carry_out(&self, order: Order) -> Outcome {
        match order {
            Order::Send(mut output, sends, gate) => match self.send(&mut output, &sends, &gate) {
                Ok(()) => Ok(output),
                Err(error) => {
                    // The one who receives may wait for somebody who is gone, too.
                    gate.watch(&self.breaker);
                    Err(part(output, error))
                }
            },
            Order::Farewell(output, error) => Err(part(output, error)),
        }
    }

    fn send(&self, output: &mut Output, sends: &Sends, gate: &Gate) -> Result<(), CollectiveError> {
        let failed = |error| write_fault(self.group, self.patience, &error);
        let (number, wire) = (sends.number, sends.wire);
        let call = Header::Call {
            number,
            call: sends.call,
            wire,
        };
        let call = call.encode().expect("checked when it was called");
        output.write_all(&call).map_err(failed)?;
        let mut encoded = Vec::new();
        for (index, range) in sends.ranges.iter().enumerate() {
            gate.wait_for((index + 1).saturating_sub(sends.head))?;
            let bytes = if sends.is_bf16 {
                // SAFETY: f32, or it would not be bf16 on the wire; nothing replaces these elements
                // before they were sent.
                encode_bf16(unsafe { sends.memory.elements(range) }, &mut encoded);
                &encoded[..]
            } else {
                // SAFETY: as above.
                unsafe { sends.memory.bytes(range) }
            };
            let header = Header::Data {
                number,
                bytes: bytes.len() as u64,
            };
            let header = header.encode().expect("data have a place on the wire");
            write_both(&mut **output, &header, bytes).map_err(failed)?;
        }
        output.flush().map_err(failed)
    }
}

/// Ends this side: says why, if there is still somebody to say it to.
fn part(mut output: Output, error: CollectiveError) -> CollectiveError {
    let _ = output
        .write_all(&failure_frame(&error))
        .and_then(|()| output.flush());
    error
}

/// What it means that the next member cannot be written to.
pub(super) fn write_fault(group: Group, patience: Duration, error: &io::Error) -> CollectiveError {
    let rank = group.next();
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CollectiveError::TimedOut {
            rank,
            after: patience,
        },
        _ => CollectiveError::Gone { rank },
    }
}
