//! An invented world: articles, and questions of 2 to 4 hops that only the articles answer.
//!
//! - **WH-1 (one place per fact).** A relation gives each subject exactly one object, and only the
//!   subject's article states it: articles cannot contradict each other. Dates keep their order
//!   (teachers before pupils, founders before companies, publishers before books), and a region's
//!   capital lies in that region.
//! - **WH-2 (hop by hop).** A question names the first article's title only; each hop's article
//!   names the next, the last one has the answer, and the question has it nowhere.

mod names;
mod relation;
mod world;

use crate::{GenerateError, SEARCH, Split, split::content_hash};
use proto::{Question, QuestionId, ReferenceStep};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use relation::fill;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use world::{Link, World};

/// The fewest hops of a question.
pub const MIN_HOPS: usize = 2;
/// The most hops of a question.
pub const MAX_HOPS: usize = 4;
/// The most towns: the supply of invented names is finite.
pub const MAX_TOWNS: usize = 300;

/// Settings of the generator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WikiHopConfig {
    /// Decides the world and the draw of questions. The same seed and number of towns give the same
    /// articles, whatever the split.
    pub seed: u64,
    /// How many towns, from 4 to [`MAX_TOWNS`]; the world has about six articles for each.
    pub towns: usize,
    /// How many questions; at least 1.
    pub count: usize,
    /// The fewest hops, at least [`MIN_HOPS`].
    pub min_hops: usize,
    /// The most hops, at most [`MAX_HOPS`]; numbers of hops are equally frequent while they last.
    pub max_hops: usize,
    /// The part to take questions from.
    pub split: Split,
}

impl Default for WikiHopConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            towns: 60,
            count: 500,
            min_hops: 2,
            max_hops: 4,
            split: Split::Train,
        }
    }
}

impl WikiHopConfig {
    fn check(&self) -> Result<(), GenerateError> {
        let problem = if self.count == 0 {
            "count is 0; ask for at least 1 question".to_owned()
        } else if !(4..=MAX_TOWNS).contains(&self.towns) {
            format!("towns is {}; set 4 to {MAX_TOWNS}", self.towns)
        } else if self.min_hops < MIN_HOPS
            || self.max_hops > MAX_HOPS
            || self.min_hops > self.max_hops
        {
            format!(
                "hops from {} to {}; set {MIN_HOPS} <= min_hops <= max_hops <= {MAX_HOPS}",
                self.min_hops, self.max_hops
            )
        } else {
            return Ok(());
        };
        Err(GenerateError::Config {
            generator: "wikihop",
            problem,
        })
    }
}

/// One article of the invented world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Article {
    /// Unique, such as `wikihop-0-00012`.
    pub id: String,
    /// Unique, and not part of any other title.
    pub title: String,
    /// A few sentences, each stating one fact in full.
    pub text: String,
}

/// One fact that an article states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The title of the article that states it.
    pub subject: String,
    /// The relation's name, such as `birthplace`.
    pub relation: String,
    /// Another article's title, or a year, number or word.
    pub object: String,
    /// The sentence as it stands in the article.
    pub sentence: String,
}

/// Articles and questions over them.
#[derive(Debug, Clone, PartialEq)]
pub struct WikiHopWorld {
    /// The corpus to search.
    pub articles: Vec<Article>,
    /// Every fact of every article.
    pub facts: Vec<Fact>,
    /// The questions. Each reference step is one `search`: the query as arguments, and
    /// `<title>: <sentence>` as result.
    pub questions: Vec<Question>,
}

/// Makes a world and questions over it, the same for the same configuration on every platform.
///
/// # Errors
/// When a setting is out of range, or the world has fewer distinct questions than `count`.
pub fn wikihop(config: &WikiHopConfig) -> Result<WikiHopWorld, GenerateError> {
    config.check()?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let world = World::new(config.towns, &mut rng);
    let questions = questions(&world, config, &mut rng)?;
    Ok(WikiHopWorld {
        articles: world.articles(config.seed),
        facts: world.facts(),
        questions,
    })
}

/// Chains of every allowed length, drawn in turn so that lengths are equally frequent.
fn questions(
    world: &World,
    config: &WikiHopConfig,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Question>, GenerateError> {
    let mut by_hops: Vec<Vec<Vec<&Link>>> = (config.min_hops..=config.max_hops)
        .map(|hops| {
            let mut chains = chains(world, hops);
            chains.shuffle(rng);
            chains
        })
        .collect();
    let mut questions = Vec::with_capacity(config.count.min(1 << 20));
    let mut texts = HashSet::new();
    while questions.len() < config.count && by_hops.iter().any(|chains| !chains.is_empty()) {
        for chains in &mut by_hops {
            // Of this length, the next chain that makes a question of this split.
            while let Some(chain) = chains.pop() {
                let Some(question) = question(&chain, config) else {
                    continue;
                };
                if questions.len() < config.count && texts.insert(question.question.clone()) {
                    questions.push(question);
                    break;
                }
            }
        }
    }
    if questions.len() < config.count {
        let (made, asked) = (questions.len(), config.count);
        let remedy = "raise towns or the range of hops, or lower count";
        return Err(GenerateError::TooFew {
            generator: "wikihop",
            made,
            asked,
            remedy,
        });
    }
    Ok(questions)
}

/// Every path of `hops` links that visits no article twice.
fn chains(world: &World, hops: usize) -> Vec<Vec<&Link>> {
    let mut paths: Vec<Vec<&Link>> = world.links().map(|link| vec![link]).collect();
    for _ in 1..hops {
        paths = paths
            .into_iter()
            .filter(|path| {
                path.last()
                    .is_some_and(|link| !link.relation.phrase.is_empty())
            })
            .flat_map(|path| {
                let next = path.last().map_or("", |link| link.object.as_str());
                let seen = path.iter().any(|link| link.subject == next);
                let links = if seen { &[] } else { world.links_of(next) };
                links
                    .iter()
                    .map(move |link| [path.as_slice(), &[link]].concat())
            })
            .collect();
    }
    paths
}

/// `None` where the chain's text belongs to another split or gives its answer away, or the chain
/// comes back to an article it passed (WH-2).
fn question(chain: &[&Link], config: &WikiHopConfig) -> Option<Question> {
    let (first, last) = (chain.first()?, chain.last()?);
    let described = chain[..chain.len() - 1]
        .iter()
        .fold(first.subject.clone(), |inner, link| {
            fill(link.relation.phrase, &inner, "")
        });
    let text = fill(last.relation.question, &described, "");
    let gives_away = text.to_lowercase().contains(&last.object.to_lowercase());
    let returns = chain.iter().any(|link| link.subject == last.object);
    if Split::of(&text) != config.split || gives_away || returns {
        return None;
    }
    Some(Question {
        id: QuestionId(format!("wikihop-{}-{}", config.seed, content_hash(&text))),
        dataset: "wikihop".to_owned(),
        split: config.split.name().to_owned(),
        question: text,
        answer: last.object.clone(),
        answer_aliases: Vec::new(),
        reference_steps: chain.iter().map(|link| step(link)).collect(),
    })
}

fn step(link: &Link) -> ReferenceStep {
    let asked = fill(link.relation.question, &link.subject, "");
    ReferenceStep {
        thought: format!("Find out: {asked}"),
        tool: SEARCH.to_owned(),
        arguments: fill(link.relation.query, &link.subject, ""),
        result: format!("{}: {}", link.subject, link.sentence()),
    }
}
