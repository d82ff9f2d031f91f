//! Text to token ids and back.

use crate::chat::ChatTemplate;
use crate::error::{LoadError, read_json_if_there};
use crate::special::SpecialTokens;
use crate::template_arguments::TemplateArguments;
use serde_json::Value;
use std::path::Path;

/// The tokenizer of a model folder. Ids that were sampled are the truth: text decoded from them
/// is for people and parsers and is never encoded back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    parsing: tokenizers::Tokenizer,
    /// The same, but special tokens in the text are plain text.
    plain: tokenizers::Tokenizer,
    /// Texts and ids of the special tokens.
    special: Vec<(String, u32)>,
    end_of_turn: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, the special tokens that the files beside it name, and which tokens
    /// end a turn from `generation_config.json`, `config.json`, `eos_token` and the chat template.
    ///
    /// # Errors
    /// A file is missing or is not what it should be.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_with(dir, &TemplateArguments::default())
    }

    /// [`Tokenizer::load`], with variables for the chat template.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load_with(dir: &Path, arguments: &TemplateArguments) -> Result<Self, LoadError> {
        if !dir.is_dir() {
            return Err(LoadError::NoFolder(dir.to_owned()));
        }
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let remedy = "only tokenizers in this format are supported; save the model's fast \
                          tokenizer into the folder";
            return Err(LoadError::NoFile { path, remedy });
        }
        let mut parsing = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| LoadError::json(&path, error))?;
        let special = SpecialTokens::load(dir)?;
        let named = special.add_to(&mut parsing)?;
        let mut tokenizer = Self::new(parsing, &named);
        // Adapters have the configuration of their base.
        let own = dir.join("generation_config.json");
        for file in [own, crate::adapted::config_of(dir)?] {
            let config = read_json_if_there(&file)?.unwrap_or_default();
            tokenizer.add_ends(&crate::config::text_config(&config));
        }
        if let Some(id) = special.named.get("eos_token")
            && let Some(id) = tokenizer.id_of(id)
        {
            tokenizer.add_end(id);
        }
        if let Ok(template) = ChatTemplate::load_with(dir, arguments)
            && let Some(id) = crate::turns::template_end(&tokenizer, &template)
        {
            tokenizer.add_end(id);
        }
        Ok(tokenizer)
    }

    /// `named` are special whatever `tokenizer.json` says.
    fn new(mut parsing: tokenizers::Tokenizer, named: &[String]) -> Self {
        // Training must never see a prompt cut or padded behind its back.
        let _ = parsing.with_truncation(None);
        parsing.with_padding(None);
        let special: Vec<_> = parsing
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special || named.contains(&token.content))
            .map(|(id, token)| (token.content, id))
            .collect();
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        Self {
            parsing,
            plain,
            special,
            end_of_turn: Vec::new(),
        }
    }

    fn add_ends(&mut self, config: &Value) {
        let ends = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
            None => Vec::new(),
        };
        for id in ends.iter().filter_map(Value::as_u64) {
            self.add_end(id as u32);
        }
    }

    fn add_end(&mut self, id: u32) {
        if !self.end_of_turn.contains(&id) {
            self.end_of_turn.push(id);
        }
    }

    /// Ids of a text in which special tokens such as `<|im_end|>` stand for themselves. None are
    /// added.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        encode(&self.parsing, text)
    }

    /// Ids of a text in which special tokens are plain characters: for text from outside, which
    /// must not be able to end its own turn.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        encode(&self.plain, text)
    }

    /// The text of ids; `skip_special` leaves special tokens out. Bytes that are no UTF-8 become
    /// U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        // The only failure is an id outside the vocabulary, which decodes to nothing already.
        self.parsing.decode(ids, skip_special).unwrap_or_default()
    }

    /// The ids that end a turn when sampled.
    pub fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// The id of a token, if there is such a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    /// The number of ids, special tokens included. Embeddings may have more rows than this.
    pub fn vocab_size(&self) -> usize {
        self.parsing.get_vocab_size(true)
    }

    /// Whether a text is one special token, which [`Tokenizer::decode`] may leave out.
    pub fn is_special_text(&self, text: &str) -> bool {
        self.special.iter().any(|(special, _)| special == text)
    }

    /// Whether the id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.iter().any(|(_, special)| *special == id)
    }

    /// Byte position and length of the first special token written out in a text, the longest
    /// where several begin at once.
    pub(crate) fn first_special_text(&self, text: &str) -> Option<(usize, usize)> {
        let found = self
            .special
            .iter()
            .filter_map(|(special, _)| Some((text.find(special)?, special.len())));
        found.min_by_key(|&(at, length)| (at, std::cmp::Reverse(length)))
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer
        .encode_fast(text, false)
        .expect("encoding fails only with truncation or padding on, and both are off")
        .get_ids()
        .to_vec()
}

/// Text of tokens as they are sampled, special tokens left out, never split within a character.
///
/// All that [`TextStream::push`] and [`TextStream::finish`] return is, joined, what
/// [`Tokenizer::decode`] makes of all ids.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    ids: Vec<u32>,
    /// Where decoding starts: tokens may decode differently at the beginning of a text.
    context: usize,
    /// Tokens before this have been given out.
    given: usize,
}

impl TextStream {
    /// A stream at the beginning of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next token; returns the text that is certain now, often one token's, sometimes
    /// nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.ids.push(id);
        let new = self.pending(tokenizer);
        // An incomplete character decodes to U+FFFD until its last byte is there.
        if new.is_empty() || new.ends_with('\u{FFFD}') {
            return String::new();
        }
        self.context = self.given;
        self.given = self.ids.len();
        new
    }

    /// What is left at the end: bytes that never became a character, as U+FFFD.
    pub fn finish(self, tokenizer: &Tokenizer) -> String {
        self.pending(tokenizer)
    }

    fn pending(&self, tokenizer: &Tokenizer) -> String {
        let before = tokenizer.decode(&self.ids[self.context..self.given], true);
        let mut all = tokenizer.decode(&self.ids[self.context..], true);
        if all.len() < before.len() {
            return String::new();
        }
        all.split_off(before.len())
    }
}
