//! Questions that a run trains on and measures on, too.
//!
//! - **OV-1 (nothing is measured that was taught).** An evaluation question whose text or id training
//!   or the warm start has is found, whatever files the two come from.

use crate::config::{Config, OverlapPolicy};
use crate::questions::Sources;
use crate::usage::UsageError;
use proto::{Question, QuestionId};
use std::collections::HashMap;

/// The most questions that an error names.
const NAMED: usize = 3;

/// Questions that an evaluation set shares with those that are trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The set's name.
    pub set: String,
    /// Its questions.
    pub questions: usize,
    /// Its questions that are trained on, in the set's order.
    pub shared: Vec<Shared>,
}

/// One question on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Its id in the evaluation set.
    pub id: QuestionId,
    /// The source that has it, too.
    pub source: &'static str,
    /// Its id there.
    pub id_there: QuestionId,
    /// Whether the text is the same; else the id is, and the text is not.
    pub same_text: bool,
}

/// The overlaps that the configuration lets pass.
///
/// # Errors
/// Names the first set with questions that may not be on both sides, how many they are, and the
/// first of them.
pub fn check(config: &Config, sources: &Sources) -> Result<Vec<Overlap>, UsageError> {
    let found = overlaps(config, sources);
    let refused = |shared: &Shared| match config.evaluation.overlap {
        OverlapPolicy::Refuse => true,
        OverlapPolicy::SameIds => shared.same_text,
        OverlapPolicy::Allow => false,
    };
    match found.iter().find(|o| o.shared.iter().any(refused)) {
        Some(overlap) => Err(refusal(overlap, refused)),
        None => Ok(found),
    }
}

fn refusal(overlap: &Overlap, refused: impl Fn(&Shared) -> bool) -> UsageError {
    let shared: Vec<&Shared> = overlap.shared.iter().filter(|s| refused(s)).collect();
    let named: Vec<String> = shared.iter().take(NAMED).map(|s| s.words()).collect();
    let more = match shared.len() > NAMED {
        true => ", …",
        false => "",
    };
    let only_ids = match shared.iter().all(|shared| !shared.same_text) {
        true => {
            "; if these are other questions whose ids coincide, set evaluation.overlap = \
             \"same_ids\""
        }
        false => "",
    };
    UsageError::new(format!(
        "evaluation set {:?}: {} of {} questions are trained on, too: {}{more}. Take them out of \
         one of the two, or set evaluation.overlap = \"allow\", which the report repeats{only_ids}",
        overlap.set,
        shared.len(),
        overlap.questions,
        named.join(", "),
    ))
}

impl Shared {
    fn words(&self) -> String {
        let Self {
            id,
            source,
            id_there,
            same_text,
        } = self;
        match same_text {
            true if id == id_there => format!("`{id}` (in {source})"),
            true => format!("`{id}` (the text of `{id_there}` in {source})"),
            false => format!("`{id}` (the id of another text in {source})"),
        }
    }
}

/// Every set with a question that is trained on.
fn overlaps(config: &Config, sources: &Sources) -> Vec<Overlap> {
    let trains = config.train.is_some() || config.imitation.is_some();
    let taught = [
        ("warm_start.questions", &sources.warm_start[..]),
        (
            "questions",
            if trains { &sources.questions[..] } else { &[] },
        ),
    ];
    let mut by_text = HashMap::new();
    let mut by_id = HashMap::new();
    for (source, questions) in taught {
        for question in questions {
            let place = (source, &question.id);
            by_text.entry(normal(&question.question)).or_insert(place);
            by_id.entry(&question.id).or_insert(place);
        }
    }
    let shared = |question: &Question| {
        let text = by_text.get(&normal(&question.question));
        let &(source, id_there) = text.or_else(|| by_id.get(&question.id))?;
        Some(Shared {
            id: question.id.clone(),
            source,
            id_there: id_there.clone(),
            same_text: text.is_some(),
        })
    };
    let sets = config.evaluation.sets.iter().zip(&sources.sets);
    sets.map(|(set, questions)| Overlap {
        set: set.name.clone(),
        questions: questions.len(),
        shared: questions.iter().filter_map(shared).collect(),
    })
    .filter(|overlap| !overlap.shared.is_empty())
    .collect()
}

