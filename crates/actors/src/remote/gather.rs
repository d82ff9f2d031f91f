//! How a node comes by weights, and gives them on.
//!
//! - **GA-1 (checked).** Every chunk is checked as it arrives. One that is damaged is not kept: from a
//!   node it is the end of pulling from there, from the controller it is pulled again.
//! - **GA-2 (nothing twice).** A node that is told another source goes on with the chunks it has.
//! - **GA-3 (given on at once).** Chunks are given to other nodes as soon as they are held, and who asks
//!   sooner waits for them.
//! - **GA-4 (no wrong delta).** A delta is used only if this node holds the very bytes it begins with;
//!   otherwise everything is pulled, and it is said why.

use super::assembly::{Assembly, Filling};
use super::blobs::TransferError;
use super::pulling::{ChunkFault, Giver, KEPT_WAITING, NOT_HELD, STREAMS, TRIES, aside};
use crate::node::Dialler;
use crate::told::Told;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use proto::WeightSnapshot;
use proto::chunks::{
    DeltaPart, DeltaRefusal, Digest, Pulled, SourceFault, WeightDelta, WeightOffer,
};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout;
use transport::Connection;
use transport::bulk::{self, PullError};

/// The weights that a node holds, and those that it gets. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Shelf(Told<Held>);

#[derive(Clone, Default)]
struct Held {
    whole: Option<Arc<Assembly>>,
    coming: Option<Arc<Assembly>>,
}

impl Held {
    fn all(&self) -> impl Iterator<Item = &Arc<Assembly>> {
        self.coming.iter().chain(&self.whole)
    }

    /// The version that is given out under a number, or whose delta is.
    fn find(&self, id: u64) -> Option<(Arc<Assembly>, bool)> {
        let is_delta = |offer: &WeightOffer| {
            let delta = offer.delta.as_ref();
            match offer.hash.key() == id {
                true => Some(false),
                false => (delta?.hash.key() == id).then_some(true),
            }
        };
        self.all()
            .find_map(|held| Some((held.clone(), is_delta(&held.offer)?)))
    }
}

impl Shelf {
    /// Begins with an offer, or goes on with it.
    fn begin(&self, offer: &WeightOffer) -> Result<Arc<Assembly>, TransferError> {
        let held = self.0.value().clone();
        if let Some(same) = held.all().find(|held| held.offer.hash == offer.hash) {
            return Ok(same.clone());
        }
        let coming = Assembly::new(offer.clone());
        let coming = coming.map_err(|error| TransferError::Here(error.to_string()))?;
        self.0.change(|held| held.coming = Some(coming.clone()));
        Ok(coming)
    }

    /// It is whole: what was before is given out no longer.
    fn keep(&self, assembly: &Arc<Assembly>) {
        self.0.change(|held| {
            held.coming.take_if(|c| Arc::ptr_eq(c, assembly));
            held.whole = Some(assembly.clone());
        });
    }

    /// Returns once something is given out under this number.
    pub(super) async fn knows(&self, id: u64) {
        self.0.is(|held| held.find(id).is_some()).await;
    }

    /// Gives all memory back.
    pub(super) fn clear(&self) {
        self.0.change(|held| *held = Held::default());
    }

    /// The bytes that a delta begins with.
    fn base(&self, delta: &WeightDelta) -> Result<Arc<Vec<u8>>, DeltaRefusal> {
        let held = self.0.value().whole.clone().ok_or(DeltaRefusal::NoBase)?;
        let bytes = held.whole().ok_or(DeltaRefusal::NoBase)?;
        match held.offer.hash == delta.base {
            true => Ok(bytes),
            false => Err(DeltaRefusal::OtherBase {
                holds: held.offer.manifest.version,
                needs: delta.base_version,
            }),
        }
    }
}

/// Other nodes can pull weights, and nothing else of this node.
#[async_trait]
impl bulk::Source for Shelf {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let found = async {
            let (assembly, is_delta) = self.0.find(|held| held.find(id)).await;
            match is_delta {
                false => assembly.piece(range).await,
                true => assembly.delta_piece(range).await,
            }
        };
        match timeout(KEPT_WAITING, found).await {
            Ok(piece) => piece,
            Err(_) => Err(NOT_HELD.to_owned()),
        }
    }
}

