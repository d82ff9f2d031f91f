//! The tokenizer of a GGUF file as the files that `transformers` and `tokenizers` read.

use super::ImportError;
use super::metadata::Metadata;
use crate::save::Folder;
use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};

/// GGUF's token types (`llama_token_type`): what `tokenizer.json` calls special.
const CONTROL: i64 = 3;
/// Added, but part of ordinary text.
const USER_DEFINED: i64 = 4;

/// How text is split before merging, by `tokenizer.ggml.pre`.
struct Splitting {
    normalizer: Json,
    pre_tokenizer: Json,
    /// A whole word that is a token is taken before any merge.
    ignore_merges: bool,
}

/// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json` and the chat template.
pub(super) fn write(metadata: &Metadata, folder: &Folder) -> Result<(), ImportError> {
    let tokens = strings(metadata, "tokenizer.ggml.tokens")?;
    folder.write_json("tokenizer.json", &tokenizer(metadata, &tokens)?)?;
    let special = special_tokens(metadata, &tokens)?;
    folder.write_json("special_tokens_map.json", &Json::Object(special.clone()))?;
    let mut config = json!({
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": context_length(metadata),
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (name, token) in special {
        config[name] = token;
    }
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        config["chat_template"] = template.into();
    }
    folder.write_json("tokenizer_config.json", &config)?;
    let mut generation = json!({ "_from_model_config": true });
    for (name, key) in [
        ("bos_token_id", "bos"),
        ("eos_token_id", "eos"),
        ("pad_token_id", "padding"),
    ] {
        if let Some(id) = metadata.int(&format!("tokenizer.ggml.{key}_token_id")) {
            generation[name] = id.into();
        }
    }
    folder.write_json("generation_config.json", &generation)?;
    Ok(())
}

fn context_length(metadata: &Metadata) -> Option<i64> {
    metadata.int(&format!(
        "{}.context_length",
        metadata.text("general.architecture")?
    ))
}

fn tokenizer(metadata: &Metadata, tokens: &[&str]) -> Result<Json, ImportError> {
    let model = metadata.must(
        "tokenizer.ggml.model",
        metadata.text("tokenizer.ggml.model"),
    )?;
    if model != "gpt2" {
        let problem = format!("is {model}; only byte-level BPE (gpt2) is supported");
        return Err(metadata.unsupported("tokenizer.ggml.model", problem));
    }
    let splitting = splitting(metadata)?;
    let vocabulary: serde_json::Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect();
    if vocabulary.len() != tokens.len() {
        return Err(metadata.unsupported("tokenizer.ggml.tokens", "names a token twice"));
    }
    let merges: Vec<Json> = strings(metadata, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => Err(metadata.unsupported("tokenizer.ggml.merges", format!("holds {merge:?}"))),
        })
        .collect::<Result<_, _>>()?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(metadata, tokens)?,
        "normalizer": splitting.normalizer,
        "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(false),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": splitting.ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

fn added_tokens(metadata: &Metadata, tokens: &[&str]) -> Result<Vec<Json>, ImportError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = metadata.must(KEY, metadata.array(KEY))?;
    if types.len() != tokens.len() {
        let problem = format!("has {} entries for {} tokens", types.len(), tokens.len());
        return Err(metadata.unsupported(KEY, problem));
    }
    let number = |value: &Value| match value {
        Value::I32(n) => i64::from(*n),
        other => other.to_u64().map_or(0, |n| n as i64),
    };
    let added = types.iter().map(number).zip(tokens).enumerate();
    Ok(added
        .filter(|(_, (kind, _))| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (kind, token))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })
        })
        .collect())
}

fn splitting(metadata: &Metadata) -> Result<Splitting, ImportError> {
    const KEY: &str = "tokenizer.ggml.pre";
    // The expressions by which Llama 3 and Qwen2 were trained; they differ in runs of digits.
    let split = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = json!({
            "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false
        });
        json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] })
    };
    match metadata.text(KEY).as_deref() {
        Some("smollm") => {
            let digits = json!({ "type": "Digits", "individual_digits": true });
            Ok(Splitting {
                normalizer: Json::Null,
                pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [digits, byte_level(true)] }),
                ignore_merges: false,
            })
        }
        Some("qwen2") => Ok(Splitting {
            normalizer: json!({ "type": "NFC" }),
            pre_tokenizer: split(r"\p{N}"),
            ignore_merges: false,
        }),
        Some("llama-bpe") => Ok(Splitting {
            normalizer: Json::Null,
            pre_tokenizer: split(r"\p{N}{1,3}"),
            ignore_merges: true,
        }),
        other => {
            let problem = format!(
                "is {}, not smollm, qwen2 or llama-bpe",
                other.unwrap_or("missing")
            );
            Err(metadata.unsupported(KEY, problem))
        }
    }
}

fn byte_level(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn special_tokens(
    metadata: &Metadata,
    tokens: &[&str],
) -> Result<serde_json::Map<String, Json>, ImportError> {
    let mut special = serde_json::Map::new();
    let names = [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ];
    for (name, key) in names {
        let key = format!("tokenizer.ggml.{key}_token_id");
        if let Some(id) = metadata.int(&key) {
            let token = tokens.get(id as usize).ok_or_else(|| {
                metadata.unsupported(
                    &key,
                    format!("is {id}, but there are {} tokens", tokens.len()),
                )
            })?;
            special.insert(name.to_owned(), (*token).into());
        }
    }
    Ok(special)
}

fn strings<'a>(metadata: &Metadata<'a>, key: &str) -> Result<Vec<&'a str>, ImportError> {
    let values = metadata.must(key, metadata.array(key))?;
    let texts = values
        .iter()
        .map(|value| value.to_string().ok().map(String::as_str))
        .collect();
    metadata.must(key, texts)
}
