//! Whether sampler and learner speak of the same distribution (TL-4), decided from what steps report.

use super::TrainingError;
use std::collections::BTreeMap;

/// Metric: tokens whose log-probabilities of sampler and learner a step compared.
const TOKENS: &str = "compared_tokens";

/// Metric: mean of |log π − log μ| over them, in nats.
const DIFFERENCE: &str = "logprob_difference_mean";

/// The check on one learner, from a start or a resume on.
///
/// A step compares tokens when it runs some, on actions that its own weights sampled: a step whose
/// actions all have advantage 0 may run none, and behind the first update of a batch the policy has
/// moved.
#[derive(Debug)]
pub(super) struct Agreement {
    limit: f64,
    is_held: bool,
}

/// A step's finding on the agreement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Finding {
    /// The step compared nothing: the check is still to come, if it was.
    Nothing,
    /// Within the limit.
    Agrees,
    /// Beyond the limit, after an earlier step was within it.
    Drifted {
        /// Mean difference, in nats.
        found: f64,
        /// Number of tokens it is the mean over.
        tokens: u64,
    },
}

impl Agreement {
    /// `limit` is the largest mean difference in nats.
    pub(super) fn new(limit: f64) -> Self {
        Self {
            limit,
            is_held: false,
        }
    }

    /// Looks at the report of the first update of a batch.
    ///
    /// # Errors
    /// When the first step that compared tokens is beyond the limit.
    pub(super) fn look(
        &mut self,
        metrics: &BTreeMap<String, f64>,
    ) -> Result<Finding, TrainingError> {
        let tokens = metrics.get(TOKENS).copied().unwrap_or(0.0);
        let Some(&found) = metrics.get(DIFFERENCE).filter(|_| tokens > 0.0) else {
            return Ok(Finding::Nothing);
        };
        let agrees = found <= self.limit; // false for NaN
        let was_held = std::mem::replace(&mut self.is_held, true);
        match (agrees, was_held) {
            (true, _) => Ok(Finding::Agrees),
            (false, true) => Ok(Finding::Drifted {
                found,
                tokens: tokens as u64,
            }),
            (false, false) => Err(TrainingError::Disagreement {
                found,
                tokens: tokens as u64,
                limit: self.limit,
            }),
        }
    }

    /// Whether some step compared tokens.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The limit, in nats.
    pub(super) fn limit(&self) -> f64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens, difference; and what is found, or the difference that ends training.
    type Step = (f64, f64, Result<Finding, f64>);

    #[test]
    fn tl_4_the_check_waits_for_tokens_and_then_warns() {
        use Finding::{Agrees, Drifted, Nothing};
        let drifted = |found, tokens| Ok(Drifted { found, tokens });
        let cases: [&[Step]; 5] = [
            &[
                (3.0, 0.1, Ok(Agrees)),
                (5.0, 0.11, drifted(0.11, 5)),
                (9.0, 0.02, Ok(Agrees)),
            ],
            &[(3.0, 0.11, Err(0.11))],
            &[
                (0.0, 0.0, Ok(Nothing)),
                (0.0, 7.0, Ok(Nothing)),
                (1.0, 0.5, Err(0.5)),
            ],
            &[
                (0.0, 0.0, Ok(Nothing)),
                (1.0, 0.05, Ok(Agrees)),
                (0.0, 0.0, Ok(Nothing)),
                (2.0, f64::INFINITY, drifted(f64::INFINITY, 2)),
            ],
            &[(4.0, f64::INFINITY, Err(f64::INFINITY))],
        ];
        for steps in cases {
            let mut agreement = Agreement::new(0.1);
            for (tokens, difference, expected) in steps {
                let metrics =
                    [(TOKENS, *tokens), (DIFFERENCE, *difference)].map(|(n, v)| (n.to_owned(), v));
                let found = agreement
                    .look(&metrics.into())
                    .map_err(|error| match error {
                        TrainingError::Disagreement { found, .. } => found,
                        other => panic!("{other}"),
                    });
                assert_eq!(&found, expected, "{steps:?}");
            }
        }
    }

    #[test]
    fn tl_4_what_is_no_number_is_no_agreement_and_what_is_absent_is_no_comparison() {
        let metrics = [(TOKENS, 4.0), (DIFFERENCE, f64::NAN)].map(|(n, v)| (n.to_owned(), v));
        let mut agreement = Agreement::new(0.1);
        assert_eq!(agreement.look(&BTreeMap::new()).unwrap(), Finding::Nothing);
        assert!(!agreement.is_held());
        assert!(agreement.look(&metrics.into()).is_err());
    }
}
