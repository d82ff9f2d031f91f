//! Every key by which `transformers` changes the forward pass of the five architectures is read with
//! that meaning, or refused by name. `docs/models.md` has the same table for people.

use crate::support::{fixture, json as read_json};
use model::{Activation, DecoderSpec, RopeScaling, spec_of};
use serde_json::{Value, json};

const ALL: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"];
const QWEN: [&str; 2] = ["qwen2", "qwen3"];
const GEMMA: [&str; 2] = ["gemma2", "gemma3_text"];
const PLAIN: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Outcome of a key at a value.
enum Is {
    /// The specification has it.
    Read(fn(&DecoderSpec) -> bool),
    /// The same model as without it.
    Same,
    /// Refused; the message holds this and names the key.
    Refused(&'static str),
}
use Is::{Read, Refused, Same};

type Row = (&'static [&'static str], Value, Is);

/// The specification of an architecture's fixture with some keys changed; null takes a key away.
fn spec_with(name: &str, change: &Value) -> Result<DecoderSpec, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = read_json(&fixture(name).join("config.json"));
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    spec_of(dir.path()).map_err(|error| error.to_string())
}

fn hold(rows: Vec<Row>) {
    for (names, change, expected) in rows {
        for name in names {
            let found = spec_with(name, &change);
            match (&expected, found) {
                (Read(is), Ok(spec)) => assert!(is(&spec), "{name} {change}: {spec:?}"),
                (Same, Ok(spec)) => {
                    assert_eq!(spec, spec_of(&fixture(name)).unwrap(), "{name} {change}");
                }
                (Refused(words), Err(error)) => {
                    assert!(error.contains(words), "{name} {change}: {error}");
                    assert!(
                        error.contains("config.json") && !error.contains('\n'),
                        "{error}"
                    );
                }
                (_, Ok(spec)) => panic!("{name} {change} was read: {spec:?}"),
                (_, Err(error)) => panic!("{name} {change} was refused: {error}"),
            }
        }
    }
}

#[test]
fn sizes_and_projections() {
    hold(vec![
        (
            &ALL,
            json!({"vocab_size": 99}),
            Read(|s| s.vocab_size == 99),
        ),
        (
            &ALL,
            json!({"intermediate_size": 9}),
            Read(|s| s.intermediate_size == 9),
        ),
        (
            &ALL,
            json!({"num_key_value_heads": 4}),
            Read(|s| s.kv_heads == 4),
        ),
        (&ALL, json!({"head_dim": 10}), Read(|s| s.head_dim == 10)),
        (
            &ALL,
            json!({"max_position_embeddings": 9}),
            Read(|s| s.max_context == 9),
        ),
        (
            &ALL,
            json!({"rms_norm_eps": 0.5}),
            Read(|s| s.norm_eps == 0.5),
        ),
        (
            &ALL,
            json!({"rms_norm_eps": null}),
            Read(|s| s.norm_eps == 1e-6),
        ),
        (
            &["llama", "qwen3", "gemma2", "gemma3_text"],
            json!({"attention_bias": true}),
            Read(|s| s.qkv_bias && s.output_bias),
        ),
        (
            &["llama"],
            json!({"attention_bias": false}),
            Read(|s| !s.qkv_bias && !s.output_bias),
        ),
        (&["qwen2"], json!({"attention_bias": true}), Same),
        (&["qwen2"], json!({"attention_bias": false}), Same),
        (
            &["llama"],
            json!({"mlp_bias": false}),
            Read(|s| !s.mlp_bias),
        ),
        (&["llama"], json!({"mlp_bias": true}), Read(|s| s.mlp_bias)),
        (
            &ALL,
            json!({"tie_word_embeddings": true}),
            Read(|s| s.tied_embeddings),
        ),
        (
            &ALL,
            json!({"tie_word_embeddings": false}),
            Read(|s| !s.tied_embeddings),
        ),
        (
            &PLAIN,
            json!({"tie_word_embeddings": null}),
            Read(|s| !s.tied_embeddings),
        ),
        (
            &GEMMA,
            json!({"tie_word_embeddings": null}),
            Read(|s| s.tied_embeddings),
        ),
        // Slices of the same product, which transformers no longer makes either.
        (&["llama"], json!({"pretraining_tp": 2}), Same),
        (
            &ALL,
            json!({"initializer_range": 0.5, "use_cache": false}),
            Same,
        ),
        // Sampler and learner compute without; loading says so.
        (&ALL, json!({"attention_dropout": 0.1}), Same),
    ]);
}

