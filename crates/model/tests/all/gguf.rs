//! GGUF files become Hugging Face folders that mean the same, or are refused by what is odd in them.

use crate::parity::{assert_close, expected, logits};
use crate::support::{fixture, gemma3, gemma3_files, json as read_json};
use model::{ImportOptions, ImportReport, Tokenizer, TurnCodec, Visibility, import_gguf, load};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A fixture imported in f32 below `dir`.
fn imported(name: &str, dir: &Path) -> (PathBuf, ImportReport) {
    let out = dir.join(name);
    let options = ImportOptions {
        kind: Kind::Float,
        tokenizer: None,
    };
    let file = fixture(&format!("gguf_{name}")).join("model.gguf");
    let report = import_gguf(&file, &out, &options).unwrap();
    (out, report)
}

#[test]
fn imported_files_give_the_logits_of_their_dequantised_weights() {
    for (name, kind, vocabulary, dialogue) in [
        ("llama", "llama", 128, "<|user|>the thing<|end|><|model|>"),
        ("qwen2", "qwen2", 128, "<|user|>the thing<|end|><|model|>"),
        ("qwen3", "qwen3", 128, "<|user|>the thing<|end|><|model|>"),
        ("gemma2", "gemma2", 400, "<s><turn>the thing<end><turn>"),
        (
            "gemma3",
            "gemma3_text",
            400,
            "<s><turn>the thing<end><turn>",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (out, report) = imported(name, dir.path());
        assert_eq!(
            (report.architecture.as_str(), report.vocab_size),
            (kind, vocabulary)
        );
        let decoder = load(&out, Device::Cpu, Kind::Float).unwrap();
        let (ids, expected) = expected(&fixture(&format!("gguf_{name}")));
        assert_close(&logits(&decoder, &ids, Visibility::Causal), &expected, name);
        let codec = TurnCodec::load(&out).unwrap();
        let prompt = codec.prompt(None, "the thing");
        let text = codec.tokenizer().decode(&prompt, false).replace(' ', "");
        assert_eq!(text, dialogue.replace(' ', ""), "{name}");
    }
}

/// Merges follow from scores: the ids are those of SentencePiece itself, with a space put before the
/// text (`gemma2`, as Llama 2 has it) and without (`gemma3`).
#[test]
fn vocabularies_of_sentence_piece_give_its_ids() {
    for name in ["gemma2", "gemma3"] {
        let dir = tempfile::tempdir().unwrap();
        let (out, _) = imported(name, dir.path());
        let tokenizer = Tokenizer::load(&out).unwrap();
        let rows = read_json(&fixture(&format!("gguf_{name}")).join("ids.json"));
        for row in rows.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode_plain(text), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, true), text, "{name}");
        }
    }
}

/// A tokenizer's own files are taken if they give the same ids.
#[test]
fn a_tokenizer_of_the_users_is_taken_if_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (own, _) = imported("gemma3", dir.path());
    std::fs::write(own.join("chat_template.jinja"), "{{ messages }}").unwrap();
    let take = |from: &Path, out: &str| {
        let options = ImportOptions {
            tokenizer: Some(from.to_owned()),
            ..Default::default()
        };
        let file = fixture("gguf_gemma3").join("model.gguf");
        import_gguf(&file, &dir.path().join(out), &options).map_err(|error| error.to_string())
    };
    take(&own, "taken").unwrap();
    let taken = dir.path().join("taken");
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert_eq!(read(&taken), read(&own), "{name}");
    }
    assert_eq!(
        read_json(&taken.join("generation_config.json"))["eos_token_id"],
        2
    );

    let (other, _) = imported("gemma2", dir.path());
    let error = take(&other, "refused").unwrap_err();
    assert!(error.contains("tokenizer.json: its token "), "{error}");
    assert!(
        error.contains("give the folder of the model's own tokenizer"),
        "{error}"
    );
    assert!(!dir.path().join("refused").exists());
}

