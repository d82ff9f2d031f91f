//! Advantages, losses and their derivatives against the functions that TRL and verl publish, in f64.
//!
//! `benches/peers/losses.py` calls those functions and writes `fixtures/peer_losses.json`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails loudly where what it needs is absent"
)]

use algo::advantage::{Baseline, Population, RewardHistory, advantages};
use algo::logprob::{self, Head, Pull};
use algo::loss::{
    ActionLogprob, Clip, GlobalCounts, Importance, KlTerm, Normalisation, OwnCounts, PolicyOptions,
    PolicyToken, PreferenceOptions, Surrogate, cross_entropy, kl_estimates, policy_loss,
    preference_loss,
};
use algo::pack::Target;
use serde_json::Value;
use tch::Tensor;

/// verl divides by a sample's tokens plus 1e-8 in some of its modes, which moves the twelfth digit
/// of a loss of size 1; nothing here is larger.
const TOLERANCE: f64 = 1e-9;

fn cases() -> Vec<Value> {
    let text = include_str!("fixtures/peer_losses.json");
    let file: Value = serde_json::from_str(text).unwrap();
    file["cases"].as_array().unwrap().clone()
}

/// Runs `check` on every case whose name begins with one of `prefixes`; there have to be `count`.
fn each(prefixes: &[&str], count: usize, check: impl Fn(&str, &Value)) {
    let mut seen = 0;
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            check(name, &case);
            seen += 1;
        }
    }
    assert_eq!(seen, count, "{prefixes:?}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(list).collect()
}

fn close(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < TOLERANCE,
            "{name}: {found} for {expected}"
        );
    }
}

#[test]
fn every_case_is_checked() {
    assert_eq!(cases().len(), 3 + 12 + 4 + 3 + 2 + 2 + 8 + 2 + 2 + 1);
}

#[test]
fn advantages_are_those_of_verl() {
    each(&["advantage_"], 3, |name, case| {
        let (baseline, normalise_std) = match name {
            "advantage_grpo" => (Baseline::GroupMean, true),
            "advantage_dr_grpo" => (Baseline::GroupMean, false),
            "advantage_rloo" => (Baseline::LeaveOneOut, false),
            other => panic!("no such estimator: {other}"),
        };
        let rewards = rows(&case["inputs"]["rewards"]);
        let history = RewardHistory::default();
        let batch = Population::of(rewards.iter().flatten().copied());
        let found = advantages(&rewards, baseline, normalise_std, batch, history);
        let expected = rows(&case["expected"]["advantages"]);
        close(name, &found.concat(), &expected.concat());
    });
}

/// What a policy loss of a whole batch comes to.
struct Outcome {
    loss: f64,
    gradients: Vec<Vec<f64>>,
    clips: Vec<Clip>,
}

fn policy(
    inputs: &Value,
    options: PolicyOptions,
    normalisation: Normalisation,
    tokens: Option<usize>,
) -> Outcome {
    let (logprobs, old) = (rows(&inputs["logprobs"]), rows(&inputs["old_logprobs"]));
    let reference = inputs.get("ref_logprobs").map(rows);
    let sampled = inputs.get("rollout_logprobs").map(rows);
    let sampled = sampled.as_ref().unwrap_or(&old);
    let advantages = list(&inputs["advantages"]);
    let counts = GlobalCounts {
        tokens: tokens.unwrap_or_else(|| logprobs.iter().map(Vec::len).sum()),
        sequences: logprobs.len(),
        trajectories: logprobs.len(),
    };
    let mut outcome = Outcome {
        loss: 0.0,
        gradients: Vec::new(),
        clips: Vec::new(),
    };
    for (sample, row) in logprobs.iter().enumerate() {
        let own = OwnCounts {
            tokens: row.len(),
            siblings: 1,
        };
        let mut gradients = Vec::new();
        for (index, logprob) in row.iter().enumerate() {
            let token = PolicyToken {
                logprob: *logprob,
                old: old[sample][index],
                behaviour: sampled[sample][index],
                reference: reference.as_ref().map(|r| r[sample][index]),
                advantage: advantages[sample],
                entropy: 0.0,
            };
            let (loss, clip) = policy_loss(token, options);
            let loss = loss.weighted(normalisation.weight(counts, own));
            outcome.loss += loss.value;
            outcome.clips.push(clip);
            gradients.push(loss.derivative);
        }
        outcome.gradients.push(gradients);
    }
    outcome
}

