//! Text that comes token by token.

use crate::support::{bytes_tokenizer, smollm2};
use model::{TextStream, Tokenizer};
use std::sync::Arc;

#[test]
fn a_stream_never_splits_a_character_and_loses_none() {
    let texts = [
        "plain words, 12+3=15.",
        "  naïve – “quotes” 日本語 🦀👩‍👩‍👧 end",
        "</answer>\n\n\ttab",
        "",
    ];
    for tokenizer in tokenizers() {
        for text in texts {
            let ids = tokenizer.encode(text);
            assert_eq!(tokenizer.decode(&ids, false), text);
            let mut stream = TextStream::new();
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
            assert!(
                pieces.iter().all(|piece| !piece.contains('\u{FFFD}')),
                "{pieces:?}"
            );
            assert_eq!(pieces.concat() + &stream.finish(&tokenizer), text);
        }
    }
}

/// One in which every byte is a token, and SmolLM2's where it is provisioned.
fn tokenizers() -> Vec<Arc<Tokenizer>> {
    let real = smollm2().map(|dir| Arc::new(Tokenizer::load(&dir).unwrap()));
    std::iter::once(bytes_tokenizer()).chain(real).collect()
}

#[test]
fn bytes_that_are_no_character_appear_at_the_end() {
    for tokenizer in tokenizers() {
        let mut ids = tokenizer.encode("ab🦀");
        ids.pop();
        let mut stream = TextStream::new();
        let text: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert_eq!(text, "ab");
        assert_eq!(stream.finish(&tokenizer), "\u{FFFD}");
    }
}

#[test]
fn special_tokens_are_parsed_or_plain_as_asked() {
    let Some(dir) = smollm2() else { return };
    let tokenizer = Tokenizer::load(&dir).unwrap();
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.encode("a<|im_end|>"), [81, 2]);
    let plain = tokenizer.encode_plain("a<|im_end|>");
    assert!(plain.len() > 2 && !plain.contains(&2), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true), "a<|im_end|>");
    assert_eq!(tokenizer.decode(&[81, 2], true), "a");
    let mut stream = TextStream::new();
    assert_eq!(
        [81, 2, 82].map(|id| stream.push(&tokenizer, id)).concat(),
        "ab"
    );
}
