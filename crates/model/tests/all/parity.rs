//! Logits and greedy text agree with `transformers`; `fixtures/make_fixtures.py` says how the
//! fixtures were made.

use crate::support::{fixture, smollm2};
use model::{Decoder, FullAttention, Visibility, load, load_adapter, save_adapter, spec_of};
use serde_json::json;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const ARCHITECTURES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"];
/// Largest difference of a logit; logits of the fixtures reach about 10.
const TOLERANCE: f64 = 1e-4;

/// Ids `[B, T]` (i64) and the logits `[B, T, V]` that `transformers` gives them.
pub fn expected(dir: &Path) -> (Tensor, Tensor) {
    let tensors = Tensor::read_safetensors(dir.join("expected.safetensors")).unwrap();
    let find = |name: &str| {
        tensors
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, t)| t.shallow_clone())
            .unwrap()
    };
    (find("ids").to_kind(Kind::Int64), find("logits"))
}

/// Positions `[B, T]` that count from 0 in every row.
fn positions(ids: &Tensor) -> Tensor {
    let [batch, length] = ids.size()[..] else {
        panic!("ids have two dimensions")
    };
    Tensor::arange(length, (Kind::Int64, Device::Cpu)).expand([batch, length], false)
}

pub fn logits(decoder: &Decoder, ids: &Tensor, visibility: Visibility) -> Tensor {
    let positions = positions(ids);
    let mut attention = FullAttention::new(visibility, &positions);
    tch::no_grad(|| decoder.logits(&decoder.forward(ids, &positions, &mut attention)))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[track_caller]
pub fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    let difference = largest_difference(a, b);
    assert!(
        difference < TOLERANCE,
        "{what}: logits differ by {difference}"
    );
}

#[test]
fn logits_agree_with_transformers_for_every_architecture() {
    for name in ARCHITECTURES {
        let decoder = load(&fixture(name), Device::Cpu, Kind::Float).unwrap();
        let (ids, expected) = expected(&fixture(name));
        assert_close(&logits(&decoder, &ids, Visibility::Causal), &expected, name);
    }
}

/// An adapter that PEFT has written, as PEFT computes with it, and the same merged.
#[test]
fn adapters_agree_with_peft() {
    for name in ["llama", "gemma3_text"] {
        let folder = fixture(name);
        let mut decoder = load(&folder, Device::Cpu, Kind::Float).unwrap();
        let (ids, expected) = expected(&folder.join("adapter"));
        let (lora, tensors) = load_adapter(&folder.join("adapter"), decoder.spec()).unwrap();
        decoder.adapt(lora, tensors);
        assert_close(&logits(&decoder, &ids, Visibility::Causal), &expected, name);
        let merged = decoder.merged_parameters();
        let tensors = merged.into_iter().map(|p| p.tensor).collect();
        let merged = Decoder::new(decoder.spec().clone(), tensors);
        assert_close(&logits(&merged, &ids, Visibility::Causal), &expected, name);
    }
}

#[test]
fn a_written_adapter_is_read_again() {
    let folder = fixture("llama");
    let mut decoder = load(&folder, Device::Cpu, Kind::Float).unwrap();
    let (lora, tensors) = load_adapter(&folder.join("adapter"), decoder.spec()).unwrap();
    decoder.adapt(lora.clone(), tensors);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("adapter");
    save_adapter(
        &out,
        &lora,
        decoder.adapter_parameters(),
        Kind::Float,
        &folder,
    )
    .unwrap();
    let (found, tensors) = load_adapter(&out, decoder.spec()).unwrap();
    assert_eq!(found, lora);
    for (found, written) in tensors.iter().zip(decoder.adapter_parameters()) {
        assert_eq!(*found, written.tensor, "{}", written.slot.name);
    }
}

