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
    /// Every trajectory weighs the same, however many of its states and actions are in the batch: a
    /// token weighs 1 / (trajectories · sequences of its trajectory · tokens of its sequence).
    TrajectoryMean,
    /// Every token weighs 1 / (sequences · a fixed length): no sequence length is preferred (Dr.
    /// GRPO, Liu et al. 2025, arXiv 2503.20783), but the size of the gradient goes with the lengths.
    FixedLength {
        /// The length, usually the longest an action may have; above 0.
        tokens: usize,
    },
}

/// What the global batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalCounts {
    /// Trained tokens.
    pub tokens: usize,
    /// Sequences with at least one trained token.
    pub sequences: usize,
    /// Trajectories with at least one such sequence.
    pub trajectories: usize,
}

/// What the global batch holds of the sequence a token is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnCounts {
    /// Trained tokens of the sequence.
    pub tokens: usize,
    /// Sequences of its trajectory that have a trained token.
    pub siblings: usize,
}

impl Normalisation {
    /// Weight of each trained token of a sequence of which the batch holds `own`.
    pub fn weight(self, counts: GlobalCounts, own: OwnCounts) -> f64 {
        let divisor = match self {
            Self::TokenMean => counts.tokens as f64,
            Self::SequenceMean => counts.sequences as f64 * own.tokens as f64,
            Self::TrajectoryMean => {
                counts.trajectories as f64 * own.siblings as f64 * own.tokens as f64
            }
            Self::FixedLength { tokens } => counts.sequences as f64 * tokens as f64,
        };
        1.0 / divisor
    }
}

/// A loss at one token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenLoss {
    /// The loss.
    pub value: f64,
    /// Its derivative by the token's log-probability.
    pub derivative: f64,
    /// Its derivative by the entropy of the distribution the token is drawn from.
    pub by_entropy: f64,
}

impl TokenLoss {
    /// `weight` times the loss.
    pub fn weighted(self, weight: f64) -> Self {
        Self {
            value: weight * self.value,
            derivative: weight * self.derivative,
            by_entropy: weight * self.by_entropy,
        }
    }
}

/// Cross-entropy: `−log π(a)`.
pub fn cross_entropy(logprob: f64) -> TokenLoss {
    TokenLoss {
        value: -logprob,
        derivative: -1.0,
        by_entropy: 0.0,
    }
}

/// Treatment, in a policy gradient, of actions that another distribution `μ` sampled: older
/// weights, or the same ones computed otherwise. `π` is the policy, or under [`Surrogate::Clipped`]
/// `π_old`.
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
    /// Weighted by `π / μ` per token where that is within `[floor, cap]`, and by 0 elsewhere: what
    /// the current weights would hardly have sampled, or sampled far more often, teaches nothing.
    Masked {
        /// Smallest weight that counts; from 0 to 1.
        floor: f64,
        /// Largest weight that counts; at least 1.
        cap: f64,
    },
}

impl Importance {
    /// The weight of a token, and whether a bound changed it.
    pub fn weight(self, logprob: f64, behaviour: f64) -> (f64, bool) {
        let ratio = bounded_exp(logprob - behaviour);
        match self {
            Self::Off => (1.0, false),
            Self::Truncated { cap } => (ratio.min(cap), ratio > cap),
            Self::Masked { floor, cap } if (floor..=cap).contains(&ratio) => (ratio, false),
            Self::Masked { .. } => (0.0, true),
        }
    }
}

/// What is made of an action's advantage. All of it is per token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Surrogate {
    /// REINFORCE (Williams 1992): `−w · A · log π(a)`, with the importance weight `w` of the token
    /// held constant.
    #[default]
    Reinforce,
    /// Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), with
    /// `r = π(a) / π_old(a)`: `−w · min(r · A, clip(r, 1 − low, 1 + high) · A)`. A `high` above `low`
    /// is the asymmetric form (DAPO, arXiv 2503.14476). Where `π_old` is not the sampler's `μ`, the
    /// importance weight `w` of `π_old / μ`, held constant, corrects what lies between the two
    /// (decoupled PPO, Hilton et al. 2021, arXiv 2110.00641); it does not touch the clip.
    Clipped {
        /// How far the ratio may fall; in [0, 1).
        low: f64,
        /// How far the ratio may rise; 0 or more.
        high: f64,
        /// For negative advantages the loss goes no higher than this many times `−A` (dual clip, Ye
        /// et al. 2020, arXiv 1912.09729); above 1.
        dual: Option<f64>,
    },
}

/// Where the clip of [`Surrogate::Clipped`] took a token out of the gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clip {
    /// It did not.
    #[default]
    None,
    /// The action got less likely than `1 − low` allows.
    Low,
    /// The action got more likely than `1 + high` allows.
    High,
    /// The dual clip of a negative advantage.
    Dual,
}

