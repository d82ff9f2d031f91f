//! One version of the weights while it comes together.
//!
//! - **WA-1 (checked).** A chunk is held, given on and served only when its hash is the announced one.
//! - **WA-2 (one buffer).** Chunks land where they belong, in any order; the whole is never copied.
//! - **WA-3 (whole).** There is a snapshot once every chunk is held, and not before.

use bytes::{Bytes, BytesMut};
use proto::chunks::{Chunks, DeltaPart, Digest, Pulled, WeightDelta, WeightOffer};
use std::collections::TryReserveError;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::Notify;

/// The chunks of a version, and what its delta brought.
pub(super) struct Assembly {
    pub(super) offer: WeightOffer,
    cells: Vec<Mutex<Cell>>,
    left: AtomicUsize,
    whole: OnceLock<Arc<Vec<u8>>>,
    /// By chunk: the bytes of the delta, kept for those who pull from here.
    deltas: Vec<OnceLock<Bytes>>,
    /// This node does not pull the delta: nobody needs to wait for it here.
    is_without_delta: AtomicBool,
    pulled: Mutex<Pulled>,
    changed: Notify,
}

/// A chunk's part of the buffer.
enum Cell {
    /// Empty, with room for the chunk.
    Open(BytesMut),
    /// Being filled, or part of the whole.
    Taken,
    /// Filled and checked.
    Held(BytesMut),
}

/// What came is not what was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk {0} is damaged: its hash is not the announced one")]
pub(super) struct Damaged(usize);

impl Assembly {
    /// Room for all of it. The offer was checked.
    pub(super) fn new(offer: WeightOffer) -> Result<Arc<Self>, TryReserveError> {
        let len = usize::try_from(offer.chunks.len).unwrap_or(usize::MAX);
        // `BytesMut` ends the process where there is no room.
        Vec::<u8>::new().try_reserve_exact(len)?;
        let mut rest = BytesMut::with_capacity(len);
        let count = offer.chunks.hashes.len();
        let mut cells = Vec::with_capacity(count);
        for index in 0..count {
            let behind = rest.split_off(len_of(&offer.chunks, index));
            let cell = std::mem::replace(&mut rest, behind);
            cells.push(Mutex::new(Cell::Open(cell)));
        }
        Ok(Arc::new(Self {
            left: AtomicUsize::new(count),
            cells,
            whole: OnceLock::new(),
            deltas: (0..count).map(|_| OnceLock::new()).collect(),
            is_without_delta: AtomicBool::new(offer.delta.is_none()),
            pulled: Mutex::default(),
            changed: Notify::new(),
            offer,
        }))
    }

    /// The chunks that are to be filled; none once all are held. Where all others are being filled, it
    /// waits for what comes of that.
    pub(super) async fn next_missing(&self) -> Vec<usize> {
        loop {
            let changed = self.changed.notified();
            let missing = self.missing();
            if !missing.is_empty() || self.left.load(Ordering::SeqCst) == 0 {
                return missing;
            }
            changed.await;
        }
    }

    fn missing(&self) -> Vec<usize> {
        let is_open = |index: &usize| matches!(*self.cell(*index), Cell::Open(_));
        (0..self.cells.len()).filter(is_open).collect()
    }

    /// Begins to fill a chunk, unless it is held, or another does.
    pub(super) fn fill(self: &Arc<Self>, index: usize) -> Option<Filling> {
        let mut cell = self.cell(index);
        match std::mem::replace(&mut *cell, Cell::Taken) {
            Cell::Open(bytes) => Some(Filling {
                assembly: self.clone(),
                index,
                bytes,
                is_held: false,
            }),
            other => {
                *cell = other;
                None
            }
        }
    }

    /// All bytes, once every chunk is held.
    pub(super) fn whole(&self) -> Option<Arc<Vec<u8>>> {
        if self.left.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let whole = self.whole.get_or_init(|| self.join()).clone();
        self.changed.notify_waiters();
        Some(whole)
    }

    /// Adds to what it took so far.
    pub(super) fn count(&self, add: impl FnOnce(&mut Pulled)) {
        add(&mut self.pulled.lock().expect("no holder panics"));
    }

    /// What it took so far.
    pub(super) fn pulled(&self) -> Pulled {
        self.pulled.lock().expect("no holder panics").clone()
    }

