//! LaTeX and Markdown off: what is left is text that a reader sees, with characters of its own for
//! the few commands that have structure.

/// Stands before the two groups of a fraction: `\frac{1}{2}` is `FRACTION{1}{2}`.
pub(super) const FRACTION: char = '\u{e000}';
/// Stands before the two groups of a binomial coefficient.
pub(super) const BINOMIAL: char = '\u{e001}';
/// Begins a matrix, whose cells end at `&` and whose rows end at [`NEW_ROW`].
pub(super) const MATRIX: char = '\u{e002}';
/// Ends a matrix.
pub(super) const MATRIX_END: char = '\u{e003}';
/// Ends a row of a matrix.
pub(super) const NEW_ROW: char = '\u{e004}';
/// The braces of a set, as against those that only group.
pub(super) const SET: char = '\u{e005}';
pub(super) const SET_END: char = '\u{e006}';

/// Commands nested deeper are not read.
const MAX_DEPTH: usize = 24;

/// A text without typesetting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plain {
    pub text: String,
    /// Whether it was written as mathematics, so that letters are variables.
    pub is_math: bool,
}

/// Takes typesetting off. Of a text with `\boxed{…}` only what stands in the last box is left: that
/// is where mathematics models put their answer. Typesetting that is not understood stays as it is.
pub(super) fn plain(text: &str) -> Plain {
    let text = last_box(text);
    let bare = without_marks(text);
    let text = without_ties(if bare.trim().is_empty() { text } else { &bare });
    let (text, delimited) = without_dollars(&text);
    let is_math = delimited || text.contains('\\');
    if !text.contains('\\') {
        let text = join_groups(&text.replace("{,}", ","));
        return Plain { text, is_math };
    }
    let text = text
        .replace("^{\\circ}", "°")
        .replace("^\\circ", "°")
        .replace("{,}", ",")
        .replace("\\!", "");
    let text = commands(&text, 0).unwrap_or(text);
    Plain {
        text: join_groups(&text),
        is_math,
    }
}

/// The content of the last `\boxed{…}`, in as many boxes as there are around it.
fn last_box(text: &str) -> &str {
    let mut text = text;
    for _ in 0..MAX_DEPTH {
        let start = ["\\boxed", "\\fbox"]
            .iter()
            .filter_map(|name| text.rfind(name).map(|at| at + name.len()))
            .max();
        let Some(start) = start else { break };
        let tail = text[start..].trim_start();
        text = match argument(tail) {
            Some((inner, _)) => inner,
            None => tail,
        };
    }
    text
}

/// LaTeX's tie is a blank; before a number, where it means about, it stays.
fn without_ties(text: &str) -> String {
    let mut before = None;
    let tied =
        |c: char, before: Option<char>| c == '~' && before.is_some_and(|c| !c.is_whitespace());
    text.chars()
        .map(|c| {
            let shown = if tied(c, before) { ' ' } else { c };
            before = Some(c);
            shown
        })
        .collect()
}

/// Without Markdown's `**` and backticks around words. `2**10` keeps its stars.
fn without_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['*', '`']) {
        out.push_str(&rest[..at]);
        let marks = if rest[at..].starts_with("**") { 2 } else { 1 };
        let tail = &rest[at + marks..];
        let (before, after) = (out.chars().next_back(), tail.chars().next());
        let is_mark = rest[at..].starts_with('`') || (marks == 2 && !is_power(before, after));
        if !is_mark {
            out.push_str(&rest[at..at + marks]);
        }
        rest = tail;
    }
    out + rest
}

/// Whether two stars between these characters are an operator: between operands, or blanks.
fn is_power(before: Option<char>, after: Option<char>) -> bool {
    let is =
        |c: Option<char>, signs: &str| c.is_some_and(|c| c.is_alphanumeric() || signs.contains(c));
    let blank = |c: Option<char>| c.is_some_and(char::is_whitespace);
    (is(before, ")]}") && is(after, "([{-√\\")) || (blank(before) && blank(after))
}

/// Without the dollars around mathematics, and whether there were any. As in Markdown an opening
/// dollar has no blank behind it, a closing one none before it and no digit or letter behind it, so
/// that `$5 and $10` stays money.
fn without_dollars(text: &str) -> (String, bool) {
    let text = text.replace("$$", "$");
    let (mut out, mut rest, mut found) = (String::with_capacity(text.len()), text.as_str(), false);
    while let Some(open) = unescaped_dollar(rest, 0) {
        let inner = &rest[open + 1..];
        let closing = unescaped_dollar(inner, 0).filter(|&close| {
            let ends_well = !inner[..close].ends_with(char::is_whitespace) && close > 0;
            let free = !inner[close + 1..].starts_with(char::is_alphanumeric);
            ends_well && free && !inner.starts_with(char::is_whitespace)
        });
        out.push_str(&rest[..open]);
        match closing {
            Some(close) => {
                out.push_str(&inner[..close]);
                rest = &inner[close + 1..];
                found = true;
            }
            None => {
                out.push('$');
                rest = inner;
            }
        }
    }
    (out + rest, found)
}