#[test]
fn adapters_that_cannot_be_used_are_refused_by_what_is_odd() {
    let folder = fixture("llama");
    let spec = spec_of(&folder).unwrap();
    let plain = std::fs::read_to_string(folder.join("adapter/adapter_config.json")).unwrap();
    let plain: serde_json::Value = serde_json::from_str(&plain).unwrap();
    for (key, value, words) in [
        ("use_dora", json!(true), "`use_dora` is true"),
        ("use_rslora", json!(true), "`use_rslora` is true"),
        ("lora_bias", json!(true), "`lora_bias` is true"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out` is true"),
        ("alpha_pattern", json!({"q_proj": 4}), "`alpha_pattern` is"),
        (
            "layer_replication",
            json!([[0, 4], [2, 4]]),
            "`layer_replication` is [[0,4],[2,4]]",
        ),
        (
            "layers_to_transform",
            json!([0]),
            "`layers_to_transform` is [0]",
        ),
        (
            "layers_to_transform",
            json!(0),
            "`layers_to_transform` is 0",
        ),
        ("exclude_modules", json!(["k_proj"]), "`exclude_modules` is"),
        (
            "target_parameters",
            json!(["mlp.experts.down_proj"]),
            "`target_parameters` is",
        ),
        (
            "trainable_token_indices",
            json!([3]),
            "`trainable_token_indices` is [3]",
        ),
        (
            "modules_to_save",
            json!(["lm_head"]),
            "`modules_to_save` is",
        ),
        (
            "alora_invocation_tokens",
            json!([7]),
            "`alora_invocation_tokens` is [7]",
        ),
        ("use_qalora", json!(true), "`use_qalora` is true"),
        ("megatron_config", json!({"a": 1}), "`megatron_config` is"),
        ("a_key_of_tomorrow", json!(1), "`a_key_of_tomorrow` is 1"),
        (
            "init_lora_weights",
            json!("pissa"),
            "`init_lora_weights` is \"pissa\"",
        ),
        (
            "init_lora_weights",
            json!("pissa_niter_16"),
            "path_initial_model_for_weight_conversion",
        ),
        ("init_lora_weights", json!("olora"), "`init_lora_weights`"),
        ("init_lora_weights", json!("corda"), "`init_lora_weights`"),
        ("init_lora_weights", json!("loftq"), "`init_lora_weights`"),
        ("init_lora_weights", json!("lora_ga"), "`init_lora_weights`"),
        ("bias", json!("all"), "`bias` is"),
        ("rank_pattern", json!({"q_proj": 4}), "`rank_pattern` is"),
        ("peft_type", json!("IA3"), "`peft_type` is"),
        ("r", json!(0), "`r` or `lora_alpha`"),
        (
            "target_modules",
            json!(["lm_head"]),
            "which is no projection",
        ),
        ("target_modules", json!(["k_proj"]), "has no place"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = plain.clone();
        config[key] = value;
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(
            folder.join("adapter").join(weights),
            dir.path().join(weights),
        )
        .unwrap();
        let error = load_adapter(dir.path(), &spec).unwrap_err().to_string();
        assert!(error.contains(words), "{key}: {error}");
    }
}

/// Settings that say how an adapter began, or how it was trained, do not change what it is.
#[test]
fn adapters_that_leave_the_weights_as_they_are_load() {
    let folder = fixture("llama");
    let spec = spec_of(&folder).unwrap();
    let plain = crate::support::json(&folder.join("adapter/adapter_config.json"));
    let (lora, _) = load_adapter(&folder.join("adapter"), &spec).unwrap();
    for (key, value) in [
        ("init_lora_weights", json!(true)),
        ("init_lora_weights", json!(null)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("eva_config", json!({"rho": 2.0})),
        ("lora_dropout", json!(0.1)),
        ("bias", json!("none")),
        ("rank_pattern", json!({})),
        ("layer_replication", json!(null)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = plain.clone();
        config[key] = value.clone();
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(
            folder.join("adapter").join(weights),
            dir.path().join(weights),
        )
        .unwrap();
        let (found, _) = load_adapter(dir.path(), &spec).unwrap();
        assert_eq!(found, lora, "{key} = {value}");
    }
}

#[test]
fn a_causal_matrix_is_the_same_as_causal() {
    for name in ARCHITECTURES {
        let decoder = load(&fixture(name), Device::Cpu, Kind::Float).unwrap();
        let (ids, expected) = expected(&fixture(name));
        let [batch, length] = ids.size()[..] else {
            panic!("ids have two dimensions")
        };
        let matrix = Tensor::ones([batch, length, length], (Kind::Bool, Device::Cpu)).tril(0);
        assert_close(
            &logits(&decoder, &ids, Visibility::Matrix(matrix)),
            &expected,
            name,
        );
    }
}

/// A prompt with two continuations in one row: each sees the prompt and itself, at positions that
/// go on from the prompt, and comes out as if it were alone.
#[test]
fn branches_of_a_tree_come_out_as_if_alone() {
    for name in ARCHITECTURES {
        let decoder = load(&fixture(name), Device::Cpu, Kind::Float).unwrap();
        let (ids, _) = expected(&fixture(name));
        let (stem, length) = (10, ids.size()[1]);
        let branch = length - stem;
        let tree = Tensor::cat(
            &[
                ids.narrow(0, 0, 1),
                ids.narrow(0, 1, 1).narrow(1, stem, branch),
            ],
            1,
        );
        let positions = Tensor::cat(
            &[
                Tensor::arange(length, (Kind::Int64, Device::Cpu)),
                Tensor::arange(branch, (Kind::Int64, Device::Cpu)) + stem,
            ],
            0,
        )
        .unsqueeze(0);
        let visible = Tensor::ones(
            [1, length + branch, length + branch],
            (Kind::Bool, Device::Cpu),
        )
        .tril(0);
        let _ = visible
            .narrow(1, length, branch)
            .narrow(2, stem, branch)
            .fill_(0);
        let mut attention = FullAttention::new(Visibility::Matrix(visible), &positions);
        let found =
            tch::no_grad(|| decoder.logits(&decoder.forward(&tree, &positions, &mut attention)));

        let first = ids.narrow(0, 0, 1);
        let second = Tensor::cat(
            &[
                first.narrow(1, 0, stem),
                ids.narrow(0, 1, 1).narrow(1, stem, branch),
            ],
            1,
        );
        let alone = logits(&decoder, &first, Visibility::Causal);
        assert_close(&found.narrow(1, 0, length), &alone, name);
        let alone = logits(&decoder, &second, Visibility::Causal);
        assert_close(
            &found.narrow(1, length, branch),
            &alone.narrow(1, stem, branch),
            name,
        );
    }
}

#[test]
fn right_padding_changes_nothing() {
    for name in ARCHITECTURES {
        let decoder = load(&fixture(name), Device::Cpu, Kind::Float).unwrap();
        let (ids, expected) = expected(&fixture(name));
        let length = ids.size()[1];
        let padded = ids.constant_pad_nd([0, 9]);
        let found = logits(&decoder, &padded, Visibility::Causal).narrow(1, 0, length);
        assert_close(&found, &expected, name);
    }
}

/// A multimodal Gemma 3 holds the same language model under other keys, in either layout.
#[test]
fn the_language_model_of_a_multimodal_gemma3_is_found() {
    let source = fixture("gemma3_text");
    let (ids, expected) = expected(&source);
    let text: serde_json::Value = crate::support::json(&source.join("config.json"));
    let config = serde_json::json!({ "model_type": "gemma3", "text_config": text });
    for prefix in ["language_model.model.", "model.language_model."] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let mut tensors: Vec<_> = Tensor::read_safetensors(source.join("model.safetensors"))
            .unwrap()
            .into_iter()
            .map(|(key, tensor)| (key.replacen("model.", prefix, 1), tensor))
            .collect();
        tensors.push((
            "vision_tower.patch.weight".into(),
            Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        ));
        Tensor::write_safetensors(&tensors, dir.path().join("model.safetensors")).unwrap();
        let decoder = load(dir.path(), Device::Cpu, Kind::Float).unwrap();
        assert_close(
            &logits(&decoder, &ids, Visibility::Causal),
            &expected,
            prefix,
        );
    }
}

#[derive(serde::Deserialize)]
struct Greedy {
    prompt: String,
    ids: Vec<u32>,
    continuation: Vec<u32>,
    top: Vec<(i64, f64)>,
}

/// Greedy continuations of SmolLM2 in f32, all prompts in one batch. Instead of sampling, the
/// expected continuation is scored: where its every token is the most probable one, greedy
/// sampling gives just that.
#[test]
fn smollm2_continues_twenty_prompts_as_transformers_does() {
    let Some(dir) = smollm2() else { return };
    let rows: Vec<Greedy> = serde_json::from_value(crate::support::json(
        &crate::support::fixtures().join("smollm2.json"),
    ))
    .unwrap();
    assert_eq!(rows.len(), 20);
    let codec = model::TurnCodec::load(&dir).unwrap();
    for row in &rows {
        assert_eq!(codec.prompt(None, &row.prompt), row.ids, "{}", row.prompt);
    }
    let decoder = load(&dir, Device::Cpu, Kind::Float).unwrap();
    let sequences: Vec<Vec<i64>> = rows
        .iter()
        .map(|row| {
            row.ids
                .iter()
                .chain(&row.continuation)
                .map(|&id| i64::from(id))
                .collect()
        })
        .collect();
    let longest = sequences.iter().map(Vec::len).max().unwrap();
    let padded: Vec<i64> = sequences
        .iter()
        .flat_map(|ids| {
            ids.iter()
                .copied()
                .chain(std::iter::repeat_n(0, longest - ids.len()))
        })
        .collect();
    let ids = Tensor::from_slice(&padded).view([rows.len() as i64, longest as i64]);
    let positions = positions(&ids);
    let mut attention = FullAttention::new(Visibility::Causal, &positions);
    let hidden = tch::no_grad(|| decoder.forward(&ids, &positions, &mut attention));
    for (index, row) in rows.iter().enumerate() {
        let (start, count) = (row.ids.len() as i64 - 1, row.continuation.len() as i64);
        let logits =
            tch::no_grad(|| decoder.logits(&hidden.get(index as i64).narrow(0, start, count)));
        let greedy: Vec<i64> = Vec::try_from(logits.argmax(-1, false)).unwrap();
        let expected: Vec<i64> = row.continuation.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(greedy, expected, "{}", row.prompt);
        for &(id, logit) in &row.top {
            let found = logits.double_value(&[0, id]);
            assert!(
                (found - logit).abs() < 1e-3,
                "{}: {found} for {logit}",
                row.prompt
            );
        }
    }
}
