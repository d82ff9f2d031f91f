//! Weights and files on their way: cut into chunks, each with a hash, so that they may come from
//! anybody, in any order, and be checked one by one.

use crate::{NodeName, WeightManifest, WeightSnapshot, WeightVersion, codec};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Bytes of a chunk, if nothing else is said. Long enough that asking for one costs nothing beside
/// it; short enough that 270 MB are 65 of them, which a node gives on one by one.
pub const CHUNK_BYTES: u32 = 4 << 20;

/// A BLAKE3 hash. Strong, for chunks come from nodes that relay them; a CRC-32 can be met on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A number that stands for it where two of them are told apart and nothing is proved.
    pub fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// All of it, in hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}…", self.key().swap_bytes())
    }
}

/// Weights that are to be served, and how to come by them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightOffer {
    /// What the bytes are.
    pub manifest: WeightManifest,
    /// How they are cut.
    pub chunks: Chunks,
    /// Of manifest and chunks. Whoever holds this version gives its bytes out under
    /// [`Digest::key`] of it.
    pub hash: Digest,
    /// The number under which the controller lends the bytes.
    pub lent: u64,
    /// What has changed since the version before, if that is worth it.
    pub delta: Option<WeightDelta>,
    /// Whom to pull from.
    pub source: ChunkSource,
}

/// Bytes in pieces of one size, the last one shorter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// Bytes of all of them.
    pub len: u64,
    /// Bytes of each.
    pub size: u32,
    /// The hash of each.
    pub hashes: Vec<Digest>,
}

impl Chunks {
    /// How many chunks of `size` bytes hold `len` of them.
    pub fn count(len: u64, size: u32) -> usize {
        len.div_ceil(u64::from(size.max(1))) as usize
    }

    /// Where the chunk lies.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = index as u64 * u64::from(self.size);
        start..self.len.min(start + u64::from(self.size))
    }

    /// Whether there is a hash for each chunk of so many bytes.
    pub fn fits(&self) -> bool {
        self.size > 0 && self.hashes.len() == Self::count(self.len, self.size)
    }
}

/// What has changed between two versions of equal layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDelta {
    /// [`WeightOffer::hash`] of the version it is of use to.
    pub base: Digest,
    /// The version that is.
    pub base_version: WeightVersion,
    /// For each chunk, what has become of it.
    pub parts: Vec<DeltaPart>,
    /// Of base and parts. Whoever holds the delta gives it out under [`Digest::key`] of it.
    pub hash: Digest,
    /// The number under which the controller lends its bytes.
    pub lent: u64,
}

/// What has become of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaPart {
    /// Nothing.
    Same,
    /// The exclusive or of before and after, compressed (zstd), lies in the delta's bytes.
    Xor {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// Of these bytes.
        hash: Digest,
    },
    /// So much that it is better pulled whole.
    Whole,
}

/// Whom chunks are pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkSource {
    /// The controller.
    Controller,
    /// Another node, which holds them or gets them at the moment.
    Node {
        /// Its name; that of its certificate.
        name: NodeName,
        /// Where it takes connections.
        address: String,
    },
}

/// What a node says to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightAnswer {
    /// It serves them.
    Served(Pulled),
    /// The node that it was to pull from does not give them. It keeps what it has, and goes on from
    /// there when it is told another.
    Stuck(SourceFault, String),
}

/// A fault of a node that was to give chunks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceFault {
    /// It cannot be reached, or not any more.
    Lost,
    /// It gives nothing, or nothing more.
    Slow,
    /// What it gave is not what was announced.
    Damaged,
}

/// Effort of getting weights or files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that did not have to, because of a delta.
    pub saved_bytes: u64,
    /// Of the bytes that came, those of other nodes.
    pub from_nodes_bytes: u64,
    /// Chunks that were damaged and pulled again.
    pub repaired: u64,
    /// Why a delta that was offered was of no use.
    pub refused: Option<DeltaRefusal>,
}

impl Pulled {
    /// Adds what another pull took.
    pub fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.saved_bytes += other.saved_bytes;
        self.from_nodes_bytes += other.from_nodes_bytes;
        self.repaired += other.repaired;
        self.refused = self.refused.or(other.refused);
    }
}

/// Why a delta is of no use to a node, which pulls everything instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DeltaRefusal {
    /// The node holds no weights yet.
    #[error("it holds no weights that a delta could be applied to")]
    NoBase,
    /// Its weights are others than the delta begins with.
    #[error("the delta begins with {needs}, and the node holds {holds}")]
    OtherBase {
        /// What it holds.
        holds: WeightVersion,
        /// What the delta begins with. The two may be of one version with other bytes.
        needs: WeightVersion,
    },
}