#[test]
fn activations() {
    hold(vec![
        (
            &PLAIN,
            json!({"hidden_act": "gelu_pytorch_tanh"}),
            Read(|s| s.activation == Activation::GeluTanh),
        ),
        (
            &PLAIN,
            json!({"hidden_act": "gelu_new"}),
            Read(|s| s.activation == Activation::GeluTanh),
        ),
        (&PLAIN, json!({"hidden_act": "swish"}), Same),
        (
            &PLAIN,
            json!({"hidden_act": "gelu"}),
            Refused("`hidden_act` = \"gelu\""),
        ),
        (
            &PLAIN,
            json!({"hidden_act": "relu2"}),
            Refused("`hidden_act` = \"relu2\""),
        ),
        (
            &GEMMA,
            json!({"hidden_activation": "silu"}),
            Read(|s| s.activation == Activation::Silu),
        ),
        (
            &GEMMA,
            json!({"hidden_activation": "gelu"}),
            Refused("`hidden_activation` = \"gelu\""),
        ),
        // transformers reads the other one alone.
        (&GEMMA, json!({"hidden_act": "gelu"}), Same),
        (
            &GEMMA,
            json!({"hidden_activation": null, "hidden_act": "silu"}),
            Refused("`hidden_act`"),
        ),
        (
            &GEMMA,
            json!({"hidden_activation": null, "hidden_act": "gelu_pytorch_tanh"}),
            Same,
        ),
        (
            &PLAIN,
            json!({"hidden_act": null, "hidden_activation": "gelu"}),
            Refused("`hidden_activation`"),
        ),
    ]);
}

#[test]
fn attention_and_logits() {
    hold(vec![
        (
            &GEMMA,
            json!({"query_pre_attn_scalar": 64}),
            Read(|s| s.attention_scale == 0.125),
        ),
        (
            &GEMMA,
            json!({"query_pre_attn_scalar": null}),
            Read(|s| s.attention_scale == 0.0625),
        ),
        (
            &["gemma2"],
            json!({"attn_logit_softcapping": 7.0}),
            Read(|s| s.attention_softcap == Some(7.0)),
        ),
        (
            &["gemma2"],
            json!({"attn_logit_softcapping": null}),
            Read(|s| s.attention_softcap.is_none()),
        ),
        // Read there, and applied nowhere.
        (
            &["gemma3_text"],
            json!({"attn_logit_softcapping": 7.0}),
            Refused("`attn_logit_softcapping` = 7.0"),
        ),
        (
            &PLAIN,
            json!({"attn_logit_softcapping": 7.0}),
            Refused("`attn_logit_softcapping` = 7.0"),
        ),
        (
            &GEMMA,
            json!({"final_logit_softcapping": 7.0}),
            Read(|s| s.logit_softcap == Some(7.0)),
        ),
        (
            &GEMMA,
            json!({"final_logit_softcapping": null}),
            Read(|s| s.logit_softcap.is_none()),
        ),
        (
            &PLAIN,
            json!({"final_logit_softcapping": 7.0}),
            Refused("`final_logit_softcapping` = 7.0"),
        ),
        (
            &ALL,
            json!({"use_bidirectional_attention": true}),
            Refused("`use_bidirectional_attention` = true"),
        ),
        (
            &ALL,
            json!({"use_bidirectional_attention": "all"}),
            Refused("`use_bidirectional_attention` = \"all\""),
        ),
        (&ALL, json!({"use_bidirectional_attention": false}), Same),
        (
            &ALL,
            json!({"is_causal": false}),
            Refused("`is_causal` = false"),
        ),
    ]);
}

