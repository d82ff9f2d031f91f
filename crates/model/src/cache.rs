//! Keys and values of earlier calls, so that a sampled token costs one token's work.
//!
//! Rows `0..active` of the cache are the sequences that are decoded together. They stay contiguous
//! (the last row moves into a gap), so that every call reads a view of the cache and gathers
//! nothing.
//!
//! - **KV-1 (masked is unseen).** What a row holds beyond its length never reaches a result: it is
//!   finite, since memory starts as zeros and only keys and values are written, and it is masked.
//! - **KV-2 (one geometry).** Within [`KvCache::capacity`] nothing is reallocated; growing keeps
//!   the contents of the active rows.

use crate::DecoderSpec;
use crate::attention::{Attend, FullAttention, Visibility, additive};
use tch::{Device, Kind, Tensor};

/// Token capacity grows in steps of this many.
const TOKEN_STEP: i64 = 128;
/// Decoding reads this multiple of tokens: shapes recur, so that kernels prepared for a shape do.
const READ_STEP: i64 = 32;

/// Keys and values of all layers for up to [`KvCache::capacity`] rows and tokens.
///
/// Memory in bytes is `rows · tokens · 2 · layers · kv_heads · head_dim · bytes per element`; see
/// [`KvCache::estimate_bytes`]. SmolLM2-135M in bf16 takes 23,040 bytes a token.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    heads: i64,
    width: i64,
    kind: Kind,
    device: Device,
    rows: i64,
    tokens: i64,
    pass: Pass,
}

#[derive(Debug)]
struct LayerCache {
    /// `[S, Hkv, D, T]`: transposed, since the product with queries reads it several times faster.
    key: Tensor,
    value: Tensor, // [S, Hkv, T, D]
}

/// What the calls of [`Attend::attend`] until the next announcement are.
#[derive(Debug)]
enum Pass {
    /// Nothing was announced.
    None,
    /// New rows from `first` on, all from position 0.
    Prefill {
        first: i64,
        attention: FullAttention,
    },
    /// New tokens behind what rows hold.
    Extend(ExtendPass),
}

/// The same number of new tokens for each of some neighbouring rows.
#[derive(Debug)]
struct ExtendPass {
    /// The first row.
    first: i64,
    /// Rows: `B`.
    batch: i64,
    /// New tokens a row: `T`.
    new: i64,
    /// Where new keys and values go, and what their queries see up to: `[B, T]`, `i64`.
    positions: Tensor,
    /// Row numbers, `[B, 1]`, within the cache.
    rows: Tensor,
    /// Tokens of the cache that are read.
    read: i64,
    /// Masks by window, made once per pass: additive `[B, 1, 1, T, read]`, f32.
    masks: Vec<(Option<i64>, Tensor)>,
}

/// Keys and values of a sequence's beginning, kept apart from the cache's rows.
#[derive(Debug)]
pub struct CachedPrefix {
    layers: Vec<[Tensor; 2]>,
    tokens: usize,
}

impl KvCache {
    /// An empty cache, which takes no memory yet.
    pub fn new(spec: &DecoderSpec, kind: Kind, device: Device) -> Self {
        let mut cache = Self {
            layers: Vec::new(),
            heads: spec.kv_heads,
            width: spec.head_dim,
            kind,
            device,
            rows: 0,
            tokens: 0,
            pass: Pass::None,
        };
        cache.layers = spec.layers.iter().map(|_| cache.zeros(0, 0)).collect();
        cache
    }

    /// Memory that a cache of `rows` sequences of `tokens` tokens takes, in bytes. One layer's
    /// share comes on top while the cache grows.
    pub fn estimate_bytes(spec: &DecoderSpec, kind: Kind, rows: usize, tokens: usize) -> u64 {
        let per_token = 2 * spec.layers.len() as u64 * (spec.kv_heads * spec.head_dim) as u64;
        per_token * kind.elt_size_in_bytes() as u64 * rows as u64 * tokens as u64
    }

    /// Rows and tokens a row that fit without growing.
    pub fn capacity(&self) -> (usize, usize) {
        (self.rows as usize, self.tokens as usize)
    }

    /// Gives the memory back and forgets everything.
    pub fn clear(&mut self) {
        self.layers = self.layers.iter().map(|_| self.zeros(0, 0)).collect();
        (self.rows, self.tokens, self.pass) = (0, 0, Pass::None);
    }

