//! Rubric files: text with a fixed set of placeholders.

use super::mark::Mark;

/// A rubric, split at its placeholders once (LL-2).
#[derive(Debug, Clone)]
pub(super) struct Template<const N: usize> {
    source: String,
    slots: [&'static str; N],
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// The value of a slot, between tags of its own or those of this name that the rubric has there.
    Slot(usize, Option<String>),
}

/// What is wrong with a rubric's placeholders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A word in braces is none of the placeholders.
    #[error("{{{name}}} is no placeholder: write {known}, or put a space into the braces")]
    Unknown {
        /// The word.
        name: String,
        /// The placeholders there are.
        known: String,
    },
    /// A placeholder is missing, so the judge would not see what it judges.
    #[error("the placeholder {{{name}}} is missing: add it where the judge shall see it")]
    Missing {
        /// The placeholder.
        name: &'static str,
    },
}

impl<const N: usize> Template<N> {
    /// Splits `source` at `{name}` for each name in `slots`. Braces around anything but a bare
    /// lower-case word are plain text.
    pub fn parse(source: String, slots: [&'static str; N]) -> Result<Self, TemplateError> {
        let mut parts = vec![];
        let mut rest = source.as_str();
        while let Some((before, name, after)) = next_placeholder(rest) {
            let Some(slot) = slots.iter().position(|known| *known == name) else {
                let known = slots.map(|slot| format!("{{{slot}}}")).join(", ");
                return Err(TemplateError::Unknown {
                    name: name.to_owned(),
                    known,
                });
            };
            let (before, tag, after) = match enclosing(before, after) {
                Some((before, tag, after)) => (before, Some(tag.to_owned()), after),
                None => (before, None, after),
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Slot(slot, tag));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let has = |slot| {
            parts
                .iter()
                .any(|part| matches!(part, Part::Slot(s, _) if *s == slot))
        };
        match (0..N).find(|slot| !has(*slot)) {
            Some(slot) => Err(TemplateError::Missing { name: slots[slot] }),
            None => Ok(Self {
                source,
                slots,
                parts,
            }),
        }
    }

    /// The text it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text with each placeholder replaced, values in the order of the slots, each between tags
    /// that carry the mark (LL-4).
    pub fn fill(&self, mark: &Mark, values: [&str; N]) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Slot(slot, tag) => {
                let name = tag.as_deref().unwrap_or(self.slots[*slot]);
                mark.section(name, values[*slot])
            }
        };
        self.parts.iter().map(text).collect()
    }
}

/// The first `{word}`: what stands before it, the word, what stands behind it.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices('{').find_map(|(open, _)| {
        let (name, after) = text[open + 1..].split_once('}')?;
        let is_word = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_lowercase());
        is_word.then(|| (&text[..open], name, after))
    })
}

/// The pair of tags that directly encloses a placeholder, blanks aside: what stands before the opening
/// one, the name, what stands behind the closing one.
fn enclosing<'a>(before: &'a str, after: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let inner = before.trim_end().strip_suffix('>')?;
    let (outside, name) = inner.rsplit_once('<')?;
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let behind = after.trim_start().strip_prefix("</")?.strip_prefix(name)?;
    Some((outside, name, behind.strip_prefix('>')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [&str; 2] = ["question", "step"];

    /// With the mark, which differs by rubric, written as `M`.
    fn filled(source: &str, values: [&str; 2]) -> String {
        let template = Template::parse(source.to_owned(), SLOTS).unwrap();
        assert_eq!(template.source(), source);
        let mark = Mark::absent_from(source, values);
        let (open, _) = mark.tags("");
        let suffix = open.trim_start_matches('<').trim_end_matches('>');
        template.fill(&mark, values).replace(suffix, "-M")
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let q = "<question-M>\nQ\n</question-M>";
        let s = "<step-M>\nS\n</step-M>";
        let rows = [
            ("{question}|{step}", format!("{q}|{s}")),
            (
                "a {step} b {question} c {step}",
                format!("a {s} b {q} c {s}"),
            ),
            (
                "{ json: 1 } {question}{step} {}",
                format!("{{ json: 1 }} {q}{s} {{}}"),
            ),
            ("{{question}} {step} {", format!("{{{q}}} {s} {{")),
            (
                "{\"a\": {step}} {question} }{",
                format!("{{\"a\": {s}}} {q} }}{{"),
            ),
        ];
        for (source, wanted) in rows {
            assert_eq!(filled(source, ["Q", "S"]), wanted, "{source}");
        }
    }

    #[test]
    fn tags_around_a_placeholder_are_the_ones_that_are_marked() {
        let rows = [
            (
                "<q>{question}</q><it>\n {step}\n</it>.",
                "<q-M>\nQ\n</q-M><it-M>\nS\n</it-M>.",
            ),
            // no pair, or not directly around it
            (
                "<q>{question} <it>{step}</its>",
                "<q><question-M>\nQ\n</question-M> <it><step-M>\nS\n</step-M></its>",
            ),
            (
                "<q>Q: {question}</q> <q a=1>{step}</q>",
                "<q>Q: <question-M>\nQ\n</question-M></q> <q a=1><step-M>\nS\n</step-M></q>",
            ),
        ];
        for (source, wanted) in rows {
            assert_eq!(filled(source, ["Q", "S"]), wanted, "{source}");
        }
    }

    #[test]
    fn ll_2_braces_in_content_are_not_expanded() {
        assert_eq!(
            filled(
                "<a>{question}</a><b>{step}</b>",
                ["{step}", "{question} {x}"]
            ),
            "<a-M>\n{step}\n</a-M><b-M>\n{question} {x}\n</b-M>"
        );
    }

    #[test]
    fn wrong_placeholders_are_named() {
        let rows = [
            (
                "{question} {stop} {step}",
                "{stop} is no placeholder: write {question}, {step}, or",
            ),
            ("{question} only", "{step} is missing"),
            ("", "{question} is missing"),
        ];
        for (source, wanted) in rows {
            let error = Template::parse(source.to_owned(), SLOTS)
                .unwrap_err()
                .to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