/// An offer that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadOffer {
    /// A hash is not that of what it is said to be of.
    #[error("the manifest of the weights is damaged: its hash is another")]
    Hash,
    /// Lengths and counts do not fit each other.
    #[error("the manifest of the weights is wrong: its lengths do not fit")]
    Lengths,
}

impl WeightOffer {
    /// An offer of the controller. `hashes` are those of the chunks of `size` bytes.
    ///
    /// # Errors
    /// When the manifest cannot be encoded.
    pub fn new(
        weights: &WeightSnapshot,
        size: u32,
        hashes: Vec<Digest>,
        lent: u64,
    ) -> Result<Self, codec::CodecError> {
        let chunks = Chunks {
            len: weights.bytes.len() as u64,
            size,
            hashes,
        };
        let manifest = (*weights.manifest).clone();
        let hash = Digest::of(&codec::encode(&(&manifest, &chunks))?);
        Ok(Self {
            manifest,
            chunks,
            hash,
            lent,
            delta: None,
            source: ChunkSource::Controller,
        })
    }

    /// Checks that it is whole, and that its numbers fit each other.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), BadOffer> {
        let encoded = codec::encode(&(&self.manifest, &self.chunks));
        if encoded.map(|bytes| Digest::of(&bytes)).ok() != Some(self.hash) {
            return Err(BadOffer::Hash);
        }
        self.chunks.fits().then_some(()).ok_or(BadOffer::Lengths)?;
        let Some(delta) = &self.delta else {
            return Ok(());
        };
        if WeightDelta::hash_of(delta.base, &delta.parts).ok() != Some(delta.hash) {
            return Err(BadOffer::Hash);
        }
        let fits = delta.parts.len() == self.chunks.hashes.len();
        fits.then_some(()).ok_or(BadOffer::Lengths)
    }
}

impl WeightDelta {
    /// What [`WeightDelta::hash`] is.
    ///
    /// # Errors
    /// When the parts cannot be encoded.
    pub fn hash_of(base: Digest, parts: &[DeltaPart]) -> Result<Digest, codec::CodecError> {
        Ok(Digest::of(&codec::encode(&(base, parts))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn offer(bytes: &[u8], size: u32) -> WeightOffer {
        let weights = WeightSnapshot {
            manifest: Arc::new(WeightManifest {
                version: WeightVersion(3),
                tensors: Vec::new(),
                adapter: None,
                base: None,
                checksum: 0,
            }),
            bytes: Arc::new(bytes.to_vec()),
        };
        let hashes = bytes.chunks(size as usize).map(Digest::of).collect();
        WeightOffer::new(&weights, size, hashes, 1).unwrap()
    }

    #[test]
    fn chunks_cover_all_bytes_once() {
        for (len, size, last) in [(10, 4, 8..10), (8, 4, 4..8), (3, 4, 0..3)] {
            let chunks = offer(&vec![7; len], size).chunks;
            let mut ranges = (0..chunks.hashes.len()).map(|index| chunks.range(index));
            let covered: Vec<u64> = ranges.clone().flatten().collect();
            assert_eq!(covered, (0..len as u64).collect::<Vec<_>>());
            assert_eq!(ranges.next_back(), Some(last));
        }
        assert!(offer(&[], 4).check().is_ok());
    }

    #[test]
    fn an_offer_that_was_changed_is_seen_through() {
        let whole = offer(b"some weights", 4);
        assert_eq!(whole.check(), Ok(()));
        let parts = vec![DeltaPart::Same, DeltaPart::Whole, DeltaPart::Same];
        let delta = WeightDelta {
            base: Digest::of(b"before"),
            base_version: WeightVersion(2),
            hash: WeightDelta::hash_of(Digest::of(b"before"), &parts).unwrap(),
            parts,
            lent: 2,
        };
        let with = |change: &dyn Fn(&mut WeightOffer)| {
            let mut offer = WeightOffer {
                delta: Some(delta.clone()),
                ..whole.clone()
            };
            change(&mut offer);
            offer.check()
        };
        let part =
            |offer: &mut WeightOffer| offer.delta.as_mut().unwrap().parts[0] = DeltaPart::Whole;
        assert_eq!(with(&|_| {}), Ok(()));
        assert_eq!(with(&|o| o.chunks.hashes.swap(0, 1)), Err(BadOffer::Hash));
        assert_eq!(with(&|o| o.chunks.len += 1), Err(BadOffer::Hash));
        assert_eq!(with(&|o| o.manifest.version.0 += 1), Err(BadOffer::Hash));
        assert_eq!(with(&|o| part(o)), Err(BadOffer::Hash));
    }
}
