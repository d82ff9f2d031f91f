//! Tests of whole steps on tiny random decoders.

mod adapters;
mod gradients;
mod learning;
mod losses;
mod replicas;
mod resume;
mod separate;
mod sharded;
mod updates;

use crate::{Learner, LearnerConfig};
use model::{Decoder, slots, spec_of};
use proto::{RlSample, SftSample, SnapshotScope, StateGroup, WeightVersion};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Vocabulary of the tiny models.
pub(crate) const VOCABULARY: u32 = 29;

const LLAMA: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"],
    "vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
    "tie_word_embeddings": true}"#;

const QWEN2_UNTIED: &str = r#"{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
    "tie_word_embeddings": false}"#;

/// Windows shorter than the sequences, soft-caps low enough to bite.
const GEMMA2: &str = r#"{"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"],
    "vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 10000.0, "sliding_window": 3, "query_pre_attn_scalar": 4,
    "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}"#;

/// Every kind of decoder that packing has to respect.
pub(crate) const ARCHITECTURES: [(&str, &str); 3] = [
    ("llama", LLAMA),
    ("qwen2 untied", QWEN2_UNTIED),
    ("gemma2", GEMMA2),
];

/// A model folder with random weights of standard deviation 0.3.
pub(crate) fn folder(config: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("config.json"), config).unwrap();
    let spec = spec_of(&source).unwrap();
    let tensors = slots(&spec)
        .iter()
        .enumerate()
        .map(|(i, slot)| random(&slot.shape, i))
        .collect();
    let decoder = Decoder::new(spec, tensors);
    model::save(
        &home.path().join("model"),
        decoder.parameters(),
        Kind::Float,
        &source,
    )
    .unwrap();
    home
}

/// Numbers without a generator that tests in other threads would share.
fn random(shape: &[i64], salt: usize) -> Tensor {
    let count: i64 = shape.iter().product();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(salt as u64 + 1);
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..count).map(|_| uniform()).collect(); // deviation 1/√12
    Tensor::from_slice(&values).view(shape)
}

/// f32, repeatable, no KL.
pub(crate) fn config() -> LearnerConfig {
    let mut config = LearnerConfig {
        deterministic: true,
        learning_rate: 1e-2,
        ..Default::default()
    };
    config.kl.coefficient = 0.0;
    config
}

pub(crate) fn learner(home: &Path, config: LearnerConfig) -> Learner {
    Learner::new(&home.join("model"), Device::Cpu, config).unwrap()
}

pub(crate) fn dialogue(tokens: &[u32], mask: &[u8]) -> SftSample {
    SftSample {
        tokens: tokens.to_vec(),
        mask: mask.to_vec(),
    }
}

pub(crate) fn group(prompt: &[u32], samples: &[(&[u32], f32)]) -> StateGroup {
    let sample = |(tokens, reward): &(&[u32], f32)| RlSample {
        tokens: tokens.to_vec(),
        logprobs: vec![-1.0; tokens.len()],
        reward: *reward,
        weight_version: WeightVersion(0),
    };
    StateGroup {
        state_id: format!("state {prompt:?}"),
        trajectory_id: format!("trajectory of {prompt:?}"),
        prompt: prompt.to_vec(),
        samples: samples.iter().map(sample).collect(),
    }
}

/// The summed gradient, which is cleared.
pub(crate) fn take_gradient(learner: &mut Learner) -> Vec<f32> {
    let gradient = Vec::try_from(&learner.flat.gradient).unwrap();
    let _ = learner.flat.gradient.zero_();
    gradient
}

/// |a − b| / |b|.
pub(crate) fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut b.iter().map(|v| f64::from(*v)));
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b))) / size
}

/// Log-probability of each token of `action` behind `prompt`, by the model's own plain forward.
pub(crate) fn plain_logprobs(
    decoder: &Decoder,
    prompt: &[u32],
    action: &[u32],
    temperature: f64,
) -> Vec<f64> {
    let ids: Vec<i64> = prompt.iter().chain(action).map(|t| i64::from(*t)).collect();
    let positions: Vec<i64> = (0..ids.len() as i64).collect();
    let positions = Tensor::from_slice(&positions).unsqueeze(0);
    let mut attention = model::FullAttention::new(model::Visibility::Causal, &positions);
    tch::no_grad(|| {
        let hidden = decoder.forward(
            &Tensor::from_slice(&ids).unsqueeze(0),
            &positions,
            &mut attention,
        );
        let logits = decoder.logits(&hidden) / temperature;
        let logprobs = logits.log_softmax(-1, Kind::Double).squeeze_dim(0);
        (0..action.len())
            .map(|i| {
                let place = (prompt.len() + i) as i64;
                logprobs.double_value(&[place - 1, ids[place as usize]])
            })
            .collect()
    })
}
