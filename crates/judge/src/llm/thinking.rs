//! Reasoning that a model writes into its reply between tags. Nothing in it is part of the reply.

/// The tags that reasoning models write: opening and closing.
const TAGS: [(&str, &str); 5] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[think]", "[/think]"),
];

/// The text outside of reasoning sections. A section that is not closed goes on to the end, and one
/// that was not opened began with the text: some templates open it in the prompt.
pub(super) fn without_thinking(text: &str) -> String {
    let lower = text.to_ascii_lowercase(); // as long as `text`, byte by byte
    let mut kept = String::new();
    let (mut rest, mut depth) = (0, 0_usize);
    while let Some((at, tag, opens)) = next_tag(&lower, rest) {
        if depth == 0 {
            kept.push_str(&text[rest..at]);
        }
        match (opens, depth) {
            (true, _) => depth += 1,
            (false, 0) => kept.clear(),
            (false, _) => depth -= 1,
        }
        rest = at + tag.len();
    }
    if depth == 0 {
        kept.push_str(&text[rest..]);
    }
    kept
}

/// Where the next tag begins at or after `from`, the tag, and whether it opens a section.
fn next_tag(lower: &str, from: usize) -> Option<(usize, &'static str, bool)> {
    let tags = TAGS
        .iter()
        .flat_map(|&(open, close)| [(open, true), (close, false)]);
    let found = tags.filter_map(|(tag, opens)| {
        let at = from + lower[from..].find(tag)?;
        Some((at, tag, opens))
    });
    found.min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_outside_counts() {
        let rows = [
            ("plain\nGOOD", "plain\nGOOD"),
            ("<think>BAD</think>\nGOOD", "\nGOOD"),
            ("a<think>b</think>c", "ac"),
            ("<think>\nOptions are:\nYES", ""),
            ("Sure.\n<think>\nYES", "Sure.\n"),
            ("opened in the prompt\nBAD\n</think>\nGOOD", "\nGOOD"),
            ("<think>a</think>BAD\n</think>\nGOOD", "\nGOOD"),
            ("<think>a<think>b</think>BAD", ""),
            ("<think>a<think>b</think>c</think>BAD", "BAD"),
            ("<THINK>a</Think>é GOOD", "é GOOD"),
            ("[THINK]a[/THINK]GOOD", "GOOD"),
            ("<thinking>a</thinking>GOOD", "GOOD"),
            ("<thinker>GOOD", "<thinker>GOOD"),
            ("", ""),
        ];
        for (text, wanted) in rows {
            assert_eq!(without_thinking(text), wanted, "{text:?}");
        }
    }
}