#[test]
fn windows() {
    const ALL_FULL: [&str; 4] = ["full_attention"; 4];
    fn windows(spec: &DecoderSpec) -> Vec<Option<i64>> {
        spec.layers.iter().map(|layer| layer.window).collect()
    }
    let slides = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention",
        "sliding_attention"], "use_sliding_window": true, "sliding_window": 5});
    hold(vec![
        (
            &["qwen2", "qwen3", "gemma2"],
            slides.clone(),
            Read(|s| windows(s) == [Some(5), None, None, Some(5)]),
        ),
        (&["llama"], slides, Refused("`layer_types`")),
        (
            &["llama", "qwen2", "qwen3", "gemma2"],
            json!({"layer_types": ALL_FULL}),
            Read(|s| windows(s) == [None; 4]),
        ),
        (
            &QWEN,
            json!({"layer_types": null, "use_sliding_window": true, "sliding_window": 5,
            "max_window_layers": 3}),
            Read(|s| windows(s) == [None, None, None, Some(5)]),
        ),
        (
            &QWEN,
            json!({"layer_types": null, "use_sliding_window": true, "sliding_window": null,
            "max_window_layers": 3}),
            Read(|s| windows(s) == [None; 4]),
        ),
        (
            &QWEN,
            json!({"layer_types": null, "use_sliding_window": false, "sliding_window": 5,
            "max_window_layers": 0}),
            Read(|s| windows(s) == [None; 4]),
        ),
        (
            &QWEN,
            json!({"layer_types": ["full_attention", "full_attention", "full_attention",
            "sliding_attention"], "use_sliding_window": false}),
            Refused("`layer_types`"),
        ),
        (
            &["gemma2"],
            json!({"layer_types": null, "sliding_window": 5}),
            Read(|s| windows(s) == [Some(5), None, Some(5), None]),
        ),
        (
            &["gemma3_text"],
            json!({"layer_types": null, "sliding_window": 5, "sliding_window_pattern": 2}),
            Read(|s| windows(s) == [Some(5), None, Some(5), None, Some(5), None]),
        ),
        (
            &GEMMA,
            json!({"sliding_window": null}),
            Refused("`layer_types` has layers with a window"),
        ),
        (
            &["llama"],
            json!({"sliding_window": 5}),
            Refused("`sliding_window` = 5"),
        ),
        (
            &["llama"],
            json!({"sliding_window": 5, "use_sliding_window": false}),
            Same,
        ),
        (
            &ALL,
            json!({"layer_types": ["full_attention"]}),
            Refused("`layer_types` is not a list"),
        ),
        (
            &["qwen3", "gemma2"],
            json!({"layer_types": ["chunked_attention", "full_attention",
            "full_attention", "full_attention"]}),
            Refused("`layer_types` = \"chunked_attention\""),
        ),
    ]);
}