/// What came of an offer.
pub(super) enum Gathered {
    /// The weights, and what it took.
    Whole(WeightSnapshot, Pulled),
    /// The source fails.
    Stuck(SourceFault, String),
}

/// Gets what is offered, from where it says; `bulk` leads to the controller.
///
/// # Errors
/// When the offer is wrong, or the controller does not give it.
pub(super) async fn gather(
    shelf: &Shelf,
    offer: WeightOffer,
    bulk: &Arc<dyn Connection>,
    dialler: &dyn Dialler,
) -> Result<Gathered, TransferError> {
    let checked = offer.check();
    checked.map_err(|error| TransferError::Here(error.to_string()))?;
    let assembly = shelf.begin(&offer)?;
    let giver = match Giver::reach(&offer.source, bulk, dialler).await {
        Ok(giver) => giver,
        Err(reason) => return Ok(Gathered::Stuck(SourceFault::Lost, reason)),
    };
    let gathering = Gathering {
        base: base(shelf, &assembly),
        assembly: assembly.clone(),
        giver,
    };
    let bytes = match gathering.giver.while_it_gives(gathering.all()).await {
        Ok(bytes) => bytes,
        Err(fault) if gathering.giver.is_node => {
            let (fault, reason) = fault.of_node();
            return Ok(Gathered::Stuck(fault, reason));
        }
        Err(fault) => return Err(fault.of_controller()),
    };
    shelf.keep(&assembly);
    let manifest = Arc::new(offer.manifest);
    let weights = WeightSnapshot { manifest, bytes };
    Ok(Gathered::Whole(weights, assembly.pulled()))
}

/// GA-4.
fn base(shelf: &Shelf, assembly: &Assembly) -> Option<Arc<Vec<u8>>> {
    let delta = assembly.offer.delta.as_ref()?;
    match shelf.base(delta) {
        Ok(base) => Some(base),
        Err(refusal) => {
            let version = assembly.offer.manifest.version;
            tracing::info!(%version, %refusal, "A delta of the weights is of no use: all is pulled.");
            assembly.end_delta();
            assembly.count(|pulled| pulled.refused = Some(refusal));
            None
        }
    }
}

/// Pulling of one version from one source.
struct Gathering {
    assembly: Arc<Assembly>,
    /// The bytes that the delta begins with, where it is of use.
    base: Option<Arc<Vec<u8>>>,
    giver: Giver,
}

impl Gathering {
    async fn all(&self) -> Result<Arc<Vec<u8>>, ChunkFault> {
        loop {
            if let Some(whole) = self.assembly.whole() {
                return Ok(whole);
            }
            let missing = self.assembly.next_missing().await;
            let pulls = missing.into_iter().map(|index| self.chunk(index));
            let mut pulls = futures::stream::iter(pulls).buffer_unordered(STREAMS);
            while let Some(done) = pulls.next().await {
                done?;
            }
        }
    }

    async fn chunk(&self, index: usize) -> Result<(), ChunkFault> {
        let Some(base) = &self.base else {
            return self.pull_whole(index).await;
        };
        let delta = self.assembly.offer.delta.as_ref();
        let is_done = match delta.map(|delta| delta.parts[index]) {
            Some(DeltaPart::Same) => self.take_over(index, base).await?,
            Some(DeltaPart::Xor { offset, len, hash }) => {
                let range = offset..offset + u64::from(len);
                self.change(index, base, range, hash).await?
            }
            Some(DeltaPart::Whole) | None => false,
        };
        match is_done {
            true => Ok(()),
            false => self.pull_whole(index).await,
        }
    }

    /// A chunk that has not changed. False if it is not what was said of it.
    async fn take_over(&self, index: usize, base: &Arc<Vec<u8>>) -> Result<bool, ChunkFault> {
        let Some(mut filling) = self.assembly.fill(index) else {
            return Ok(true);
        };
        let (base, range) = (base.clone(), self.within(index, base));
        let held = aside(move || {
            let is_long_enough = filling.push(&base[range]).is_ok();
            is_long_enough && filling.hold().is_ok()
        });
        let is_held = held.await?;
        self.saved(index, 0, is_held);
        Ok(is_held)
    }

