//! One direction of a stream: what is on its way, and when it arrives.

use super::Ends;
use crate::Lane;
use crate::connection::{Incoming, Outgoing};
use crate::frame::{self, Decoder};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes on their way in one direction of a stream; who sends more waits.
const WINDOW_BYTES: usize = 1 << 20;

/// One direction of a stream.
pub(super) struct Pipe {
    ends: Arc<Ends>,
    /// Which side sends.
    from: usize,
    state: Mutex<PipeState>,
    changed: Notify,
}

#[derive(Default)]
struct PipeState {
    /// What is on its way: when it arrives, and which it is.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    bytes: BTreeMap<u64, Option<Bytes>>,
    next: u64,
    on_the_way: usize,
    /// What was sent during a cut: it goes on its way afterwards.
    held: VecDeque<(Option<Bytes>, bool)>,
    /// Nothing arrives before it, unless frames may overtake each other.
    latest: Option<Instant>,
    is_deserted: bool,
}

pub(super) fn pipe(ends: &Arc<Ends>, from: usize) -> (Sender, Receiver) {
    let pipe = Arc::new(Pipe {
        ends: ends.clone(),
        from,
        state: Mutex::default(),
        changed: Notify::new(),
    });
    let mut pipes = ends.pipes.lock().expect("no holder panics");
    pipes.retain(|pipe| pipe.strong_count() > 0);
    pipes.push(Arc::downgrade(&pipe));
    drop(pipes);
    let sender = Sender {
        pipe: pipe.clone(),
        decoder: Decoder::new(usize::MAX),
        is_finished: false,
    };
    (sender, Receiver { pipe })
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().expect("no holder panics")
    }

    /// Puts a piece on its way; `None` is the end of the stream.
    fn put(&self, piece: Option<Bytes>, is_frame: bool) {
        let (from, to) = (&self.ends.names[self.from], &self.ends.names[1 - self.from]);
        let mut network = self.ends.network.lock();
        if network.is_cut(from, to) {
            drop(network);
            let mut state = self.lock();
            state.on_the_way += piece.as_ref().map_or(0, Bytes::len);
            state.held.push_back((piece, is_frame));
            return;
        }
        let reorder = is_frame && network.rules(from, to).reorder;
        let fate = network.fate(from, to, is_frame);
        drop(network);
        let now = Instant::now();
        let mut state = self.lock();
        for delay in fate {
            let mut at = now + delay;
            if !reorder {
                at = state.latest.map_or(at, |latest| latest.max(at));
                state.latest = Some(at);
            }
            let number = state.next;
            state.next += 1;
            state.on_the_way += piece.as_ref().map_or(0, Bytes::len);
            state.due.push(Reverse((at, number)));
            state.bytes.insert(number, piece.clone());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Sends what was held.
    pub(super) fn release(&self) {
        let held = std::mem::take(&mut self.lock().held);
        for (piece, is_frame) in held {
            self.lock().on_the_way -= piece.as_ref().map_or(0, Bytes::len);
            self.put(piece, is_frame);
        }
    }

    /// Nothing that this side has sent arrives any more.
    pub(super) fn lose_from(&self, side: usize) {
        if self.from == side {
            let mut state = self.lock();
            state.due.clear();
            state.bytes.clear();
            state.held.clear();
        }
    }

    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().on_the_way < WINDOW_BYTES {
                return;
            }
            changed.await;
        }
    }

    async fn arrived(&self) -> Option<Bytes> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.lock();
                match state.due.peek() {
                    Some(&Reverse((at, number))) if at <= Instant::now() => {
                        state.due.pop();
                        let piece = state.bytes.remove(&number).flatten();
                        state.on_the_way -= piece.as_ref().map_or(0, Bytes::len);
                        drop(state);
                        self.changed.notify_waiters();
                        return piece;
                    }
                    Some(&Reverse((at, _))) => Some(at),
                    None if state.is_deserted && state.held.is_empty() => return None,
                    None => None,
                }
            };
            match due {
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }
}

pub(super) struct Sender {
    pipe: Arc<Pipe>,
    decoder: Decoder,
    is_finished: bool,
}

#[async_trait]
impl Outgoing for Sender {
    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        let pipe = self.pipe.clone();
        pipe.ends.wait(pipe.from, pipe.room()).await?;
        if !matches!(pipe.ends.lane, Lane::Control | Lane::Data) {
            pipe.put(Some(bytes), false);
            return Ok(());
        }
        self.decoder.push(bytes.clone());
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    let mut piece = BytesMut::new();
                    // What was decoded can be encoded.
                    let _ = frame::encode(frame.header, &frame.body, &mut piece);
                    pipe.put(Some(piece.freeze()), true);
                }
                Ok(None) => return Ok(()),
                // A test that sends no frames: it arrives as it is.
                Err(_) => {
                    self.decoder = Decoder::new(usize::MAX);
                    pipe.put(Some(bytes), false);
                    return Ok(());
                }
            }
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.is_finished = true;
        self.pipe.put(None, false);
        let pipe = self.pipe.clone();
        pipe.ends
            .wait(pipe.from, async {
                loop {
                    let changed = pipe.changed.notified();
                    let is_empty = {
                        let state = pipe.lock();
                        state.due.is_empty() && state.held.is_empty()
                    };
                    if is_empty {
                        return;
                    }
                    changed.await;
                }
            })
            .await
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // The end of the connection, which is under way, says more.
        if !self.is_finished && self.pipe.ends.check(self.pipe.from).is_ok() {
            self.pipe.lock().is_deserted = true;
            self.pipe.changed.notify_waiters();
        }
    }
}

pub(super) struct Receiver {
    pipe: Arc<Pipe>,
}

#[async_trait]
impl Incoming for Receiver {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        let pipe = self.pipe.clone();
        pipe.ends.wait(1 - pipe.from, pipe.arrived()).await
    }
}
