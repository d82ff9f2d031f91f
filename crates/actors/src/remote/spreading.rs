//! The controller's part in bringing weights and files to nodes: one offer a version or a folder, and
//! for each node a source (`control::spread`).

use super::assembly::exclusive_or;
use super::blobs::{Blobs, Loan};
use super::on_threads::on_threads;
use super::{RemoteEngine, RemoteFault};
use crate::ports::EngineError;
use crate::vitals::LONGEST_DELIVERY;
use control::membership::NodeId;
use control::spread::{MOST_SOURCES, Source, Spread, Standing, Trust};
use proto::chunks::{
    CHUNK_BYTES, ChunkSource, Chunks, DeltaPart, Digest, Pulled, SourceFault, WeightAnswer,
    WeightDelta, WeightOffer,
};
use proto::cluster::EngineRequest;
use proto::files::{FileList, SourceNeed, SourceRequest};
use proto::{NodeName, WeightSnapshot, codec};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Settings of the way of weights and files to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpreadPlan {
    /// Nodes that one gives a version, or a folder's files, to, and the controller too, at most.
    pub fan_out: usize,
    /// Whether nodes that hold the version before are offered what has changed. The controller then
    /// holds that version, too.
    pub deltas: bool,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
}

impl Default for SpreadPlan {
    fn default() -> Self {
        Self {
            fan_out: 4,
            deltas: false,
            chunk_bytes: CHUNK_BYTES,
        }
    }
}

/// Level of zstd. Changes are mostly zeros: higher ones take longer for the same.
const LEVEL: i32 = 1;

/// Of ten parts, those that a compressed chunk has at most to be worth it.
const WORTH_TENTHS: usize = 9;

/// What is spread, and among whom. Clones are the same.
#[derive(Clone)]
pub(crate) struct Spreading(Arc<Inner>);

struct Inner {
    plan: SpreadPlan,
    blobs: Blobs,
    newest: tokio::sync::Mutex<Option<Arc<Version>>>,
    known: Mutex<Known>,
}

/// Addresses of nodes, and their standing.
#[derive(Default)]
struct Known {
    addresses: BTreeMap<NodeId, (NodeName, Option<String>)>,
    trust: Trust,
    /// The ways of the files that are lent, by their hash.
    files: BTreeMap<Digest, Spread>,
}

/// A version, as it is offered. It can be pulled as long as this lives.
pub(super) struct Version {
    pub(super) offer: WeightOffer,
    weights: WeightSnapshot,
    spread: Mutex<Spread>,
    _loans: [Option<Loan>; 2],
}

impl Spreading {
    pub(crate) fn new(plan: SpreadPlan, blobs: Blobs) -> Self {
        Self(Arc::new(Inner {
            plan,
            blobs,
            newest: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }))
    }

    /// A node joins.
    pub(crate) fn enter(&self, id: NodeId, name: NodeName, address: Option<String>) {
        self.known().addresses.insert(id, (name, address));
    }

    /// A node is lost.
    pub(crate) fn leave(&self, id: NodeId) {
        let mut known = self.known();
        known.addresses.remove(&id);
        known.trust.left(id);
        known.files.values_mut().for_each(|spread| spread.lost(id));
    }

    /// Where a node pulls files from.
    pub(crate) fn file_source(&self, node: NodeId, request: SourceRequest) -> ChunkSource {
        let (fan_out, blobs) = (self.0.plan.fan_out, &self.0.blobs);
        let mut known = self.known();
        let known = &mut *known;
        known.files.retain(|hash, _| blobs.lends(*hash));
        // A node that is lost meanwhile gets no place, and of what is not lent nobody has more.
        if !known.addresses.contains_key(&node) || !blobs.lends(request.hash) {
            return ChunkSource::Controller;
        }
        let standing = known.standing(node);
        let spread = known.files.entry(request.hash);
        let spread = spread.or_insert_with(|| Spread::new(fan_out));
        let source = match request.need {
            SourceNeed::First => spread.ask(node, standing),
            SourceNeed::Nothing => {
                spread.hold(node, standing);
                return ChunkSource::Controller;
            }
            SourceNeed::Other(fault) => {
                let (old, next) = (spread.source(node), spread.failed(node));
                if let Some(Source::Node(old)) = old {
                    known.distrust(node, old, fault);
                }
                next
            }
        };
        known.way(source)
    }

