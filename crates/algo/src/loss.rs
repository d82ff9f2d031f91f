//! Token losses and their derivatives, in f64 on the host.
//!
//! Every loss here depends on the model through the log-probability of a trained token alone, so a
//! loss is a value and one derivative per token; [`crate::logprob`] carries that derivative into the
//! model. All are to be minimised.

use serde::{Deserialize, Serialize};

/// Log-ratios are brought into ±this before they are exponentiated: e²⁰ ≈ 5·10⁸ is far beyond any
/// ratio that still means something, and far below what overflows.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// Which estimate of KL(π ‖ π_ref) is used, and where it goes. Exactly one place by construction.
///
/// With `d = log π(a) − log π_ref(a)` at a token `a` sampled from π (Schulman, "Approximating KL
/// Divergence", 2020).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlTerm {
    /// k1 = d, summed over a sample and taken off its reward before advantages, with the
    /// log-probabilities the sampler gave. Its policy gradient is that of the KL of whole actions.
    K1Reward,
    /// k2 = d²/2 in the loss. On-policy its gradient `d · ∇log π` is exactly that of the reverse
    /// KL(π ‖ π_ref) of each token's distribution, so it is the default.
    #[default]
    K2Loss,
    /// k3 = e^(−d) − 1 + d in the loss. The value is an unbiased, never negative estimate of the
    /// reverse KL; the gradient `(1 − e^(−d)) · ∇log π` is not its gradient but that of the forward
    /// KL(π_ref ‖ π).
    K3Loss,
}

/// The three estimates of KL(π ‖ π_ref) at one sampled token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlEstimates {
    /// d.
    pub k1: f64,
    /// d²/2.
    pub k2: f64,
    /// e^(−d) − 1 + d.
    pub k3: f64,
}

/// Estimates from the log-probabilities of one sampled token.
pub fn kl_estimates(logprob: f64, reference: f64) -> KlEstimates {
    let d = logprob - reference;
    KlEstimates {
        k1: d,
        k2: d * d / 2.0,
        k3: bounded_exp(-d) - 1.0 + d,
    }
}

fn bounded_exp(log_ratio: f64) -> f64 {
    log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
}

/// How tokens of different sequences weigh against each other. Counts are of the GLOBAL batch:
/// every micro-batch and every rank together, so the gradient does not depend on how it is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Every trained token weighs 1 / all trained tokens: long sequences weigh more.
    #[default]
    TokenMean,
    /// Every sequence weighs the same, its tokens 1 / (sequences · its tokens).
    SequenceMean,
}

/// What the global batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalCounts {
    /// Trained tokens.
    pub tokens: usize,
    /// Sequences with at least one trained token.
    pub sequences: usize,
}

impl Normalisation {
    /// Weight of each trained token of a sequence that has `sequence_tokens` of them.
    pub fn weight(self, counts: GlobalCounts, sequence_tokens: usize) -> f64 {
        match self {
            Self::TokenMean => 1.0 / counts.tokens as f64,
            Self::SequenceMean => 1.0 / (counts.sequences as f64 * sequence_tokens as f64),
        }
    }
}

/// A loss at one token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenLoss {
    /// The loss, not yet weighted.
    pub value: f64,
    /// Its derivative by the token's log-probability, not yet weighted.
    pub derivative: f64,
}

/// Cross-entropy: `−log π(a)`.
pub fn cross_entropy(logprob: f64) -> TokenLoss {
    TokenLoss {
        value: -logprob,
        derivative: -1.0,
    }
}

/// How a policy gradient treats actions that other weights sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Importance {
    /// As if they were on-policy: the ratio is 1.
    #[default]
    Off,
    /// Weighted by `min(π / μ, cap)` per token, a constant for the gradient (truncated importance
    /// sampling, Ionides 2008; as in IMPALA, arXiv 1802.01561): a stale token counts less or more,
    /// but never more than `cap` times.
    Truncated {
        /// Largest weight; at least 1.
        cap: f64,
    },
}

