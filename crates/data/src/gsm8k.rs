//! GSM8K's annotated solutions (Cobbe et al. 2021, "Training Verifiers to Solve Math Word
//! Problems"): lines of text in which `<<48/2=24>>` marks a use of the calculator and its result,
//! and a last line `#### 72` with the answer.

use crate::{CALCULATOR, expression};
use proto::ReferenceStep;

/// The answer behind the last `####`, up to the end of its line: a decimal without thousands
/// separators, currency sign or final point, and everything else, `3 1/2` or `18 dollars`, as it is
/// written.
///
/// # Errors
/// Without a `####` line, or with nothing behind it.
pub fn final_answer(solution: &str) -> Result<String, String> {
    let (_, tail) = solution
        .rsplit_once("####")
        .ok_or("the solution has no `#### <number>` line")?;
    let line = tail.lines().find(|line| !line.trim().is_empty());
    let answer = expression::clean_number(line.unwrap_or_default());
    if answer.is_empty() {
        return Err("nothing stands behind `####`; expected the final number".to_owned());
    }
    Ok(answer)
}

/// The calculator steps of an annotated solution, in order; none where nothing is annotated.
///
/// The thought of a step is the sentence around its annotation with the result left out: `Natalia
/// sold 48/2 clips in May.` No thought gives a result away before the calculator does: what follows
/// the result is kept only where it holds no digit, and a sentence that names the result first
/// (`They have 30 because 12+18`) gives no thought.
///
/// # Errors
/// On an annotation that is not closed or has no `=`.
pub fn steps(solution: &str) -> Result<Vec<ReferenceStep>, String> {
    let body = solution
        .rsplit_once("####")
        .map_or(solution, |(body, _)| body);
    let mut steps = Vec::new();
    for line in body.lines() {
        line_steps(line, &mut steps)?;
    }
    Ok(steps)
}

fn line_steps(line: &str, steps: &mut Vec<ReferenceStep>) -> Result<(), String> {
    let mut rest = line;
    while let Some((before, tail)) = rest.split_once("<<") {
        let (annotation, after) = tail
            .split_once(">>")
            .ok_or_else(|| format!("annotation `<<{}` is not closed by `>>`", short(tail)))?;
        let (call, result) = annotation
            .rsplit_once('=')
            .ok_or_else(|| format!("annotation `<<{}>>` has no `=`", short(annotation)))?;
        rest = without_result(after);
        let tail = if rest.contains("<<") { "" } else { rest };
        let (arguments, result) = (expression::clean(call), expression::clean_number(result));
        steps.push(ReferenceStep {
            thought: thought(before, &arguments, &result, tail),
            tool: CALCULATOR.to_owned(),
            arguments,
            result,
        });
    }
    Ok(())
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Behind an annotation its result is written out once more: `<<48/2=24>>24 clips`.
fn without_result(after: &str) -> &str {
    let number = after.trim_start_matches([' ', '$']);
    let rest = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == ',');
    let decimals = rest
        .strip_prefix('.')
        .filter(|tail| tail.starts_with(|c: char| c.is_ascii_digit()));
    match decimals {
        Some(tail) => tail.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    }
}

