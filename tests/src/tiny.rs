//! A tiny random model with a real tokenizer, and a configuration that runs it through every phase.

use model::{Activation, Decoder, DecoderSpec, LayerSpec, RopeScaling, RopeSpec, slots};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// The folder of the real model; `None`, with a message, where it was not provisioned.
pub fn real_model() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/models/SmolLM2-135M-Instruct");
    if dir.join("config.json").exists() {
        return Some(dir);
    }
    eprintln!(
        "skipped: {} is missing, run `cargo xtask setup`",
        dir.display()
    );
    None
}

/// A Llama of some thousand parameters beside its embedding, with SmolLM2's vocabulary, tokenizer
/// and template. It talks nonsense, fast.
///
/// # Panics
/// When the folder cannot be written.
pub fn tiny_model(folder: &Path) -> Option<PathBuf> {
    let real = real_model()?;
    let spec = DecoderSpec {
        model_type: "llama".into(),
        vocab_size: 49_152,
        hidden_size: 16,
        intermediate_size: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        max_context: 2048,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        embedding_scale: None,
        attention_scale: 8f64.powf(-0.5),
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
                rope: 0
            };
            2
        ],
    };
    tch::manual_seed(7);
    let tensors = slots(&spec)
        .iter()
        .map(|slot| match slot.shape.len() {
            1 => Tensor::ones(&slot.shape[..], (Kind::Float, Device::Cpu)),
            _ => Tensor::randn(&slot.shape[..], (Kind::Float, Device::Cpu)) * 0.05,
        })
        .collect();
    let decoder = Decoder::new(spec, tensors);
    let source = folder.join("source");
    std::fs::create_dir_all(&source).expect("a folder that can be written");
    for entry in std::fs::read_dir(&real).expect("a folder that can be written") {
        let entry = entry.expect("a folder that can be written");
        let name = entry
            .file_name()
            .into_string()
            .expect("a folder that can be written");
        if !name.ends_with(".safetensors") && name != "config.json" {
            std::fs::copy(entry.path(), source.join(name)).expect("a folder that can be written");
        }
    }
    let config =
        std::fs::read_to_string(real.join("config.json")).expect("a folder that can be written");
    let mut config: serde_json::Value =
        serde_json::from_str(&config).expect("a folder that can be written");
    for (key, value) in [
        ("hidden_size", 16),
        ("intermediate_size", 32),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 8),
        ("num_hidden_layers", 2),
        ("max_position_embeddings", 2048),
    ] {
        config[key] = value.into();
    }
    std::fs::write(source.join("config.json"), config.to_string())
        .expect("a folder that can be written");
    let dir = folder.join("tiny");
    model::save(&dir, decoder.parameters(), Kind::Float, &source)
        .expect("a folder that can be written");
    Some(dir)
}

/// A configuration that runs every phase within seconds.
pub fn small_run(model: &Path) -> String {
    let model = model.display();
    format!(
        r#"
[run]
name = "small"
seed = 5
[model]
path = "{model}"
dtype = "f32"
threads = 1
[warm_start]
steps = 4
batch = 2
checkpoint_every = 2
[warm_start.questions.wordmath]
count = 6
seed = 1
max_steps = 2
[warm_start.learner]
dtype = "f32"
deterministic = true
learning_rate = 1e-3
[questions.wordmath]
count = 12
seed = 2
max_steps = 2
[rollout]
samples = 2
max_steps = 2
max_action_tokens = 6
max_context_tokens = 512
temperature = 1.0
items_per_sampler = 4
[judge]
process = "reference"
[train]
seeds = [1]
steps = 4
states_per_step = 2
actions_per_state = 2
max_action_tokens = 6
checkpoint_every = 1
[train.learner]
dtype = "f32"
deterministic = true
learning_rate = 1e-5
[train.learner.loss]
entropy = 0.01
[imitation]
keep = "none"
steps = 2
batch = 2
[imitation.learner]
dtype = "f32"
deterministic = true
[evaluation]
max_steps = 2
max_action_tokens = 6
[[evaluation.sets]]
name = "held out"
[evaluation.sets.questions.wordmath]
count = 5
seed = 3
split = "eval"
max_steps = 2
"#
    )
}

/// The same, with a warm start that takes hours.
pub fn endless_training(model: &Path) -> String {
    let endless = "steps = 1000000\nbatch = 2\ncheckpoint_every = 50";
    changed(
        small_run(model),
        &[("steps = 4\nbatch = 2\ncheckpoint_every = 2", endless)],
    )
}

/// The same, long enough for a dozen faults in generation and half a dozen in training.
pub fn longer_run(model: &Path) -> String {
    let longer = [
        ("count = 12\nseed = 2", "count = 3000\nseed = 2"),
        (
            "max_steps = 2\nmax_action_tokens = 6\nmax_context",
            "max_steps = 2\nmax_action_tokens = 24\nmax_context",
        ),
        ("samples = 2\nmax_steps = 2", "samples = 4\nmax_steps = 4"),
        (
            "steps = 4\nstates_per_step",
            "steps = 1000\nstates_per_step",
        ),
        ("keep = \"none\"\nsteps = 2", "keep = \"none\"\nsteps = 600"),
        (
            "max_action_tokens = 6\ncheckpoint_every = 1\n",
            "max_action_tokens = 6\ncheckpoint_every = 50\n",
        ),
    ];
    changed(small_run(model), &longer)
}

/// The same, with many more trajectories.
pub fn endless_generation(model: &Path) -> String {
    let endless = ("count = 3000\nseed = 2", "count = 50000\nseed = 2");
    changed(longer_run(model), &[endless])
}

fn changed(text: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text, |text, (before, after)| {
        assert!(
            text.contains(before),
            "{before:?} is not in the configuration"
        );
        text.replace(before, after)
    })
}
