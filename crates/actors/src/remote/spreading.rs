//! How the controller brings weights to nodes: one offer a version, and for each node a source
//! (`control::spread`).

use super::assembly::exclusive_or;
use super::blobs::{Blobs, Loan};
use super::{RemoteEngine, RemoteFault};
use crate::fleet::ENGINE_LIMIT;
use crate::ports::EngineError;
use control::membership::NodeId;
use control::spread::{MOST_SOURCES, Source, Spread, Trust};
use proto::chunks::{
    CHUNK_BYTES, Chunks, DeltaPart, Digest, Pulled, SourceFault, WeightAnswer, WeightDelta,
    WeightOffer, WeightSource,
};
use proto::cluster::EngineRequest;
use proto::{NodeName, WeightSnapshot, codec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// How weights are brought to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpreadPlan {
    /// Nodes that one gives a version to, and the controller too, at most.
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

/// Threads that hash and compress, at most.
const MOST_THREADS: usize = 8;

/// Chunks for which another thread is worth it.
const CHUNKS_A_THREAD: usize = 8;

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

/// What is known of nodes that sample.
#[derive(Default)]
struct Known {
    addresses: BTreeMap<NodeId, (NodeName, Option<String>)>,
    trust: Trust,
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

    /// A node samples from now on.
    pub(crate) fn enter(&self, id: NodeId, name: NodeName, address: Option<String>) {
        self.known().addresses.insert(id, (name, address));
    }

    /// A node is lost.
    pub(crate) fn leave(&self, id: NodeId) {
        let mut known = self.known();
        known.addresses.remove(&id);
        known.trust.left(id);
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
    fn source(&self, version: &Version, node: NodeId) -> WeightSource {
        let known = self.known();
        let address = known.addresses.get(&node);
        let has_address = address.is_some_and(|(_, address)| address.is_some());
        let standing = known.trust.standing(node, has_address);
        known.way(version.spread().ask(node, standing))
    }

    /// Where a node goes on whose source fails.
    fn other_source(&self, version: &Version, node: NodeId, fault: SourceFault) -> WeightSource {
        let mut known = self.known();
        let mut spread = version.spread();
        if let Some(Source::Node(old)) = spread.source(node)
            && known.trust.failed(node, old, fault)
            && let Some((name, _)) = known.addresses.get(&old)
        {
            tracing::warn!(node = %name, ?fault, "A node gives no weights to others any more.");
        }
        known.way(spread.failed(node))
    }
}

impl Known {
    fn way(&self, source: Source) -> WeightSource {
        let Source::Node(id) = source else {
            return WeightSource::Controller;
        };
        match self.addresses.get(&id) {
            Some((name, Some(address))) => WeightSource::Node {
                name: name.clone(),
                address: address.clone(),
            },
            _ => WeightSource::Controller,
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

/// The same for each index, on as many threads as are worth it; the results in order.
fn on_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = cores.min(MOST_THREADS).min(count / CHUNKS_A_THREAD).max(1);
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || {
        let taken = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let taken = taken.take_while(|index| *index < count);
        taken.map(|index| (index, work(index))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        let shares = shares.into_iter().map(|share| share.join());
        shares
            .flat_map(|share| share.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, value)| value).collect()
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
            let asked = self.ask::<Result<WeightAnswer, EngineError>>(&request, ENGINE_LIMIT);
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
