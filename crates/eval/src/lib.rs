//! What evaluations report: metrics with intervals, paired tests, and tables.
//!
//! - **EV-1 (no guess).** An answer that nobody judged is an error, never a wrong answer. A
//!   trajectory that ended without an answer is wrong, judged or not.
//! - **EV-2 (one id list).** Two evaluations are compared only on the same questions.
//! - **EV-3 (questions are the unit).** Several samples of one question are averaged before questions
//!   are; intervals resample questions, not samples.
//! - **EV-4 (several tests).** Where several models or sets are compared, p-values are shown as they
//!   are and adjusted for their number.
//!
//! Pure functions of stored trajectories: knows nothing about actors, models or I/O.

pub mod interval;
pub mod multiple;
pub mod paired;
pub mod process;
pub mod samples;
pub mod scores;
pub mod seeds;
pub mod steps;
pub mod summary;
pub mod table;
pub mod text;

pub use interval::{Interval, bootstrap_mean, wilson};
pub use multiple::holm;
pub use paired::{McNemar, Paired, compare, mcnemar, paired_bootstrap};
pub use process::{ProcessScore, process_scores};
pub use samples::{SampleScores, majority, pass_at_k};
pub use scores::{Scores, is_right};
pub use seeds::{OverSeeds, over_seeds, t_975};
pub use steps::{StepGroup, by_steps};
pub use summary::{Summary, summarise};
pub use table::{Comparison, Table};

use proto::{ItemId, QuestionId};

/// Why an evaluation cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to count.
    #[error("no trajectory to evaluate")]
    Empty,
    /// An answer without verdict: judge the trajectories first.
    #[error("{0} has an answer that no outcome judge has judged; judge it before evaluating")]
    Unjudged(ItemId),
    /// The same question and sample twice would count double.
    #[error("{0} is there twice; evaluate each item once")]
    Duplicate(ItemId),
    /// Questions with different numbers of samples cannot be weighed alike.
    #[error(
        "question `{question}` has {found} samples and others have {expected}; sample all alike"
    )]
    UnevenSamples {
        /// The first such question.
        question: QuestionId,
        /// Its number of samples.
        found: usize,
        /// The first question's number of samples.
        expected: usize,
    },
    /// The two evaluations are not over the same questions: evaluate both on one id list.
    #[error(
        "the id lists differ: question `{question}` is only in the {side} evaluation; \
         evaluate both on one id list"
    )]
    DifferentIds {
        /// The first id, in order, that only one side has.
        question: QuestionId,
        /// `first` or `second`.
        side: &'static str,
    },
    /// More samples were asked for than there are, or none.
    #[error("pass@{k} needs 1 <= k <= {n}, the number of samples per question")]
    BadK {
        /// What was asked for.
        k: usize,
        /// Samples per question.
        n: usize,
    },
}
