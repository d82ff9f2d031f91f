//! The world itself: who was born where, what flows into what, and when.

use super::{
    Article, Fact,
    names::{self, NameKind},
    relation::{self as rel, Relation, fill},
};
use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};

const CRAFTS: [&str; 12] = [
    "glassblowing",
    "clockmaking",
    "cheese",
    "lace",
    "pottery",
    "shipbuilding",
    "bell casting",
    "honey",
    "paper",
    "carpets",
    "tin toys",
    "salt",
];
const EMBLEMS: [&str; 12] = [
    "heron",
    "white stag",
    "plum tree",
    "sunflower",
    "lynx",
    "beehive",
    "windmill",
    "falcon",
    "sturgeon",
    "wheat sheaf",
    "hedgehog",
    "black bull",
];
const FISH: [&str; 8] = [
    "pike", "trout", "perch", "carp", "char", "eel", "bream", "zander",
];
const INSTRUMENTS: [&str; 10] = [
    "cello",
    "flute",
    "harp",
    "clarinet",
    "accordion",
    "lute",
    "oboe",
    "zither",
    "mandolin",
    "organ",
];

/// One fact: what the subject's article says by one relation.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) subject: String,
    pub(super) relation: &'static Relation,
    pub(super) object: String,
}

impl Link {
    pub(super) fn sentence(&self) -> String {
        fill(self.relation.fact, &self.subject, &self.object)
    }
}

/// Every article's facts, in the order of the articles.
#[derive(Debug, Default)]
pub(super) struct World {
    titles: Vec<String>,
    links: HashMap<String, Vec<Link>>,
    /// Invented words in use.
    words: HashSet<String>,
}

/// A person as others need to know them.
struct Person {
    name: String,
    born: u32,
}

impl World {
    /// Draws a world with this many towns, at least 2.
    pub(super) fn new(towns: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut world = Self::default();
        let lakes = world.titled(NameKind::Lake, towns / 12 + 2, rng);
        let rivers = world.titled(NameKind::River, towns / 4 + 1, rng);
        let regions = world.titled(NameKind::Region, (towns / 8 + 1).min(towns), rng);
        let towns = world.titled(NameKind::Town, towns, rng);
        world.waters(&lakes, &rivers, rng);
        world.places(&regions, &towns, &rivers, rng);
        let people = world.people(2 * towns.len(), &towns, rng);
        let companies = world.companies(towns.len() / 2 + 1, &people, &towns, rng);
        world.books(2 * towns.len(), &people, &companies, rng);
        world
    }

    /// The facts of one article; none for what has no article.
    pub(super) fn links_of(&self, title: &str) -> &[Link] {
        self.links.get(title).map_or(&[], Vec::as_slice)
    }