impl Surrogate {
    /// The importance weight of a token, and whether a bound changed it.
    pub fn importance(self, token: PolicyToken, importance: Importance) -> (f64, bool) {
        match self {
            Self::Reinforce => importance.weight(token.logprob, token.behaviour),
            Self::Clipped { .. } => importance.weight(token.old, token.behaviour),
        }
    }

    /// The loss of a token without KL and entropy, and what was clipped.
    fn loss(self, token: PolicyToken, importance: Importance) -> (TokenLoss, Clip) {
        let advantage = token.advantage;
        let (weight, _) = self.importance(token, importance);
        match self {
            Self::Reinforce => {
                let pull = weight * advantage;
                let loss = TokenLoss {
                    value: -pull * token.logprob,
                    derivative: -pull,
                    by_entropy: 0.0,
                };
                (loss, Clip::None)
            }
            Self::Clipped { low, high, dual } => {
                let ratio = bounded_exp(token.logprob - token.old);
                let bounds = (1.0 - low, 1.0 + high);
                let held = |value: f64, clip| {
                    let loss = TokenLoss {
                        value: -weight * value * advantage,
                        ..TokenLoss::default()
                    };
                    (loss, clip)
                };
                match dual {
                    Some(limit) if advantage < 0.0 && ratio > limit => held(limit, Clip::Dual),
                    _ if advantage > 0.0 && ratio > bounds.1 => held(bounds.1, Clip::High),
                    _ if advantage < 0.0 && ratio < bounds.0 => held(bounds.0, Clip::Low),
                    _ => {
                        let value = -weight * ratio * advantage;
                        let loss = TokenLoss {
                            value,
                            derivative: value, // dr / d log π = r
                            by_entropy: 0.0,
                        };
                        (loss, Clip::None)
                    }
                }
            }
        }
    }
}

/// What a policy loss knows of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyToken {
    /// log π(a), in nats: under the weights being trained.
    pub logprob: f64,
    /// log π_old(a): what [`Surrogate::Clipped`] holds π near. The trainer's own, under the weights
    /// that the batch began with, or the sampler's.
    pub old: f64,
    /// log μ(a): what the sampler said when it drew the token.
    pub behaviour: f64,
    /// log π_ref(a), where a KL term needs it.
    pub reference: Option<f64>,
    /// Advantage of the action.
    pub advantage: f64,
    /// Entropy of the distribution that `a` was drawn from, in nats.
    pub entropy: f64,
}

/// The parts of a policy loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PolicyOptions {
    /// What is made of advantages.
    pub surrogate: Surrogate,
    /// Treatment of actions that the sampler drew from another distribution.
    pub importance: Importance,
    /// Weight of the KL term in the loss; without effect for [`KlTerm::K1Reward`], which is in the
    /// reward already.
    pub kl_coefficient: f64,
    /// The estimate.
    pub kl: KlTerm,
    /// Weight of the entropy, which is kept high: it is taken off the loss.
    pub entropy_coefficient: f64,
}

/// The loss of one token, `surrogate + β · k(a) − c · H`, where `H` is the entropy in nats of the
/// distribution that `a` was drawn from, and what was clipped. The KL and entropy terms carry no
/// importance weight.
pub fn policy_loss(token: PolicyToken, options: PolicyOptions) -> (TokenLoss, Clip) {
    let (loss, clip) = options.surrogate.loss(token, options.importance);
    let kl = token.reference.map_or(TokenLoss::default(), |r| {
        kl_loss(token.logprob, r, options.kl)
    });
    let c = options.entropy_coefficient;
    let loss = TokenLoss {
        value: loss.value + options.kl_coefficient * kl.value - c * token.entropy,
        derivative: loss.derivative + options.kl_coefficient * kl.derivative,
        by_entropy: -c,
    };
    (loss, clip)
}

/// How a preference between two actions becomes a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceOptions {
    /// How far the policy may move from the reference: the smaller, the farther; above 0.
    pub beta: f64,
    /// The share of preferences taken to be the wrong way round; in [0, 0.5).
    pub label_smoothing: f64,
}

/// Log-probability of a whole action, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActionLogprob {
    /// Under the weights being trained.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
}

/// Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290; with label smoothing the
/// conservative form, Mitchell 2023): `−(1 − ε) · log σ(β · m) − ε · log σ(−β · m)`, where the margin
/// `m` is `log π/π_ref` of the better action less that of the worse one. The derivative is by the
/// better action's log-probability; by the worse one's it is the opposite.
pub fn preference_loss(
    better: ActionLogprob,
    worse: ActionLogprob,
    options: PreferenceOptions,
) -> TokenLoss {
    let margin = (better.policy - better.reference) - (worse.policy - worse.reference);
    let (x, smoothing) = (options.beta * margin, options.label_smoothing);
    TokenLoss {
        value: (1.0 - smoothing) * softplus(-x) + smoothing * softplus(x),
        derivative: options.beta * (smoothing * sigmoid(x) - (1.0 - smoothing) * sigmoid(-x)),
        by_entropy: 0.0,
    }
}

