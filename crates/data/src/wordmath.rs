//! Multi-step arithmetic word problems with their solution programs: no file, any size, seeded.
//!
//! - **WM-1 (one right answer).** Each sentence changes one running amount in one stated way; every
//!   amount is positive, within `max_value` and exact (whole numbers, or cents where `decimals` is
//!   set).
//! - **WM-2 (no problem twice).** No two questions of a data set differ only in names and items, and
//!   neither do questions of different splits (DA-3).
//!
//! Not promised: that two seeds of one split share no question.

mod form;
mod scene;
mod scenes_a;
mod scenes_b;

use crate::{CALCULATOR, GenerateError, Split, split::content_hash};
use form::{Amount, Drawn, Range};
use proto::{Question, QuestionId, ReferenceStep};
use rand::{Rng, SeedableRng, seq::IndexedRandom, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use scene::{DISTRACTORS, NAMES, Piece, Scene};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, sync::LazyLock};

/// The most steps of a problem.
pub const MAX_STEPS: usize = 6;
/// The least `max_value` that leaves every scene some room.
pub const LEAST_MAX_VALUE: u32 = 30;
/// The most distractors in a problem.
pub const MAX_DISTRACTORS: usize = 3;
/// So many tries in a row without a new problem, and the settings are taken to be exhausted.
const MAX_IDLE_TRIES: usize = 10_000;
/// So many tries for one number of steps, and another is drawn.
const TRIES_PER_LENGTH: usize = 1_000;

/// Settings of the generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordMathConfig {
    /// How many questions; at least 1.
    pub count: usize,
    /// Decides every draw.
    pub seed: u64,
    /// The fewest calculator steps, at least 1.
    pub min_steps: usize,
    /// The most calculator steps, at most [`MAX_STEPS`]; numbers of steps are equally likely
    /// while they last.
    pub max_steps: usize,
    /// No amount in a problem is larger; at least [`LEAST_MAX_VALUE`].
    pub max_value: u32,
    /// Whether prices may have cents.
    pub decimals: bool,
    /// How many sentences carry a number that nothing depends on; at most [`MAX_DISTRACTORS`].
    pub distractors: usize,
    /// The part to take questions from.
    pub split: Split,
}

impl Default for WordMathConfig {
    fn default() -> Self {
        Self {
            count: 1000,
            seed: 0,
            min_steps: 1,
            max_steps: 4,
            max_value: 500,
            decimals: false,
            distractors: 0,
            split: Split::Train,
        }
    }
}

impl WordMathConfig {
    fn check(&self) -> Result<(), GenerateError> {
        let problem = if self.count == 0 {
            "count is 0; ask for at least 1 question".to_owned()
        } else if self.min_steps == 0
            || self.max_steps > MAX_STEPS
            || self.min_steps > self.max_steps
        {
            format!(
                "steps from {} to {}; set 1 <= min_steps <= max_steps <= {MAX_STEPS}",
                self.min_steps, self.max_steps
            )
        } else if self.max_value < LEAST_MAX_VALUE {
            format!(
                "max_value is {}; set at least {LEAST_MAX_VALUE}",
                self.max_value
            )
        } else if self.distractors > MAX_DISTRACTORS {
            format!(
                "distractors is {}; set at most {MAX_DISTRACTORS}",
                self.distractors
            )
        } else {
            return Ok(());
        };
        Err(GenerateError::Config {
            generator: "wordmath",
            problem,
        })
    }
}

/// Makes word problems, the same ones for the same configuration on every platform.
///
/// Ids are `wordmath-` and 16 hexadecimal digits of the text's hash, so that a problem has the same
/// id wherever it comes up.
///
/// # Errors
/// When a setting is out of range, or fewer distinct problems than `count` fit the settings.
pub fn wordmath(config: &WordMathConfig) -> Result<Vec<Question>, GenerateError> {
    config.check()?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut questions = Vec::with_capacity(config.count.min(1 << 20));
    let mut seen = HashSet::new();
    let mut idle_tries = 0;
    let mut steps = rng.random_range(config.min_steps..=config.max_steps);
    while questions.len() < config.count {
        if idle_tries == MAX_IDLE_TRIES {
            let (made, asked) = (questions.len(), config.count);
            let remedy = "raise max_value or max_steps, or lower count";
            return Err(GenerateError::TooFew {
                generator: "wordmath",
                made,
                asked,
                remedy,
            });
        }
        idle_tries += 1;
        // Kept until a problem comes of it, as long ones fail more often and would become rare.
        if idle_tries % TRIES_PER_LENGTH == 0 {
            steps = rng.random_range(config.min_steps..=config.max_steps);
        }
        let Some(question) = problem(config, steps, &mut rng) else {
            continue;
        };
        let skeleton = skeleton(&question.question);
        if Split::of(&skeleton) == config.split && seen.insert(skeleton) {
            questions.push(question);
            idle_tries = 0;
            steps = rng.random_range(config.min_steps..=config.max_steps);
        }
    }
    Ok(questions)
}

/// A problem's text without its names, pronouns and items: what decides its split (WM-2).
pub fn skeleton(text: &str) -> String {
    let words = text
        .split(|c: char| !(c.is_alphanumeric() || c == '.'))
        .map(|word| {
            let word = word.trim_end_matches('.');
            let lower = word.to_lowercase();
            match lower.as_str() {
                "he" | "she" => "P".to_owned(),
                "his" | "her" => "S".to_owned(),
                _ if ITEMS.contains(lower.as_str()) => "I".to_owned(),
                _ if NAMES.iter().any(|(name, _, _)| *name == word) => "N".to_owned(),
                _ => lower,
            }
        });
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

static ITEMS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| scenes().flat_map(|scene| scene.items).copied().collect());