    /// Makes room for `rows` sequences of `tokens` tokens. Contents stay. Grows by at least half,
    /// so that a sequence which gets longer token by token does not copy the cache each time.
    pub fn reserve(&mut self, rows: usize, tokens: usize) {
        let (rows, tokens) = (rows as i64, tokens as i64);
        if rows <= self.rows && tokens <= self.tokens {
            return;
        }
        let grown = |need: i64, have: i64| match need > have {
            true => need.max(have + have / 2),
            false => have,
        };
        let rows = grown(rows, self.rows);
        let tokens = (grown(tokens, self.tokens) + TOKEN_STEP - 1) / TOKEN_STEP * TOKEN_STEP;
        for index in 0..self.layers.len() {
            let larger = self.zeros(rows, tokens); // KV-1
            let old = self.layers[index].part(0, self.rows, self.tokens);
            copy(&old, larger.part(0, self.rows, self.tokens));
            self.layers[index] = larger;
        }
        (self.rows, self.tokens, self.pass) = (rows, tokens, Pass::None);
    }

    /// Announces a forward pass over `rows` new sequences `[rows, tokens]` at positions `0..tokens`
    /// (shorter ones padded at the end, which costs time but changes nothing), kept in rows
    /// `first..first + rows`.
    pub fn begin_prefill(&mut self, first: usize, rows: usize, tokens: usize) {
        self.reserve(first + rows, tokens);
        let positions = Tensor::arange(tokens as i64, (Kind::Int64, self.device)).unsqueeze(0);
        // Padding is behind the real tokens, so that no real token sees any of it.
        let attention = FullAttention::new(Visibility::Causal, &positions);
        let first = first as i64;
        self.pass = Pass::Prefill { first, attention };
    }

    /// Announces a forward pass over one new token of each row `0..lengths.len()`; row `b` holds
    /// `lengths[b]` tokens before it.
    pub fn begin_decode(&mut self, lengths: &[i64]) {
        self.begin_extend(0, lengths, 1);
    }

    /// Announces a forward pass over `new` tokens `[lengths.len(), new]` of the rows from `first`
    /// on; row `first + b` holds `lengths[b]` tokens before them, and they are at positions
    /// `lengths[b]..lengths[b] + new`. Shorter rows are padded at the end, as in a prefill: what
    /// padding leaves behind is beyond the row's length and overwritten by what comes next (KV-1).
    pub fn begin_extend(&mut self, first: usize, lengths: &[i64], new: usize) {
        let (first, batch, new) = (first as i64, lengths.len() as i64, new as i64);
        let longest = lengths.iter().copied().max().unwrap_or(0) + new;
        self.reserve((first + batch) as usize, longest as usize);
        let range = |from, to| Tensor::arange_start(from, to, (Kind::Int64, self.device));
        let lengths = Tensor::from_slice(lengths).to_device(self.device);
        self.pass = Pass::Extend(ExtendPass {
            first,
            batch,
            new,
            positions: lengths.unsqueeze(1) + range(0, new).unsqueeze(0),
            rows: range(first, first + batch).unsqueeze(1),
            read: ((longest + READ_STEP - 1) / READ_STEP * READ_STEP).min(self.tokens),
            masks: Vec::new(),
        });
    }

    /// A copy of the first `tokens` tokens of a row.
    pub fn save_prefix(&self, row: usize, tokens: usize) -> CachedPrefix {
        let part = |layer: &LayerCache| {
            let rows = layer.part(row as i64, 1, tokens as i64);
            rows.map(|tensor| tensor.copy())
        };
        CachedPrefix {
            layers: self.layers.iter().map(part).collect(),
            tokens,
        }
    }

    /// Writes the first `tokens` tokens of `prefix` into a row.
    ///
    /// # Panics
    /// When the prefix has fewer, or is of another model.
    pub fn load_prefix(&mut self, prefix: &CachedPrefix, row: usize, tokens: usize) {
        assert!(tokens <= prefix.tokens, "a prefix gives what it holds");
        self.reserve(row + 1, tokens);
        for (layer, [key, value]) in self.layers.iter().zip(&prefix.layers) {
            let from = [
                key.narrow(3, 0, tokens as i64),
                value.narrow(2, 0, tokens as i64),
            ];
            copy(&from, layer.part(row as i64, 1, tokens as i64));
        }
    }

    /// Copies the first `tokens` tokens of a row over another row's.
    pub fn copy_row(&mut self, from: usize, to: usize, tokens: usize) {
        self.reserve(from.max(to) + 1, tokens);
        for layer in &self.layers {
            let row = |index: usize| layer.part(index as i64, 1, tokens as i64);
            copy(&row(from), row(to));
        }
    }

