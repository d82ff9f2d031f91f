//! Where a model folder keeps its chat template, and what of it is no Jinja.

use crate::error::{LoadError, read_json_if_there};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The template of a folder, and the file it is from: `chat_template.jinja`, else `chat_template` of
/// `tokenizer_config.json` or of `chat_template.json`, as `transformers` looks for it.
///
/// # Errors
/// There is none, or several of which none is the default.
pub(crate) fn find(dir: &Path) -> Result<(PathBuf, String), LoadError> {
    let jinja = dir.join("chat_template.jinja");
    match std::fs::read_to_string(&jinja) {
        Ok(source) => {
            let source = unwrapped(&jinja, source)?;
            return Ok((jinja, source));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(LoadError::io(&jinja, error)),
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let path = dir.join(name);
        let config = read_json_if_there(&path)?.unwrap_or_default();
        if let Some(template) = config.get("chat_template").filter(|value| !value.is_null()) {
            let source = source_in(&path, template)?;
            return Ok((path, source));
        }
    }
    Err(LoadError::NoFile {
        path: jinja,
        remedy: "the model has no chat template; take the folder of its instruction-tuned \
                 variant, or copy a template into the folder",
    })
}

/// Some tools write a template as JSON under the name of a Jinja file: a text, an object with
/// `chat_template`, or named templates.
fn unwrapped(path: &Path, source: String) -> Result<String, LoadError> {
    match serde_json::from_str::<Value>(&source) {
        Ok(json @ (Value::String(_) | Value::Array(_) | Value::Object(_))) => {
            source_in(path, json.get("chat_template").unwrap_or(&json))
        }
        _ => Ok(source),
    }
}

/// A template is a text, or one of several by name: a list of objects, or an object of texts.
fn source_in(path: &Path, template: &Value) -> Result<String, LoadError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let named: Option<Vec<(String, String)>> = match template {
        Value::String(source) => return Ok(source.clone()),
        Value::Array(list) => list
            .iter()
            .map(|entry| Some((text(entry.get("name")?)?, text(entry.get("template")?)?)))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, source)| Some((name.clone(), text(source)?)))
            .collect(),
        _ => None,
    };
    let wrong = |problem: String| LoadError::Template {
        path: path.to_owned(),
        problem,
    };
    let named = named.ok_or_else(|| {
        wrong(
            "the chat template is neither a text nor texts by name: write it into \
             chat_template.jinja"
                .to_owned(),
        )
    })?;
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    match named.iter().find(|(name, _)| name == "default") {
        Some((_, source)) => Ok(source.clone()),
        None => Err(wrong(format!(
            "there is no chat template named default, only {}: write the one that is meant into \
             chat_template.jinja",
            names.join(", ")
        ))),
    }
}

/// Templates that `transformers` is to train with mark the model's turns by `{% generation %}`; what
/// is written is the same without. The tags become blocks without effect, so that the white space
/// they strip is stripped, and what is set between them stays between them.
pub(crate) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let length = match tag.starts_with("{#") {
            true => tag.find("#}").map(|end| end + 2),
            false => verbatim(tag).or_else(|| tag.find("%}").map(|end| end + 2)),
        };
        let (tag, after) = tag.split_at(length.unwrap_or(tag.len()));
        match word(tag) {
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The only word of a tag, such as `endif` of `{%- endif %}`.
fn word(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    Some(
        inner
            .trim_start_matches(['-', '+'])
            .trim_end_matches(['-', '+'])
            .trim(),
    )
}

/// The length of a `{% raw %}` block, whose contents are no tags.
fn verbatim(tag: &str) -> Option<usize> {
    let opening = tag.find("%}")? + 2;
    if word(&tag[..opening]) != Some("raw") {
        return None;
    }
    let mut at = opening;
    loop {
        at += tag[at..].find("{%")?;
        let end = at + tag[at..].find("%}")? + 2;
        if word(&tag[at..end]) == Some("endraw") {
            return Some(end);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_the_models_turns_become_blocks_without_effect() {
        for (source, expected) in [
            ("a", "a"),
            (
                "{% generation %}a{% endgeneration %}",
                "{% with %}a{% endwith %}",
            ),
            (
                "{%- generation -%} a {%+ endgeneration +%}",
                "{%- with -%} a {%+ endwith +%}",
            ),
            ("{%generation%}{%endgeneration%}", "{%with%}{%endwith%}"),
            ("{% set generation = 1 %}", "{% set generation = 1 %}"),
            (
                "{% if generation %}x{% endif %}",
                "{% if generation %}x{% endif %}",
            ),
            ("{# {% generation %} #}b", "{# {% generation %} #}b"),
            (
                "{% raw %}{% generation %}{% endraw %}",
                "{% raw %}{% generation %}{% endraw %}",
            ),
            (
                "{{ 'generation' }}{% generation",
                "{{ 'generation' }}{% generation",
            ),
        ] {
            assert_eq!(without_generation_tags(source), expected, "{source}");
        }
    }
}
