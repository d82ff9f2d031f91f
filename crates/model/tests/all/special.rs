//! Special tokens, chat templates and the end of a turn, wherever a folder keeps them.

use crate::support::{SPECIAL, fixture, tokenizer_json};
use model::{ChatTemplate, Message, TemplateArguments, Tokenizer, TurnCodec, load};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Writes its `bos_token`, as Gemma 2's does.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A folder of these files; a text is a template.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = match content {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn prompt(dir: &Path) -> Result<Vec<u32>, String> {
    let codec = TurnCodec::load(dir).map_err(|error| error.to_string())?;
    Ok(codec.prompt(None, "Hi"))
}

fn all_added() -> Value {
    tokenizer_json(&SPECIAL.map(|token| (token, true)))
}

/// `<|endoftext|>` is what begins a text here, 258; the turn begins with 256.
#[test]
fn tokens_are_found_wherever_they_are_named() {
    let object = json!({"content": "<|endoftext|>", "lstrip": false, "special": true});
    let decoder = json!({"258": object.clone(), "257": {"content": "<|im_end|>", "special": true},
        "256": {"content": "<|im_start|>", "special": true}});
    let none = tokenizer_json(&[]);
    let additional = json!(["<|im_start|>", {"content": "<|im_end|>"}]);
    let cases: [(&str, Value, Value, Value); 10] = [
        (
            "configuration, as a text",
            all_added(),
            json!({"bos_token": "<|endoftext|>"}),
            json!({}),
        ),
        (
            "configuration, as an object",
            all_added(),
            json!({"bos_token": object}),
            json!({}),
        ),
        (
            "map alone, as a text",
            all_added(),
            json!({}),
            json!({"bos_token": "<|endoftext|>"}),
        ),
        (
            "map alone, as an object",
            all_added(),
            json!({}),
            json!({"bos_token": object}),
        ),
        (
            "map, null in the configuration",
            all_added(),
            json!({"bos_token": null}),
            json!({"bos_token": object}),
        ),
        (
            "map before a configuration without added_tokens_decoder",
            all_added(),
            json!({"bos_token": "x"}),
            json!({"bos_token": object}),
        ),
        (
            "configuration with added_tokens_decoder before the map",
            none.clone(),
            json!({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "added_tokens_decoder": decoder}),
            json!({"bos_token": "x"}),
        ),
        (
            "map alone, none of them special in tokenizer.json",
            none,
            json!({}),
            json!({"bos_token": object, "eos_token": "<|im_end|>", "additional_special_tokens": additional}),
        ),
        (
            "map alone, added to tokenizer.json as ordinary tokens",
            tokenizer_json(&SPECIAL.map(|token| (token, false))),
            json!({}),
            json!({"bos_token": object, "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}),
        ),
        (
            "class",
            all_added(),
            json!({"tokenizer_class": "GPT2TokenizerFast"}),
            json!({}),
        ),
    ];
    for (name, tokenizer, config, map) in cases {
        let dir = folder(&[
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", map),
            (
                "config.json",
                json!({"bos_token_id": 258, "eos_token_id": 257}),
            ),
            ("chat_template.jinja", json!(TEMPLATE)),
        ]);
        let ids = prompt(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(&ids[..2], [258, 256], "{name}");
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        assert!(
            [256, 257, 258].map(|id| tokenizer.is_special(id)) == [true; 3],
            "{name}"
        );
        assert_eq!(
            tokenizer.encode_plain("<|im_end|>").len(),
            10,
            "{name}: outside text stays text"
        );
    }
}

#[test]
fn tokens_that_cannot_be_meant_are_refused() {
    let cases = [
        (
            "not named",
            json!({}),
            json!({}),
            "writes bos_token, the model's token 258, but no file says how it is spelled",
        ),
        (
            "not in the vocabulary",
            json!({"bos_token": "[BOS]"}),
            json!({}),
            "the chat template writes bos_token, which is \"[BOS]\"",
        ),
        (
            "another id",
            json!({"bos_token": "<|endoftext|>", "added_tokens_decoder": {"7": {"content": "<|endoftext|>"}}}),
            json!({}),
            "`added_tokens_decoder` has \"<|endoftext|>\" as 7, but tokenizer.json as 258",
        ),
        (
            "no row",
            json!({"bos_token": "<|endoftext|>", "vocab_size": 258}),
            json!({}),
            "the chat template writes `<|endoftext|>` (id 258), but the model of config.json has 258",
        ),
        (
            "no token",
            json!({"bos_token": 3}),
            json!({}),
            "`bos_token` is 3, no token's text",
        ),
    ];
    for (name, config, map, expected) in cases {
        let rows = config.get("vocab_size").unwrap_or(&json!(300)).clone();
        let dir = folder(&[
            ("tokenizer.json", all_added()),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", map),
            (
                "config.json",
                json!({"bos_token_id": 258, "eos_token_id": 257, "vocab_size": rows}),
            ),
            ("chat_template.jinja", json!(TEMPLATE)),
        ]);
        let error = prompt(dir.path()).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

/// Null says that there is none, as Qwen's files do.
#[test]
fn a_token_that_is_null_is_not_written() {
    let dir = folder(&[
        ("tokenizer.json", all_added()),
        ("tokenizer_config.json", json!({"bos_token": null})),
        (
            "config.json",
            json!({"bos_token_id": 258, "eos_token_id": 257}),
        ),
        ("chat_template.jinja", json!(TEMPLATE)),
    ]);
    assert_eq!(prompt(dir.path()).unwrap()[0], 256);
}

#[test]
fn templates_are_found_in_every_form() {
    let named =
        json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]);
    let by_name = json!({"tool_use": "x", "default": TEMPLATE});
    let marked = TEMPLATE
        .replace(
            "{{ '<|im_start|>' + m.role",
            "{%- generation -%}{{ '<|im_start|>' + m.role",
        )
        .replace(
            "'<|im_end|>\n' }}",
            "'<|im_end|>\n' }}{%- endgeneration -%}",
        );
    assert!(marked.contains("{%- generation -%}") && marked.contains("{%- endgeneration -%}"));
    let cases = [
        ("jinja", "chat_template.jinja", json!(TEMPLATE)),
        ("jinja with marks", "chat_template.jinja", json!(marked)),
        (
            "a text in JSON",
            "chat_template.jinja",
            json!(json!(TEMPLATE).to_string()),
        ),
        (
            "an object in JSON",
            "chat_template.jinja",
            json!({"chat_template": TEMPLATE}),
        ),
        ("a list", "chat_template.jinja", named.clone()),
        ("an object of texts", "chat_template.jinja", by_name.clone()),
        (
            "older file",
            "chat_template.json",
            json!({"chat_template": TEMPLATE}),
        ),
        (
            "older file with names",
            "chat_template.json",
            json!({"chat_template": named}),
        ),
    ];
    for (name, file, content) in cases {
        let dir = folder(&[
            ("tokenizer.json", all_added()),
            (
                "tokenizer_config.json",
                json!({"bos_token": "<|endoftext|>"}),
            ),
            ("generation_config.json", json!({"eos_token_id": 257})),
            (file, content),
        ]);
        let codec = TurnCodec::load(dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = codec.tokenizer().decode(&codec.prompt(None, "Hi"), false);
        let expected = "<|endoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected, "{name}");
    }
    // The file of its own is the newer one.
    let dir = folder(&[
        ("tokenizer.json", all_added()),
        (
            "tokenizer_config.json",
            json!({"bos_token": "<|endoftext|>", "chat_template": "old"}),
        ),
        ("generation_config.json", json!({"eos_token_id": 257})),
        ("chat_template.jinja", json!(TEMPLATE)),
    ]);
    assert!(prompt(dir.path()).is_ok());
}

#[test]
fn templates_that_cannot_be_read_are_refused_as_templates() {
    let cases = [
        (
            json!("{% for m in messages %}"),
            "the chat template cannot be read",
        ),
        (
            json!("{% frobnicate %}"),
            "the chat template cannot be read",
        ),
        (
            json!([{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]),
            "there is no chat template named default, only tool_use, rag",
        ),
        (json!([1, 2]), "neither a text nor texts by name"),
    ];
    for (content, expected) in cases {
        let dir = folder(&[("chat_template.jinja", content)]);
        let error = ChatTemplate::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(
            error.contains("chat_template.jinja: ") && !error.contains("JSON"),
            "{error}"
        );
        let in_config = folder(&[("tokenizer_config.json", json!({"chat_template": 7}))]);
        let error = ChatTemplate::load(in_config.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tokenizer_config.json: the chat template is neither"),
            "{error}"
        );
    }
}

/// As `transformers` passes them: no tools are none, not undefined, and Python's words for values.
#[test]
fn templates_see_what_transformers_shows_them() {
    for (source, expected) in [
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        (
            "{{ tools is defined }} {{ none }} {{ 1 == 2 }}",
            "True None False",
        ),
        (
            "{% if tools is not none %}tools{% endif %}{{ undefined_name }}",
            "",
        ),
        (
            "{{ eos_token }}{{ pad_token is defined }}",
            "E False".replace(' ', "").as_str(),
        ),
        (
            "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}",
            "1",
        ),
    ] {
        let template = ChatTemplate::new(source, "B".into(), "E".into()).unwrap();
        assert_eq!(template.render(&[], false).unwrap(), expected, "{source}");
    }
}

fn arguments(value: Value) -> Result<TemplateArguments, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn arguments_reach_the_template_and_nothing_else() {
    let source = "{% if enable_thinking is defined and not enable_thinking %}<off>{% endif %}{{ style.tone if style else '' }}{% for x in list %}{{ x }};{% endfor %}{{ messages[0].content }}";
    let template = |value: Value| {
        let template = ChatTemplate::new(source, String::new(), String::new()).unwrap();
        let template = template.with_arguments(arguments(value).unwrap());
        template.render(&[Message::user("q")], true).unwrap()
    };
    assert_eq!(template(json!({})), "q");
    assert_eq!(template(json!({"enable_thinking": true})), "q");
    assert_eq!(
        template(json!({"enable_thinking": false, "unread": 1.5})),
        "<off>q"
    );
    assert_eq!(
        template(json!({"style": {"tone": "dry"}, "list": [1, "b", false]})),
        "dry1;b;False;q"
    );
    for name in [
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "pad_token",
        "strftime_now",
    ] {
        let error = arguments(json!({name: 1})).unwrap_err();
        assert!(error.contains(&format!("`{name}` is set by")), "{error}");
    }
    let error = arguments(json!({"enable-thinking": 1})).unwrap_err();
    assert!(error.contains("no name that a template can use"), "{error}");
}

/// The end of a turn by a dialogue's template, with the ends that the configuration knows.
fn end(template: &str, ends: Value) -> Result<u32, String> {
    let dir = folder(&[
        ("tokenizer.json", all_added()),
        ("generation_config.json", json!({"eos_token_id": ends})),
        ("chat_template.jinja", json!(template)),
    ]);
    let codec = TurnCodec::load(dir.path()).map_err(|error| error.to_string())?;
    let mut ids = codec.prompt(None, "a");
    ids.extend(codec.action("b"));
    ids.extend(codec.observation("c", true));
    let turns = [
        Message::user("a"),
        Message::assistant("b"),
        Message::user("c"),
    ];
    let whole = codec.template().render(&turns, true).unwrap();
    assert_eq!(codec.tokenizer().decode(&ids, false), whole, "{template}");
    assert!(
        codec
            .tokenizer()
            .end_of_turn()
            .contains(&codec.end_of_turn())
    );
    Ok(codec.end_of_turn())
}

#[test]
fn a_turn_ends_where_the_model_or_its_template_says() {
    let chat = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}";
    // Between turns only: it may be the end, or the beginning of the next turn.
    let between = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' or not loop.last %}<|im_end|>{% endif %}{% endfor %}";
    // The next turn's opening is the first special token.
    let opening = "{% for m in messages %}\n{% if m.role == 'user' %}<|im_start|>{% else %}A: {% endif %}{{ m.content }}{% endfor %}";
    // Two behind each other, the second of which the model's configuration calls an end.
    let two = "{% for m in messages %}{{ m.content }}<|im_start|>\n<|im_end|>{% endfor %}";
    let spaced = "{% for m in messages %}{{ m.content }} \n<|im_end|>\n{% endfor %}";
    assert_eq!(end(chat, json!(257)), Ok(257));
    assert_eq!(
        end(chat, json!([258])),
        Ok(257),
        "the template ends its last turn with it"
    );
    assert_eq!(end(chat, json!(null)), Ok(257));
    assert_eq!(end(between, json!(257)), Ok(257));
    let error = end(between, json!(258)).unwrap_err();
    assert!(
        error.contains("puts `<|im_end|>` behind the model's turn, but only before"),
        "{error}"
    );
    let error = end(opening, json!(257)).unwrap_err();
    assert!(error.contains("puts `<|im_start|>` behind"), "{error}");
    assert_eq!(end(two, json!(257)), Ok(257));
    assert_eq!(end(two, json!(null)), Ok(256));
    assert_eq!(
        end(spaced, json!(257)),
        Ok(257),
        "what the template writes before it is learned too"
    );
}

/// transformers 4 computes with the embedding, 5 with the projection of the file.
#[test]
fn an_output_projection_beside_a_tied_embedding_is_loaded_only_if_it_is_the_embedding() {
    let source = fixture("gemma2");
    let mut tensors = Tensor::read_safetensors(source.join("model.safetensors")).unwrap();
    let (_, embedding) = tensors
        .iter()
        .find(|(key, _)| key == "model.embed_tokens.weight")
        .unwrap();
    let same = embedding.copy();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let write = |tensors: &[(String, Tensor)]| {
        Tensor::write_safetensors(tensors, dir.path().join("model.safetensors")).unwrap();
        load(dir.path(), Device::Cpu, Kind::Float)
    };
    tensors.push(("lm_head.weight".into(), same.copy()));
    assert!(write(&tensors).unwrap().spec().tied_embeddings);
    let _ = tensors.last_mut().unwrap().1.narrow(0, 3, 1).fill_(0.5);
    let error = write(&tensors).unwrap_err().to_string();
    assert!(
        error.contains("`lm_head.weight` differs from the embedding"),
        "{error}"
    );
    assert!(error.contains("model.safetensors: "), "{error}");

    let mut config = crate::support::json(&source.join("config.json"));
    config["tie_word_embeddings"] = json!(false);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let decoder = write(&tensors).unwrap();
    let output = decoder
        .parameters()
        .iter()
        .find(|p| p.slot.name == "output")
        .unwrap();
    assert_ne!(output.tensor, same);
}
