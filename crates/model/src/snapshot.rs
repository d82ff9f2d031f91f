//! Weights on their way from a learner to samplers.
//!
//! - **SN-1 (nothing half-applied).** Names, shapes, sizes and the checksum are checked before
//!   the first tensor is touched.

use crate::Decoder;
use crate::shards::host_bytes;
use crate::weights::Parameter;
use proto::{TensorEntry, WeightManifest, WeightSnapshot, WeightVersion};
use std::collections::HashMap;
use std::sync::Arc;
use tch::{Kind, Tensor};
use thiserror::Error;

/// Why a snapshot was not applied. The decoder is as it was.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ApplyError {
    /// Bytes are missing or altered; ask for the snapshot again.
    #[error("the snapshot of version {version:?} is damaged: its bytes do not match the checksum")]
    Damaged {
        /// The version it claims to be.
        version: WeightVersion,
    },
    /// The snapshot lacks a tensor of this decoder: it is of another model.
    #[error("the snapshot lacks the tensor `{0}`: it belongs to another model")]
    Missing(String),
    /// The snapshot holds a tensor that this decoder has no place for.
    #[error("the snapshot holds the tensor `{0}`, for which this model has no place")]
    Unexpected(String),
    /// A tensor's shape, type or size does not fit.
    #[error("the snapshot's tensor `{name}` is {found}, this model needs {expected:?}")]
    Unfit {
        /// The tensor.
        name: String,
        /// What the snapshot holds.
        found: String,
        /// The shape that fits.
        expected: Vec<i64>,
    },
}

/// Copies a decoder's weights into host memory, in the type it computes in.
pub fn snapshot(decoder: &Decoder, version: WeightVersion) -> WeightSnapshot {
    snapshot_of(decoder.parameters(), decoder.kind(), version)
}

/// Copies parameters into host memory as `kind`, under their checkpoint names.
///
/// # Panics
/// `kind` is not `BFloat16`, `Half` or `Float`.
pub fn snapshot_of(parameters: &[Parameter], kind: Kind, version: WeightVersion) -> WeightSnapshot {
    let dtype = DTYPES
        .iter()
        .find(|(_, k)| *k == kind)
        .expect("weights are bf16, f16 or f32")
        .0;
    let elements: i64 = parameters
        .iter()
        .map(|p| p.slot.shape.iter().product::<i64>())
        .sum();
    let mut bytes = Vec::with_capacity(elements as usize * kind.elt_size_in_bytes());
    let mut tensors = Vec::new();
    for parameter in parameters {
        for part in &parameter.slot.parts {
            let rows = parameter.tensor.narrow(0, part.start, part.rows);
            let offset = bytes.len() as u64;
            bytes.extend(host_bytes(&rows, kind));
            tensors.push(TensorEntry {
                name: part.key.clone(),
                dtype: dtype.to_owned(),
                shape: rows.size(),
                offset,
                len: bytes.len() as u64 - offset,
            });
        }
    }
    let checksum = crc32fast::hash(&bytes);
    let manifest = WeightManifest {
        version,
        tensors,
        checksum,
    };
    WeightSnapshot {
        manifest: Arc::new(manifest),
        bytes: Arc::new(bytes),
    }
}

const DTYPES: [(&str, Kind); 3] = [
    ("bf16", Kind::BFloat16),
    ("f16", Kind::Half),
    ("f32", Kind::Float),
];

impl Decoder {
    /// Overwrites the weights in place, converted to the type the decoder computes in.
    ///
    /// # Errors
    /// The snapshot is damaged or belongs to another model; the weights are untouched then (SN-1).
    pub fn apply(&self, snapshot: &WeightSnapshot) -> Result<(), ApplyError> {
        let sources = self.sources(snapshot)?;
        tch::no_grad(|| {
            let mut sources = sources.into_iter();
            for parameter in self.parameters() {
                for part in &parameter.slot.parts {
                    let source = sources.next().expect("sources() has one for each part");
                    parameter
                        .tensor
                        .narrow(0, part.start, part.rows)
                        .copy_(&source.tensor(snapshot));
                }
            }
        });
        Ok(())
    }

    /// For each part of each parameter, where its values lie. Everything is checked here.
    fn sources<'a>(&self, snapshot: &'a WeightSnapshot) -> Result<Vec<Source<'a>>, ApplyError> {
        let manifest = &snapshot.manifest;
        if !snapshot.is_intact() {
            return Err(ApplyError::Damaged {
                version: manifest.version,
            });
        }
        let mut entries: HashMap<&str, &TensorEntry> = manifest
            .tensors
            .iter()
            .map(|entry| (entry.name.as_str(), entry))
            .collect();
        let mut sources = Vec::new();
        for parameter in self.parameters() {
            for part in &parameter.slot.parts {
                let entry = entries
                    .remove(part.key.as_str())
                    .ok_or_else(|| ApplyError::Missing(part.key.clone()))?;
                let mut expected = parameter.slot.shape.clone();
                expected[0] = part.rows;
                sources.push(Source::check(entry, expected, snapshot.bytes.len())?);
            }
        }
        match entries.into_keys().min() {
            Some(name) => Err(ApplyError::Unexpected(name.to_owned())),
            None => Ok(sources),
        }
    }
}

/// A checked entry.
struct Source<'a> {
    entry: &'a TensorEntry,
    kind: Kind,
}

impl<'a> Source<'a> {
    fn check(entry: &'a TensorEntry, expected: Vec<i64>, size: usize) -> Result<Self, ApplyError> {
        let kind = DTYPES
            .iter()
            .find(|(name, _)| *name == entry.dtype)
            .map(|(_, kind)| *kind);
        let needed =
            |kind: Kind| expected.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64;
        let end = entry.offset.checked_add(entry.len);
        match kind {
            Some(kind)
                if entry.shape == expected
                    && entry.len == needed(kind)
                    && end.is_some_and(|end| end <= size as u64) =>
            {
                Ok(Self { entry, kind })
            }
            _ => Err(ApplyError::Unfit {
                name: entry.name.clone(),
                found: format!("{} {:?} in {} bytes", entry.dtype, entry.shape, entry.len),
                expected,
            }),
        }
    }

    fn tensor(&self, snapshot: &WeightSnapshot) -> Tensor {
        let range = self.entry.offset as usize..(self.entry.offset + self.entry.len) as usize;
        Tensor::from_data_size(&snapshot.bytes[range], &self.entry.shape, self.kind)
    }
}
