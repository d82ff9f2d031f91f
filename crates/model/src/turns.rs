//! Dialogues as ids that only ever grow.
//!
//! - **TC-1 (append-only).** The ids of a turn never depend on, and never change, the ids before
//!   it. Templates are not append-only by themselves: they strip past thinking, inject system
//!   turns and lose newlines. So a dialogue is written down with markers in place of its turns,
//!   and of the text around a sampled turn only what follows its marker is used.
//! - **TC-2 (outside text stays text).** Special tokens within questions and observations are
//!   encoded as plain characters: a web page cannot end its turn or speak for the model. Nor can
//!   it trip over the template, which only ever sees the markers.

use crate::chat::{ChatTemplate, Message, Role, TemplateError};
use crate::error::{LoadError, read_json_if_there};
use crate::template_arguments::TemplateArguments;
use crate::tokenizer::Tokenizer;
use proto::Thinking;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Why no codec can be made for a model folder.
#[derive(Debug, Error)]
pub enum TurnError {
    /// Tokenizer or template cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The template cannot write the dialogues of tool use.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Encodes the turns of a dialogue one after the other. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TurnCodec {
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    end_of_turn: u32,
    /// The template knows no system turn.
    folds_system: bool,
    /// A turn of the model and its end; the turn is its only blank.
    action: Vec<Piece>,
    /// Between a sampled turn and the next one; the observation is its only blank.
    glue: Vec<Piece>,
    thinking: Option<Thinking>,
}

impl TurnCodec {
    /// The codec of a model folder.
    ///
    /// # Errors
    /// Tokenizer or template are missing or unfit.
    pub fn load(dir: &Path) -> Result<Self, TurnError> {
        Self::load_with(dir, &TemplateArguments::default())
    }

    /// [`TurnCodec::load`], with variables for the chat template.
    ///
    /// # Errors
    /// As [`TurnCodec::load`].
    pub fn load_with(dir: &Path, arguments: &TemplateArguments) -> Result<Self, TurnError> {
        let tokenizer = Arc::new(Tokenizer::load_with(dir, arguments)?);
        let template = Arc::new(ChatTemplate::load_with(dir, arguments)?);
        let codec = Self::new(tokenizer, template)?;
        if let Some(rows) = rows_of(dir)? {
            codec.check_rows(rows)?;
        }
        Ok(codec)
    }

    /// Refuses a template whose tokens the model has no embedding for: tokens that were added to a
    /// tokenizer alone.
    fn check_rows(&self, rows: u64) -> Result<(), TemplateError> {
        let mut ids = self.prompt(Some(""), "");
        ids.extend(self.action(""));
        ids.extend(self.observation("", false));
        match ids.into_iter().find(|&id| u64::from(id) >= rows) {
            Some(id) => Err(TemplateError::NoRow {
                token: self.tokenizer.decode(&[id], false),
                id,
                rows,
            }),
            None => Ok(()),
        }
    }