    fn zeros(&self, rows: i64, tokens: i64) -> LayerCache {
        let options = (self.kind, self.device);
        LayerCache {
            key: Tensor::zeros([rows, self.heads, self.width, tokens], options),
            value: Tensor::zeros([rows, self.heads, tokens, self.width], options),
        }
    }
}

impl LayerCache {
    /// Views of keys `[rows, Hkv, D, tokens]` and values `[rows, Hkv, tokens, D]`.
    fn part(&self, first: i64, rows: i64, tokens: i64) -> [Tensor; 2] {
        let rows = |tensor: &Tensor| tensor.narrow(0, first, rows);
        [
            rows(&self.key).narrow(3, 0, tokens),
            rows(&self.value).narrow(2, 0, tokens),
        ]
    }
}

fn copy(from: &[Tensor; 2], to: [Tensor; 2]) {
    for (mut to, from) in to.into_iter().zip(from) {
        to.copy_(from);
    }
}

impl Attend for KvCache {
    /// # Panics
    /// When no pass of this shape was announced.
    fn attend(
        &mut self,
        spec: &DecoderSpec,
        layer: usize,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Tensor {
        let cache = &mut self.layers[layer];
        match &mut self.pass {
            Pass::None => panic!("a pass is announced before the decoder runs"),
            Pass::Prefill { first, attention } => {
                let (rows, tokens) = (key.size()[0], key.size()[2]);
                let stored = cache.part(*first, rows, tokens);
                copy(&[key.transpose(2, 3), value.shallow_clone()], stored);
                attention.attend(spec, layer, query, key, value)
            }
            Pass::Extend(pass) => {
                pass.store(cache, key, value);
                pass.attend(spec, spec.layers[layer].window, cache, query)
            }
        }
    }
}

impl ExtendPass {
    /// Appends keys and values, `[B, Hkv, T, D]`, to the rows.
    fn store(&self, cache: &mut LayerCache, key: &Tensor, value: &Tensor) {
        let (rows, now) = (Some(&self.rows), Some(&self.positions));
        let by_token = |new: &Tensor| new.permute([0, 2, 1, 3]); // [B, T, Hkv, D]
        let _ = cache
            .key
            .index_put_(&[rows, None, None, now], &by_token(key), false);
        let _ = cache
            .value
            .index_put_(&[rows, None, now], &by_token(value), false);
    }

    fn attend(
        &mut self,
        spec: &DecoderSpec,
        window: Option<i64>,
        cache: &LayerCache,
        query: &Tensor,
    ) -> Tensor {
        let [keys, values] = cache.part(self.first, self.batch, self.read);
        // The query heads of a group share their keys: as rows of one product they need no copies.
        let group = spec.heads / spec.kv_heads;
        let (batch, kv_heads, new) = (self.batch, spec.kv_heads, self.new);
        let rows = query.reshape([batch, kv_heads, group * new, spec.head_dim]);
        let scores = rows.matmul(&keys).to_kind(Kind::Float) * spec.attention_scale; // [B, Hkv, G·T, read]
        let scores = match spec.attention_softcap {
            Some(cap) => (scores / cap).tanh() * cap,
            None => scores,
        };
        let scores = scores.view([batch, kv_heads, group, new, self.read]);
        (scores + self.mask(window))
            .softmax(-1, Kind::Float)
            .to_kind(query.kind())
            .view([batch, kv_heads, group * new, self.read])
            .matmul(&values)
            .reshape([batch, spec.heads, new, spec.head_dim])
    }

    /// 0 for keys at positions `own - window + 1 ..= own`, −∞ for others.
    fn mask(&mut self, window: Option<i64>) -> Tensor {
        if let Some((_, mask)) = self.masks.iter().find(|(w, _)| *w == window) {
            return mask.shallow_clone();
        }
        let keys = Tensor::arange(self.read, (Kind::Int64, self.positions.device()));
        let own = self.positions.unsqueeze(2); // [B, T, 1]
        let mut visible = keys.le_tensor(&own); // [B, T, read]
        if let Some(window) = window {
            visible = visible.logical_and(&(own - keys).lt(window));
        }
        let mask = additive(&visible, Kind::Float).view([self.batch, 1, 1, self.new, self.read]);
        self.masks.push((window, mask.shallow_clone()));
        mask
    }
}

#[cfg(test)]
mod tests;