impl Importance {
    /// The weight of a token, and whether the cap held it back.
    pub fn weight(self, logprob: f64, behaviour: f64) -> (f64, bool) {
        match self {
            Self::Off => (1.0, false),
            Self::Truncated { cap } => {
                let ratio = bounded_exp(logprob - behaviour);
                (ratio.min(cap), ratio > cap)
            }
        }
    }
}

/// What a policy loss knows of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyToken {
    /// log π(a), in nats: under the weights being trained.
    pub logprob: f64,
    /// log μ(a): under the weights that sampled it.
    pub behaviour: f64,
    /// log π_ref(a), where a KL term needs it.
    pub reference: Option<f64>,
    /// Advantage of the action.
    pub advantage: f64,
}

/// Coefficients of a policy loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PolicyOptions {
    /// Treatment of stale actions.
    pub importance: Importance,
    /// Weight of the KL term in the loss; without effect for [`KlTerm::K1Reward`], which is in the
    /// reward already.
    pub kl_coefficient: f64,
    /// The estimate.
    pub kl: KlTerm,
}

/// REINFORCE (Williams 1992) with KL regularisation: `−w · A · log π(a) + β · k(a)`, where `w` is the
/// importance weight, held constant. The KL term carries no importance weight.
pub fn policy_gradient(token: PolicyToken, options: PolicyOptions) -> TokenLoss {
    let (weight, _) = options.importance.weight(token.logprob, token.behaviour);
    let pull = weight * token.advantage;
    let kl = token.reference.map_or(TokenLoss::default(), |r| {
        kl_loss(token.logprob, r, options.kl)
    });
    TokenLoss {
        value: -pull * token.logprob + options.kl_coefficient * kl.value,
        derivative: -pull + options.kl_coefficient * kl.derivative,
    }
}