    /// The codec of a tokenizer and a template.
    ///
    /// # Errors
    /// The template refuses or garbles a dialogue of user, model and user, writes a special token
    /// that the tokenizer does not have, or puts none behind the model's turn that ends it.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
    ) -> Result<Self, TemplateError> {
        for (name, text) in template.tokens_read() {
            if !text.is_empty() && tokenizer.id_of(text).is_none() {
                return Err(TemplateError::NoToken {
                    name: name.to_owned(),
                    text: text.to_owned(),
                });
            }
        }
        blanks(&template, &[Role::User], true)?;
        let folds_system = blanks(&template, &[Role::System, Role::User], true).is_err();
        let glue = Glue::of(&template)?;
        let (end_of_turn, end) = end_of_turn(&tokenizer, &template, &glue)?;
        let mut action = vec![Piece::Blank {
            turn: 0,
            trimmed: glue.trims_turn,
        }];
        action.push(Piece::Template(glue.leading()[..end].to_owned()));
        Ok(Self {
            tokenizer,
            template,
            end_of_turn,
            folds_system,
            action,
            glue: glue.pieces,
            thinking: None,
        })
    }

    /// The same for a model that thinks between these tags. Templates of reasoning models may open
    /// the section before the model's turn.
    #[must_use]
    pub fn with_thinking(self, open: &str, close: &str) -> Self {
        let before_turn = match self.glue.last() {
            Some(Piece::Template(text)) => text.as_str(),
            _ => "",
        };
        let thinking = Thinking {
            begins_open: before_turn.rfind(open) > before_turn.rfind(close),
            open: open.to_owned(),
            close: close.to_owned(),
        };
        Self {
            thinking: Some(thinking),
            ..self
        }
    }

    /// The sections in which the model thinks.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.thinking.as_ref()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The token that the template puts behind the model's turn.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// Ids of the first prompt, up to where the model begins to speak.
    ///
    /// A template without a system turn gets the system text as the first lines of the user's
    /// turn, one empty line apart, as Gemma 3's template does itself. Without a system text some
    /// templates (SmolLM2's) write a default one; that is theirs to decide.
    pub fn prompt(&self, system: Option<&str>, user: &str) -> Vec<u32> {
        let mut messages: Vec<Message> = system.map(Message::system).into_iter().collect();
        messages.push(Message::user(user));
        self.prompt_of(&messages)
            .expect("new() has written down these roles, texts play no part")
    }

    /// Ids of a prompt with earlier turns, such as worked examples; the last turn is the user's.
    ///
    /// # Errors
    /// The template refuses this order of turns.
    pub fn prompt_of(&self, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        let messages = self.folded(messages);
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        let texts: Vec<&str> = messages
            .iter()
            .map(|message| message.content.as_str())
            .collect();
        Ok(self.fill(&blanks(&self.template, &roles, true)?, &texts))
    }

    /// Ids of a turn of the model that was written, not sampled, with its end: for supervised
    /// training. A thinking section that the template opened is closed first, or the action would be
    /// thought and not done.
    pub fn action(&self, text: &str) -> Vec<u32> {
        let opened = self.thinking.as_ref().filter(|t| t.begins_open);
        let mut ids = match opened {
            Some(thinking) => self.tokenizer.encode(&format!("{}\n\n", thinking.close)),
            None => Vec::new(),
        };
        ids.extend(self.fill(&self.action, &[text]));
        ids
    }

    /// Ids between a sampled turn and the next one: the end of the turn unless it was sampled, the
    /// environment's turn, and the beginning of the model's next turn.
    ///
    /// `end_of_turn_was_sampled`: the last sampled id is [`TurnCodec::end_of_turn`]. Another
    /// end, such as `<|endoftext|>`, does not count.
    pub fn observation(&self, text: &str, end_of_turn_was_sampled: bool) -> Vec<u32> {
        let mut ids = self.fill(&self.glue, &[text]);
        // The glue ends the model's turn before it has anything of the observation.
        let end = ids.iter().position(|&id| id == self.end_of_turn);
        if let (true, Some(end)) = (end_of_turn_was_sampled, end) {
            ids.drain(..=end);
        }
        ids
    }

    fn folded(&self, messages: &[Message]) -> Vec<Message> {
        let [system, user, rest @ ..] = messages else {
            return messages.to_vec();
        };
        if !self.folds_system || system.role != Role::System || user.role != Role::User {
            return messages.to_vec();
        }
        let first = Message::user(format!("{}\n\n{}", system.content, user.content));
        std::iter::once(first).chain(rest.iter().cloned()).collect()
    }

    /// Ids of a form with its blanks filled in. Text without special tokens is encoded in one go
    /// with the template around it, as the model was trained.
    fn fill(&self, form: &[Piece], texts: &[&str]) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut pending = String::new();
        for piece in form {
            match piece {
                Piece::Template(text) => pending.push_str(text),
                Piece::Blank { turn, trimmed } => {
                    let text = if *trimmed {
                        texts[*turn].trim()
                    } else {
                        texts[*turn]
                    };
                    self.push_plain(text, &mut pending, &mut ids);
                }
            }
        }
        ids.extend(self.tokenizer.encode(&pending));
        ids
    }

    /// Adds outside text to what is pending; special tokens in it are encoded by themselves (TC-2).
    fn push_plain(&self, mut text: &str, pending: &mut String, ids: &mut Vec<u32>) {
        while let Some((at, special)) = self.tokenizer.first_special_text(text) {
            pending.push_str(&text[..at]);
            ids.extend(self.tokenizer.encode(&std::mem::take(pending)));
            ids.extend(self.tokenizer.encode_plain(&text[at..at + special]));
            text = &text[at + special..];
        }
        pending.push_str(text);
    }
}

/// Rows of the embedding of a model folder; `None` where there is no `config.json` that says so.
fn rows_of(dir: &Path) -> Result<Option<u64>, LoadError> {
    let config = read_json_if_there(&dir.join("config.json"))?.unwrap_or_default();
    Ok(crate::config::text_config(&config)["vocab_size"].as_u64())
}

/// A part of a dialogue's form.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Text of the template.
    Template(String),
    /// The place of a turn's text.
    Blank {
        turn: usize,
        /// The template strips white space around it.
        trimmed: bool,
    },
}

const OPEN: char = '\u{F8F0}';
const CLOSE: char = '\u{F8F1}';
/// Around the markers, to see whether the template strips white space.
const PADDING: &str = "\t\t";

