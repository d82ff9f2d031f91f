//! Parameters as one flat f32 buffer, with the compute tensors that the decoder runs on.

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

/// Elements of the flat buffers of a decoder of `spec`.
pub(crate) fn trained_elements(
    spec: &DecoderSpec,
    lora: Option<&LoraSpec>,
    freeze: &[String],
) -> i64 {
    let slots = lora.map_or_else(|| slots(spec), |lora| lora.slots(spec));
    Layout::new(slots, freeze).total
}

/// Master weights, their gradient, and the tensors that compute with them.
#[derive(Debug)]
pub(crate) struct FlatParameters {
    pub layout: Layout,
    /// f32, `[total]`.
    pub master: Tensor,
    /// f32, `[total]`: sums over the micro-batches of a step.
    pub gradient: Tensor,
    /// What the decoder's trained tensors are views of, in the compute type; the master itself in
    /// f32.
    pub compute: Tensor,
}

impl FlatParameters {
    /// Buffers for what is trained of a decoder of `spec`, all zero, computing in `kind`: every
    /// parameter whose name does not begin with one of `freeze`, or only the adapters of `lora`.
    pub(crate) fn new(
        spec: &DecoderSpec,
        lora: Option<&LoraSpec>,
        kind: Kind,
        device: Device,
        freeze: &[String],
    ) -> Self {
        let slots = lora.map_or_else(|| slots(spec), |lora| lora.slots(spec));
        let layout = Layout::new(slots, freeze);
        let zeros = |kind| Tensor::zeros([layout.total], (kind, device));
        let master = zeros(Kind::Float);
        let compute = if kind == Kind::Float {
            master.shallow_clone()
        } else {
            zeros(kind)
        };
        Self {
            gradient: zeros(Kind::Float),
            layout,
            master,
            compute,
        }
    }

    /// Copies a parameter into the master, if it is trained; returns the tensor that computes in its
    /// place. [`FlatParameters::refresh`] fills it.
    pub(crate) fn place(&self, slot: &Slot, tensor: Tensor) -> Tensor {
        no_grad(|| match self.entry(&slot.name) {
            Some(entry) => {
                entry.view(&self.master).copy_(&tensor);
                entry.view(&self.compute).detach().set_requires_grad(true)
            }
            None => tensor
                .to_device(self.master.device())
                .to_kind(self.compute.kind())
                .set_requires_grad(false),
        })
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.layout.entries.iter().find(|entry| entry.name == name)
    }

    /// Brings the compute tensors up to date with the master.
    pub(crate) fn refresh(&self) {
        if self.compute.kind() != Kind::Float {
            no_grad(|| self.compute.shallow_clone().copy_(&self.master));
        }
    }

    /// Where the gradient of a parameter is summed; `None` if it is frozen.
    pub(crate) fn gradient_of(&self, name: &str) -> Option<Tensor> {
        let entry = self.entry(name)?;
        Some(entry.view(&self.gradient))
    }
}