fn unescaped_dollar(text: &str, from: usize) -> Option<usize> {
    text[from..]
        .match_indices('$')
        .map(|(at, _)| from + at)
        .find(|&at| !text[..at].ends_with('\\'))
}

/// Digits in groups of three with a thin space between them are one number.
fn join_groups(text: &str) -> String {
    let thin = |c: char| matches!(c, '\u{2009}' | '\u{202f}' | '\u{2008}');
    if !text.contains(thin) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let tail = &text[at + c.len_utf8()..];
        let digits = tail.chars().take_while(char::is_ascii_digit).count();
        let before = out.chars().next_back().is_some_and(|c| c.is_ascii_digit());
        match thin(c) {
            true if before && digits == 3 => {}
            true => out.push(' '),
            false => out.push(c),
        }
    }
    out
}

/// The text with its commands read; `None` where they nest too deep or an argument is missing.
fn commands(text: &str, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = command(&rest[at + 1..], &mut out, depth)?;
    }
    out.push_str(rest);
    Some(out)
}

/// Reads the command behind a backslash; what follows it is returned.
fn command<'a>(tail: &'a str, out: &mut String, depth: usize) -> Option<&'a str> {
    let end = tail
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(tail.len());
    let (name, after) = tail.split_at(end);
    if name.is_empty() {
        let c = tail.chars().next()?;
        out.push_str(symbol(c));
        return Some(&tail[c.len_utf8()..]);
    }
    match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" => two_groups(FRACTION, after, out, depth),
        "binom" | "dbinom" | "tbinom" => two_groups(BINOMIAL, after, out, depth),
        "sqrt" => root(after, out, depth),
        "text" | "textbf" | "textit" | "textrm" | "textsf" | "texttt" | "textnormal" | "mathrm"
        | "mathbf" | "mathit" | "mathsf" | "mathbb" | "mathcal" | "mbox" | "hbox"
        | "operatorname" | "emph" | "bm" | "vec" | "overline" | "mathnormal" | "ensuremath" => {
            let (inner, rest) = argument(after.trim_start())?;
            out.push_str(&commands(inner, depth + 1)?);
            Some(rest)
        }
        "begin" => matrix(after, MATRIX, out),
        "end" => matrix(after, MATRIX_END, out),
        _ => {
            match word(name) {
                Some(replacement) => out.push_str(replacement),
                None => out.extend(["\\", name]),
            }
            Some(after)
        }
    }
}

fn two_groups<'a>(mark: char, after: &'a str, out: &mut String, depth: usize) -> Option<&'a str> {
    let (above, rest) = argument(after.trim_start())?;
    let (below, rest) = argument(rest.trim_start())?;
    let (above, below) = (commands(above, depth + 1)?, commands(below, depth + 1)?);
    out.push(mark);
    out.push_str(&format!("{{{above}}}{{{below}}}"));
    Some(rest)
}

fn root<'a>(after: &'a str, out: &mut String, depth: usize) -> Option<&'a str> {
    let mut after = after.trim_start();
    out.push('√');
    if let Some(tail) = after.strip_prefix('[') {
        let (degree, rest) = tail.split_once(']')?;
        out.push_str(&format!("[{degree}]"));
        after = rest.trim_start();
    }
    let (inner, rest) = argument(after)?;
    out.push_str(&format!("{{{}}}", commands(inner, depth + 1)?));
    Some(rest)
}

fn matrix<'a>(after: &'a str, mark: char, out: &mut String) -> Option<&'a str> {
    let (kind, rest) = argument(after)?;
    let known = [
        "pmatrix",
        "bmatrix",
        "matrix",
        "vmatrix",
        "Bmatrix",
        "smallmatrix",
    ];
    if !known.contains(&kind) {
        return None;
    }
    out.push(mark);
    Some(rest)
}

/// The argument that a text starts with, a group in braces, a command or one character, and what
/// follows it.
fn argument(text: &str) -> Option<(&str, &str)> {
    let Some(inner) = text.strip_prefix('{') else {
        let first = text.chars().next()?;
        let len = match first {
            '\\' => text[1..].find(|c: char| !c.is_ascii_alphabetic())? + 1,
            _ => first.len_utf8(),
        };
        return Some(text.split_at(len));
    };
    let mut depth = 1usize;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => {}
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if depth == 0 {
            return Some((&inner[..at], &inner[at + 1..]));
        }
    }
    None
}

/// A backslash before a character that is no letter.
fn symbol(c: char) -> &'static str {
    match c {
        ',' | ':' => "\u{2009}",
        ';' | ' ' | '>' | '\n' | '~' => " ",
        '$' => "$",
        '%' => "%",
        '#' => "#",
        '&' => "&",
        '_' => "_",
        '|' => "|",
        '{' => "\u{e005}",
        '}' => "\u{e006}",
        '\\' => "\u{e004}",
        _ => "",
    }
}

