//! What articles say: relations with their sentences, queries and questions.

/// A functional relation: each subject has exactly one object, and only its own article says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) name: &'static str,
    /// The sentence of the article; `{s}` and `{o}` are subject and object.
    pub(super) fact: &'static str,
    /// The object in other words, such as `the author of {s}`; empty where the object is a year,
    /// a number or a word, which has no article.
    pub(super) phrase: &'static str,
    /// The question for the object.
    pub(super) question: &'static str,
    /// What to search for.
    pub(super) query: &'static str,
}

macro_rules! relations {
    ($($id:ident: $name:literal, $fact:literal, $phrase:literal, $question:literal, $query:literal;)*) => {
        $(pub(super) const $id: Relation = Relation {
            name: $name, fact: $fact, phrase: $phrase, question: $question, query: $query,
        };)*
    };
}

relations! {
    TOWN_REGION: "region", "{s} is a town in {o}.", "the region in which {s} lies", "In which region does {s} lie?", "{s} region";
    TOWN_RIVER: "river", "{s} stands on the banks of the {o}.", "the river on which {s} stands", "On which river does {s} stand?", "{s} river";
    TOWN_YEAR: "town_founded", "{s} was founded in the year {o}.", "", "In which year was {s} founded?", "{s} founded year";
    TOWN_CRAFT: "craft", "{s} is known for its {o}.", "", "What is {s} known for?", "{s} known for";
    REGION_CAPITAL: "capital", "The capital of {s} is {o}.", "the capital of {s}", "What is the capital of {s}?", "{s} capital";
    REGION_FLOWER: "flower", "The emblem of {s} shows a {o}.", "", "What does the emblem of {s} show?", "{s} emblem";
    RIVER_LAKE: "flows_into", "The {s} flows into {o}.", "the lake into which {s} flows", "Into which lake does {s} flow?", "{s} flows into lake";
    RIVER_LENGTH: "length", "The {s} is {o} kilometers long.", "", "How many kilometers long is {s}?", "{s} length kilometers";
    LAKE_DEPTH: "depth", "{s} is {o} meters deep.", "", "How many meters deep is {s}?", "{s} depth meters";
    LAKE_FISH: "fish", "Anglers come to {s} for its {o}.", "", "For which fish do anglers come to {s}?", "{s} anglers fish";
    PERSON_TOWN: "birthplace", "{s} was born in {o}.", "the town where {s} was born", "In which town was {s} born?", "{s} born";
    PERSON_YEAR: "birth_year", "The year of birth of {s} is {o}.", "", "In which year was {s} born?", "{s} birth year";
    PERSON_TEACHER: "teacher", "{s} was a pupil of {o}.", "the teacher of {s}", "Who was the teacher of {s}?", "{s} pupil teacher";
    PERSON_INSTRUMENT: "instrument", "In the evenings {s} played the {o}.", "", "Which instrument did {s} play?", "{s} played instrument";
    BOOK_AUTHOR: "author", "{s} was written by {o}.", "the author of {s}", "Who wrote {s}?", "{s} author";
    BOOK_PUBLISHER: "publisher", "{s} was published by {o}.", "the publisher of {s}", "Which company published {s}?", "{s} publisher";
    BOOK_YEAR: "published", "The first edition of {s} is from {o}.", "", "From which year is the first edition of {s}?", "{s} first edition year";
    COMPANY_FOUNDER: "founder", "{s} was founded by {o}.", "the founder of {s}", "Who founded {s}?", "{s} founder";
    COMPANY_TOWN: "headquarters", "The headquarters of {s} are in {o}.", "the town with the headquarters of {s}", "In which town are the headquarters of {s}?", "{s} headquarters";
    COMPANY_YEAR: "company_founded", "{s} opened for business in {o}.", "", "In which year did {s} open for business?", "{s} opened year";
}

/// Fills a sentence's slots.
pub(super) fn fill(template: &str, subject: &str, object: &str) -> String {
    template.replace("{s}", subject).replace("{o}", object)
}
