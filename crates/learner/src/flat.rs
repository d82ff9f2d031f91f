//! Parameters as one flat f32 buffer, with the compute tensors that the decoder runs on.

use crate::shards::Kept;
use model::{DecoderSpec, LoraSpec, Slot, slots};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

/// Tensors start at multiples of this many elements within a flat buffer: 128 bytes in bf16, so
/// that every one of them is aligned for the widest loads.
const ALIGNMENT: i64 = 64;

/// One trained parameter's place in the flat buffers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The parameter's name in the decoder.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<i64>,
    /// Its first element.
    pub offset: i64,
}

impl Entry {
    fn len(&self) -> i64 {
        self.shape.iter().product()
    }

    /// The parameter within a flat buffer.
    pub(crate) fn view(&self, flat: &Tensor) -> Tensor {
        flat.narrow(0, self.offset, self.len())
            .view(&self.shape[..])
    }
}

/// Where each trained parameter lies: those with weight decay first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The trained parameters.
    pub entries: Vec<Entry>,
    /// Elements that are decayed: the buffer's beginning.
    pub decayed: i64,
    /// Elements in all.
    pub total: i64,
}

impl Layout {
    /// That of a decoder of `spec`: every parameter whose name does not begin with one of `freeze`,
    /// or only the adapters of `lora`.
    pub(crate) fn of(spec: &DecoderSpec, lora: Option<&LoraSpec>, freeze: &[String]) -> Self {
        let slots = lora.map_or_else(|| slots(spec), |lora| lora.slots(spec));
        Self::new(slots, freeze)
    }

    fn new(mut slots: Vec<Slot>, freeze: &[String]) -> Self {
        slots.retain(|slot| {
            !freeze
                .iter()
                .any(|prefix| slot.name.starts_with(prefix.as_str()))
        });
        slots.sort_by_key(|slot| slot.shape.len() < 2); // stable: matrices first
        let mut layout = Self {
            entries: Vec::new(),
            decayed: 0,
            total: 0,
        };
        for slot in slots {
            let is_matrix = slot.shape.len() >= 2;
            let entry = Entry {
                name: slot.name,
                shape: slot.shape,
                offset: layout.total,
            };
            layout.total += (entry.len() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            if is_matrix {
                layout.decayed = layout.total;
            }
            layout.entries.push(entry);
        }
        layout
    }
}

/// Master weights, their gradient, and the tensors that compute with them.
#[derive(Debug)]
pub(crate) struct FlatParameters {
    pub layout: Layout,
    /// What of the optimizer's state is kept here.
    pub kept: Kept,
    /// f32, `[kept]`; in f32 what is computed with, `[total]`.
    pub master: Tensor,
    /// f32, `[total]`: sums over the micro-batches of a step.
    pub gradient: Tensor,
    /// What the decoder's trained tensors are views of, `[total]`, in the compute type.
    pub compute: Tensor,
}

impl FlatParameters {
    /// Buffers of `layout`, all zero, computing in `kind`. Of the optimizer's state nothing is kept
    /// yet: [`FlatParameters::keep`].
    pub(crate) fn new(layout: Layout, kind: Kind, device: Device) -> Self {
        let zeros = |kind| Tensor::zeros([layout.total], (kind, device));
        let compute = zeros(kind);
        let master = match kind {
            Kind::Float => compute.shallow_clone(),
            _ => Tensor::zeros([0], (Kind::Float, device)),
        };
        Self {
            gradient: zeros(Kind::Float),
            layout,
            kept: Kept::nothing(),
            master,
            compute,
        }
    }

    /// Makes room for the master weights of `kept`, zero where they are not computed with.
    pub(crate) fn keep(&mut self, kept: Kept) {
        if !self.computes_in_f32() {
            let device = self.compute.device();
            self.master = Tensor::zeros([0], (Kind::Float, device)); // what there was goes first
            self.master = Tensor::zeros([kept.len()], (Kind::Float, device));
        }
        self.kept = kept;
    }

    /// Whether the master weights compute themselves.
    pub(crate) fn computes_in_f32(&self) -> bool {
        self.compute.kind() == Kind::Float
    }

    /// Copies a parameter into the compute tensors, and what is kept of it into the master, if it is
    /// trained; returns the tensor that computes in its place.
    pub(crate) fn place(&self, slot: &Slot, tensor: Tensor) -> Tensor {
        no_grad(|| match self.entry(&slot.name) {
            Some(entry) => {
                let computes = entry.view(&self.compute);
                computes.shallow_clone().copy_(&tensor);
                self.copy_kept(entry, &tensor);
                computes.detach().set_requires_grad(true)
            }
            None => tensor
                .to_device(self.compute.device())
                .to_kind(self.compute.kind())
                .set_requires_grad(false),
        })
    }

    /// Copies what is kept of a trained parameter into the master.
    pub(crate) fn place_master(&self, slot: &Slot, tensor: &Tensor) {
        if let Some(entry) = self.entry(&slot.name) {
            no_grad(|| self.copy_kept(entry, tensor));
        }
    }

    fn copy_kept(&self, entry: &Entry, tensor: &Tensor) {
        if self.computes_in_f32() {
            return;
        }
        let values = tensor.reshape(-1);
        for stretch in self.kept.stretches() {
            let from = stretch.start.max(entry.offset);
            let to = stretch.end().min(entry.offset + entry.len());
            if from < to {
                let mut part = self.master.narrow(0, stretch.place_of(from), to - from);
                part.copy_(&values.narrow(0, from - entry.offset, to - from));
            }
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.layout.entries.iter().find(|entry| entry.name == name)
    }

    /// Brings the compute tensors up to date with the master, which is kept whole.
    pub(crate) fn refresh(&self) {
        if !self.computes_in_f32() {
            no_grad(|| self.compute.shallow_clone().copy_(&self.master));
        }
    }

    /// The master of a trained parameter, where all of them are kept.
    pub(crate) fn master_of(&self, name: &str) -> Option<Tensor> {
        let entry = self.entry(name)?;
        Some(entry.view(&self.master))
    }

    /// Where the gradient of a parameter is summed; `None` if it is frozen.
    pub(crate) fn gradient_of(&self, name: &str) -> Option<Tensor> {
        let entry = self.entry(name)?;
        Some(entry.view(&self.gradient))
    }
}