fn kl_loss(logprob: f64, reference: f64, term: KlTerm) -> TokenLoss {
    let estimates = kl_estimates(logprob, reference);
    match term {
        KlTerm::K1Reward => TokenLoss::default(),
        KlTerm::K2Loss => TokenLoss {
            value: estimates.k2,
            derivative: estimates.k1,
        },
        KlTerm::K3Loss => TokenLoss {
            value: estimates.k3,
            derivative: 1.0 - bounded_exp(reference - logprob),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central difference of `f` at `x`.
    fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
        let h = 1e-5;
        (f(x + h) - f(x - h)) / (2.0 * h)
    }

    #[test]
    fn derivatives_are_those_of_the_values() {
        for kl in [KlTerm::K1Reward, KlTerm::K2Loss, KlTerm::K3Loss] {
            for (logprob, reference, advantage) in [
                (-0.5, -0.7, 1.0),
                (-3.0, -1.0, -0.4),
                (-1e-3, -6.0, 0.0),
                (-2.0, -2.0, 2.5),
            ] {
                let at = |logprob| {
                    let token = PolicyToken {
                        logprob,
                        behaviour: -1.0,
                        reference: Some(reference),
                        advantage,
                    };
                    // `Off`: the importance weight is a constant for the gradient.
                    let options = PolicyOptions {
                        importance: Importance::Off,
                        kl_coefficient: 0.3,
                        kl,
                    };
                    policy_gradient(token, options)
                };
                let expected = slope(|x| at(x).value, logprob);
                assert!(
                    (at(logprob).derivative - expected).abs() < 1e-8,
                    "{kl:?} at {logprob}"
                );
            }
        }
        assert!(
            (slope(|x| cross_entropy(x).value, -1.0) - cross_entropy(-1.0).derivative).abs() < 1e-9
        );
    }

    fn softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        logits.iter().map(|l| l.exp() / sum).collect()
    }

    fn kl(p: &[f64], q: &[f64]) -> f64 {
        p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
    }

    /// Expectation over a ~ π of (derivative of the estimate) · ∇ log π(a), against the gradient of
    /// the exact divergence, for every logit of a small distribution.
    #[test]
    fn k2_descends_the_reverse_and_k3_the_forward_kl() {
        let logits = [0.3, -1.0, 0.8, 0.1];
        let reference = softmax(&[1.0, 0.2, -0.5, 0.0]);
        let policy = softmax(&logits);
        for i in 0..logits.len() {
            let expected_gradient = |term| -> f64 {
                (0..logits.len())
                    .map(|a| {
                        let score = f64::from(u8::from(a == i)) - policy[i]; // ∂ log π(a) / ∂ logit i
                        policy[a]
                            * kl_loss(policy[a].ln(), reference[a].ln(), term).derivative
                            * score
                    })
                    .sum()
            };
            let moved = |x| {
                let mut logits = logits;
                logits[i] = x;
                softmax(&logits)
            };
            let reverse = slope(|x| kl(&moved(x), &reference), logits[i]);
            let forward = slope(|x| kl(&reference, &moved(x)), logits[i]);
            assert!((expected_gradient(KlTerm::K2Loss) - reverse).abs() < 1e-8);
            assert!((expected_gradient(KlTerm::K3Loss) - forward).abs() < 1e-8);
            assert!(
                (reverse - forward).abs() > 1e-3,
                "the test tells the two apart"
            );
        }
    }

    #[test]
    fn k1_and_k3_are_unbiased_in_value() {
        let policy = softmax(&[0.3, -1.0, 0.8]);
        let reference = softmax(&[1.0, 0.2, -0.5]);
        let mean = |pick: fn(KlEstimates) -> f64| -> f64 {
            policy
                .iter()
                .zip(&reference)
                .map(|(p, r)| p * pick(kl_estimates(p.ln(), r.ln())))
                .sum()
        };
        let exact = kl(&policy, &reference);
        assert!((mean(|k| k.k1) - exact).abs() < 1e-12);
        assert!((mean(|k| k.k3) - exact).abs() < 1e-12);
    }

    #[test]
    fn kl_in_the_reward_is_not_in_the_loss_too() {
        let token = PolicyToken {
            logprob: -1.0,
            behaviour: -1.0,
            reference: Some(-3.0),
            advantage: 0.0,
        };
        let options = PolicyOptions {
            kl_coefficient: 10.0,
            kl: KlTerm::K1Reward,
            importance: Importance::Off,
        };
        assert_eq!(
            policy_gradient(token, options),
            TokenLoss {
                value: 0.0,
                derivative: 0.0
            }
        );
    }

    #[test]
    fn importance_is_truncated_and_never_overflows() {
        let capped = Importance::Truncated { cap: 2.0 };
        for (importance, logprob, behaviour, expected, held) in [
            (Importance::Off, -1.0, -9.0, 1.0, false),
            (capped, -1.0, -1.0, 1.0, false),
            (capped, -1.0, -1.0 - 1.5f64.ln(), 1.5, false),
            (capped, -1.0, -4.0, 2.0, true),
            (capped, -1e9, -1.0, (-MAX_LOG_RATIO).exp(), false),
            (capped, -1.0, -1e9, 2.0, true),
        ] {
            let (weight, capped) = importance.weight(logprob, behaviour);
            assert!(
                (weight - expected).abs() < 1e-12,
                "{importance:?}: {weight}"
            );
            assert_eq!(capped, held);
        }
    }

    #[test]
    fn weights_sum_to_one_over_the_global_batch() {
        let lengths = [3usize, 5, 1];
        let counts = GlobalCounts {
            tokens: 9,
            sequences: 3,
        };
        for normalisation in [Normalisation::TokenMean, Normalisation::SequenceMean] {
            let sum: f64 = lengths
                .iter()
                .map(|l| *l as f64 * normalisation.weight(counts, *l))
                .sum();
            assert!((sum - 1.0).abs() < 1e-12, "{normalisation:?}");
        }
    }
}