    /// A chunk that has changed. False where the source has no delta.
    async fn change(
        &self,
        index: usize,
        base: &Arc<Vec<u8>>,
        range: Range<u64>,
        hash: Digest,
    ) -> Result<bool, ChunkFault> {
        let Some(filling) = self.assembly.fill(index) else {
            return Ok(true);
        };
        let Some(delta) = &self.assembly.offer.delta else {
            return Ok(false);
        };
        let id = self.giver.id(delta.hash, delta.lent);
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let pulled = self.pull(id, range, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        match pulled.await {
            Ok(()) => {}
            // It pulled everything itself.
            Err(ChunkFault::Pull(PullError::Refused(_))) if self.giver.is_node => {
                self.assembly.end_delta();
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        }
        let (base, within) = (base.clone(), self.within(index, base));
        let len = bytes.len() as u64;
        let held = aside(move || {
            let is_right = Digest::of(&bytes) == hash;
            let bytes = Bytes::from(bytes);
            let is_held = is_right && filling.hold_changed(&base[within], &bytes).is_ok();
            is_held.then_some(bytes)
        });
        match held.await? {
            Some(bytes) => {
                self.assembly.keep_delta(index, bytes);
                self.saved(index, len, true);
                Ok(true)
            }
            None if self.giver.is_node => Err(self.damaged(format!("the delta of chunk {index}"))),
            None => {
                self.assembly.count(|pulled| pulled.repaired += 1);
                Ok(false)
            }
        }
    }

    async fn pull_whole(&self, index: usize) -> Result<(), ChunkFault> {
        let offer = &self.assembly.offer;
        let id = self.giver.id(offer.hash, offer.lent);
        for _ in 0..TRIES {
            let Some(mut filling) = self.assembly.fill(index) else {
                return Ok(());
            };
            let range = offer.chunks.range(index);
            self.pull(id, range, |piece| filling.push(piece)).await?;
            let held = aside(move || Filling::hold(filling)).await?;
            match held {
                Ok(()) => return Ok(()),
                Err(damaged) if self.giver.is_node => return Err(self.damaged(damaged.to_string())),
                Err(damaged) => {
                    tracing::warn!(%damaged, "A chunk of the weights is pulled again.");
                    self.assembly.count(|pulled| pulled.repaired += 1);
                }
            }
        }
        let reason = format!("chunk {index} came damaged {TRIES} times");
        Err(ChunkFault::Damaged(reason))
    }

    async fn pull(
        &self,
        id: u64,
        range: Range<u64>,
        mut sink: impl FnMut(&[u8]) -> Result<(), String> + Send,
    ) -> Result<(), ChunkFault> {
        let pulled = self.giver.pull(id, range, |piece| {
            let len = piece.len() as u64;
            self.assembly.count(|pulled| {
                pulled.bytes += len;
                pulled.from_nodes_bytes += if self.giver.is_node { len } else { 0 };
            });
            sink(&piece)
        });
        pulled.await
    }

    fn damaged(&self, reason: String) -> ChunkFault {
        self.assembly.count(|pulled| pulled.repaired += 1);
        ChunkFault::Damaged(reason)
    }

    /// A chunk took so many bytes instead of all of its own.
    fn saved(&self, index: usize, took: u64, is_so: bool) {
        let range = self.assembly.offer.chunks.range(index);
        let saved = (range.end - range.start).saturating_sub(took);
        if is_so {
            self.assembly.count(|pulled| pulled.saved_bytes += saved);
        }
    }

    /// Where a chunk lies within the base; what does not fit is seen by its hash.
    fn within(&self, index: usize, base: &[u8]) -> Range<usize> {
        let range = self.assembly.offer.chunks.range(index);
        let end = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(base.len());
        end(range.start)..end(range.end)
    }
}

#[cfg(test)]
mod tests;
