//! The parameters of a decoder: which tensors there are, and which checkpoint keys fill them.
//!
//! Query, key and value are one matrix here, and so are gate and up: fewer and larger products.
//! A checkpoint holds them apart, so each tensor lists its parts by rows.

use crate::DecoderSpec;
use tch::Tensor;

/// The rows of a parameter that come from one checkpoint tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The key in the checkpoint.
    pub key: String,
    /// First row.
    pub start: i64,
    /// Number of rows.
    pub rows: i64,
}

/// One parameter before it has values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Name within the decoder, such as `layers.3.qkv`.
    pub name: String,
    /// `[out, in]` for matrices, `[n]` for norms and biases.
    pub shape: Vec<i64>,
    /// The checkpoint tensors that fill it, in the order of their rows.
    pub parts: Vec<Part>,
}

/// Every parameter of a decoder, in a fixed order that [`crate::Decoder`] relies on.
pub fn slots(spec: &DecoderSpec) -> Vec<Slot> {
    let mut slots = vec![single(
        "embedding".into(),
        vec![spec.vocab_size, spec.hidden_size],
        "model.embed_tokens.weight".into(),
    )];
    for layer in 0..spec.layers.len() {
        layer_slots(spec, layer, &mut slots);
    }
    slots.push(single(
        "norm".into(),
        vec![spec.hidden_size],
        "model.norm.weight".into(),
    ));
    if !spec.tied_embeddings {
        slots.push(single(
            "output".into(),
            vec![spec.vocab_size, spec.hidden_size],
            "lm_head.weight".into(),
        ));
    }
    slots
}

fn layer_slots(spec: &DecoderSpec, layer: usize, slots: &mut Vec<Slot>) {
    let key = |rest: &str| format!("model.layers.{layer}.{rest}");
    let name = |rest: &str| format!("layers.{layer}.{rest}");
    let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let qkv = |what: &str| {
        ["q", "k", "v"]
            .map(|p| key(&format!("self_attn.{p}_proj.{what}")))
            .into_iter()
            .zip([q, kv, kv])
    };
    let gate_up = |what: &str| {
        ["gate", "up"]
            .map(|p| key(&format!("mlp.{p}_proj.{what}")))
            .into_iter()
            .zip([inner, inner])
    };
    let mut one = |rest: &str, shape: Vec<i64>, from: &str| {
        slots.push(single(name(rest), shape, key(from)));
    };
    one("attention_norm", vec![hidden], "input_layernorm.weight");
    one(
        "output_projection",
        vec![hidden, q],
        "self_attn.o_proj.weight",
    );
    one("down", vec![hidden, inner], "mlp.down_proj.weight");
    if spec.post_norms {
        one(
            "post_attention_norm",
            vec![hidden],
            "post_attention_layernorm.weight",
        );
        one("mlp_norm", vec![hidden], "pre_feedforward_layernorm.weight");
        one(
            "post_mlp_norm",
            vec![hidden],
            "post_feedforward_layernorm.weight",
        );
    } else {
        one("mlp_norm", vec![hidden], "post_attention_layernorm.weight");
    }
    if spec.qk_norm {
        one("query_norm", vec![spec.head_dim], "self_attn.q_norm.weight");
        one("key_norm", vec![spec.head_dim], "self_attn.k_norm.weight");
    }
    if spec.output_bias {
        one("output_bias", vec![hidden], "self_attn.o_proj.bias");
    }
    if spec.mlp_bias {
        one("down_bias", vec![hidden], "mlp.down_proj.bias");
    }
    slots.push(joined(name("qkv"), Some(hidden), qkv("weight")));
    slots.push(joined(name("gate_up"), Some(hidden), gate_up("weight")));
    if spec.qkv_bias {
        slots.push(joined(name("qkv_bias"), None, qkv("bias")));
    }
    if spec.mlp_bias {
        slots.push(joined(name("gate_up_bias"), None, gate_up("bias")));
    }
}

fn single(name: String, shape: Vec<i64>, key: String) -> Slot {
    let rows = shape[0];
    Slot {
        name,
        shape,
        parts: vec![Part {
            key,
            start: 0,
            rows,
        }],
    }
}

fn joined(name: String, width: Option<i64>, keys: impl Iterator<Item = (String, i64)>) -> Slot {
    let mut rows_so_far = 0;
    let parts: Vec<Part> = keys
        .map(|(key, rows)| {
            let start = rows_so_far;
            rows_so_far += rows;
            Part { key, start, rows }
        })
        .collect();
    let shape = std::iter::once(rows_so_far).chain(width).collect();
    Slot { name, shape, parts }
}

/// A parameter with its values.
#[derive(Debug)]
pub struct Parameter {
    /// Name, shape and checkpoint keys.
    pub slot: Slot,
    /// The values, of `slot.shape`.
    pub tensor: Tensor,
}

impl Parameter {
    /// Slots with their values.
    ///
    /// # Panics
    /// When a tensor is missing or of another shape: loaders check that with an error of their own.
    pub(crate) fn pair(slots: Vec<Slot>, tensors: Vec<Tensor>) -> Vec<Self> {
        assert_eq!(slots.len(), tensors.len(), "one tensor per slot");
        let pairs = slots.into_iter().zip(tensors);
        pairs
            .map(|(slot, tensor)| {
                assert_eq!(slot.shape, tensor.size(), "{}", slot.name);
                Self { slot, tensor }
            })
            .collect()
    }
}

/// Parameters by role, for the forward pass.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub attention_norm: Tensor,
    pub qkv: Tensor,
    pub qkv_bias: Option<Tensor>,
    pub query_norm: Option<Tensor>,
    pub key_norm: Option<Tensor>,
    pub output_projection: Tensor,
    pub output_bias: Option<Tensor>,
    pub post_attention_norm: Option<Tensor>,
    pub mlp_norm: Tensor,
    pub gate_up: Tensor,
    pub gate_up_bias: Option<Tensor>,
    pub down: Tensor,
    pub down_bias: Option<Tensor>,
    pub post_mlp_norm: Option<Tensor>,
}

impl LayerWeights {
    pub(crate) fn gather(parameters: &[Parameter], layer: usize) -> Self {
        let prefix = format!("layers.{layer}.");
        let find = |role: &str| {
            parameters
                .iter()
                .find(|p| p.slot.name.strip_prefix(&prefix) == Some(role))
                .map(|p| p.tensor.shallow_clone())
        };
        let must = |role: &str| find(role).expect("slots() lists it for every layer");
        Self {
            attention_norm: must("attention_norm"),
            qkv: must("qkv"),
            qkv_bias: find("qkv_bias"),
            query_norm: find("query_norm"),
            key_norm: find("key_norm"),
            output_projection: must("output_projection"),
            output_bias: find("output_bias"),
            post_attention_norm: find("post_attention_norm"),
            mlp_norm: must("mlp_norm"),
            gate_up: must("gate_up"),
            gate_up_bias: find("gate_up_bias"),
            down: must("down"),
            down_bias: find("down_bias"),
            post_mlp_norm: find("post_mlp_norm"),
        }
    }
}
