//! Attention over keys that are all at hand: training, scoring and prefill.

use crate::DecoderSpec;
use tch::{Kind, Tensor};

/// How a layer mixes tokens. [`FullAttention`] has all keys at hand, `KvCache` keeps those
/// of earlier calls.
pub trait Attend {
    /// Mixes values by how well queries match keys.
    ///
    /// `query` is `[B, Hq, T, D]`, `key` and `value` are `[B, Hkv, T, D]`, positions already
    /// rotated in. Returns `[B, Hq, T, D]`.
    fn attend(
        &mut self,
        spec: &DecoderSpec,
        layer: usize,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Tensor;
}

/// Who sees whom within one call.
#[derive(Debug)]
pub enum Visibility {
    /// Every token sees itself and those before it in its row.
    Causal,
    /// `[B, T, T]`, boolean, `[b, query, key]`: true where the query sees the key. With it the
    /// positions `[B, T]` that windows are measured in.
    Matrix(Tensor),
}

/// Attention within one call, without a cache.
#[derive(Debug)]
pub struct FullAttention {
    visibility: Visibility,
    positions: Tensor, // [B, T]
    /// Masks by window, made once per call: `(window, additive mask [B or 1, 1, T, T])`.
    masks: Vec<(Option<i64>, Tensor)>,
}

impl FullAttention {
    /// `positions` is `[B, T]`, as given to [`crate::Decoder::forward`].
    pub fn new(visibility: Visibility, positions: &Tensor) -> Self {
        Self {
            visibility,
            positions: positions.shallow_clone(),
            masks: Vec::new(),
        }
    }

    /// Additive mask `[B or 1, 1, T, T]`: 0 where visible, −∞ elsewhere.
    fn mask(&mut self, window: Option<i64>, kind: Kind) -> Tensor {
        if let Some((_, mask)) = self.masks.iter().find(|(w, _)| *w == window) {
            return mask.shallow_clone();
        }
        let length = self.positions.size()[1];
        let device = self.positions.device();
        let mut visible = match &self.visibility {
            Visibility::Causal => Tensor::ones([1, length, length], (Kind::Bool, device)).tril(0),
            Visibility::Matrix(matrix) => matrix.shallow_clone(),
        };
        if let Some(window) = window {
            let distance = self.positions.unsqueeze(2) - self.positions.unsqueeze(1); // [B, T, T]
            visible = visible.logical_and(&distance.lt(window));
        }
        let mask = additive(&visible.unsqueeze(1), kind); // [B or 1, 1, T, T]
        self.masks.push((window, mask.shallow_clone()));
        mask
    }
}

/// 0 where true, −∞ where false.
pub(crate) fn additive(visible: &Tensor, kind: Kind) -> Tensor {
    Tensor::zeros(visible.size(), (kind, visible.device()))
        .masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
}

impl Attend for FullAttention {
    fn attend(
        &mut self,
        spec: &DecoderSpec,
        layer: usize,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Tensor {
        let window = spec.layers[layer].window;
        let longest = query.size()[2];
        let plain = matches!(self.visibility, Visibility::Causal)
            && window.is_none_or(|window| longest <= window);
        let mask =
            (!plain || spec.attention_softcap.is_some()).then(|| self.mask(window, query.kind()));
        let repeats = spec.heads / spec.kv_heads;
        dot_product(
            spec,
            query,
            &repeat(key, repeats),
            &repeat(value, repeats),
            mask.as_ref(),
        )
    }
}

/// `[B, Hkv, T, D]` → `[B, Hkv · repeats, T, D]`, each head `repeats` times in a row.
fn repeat(heads: &Tensor, repeats: i64) -> Tensor {
    if repeats == 1 {
        return heads.shallow_clone();
    }
    let [batch, kv_heads, length, width] = heads.size()[..] else {
        unreachable!("keys and values have four dimensions")
    };
    heads
        .unsqueeze(2)
        .expand([batch, kv_heads, repeats, length, width], false)
        .reshape([batch, kv_heads * repeats, length, width])
}

/// Softmax attention of `[B, H, T, D]` queries over `[B, H, S, D]` keys. No mask means causal.
pub(crate) fn dot_product(
    spec: &DecoderSpec,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
) -> Tensor {
    let Some(cap) = spec.attention_softcap else {
        return Tensor::scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            0.0,
            mask.is_none(),
            spec.attention_scale,
            false,
        );
    };
    let scores = query.matmul(&key.transpose(2, 3)) * spec.attention_scale; // [B, H, T, S]
    let mut scores = (scores / cap).tanh() * cap;
    if let Some(mask) = mask {
        scores += mask;
    }
    scores
        .softmax(-1, Kind::Float)
        .to_kind(query.kind())
        .matmul(value)
}
