//! The one forward pass.

use crate::attention::Attend;
use crate::lora::{Adapters, LoraSpec, Projection};
use crate::rope::{Rotary, Rotation};
use crate::spec::{Activation, DecoderSpec};
use crate::weights::{LayerWeights, Parameter, slots};
use std::sync::OnceLock;
use tch::{Device, Kind, Tensor};

/// A decoder with its weights on one device.
#[derive(Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    parameters: Vec<Parameter>,
    layers: Vec<LayerWeights>,
    embedding: Tensor,
    norm: Tensor,
    output: Tensor,
    /// The output matrix in f32, where logits are computed in it.
    wide_output: Option<Tensor>,
    ropes: Vec<Rotary>,
    adapters: Option<Adapters>,
    /// The checksum by which snapshots of adapters name these weights, once it is known.
    base_checksum: OnceLock<u32>,
}

/// The rotary angles of one call's positions.
#[derive(Debug)]
pub struct Rotations(Vec<Rotation>);

impl Decoder {
    /// Wraps parameters; `tensors` follow [`slots`] in order and shape.
    ///
    /// # Panics
    /// When a tensor is missing or of another shape: loaders check that with an error of their own.
    pub fn new(spec: DecoderSpec, tensors: Vec<Tensor>) -> Self {
        let parameters = Parameter::pair(slots(&spec), tensors);
        let layers = (0..spec.layers.len())
            .map(|l| LayerWeights::gather(&parameters, l))
            .collect();
        let by_name = |name: &str| {
            parameters
                .iter()
                .find(|p| p.slot.name == name)
                .map(|p| p.tensor.shallow_clone())
        };
        let embedding = by_name("embedding").expect("slots() starts with it");
        let norm = by_name("norm").expect("slots() lists it");
        let output = by_name("output").unwrap_or_else(|| embedding.shallow_clone());
        let ropes = spec
            .ropes
            .iter()
            .map(|rope| Rotary::new(rope, spec.head_dim, embedding.device()))
            .collect();
        Self {
            spec,
            parameters,
            layers,
            embedding,
            norm,
            output,
            wide_output: None,
            ropes,
            adapters: None,
            base_checksum: OnceLock::new(),
        }
    }

    /// Computes logits in f32 from now on: hidden states and output matrix are converted, and a copy
    /// of the matrix is kept for it. In bf16 a logit between 16 and 32 has steps of 0.125.
    pub fn widen_head(&mut self) {
        if self.kind() != Kind::Float {
            self.wide_output = Some(tch::no_grad(|| self.output.to_kind(Kind::Float)));
        }
    }

    /// Brings the copy of the output matrix up to date.
    pub(crate) fn refresh_head(&mut self) {
        if self.wide_output.is_some() {
            self.widen_head();
        }
    }

    /// Gives every layer low-rank adapters; `tensors` follow [`LoraSpec::slots`] in order and
    /// shape, in the type the decoder computes in. Those it had are gone.
    ///
    /// # Panics
    /// When a tensor is missing or of another shape.
    pub fn adapt(&mut self, lora: LoraSpec, tensors: Vec<Tensor>) {
        self.adapters = Some(Adapters::new(lora, &self.spec, tensors));
    }

