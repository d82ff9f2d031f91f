//! Small decoders and a small tokenizer.

use model::{Activation, Decoder, DecoderSpec, LayerSpec, RopeScaling, RopeSpec, Tokenizer, slots};
use proto::{Completion, GenerateRequest, SamplingParams, WeightVersion};
use sampler::{Engine, EngineConfig, RequestId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Token texts by id, as a byte-level tokenizer writes them; `ÃŃ` would be the two bytes of `í`.
pub const TEXTS: [&str; 16] = [
    "<|end|>", "a", "b", "</an", "swer>", "swer>!x", "<", "/answer>", "Ã", "©", ">Ã", "c",
    "<|pad|>", "e", "f", "g",
];

/// The tokenizer of [`TEXTS`]: 0 ends a turn, 0 and 12 are special.
pub fn tokenizer() -> Arc<Tokenizer> {
    let vocab: serde_json::Map<String, serde_json::Value> = TEXTS
        .iter()
        .enumerate()
        .map(|(id, text)| ((*text).to_owned(), id.into()))
        .collect();
    let special = |id: usize| {
        serde_json::json!({
            "id": id, "content": TEXTS[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        })
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0), special(12)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false}
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": 0}"#,
    )
    .unwrap();
    Arc::new(Tokenizer::load(dir.path()).unwrap())
}

pub fn spec() -> DecoderSpec {
    DecoderSpec {
        model_type: "llama".into(),
        vocab_size: 16,
        hidden_size: 16,
        intermediate_size: 24,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        max_context: 64,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied_embeddings: false,
        embedding_scale: None,
        attention_scale: 0.5,
        attention_softcap: None,
        logit_softcap: None,
        activation: Activation::Silu,
        ropes: vec![RopeSpec {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        }],
        layers: vec![
            LayerSpec {
                window: None,
                rope: 0,
            },
            LayerSpec {
                window: Some(6),
                rope: 0,
            },
        ],
    }
}

/// Random weights that depend on the seed only. Token 0, which ends turns, is made unlikely.
pub fn random(seed: u64) -> Decoder {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let tensors = slots(&spec())
        .iter()
        .map(|slot| {
            let count = slot.shape.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|_| rng.random_range(-0.8..0.8)).collect();
            Tensor::from_slice(&values).view(slot.shape.as_slice())
        })
        .collect();
    Decoder::new(spec(), tensors)
}

/// A decoder that follows each token by the one the table names, with near certainty.
pub fn chain(successors: &[(i64, i64)]) -> Decoder {
    let tensors = slots(&spec())
        .iter()
        .map(|slot| {
            let zeros = Tensor::zeros(&slot.shape, (Kind::Float, Device::Cpu));
            match slot.name.as_str() {
                "embedding" => Tensor::eye(16, (Kind::Float, Device::Cpu)),
                "output" => {
                    for (from, to) in successors {
                        let _ = zeros.get(*to).get(*from).fill_(10.0);
                    }
                    zeros
                }
                _ if slot.shape.len() == 1 => zeros + 1.0,
                _ => zeros, // attention and feed-forward add nothing
            }
        })
        .collect();
    Decoder::new(spec(), tensors)
}

pub fn engine(decoder: Decoder, max_batch: usize) -> Engine {
    engine_that_keeps(8, decoder, max_batch)
}

pub fn engine_that_keeps(kept_sequences: usize, decoder: Decoder, max_batch: usize) -> Engine {
    let config = EngineConfig {
        max_batch,
        max_context_tokens: 64,
        max_prefill_tokens: 40,
        kept_sequences,
    };
    Engine::new(decoder, tokenizer(), WeightVersion(0), config).unwrap()
}

pub fn sampled(seed: u64, prompt: &[u32], samples: u32) -> GenerateRequest {
    let params = SamplingParams {
        temperature: 0.9,
        ..SamplingParams::greedy(20, vec![])
    };
    GenerateRequest {
        prompt: prompt.to_vec(),
        samples,
        params,
        seed,
    }
}

/// Serves requests to the end; the completions by request.
pub fn serve(engine: &mut Engine, requests: &[GenerateRequest]) -> Vec<Vec<Completion>> {
    for (id, request) in requests.iter().enumerate() {
        engine
            .submit(RequestId(id as u64), request.clone())
            .unwrap();
    }
    let mut finished = BTreeMap::new();
    while !engine.is_idle() {
        for (id, outcome) in engine.step() {
            assert!(
                finished.insert(id, outcome.unwrap()).is_none(),
                "{id:?} finished twice"
            );
        }
    }
    assert_eq!(finished.len(), requests.len());
    finished.into_values().collect()
}
