//! Folders are read and written whole, and what is wrong with them is said in one sentence.

use crate::support::{fixture, json as read_json};
use model::{Decoder, load, save, spec_of};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const ARCHITECTURES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"];

fn tensors(dir: &Path) -> Vec<(String, Tensor)> {
    let mut tensors = Tensor::read_safetensors(dir.join("model.safetensors")).unwrap();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn same(a: &Decoder, b: &Decoder) -> bool {
    a.spec() == b.spec()
        && a.parameters()
            .iter()
            .zip(b.parameters())
            .all(|(a, b)| a.slot == b.slot && a.tensor == b.tensor)
}

/// Copies a fixture so that a test may spoil it.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[test]
fn saving_and_loading_gives_the_same_bits() {
    for name in ARCHITECTURES {
        let source = fixture(name);
        let decoder = load(&source, Device::Cpu, Kind::Float).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("saved");
        save(&out, decoder.parameters(), Kind::Float, &source).unwrap();
        assert!(
            same(&decoder, &load(&out, Device::Cpu, Kind::Float).unwrap()),
            "{name}"
        );
        let (before, after) = (tensors(&source), tensors(&out));
        assert_eq!(
            before.len(),
            after.len(),
            "{name}: tied weights are stored once"
        );
        for ((key, old), (saved_key, new)) in before.iter().zip(&after) {
            assert_eq!((key, old), (saved_key, new), "{name}");
        }
        assert_eq!(
            read_json(&out.join("config.json")),
            read_json(&source.join("config.json")),
            "{name}"
        );
    }
}

#[test]
fn weights_are_converted_and_the_configuration_says_so() {
    let source = fixture("qwen2");
    let decoder = load(&source, Device::Cpu, Kind::BFloat16).unwrap();
    assert_eq!(decoder.kind(), Kind::BFloat16);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("saved");
    save(&out, decoder.parameters(), Kind::BFloat16, &source).unwrap();
    assert_eq!(read_json(&out.join("config.json"))["dtype"], "bfloat16");
    let stored = tensors(&out);
    assert!(
        stored
            .iter()
            .all(|(_, tensor)| tensor.kind() == Kind::BFloat16)
    );
    assert!(same(
        &decoder,
        &load(&out, Device::Cpu, Kind::BFloat16).unwrap()
    ));
}

#[test]
fn tokenizer_files_come_along_and_nothing_is_overwritten() {
    let source = copy("llama");
    let files = [
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{{ 1 }}"),
        ("generation_config.json", "{}"),
    ];
    for (name, content) in files {
        std::fs::write(source.path().join(name), content).unwrap();
    }
    let decoder = load(source.path(), Device::Cpu, Kind::Float).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("saved");
    save(&out, decoder.parameters(), Kind::Float, source.path()).unwrap();
    for (name, content) in files {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), content);
    }
    let error = save(&out, decoder.parameters(), Kind::Float, source.path()).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no partial folder is left: {left:?}");
}

