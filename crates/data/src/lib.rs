//! Questions come in here: loaders for files, generators that need no file, the choice of rows, and
//! supervised dialogues from annotated solutions.
//!
//! - **DA-1 (no silent loss).** A row that cannot be read is an error that names file and line; a
//!   solution that gives no dialogue is counted with its reason.
//! - **DA-2 (same seed, same rows).** Generators and shuffles depend on their configuration only, on
//!   every platform.
//! - **DA-3 (splits are disjoint).** The generators decide a question's split from its text, so that
//!   no text is ever in two splits, whatever the seeds.
//!
//! Knows nothing about tensors, actors or async runtimes.

pub mod dialogue;
pub mod expression;
pub mod gsm8k;
pub mod load;
mod rows;
pub mod select;
pub mod split;
pub mod wikihop;
pub mod wordmath;

pub use dialogue::{
    DialogueOptions, Dialogues, SkipReason, Turn, dialogue, dialogue_with, dialogues,
};
pub use load::{DataError, Rows, load, rows};
pub use select::{SelectError, Selection, select};
pub use split::Split;
pub use wikihop::{Article, WikiHopConfig, WikiHopWorld, wikihop};
pub use wordmath::{WordMathConfig, wordmath};

/// The tool name of arithmetic steps.
pub const CALCULATOR: &str = "calculator";
/// The tool name of retrieval steps.
pub const SEARCH: &str = "search";

/// Why a generator cannot make what was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GenerateError {
    /// A setting is outside its range, or two settings contradict each other.
    #[error("{generator}: {problem}")]
    Config {
        /// `wordmath` or `wikihop`.
        generator: &'static str,
        /// What is wrong and what to set instead.
        problem: String,
    },
    /// The settings leave room for fewer distinct questions than were asked for.
    #[error("{generator}: only {made} distinct questions of {asked} fit the settings; {remedy}")]
    TooFew {
        /// `wordmath` or `wikihop`.
        generator: &'static str,
        /// How many there are.
        made: usize,
        /// How many were asked for.
        asked: usize,
        /// Which setting makes room.
        remedy: &'static str,
    },
}