impl Outcome {
    fn share(&self, of: Clip) -> f64 {
        self.clips.iter().filter(|clip| **clip == of).count() as f64 / self.clips.len() as f64
    }

    fn check(&self, name: &str, expected: &Value) {
        close(name, &[self.loss], &[number(&expected["loss"])]);
        let gradients = rows(&expected["gradients"]);
        close(name, &self.gradients.concat(), &gradients.concat());
    }
}

fn verl_mode(settings: &Value) -> Normalisation {
    match settings["loss_agg_mode"].as_str().unwrap() {
        "token-mean" => Normalisation::TokenMean,
        "seq-mean-token-mean" => Normalisation::SequenceMean,
        "seq-mean-token-sum" => Normalisation::FixedLength { tokens: 1 },
        "seq-mean-token-sum-norm" => Normalisation::FixedLength {
            tokens: settings["loss_scale_factor"].as_u64().unwrap() as usize,
        },
        other => panic!("no such mode: {other}"),
    }
}

#[test]
fn clipped_losses_are_those_of_verl() {
    each(&["ppo_"], 12, |name, case| {
        let (settings, expected) = (&case["settings"], &case["expected"]);
        let options = PolicyOptions {
            surrogate: Surrogate::Clipped {
                low: number(&settings["clip_low"]),
                high: number(&settings["clip_high"]),
                dual: settings["dual_clip"].as_f64(),
            },
            ..Default::default()
        };
        let found = policy(&case["inputs"], options, verl_mode(settings), None);
        found.check(name, expected);
        let dual = found.share(Clip::Dual);
        let sides = found.share(Clip::Low) + found.share(Clip::High);
        let shares = [sides, dual];
        close(
            name,
            &shares,
            &[
                number(&expected["clip_fraction"]),
                number(&expected["clip_fraction_lower"]),
            ],
        );
    });
}

#[test]
fn clipped_losses_on_recomputed_old_logprobs_are_those_of_verl() {
    each(&["decoupled_"], 2, |name, case| {
        let settings = &case["settings"];
        let importance = match name {
            "decoupled_truncated" => Importance::Truncated { cap: 2.0 },
            "decoupled_masked" => Importance::Masked {
                floor: 0.5,
                cap: 2.0,
            },
            other => panic!("no such loss: {other}"),
        };
        let options = PolicyOptions {
            surrogate: Surrogate::Clipped {
                low: number(&settings["clip_low"]),
                high: number(&settings["clip_high"]),
                dual: settings["dual_clip"].as_f64(),
            },
            importance,
            ..Default::default()
        };
        let found = policy(&case["inputs"], options, verl_mode(settings), None);
        found.check(name, &case["expected"]);
    });
}

#[test]
fn reinforce_is_that_of_verl() {
    each(&["reinforce_"], 4, |name, case| {
        let settings = &case["settings"];
        let importance = match settings["importance_cap"].as_f64() {
            Some(cap) => Importance::Truncated { cap },
            None => Importance::Off,
        };
        let options = PolicyOptions {
            importance,
            ..Default::default()
        };
        let found = policy(&case["inputs"], options, verl_mode(settings), None);
        found.check(name, &case["expected"]);
    });
}