fn scenes() -> impl Iterator<Item = &'static Scene> {
    scenes_a::SCENES.into_iter().chain(scenes_b::SCENES)
}

/// One story of exactly `steps` steps; `None` where the draws leave no room.
fn problem(config: &WordMathConfig, steps: usize, rng: &mut ChaCha8Rng) -> Option<Question> {
    let all: Vec<&Scene> = scenes().collect();
    let scene = *all.choose(rng)?;
    let mut story = Story::new(scene, rng)?;
    let plot = plot(scene, steps, rng)?;
    let range = Range {
        max: i64::from(config.max_value),
        decimals: config.decimals,
    };
    story.tell(&plot, range, rng)?;
    for _ in 0..config.distractors {
        story.distract(rng)?;
    }
    Some(story.finish(config.split))
}

/// Which sentences, in order.
struct Plot {
    opening: &'static Piece,
    events: Vec<&'static Piece>,
    ending: Option<&'static Piece>,
}

/// Draws sentences whose steps add up to exactly `steps`.
fn plot(scene: &'static Scene, steps: usize, rng: &mut ChaCha8Rng) -> Option<Plot> {
    let opening = scene.openings.choose(rng)?;
    let ending = if rng.random_bool(0.6) {
        scene.endings.choose(rng)
    } else {
        None
    };
    let told = opening.form.steps() + ending.map_or(0, |piece| piece.form.steps());
    let mut left = steps.checked_sub(told)?;
    let mut events: Vec<&'static Piece> = scene.events.iter().collect();
    events.shuffle(rng);
    events.retain(|piece| {
        let fits = piece.form.steps() <= left;
        if fits {
            left -= piece.form.steps();
        }
        fits
    });
    (left == 0).then_some(Plot {
        opening,
        events,
        ending,
    })
}

struct Story {
    name: (&'static str, &'static str, &'static str),
    other: &'static str,
    items: &'static str,
    sentences: Vec<String>,
    question: &'static str,
    steps: Vec<ReferenceStep>,
    value: Amount,
}

impl Story {
    fn new(scene: &'static Scene, rng: &mut ChaCha8Rng) -> Option<Self> {
        let mut people = NAMES.choose_multiple(rng, 2);
        let (name, other) = (people.next()?, people.next()?);
        Some(Self {
            name: *name,
            other: other.0,
            items: scene.items.choose(rng)?,
            sentences: Vec::new(),
            question: scene.question,
            steps: Vec::new(),
            value: Amount::whole(1),
        })
    }

    fn tell(&mut self, plot: &Plot, range: Range, rng: &mut ChaCha8Rng) -> Option<()> {
        let opening = self.apply(plot.opening, range, rng)?;
        self.sentences.push(opening);
        for (index, event) in plot.events.iter().enumerate() {
            let text = self.apply(event, range, rng)?;
            let lead = if index == 0 {
                ["", "Then ", "Later, "]
            } else {
                ["Then ", "After that, ", "Next, "]
            };
            let lead = lead.choose(rng)?;
            self.sentences.push(capitalised(&format!("{lead}{text}.")));
        }
        if let Some(ending) = plot.ending {
            let text = self.apply(ending, range, rng)?;
            self.sentences.push(text);
            self.question = ending.question;
        }
        Some(())
    }

    fn apply(&mut self, piece: &Piece, range: Range, rng: &mut ChaCha8Rng) -> Option<String> {
        let drawn = piece.form.draw(self.value, range, rng)?;
        for ((call, result), thought) in drawn.steps.iter().zip(piece.thoughts) {
            self.steps.push(ReferenceStep {
                thought: self.fill(thought),
                tool: CALCULATOR.to_owned(),
                arguments: call.clone(),
                result: result.to_string(),
            });
        }
        self.value = drawn.value;
        Some(with_numbers(&self.fill(piece.text), &drawn))
    }

    fn fill(&self, template: &str) -> String {
        let (name, he, his) = self.name;
        [
            ("{name}", name),
            ("{other}", self.other),
            ("{he}", he),
            ("{his}", his),
        ]
        .into_iter()
        .fold(
            template.replace("{items}", self.items),
            |text, (slot, word)| text.replace(slot, word),
        )
    }

    /// Puts a sentence with a needless number behind one of the first two.
    fn distract(&mut self, rng: &mut ChaCha8Rng) -> Option<()> {
        let unused: Vec<String> = DISTRACTORS
            .iter()
            .map(|template| self.fill(template))
            .filter(|text| {
                let start = text.split("{d}").next().unwrap_or_default();
                !self
                    .sentences
                    .iter()
                    .any(|sentence| sentence.starts_with(start))
            })
            .collect();
        let number = rng.random_range(7..=49).to_string();
        let sentence = unused.choose(rng)?.replace("{d}", &number);
        let place = rng.random_range(1..=self.sentences.len().min(2));
        self.sentences.insert(place, sentence);
        Some(())
    }

    fn finish(self, split: Split) -> Question {
        let text = format!("{} {}", self.sentences.join(" "), self.fill(self.question));
        Question {
            id: QuestionId(format!("wordmath-{}", content_hash(&text))),
            dataset: "wordmath".to_owned(),
            split: split.name().to_owned(),
            question: text,
            answer: self.value.to_string(),
            answer_aliases: Vec::new(),
            reference_steps: self.steps,
        }
    }
}

fn with_numbers(text: &str, drawn: &Drawn) -> String {
    let b = drawn.b.to_string();
    let times = match b.as_str() {
        "2" => "twice",
        "3" => "three times",
        _ => "four times",
    };
    text.replace("{a}", &drawn.a.to_string())
        .replace("{b}", &b)
        .replace("{price}", &drawn.a.price())
        .replace("{times}", times)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
