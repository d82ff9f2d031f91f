//! Weights on their way from a learner to samplers.
//!
//! - **SN-1 (nothing half-applied).** Names, shapes, sizes and the checksum are checked before
//!   the first tensor is touched.
//! - **SN-2 (adapters on their own weights).** Adapters that come alone are taken over only by a
//!   decoder whose weights have the checksum of those they were trained on.

use crate::lora::{LoraSpec, Projection};
use crate::shards::host_bytes;
use crate::weights::Parameter;
use crate::{Decoder, Slot};
use proto::{
    AdapterEntry, BaseEntry, SnapshotScope, TensorEntry, WeightManifest, WeightSnapshot,
    WeightVersion,
};
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
    /// The snapshot holds adapters alone, of weights that this decoder does not have: ask for all.
    #[error(
        "the snapshot holds adapters of weights whose checksum is {needed:08x}, and this model's is \
         {found:08x}"
    )]
    OtherBase {
        /// The checksum that the adapters belong to.
        needed: u32,
        /// That of the weights at hand.
        found: u32,
    },
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

/// Copies so much of a decoder's weights into host memory, in the type it computes in.
pub fn snapshot(decoder: &Decoder, version: WeightVersion, scope: SnapshotScope) -> WeightSnapshot {
    let Some(lora) = decoder.lora() else {
        return take(decoder.parameters().iter(), decoder.kind(), version, None);
    };
    let adapter = AdapterEntry {
        rank: lora.rank as u32,
        alpha: lora.alpha,
        targets: lora.targets.iter().map(|t| t.name().to_owned()).collect(),
    };
    let base = BaseEntry {
        checksum: decoder.base_checksum(),
        is_included: scope == SnapshotScope::All,
    };
    let included = match base.is_included {
        true => decoder.parameters(),
        false => &[],
    };
    let parameters = included.iter().chain(decoder.adapter_parameters());
    take(parameters, decoder.kind(), version, Some((adapter, base)))
}

/// Copies parameters into host memory as `kind`, under their checkpoint names.
///
/// # Panics
/// `kind` is not `BFloat16`, `Half` or `Float`.
pub fn snapshot_of(parameters: &[Parameter], kind: Kind, version: WeightVersion) -> WeightSnapshot {
    take(parameters.iter(), kind, version, None)
}

fn take<'a>(
    parameters: impl Iterator<Item = &'a Parameter> + Clone,
    kind: Kind,
    version: WeightVersion,
    adapter: Option<(AdapterEntry, BaseEntry)>,
) -> WeightSnapshot {
    let (adapter, base) = adapter.unzip();
    let dtype = DTYPES
        .iter()
        .find(|(_, k)| *k == kind)
        .expect("weights are bf16, f16 or f32")
        .0;
    let elements: i64 = parameters
        .clone()
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
        adapter,
        base,
        checksum,
    };
    WeightSnapshot {
        manifest: Arc::new(manifest),
        bytes: Arc::new(bytes),
    }
}

/// CRC-32 (IEEE) of parameters as `kind`, as [`snapshot_of`] would have it.
pub fn checksum(parameters: &[Parameter], kind: Kind) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for parameter in parameters {
        hasher.update(&host_bytes(&parameter.tensor, kind));
    }
    hasher.finalize()
}

const DTYPES: [(&str, Kind); 3] = [
    ("bf16", Kind::BFloat16),
    ("f16", Kind::Half),
    ("f32", Kind::Float),
];

impl Decoder {
    /// Overwrites the weights in place, converted to the type the decoder computes in, and takes
    /// over the snapshot's adapters, or none if it has none. Of a snapshot of adapters alone the
    /// weights stay, which have to be those that the adapters belong to.
    ///
    /// # Errors
    /// The snapshot is damaged, or belongs to another model or other weights; everything is untouched
    /// then (SN-1).
    pub fn apply(&mut self, snapshot: &WeightSnapshot) -> Result<(), ApplyError> {
        let manifest = &snapshot.manifest;
        if !snapshot.is_intact() {
            return Err(ApplyError::Damaged {
                version: manifest.version,
            });
        }
        let lora = manifest.adapter.as_ref().map(lora_of).transpose()?;
        let of_adapters = lora.as_ref().map_or(Vec::new(), |l| l.slots(self.spec()));
        let mut entries: HashMap<&str, &TensorEntry> = manifest
            .tensors
            .iter()
            .map(|entry| (entry.name.as_str(), entry))
            .collect();
        let needed = manifest.needed_base();
        let own = match needed {
            Some(needed) => {
                self.check_base(needed)?;
                Vec::new()
            }
            None => {
                let own = self.parameters().iter().map(|p| &p.slot);
                sources(own, &mut entries, snapshot)?
            }
        };
        let of_adapters = sources(of_adapters.iter(), &mut entries, snapshot)?;
        if let Some(name) = entries.into_keys().min() {
            return Err(ApplyError::Unexpected(name.to_owned()));
        }
        tch::no_grad(|| {
            if needed.is_none() {
                self.overwrite(&own, snapshot);
                // The weights as sent have their own checksum, whatever type they become here.
                self.set_base_checksum(manifest.base.map(|base| base.checksum));
                self.refresh_head();
            }
            let Some(lora) = lora else {
                self.drop_adapters();
                return;
            };
            let options = (self.kind(), self.device());
            let tensors = of_adapters.iter();
            let tensors = tensors.map(|source| source.tensor(snapshot).to_device(options.1));
            let tensors = tensors.map(|tensor| tensor.to_kind(options.0)).collect();
            self.adapt(lora, tensors);
        });
        Ok(())
    }
}

impl Decoder {
    fn check_base(&self, needed: u32) -> Result<(), ApplyError> {
        match self.base_checksum() {
            found if found == needed => Ok(()),
            found => Err(ApplyError::OtherBase { needed, found }),
        }
    }

    /// Copies `sources`, one for each part of each parameter, into the weights.
    fn overwrite(&self, sources: &[Source<'_>], snapshot: &WeightSnapshot) {
        let mut sources = sources.iter();
        for parameter in self.parameters() {
            for part in &parameter.slot.parts {
                let source = sources.next().expect("there is one for each part");
                let mut place = parameter.tensor.narrow(0, part.start, part.rows);
                place.copy_(&source.tensor(snapshot));
            }
        }
    }
}

fn lora_of(entry: &AdapterEntry) -> Result<LoraSpec, ApplyError> {
    let target = |name: &String| {
        Projection::of_name(name).ok_or_else(|| ApplyError::Unexpected(name.clone()))
    };
    Ok(LoraSpec {
        rank: i64::from(entry.rank),
        alpha: entry.alpha,
        targets: entry.targets.iter().map(target).collect::<Result<_, _>>()?,
    })
}

/// For each part of each slot, where its values lie. Everything is checked here.
fn sources<'a, 's>(
    slots: impl Iterator<Item = &'s Slot>,
    entries: &mut HashMap<&str, &'a TensorEntry>,
    snapshot: &'a WeightSnapshot,
) -> Result<Vec<Source<'a>>, ApplyError> {
    let mut sources = Vec::new();
    for slot in slots {
        for part in &slot.parts {
            let entry = entries
                .remove(part.key.as_str())
                .ok_or_else(|| ApplyError::Missing(part.key.clone()))?;
            let mut expected = slot.shape.clone();
            expected[0] = part.rows;
            sources.push(Source::check(entry, expected, snapshot.bytes.len())?);
        }
    }
    Ok(sources)
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