/// `before` and `after` are what stands around the annotation; either may be empty.
fn thought(before: &str, call: &str, result: &str, after: &str) -> String {
    let lead = before.trim_start_matches(|c: char| ".,;:)!%".contains(c) || c.is_whitespace());
    let unpaid = lead.trim_end_matches(|c: char| "$€£".contains(c) || c.is_whitespace());
    let (lead, written_out) = match unpaid.strip_suffix('=') {
        Some(lead) => (lead.trim_end(), true),
        None => (unpaid, false),
    };
    if lead.contains('=') || gives_away(lead, call, result) {
        return String::new();
    }
    let after = if after.contains(|c: char| c.is_ascii_digit() || c == '=') {
        ""
    } else {
        after
    };
    let joined = match (
        written_out,
        lead.ends_with(|c: char| c.is_ascii_digit() || ")%".contains(c)),
    ) {
        (true, true) => format!("{lead}{after}"),
        // The unit stands behind the last operand already.
        (true, false) => lead.to_owned(),
        (false, _) => format!("{lead} {call}{after}"),
    };
    if !joined.contains(char::is_alphabetic) {
        return String::new();
    }
    close_sentence(&joined.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether the words name the result, other than as an operand.
fn gives_away(lead: &str, call: &str, result: &str) -> bool {
    let names_it = |text: &str| {
        text.split(|c: char| !(c.is_ascii_digit() || ".,".contains(c)))
            .map(|word| expression::clean_number(word.trim_end_matches(',')))
            .any(|word| !word.is_empty() && word == expression::clean_number(result))
    };
    names_it(lead) && !names_it(call)
}

fn close_sentence(text: &str) -> String {
    let text = text.trim_end_matches([',', ';', ':', ' ', '-']);
    if text.ends_with(['.', '!', '?']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lose_separators_and_signs() {
        for (solution, answer) in [
            ("a\n#### 72", "72"),
            ("a\n#### 1,234,567", "1234567"),
            ("a\n#### $10.50 ", "10.50"),
            ("#### -5", "-5"),
            ("x #### 3 y\n#### 4.", "4"),
            ("He cuts it. #### 3 1/2", "3 1/2"),
            ("#### 18 dollars", "18 dollars"),
            ("#### $1.50 per hour", "$1.50 per hour"),
            ("#### - 5", "-5"),
            ("#### 1/2", "1/2"),
            ("#### 50%", "50%"),
            ("#### 7:30", "7:30"),
            ("#### 2 hours 30 minutes.", "2 hours 30 minutes"),
            ("#### 72\n\nThat is all, 3 times.", "72"),
            ("####\n72", "72"),
            ("#### New York", "New York"),
        ] {
            assert_eq!(final_answer(solution).as_deref(), Ok(answer), "{solution}");
        }
        assert!(final_answer("no marker").is_err());
        assert!(final_answer("a\n####  ").is_err());
    }

    #[test]
    fn annotations_become_steps() {
        type Expected<'a> = &'a [(&'a str, &'a str, &'a str)];
        let cases: &[(&str, Expected)] = &[
            (
                "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 24",
                &[("Natalia sold 48/2 clips in May.", "48/2", "24")],
            ),
            (
                "She earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10",
                &[("She earned 0.2 x 50.", "0.2*50", "10")],
            ),
            (
                "First 2*3=<<2*3=6>>6, then 6+1=<<6+1=7>>7 in all, 7 that is.\n#### 7",
                &[("First 2*3.", "2*3", "6"), ("then 6+1.", "6+1", "7")],
            ),
            ("<<1,000*.5=500>>500", &[("", "1000*0.5", "500")]),
            (
                "They have 30, since 12+18=<<12+18=30>>30.",
                &[("", "12+18", "30")],
            ),
            (
                "It is .4 for 12/30=<<12/30=.4>>.4.",
                &[("", "12/30", "0.4")],
            ),
            (
                "He has 2 bags, 2/1=<<2/1=2>>2.",
                &[("He has 2 bags, 2/1.", "2/1", "2")],
            ),
            (
                "20 nails - 6 nails = <<20-6=14>>14 nails",
                &[("20 nails - 6 nails.", "20-6", "14")],
            ),
            (
                "The total is <<3+4=7>>7 apples",
                &[("The total is 3+4 apples.", "3+4", "7")],
            ),
            ("So 2*3 = 3*2 = <<2*3=6>>6 apples.", &[("", "2*3", "6")]),
            ("Nothing annotated: 2+2=4\n#### 4", &[]),
        ];
        for (solution, expected) in cases {
            let found = steps(solution).unwrap();
            let found: Vec<_> = found
                .iter()
                .map(|s| (s.thought.as_str(), s.arguments.as_str(), s.result.as_str()))
                .collect();
            assert_eq!(&found, expected, "{solution}");
        }
    }

    #[test]
    fn broken_annotations_are_errors() {
        assert!(steps("a <<1+1=2").unwrap_err().contains("not closed"));
        assert!(steps("a <<1+1>>2").unwrap_err().contains("no `=`"));
    }
}
