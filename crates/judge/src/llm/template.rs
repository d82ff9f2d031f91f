//! Rubric files: text with a fixed set of placeholders.

/// A rubric, split at its placeholders once (LL-2).
#[derive(Debug, Clone)]
pub(super) struct Template<const N: usize> {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Slot(usize),
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
        let mut text = String::new();
        let mut rest = source.as_str();
        while let Some((before, name, after)) = next_placeholder(rest) {
            let Some(slot) = slots.iter().position(|known| *known == name) else {
                let known = slots.map(|slot| format!("{{{slot}}}")).join(", ");
                return Err(TemplateError::Unknown {
                    name: name.to_owned(),
                    known,
                });
            };
            text.push_str(before);
            parts.push(Part::Text(std::mem::take(&mut text)));
            parts.push(Part::Slot(slot));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let has = |slot| {
            parts
                .iter()
                .any(|part| matches!(part, Part::Slot(s) if *s == slot))
        };
        match (0..N).find(|slot| !has(*slot)) {
            Some(slot) => Err(TemplateError::Missing { name: slots[slot] }),
            None => Ok(Self { source, parts }),
        }
    }

    /// The text it was made from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text with each placeholder replaced, values in the order of the slots.
    pub fn fill(&self, values: [&str; N]) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Slot(slot) => values[*slot].to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [&str; 2] = ["question", "step"];

    #[test]
    fn placeholders_are_filled_and_other_braces_left() {
        let rows = [
            ("{question}|{step}", "Q|S"),
            ("a {step} b {question} c {step}", "a S b Q c S"),
            ("{ json: 1 } {question}{step} {}", "{ json: 1 } QS {}"),
            ("{{question}} {step} {", "{Q} S {"),
            ("{\"a\": {step}} {question} }{", "{\"a\": S} Q }{"),
        ];
        for (source, wanted) in rows {
            let template = Template::parse(source.to_owned(), SLOTS).unwrap();
            assert_eq!(template.fill(["Q", "S"]), wanted, "{source}");
            assert_eq!(template.source(), source);
        }
    }

    #[test]
    fn ll_2_braces_in_content_are_not_expanded() {
        let template = Template::parse("{question} / {step}".to_owned(), SLOTS).unwrap();
        assert_eq!(
            template.fill(["{step}", "{question} {x}"]),
            "{step} / {question} {x}"
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