/// SV-1: a save that fails half-way leaves nothing.
#[test]
fn sv_1_whole_or_not_at_all() {
    let source = copy("llama");
    let decoder = load(source.path(), Device::Cpu, Kind::Float).unwrap();
    // A folder where a file should be: copying it fails after config.json has been written.
    std::fs::create_dir(source.path().join("tokenizer.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = save(
        &dir.path().join("saved"),
        decoder.parameters(),
        Kind::Float,
        source.path(),
    );
    assert!(error.unwrap_err().to_string().contains("tokenizer.json"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn tokens_of_a_checkpoint_in_several_files_are_found() {
    let source = copy("qwen3");
    let all = tensors(source.path());
    let (first, second) = all.split_at(all.len() / 2);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        Tensor::write_safetensors(part, source.path().join(name)).unwrap();
        map.extend(part.iter().map(|(key, _)| (key.clone(), Value::from(name))));
    }
    std::fs::remove_file(source.path().join("model.safetensors")).unwrap();
    let index = source.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let whole = load(&fixture("qwen3"), Device::Cpu, Kind::Float).unwrap();
    assert!(same(
        &whole,
        &load(source.path(), Device::Cpu, Kind::Float).unwrap()
    ));

    std::fs::remove_file(source.path().join("b.safetensors")).unwrap();
    let error = load(source.path(), Device::Cpu, Kind::Float)
        .unwrap_err()
        .to_string();
    assert!(error.contains("b.safetensors is missing"), "{error}");
}

/// Spoils a copy of a checkpoint.
type Spoil = fn(&Path);

#[test]
fn damaged_checkpoints_are_refused_in_one_sentence() {
    let cases: [(&str, Spoil, &[&str]); 12] = [
        (
            "no folder",
            |dir| std::fs::remove_dir_all(dir).unwrap(),
            &["there is no model folder", "config.json"],
        ),
        (
            "no config",
            |dir| remove(dir, "config.json"),
            &["config.json is missing"],
        ),
        (
            "no weights",
            |dir| remove(dir, "model.safetensors"),
            &["model.safetensors is missing"],
        ),
        (
            "config cut off",
            |dir| cut(dir, "config.json", 40),
            &["config.json is not the JSON"],
        ),
        (
            "empty",
            |dir| cut(dir, "model.safetensors", 0),
            &["is damaged", "0 bytes"],
        ),
        (
            "header cut off",
            |dir| cut(dir, "model.safetensors", 100),
            &["is damaged", "header would take"],
        ),
        (
            "data cut off",
            |dir| cut(dir, "model.safetensors", 30_000),
            &["is damaged", "promises", "30000"],
        ),
        (
            "noise",
            |dir| std::fs::write(dir.join("model.safetensors"), [7; 500]).unwrap(),
            &["is damaged"],
        ),
        (
            "missing",
            |dir| {
                retell(dir, |t| {
                    t.retain(|(k, _)| !k.ends_with("1.mlp.up_proj.weight"))
                })
            },
            &["lacks the tensor `model.layers.1.mlp.up_proj.weight`"],
        ),
        (
            "unexpected",
            |dir| retell(dir, |t| t.push(("model.extra".into(), Tensor::from(1f32)))),
            &["holds the tensor `model.extra`"],
        ),
        (
            "shape",
            |dir| {
                retell(dir, |t| {
                    t.iter_mut()
                        .filter(|(k, _)| k == "model.norm.weight")
                        .for_each(|(_, t)| *t = t.narrow(0, 0, 5).copy());
                })
            },
            &["`model.norm.weight` is [5] where config.json calls for [24]"],
        ),
        (
            "type",
            |dir| {
                retell(dir, |t| {
                    t.iter_mut()
                        .filter(|(k, _)| k == "model.norm.weight")
                        .for_each(|(_, t)| *t = t.to_kind(Kind::Int64));
                })
            },
            &["`model.norm.weight` is of type I64"],
        ),
    ];
    for (name, spoil, expected) in cases {
        let dir = copy("qwen2");
        spoil(dir.path());
        let error = load(dir.path(), Device::Cpu, Kind::Float)
            .unwrap_err()
            .to_string();
        for part in expected {
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(
            error.contains(&*dir.path().to_string_lossy()),
            "{name} names no file: {error}"
        );
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

fn remove(dir: &Path, name: &str) {
    std::fs::remove_file(dir.join(name)).unwrap();
}

fn cut(dir: &Path, name: &str, bytes: u64) {
    std::fs::OpenOptions::new()
        .write(true)
        .open(dir.join(name))
        .unwrap()
        .set_len(bytes)
        .unwrap();
}

fn retell(dir: &Path, change: fn(&mut Vec<(String, Tensor)>)) {
    let mut all = tensors(dir);
    change(&mut all);
    Tensor::write_safetensors(&all, dir.join("model.safetensors")).unwrap();
}

#[test]
fn configurations_that_are_not_understood_are_refused_by_key_and_value() {
    let cases: [(&str, Value, &str); 16] = [
        (
            "model_type",
            json!("mamba"),
            "`model_type` = \"mamba\" is not supported",
        ),
        ("model_type", json!(null), "`model_type` is missing"),
        ("hidden_size", json!(null), "`hidden_size` is missing"),
        (
            "hidden_size",
            json!("many"),
            "`hidden_size` is \"many\", not a whole number",
        ),
        (
            "hidden_size",
            json!(0),
            "`hidden_size` is 0, not a whole number above zero",
        ),
        (
            "num_key_value_heads",
            json!(3),
            "`num_key_value_heads` is 3, which does not divide 4",
        ),
        (
            "hidden_act",
            json!("relu"),
            "`hidden_act` = \"relu\" is not supported",
        ),
        (
            "quantization_config",
            json!({"quant_method": "awq"}),
            "`quantization_config` = {\"quant_method\":\"awq\"}",
        ),
        ("num_experts", json!(8), "`num_experts` = 8"),
        ("num_local_experts", json!(8), "`num_local_experts` = 8"),
        (
            "partial_rotary_factor",
            json!(0.5),
            "`partial_rotary_factor` = 0.5",
        ),
        (
            "use_bidirectional_attention",
            json!(true),
            "`use_bidirectional_attention` = true",
        ),
        (
            "layer_types",
            json!(["full_attention"]),
            "`layer_types` is not a list of 4 layers",
        ),
        (
            "layer_types",
            json!([
                "chunked_attention",
                "full_attention",
                "full_attention",
                "full_attention"
            ]),
            "`layer_types` = \"chunked_attention\"",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4}),
            "`rope_parameters.rope_type` = \"yarn\"",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "linear"}),
            "`rope_parameters.factor` is missing",
        ),
    ];
    for (key, value, expected) in cases {
        let dir = copy("qwen3");
        let path = dir.path().join("config.json");
        let mut config = read_json(&path);
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let error = spec_of(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}

/// Older checkpoints hold the rotary embedding in other keys; both forms are the same model.
#[test]
fn older_configurations_mean_the_same() {
    let cases = [
        (
            "llama",
            json!({ "rope_theta": 10000.0, "rope_scaling": { "type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128 } }),
        ),
        (
            "qwen2",
            json!({ "rope_theta": 10000.0, "rope_scaling": null, "layer_types": null }),
        ),
        (
            "qwen3",
            json!({ "rope_theta": 10000.0, "layer_types": null }),
        ),
        (
            "gemma2",
            json!({ "rope_theta": 10000.0, "layer_types": null }),
        ),
        (
            "gemma3_text",
            json!({ "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "layer_types": null,
            "sliding_window_pattern": 6, "rope_scaling": { "rope_type": "linear", "factor": 8.0 } }),
        ),
    ];
    for (name, older) in cases {
        let newer = spec_of(&fixture(name)).unwrap();
        let dir = copy(name);
        let mut config = read_json(&fixture(name).join("config.json"));
        config.as_object_mut().unwrap().remove("rope_parameters");
        for (key, value) in older.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(spec_of(dir.path()).unwrap(), newer, "{name}");
    }
}

/// Checkpoints of Gemma 3 leave out what is default.
#[test]
fn defaults_are_those_of_the_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({ "model_type": "gemma3", "text_config": { "model_type": "gemma3_text",
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": { "factor": 8.0, "rope_type": "linear" }, "sliding_window": 1024 } });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let spec = spec_of(dir.path()).unwrap();
    assert_eq!(
        (spec.heads, spec.kv_heads, spec.head_dim, spec.vocab_size),
        (8, 4, 256, 262_208)
    );
    assert_eq!(
        spec.layers
            .iter()
            .filter(|layer| layer.window.is_none())
            .count(),
        5
    );
    assert_eq!(spec.layers[0].window, Some(1024));
    assert!((spec.ropes[0].theta, spec.ropes[1].theta) == (1e6, 1e4));
    assert_eq!(
        spec.ropes[0].scaling,
        model::RopeScaling::Linear { factor: 8.0 }
    );
    assert_eq!(spec.ropes[1].scaling, model::RopeScaling::None);
    assert!(spec.tied_embeddings && spec.qk_norm && spec.logit_softcap.is_none());
}

#[test]
fn memory_is_known_before_loading() {
    let Some(dir) = crate::support::smollm2() else {
        return;
    };
    let spec = spec_of(&dir).unwrap();
    assert_eq!(
        model::estimate_bytes(&spec, Kind::BFloat16),
        134_515_008 * 2
    );
}