    /// The same decoder without adapters, on the same tensors.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        let tensors = self.parameters.iter();
        let tensors = tensors.map(|p| p.tensor.shallow_clone()).collect();
        Self::new(self.spec.clone(), tensors)
    }

    /// Which adapters there are.
    pub fn lora(&self) -> Option<&LoraSpec> {
        self.adapters.as_ref().map(|adapters| &adapters.spec)
    }

    /// Every adapter tensor, in the order of [`LoraSpec::slots`].
    pub fn adapter_parameters(&self) -> &[Parameter] {
        self.adapters.as_ref().map_or(&[], |a| &a.parameters)
    }

    /// Every parameter with its adapters added, in f32 where there are any.
    pub fn merged_parameters(&self) -> Vec<Parameter> {
        let parameters = self.parameters.iter().zip(self.merged_lazily());
        let merged = parameters.map(|(parameter, merged)| Parameter {
            slot: parameter.slot.clone(),
            tensor: merged.unwrap_or_else(|| parameter.tensor.shallow_clone()),
        });
        tch::no_grad(|| merged.collect())
    }

    /// The checksum of the weights without adapters, as a snapshot has it that holds them: that of the
    /// one they came with, or their own in the type they compute in. It is worked out once: a
    /// program that trains these weights asks for none.
    pub(crate) fn base_checksum(&self) -> u32 {
        let own = || crate::checksum(&self.parameters, self.kind());
        *self.base_checksum.get_or_init(own)
    }

    pub(crate) fn set_base_checksum(&mut self, checksum: Option<u32>) {
        self.base_checksum = checksum.map_or_else(OnceLock::new, OnceLock::from);
    }

    pub(crate) fn adapters(&self) -> Option<&Adapters> {
        self.adapters.as_ref()
    }

    pub(crate) fn drop_adapters(&mut self) {
        self.adapters = None;
    }

    /// What the decoder is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Every parameter, in the order of [`slots`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// The type it computes in.
    pub fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    /// Hidden states `[B, T, H]` behind the last norm, for ids and positions `[B, T]` (`i64`).
    ///
    /// The same as [`Decoder::embed`], every [`Decoder::layer`] and [`Decoder::finish`].
    pub fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut dyn Attend) -> Tensor {
        let rotations = self.rotations(positions);
        let mut x = self.embed(ids);
        for index in 0..self.layers.len() {
            x = self.layer(index, &x, &rotations, attend);
        }
        self.finish(&x)
    }

    /// Rotary angles of positions `[B, T]` (`i64`).
    pub fn rotations(&self, positions: &Tensor) -> Rotations {
        let at = |rope: &Rotary| rope.at(positions, self.kind());
        Rotations(self.ropes.iter().map(at).collect())
    }

    /// What goes into the first layer, `[.., H]`, for ids `[..]` (`i64`).
    pub fn embed(&self, ids: &Tensor) -> Tensor {
        let x = Tensor::embedding(&self.embedding, ids, -1, false, false);
        match self.embedding_scale() {
            Some(scale) => x * scale,
            None => x,
        }
    }

    /// What [`Decoder::embed`] multiplies rows of the embedding by, rounded to the compute type.
    pub fn embedding_scale(&self) -> Option<Tensor> {
        let scale = Tensor::from(self.spec.embedding_scale?);
        Some(scale.to_kind(self.kind()).to_device(self.device()))
    }

    /// One layer, from `[B, T, H]` to `[B, T, H]`.
    pub fn layer(
        &self,
        index: usize,
        x: &Tensor,
        rotations: &Rotations,
        attend: &mut dyn Attend,
    ) -> Tensor {
        let layer = &self.layers[index];
        let rotation = &rotations.0[self.spec.layers[index].rope];
        // Not in place: the backward pass needs every x as it was.
        let mixed = self.attention(index, layer, x, rotation, attend);
        let attended = x + self.maybe_norm(mixed, layer.post_attention_norm.as_ref());
        let fed = self.feed_forward(index, layer, &attended);
        attended + self.maybe_norm(fed, layer.post_mlp_norm.as_ref())
    }

    /// The last norm, over `[.., H]`.
    pub fn finish(&self, x: &Tensor) -> Tensor {
        self.rms_norm(x, &self.norm)
    }

    /// Logits `[.., V]` for hidden states `[.., H]`, soft-capped where the model is; in f32 behind
    /// [`Decoder::widen_head`].
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = match &self.wide_output {
            Some(wide) => hidden.to_kind(Kind::Float).linear(wide, None::<&Tensor>),
            None => hidden.linear(&self.output, None::<&Tensor>),
        };
        match self.spec.logit_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    fn attention(
        &self,
        index: usize,
        layer: &LayerWeights,
        x: &Tensor,
        rotation: &Rotation,
        attend: &mut dyn Attend,
    ) -> Tensor {
        let spec = &self.spec;
        let [batch, length, _] = x.size()[..] else {
            unreachable!("the residual stream has three dimensions")
        };
        let x = self.rms_norm(x, &layer.attention_norm);
        let parts = x
            .linear(&layer.qkv, layer.qkv_bias.as_ref())
            .view([batch, length, spec.heads + 2 * spec.kv_heads, spec.head_dim])
            .split_with_sizes([spec.heads, spec.kv_heads, spec.kv_heads], 2); // [B, T, H, D] each
        let adapted = |part: usize, target| match self.delta(index, target, &x) {
            Some(delta) => &parts[part] + delta.view_as(&parts[part]),
            None => parts[part].shallow_clone(),
        };
        let query = adapted(0, Projection::QProj);
        let key = adapted(1, Projection::KProj);
        let value = adapted(2, Projection::VProj);
        let query = self.maybe_head_norm(&query, layer.query_norm.as_ref());
        let key = self.maybe_head_norm(&key, layer.key_norm.as_ref());
        let query = rotation.apply(&query.transpose(1, 2)); // [B, Hq, T, D]
        let key = rotation.apply(&key.transpose(1, 2)); // [B, Hkv, T, D]
        let mixed = attend
            .attend(spec, index, &query, &key, &value.transpose(1, 2))
            .transpose(1, 2)
            .reshape([batch, length, spec.heads * spec.head_dim]);
        let out = mixed.linear(&layer.output_projection, layer.output_bias.as_ref());
        self.plus_delta(out, index, Projection::OProj, &mixed)
    }

    fn feed_forward(&self, index: usize, layer: &LayerWeights, x: &Tensor) -> Tensor {
        let x = self.rms_norm(x, &layer.mlp_norm);
        let both = x.linear(&layer.gate_up, layer.gate_up_bias.as_ref());
        let mut halves = both.chunk(2, -1).into_iter(); // [B, T, I] each
        let mut half = |target| {
            let half = halves.next().expect("chunk() gives two");
            self.plus_delta(half, index, target, &x)
        };
        let gate = half(Projection::GateProj);
        let up = half(Projection::UpProj);
        let gate = match self.spec.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu("tanh"),
        };
        let inner = gate * up;
        let out = inner.linear(&layer.down, layer.down_bias.as_ref());
        self.plus_delta(out, index, Projection::DownProj, &inner)
    }

    fn delta(&self, index: usize, target: Projection, x: &Tensor) -> Option<Tensor> {
        self.adapters.as_ref()?.delta(index, target, x)
    }

    fn plus_delta(&self, y: Tensor, index: usize, target: Projection, x: &Tensor) -> Tensor {
        match self.delta(index, target, x) {
            Some(delta) => y + delta,
            None => y,
        }
    }

    fn maybe_norm(&self, x: Tensor, weight: Option<&Tensor>) -> Tensor {
        match weight {
            Some(weight) => self.rms_norm(&x, weight),
            None => x,
        }
    }

    fn maybe_head_norm(&self, x: &Tensor, weight: Option<&Tensor>) -> Tensor {
        match weight {
            Some(weight) => self.rms_norm(x, weight),
            None => x.shallow_clone(),
        }
    }

    /// RMS norm over the last dimension, computed in f32 whatever the compute type: in bf16 the
    /// mean of squares loses most of its digits.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let scale = (wide
            .square()
            .mean_dim([-1i64].as_slice(), true, Kind::Float)
            + self.spec.norm_eps)
            .rsqrt();
        let normed = wide * scale;
        if self.spec.norm_plus_one {
            (normed * (weight.to_kind(Kind::Float) + 1.0)).to_kind(x.kind())
        } else {
            normed.to_kind(x.kind()) * weight
        }
    }
}