    /// Every fact, article by article.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.titles.iter().flat_map(|title| self.links_of(title))
    }

    pub(super) fn articles(&self, seed: u64) -> Vec<Article> {
        let article = |(index, title): (usize, &String)| {
            let sentences: Vec<String> = self.links_of(title).iter().map(Link::sentence).collect();
            Article {
                id: format!("wikihop-{seed}-{index:05}"),
                title: title.clone(),
                text: sentences.join(" "),
            }
        };
        self.titles.iter().enumerate().map(article).collect()
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        self.links()
            .map(|link| Fact {
                subject: link.subject.clone(),
                relation: link.relation.name.to_owned(),
                object: link.object.clone(),
                sentence: link.sentence(),
            })
            .collect()
    }

    /// New titles whose invented words are in no other title.
    fn titled(&mut self, kind: NameKind, count: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
        let mut made = Vec::with_capacity(count);
        while made.len() < count {
            let name = names::draw(kind, rng);
            if self.words.insert(names::invented_word(&name).to_owned()) {
                self.titles.push(name.clone());
                made.push(name);
            }
        }
        made
    }

    fn link(&mut self, subject: &str, relation: &'static Relation, object: impl Into<String>) {
        let link = Link {
            subject: subject.to_owned(),
            relation,
            object: object.into(),
        };
        self.links
            .entry(link.subject.clone())
            .or_default()
            .push(link);
    }

    fn waters(&mut self, lakes: &[String], rivers: &[String], rng: &mut ChaCha8Rng) {
        for lake in lakes {
            self.link(
                lake,
                &rel::LAKE_DEPTH,
                rng.random_range(12..=480).to_string(),
            );
            self.link(lake, &rel::LAKE_FISH, pick(&FISH, rng));
        }
        for river in rivers {
            self.link(river, &rel::RIVER_LAKE, pick(lakes, rng));
            self.link(
                river,
                &rel::RIVER_LENGTH,
                rng.random_range(40..=990).to_string(),
            );
        }
    }

    /// The first towns are the regions' capitals; the rest lie anywhere.
    fn places(
        &mut self,
        regions: &[String],
        towns: &[String],
        rivers: &[String],
        rng: &mut ChaCha8Rng,
    ) {
        for (region, capital) in regions.iter().zip(towns) {
            self.link(region, &rel::REGION_CAPITAL, capital);
            self.link(region, &rel::REGION_FLOWER, pick(&EMBLEMS, rng));
        }
        for (index, town) in towns.iter().enumerate() {
            let region = regions
                .get(index)
                .cloned()
                .unwrap_or_else(|| pick(regions, rng));
            self.link(town, &rel::TOWN_REGION, region);
            self.link(town, &rel::TOWN_RIVER, pick(rivers, rng));
            self.link(
                town,
                &rel::TOWN_YEAR,
                rng.random_range(1010..=1690).to_string(),
            );
            self.link(town, &rel::TOWN_CRAFT, pick(&CRAFTS, rng));
        }
    }

    /// People from 1700 on; a teacher is at least 15 years older.
    fn people(&mut self, count: usize, towns: &[String], rng: &mut ChaCha8Rng) -> Vec<Person> {
        let names = self.titled(NameKind::Person, count, rng);
        let mut people: Vec<Person> = names
            .into_iter()
            .map(|name| Person {
                name,
                born: rng.random_range(1700..=1860),
            })
            .collect();
        people.sort_by_key(|person| person.born);
        for (index, person) in people.iter().enumerate() {
            self.link(&person.name, &rel::PERSON_TOWN, pick(towns, rng));
            self.link(&person.name, &rel::PERSON_YEAR, person.born.to_string());
            self.link(
                &person.name,
                &rel::PERSON_INSTRUMENT,
                pick(&INSTRUMENTS, rng),
            );
            let older: Vec<&Person> = people[..index]
                .iter()
                .filter(|p| (15..=45).contains(&(person.born - p.born)))
                .collect();
            if let Some(teacher) = older.choose(rng) {
                self.link(&person.name, &rel::PERSON_TEACHER, &teacher.name);
            }
        }
        people
    }

    /// Each opens within its founder's working life.
    fn companies(
        &mut self,
        count: usize,
        people: &[Person],
        towns: &[String],
        rng: &mut ChaCha8Rng,
    ) -> Vec<(String, u32)> {
        let names = self.titled(NameKind::Company, count, rng);
        let mut companies = Vec::with_capacity(count);
        for name in names {
            let founder = people.choose(rng).expect("a world has people");
            let opened = founder.born + rng.random_range(22..=50);
            self.link(&name, &rel::COMPANY_FOUNDER, &founder.name);
            self.link(&name, &rel::COMPANY_TOWN, pick(towns, rng));
            self.link(&name, &rel::COMPANY_YEAR, opened.to_string());
            companies.push((name, opened));
        }
        companies
    }

    /// A book whose author lived before any company opened has no publisher.
    fn books(
        &mut self,
        count: usize,
        people: &[Person],
        companies: &[(String, u32)],
        rng: &mut ChaCha8Rng,
    ) {
        for book in self.titled(NameKind::Book, count, rng) {
            let author = people.choose(rng).expect("a world has people");
            let published = author.born + rng.random_range(20..=55);
            self.link(&book, &rel::BOOK_AUTHOR, &author.name);
            self.link(&book, &rel::BOOK_YEAR, published.to_string());
            let open: Vec<&(String, u32)> = companies
                .iter()
                .filter(|(_, opened)| *opened <= published)
                .collect();
            if let Some((publisher, _)) = open.choose(rng) {
                self.link(&book, &rel::BOOK_PUBLISHER, publisher);
            }
        }
    }
}

fn pick<T: AsRef<str>>(words: &[T], rng: &mut ChaCha8Rng) -> String {
    words
        .choose(rng)
        .expect("the lists of words and titles are not empty")
        .as_ref()
        .to_owned()
}