/// The form of a dialogue of these roles: what the template writes, with blanks for the turns.
/// `prompts`: it ends where the model begins to speak.
fn blanks(
    template: &ChatTemplate,
    roles: &[Role],
    prompts: bool,
) -> Result<Vec<Piece>, TemplateError> {
    let marked = |(turn, role): (usize, &Role)| Message {
        role: *role,
        content: format!("{PADDING}{OPEN}{turn}{CLOSE}{PADDING}"),
    };
    let messages: Vec<Message> = roles.iter().enumerate().map(marked).collect();
    let text = template.render(&messages, prompts)?;
    let garbled = || TemplateError::NotAppendable("does not write every turn exactly once");
    let mut parts = text.split(OPEN);
    let mut pieces = vec![Piece::Template(parts.next().unwrap_or_default().to_owned())];
    let mut seen = vec![false; roles.len()];
    for part in parts {
        let (turn, after) = part.split_once(CLOSE).ok_or_else(garbled)?;
        let turn: usize = turn.parse().map_err(|_| garbled())?;
        if std::mem::replace(seen.get_mut(turn).ok_or_else(garbled)?, true) {
            return Err(garbled());
        }
        push_blank(&mut pieces, turn, after);
    }
    if seen.contains(&false) {
        Err(garbled())
    } else {
        Ok(pieces)
    }
}

fn push_blank(pieces: &mut Vec<Piece>, turn: usize, after: &str) {
    let Some(Piece::Template(before)) = pieces.last_mut() else {
        unreachable!("every blank is followed by a text, be it empty")
    };
    let padded = before.ends_with(PADDING) && after.starts_with(PADDING);
    let after = if padded {
        &after[PADDING.len()..]
    } else {
        after
    };
    if padded {
        before.truncate(before.len() - PADDING.len());
    }
    pieces.push(Piece::Blank {
        turn,
        trimmed: !padded,
    });
    pieces.push(Piece::Template(after.to_owned()));
}

/// The text between a turn of the model and its next turn.
struct Glue {
    /// A text, then the observation's blank among further texts.
    pieces: Vec<Piece>,
    /// The template strips white space around the model's turn.
    trims_turn: bool,
}

impl Glue {
    fn of(template: &ChatTemplate) -> Result<Self, TemplateError> {
        let form = blanks(template, &[Role::User, Role::Assistant, Role::User], true)?;
        let (mut trims_turn, mut pieces) = (None, Vec::new());
        for piece in form {
            match piece {
                Piece::Blank { turn: 1, trimmed } => trims_turn = Some(trimmed),
                _ if trims_turn.is_none() => {}
                Piece::Template(text) => pieces.push(Piece::Template(text)),
                Piece::Blank { turn: 2, trimmed } => pieces.push(Piece::Blank { turn: 0, trimmed }),
                Piece::Blank { .. } => {
                    return Err(TemplateError::NotAppendable(
                        "writes an earlier turn after a later one",
                    ));
                }
            }
        }
        let has_observation = pieces.iter().any(|p| matches!(p, Piece::Blank { .. }));
        match trims_turn {
            Some(trims_turn) if has_observation => Ok(Self { pieces, trims_turn }),
            _ => Err(TemplateError::NotAppendable(
                "writes a later turn before an earlier one",
            )),
        }
    }

    /// The text directly behind the model's turn.
    fn leading(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Template(text)) => text,
            _ => "",
        }
    }
}

/// The token that ends the model's turn, and where it ends in [`Glue::leading`].
///
/// A token counts that the model's configuration calls an end, else one that the template writes
/// behind a last turn as well: a special token that only stands before another turn begins that turn
/// and does not end this one.
fn end_of_turn(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    glue: &Glue,
) -> Result<(u32, usize), TemplateError> {
    let last = match blanks(template, &[Role::User, Role::Assistant], false) {
        Ok(mut form) => match form.pop() {
            Some(Piece::Template(text)) => specials(tokenizer, &text),
            _ => Vec::new(),
        },
        // A template that refuses to end with the model's turn says nothing about it.
        Err(_) => Vec::new(),
    };
    let is_end = |id: &u32| tokenizer.end_of_turn().contains(id);
    let found = specials(tokenizer, glue.leading());
    let first = found.first().ok_or(TemplateError::NotAppendable(
        "ends the model's turn with no special token",
    ))?;
    // Tokens of the next turn come behind one that is known to belong to this one.
    let own: Vec<_> = found
        .iter()
        .take_while(|(id, _)| is_end(id) || last.iter().any(|(closing, _)| closing == id))
        .collect();
    let end = own.iter().find(|(id, _)| is_end(id)).or(own.first());
    end.map(|end| **end).ok_or_else(|| TemplateError::NoEnd {
        token: tokenizer.decode(&[first.0], false),
    })
}

/// The special tokens that a text of the template writes, and where each ends.
fn specials(tokenizer: &Tokenizer, text: &str) -> Vec<(u32, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((start, length)) = tokenizer.first_special_text(&text[at..]) {
        let token = &text[at + start..at + start + length];
        at += start + length;
        found.extend(tokenizer.id_of(token).map(|id| (id, at)));
    }
    found
}

/// The token behind the model's turn, if the template allows to find it.
pub(crate) fn template_end(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let glue = Glue::of(template).ok()?;
    let (id, _) = end_of_turn(tokenizer, template, &glue).ok()?;
    Some(id)
}
