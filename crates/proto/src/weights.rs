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

/// What a snapshot holds. A version is served only once all its bytes match `checksum`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightManifest {
    /// The version these weights are.
    pub version: WeightVersion,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
    /// The adapters, if there are any; their tensors have PEFT's names.
    pub adapter: Option<AdapterEntry>,
    /// CRC-32 (IEEE) of all bytes.
    pub checksum: u32,
}

/// A complete set of weights in host memory; cheap to clone.
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
