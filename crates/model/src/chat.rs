//! Chat templates: the model's own way to write a dialogue down.

use crate::error::{LoadError, read_json_if_there};
use crate::special::SpecialTokens;
use crate::template_arguments::TemplateArguments;
use crate::template_source;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions for the whole dialogue.
    System,
    /// The person, or the environment that answers tool calls.
    User,
    /// The model.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// Instructions for the whole dialogue.
    pub fn system(content: impl Into<String>) -> Self {
        Self {
            role: Role::System,
            content: content.into(),
        }
    }

    /// A turn of the person or the environment.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: Role::Assistant,
            content: content.into(),
        }
    }
}

/// Why a dialogue cannot be written down.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// The template refuses this dialogue, as Gemma's refuses a system turn.
    #[error("the chat template refuses this dialogue: {0}")]
    Refused(String),
    /// The template cannot be evaluated.
    #[error("the chat template fails ({0:#}): replace chat_template.jinja in the model folder")]
    Failed(#[source] Error),
    /// The only special token behind the model's turn is one that nothing calls an end.
    #[error(
        "the chat template puts `{token}` behind the model's turn, but only before another turn, \
         and neither generation_config.json nor config.json has it as eos_token_id: add it there if \
         it ends the turn, or mend chat_template.jinja"
    )]
    NoEnd {
        /// The token.
        token: String,
    },
    /// The template writes a special token that the tokenizer does not have.
    #[error(
        "the chat template writes {name}, which is {text:?}, but tokenizer.json has no such token: \
         correct {name} in tokenizer_config.json or special_tokens_map.json"
    )]
    NoToken {
        /// Its name, such as `bos_token`.
        name: String,
        /// Its text.
        text: String,
    },
    /// The template writes a token that the model has no embedding for.
    #[error(
        "the chat template writes `{token}` (id {id}), but the model of config.json has {rows} tokens: \
         take the tokenizer that belongs to these weights"
    )]
    NoRow {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: u64,
    },
    /// The template gives no way to tell where the model's turn ends.
    #[error(
        "the chat template {0}, so turns cannot be appended: replace chat_template.jinja in the model folder"
    )]
    NotAppendable(&'static str),
}

/// The chat template of a model folder, with the functions that templates of `transformers` use.
///
/// `strftime_now` is left undefined on purpose: a prompt that depends on the date cannot be
/// reproduced, and templates that know the function have a fixed date to fall back to.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    arguments: TemplateArguments,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` or
    /// `chat_template.json`, and the special tokens it may write.
    ///
    /// # Errors
    /// There is none, it cannot be parsed, or it writes a token that no file names.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_with(dir, &TemplateArguments::default())
    }

    /// [`ChatTemplate::load`], with variables for the template.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn load_with(dir: &Path, arguments: &TemplateArguments) -> Result<Self, LoadError> {
        let (path, source) = template_source::find(dir)?;
        let wrong = |problem: String| LoadError::Template {
            path: path.clone(),
            problem,
        };
        let special = SpecialTokens::load(dir)?;
        let template = Self::from_parts(&source, special, arguments.clone()).map_err(|error| {
            wrong(format!(
                "the chat template cannot be read ({error:#}): mend it, or put another into \
                 chat_template.jinja"
            ))
        })?;
        for (name, id) in ids_of(dir)? {
            if template.reads(&name) && template.special.is_unknown(&name) {
                return Err(wrong(format!(
                    "the chat template writes {name}, the model's token {id}, but no file says how \
                     it is spelled: name it in tokenizer_config.json, or as null if it is not to be \
                     written"
                )));
            }
        }
        Ok(template)
    }

    /// A template at hand; `bos` and `eos` are what it may write as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// It cannot be parsed.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, Error> {
        let special = SpecialTokens::of(bos, eos);
        Self::from_parts(source, special, TemplateArguments::default())
    }

    /// The same template with other variables.
    #[must_use]
    pub fn with_arguments(self, arguments: TemplateArguments) -> Self {
        Self { arguments, ..self }
    }

    fn from_parts(
        source: &str,
        special: SpecialTokens,
        arguments: TemplateArguments,
    ) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python_formatter);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        let source = template_source::without_generation_tags(source);
        environment.add_template_owned(NAME, source)?;
        Ok(Self {
            environment,
            special,
            arguments,
        })
    }

    /// The special tokens that the template writes by name: names and texts.
    pub(crate) fn tokens_read(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.special.named.iter();
        let named = named.map(|(name, text)| (name.as_str(), text.as_str()));
        named.filter(|(name, _)| self.reads(name))
    }

    fn reads(&self, name: &str) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.undeclared_variables(false).contains(name))
    }

    /// Writes a dialogue down; `add_generation_prompt` begins a turn of the model at its end.
    ///
    /// # Errors
    /// The template refuses the dialogue or fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(TemplateError::Failed)?;
        let mut context: BTreeMap<&str, minijinja::Value> = BTreeMap::from([
            ("messages", minijinja::Value::from_serialize(messages)),
            ("add_generation_prompt", add_generation_prompt.into()),
            // As `transformers` passes them where there are none.
            ("tools", minijinja::Value::from(())),
            ("documents", minijinja::Value::from(())),
        ]);
        let named = self.special.named.iter();
        context.extend(named.map(|(name, text)| (name.as_str(), text.as_str().into())));
        if !self.special.additional.is_empty() {
            let additional = self.special.additional.clone();
            context.insert("additional_special_tokens", additional.into());
        }
        let arguments = self.arguments.iter();
        context
            .extend(arguments.map(|(name, value)| (name, minijinja::Value::from_serialize(value))));
        template
            .render(context)
            .map_err(|error| match refusal(&error) {
                Some(message) => TemplateError::Refused(message),
                None => TemplateError::Failed(error),
            })
    }
}

/// The ids that `config.json` gives to tokens that templates write by name.
fn ids_of(dir: &Path) -> Result<Vec<(String, u64)>, LoadError> {
    let config = read_json_if_there(&dir.join("config.json"))?.unwrap_or_default();
    let config = crate::config::text_config(&config);
    let names = ["bos_token", "eos_token"].into_iter();
    let ids = names.filter_map(|name| {
        let id = &config[format!("{name}_id")];
        let id = id
            .as_array()
            .map_or(Some(id), |ids| ids.first())?
            .as_u64()?;
        Some((name.to_owned(), id))
    });
    Ok(ids.collect())
}

/// Writes values as Python does where minijinja does it otherwise.
fn python_formatter(
    out: &mut minijinja::Output,
    state: &minijinja::State,
    value: &minijinja::Value,
) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::None => "None",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}

/// Marks errors that the template raises itself.
const RAISED: &str = "raised by the template: ";

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

fn refusal(error: &Error) -> Option<String> {
    error.detail()?.strip_prefix(RAISED).map(str::to_owned)
}

/// JSON as Python writes it: separators with a space, nothing escaped for HTML.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<minijinja::Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Templates may ask for these; they are what is done anyway.
    let _: (Option<bool>, Option<minijinja::Value>) =
        (options.get("ensure_ascii")?, options.get("separators")?);
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("cannot write JSON: {error}"),
        )
    };
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = vec![b' '; width];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            value.serialize(&mut serializer).map_err(failed)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonFormatter);
            value.serialize(&mut serializer).map_err(failed)?;
        }
    }
    let text = String::from_utf8(out).expect("serde_json writes UTF-8");
    Ok(minijinja::Value::from_safe_string(text))
}

/// `{"a": 1, "b": 2}`, with the spaces that models were trained on.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
