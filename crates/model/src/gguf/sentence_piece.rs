//! SentencePiece's BPE (`llama`), as `tokenizer.json` holds it. A GGUF file has the pieces and their
//! scores; the merges follow: every split of a piece into two pieces is one, and the higher a piece's
//! score the earlier it is made.

use super::ImportError;
use super::metadata::Metadata;
use super::vocabulary::{USER_DEFINED, types};
use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// A space as SentencePiece writes it.
pub(super) const SPACE: &str = "▁";

/// An ordinary piece.
const NORMAL: i64 = 1;

/// A piece that takes part in merges.
struct Piece {
    id: usize,
    text: String,
    score: f32,
}

/// The tokenizer, but for its added tokens.
pub(super) fn tokenizer(metadata: &Metadata, tokens: &[&str]) -> Result<Json, ImportError> {
    let types = types(metadata, tokens.len())?;
    let scores = scores(metadata, tokens.len())?;
    let spelled = |id: usize| match types[id] {
        USER_DEFINED => tokens[id].replace(' ', SPACE),
        _ => tokens[id].to_owned(),
    };
    let ids: HashMap<String, usize> = (0..tokens.len()).map(|id| (spelled(id), id)).collect();
    if ids.len() != tokens.len() {
        return Err(metadata.unsupported("tokenizer.ggml.tokens", "names a token twice"));
    }
    let pieces = (0..tokens.len()).filter(|&id| [NORMAL, USER_DEFINED].contains(&types[id]));
    let pieces = pieces.map(|id| Piece {
        id,
        text: spelled(id),
        // Pieces of the user are whole whatever their score: they come before all others.
        score: match types[id] {
            USER_DEFINED => 0.0,
            _ => scores[id] + 0.0, // -0 is 0
        },
    });
    let merges = merges(pieces, &ids);
    let unknown = metadata.int("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| tokens.get(id));
    let prefix = metadata
        .flag("tokenizer.ggml.add_space_prefix")
        .unwrap_or(true);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "normalizer": normalizer(prefix),
        "pre_tokenizer": null,
        "post_processor": post_processor(metadata, tokens),
        "decoder": decoder(prefix),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges,
        },
    }))
}

fn scores(metadata: &Metadata, count: usize) -> Result<Vec<f32>, ImportError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = metadata.must(KEY, metadata.array(KEY))?;
    let scores: Option<Vec<f32>> = scores
        .iter()
        .map(|value| match value {
            Value::F32(score) => Some(*score),
            _ => None,
        })
        .collect();
    match scores.filter(|scores| scores.len() == count) {
        Some(scores) => Ok(scores),
        None => Err(metadata.unsupported(KEY, format!("has no number for each of {count} tokens"))),
    }
}

/// All merges, in the order that `transformers` gives them: by falling score of what comes out, then
/// by falling length of the left and of the right part, then by ids.
fn merges(
    pieces: impl Iterator<Item = Piece>,
    ids: &HashMap<String, usize>,
) -> Vec<(String, String)> {
    struct Merge {
        order: (f32, usize, usize),
        ids: (usize, usize, usize),
        parts: (String, String),
    }
    let mut merges = Vec::new();
    for piece in pieces {
        let mut left_length = 0;
        let length = piece.text.chars().count();
        for (at, _) in piece.text.char_indices().skip(1) {
            left_length += 1;
            let (left, right) = piece.text.split_at(at);
            if let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) {
                merges.push(Merge {
                    order: (piece.score, left_length, length - left_length),
                    ids: (piece.id, a, b),
                    parts: (left.to_owned(), right.to_owned()),
                });
            }
        }
    }
    merges.sort_by(|x, y| {
        let (score, left, right) = y.order;
        let falling = score
            .total_cmp(&x.order.0)
            .then(left.cmp(&x.order.1))
            .then(right.cmp(&x.order.2));
        falling.then(x.ids.cmp(&y.ids))
    });
    merges.into_iter().map(|merge| merge.parts).collect()
}

/// Spaces become ▁; Llama puts one before the text, Gemma does not.
fn normalizer(prefix: bool) -> Json {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    match prefix {
        true => json!({
            "type": "Sequence",
            "normalizers": [{ "type": "Prepend", "prepend": SPACE }, replace]
        }),
        false => replace,
    }
}

fn decoder(prefix: bool) -> Json {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

/// The post-processor for the token that `transformers` puts before a text of its own accord.
fn post_processor(metadata: &Metadata, tokens: &[&str]) -> Json {
    let adds = metadata
        .flag("tokenizer.ggml.add_bos_token")
        .unwrap_or(false);
    let id = metadata.int("tokenizer.ggml.bos_token_id");
    let bos = id.and_then(|id| tokens.get(usize::try_from(id).ok()?));
    let (true, Some(bos)) = (adds, bos) else {
        return Json::Null;
    };
    let special = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
    let text = |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
    let mut tokens = serde_json::Map::new();
    tokens.insert(
        (*bos).to_owned(),
        json!({ "id": bos, "ids": [id], "tokens": [bos] }),
    );
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), special, text("B", 1)],
        "special_tokens": tokens,
    })
}