    /// The files of a folder have just come, and are these.
    pub(super) async fn know(&self, folder: &Path, list: Arc<FileList>) {
        let (blobs, path) = (self.0.blobs.clone(), folder.to_owned());
        let known = crate::blocking::run(move || blobs.know(&path, list)).await;
        let known = known.map_err(io::Error::other).and_then(|known| known);
        if let Err(error) = known {
            tracing::debug!(%error, folder = %folder.display(), "A folder will be read again.");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().expect("no holder panics")
    }

    /// The offer of these weights; made once, whoever asks first.
    async fn version(&self, weights: &WeightSnapshot) -> Result<Arc<Version>, EngineError> {
        let mut newest = self.0.newest.lock().await;
        let is_same = |version: &&mut Arc<Version>| {
            Arc::ptr_eq(&version.weights.bytes, &weights.bytes)
                && Arc::ptr_eq(&version.weights.manifest, &weights.manifest)
        };
        if let Some(same) = newest.as_mut().filter(is_same) {
            return Ok(same.clone());
        }
        let base = newest.take().filter(|_| self.0.plan.deltas);
        let (plan, blobs, weights) = (self.0.plan, self.0.blobs.clone(), weights.clone());
        let making = move || Version::make(plan, &blobs, weights, base.as_deref());
        let made = crate::blocking::run(making).await;
        let made = made.map_err(|error| EngineError(error.to_string()))?;
        let made = Arc::new(made.map_err(|error| EngineError(error.to_string()))?);
        *newest = Some(made.clone());
        Ok(made)
    }

    /// Where a node begins.
    fn source(&self, version: &Version, node: NodeId) -> ChunkSource {
        let known = self.known();
        known.way(version.spread().ask(node, known.standing(node)))
    }

    /// Where a node goes on whose source fails.
    fn other_source(&self, version: &Version, node: NodeId, fault: SourceFault) -> ChunkSource {
        let mut known = self.known();
        let mut spread = version.spread();
        if let Some(Source::Node(old)) = spread.source(node) {
            known.distrust(node, old, fault);
        }
        known.way(spread.failed(node))
    }
}

impl Known {
    fn standing(&self, node: NodeId) -> Standing {
        let address = self.addresses.get(&node);
        let has_address = address.is_some_and(|(_, address)| address.is_some());
        self.trust.standing(node, has_address)
    }

    /// A node's source fails.
    fn distrust(&mut self, node: NodeId, source: NodeId, fault: SourceFault) {
        if self.trust.failed(node, source, fault)
            && let Some((name, _)) = self.addresses.get(&source)
        {
            tracing::warn!(node = %name, ?fault, "A node gives nothing to others any more.");
        }
    }

    fn way(&self, source: Source) -> ChunkSource {
        let Source::Node(id) = source else {
            return ChunkSource::Controller;
        };
        match self.addresses.get(&id) {
            Some((name, Some(address))) => ChunkSource::Node {
                name: name.clone(),
                address: address.clone(),
            },
            _ => ChunkSource::Controller,
        }
    }
}

impl Version {
    fn spread(&self) -> MutexGuard<'_, Spread> {
        self.spread.lock().expect("no holder panics")
    }

    /// Hashes, and compares with the version before. Blocks.
    pub(super) fn make(
        plan: SpreadPlan,
        blobs: &Blobs,
        weights: WeightSnapshot,
        base: Option<&Self>,
    ) -> Result<Self, codec::CodecError> {
        let size = plan.chunk_bytes.max(1);
        let count = Chunks::count(weights.bytes.len() as u64, size);
        let chunk = |index: usize| chunk(&weights.bytes, index, size);
        let hashes = on_threads(count, |index| Digest::of(chunk(index)));
        let (lent, loan) = blobs.lend_memory(weights.bytes.clone());
        let mut offer = WeightOffer::new(&weights, size, hashes, lent)?;
        let mut loans = [Some(loan), None];
        if let Some((parts, bytes)) = base.and_then(|base| base.changes(&offer, &weights)) {
            let base = base.map_or(&offer, |base| &base.offer);
            let (lent, loan) = blobs.lend_memory(Arc::new(bytes));
            offer.delta = Some(WeightDelta {
                base: base.hash,
                base_version: base.manifest.version,
                hash: WeightDelta::hash_of(base.hash, &parts)?,
                parts,
                lent,
            });
            loans[1] = Some(loan);
        }
        Ok(Self {
            offer,
            weights,
            spread: Mutex::new(Spread::new(plan.fan_out)),
            _loans: loans,
        })
    }

