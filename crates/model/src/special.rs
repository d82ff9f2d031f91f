//! The special tokens of a model folder, wherever they are named: `tokenizer_config.json` (as texts
//! or objects, and by id in `added_tokens_decoder`) and `special_tokens_map.json`.

use crate::error::{LoadError, read_json_if_there};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tokenizers::AddedToken;

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

/// Templates' names for the special tokens that every tokenizer may have.
pub(crate) const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The special tokens that the files beside `tokenizer.json` name.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialTokens {
    /// Texts by name, such as `bos_token`.
    pub named: BTreeMap<String, String>,
    /// Texts of those without a name.
    pub additional: Vec<String>,
    /// Names that are null: there is no such token.
    denied: Vec<String>,
    /// `added_tokens_decoder`: tokens by id.
    added: BTreeMap<u32, AddedToken>,
    dir: std::path::PathBuf,
}

impl SpecialTokens {
    /// Reads what the files of a model folder say; absent files say nothing.
    ///
    /// # Errors
    /// A file is no JSON, or names a token by something that is no text.
    pub(crate) fn load(dir: &Path) -> Result<Self, LoadError> {
        let config = object(&dir.join(CONFIG))?;
        let map = object(&dir.join(MAP))?;
        let mut tokens = Self {
            dir: dir.to_owned(),
            added: added_tokens(&dir.join(CONFIG), &config)?,
            ..Self::default()
        };
        // As `transformers` reads them: with `added_tokens_decoder` the configuration is complete,
        // without it the map is the newer file.
        let mut sources = [(CONFIG, &config), (MAP, &map)];
        if tokens.added.is_empty() {
            sources.reverse();
        }
        for (file, source) in sources {
            tokens.take_names(&dir.join(file), source)?;
            tokens.take_lists(&dir.join(file), source)?;
        }
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        for (name, token) in class.map_or(&[][..], defaults) {
            // An explicit null says that there is none.
            if tokens.is_unknown(name) {
                tokens.named.insert((*name).to_owned(), (*token).to_owned());
            }
        }
        Ok(tokens)
    }

    /// Two tokens at hand.
    pub(crate) fn of(bos: String, eos: String) -> Self {
        let named = [("bos_token".to_owned(), bos), ("eos_token".to_owned(), eos)];
        Self {
            named: named.into(),
            ..Self::default()
        }
    }

    /// Whether no file says how the token of this name is spelled, or that there is none.
    pub(crate) fn is_unknown(&self, name: &str) -> bool {
        !self.named.contains_key(name) && !self.denied.iter().any(|denied| denied == name)
    }

    /// Takes what is not named yet.
    fn take_names(&mut self, path: &Path, source: &Map<String, Value>) -> Result<(), LoadError> {
        let extra = source
            .get("extra_special_tokens")
            .and_then(Value::as_object);
        let extra = extra.into_iter().flatten();
        let usual = NAMES
            .into_iter()
            .filter_map(|name| source.get_key_value(name));
        for (name, value) in usual.chain(extra) {
            match text_of(path, name, value)? {
                None => self.denied.push(name.clone()),
                Some(text) => {
                    self.named.entry(name.clone()).or_insert(text);
                }
            }
        }
        Ok(())
    }

