//! Chat templates: the model's own way to write a dialogue down.

use crate::error::{LoadError, read_json_if_there};
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    bos: String,
    eos: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` or
    /// `chat_template.json`.
    ///
    /// # Errors
    /// There is none, or it cannot be parsed.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json_if_there(&config_path)?.unwrap_or_default();
        let (path, source) = find_source(dir, &config_path, &config)?;
        let token = |key: &str| token_text(config.get(key));
        Self::new(&source, token("bos_token"), token("eos_token"))
            .map_err(|error| LoadError::json(&path, format!("as a chat template: {error:#}")))
    }

    /// A template at hand; `bos` and `eos` are what it may write as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// It cannot be parsed.
    pub fn new(source: &str, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned())?;
        Ok(Self {
            environment,
            bos,
            eos,
        })
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
        let context = minijinja::context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        template
            .render(context)
            .map_err(|error| match refusal(&error) {
                Some(message) => TemplateError::Refused(message),
                None => TemplateError::Failed(error),
            })
    }
}

fn find_source(
    dir: &Path,
    config_path: &Path,
    config: &Value,
) -> Result<(std::path::PathBuf, String), LoadError> {
    let jinja = dir.join("chat_template.jinja");
    match std::fs::read_to_string(&jinja) {
        Ok(source) => return Ok((jinja, source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(LoadError::io(&jinja, error)),
    }
    if let Some(source) = template_in(config) {
        return Ok((config_path.to_owned(), source));
    }
    let json = dir.join("chat_template.json");
    match read_json_if_there(&json)?.as_ref().and_then(template_in) {
        Some(source) => Ok((json, source)),
        None => Err(LoadError::NoFile {
            path: jinja,
            remedy: "the model has no chat template; take the folder of its instruction-tuned \
                     variant, or copy a template into the folder",
        }),
    }
}

/// The template in a configuration: a text, or a list of named ones with a `default`.
fn template_in(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str().map(str::to_owned)),
        _ => None,
    }
}

/// Special tokens are texts, or objects with their text in `content`.
fn token_text(value: Option<&Value>) -> String {
    let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
    text.unwrap_or_default().to_owned()
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