#[test]
fn files_that_cannot_be_imported_are_refused_by_what_is_odd() {
    let good = std::fs::read(fixture("gguf_qwen3").join("model.gguf")).unwrap();
    let gemma = std::fs::read(fixture("gguf_gemma3").join("model.gguf")).unwrap();
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let replaced = |from: &str, to: &str| replace(&good, &text(from), &text(to));
    let other_kind = |kind: u32| {
        // A tensor's info: name, dimensions, two sizes, type.
        let name = text("blk.0.attn_q.weight");
        let at = find(&good, &name) + name.len() + 4 + 16;
        [&good[..at], &kind.to_le_bytes(), &good[at + 4..]].concat()
    };
    let cases: [(&str, Vec<u8>, &[&str]); 16] = [
        ("empty", vec![], &["is no complete GGUF file"]),
        (
            "noise",
            vec![9; 300],
            &["is no complete GGUF file", "unknown magic"],
        ),
        (
            "cut off",
            good[..good.len() / 2].to_vec(),
            &["is no complete GGUF file", "tensor"],
        ),
        (
            "splitting",
            replace(
                &good,
                b"\x05\0\0\0\0\0\0\0qwen2",
                b"\x05\0\0\0\0\0\0\0qwen9",
            ),
            &["`tokenizer.ggml.pre` is qwen9, not smollm, qwen2 or llama-bpe"],
        ),
        (
            "tokenizer",
            replaced("gpt2", "bert"),
            &["`tokenizer.ggml.model` is bert; only byte-level BPE (gpt2) and SentencePiece"],
        ),
        (
            "tensor",
            replaced("blk.0.attn_q.weight", "blk.0.attn_x.weight"),
            &["`blk.0.attn_q.weight` is missing"],
        ),
        (
            "architecture",
            replace(
                &good,
                &[
                    &text("general.architecture")[..],
                    &[8, 0, 0, 0],
                    &text("qwen3"),
                ]
                .concat(),
                &[
                    &text("general.architecture")[..],
                    &[8, 0, 0, 0],
                    &text("mamba"),
                ]
                .concat(),
            ),
            &["`general.architecture` is mamba, not one of llama, qwen2, qwen3, gemma2, gemma3"],
        ),
        (
            "one of several files",
            with_pair(&good, "split.count", 2, &3u16.to_le_bytes()),
            &["`split.count` is 3", "llama-gguf-split --merge"],
        ),
        (
            "IQ4_XS",
            other_kind(23),
            &["`blk.0.attn_q.weight` is stored as IQ4_XS, which is not read"],
        ),
        (
            "MXFP4",
            other_kind(39),
            &["`blk.0.attn_q.weight` is stored as MXFP4, which is not read"],
        ),
        (
            "a type of tomorrow",
            other_kind(99),
            &["is stored as type 99, which is not read"],
        ),
        (
            "a setting of tomorrow",
            with_pair(&good, "qwen3.attention.twist", 4, &1u32.to_le_bytes()),
            &["`qwen3.attention.twist` is a setting that is not known"],
        ),
        (
            "rotation of a part of the head",
            with_pair(&good, "qwen3.rope.dimension_count", 4, &8u32.to_le_bytes()),
            &["`qwen3.rope.dimension_count` is 8, not the width of a head, 16"],
        ),
        (
            "experts",
            with_pair(&good, "qwen3.expert_count", 4, &8u32.to_le_bytes()),
            &["`qwen3.expert_count` is 8; only dense models"],
        ),
        (
            "a cap that is another architecture's",
            with_pair(
                &gemma,
                "gemma3.attn_logit_softcapping",
                6,
                &50f32.to_le_bytes(),
            ),
            &["`gemma3.attn_logit_softcapping` belongs to gemma2"],
        ),
        (
            "an adapter",
            with_pair(&good, "general.type", 8, &text("adapter")),
            &["`general.type` is adapter, not model"],
        ),
    ];
    for (name, bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        std::fs::write(&file, bytes).unwrap();
        let error = import_gguf(&file, &dir.path().join("out"), &ImportOptions::default())
            .unwrap_err()
            .to_string();
        for part in expected {
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(!error.contains('\n'), "{name}: {error}");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "{name} left something behind");
    }
}

/// The file with one more pair of metadata, of a type by number. The data behind the header are
/// not moved: these files are refused for their headers.
fn with_pair(bytes: &[u8], key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let pairs = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 1;
    let key = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    let pair = [&key[..], &kind.to_le_bytes(), value].concat();
    [&bytes[..16], &pairs.to_le_bytes(), &pair, &bytes[24..]].concat()
}

fn find(bytes: &[u8], part: &[u8]) -> usize {
    bytes
        .windows(part.len())
        .position(|window| window == part)
        .expect("it is there")
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = find(bytes, from);
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// SentencePiece's scores turn the real vocabulary of Gemma 3 into the same merges, one by one, as
/// the authors' `tokenizer.json` has.
#[test]
fn the_vocabulary_of_gemma3_becomes_its_authors_tokenizer() {
    let Some((gguf, tokenizer)) = gemma3_files() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    import_gguf(&gguf, &out, &ImportOptions::default()).unwrap();
    let [own, authors] = [&out, &tokenizer].map(|dir| read_json(&dir.join("tokenizer.json")));
    assert_eq!(own["model"]["merges"].as_array().unwrap().len(), 514_906);
    assert!(own["model"]["merges"] == authors["model"]["merges"]);
    assert!(own["model"]["vocab"] == authors["model"]["vocab"]);
}

/// Logits of Gemma 3 270M as `transformers` computes them from the imported folder.
#[test]
fn gemma3_270m_gives_the_logits_of_transformers() {
    let Some(dir) = gemma3() else { return };
    let rows = read_json(&crate::support::fixtures().join("gemma3_270m.json"));
    let decoder = load(&dir, Device::Cpu, Kind::Float).unwrap();
    let codec = TurnCodec::load(&dir).unwrap();
    assert_eq!(decoder.spec().parameter_count(), 268_098_176);
    for row in rows.as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(encoded(&codec, row, text), ids, "{text:?}");
        let wide: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&wide).unsqueeze(0);
        let found = logits(&decoder, &ids, Visibility::Causal).squeeze_dim(0);
        for (at, top) in row["top"].as_array().unwrap().iter().enumerate() {
            for pair in top.as_array().unwrap() {
                let (id, logit) = (pair[0].as_i64().unwrap(), pair[1].as_f64().unwrap());
                let found = found.double_value(&[at as i64, id]);
                assert!(
                    (found - logit).abs() < 2e-3,
                    "{text:?} at {at}, id {id}: {found} for {logit}"
                );
            }
        }
    }
}

/// A text behind `<bos>`, or as a dialogue.
fn encoded(codec: &TurnCodec, row: &Value, text: &str) -> Vec<u32> {
    if row["chat"] == json!(true) {
        return codec.prompt(None, text);
    }
    codec.tokenizer().encode(&format!("<bos>{text}"))
}