/// A text as it is compared: lower case, without punctuation and signs of formatting, one blank
/// between words. Signs that change a calculation stay.
fn normal(text: &str) -> String {
    let kept = |c: char| match c {
        c if c.is_alphanumeric() || "+-−*/×÷=<>%^".contains(c) => Some(c),
        c if c.is_whitespace() => Some(' '),
        _ => None,
    };
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut last = ' ';
    while let Some(c) = characters.next() {
        // A point or comma within a number is part of it: 1.5 is not 15.
        let within = matches!(c, '.' | ',')
            && last.is_ascii_digit()
            && characters.peek().is_some_and(char::is_ascii_digit);
        last = c;
        match (within, kept(c)) {
            (true, _) if c == ',' => {}
            (true, _) => out.push(c),
            (_, Some(c)) => out.extend(c.to_lowercase()),
            (_, None) => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    fn question(id: &str, text: &str) -> Question {
        Question {
            id: id.into(),
            dataset: "d".into(),
            split: "s".into(),
            question: text.into(),
            answer: "1".into(),
            answer_aliases: Vec::new(),
            reference_steps: Vec::new(),
        }
    }

    fn config(policy: &str, trains: bool) -> Config {
        let train = "[train]\nsteps = 1\nstates_per_step = 1\nactions_per_state = 1\n";
        let text = format!(
            "{}[evaluation]\noverlap = {policy:?}\n[[evaluation.sets]]\nname = \"held out\"\n\
             questions.path = \"e.jsonl\"\n[warm_start]\nsteps = 1\nbatch = 1\n\
             questions.path = \"w.jsonl\"\n",
            if trains { train } else { "" }
        );
        read(&text, &[]).unwrap().config
    }

    fn sources() -> Sources {
        Sources {
            questions: vec![
                question("t1", "A box holds 3 pens."),
                question("t2", "Two?"),
            ],
            warm_start: vec![question("w1", "Warm\n  question: one!")],
            sets: vec![vec![
                question("e1", "a BOX holds 3 pens"),
                question("e2", "A box holds 4 pens."),
                question("w1", "A text of its own."),
                question("e3", "warm question one"),
            ]],
        }
    }

    #[test]
    fn ov_1_questions_on_both_sides_are_refused_unless_they_are_allowed() {
        let refused = |policy, trains| check(&config(policy, trains), &sources());
        let error = refused("refuse", true).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "evaluation set \"held out\": 3 of 4 questions are trained on, too: `e1` (the text \
                 of `t1` in questions), `w1` (the id of another text in warm_start.questions), `e3` \
                 (the text of `w1` in warm_start.questions). Take"
            ),
            "{error}"
        );
        // Where nothing is trained on them, trajectories alone are no harm.
        let error = refused("same_ids", false).unwrap_err().to_string();
        assert!(error.contains("1 of 4 questions"), "{error}");
        let allowed = refused("allow", true).unwrap();
        assert_eq!((allowed.len(), allowed[0].shared.len()), (1, 3));
        let none = Sources {
            sets: vec![vec![question("e2", "A box holds 4 pens.")]],
            ..sources()
        };
        assert!(check(&config("refuse", true), &none).unwrap().is_empty());
        let only_ids = Sources {
            sets: vec![vec![question("t1", "Something else.")]],
            ..sources()
        };
        let error = check(&config("refuse", true), &only_ids)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("set evaluation.overlap = \"same_ids\""),
            "{error}"
        );
        assert!(check(&config("same_ids", true), &only_ids).is_ok());
    }

    #[test]
    fn texts_are_compared_without_what_does_not_change_them() {
        let cases = [
            ("What is 3 + 4?", "what is  3 + 4", true),
            ("It costs $1,250.", "It costs 1250", true),
            ("It costs $1.50", "It costs $150", false),
            ("3 - 4", "3 + 4", false),
            ("\u{201c}Tom\u{201d} has 2", "\"Tom\" has 2.", true),
            ("", "?", true),
        ];
        for (one, two, same) in cases {
            assert_eq!(normal(one) == normal(two), same, "{one:?} {two:?}");
        }
    }
}
