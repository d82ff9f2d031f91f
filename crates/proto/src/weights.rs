//! Weights as they travel: a manifest and plain little-endian bytes.

use crate::WeightVersion;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where one tensor lies within the bytes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// The tensor's name in the checkpoint, such as `model.embed_tokens.weight`.
    pub name: String,
    /// `bf16`, `f16` or `f32`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Low-rank adapters (LoRA) that a snapshot holds beside the weights they belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterEntry {
    /// Rank of the adapters.
    pub rank: u32,
    /// They are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The projections that have one, such as `q_proj`.
    pub targets: Vec<String>,
}

/// Part of the weights that a snapshot is asked to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotScope {
    /// All weights: for receivers of which nothing is known.
    All,
    /// The adapters alone, where only these are trained; all weights otherwise. For receivers that hold
    /// the weights they belong to.
    Adapters,
}

/// The weights that a snapshot's adapters belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseEntry {
    /// CRC-32 (IEEE) of their bytes, in the order and type of a snapshot that holds them.
    pub checksum: u32,
    /// Whether this snapshot holds them, before the adapters.
    pub is_included: bool,
}

/// What a snapshot holds. A version is served only once all its bytes match `checksum`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightManifest {
    /// The version these weights are.
    pub version: WeightVersion,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
    /// The adapters, if there are any; their tensors have PEFT's names.
    pub adapter: Option<AdapterEntry>,
    /// The weights that the adapters belong to, where they stay as they are.
    pub base: Option<BaseEntry>,
    /// CRC-32 (IEEE) of all bytes.
    pub checksum: u32,
}

impl WeightManifest {
    /// The checksum of the base that a receiver has to hold already; `None` where the snapshot is
    /// complete.
    pub fn needed_base(&self) -> Option<u32> {
        let base = self.base.filter(|base| !base.is_included)?;
        Some(base.checksum)
    }
}

/// Weights in host memory: a complete set, or adapters for one; cheap to clone.
#[derive(Debug, Clone)]
pub struct WeightSnapshot {
    /// What the bytes are.
    pub manifest: Arc<WeightManifest>,
    /// The bytes of all tensors, one after the other.
    pub bytes: Arc<Vec<u8>>,
}

impl WeightSnapshot {
    /// Whether the bytes are complete and are those the manifest was made for.
    pub fn is_intact(&self) -> bool {
        let end = self
            .manifest
            .tensors
            .iter()
            .map(|t| t.offset + t.len)
            .max()
            .unwrap_or(0);
        end == self.bytes.len() as u64 && crc32fast::hash(&self.bytes) == self.manifest.checksum
    }
}