    fn take_lists(&mut self, path: &Path, source: &Map<String, Value>) -> Result<(), LoadError> {
        for list in LISTS {
            for value in source
                .get(list)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if let Some(text) = text_of(path, list, value)?
                    && !self.additional.contains(&text)
                {
                    self.additional.push(text);
                }
            }
        }
        Ok(())
    }

    /// Makes a tokenizer know them as special, under the ids they have; returns the texts of all that
    /// are special by these files and are tokens.
    ///
    /// # Errors
    /// `added_tokens_decoder` gives a token another id than `tokenizer.json` does.
    pub(crate) fn add_to(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
    ) -> Result<Vec<String>, LoadError> {
        // Each call rebuilds the search for all added tokens, of which Gemma has thousands.
        let known = tokenizer.get_added_tokens_decoder();
        let is_new = |(id, token): &(&u32, &AddedToken)| {
            let found = known.get(id);
            found.is_none_or(|f| f.content != token.content || f.special != token.special)
        };
        let new: Vec<_> = self.added.iter().filter(is_new).collect();
        let new: Vec<AddedToken> = new.into_iter().map(|(_, token)| token.clone()).collect();
        if !new.is_empty() {
            tokenizer.add_tokens(&new);
        }
        self.check_ids(tokenizer)?;
        let listed = self.added.values().filter(|token| token.special);
        let named = self.named.values().chain(&self.additional);
        let special: BTreeSet<&String> = listed.map(|token| &token.content).chain(named).collect();
        // One that is not in the vocabulary would get an id that the model never saw.
        let special = special
            .into_iter()
            .filter(|text| tokenizer.token_to_id(text).is_some());
        let special: Vec<String> = special.cloned().collect();
        let known = tokenizer.get_added_tokens_decoder();
        let known: BTreeSet<&String> = known
            .values()
            .filter(|token| token.special)
            .map(|token| &token.content)
            .collect();
        let unknown = special.iter().filter(|text| !known.contains(text));
        let unknown: Vec<_> = unknown
            .map(|text| AddedToken::from(text.clone(), true))
            .collect();
        if !unknown.is_empty() {
            tokenizer.add_special_tokens(&unknown);
        }
        Ok(special)
    }

    fn check_ids(&self, tokenizer: &tokenizers::Tokenizer) -> Result<(), LoadError> {
        for (id, token) in &self.added {
            let found = tokenizer.token_to_id(&token.content);
            if found != Some(*id) {
                let problem = format!(
                    "has {:?} as {id}, but tokenizer.json as {}",
                    token.content,
                    found.unwrap_or_default()
                );
                return Err(LoadError::Contradiction {
                    path: self.dir.join(CONFIG),
                    key: "added_tokens_decoder".to_owned(),
                    problem,
                });
            }
        }
        Ok(())
    }
}

/// An object, empty where there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>, LoadError> {
    match read_json_if_there(path)? {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(LoadError::json(path, "it is no JSON object")),
    }
}

/// Special tokens are texts, or objects with their text in `content`; null says that there is none.
fn text_of(path: &Path, name: &str, value: &Value) -> Result<Option<String>, LoadError> {
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    let text =
        text.ok_or_else(|| LoadError::json(path, format!("`{name}` is {value}, no token's text")))?;
    Ok(Some(text.to_owned()))
}

fn added_tokens(
    path: &Path,
    config: &Map<String, Value>,
) -> Result<BTreeMap<u32, AddedToken>, LoadError> {
    const KEY: &str = "added_tokens_decoder";
    let listed = config.get(KEY).and_then(Value::as_object);
    let read = |(id, value): (&String, &Value)| {
        let id: u32 = id
            .parse()
            .map_err(|_| LoadError::json(path, format!("`{KEY}` names {id:?}, which is no id")))?;
        let content = text_of(path, KEY, value)?
            .ok_or_else(|| LoadError::json(path, format!("`{KEY}` has no text for {id}")))?;
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let special = flag("special");
        let is_normalized = value.get("normalized").and_then(Value::as_bool);
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(is_normalized.unwrap_or(!special));
        Ok((id, token))
    };
    listed.into_iter().flatten().map(read).collect()
}

/// Tokens' names in classes of `transformers`, where no file gives them.
fn defaults(class: &str) -> &'static [(&'static str, &'static str)] {
    match class.trim_end_matches("Fast") {
        "LlamaTokenizer" | "CodeLlamaTokenizer" => &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
        ],
        "GemmaTokenizer" => &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
        "Qwen2Tokenizer" => &[
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ],
        "GPT2Tokenizer" => &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
        _ => &[],
    }
}
