//! Where the tests find their files.

use model::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The committed fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A tiny checkpoint.
pub fn fixture(name: &str) -> PathBuf {
    fixtures().join(name)
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// SmolLM2-135M-Instruct, where it has been provisioned.
pub fn smollm2() -> Option<PathBuf> {
    let dir =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/SmolLM2-135M-Instruct");
    if !dir.join("config.json").exists() {
        println!("skipped: SmolLM2 is not provisioned (cargo xtask setup does it)");
        return None;
    }
    Some(dir)
}

/// Gemma 3 270M, where it has been provisioned.
pub fn gemma3() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/gemma-3-270m");
    if !dir.join("config.json").exists() {
        println!(
            "skipped: Gemma 3 is not provisioned (cargo xtask setup --model gemma3-270m does it)"
        );
        return None;
    }
    Some(dir)
}

/// The GGUF file of Gemma 3 270M and the folder of its authors' tokenizer.
pub fn gemma3_files() -> Option<(PathBuf, PathBuf)> {
    let models = gemma3()?.with_file_name("gemma-3-270m-gguf");
    let file = models.join("gemma-3-270m-q4_k_m.gguf");
    Some((file, models.with_file_name("gemma-3-270m-tokenizer")))
}

/// A byte-level tokenizer without merges, in which every byte is a token.
pub fn bytes_tokenizer() -> Arc<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer_json(&SPECIAL.map(|token| (token, true)));
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": [257, 258]}"#,
    )
    .unwrap();
    Arc::new(Tokenizer::load(dir.path()).unwrap())
}

/// The tokens behind the 256 bytes.
pub const SPECIAL: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];

/// `tokenizer.json` of [`bytes_tokenizer`], in whose vocabulary [`SPECIAL`] are; `added` are its added
/// tokens, and whether each is special.
pub fn tokenizer_json(added: &[(&str, bool)]) -> serde_json::Value {
    let mut tokens = byte_alphabet();
    tokens.extend(SPECIAL.map(str::to_owned));
    let vocab: serde_json::Map<String, serde_json::Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let added: Vec<_> = added
        .iter()
        .map(|(content, special)| {
            serde_json::json!({ "id": vocab[*content], "content": content, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": special })
        })
        .collect();
    let level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": [] },
    })
}

/// GPT-2's 256 stand-ins for bytes, in the order of the bytes.
fn byte_alphabet() -> Vec<String> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
    let mut next = 255;
    (0..256)
        .map(|b| {
            let c = if printable(b) {
                b
            } else {
                next += 1;
                next
            };
            char::from_u32(c).unwrap().to_string()
        })
        .collect()
}