#[test]
fn grpo_losses_are_those_of_trl() {
    each(&["grpo_", "dr_grpo_", "bnpo_", "dapo_"], 8, |name, case| {
        let (settings, expected) = (&case["settings"], &case["expected"]);
        let count = |key: &str| settings[key].as_u64().unwrap() as usize;
        let (normalisation, tokens) = match settings["loss_type"].as_str().unwrap() {
            "grpo" => (Normalisation::SequenceMean, None),
            "bnpo" => (Normalisation::TokenMean, None),
            // The tokens of a whole accumulation window, of which this batch is a part.
            "dapo" => (Normalisation::TokenMean, Some(count("num_items_in_batch"))),
            "dr_grpo" => {
                let tokens = count("max_completion_length");
                (Normalisation::FixedLength { tokens }, None)
            }
            other => panic!("no such loss: {other}"),
        };
        let options = PolicyOptions {
            surrogate: Surrogate::Clipped {
                low: number(&settings["epsilon_low"]),
                high: number(&settings["epsilon_high"]),
                dual: None,
            },
            kl_coefficient: number(&settings["beta"]),
            kl: KlTerm::K3Loss,
            ..Default::default()
        };
        let found = policy(&case["inputs"], options, normalisation, tokens);
        found.check(name, expected);
        close(
            name,
            &[found.share(Clip::Low), found.share(Clip::High)],
            &[
                number(&expected["clip_fraction_low"]),
                number(&expected["clip_fraction_high"]),
            ],
        );
    });
}

#[test]
fn kl_estimates_are_those_of_verl() {
    each(&["kl_"], 3, |name, case| {
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        let pairs = || {
            let reference = rows(&inputs["ref_logprobs"]).concat();
            rows(&inputs["logprobs"])
                .concat()
                .into_iter()
                .zip(reference)
        };
        let values: Vec<f64> = pairs()
            .map(|(logprob, reference)| {
                let estimates = kl_estimates(logprob, reference);
                match name {
                    "kl_k1" => estimates.k1,
                    "kl_k2" => estimates.k2,
                    "kl_k3" => estimates.k3,
                    other => panic!("no such estimate: {other}"),
                }
            })
            .collect();
        close(name, &values, &rows(&expected["values"]).concat());
        let term = match name {
            "kl_k2" => KlTerm::K2Loss,
            "kl_k3" => KlTerm::K3Loss,
            _ => return, // k1 is no loss here
        };
        let options = PolicyOptions {
            kl_coefficient: 1.0,
            kl: term,
            ..Default::default()
        };
        let slopes: Vec<f64> = pairs()
            .map(|(logprob, reference)| {
                let token = PolicyToken {
                    logprob,
                    old: logprob,
                    behaviour: logprob,
                    reference: Some(reference),
                    advantage: 0.0,
                    entropy: 0.0,
                };
                policy_loss(token, options).0.derivative
            })
            .collect();
        close(name, &slopes, &rows(&expected["gradients"]).concat());
    });
}

#[test]
fn importance_weights_are_those_of_verl() {
    each(&["importance_"], 2, |name, case| {
        let importance = match name {
            "importance_truncated" => Importance::Truncated { cap: 2.0 },
            "importance_masked" => Importance::Masked {
                floor: 0.5,
                cap: 2.0,
            },
            other => panic!("no such weights: {other}"),
        };
        let inputs = &case["inputs"];
        let old = rows(&inputs["old_logprobs"]).concat();
        let found: Vec<f64> = rows(&inputs["logprobs"])
            .concat()
            .iter()
            .zip(old)
            .map(|(logprob, old)| importance.weight(*logprob, old).0)
            .collect();
        close(name, &found, &rows(&case["expected"]["weights"]).concat());
    });
}