    /// The parts lie one behind the other: nothing is copied.
    fn join(&self) -> Arc<Vec<u8>> {
        let mut all = BytesMut::new();
        for index in 0..self.cells.len() {
            if let Cell::Held(bytes) = std::mem::replace(&mut *self.cell(index), Cell::Taken) {
                match index {
                    0 => all = bytes,
                    _ => all.unsplit(bytes),
                }
            }
        }
        Arc::new(all.into())
    }

    /// Keeps a chunk's bytes of the delta for others.
    pub(super) fn keep_delta(&self, index: usize, bytes: Bytes) {
        // The same bytes may have come twice.
        let _ = self.deltas[index].set(bytes);
        self.changed.notify_waiters();
    }

    /// Nothing more comes of the delta.
    pub(super) fn end_delta(&self) {
        self.is_without_delta.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Bytes of one chunk, once it is held.
    pub(super) async fn piece(&self, range: Range<u64>) -> Result<Bytes, String> {
        let chunks = &self.offer.chunks;
        let index = (range.start / u64::from(chunks.size)) as usize;
        let within = match index < self.cells.len() {
            true => part(&range, chunks.range(index))?,
            false => return Err(OUTSIDE.to_owned()),
        };
        loop {
            let changed = self.changed.notified();
            if let Some(whole) = self.whole.get() {
                let range = range.start as usize..range.end as usize;
                return Ok(Bytes::from_owner(Shared(whole.clone())).slice(range));
            }
            if let Cell::Held(bytes) = &*self.cell(index) {
                return Ok(Bytes::copy_from_slice(&bytes[within]));
            }
            changed.await;
        }
    }

    /// Bytes of the delta of one chunk, once they are held.
    pub(super) async fn delta_piece(&self, range: Range<u64>) -> Result<Bytes, String> {
        let none = || "this node has no such delta".to_owned();
        let delta = self.offer.delta.as_ref().ok_or_else(none)?;
        let (index, whole) = delta_at(delta, range.start).ok_or(OUTSIDE)?;
        let within = part(&range, whole)?;
        loop {
            let changed = self.changed.notified();
            if let Some(bytes) = self.deltas[index].get() {
                return Ok(bytes.slice(within));
            }
            if self.is_without_delta.load(Ordering::SeqCst) {
                return Err(none());
            }
            changed.await;
        }
    }

    fn cell(&self, index: usize) -> MutexGuard<'_, Cell> {
        self.cells[index].lock().expect("no holder panics")
    }
}

const OUTSIDE: &str = "there is no such chunk";

/// The chunk whose delta holds a byte of it, and where that lies.
fn delta_at(delta: &WeightDelta, at: u64) -> Option<(usize, Range<u64>)> {
    let parts = delta.parts.iter().enumerate();
    let mut ranges = parts.filter_map(|(index, part)| match part {
        DeltaPart::Xor { offset, len, .. } => Some((index, *offset..offset + u64::from(*len))),
        DeltaPart::Same | DeltaPart::Whole => None,
    });
    ranges.find(|(_, range)| range.contains(&at))
}

/// Where a range lies within another.
fn part(range: &Range<u64>, whole: Range<u64>) -> Result<Range<usize>, String> {
    match whole.start <= range.start && range.start <= range.end && range.end <= whole.end {
        true => Ok((range.start - whole.start) as usize..(range.end - whole.start) as usize),
        false => Err(OUTSIDE.to_owned()),
    }
}

