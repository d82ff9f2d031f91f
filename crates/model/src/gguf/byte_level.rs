//! Byte-level BPE (`gpt2`), as `tokenizer.json` holds it.

use super::ImportError;
use super::metadata::Metadata;
use super::vocabulary::strings;
use serde_json::{Value as Json, json};

/// Splitting of text before merging, by `tokenizer.ggml.pre`.
struct Splitting {
    normalizer: Json,
    pre_tokenizer: Json,
    /// A whole word that is a token is taken before any merge.
    ignore_merges: bool,
}

/// The tokenizer, but for its added tokens.
pub(super) fn tokenizer(metadata: &Metadata, tokens: &[&str]) -> Result<Json, ImportError> {
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
