//! GGUF tensors under their Hugging Face names, in f32.

use super::{ImportError, first_line};
use crate::{DecoderSpec, Slot};
use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::path::Path;
use tch::Tensor;

/// Roles within a layer: Hugging Face, GGUF.
const LAYER: [(&str, &str); 10] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Norms behind attention: it goes into the feed-forward layer, or into the sum where that has norms
/// of its own (Gemma).
const PLAIN_NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
const GEMMA_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// The GGUF name of a checkpoint key.
fn gguf_name(key: &str, spec: &DecoderSpec) -> Option<String> {
    match key {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = key.strip_prefix("model.layers.")?.split_once('.')?;
    let (role, what) = rest.rsplit_once('.')?;
    let norms: &[_] = match spec.post_norms {
        true => &GEMMA_NORMS,
        false => &PLAIN_NORMS,
    };
    let (_, name) = LAYER.iter().chain(norms).find(|(hf, _)| *hf == role)?;
    Some(format!("blk.{layer}.{name}.{what}"))
}

/// Checks that the file has every tensor the model needs and no other, before anything is written.
pub(super) fn check(
    path: &Path,
    content: &Content,
    slots: &[Slot],
    spec: &DecoderSpec,
) -> Result<(), ImportError> {
    let problem = |key: &str, problem: &str| ImportError::Unsupported {
        path: path.to_owned(),
        key: key.to_owned(),
        problem: problem.to_owned(),
    };
    let mut needed = BTreeSet::new();
    for part in slots.iter().flat_map(|slot| &slot.parts) {
        let name =
            gguf_name(&part.key, spec).ok_or_else(|| problem(&part.key, "has no GGUF name"))?;
        if !content.tensor_infos.contains_key(&name) {
            return Err(problem(
                &name,
                "is missing, though the metadata call for it",
            ));
        }
        needed.insert(name);
    }
    match content
        .tensor_infos
        .keys()
        .find(|name| !needed.contains(*name))
    {
        Some(name) if name == "rope_freqs.weight" => Err(problem(
            name,
            "stretches the context in a way that cannot be turned back into `rope_scaling`",
        )),
        Some(name) => Err(problem(
            name,
            "is a tensor that the architecture has no place for",
        )),
        None => Ok(()),
    }
}

/// One tensor in f32, as Hugging Face lays it out.
pub(super) fn read<R: Read + Seek>(
    path: &Path,
    content: &Content,
    file: &mut R,
    key: &str,
    shape: &[i64],
    spec: &DecoderSpec,
) -> Result<Tensor, ImportError> {
    let name = gguf_name(key, spec).expect("check() has found a name for every key");
    let damaged = |problem: String| ImportError::Damaged {
        path: path.to_owned(),
        problem: format!("tensor {name}: {problem}"),
    };
    let values = content
        .tensor(file, &name, &Device::Cpu)
        .and_then(|quantised| quantised.dequantize(&Device::Cpu))
        .map_err(|error| damaged(first_line(&error)))?;
    let found: Vec<i64> = values.dims().iter().map(|&n| n as i64).collect();
    if found != shape {
        return Err(damaged(format!(
            "its shape is {found:?}, the metadata call for {shape:?}"
        )));
    }
    let values: Vec<f32> = values
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(|error| damaged(first_line(&error)))?;
    let tensor = Tensor::from_slice(&values).view(shape);
    if spec.norm_plus_one && key.ends_with("norm.weight") {
        // llama.cpp has no norm that adds one by itself: its converter has added it.
        return Ok(tensor - 1.0);
    }
    let heads = match spec.model_type.as_str() {
        "llama" if key.contains("self_attn.q_proj") => spec.heads,
        "llama" if key.contains("self_attn.k_proj") => spec.kv_heads,
        _ => return Ok(tensor),
    };
    Ok(half_split(&tensor, heads))
}

/// llama.cpp interleaves the two halves of each query and key head of Llama (its rotation pairs
/// neighbours); Hugging Face keeps them apart. Puts rows `0 1 2 3 …` of a head at `0 D/2 1 …`.
fn half_split(tensor: &Tensor, heads: i64) -> Tensor {
    let shape = tensor.size();
    let half = shape[0] / heads / 2;
    tensor
        .view([heads, half, 2, -1])
        .transpose(1, 2)
        .reshape(&shape)
}

/// How many tensors are stored in which type.
pub(super) fn types(content: &Content) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::new();
    for info in content.tensor_infos.values() {
        *counts.entry(format!("{:?}", info.ggml_dtype)).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}
