//! Messages that a page quotes, held to the sources that print them: each line of a block that is fenced
//! as `log` is a message of the program, word for word, in which `…` stands for what varies.

use std::path::Path;

/// In the place of what varies: a placeholder of a format string, or `…`.
const HOLE: char = '\u{fffc}';

/// Before and after a block.
const FENCE: &str = "```";

/// Letters that a quotation needs for its place in the sources to say something.
const SHORTEST: usize = 10;

/// Quotations of a page that are not in `messages`, each with its place.
pub fn unfounded(path: &str, page: &str, messages: &[String]) -> Vec<String> {
    let mut breaks = Vec::new();
    let mut is_inside = false;
    for (number, quoted) in page.lines().enumerate() {
        if let Some(kind) = quoted.strip_prefix(FENCE) {
            is_inside = kind == "log";
            continue;
        }
        if !is_inside {
            continue;
        }
        let sought = quoted.replace('…', &HOLE.to_string());
        let is_short = sought.chars().filter(|c| c.is_alphabetic()).count() < SHORTEST;
        if is_short || !messages.iter().any(|message| message.contains(&sought)) {
            let place = number + 1;
            breaks.push(format!("{path}:{place}: no source prints `{quoted}`"));
        }
    }
    breaks
}

/// Whether what a file says is said by the program: not by its tests.
pub fn is_spoken(path: &Path) -> bool {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    !parts.any(|part| matches!(&*part, "tests" | "tests.rs"))
}

/// The texts of a Rust source, those of its test module aside, with holes where something is put in.
pub fn messages(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = without_tests(source);
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let after = match next {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if !before.is_alphanumeric() && before != '_' => match raw(rest) {
                Some((text, len)) => {
                    found.push(with_holes(text));
                    len
                }
                None => 1,
            },
            '"' => {
                let (text, len) = plain(rest);
                found.push(with_holes(&text));
                len
            }
            '\'' => character(rest),
            other => other.len_utf8(),
        };
        before = rest[..after].chars().next_back().unwrap_or(' ');
        rest = &rest[after..];
    }
    found
}

/// The part of a source file before its module of tests.
fn without_tests(source: &str) -> &str {
    let is_tests = |at: &usize| {
        let line = source[*at..].lines().nth(1).unwrap_or_default();
        line.contains("mod ") && line.ends_with('{')
    };
    let mut marks = source.match_indices("#[cfg(test)]").map(|(at, _)| at);
    let end = marks.find(is_tests).unwrap_or(source.len());
    &source[..end]
}

/// A raw text that `rest` begins with, and its length in the source.
fn raw(rest: &str) -> Option<(&str, usize)> {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    let begin = 1 + hashes + 1;
    if rest.as_bytes().get(begin - 1) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = begin + rest[begin..].find(&close)?;
    Some((&rest[begin..end], end + close.len()))
}

/// The text that `rest` begins with, and its length in the source.
fn plain(rest: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, at + 1),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                // The line goes on behind the next line's indentation.
                Some('\n') => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(escaped) => text.push(escaped),
                None => {}
            },
            c => text.push(c),
        }
    }
    (text, rest.len())
}

/// The length of a character, or of the mark of a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(rest.len(), |end| 3 + end + 1),
        Some((_, c)) if rest[1 + c.len_utf8()..].starts_with('\'') => 2 + c.len_utf8(),
        _ => 1,
    }
}

/// The text with holes in the place of placeholders and of `…`.
fn with_holes(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.next_if_eq(&c).is_some() => out.push(c),
            '{' => {
                out.push(HOLE);
                while chars.next().is_some_and(|c| c != '}') {}
            }
            '…' => out.push(HOLE),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_with_holes_and_without_those_of_comments_and_tests() {
        let source = r####"
            //! "a comment"
            /* "another" */
            fn f<'a>(x: &'a str) -> char {
                warn!(%x, "A node of {x:?} is lost, {{now}}.");
                bail!("it was said \
                       in two lines: \"{}\"", x);
                let raw = r#"a "raw" text"#;
                let var = "next\n";
                match c { '"' => '\'', '\u{1f}' => 'x', _ => b'"' }
            }
            fn g() { "the last" }
#[cfg(test)]
fn only_here() { "still said" }
#[cfg(test)]
mod tests {
    const A: &str = "of a test";
}"####;
        let shown: Vec<String> = messages(source)
            .iter()
            .map(|text| text.replace(HOLE, "…"))
            .collect();
        let expected = [
            "A node of … is lost, {now}.",
            "it was said in two lines: \"…\"",
            "a \"raw\" text",
            "next\n",
            "the last",
            "still said",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_quotation_that_no_source_prints_is_named() {
        let messages =
            messages(r#"fn f() { say!("only {has} of {wanted} nodes could be kept"); }"#);
        let page = "Not quoted.\n```log\nonly … of … nodes could be kept\n… of … nodes could\n```\n\
                    Nor is this.\n```\nswirl run\n```\n";
        assert_eq!(unfounded("a.md", page, &messages), [""; 0]);
        let cases = [
            "only … nodes could be kept",
            "only 3 of … nodes could be kept",
            "only … of … nodes could be kept running",
            "of …",
        ];
        for quoted in cases {
            let page = format!("```log\n{quoted}\n```\n");
            let found = unfounded("a.md", &page, &messages);
            assert_eq!(found, [format!("a.md:2: no source prints `{quoted}`")]);
        }
    }

    #[test]
    fn what_tests_say_is_not_said() {
        let cases = [
            ("crates/a/src/link/tests.rs", false),
            ("crates/a/src/tests/more.rs", false),
            ("crates/a/src/link.rs", true),
        ];
        for (path, expected) in cases {
            assert_eq!(is_spoken(Path::new(path)), expected, "{path}");
        }
    }
}