/// The text that a command without arguments shows; `None` for one that is not known.
fn word(name: &str) -> Option<&'static str> {
    Some(match name {
        "left" | "right" | "big" | "Big" | "bigl" | "bigr" | "Bigl" | "Bigr" | "bigg" | "Bigg"
        | "biggl" | "biggr" | "displaystyle" | "textstyle" | "limits" | "nolimits" | "rm"
        | "bf" | "it" => "",
        "quad" | "qquad" | "enspace" | "thinspace" | "space" | "newline" => " ",
        "times" => "×",
        "cdot" | "ast" | "bullet" => "·",
        "div" => "÷",
        "pm" => "±",
        "mp" => "∓",
        "pi" => "π",
        "infty" => "∞",
        "circ" | "degree" | "degrees" => "°",
        "le" | "leq" | "leqslant" => "≤",
        "ge" | "geq" | "geqslant" => "≥",
        "lt" => "<",
        "gt" => ">",
        "ne" | "neq" => "≠",
        "approx" | "simeq" | "sim" => "≈",
        "equiv" => "≡",
        "cup" => "∪",
        "cap" => "∩",
        "in" => "∈",
        "colon" => ":",
        "emptyset" | "varnothing" => "∅",
        "ldots" | "dots" | "cdots" => "…",
        "lbrace" => "\u{e005}",
        "rbrace" => "\u{e006}",
        "lbrack" => "[",
        "rbrack" => "]",
        "langle" => "⟨",
        "rangle" => "⟩",
        "lvert" | "rvert" | "vert" | "mid" => "|",
        "lfloor" => "⌊",
        "rfloor" => "⌋",
        "lceil" => "⌈",
        "rceil" => "⌉",
        "prime" => "′",
        "angle" => "∠",
        "triangle" => "△",
        "to" | "rightarrow" | "implies" | "Rightarrow" => "→",
        "alpha" => "α",
        "beta" => "β",
        "gamma" => "γ",
        "delta" => "δ",
        "theta" => "θ",
        "lambda" => "λ",
        "mu" => "µ",
        "omega" => "ω",
        "phi" | "varphi" => "φ",
        "sigma" => "σ",
        "rho" => "ρ",
        "tau" => "τ",
        "pounds" => "£",
        "euro" => "€",
        "yen" => "¥",
        "sin" => " sin ",
        "cos" => " cos ",
        "tan" => " tan ",
        "cot" => " cot ",
        "sec" => " sec ",
        "csc" => " csc ",
        "arcsin" => " arcsin ",
        "arccos" => " arccos ",
        "arctan" => " arctan ",
        "ln" => " ln ",
        "log" => " log ",
        "lg" => " lg ",
        "exp" => " exp ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typesetting_comes_off() {
        for (text, wanted) in [
            ("18", "18"),
            ("\\boxed{18}", "18"),
            ("so \\boxed{3} and then $\\boxed{\\text{(B)}}$.", "(B)"),
            ("\\boxed{\\boxed{4}}", "4"),
            ("$x+1$", "x+1"),
            ("$5 and $10", "$5 and $10"),
            ("$5-$10", "$5-$10"),
            ("it is $5$, not $6$", "it is 5, not 6"),
            ("\\$1{,}000", "$1,000"),
            ("10,\\!000", "10,000"),
            ("10\\,000", "10000"),
            ("3\\,m", "3 m"),
            ("18~km", "18 km"),
            ("~72", "~72"),
            ("50\\%", "50%"),
            ("90^\\circ", "90°"),
            ("90^{\\circ}", "90°"),
            ("\\left(3, -4\\right)", "(3, -4)"),
            ("6\\text{ inches}", "6 inches"),
            ("\\dfrac34", "\u{e000}{3}{4}"),
            ("\\frac{1}{\\sqrt{2}}", "\u{e000}{1}{√{2}}"),
            ("\\sqrt[3]{8}", "√[3]{8}"),
            ("\\{1,2\\}", "\u{e005}1,2\u{e006}"),
            ("3 \\times 10^{3}", "3 × 10^{3}"),
            ("**72**", "72"),
            ("The answer is **72**.", "The answer is 72."),
            ("`72`", "72"),
            ("**Answer:** 72", "Answer: 72"),
            ("2 ** 10", "2 ** 10"),
            ("2**10", "2**10"),
            ("\\foo{1}", "\\foo{1}"),
            ("\\frac{1}", "\\frac{1}"),
            ("\\", "\\"),
        ] {
            assert_eq!(plain(text).text, wanted, "{text}");
        }
    }

    #[test]
    fn hostile_nesting_is_left_alone() {
        let deep = "\\text{".repeat(10_000) + "1" + &"}".repeat(10_000);
        assert!(plain(&deep).text.contains('\\'));
        let boxes = "\\boxed{".repeat(5_000);
        let _ = plain(&boxes);
    }
}
