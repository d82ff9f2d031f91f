//! What scenes are made of. The scenes themselves are data: see `scenes_a` and `scenes_b`.

use super::form::Form;

/// One sentence. `{name}`, `{other}`, `{he}`, `{his}`, `{items}`, `{a}`, `{b}` and `{times}` are
/// filled in; `{price}` is `a` as a price.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) form: Form,
    pub(super) text: &'static str,
    /// What is worked out in each step, in the form's order.
    pub(super) thoughts: &'static [&'static str],
    /// For endings: the question they lead to.
    pub(super) question: &'static str,
}

/// A sentence within the story.
pub(super) const fn say(
    form: Form,
    text: &'static str,
    thoughts: &'static [&'static str],
) -> Piece {
    Piece {
        form,
        text,
        thoughts,
        question: "",
    }
}

/// A sentence that ends the story, with its question.
pub(super) const fn end(
    form: Form,
    text: &'static str,
    thoughts: &'static [&'static str],
    question: &'static str,
) -> Piece {
    Piece {
        form,
        text,
        thoughts,
        question,
    }
}

/// A setting with its sentences. One main amount runs through the story.
#[derive(Debug)]
pub(super) struct Scene {
    /// Plural nouns of which a story takes one.
    pub(super) items: &'static [&'static str],
    /// First sentences.
    pub(super) openings: &'static [Piece],
    /// What happens next; each at most once in a story.
    pub(super) events: &'static [Piece],
    /// Last sentences with a question of their own.
    pub(super) endings: &'static [Piece],
    /// The question where no ending is used.
    pub(super) question: &'static str,
}

/// Given names with their pronouns: subject, possessive.
pub(super) const NAMES: [(&str, &str, &str); 40] = [
    ("Ada", "she", "her"),
    ("Amir", "he", "his"),
    ("Anna", "she", "her"),
    ("Ben", "he", "his"),
    ("Carla", "she", "her"),
    ("Chen", "he", "his"),
    ("Clara", "she", "her"),
    ("Daniel", "he", "his"),
    ("Diego", "he", "his"),
    ("Elena", "she", "her"),
    ("Emma", "she", "her"),
    ("Farid", "he", "his"),
    ("Fiona", "she", "her"),
    ("Grace", "she", "her"),
    ("Hana", "she", "her"),
    ("Hugo", "he", "his"),
    ("Ivan", "he", "his"),
    ("Jack", "he", "his"),
    ("Julia", "she", "her"),
    ("Kofi", "he", "his"),
    ("Lena", "she", "her"),
    ("Leo", "he", "his"),
    ("Liam", "he", "his"),
    ("Lucy", "she", "her"),
    ("Marco", "he", "his"),
    ("Maria", "she", "her"),
    ("Mia", "she", "her"),
    ("Nadia", "she", "her"),
    ("Nina", "she", "her"),
    ("Omar", "he", "his"),
    ("Oscar", "he", "his"),
    ("Paul", "he", "his"),
    ("Priya", "she", "her"),
    ("Ravi", "he", "his"),
    ("Rosa", "she", "her"),
    ("Sam", "he", "his"),
    ("Sara", "she", "her"),
    ("Tom", "he", "his"),
    ("Yuki", "she", "her"),
    ("Zoe", "she", "her"),
];

/// Sentences with a number that nothing depends on; `{d}` is the number.
pub(super) const DISTRACTORS: [&str; 6] = [
    "{name} is {d} years old.",
    "The trip there takes {name} {d} minutes.",
    "It is {d} degrees outside.",
    "{name} lives at number {d} on {his} street.",
    "{other} is {d} years old.",
    "{name} wakes up {d} minutes earlier than usual.",
];
