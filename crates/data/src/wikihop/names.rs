//! Invented names. No title is part of another, so that no answer hides within a longer name.

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

const ONSETS: [&str; 24] = [
    "Bal", "Bren", "Cor", "Dal", "Dren", "Elv", "Fen", "Gar", "Hal", "Isk", "Jor", "Kel", "Lor",
    "Mar", "Nor", "Orv", "Pel", "Quil", "Ros", "Sel", "Tar", "Ulm", "Vor", "Zan",
];
const MIDDLES: [&str; 16] = [
    "a", "e", "i", "o", "u", "an", "el", "in", "or", "ur", "ath", "eth", "imm", "ov", "ust", "ald",
];
const TOWN_ENDS: [&str; 8] = [
    "wick", "ford", "stead", "mouth", "gate", "haven", "burg", "minster",
];
const PERSON_ENDS: [&str; 8] = [
    "sen", "ley", "mann", "ver", "dottir", "quist", "rell", "ska",
];
const REGION_ENDS: [&str; 5] = ["mark", "shire", "land", "reach", "vale"];
const WATER_ENDS: [&str; 6] = ["sa", "na", "ra", "lo", "dra", "thel"];
const FIRST_NAMES: [&str; 32] = [
    "Alda", "Bero", "Cilla", "Dorin", "Edda", "Falk", "Gisla", "Harm", "Ilse", "Joren", "Katla",
    "Ludo", "Mirra", "Niels", "Odile", "Perrin", "Runa", "Sorin", "Tilda", "Ulric", "Vesna", "Wim",
    "Yrsa", "Zeno", "Anselm", "Brida", "Corvin", "Delia", "Emeric", "Frida", "Gorm", "Hedda",
];
const BOOK_ADJECTIVES: [&str; 28] = [
    "Amber",
    "Broken",
    "Crimson",
    "Distant",
    "Empty",
    "Frozen",
    "Golden",
    "Hidden",
    "Iron",
    "Jade",
    "Last",
    "Marble",
    "Narrow",
    "Old",
    "Pale",
    "Quiet",
    "Red",
    "Silver",
    "Thirsty",
    "Unseen",
    "Velvet",
    "Wandering",
    "Young",
    "Blind",
    "Copper",
    "Drowned",
    "Endless",
    "Foreign",
];
const BOOK_NOUNS: [&str; 28] = [
    "Anchor", "Bridge", "Candle", "Door", "Engine", "Feather", "Gate", "Harvest", "Island",
    "Journey", "Key", "Lantern", "Mirror", "Night", "Orchard", "Painter", "Queen", "River",
    "Season", "Tower", "Umbrella", "Voyage", "Winter", "Garden", "Clock", "Letter", "Shadow",
    "Violin",
];
const COMPANY_ENDS: [&str; 7] = [
    "Works",
    "Brothers",
    "Press",
    "Mills",
    "Trading",
    "Foundry",
    "Instruments",
];

/// What a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    Town,
    Region,
    River,
    Lake,
    Person,
    Book,
    Company,
}

fn stem(ends: &[&str], rng: &mut ChaCha8Rng) -> String {
    let pick = |words: &[&str], rng: &mut ChaCha8Rng| {
        (*words.choose(rng).expect("the word lists are not empty")).to_owned()
    };
    pick(&ONSETS, rng) + &pick(&MIDDLES, rng) + &pick(ends, rng)
}

/// Draws a name; whether it is free is for the caller to check.
pub(super) fn draw(kind: NameKind, rng: &mut ChaCha8Rng) -> String {
    match kind {
        NameKind::Town => stem(&TOWN_ENDS, rng),
        NameKind::Region => stem(&REGION_ENDS, rng),
        NameKind::River => format!("River {}", stem(&WATER_ENDS, rng)),
        NameKind::Lake => format!("Lake {}", stem(&WATER_ENDS, rng)),
        NameKind::Person => {
            let first = FIRST_NAMES[rng.random_range(0..FIRST_NAMES.len())];
            format!("{first} {}", stem(&PERSON_ENDS, rng))
        }
        NameKind::Book => {
            let adjective = BOOK_ADJECTIVES[rng.random_range(0..BOOK_ADJECTIVES.len())];
            let noun = BOOK_NOUNS[rng.random_range(0..BOOK_NOUNS.len())];
            format!("The {adjective} {noun} of {}", stem(&PERSON_ENDS, rng))
        }
        NameKind::Company => {
            let end = COMPANY_ENDS[rng.random_range(0..COMPANY_ENDS.len())];
            format!("{} {end}", stem(&PERSON_ENDS, rng))
        }
    }
}

/// The invented word of a name: what must be unique in a world.
pub(super) fn invented_word(name: &str) -> &str {
    let words = || name.split(' ');
    match words().next_back() {
        Some(end) if COMPANY_ENDS.contains(&end) => words().next().unwrap_or(name),
        Some(last) => last,
        None => name,
    }
}