#[test]
fn preference_losses_are_those_of_trl() {
    each(&["dpo_"], 2, |name, case| {
        let (settings, inputs) = (&case["settings"], &case["inputs"]);
        let options = PreferenceOptions {
            beta: number(&settings["beta"]),
            label_smoothing: number(&settings["label_smoothing"]),
        };
        let actions = |policy: &str, reference: &str| -> Vec<ActionLogprob> {
            let pairs = list(&inputs[policy])
                .into_iter()
                .zip(list(&inputs[reference]));
            pairs
                .map(|(policy, reference)| ActionLogprob { policy, reference })
                .collect()
        };
        let chosen = actions("chosen", "ref_chosen");
        let losses: Vec<_> = chosen
            .into_iter()
            .zip(actions("rejected", "ref_rejected"))
            .map(|(better, worse)| preference_loss(better, worse, options))
            .collect();
        let of = |part: fn(&algo::loss::TokenLoss) -> f64| -> Vec<f64> {
            losses.iter().map(part).collect()
        };
        let expected = &case["expected"];
        close(name, &of(|l| l.value), &list(&expected["losses"]));
        close(
            name,
            &of(|l| l.derivative),
            &list(&expected["chosen_gradients"]),
        );
        close(
            name,
            &of(|l| -l.derivative),
            &list(&expected["rejected_gradients"]),
        );
    });
}

/// Hidden states that are the logits themselves: the output matrix is the identity.
fn identity(width: usize) -> Tensor {
    Tensor::eye(width as i64, (tch::Kind::Double, tch::Device::Cpu))
}

fn logits(inputs: &Value) -> Vec<Vec<f64>> {
    let sequences = inputs["logits"].as_array().unwrap();
    sequences.iter().flat_map(rows).collect()
}

#[test]
fn cross_entropy_is_that_of_trl_and_transformers() {
    each(&["sft_"], 2, |name, case| {
        let logits = logits(&case["inputs"]);
        let labels = rows(&case["inputs"]["labels"]).concat();
        let trained: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] >= 0.0).collect();
        let targets: Vec<Target> = trained
            .iter()
            .enumerate()
            .map(|(row, place)| Target {
                row,
                token: labels[*place] as u32,
                sample: 0,
                offset: *place,
            })
            .collect();
        let rows_of: Vec<f64> = trained.iter().flat_map(|i| logits[*i].clone()).collect();
        let width = logits[0].len();
        let hidden = Tensor::from_slice(&rows_of).view([-1, width as i64]);
        let weight = identity(width);
        let head = Head {
            weight: &weight,
            softcap: None,
            temperature: 1.0,
        };
        let share = 1.0 / targets.len() as f64;
        let mut loss = 0.0;
        let (gradient, scores) = logprob::backward(&hidden, head, &targets, 3, None, |_, drawn| {
            let own = cross_entropy(drawn.logprob).weighted(share);
            loss += own.value;
            Pull {
                by_logprob: own.derivative,
                by_entropy: own.by_entropy,
            }
        });
        close(name, &[loss], &[number(&case["expected"]["loss"])]);
        let expected: Vec<Vec<f64>> = case["expected"]["gradients"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(rows)
            .collect();
        let expected: Vec<f64> = trained.iter().flat_map(|i| expected[*i].clone()).collect();
        let found: Vec<f64> = Vec::try_from(gradient.view(-1)).unwrap();
        close(name, &found, &expected);
        if let Some(mean) = case["expected"]["mean_entropy"].as_f64() {
            let found = scores.entropies.iter().sum::<f64>() * share;
            close(name, &[found], &[mean]);
        }
    });
}

#[test]
fn entropies_are_those_of_trl() {
    each(&["entropy"], 1, |name, case| {
        let logits = logits(&case["inputs"]);
        let width = logits[0].len();
        let hidden = Tensor::from_slice(&logits.concat()).view([-1, width as i64]);
        let weight = identity(width);
        let head = Head {
            weight: &weight,
            softcap: None,
            temperature: 1.0,
        };
        let targets: Vec<Target> = (0..logits.len())
            .map(|row| Target {
                row,
                token: 0,
                sample: 0,
                offset: row,
            })
            .collect();
        let found = logprob::score(&hidden, head, &targets, 4).entropies;
        close(name, &found, &rows(&case["expected"]["entropy"]).concat());
    });
}