fn len_of(chunks: &Chunks, index: usize) -> usize {
    let range = chunks.range(index);
    (range.end - range.start) as usize
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A chunk while it is filled. Dropped before it is held, it is empty again.
pub(super) struct Filling {
    assembly: Arc<Assembly>,
    index: usize,
    bytes: BytesMut,
    is_held: bool,
}

impl Filling {
    /// Adds bytes. What would not fit is refused: it would move the chunk.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let room = len_of(&self.assembly.offer.chunks, self.index) - self.bytes.len();
        if bytes.len() > room {
            return Err(format!("chunk {} is too long", self.index));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The chunk is held, if its hash is right.
    pub(super) fn hold(mut self) -> Result<(), Damaged> {
        let index = self.index;
        if Digest::of(&self.bytes) != self.assembly.offer.chunks.hashes[index] {
            return Err(Damaged(index));
        }
        self.is_held = true;
        Ok(())
    }

    /// The same, from the chunk before and compressed changes.
    pub(super) fn hold_changed(mut self, base: &[u8], xor: &[u8]) -> Result<(), Damaged> {
        let damaged = Damaged(self.index);
        let mut changed = zstd::bulk::decompress(xor, base.len()).map_err(|_| damaged)?;
        if changed.len() != base.len() {
            return Err(damaged);
        }
        exclusive_or(&mut changed, base);
        self.push(&changed).map_err(|_| damaged)?;
        self.hold()
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let cell = match self.is_held {
            true => Cell::Held(bytes),
            false => {
                bytes.clear();
                Cell::Open(bytes)
            }
        };
        *self.assembly.cell(self.index) = cell;
        if self.is_held {
            self.assembly.left.fetch_sub(1, Ordering::SeqCst);
        }
        self.assembly.changed.notify_waiters();
    }
}

/// `into ^= other`, byte by byte.
pub(super) fn exclusive_or(into: &mut [u8], other: &[u8]) {
    for (a, b) in into.iter_mut().zip(other) {
        *a ^= b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{WeightManifest, WeightSnapshot, WeightVersion};

    fn assembly(bytes: &[u8], size: u32) -> Arc<Assembly> {
        let manifest = WeightManifest {
            version: WeightVersion(1),
            tensors: Vec::new(),
            adapter: None,
            base: None,
            checksum: 0,
        };
        let weights = WeightSnapshot {
            manifest: Arc::new(manifest),
            bytes: Arc::new(bytes.to_vec()),
        };
        let hashes = bytes.chunks(size as usize).map(Digest::of).collect();
        Assembly::new(WeightOffer::new(&weights, size, hashes, 0).unwrap()).unwrap()
    }

    fn fill(assembly: &Arc<Assembly>, index: usize, bytes: &[u8]) -> Result<(), Damaged> {
        let mut filling = assembly.fill(index).unwrap();
        filling.push(bytes).unwrap();
        filling.hold()
    }

    #[test]
    fn wa_2_chunks_come_in_any_order_into_one_buffer() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n.wrapping_mul(n) as u8).collect();
        let assembly = assembly(&bytes, 4096);
        let first = match &*assembly.cell(0) {
            Cell::Open(bytes) => bytes.as_ptr(),
            _ => panic!("nothing came yet"),
        };
        let mut order: Vec<usize> = assembly.missing();
        assert_eq!(order.len(), 25);
        order.sort_by_key(|n| n * 7 % 25);
        for index in order {
            assert!(assembly.whole().is_none(), "WA-3");
            let range = index * 4096..bytes.len().min((index + 1) * 4096);
            fill(&assembly, index, &bytes[range]).unwrap();
        }
        let whole = assembly.whole().unwrap();
        assert_eq!(*whole, bytes);
        assert_eq!(whole.as_ptr(), first, "it was copied");
    }

    #[test]
    fn wa_1_a_damaged_chunk_is_as_if_it_had_not_come() {
        let assembly = assembly(b"abcdefgh", 4);
        assert_eq!(fill(&assembly, 0, b"abcX"), Err(Damaged(0)));
        assert_eq!(fill(&assembly, 0, b"abc"), Err(Damaged(0)));
        assert!(assembly.fill(0).unwrap().push(b"abcde").is_err());
        assert_eq!(assembly.missing(), [0, 1]);
        fill(&assembly, 0, b"abcd").unwrap();
        assert!(assembly.fill(0).is_none(), "it is held");
        assert!(assembly.whole().is_none(), "WA-3");
        fill(&assembly, 1, b"efgh").unwrap();
        assert_eq!(**assembly.whole().unwrap(), *b"abcdefgh");
    }

    #[tokio::test]
    async fn a_chunk_is_given_on_before_the_others_are_there() {
        let assembly = assembly(b"abcdefgh", 4);
        let waiting = tokio::spawn({
            let assembly = assembly.clone();
            async move { assembly.piece(5..7).await }
        });
        fill(&assembly, 1, b"efgh").unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), "fg");
        for bad in [3..5, 8..9, 4..9] {
            assert!(assembly.piece(bad).await.is_err());
        }
    }

    #[test]
    fn no_weights_are_whole_at_once() {
        let assembly = assembly(b"", 4);
        assert!(assembly.whole().unwrap().is_empty());
    }
}