    /// What has changed since this version, if it is worth it.
    fn changes(
        &self,
        offer: &WeightOffer,
        weights: &WeightSnapshot,
    ) -> Option<(Vec<DeltaPart>, Vec<u8>)> {
        let (before, now) = (&self.offer.chunks, &offer.chunks);
        let is_alike = self.offer.manifest.tensors == offer.manifest.tensors
            && (before.len, before.size) == (now.len, now.size);
        if !is_alike {
            return None;
        }
        let old = |index: usize| chunk(&self.weights.bytes, index, now.size);
        let packed = on_threads(now.hashes.len(), |index| {
            let is_same = before.hashes[index] == now.hashes[index];
            (!is_same).then(|| pack(old(index), chunk(&weights.bytes, index, now.size)))
        });
        let (mut parts, mut bytes, mut whole) = (Vec::new(), Vec::new(), 0);
        for (index, packed) in packed.into_iter().enumerate() {
            parts.push(match packed {
                None => DeltaPart::Same,
                Some(Some(xor)) => {
                    let part = DeltaPart::Xor {
                        offset: bytes.len() as u64,
                        len: xor.len() as u32,
                        hash: Digest::of(&xor),
                    };
                    bytes.extend(xor);
                    part
                }
                Some(None) => {
                    whole += old(index).len();
                    DeltaPart::Whole
                }
            });
        }
        let all = weights.bytes.len();
        is_worth(bytes.len() + whole, all).then_some((parts, bytes))
    }
}

fn chunk(bytes: &[u8], index: usize, size: u32) -> &[u8] {
    let start = index * size as usize;
    &bytes[start..bytes.len().min(start + size as usize)]
}

fn is_worth(packed: usize, whole: usize) -> bool {
    packed * 10 <= whole * WORTH_TENTHS
}

/// The exclusive or of a chunk before and after, compressed, if it is worth it.
fn pack(before: &[u8], after: &[u8]) -> Option<Vec<u8>> {
    let mut xor = after.to_vec();
    exclusive_or(&mut xor, before);
    let packed = zstd::bulk::compress(&xor, LEVEL).ok()?;
    is_worth(packed.len(), after.len()).then_some(packed)
}

impl RemoteEngine {
    /// Has the node serve these weights, from whichever source it takes to bring them there.
    pub(crate) async fn publish(
        &self,
        weights: WeightSnapshot,
    ) -> Result<Result<Pulled, EngineError>, RemoteFault> {
        let version = self.spreading.version(&weights).await;
        let version = version.map_err(|error| RemoteFault::Refused(error.to_string()))?;
        let mut source = self.spreading.source(&version, self.id);
        for _ in 0..=MOST_SOURCES {
            let offer = WeightOffer {
                source,
                ..version.offer.clone()
            };
            let request = EngineRequest::Publish(Box::new(offer));
            let asked = self.ask::<Result<WeightAnswer, EngineError>>(&request, LONGEST_DELIVERY);
            match asked.await {
                Ok(Ok(WeightAnswer::Served(pulled))) => return Ok(Ok(pulled)),
                Ok(Ok(WeightAnswer::Stuck(fault, reason))) => {
                    tracing::info!(node = %self.node, ?fault, reason, "Weights come from elsewhere.");
                    source = self.spreading.other_source(&version, self.id, fault);
                }
                Ok(Err(error)) => return Ok(Err(error)),
                Err(fault) => {
                    version.spread().lost(self.id);
                    return Err(fault);
                }
            }
        }
        let reason = "it says that the controller fails, and stays connected";
        Err(RemoteFault::Refused(reason.to_owned()))
    }
}
