//! The tokenizer of a GGUF file as the files that `transformers` and `tokenizers` read.

use super::metadata::Metadata;
use super::{ImportError, byte_level, sentence_piece};
use crate::save::Folder;
use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};
use std::path::Path;

/// GGUF's token types (`llama_token_type`): what `tokenizer.json` calls special.
pub(super) const CONTROL: i64 = 3;
/// Added, but part of ordinary text.
pub(super) const USER_DEFINED: i64 = 4;

/// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json` and the chat template; all but the last but one are copied from `source`
/// where it is given.
pub(super) fn write(
    metadata: &Metadata,
    folder: &Folder,
    source: Option<&Path>,
) -> Result<(), ImportError> {
    let tokens = strings(metadata, "tokenizer.ggml.tokens")?;
    write_generation(metadata, folder)?;
    match source {
        Some(source) => copy(&tokens, folder, source),
        None => write_own(metadata, &tokens, folder),
    }
}

/// Files of a tokenizer.
const FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Copies the tokenizer of a folder, once it is sure that it gives the file's ids.
fn copy(tokens: &[&str], folder: &Folder, source: &Path) -> Result<(), ImportError> {
    let path = source.join("tokenizer.json");
    let other = |problem: String| ImportError::OtherTokenizer {
        path: path.clone(),
        problem,
    };
    let tokenizer = tokenizers::Tokenizer::from_file(&path)
        .map_err(|error| other(format!("it is no tokenizer ({error})")))?;
    for (id, token) in (0..).zip(tokens) {
        let found = tokenizer.id_to_token(id).unwrap_or_default();
        // llama.cpp writes some runs of spaces as spaces, SentencePiece all as ▁.
        if found != *token && found != token.replace(' ', sentence_piece::SPACE) {
            return Err(other(format!(
                "its token {id} is {found:?}, that of the file is {token:?}"
            )));
        }
    }
    for name in FILES {
        folder.copy(source, name)?;
    }
    Ok(())
}

fn write_own(metadata: &Metadata, tokens: &[&str], folder: &Folder) -> Result<(), ImportError> {
    folder.write_json("tokenizer.json", &tokenizer(metadata, tokens)?)?;
    let special = special_tokens(metadata, tokens)?;
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
    Ok(())
}

fn write_generation(metadata: &Metadata, folder: &Folder) -> Result<(), ImportError> {
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
    // The end of a turn, where it is another token than the end of a text.
    let turn = metadata.int("tokenizer.ggml.eot_token_id");
    if let (Some(turn), Some(text)) = (turn, generation["eos_token_id"].as_i64())
        && turn != text
    {
        generation["eos_token_id"] = json!([text, turn]);
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
    const KEY: &str = "tokenizer.ggml.model";
    let mut tokenizer = match metadata.must(KEY, metadata.text(KEY))?.as_str() {
        "gpt2" => byte_level::tokenizer(metadata, tokens)?,
        "llama" => sentence_piece::tokenizer(metadata, tokens)?,
        other => {
            let problem = format!(
                "is {other}; only byte-level BPE (gpt2) and SentencePiece's BPE (llama) are supported"
            );
            return Err(metadata.unsupported(KEY, problem));
        }
    };
    tokenizer["added_tokens"] = added_tokens(metadata, tokens)?.into();
    Ok(tokenizer)
}

/// The types of the tokens (`llama_token_type`).
pub(super) fn types(metadata: &Metadata, count: usize) -> Result<Vec<i64>, ImportError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = metadata.must(KEY, metadata.array(KEY))?;
    if types.len() != count {
        let problem = format!("has {} entries for {count} tokens", types.len());
        return Err(metadata.unsupported(KEY, problem));
    }
    let number = |value: &Value| match value {
        Value::I32(n) => i64::from(*n),
        other => other.to_u64().map_or(0, |n| n as i64),
    };
    Ok(types.iter().map(number).collect())
}

fn added_tokens(metadata: &Metadata, tokens: &[&str]) -> Result<Vec<Json>, ImportError> {
    let types = types(metadata, tokens.len())?;
    let spaces = metadata.text("tokenizer.ggml.model").as_deref() == Some("llama");
    let added = types.into_iter().zip(tokens).enumerate();
    Ok(added
        .filter(|(_, (kind, _))| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (kind, token))| {
            let content = match spaces && kind == USER_DEFINED {
                true => token.replace(' ', sentence_piece::SPACE),
                false => (*token).to_owned(),
            };
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })
        })
        .collect())
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

pub(super) fn strings<'a>(metadata: &Metadata<'a>, key: &str) -> Result<Vec<&'a str>, ImportError> {
    let values = metadata.must(key, metadata.array(key))?;
    let texts = values
        .iter()
        .map(|value| value.to_string().ok().map(String::as_str))
        .collect();
    metadata.must(key, texts)
}