/// `log(1 + eˣ)`, which is `−log σ(−x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    (-softplus(-x)).exp()
}

fn kl_loss(logprob: f64, reference: f64, term: KlTerm) -> TokenLoss {
    let estimates = kl_estimates(logprob, reference);
    match term {
        KlTerm::K1Reward => TokenLoss::default(),
        KlTerm::K2Loss => TokenLoss {
            value: estimates.k2,
            derivative: estimates.k1,
            by_entropy: 0.0,
        },
        KlTerm::K3Loss => TokenLoss {
            value: estimates.k3,
            derivative: 1.0 - bounded_exp(reference - logprob),
            by_entropy: 0.0,
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
                        old: -1.0,
                        behaviour: -1.0,
                        reference: Some(reference),
                        advantage,
                        entropy: 0.0,
                    };
                    // No importance weight: it is a constant for the gradient.
                    let options = PolicyOptions {
                        kl_coefficient: 0.3,
                        kl,
                        ..Default::default()
                    };
                    policy_loss(token, options).0
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
            old: -1.0,
            behaviour: -1.0,
            reference: Some(-3.0),
            advantage: 0.0,
            entropy: 0.0,
        };
        let options = PolicyOptions {
            kl_coefficient: 10.0,
            kl: KlTerm::K1Reward,
            ..Default::default()
        };
        let loss = policy_loss(token, options).0;
        assert_eq!((loss.value, loss.derivative), (0.0, 0.0));
    }

    #[test]
    fn importance_is_truncated_and_never_overflows() {
        let capped = Importance::Truncated { cap: 2.0 };
        let masked = Importance::Masked {
            floor: 0.5,
            cap: 2.0,
        };
        for (importance, logprob, behaviour, expected, held) in [
            (Importance::Off, -1.0, -9.0, 1.0, false),
            (capped, -1.0, -1.0, 1.0, false),
            (capped, -1.0, -1.0 - 1.5f64.ln(), 1.5, false),
            (capped, -1.0, -4.0, 2.0, true),
            (capped, -1e9, -1.0, (-MAX_LOG_RATIO).exp(), false),
            (capped, -1.0, -1e9, 2.0, true),
            (masked, -1.0, -1.0, 1.0, false),
            (masked, -1.0, -4.0, 0.0, true),
            (masked, -4.0, -1.0, 0.0, true),
        ] {
            let (weight, capped) = importance.weight(logprob, behaviour);
            assert!(
                (weight - expected).abs() < 1e-12,
                "{importance:?}: {weight}"
            );
            assert_eq!(capped, held);
        }
    }

    /// Two trajectories: one with two sequences, one with one.
    #[test]
    fn weights_sum_to_one_over_the_global_batch() {
        let own = |tokens, siblings| OwnCounts { tokens, siblings };
        let sequences = [own(3, 2), own(5, 2), own(1, 1)];
        let counts = GlobalCounts {
            tokens: 9,
            sequences: 3,
            trajectories: 2,
        };
        let share = |normalisation: Normalisation, own: OwnCounts| {
            own.tokens as f64 * normalisation.weight(counts, own)
        };
        for (normalisation, expected) in [
            (Normalisation::TokenMean, [3.0 / 9.0, 5.0 / 9.0, 1.0 / 9.0]),
            (Normalisation::SequenceMean, [1.0 / 3.0; 3]),
            (Normalisation::TrajectoryMean, [0.25, 0.25, 0.5]),
            (
                Normalisation::FixedLength { tokens: 3 },
                [3.0 / 9.0, 5.0 / 9.0, 1.0 / 9.0],
            ),
        ] {
            for (own, expected) in sequences.iter().zip(expected) {
                let found = share(normalisation, *own);
                assert!((found - expected).abs() < 1e-12, "{normalisation:?}");
            }
        }
    }

    #[test]
    fn preferences_do_not_overflow() {
        let action = |policy| ActionLogprob {
            policy,
            reference: 0.0,
        };
        let options = PreferenceOptions {
            beta: 1.0,
            label_smoothing: 0.0,
        };
        let lost = preference_loss(action(-1e6), action(0.0), options);
        assert_eq!((lost.value, lost.derivative), (1e6, -1.0));
        let won = preference_loss(action(0.0), action(-1e6), options);
        assert_eq!((won.value, won.derivative), (0.0, 0.0));
    }
}