#[test]
fn rotary_embeddings() {
    let llama3 = json!({"rope_type": "llama3", "rope_theta": 1e5, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 2.0, "original_max_position_embeddings": 64});
    hold(vec![
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
            Read(|s| s.ropes[0].theta == 5e5 && s.ropes[0].scaling == RopeScaling::None),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_theta": 5e5}),
            Read(|s| s.ropes[0].theta == 5e5),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null}),
            Read(|s| s.ropes[0].theta == 1e4),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5}),
            Read(|s| {
                s.ropes[0].theta == 5e5 && s.ropes[0].scaling == RopeScaling::Linear { factor: 2.0 }
            }),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": llama3}),
            Read(|s| {
                matches!(
                    s.ropes[0].scaling,
                    RopeScaling::Llama3 {
                        factor: 4.0,
                        original_context: 64.0,
                        ..
                    }
                )
            }),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            Refused("`rope_scaling.rope_type` = \"yarn\""),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"type": "dynamic", "factor": 4.0}}),
            Refused("`rope_scaling.type` = \"dynamic\""),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1]}}),
            Refused("`rope_parameters.rope_type` = \"longrope\""),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "proportional"}}),
            Refused("\"proportional\""),
        ),
        // A stretch whose kind is not said.
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"factor": 4.0}}),
            Refused("`rope_scaling.factor` = 4.0"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "rope_type": "llama3",
            "factor": 4.0}}),
            Refused("`rope_scaling.type`"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 2.0,
            "beta_fast": 32}}),
            Refused("`rope_scaling.beta_fast` = 32"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": null, "rope_scaling": {"type": "default",
            "mrope_section": [8, 8]}}),
            Refused("`rope_scaling.mrope_section`"),
        ),
        // Two places that differ: transformers 4 follows one, 5 the other.
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4}),
            Refused("`rope_theta` is 10000, but rope_parameters say 500000"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_theta": 1e4,
            "rope_scaling": {"type": "linear", "factor": 2.0}}),
            Refused("`rope_scaling`"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 5e5}),
            Read(|s| s.ropes[0].theta == 5e5),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 2.0, "original_max_position_embeddings": 64},
            "original_max_position_embeddings": 32}),
            Refused("`original_max_position_embeddings` is 32"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 2.0,
            "high_freq_factor": 2.0, "original_max_position_embeddings": 64}}),
            Refused("`rope_parameters.high_freq_factor` is 2, not above"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            Refused("`rope_parameters.full_attention`"),
        ),
        (
            &ALL,
            json!({"partial_rotary_factor": 0.5}),
            Refused("`partial_rotary_factor` = 0.5"),
        ),
        (
            &PLAIN,
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            Refused("`rope_parameters.partial_rotary_factor` = 0.5"),
        ),
        (
            &ALL,
            json!({"rope_interleaved": true}),
            Refused("`rope_interleaved` = true"),
        ),
        (
            &["gemma3_text"],
            json!({"rope_parameters": null, "rope_theta": 3e5, "rope_local_base_freq": 7e3,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
            Read(|s| {
                s.ropes[0].theta == 3e5
                    && s.ropes[1].theta == 7e3
                    && s.ropes[0].scaling == RopeScaling::Linear { factor: 2.0 }
                    && s.ropes[1].scaling == RopeScaling::None
            }),
        ),
        (
            &["gemma3_text"],
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
            Refused("`rope_parameters."),
        ),
        (
            &["gemma3_text"],
            json!({"rope_local_base_freq": 7e3}),
            Refused("`rope_local_base_freq` is 7000"),
        ),
    ]);
}

#[test]
fn other_kinds_of_model() {
    hold(vec![
        (
            &ALL,
            json!({"quantization_config": {"quant_method": "gptq"}}),
            Refused("`quantization_config`"),
        ),
        (
            &ALL,
            json!({"compression_config": {"format": "int"}}),
            Refused("`compression_config`"),
        ),
        (
            &ALL,
            json!({"num_experts": 8}),
            Refused("`num_experts` = 8"),
        ),
        (
            &ALL,
            json!({"num_local_experts": 8}),
            Refused("`num_local_experts` = 8"),
        ),
        (&ALL, json!({"num_experts": 0}), Same),
        (
            &ALL,
            json!({"per_layer_config": {"0": {"head_dim": 4}}}),
            Refused("`per_layer_config`"),
        ),
        (
            &ALL,
            json!({"auto_map": {"AutoModelForCausalLM": "modeling.Ours"}}),
            Refused("`auto_map`"),
        ),
        (
            &ALL,
            json!({"auto_map": {"AutoConfig": "configuration.Ours"}}),
            Same,
        ),
        (
            &["llama"],
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            Refused("`architectures` = [\"LlamaForSequenceClassification\"]"),
        ),
        (
            &["gemma3_text"],
            json!({"architectures": ["Gemma3TextModel"]}),
            Refused("`architectures`"),
        ),
        (
            &["qwen2"],
            json!({"architectures": ["Qwen2ForRewardModel"]}),
            Refused("`architectures`"),
        ),
        (
            &["llama"],
            json!({"architectures": ["LLaMAForCausalLM"]}),
            Same,
        ),
        (&ALL, json!({"architectures": null}), Same),
    ]);
}

/// The language model of a multimodal Gemma 3 is held to the same table.
#[test]
fn the_text_part_is_read_the_same() {
    for (key, value, expected) in [
        (
            "attn_logit_softcapping",
            json!(7.0),
            "`text_config.attn_logit_softcapping`",
        ),
        (
            "rope_parameters",
            json!({"factor": 2.0}),
            "`text_config.rope_parameters.factor`",
        ),
        (
            "use_bidirectional_attention",
            json!(true),
            "`text_config.use_bidirectional_attention`",
        ),
    ] {
        let mut text = read_json(&fixture("gemma3_text").join("config.json"));
        text[key] = value;
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"model_type": "gemma3", "text_config": text});
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let error = spec_of(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}
