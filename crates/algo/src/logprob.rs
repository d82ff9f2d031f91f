//! Log-probabilities of trained tokens, and the way back, without a `[tokens, vocabulary]` matrix.
//!
//! Hidden states are taken at the predicting positions only and multiplied by the output matrix a
//! chunk at a time. The derivative of a log-softmax is known in closed form, so no graph is kept:
//! within a chunk the logits are overwritten, some rows at a time while they are in the cache, by
//! their own gradient, which two products carry on into hidden states and output matrix.
//!
//! With `z = logits / temperature`, `p = softmax(z)`, `g` the derivative of the loss by the
//! log-probability of token `a` and `e` that by the entropy `H`:
//! `∂loss/∂zᵥ = g · (1[v = a] − pᵥ) − e · pᵥ · (log pᵥ + H)`, summed over a row's targets.

use crate::gradient::GradientSum;
use crate::pack::Target;
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

/// Rows of logits that are worked on at once on a CPU: 8 × 49,152 × 4 bytes are 1.5 MiB.
const CPU_BLOCK_ROWS: i64 = 8;

/// What turns a hidden state into a distribution.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Output matrix, `[V, H]`. Hidden states are converted to its type.
    pub weight: &'a Tensor,
    /// Logits become `cap · tanh(logit / cap)`, where the model has that.
    pub softcap: Option<f64>,
    /// Logits are divided by it, as the sampler divides them; above 0.
    pub temperature: f64,
}

/// What the distributions say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Log-probability of each target, in nats.
    pub logprobs: Vec<f64>,
    /// Entropy of each row's distribution, in nats.
    pub entropies: Vec<f64>,
}

/// Log-probabilities of `targets` under `hidden` (`[P, H]`).
/// Targets are in the order of their rows. No gradient.
pub fn score(hidden: &Tensor, head: Head, targets: &[Target], chunk_rows: i64) -> Scores {
    let mut scores = Scores::default();
    no_grad(|| {
        for (start, rows) in spans(hidden.size()[0], chunk_rows) {
            let chunk = hidden.narrow(0, start, rows).to_kind(head.weight.kind());
            let logits = chunk.matmul(&head.weight.tr()); // [C, V]
            for (first, rows) in spans(rows, block_rows(hidden.device(), chunk_rows)) {
                let block =
                    Block::new(&logits.narrow(0, first, rows), head, start + first, targets);
                block.record(targets, &mut scores);
            }
        }
    });
    scores
}

/// What a target's place in its distribution is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its log-probability, in nats.
    pub logprob: f64,
    /// Entropy of the distribution, in nats.
    pub entropy: f64,
}

/// Derivatives of a loss by what [`Drawn`] says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pull {
    /// By the log-probability.
    pub by_logprob: f64,
    /// By the entropy.
    pub by_entropy: f64,
}

/// Carries a loss back: `pull(i, drawn)` gives its derivatives at `targets[i]`. Returns the loss's
/// gradient by `hidden` (`[P, H]`, in its type) and what [`score`] returns; adds the gradient by the output matrix to `weight_gradient` (`[V, H]`, f32 or
/// wider) if there is one.
pub fn backward(
    hidden: &Tensor,
    head: Head,
    targets: &[Target],
    chunk_rows: i64,
    mut weight_gradient: Option<&mut GradientSum>,
    mut pull: impl FnMut(usize, Drawn) -> Pull,
) -> (Tensor, Scores) {
    let mut scores = Scores::default();
    let hidden = hidden.detach();
    let gradient = hidden.empty_like();
    no_grad(|| {
        for (start, rows) in spans(hidden.size()[0], chunk_rows) {
            let chunk = hidden.narrow(0, start, rows).to_kind(head.weight.kind());
            let logits = chunk.matmul(&head.weight.tr()); // [C, V]
            for (first, rows) in spans(rows, block_rows(hidden.device(), chunk_rows)) {
                let mut place = logits.narrow(0, first, rows);
                let block = Block::new(&place, head, start + first, targets);
                let drawn = block.record(targets, &mut scores);
                let pulls: Vec<Pull> = block
                    .targets
                    .clone()
                    .zip(drawn)
                    .map(|(i, drawn)| pull(i, drawn))
                    .collect();
                place.copy_(&block.gradient(head, &pulls));
            }
            gradient
                .narrow(0, start, rows)
                .copy_(&logits.matmul(head.weight));
            if let Some(sum) = weight_gradient.as_deref_mut() {
                sum.add(&logits.tr().matmul(&chunk));
            }
        }
    });
    (gradient, scores)
}

/// Some rows of a chunk.
struct Block {
    capped: Option<Tensor>, // [R, V], logits behind the cap
    logprobs: Tensor,       // [R, V]
    probabilities: Tensor,  // [R, V]
    entropies: Tensor,      // [R]
    targets: Range<usize>,
    /// Row of each target within the block, and its place in the block laid flat.
    rows: Tensor, // [n], i64
    places: Tensor, // [n], i64
}

impl Block {
    /// `logits` are those of rows `first..`, straight from the output matrix.
    fn new(logits: &Tensor, head: Head, first: i64, all: &[Target]) -> Self {
        let [rows, vocabulary] = logits.size()[..] else {
            unreachable!("logits are a matrix")
        };
        let wide = if logits.kind() == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let plain = logits.to_kind(wide);
        let capped = head.softcap.map(|cap| (&plain / cap).tanh() * cap);
        let z = capped.as_ref().unwrap_or(&plain);
        let logprobs = if head.temperature == 1.0 {
            z.log_softmax(-1, wide)
        } else {
            (z / head.temperature).log_softmax(-1, wide)
        };
        let probabilities = logprobs.exp();
        // Not a matrix-vector product, which runs on one thread.
        let entropies = (&probabilities * &logprobs)
            .sum_dim_intlist([-1i64].as_slice(), false, wide)
            .neg();
        let row_of = |target: &Target| target.row as i64;
        let targets = all.partition_point(|t| row_of(t) < first)
            ..all.partition_point(|t| row_of(t) < first + rows);
        let own = &all[targets.clone()];
        let row: Vec<i64> = own.iter().map(|t| row_of(t) - first).collect();
        let place: Vec<i64> = own
            .iter()
            .zip(&row)
            .map(|(t, row)| row * vocabulary + i64::from(t.token))
            .collect();
        let to_device = |v: &[i64]| Tensor::from_slice(v).to_device(logits.device());
        let (rows, places) = (to_device(&row), to_device(&place));
        Self {
            capped,
            logprobs,
            probabilities,
            entropies,
            targets,
            rows,
            places,
        }
    }

    /// Appends the block's scores; returns those of its targets.
    fn record(&self, all: &[Target], scores: &mut Scores) -> Vec<Drawn> {
        debug_assert!(self.targets.end <= all.len());
        let picked = to_host(&self.logprobs.view(-1).index_select(0, &self.places));
        let entropies = to_host(&self.entropies);
        scores.logprobs.extend(&picked);
        scores.entropies.extend(entropies); // rows come in order: a row's number is its place
        all[self.targets.clone()]
            .iter()
            .zip(picked)
            .map(|(target, logprob)| Drawn {
                logprob,
                entropy: scores.entropies[target.row],
            })
            .collect()
    }

    /// Gradient by the logits, `[R, V]`.
    fn gradient(self, head: Head, pulls: &[Pull]) -> Tensor {
        let kind = self.probabilities.kind();
        let by = |part: fn(&Pull) -> f64| {
            let values: Vec<f64> = pulls.iter().map(part).collect();
            (Tensor::from_slice(&values) / head.temperature)
                .to_kind(kind)
                .to_device(self.rows.device()) // [n]
        };
        let rows = self.probabilities.size()[0];
        let sums = |values: &Tensor| {
            let mut sums = Tensor::zeros([rows], (kind, self.rows.device()));
            let _ = sums.index_add_(0, &self.rows, values);
            sums.unsqueeze(1) // [R, 1]
        };
        let g = by(|pull| pull.by_logprob);
        let factor = sums(&g);
        let factor = if pulls.iter().any(|pull| pull.by_entropy != 0.0) {
            let e = sums(&by(|pull| pull.by_entropy));
            factor + e * (&self.logprobs + self.entropies.unsqueeze(1)) // [R, V]
        } else {
            factor
        };
        let mut gradient = self.probabilities;
        gradient *= &factor.neg();
        let _ = gradient.view(-1).index_add_(0, &self.places, &g);
        if let (Some(cap), Some(capped)) = (head.softcap, self.capped) {
            gradient *= 1.0 - (capped / cap).square(); // d tanh
        }
        gradient
    }
}

fn to_host(values: &Tensor) -> Vec<f64> {
    Vec::try_from(values.to_kind(Kind::Double)).expect("one dimension, of type f64")
}

fn block_rows(device: Device, chunk_rows: i64) -> i64 {
    if device == Device::Cpu {
        CPU_BLOCK_ROWS
    } else {
        chunk_rows
    }
}

/// `(start, length)` of the pieces of `0..total` that are at most `size` long.
fn spans(total: i64, size: i64) -> impl Iterator<Item = (i64, i64)> {
    let size = size.max(1);
    (0..total)
        .step_by(size as usize)
        .map(move |start| (start, size.min(total - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 5;
    const WIDTH: usize = 3;
    const VOCABULARY: usize = 7;

    fn targets() -> Vec<Target> {
        let target = |row, token| Target {
            row,
            token,
            sample: 0,
            offset: 0,
        };
        vec![
            target(0, 2),
            target(1, 6),
            target(1, 0),
            target(1, 6),
            target(3, 1),
            target(4, 4),
        ]
    }

    fn numbers(count: usize, seed: f64) -> Vec<f64> {
        (0..count)
            .map(|i| ((i as f64 + 1.0) * seed).sin())
            .collect()
    }

    /// Log-probabilities and entropies the long way, in f64 on the host.
    fn plain(hidden: &[f64], weight: &[f64], softcap: Option<f64>, temperature: f64) -> Scores {
        let distribution = |row: usize| -> Vec<f64> {
            let logits: Vec<f64> = (0..VOCABULARY)
                .map(|v| {
                    let dot: f64 = (0..WIDTH)
                        .map(|i| hidden[row * WIDTH + i] * weight[v * WIDTH + i])
                        .sum();
                    softcap.map_or(dot, |cap| cap * (dot / cap).tanh()) / temperature
                })
                .collect();
            let log_sum = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            logits.iter().map(|l| l - log_sum).collect()
        };
        Scores {
            logprobs: targets()
                .iter()
                .map(|t| distribution(t.row)[t.token as usize])
                .collect(),
            entropies: (0..ROWS)
                .map(|row| -distribution(row).iter().map(|l| l * l.exp()).sum::<f64>())
                .collect(),
        }
    }

    /// A loss that is not linear in log-probabilities and entropies; [`pull`] is its derivative.
    fn loss(scores: &Scores) -> f64 {
        targets()
            .iter()
            .zip(&scores.logprobs)
            .enumerate()
            .map(|(i, (target, l))| {
                let h = scores.entropies[target.row];
                (i as f64 - 2.0) * l + 0.5 * l * l + 0.3 * i as f64 * h * h
            })
            .sum()
    }

    fn pull(i: usize, drawn: Drawn) -> Pull {
        Pull {
            by_logprob: i as f64 - 2.0 + drawn.logprob,
            by_entropy: 0.6 * i as f64 * drawn.entropy,
        }
    }

    fn matrix(values: &[f64], columns: usize) -> Tensor {
        Tensor::from_slice(values).view([-1, columns as i64])
    }

    fn close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < tolerance,
                "{found} for {expected}"
            );
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_plain_formula() {
        let (hidden, weight) = (numbers(ROWS * WIDTH, 1.7), numbers(VOCABULARY * WIDTH, 2.3));
        for (softcap, temperature) in [(None, 1.0), (None, 0.7), (Some(1.5), 1.0), (Some(2.0), 1.3)]
        {
            for chunk in [1, 2, 100] {
                let weight_tensor = matrix(&weight, WIDTH);
                let head = Head {
                    weight: &weight_tensor,
                    softcap,
                    temperature,
                };
                let mut by_weight = GradientSum::new(weight_tensor.ones_like());
                let (by_hidden, scores) = backward(
                    &matrix(&hidden, WIDTH),
                    head,
                    &targets(),
                    chunk,
                    Some(&mut by_weight),
                    pull,
                );
                let expected = plain(&hidden, &weight, softcap, temperature);
                close(&scores.logprobs, &expected.logprobs, 1e-12);
                close(&scores.entropies, &expected.entropies, 1e-12);
                assert_eq!(
                    score(&matrix(&hidden, WIDTH), head, &targets(), chunk),
                    scores
                );
                let at = |h: &[f64], w: &[f64]| loss(&plain(h, w, softcap, temperature));
                let slopes = differences(&hidden, |h| at(h, &weight));
                close(&to_host(&by_hidden.view(-1)), &slopes, 1e-7);
                let slopes = differences(&weight, |w| at(&hidden, w));
                close(&to_host(&by_weight.tensor.view(-1)), &slopes, 1e-7);
            }
        }
    }

    fn differences(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let step = 1e-6;
        let moved = |i: usize, by: f64| {
            let mut values = at.to_vec();
            values[i] += by;
            f(&values)
        };
        (0..at.len())
            .map(|i| (moved(i, step) - moved(i, -step)) / (2.0 * step))
            .collect()
    }

    /// Hidden states in bf16 below a head in f32: nothing but the hidden states is rounded.
    #[test]
    fn a_head_in_f32_rounds_no_logits() {
        let hidden = matrix(&numbers(ROWS * WIDTH, 0.9), WIDTH).to_kind(Kind::BFloat16);
        let weight = (matrix(&numbers(VOCABULARY * WIDTH, 2.3), WIDTH) * 20.0).to_kind(Kind::Float);
        let scores = |hidden: &Tensor, weight: &Tensor| {
            let head = Head {
                weight,
                softcap: None,
                temperature: 1.0,
            };
            let mut sum = GradientSum::new(weight.zeros_like().to_kind(Kind::Float));
            let targets = targets();
            let (gradient, scores) =
                backward(hidden, head, &targets, 2, Some(&mut sum), |_, _| Pull {
                    by_logprob: -1.0,
                    by_entropy: 0.0,
                });
            assert_eq!(gradient.kind(), hidden.kind());
            scores
        };
        let exact = scores(&hidden.to_kind(Kind::Float), &weight);
        assert_eq!(scores(&hidden, &weight), exact);
        let rounded = scores(&hidden, &weight.to_kind(Kind::BFloat16));
        assert_ne!(rounded, exact);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let hidden = matrix(&[1e4; WIDTH], WIDTH).to_kind(Kind::Float);
        let weight = matrix(&numbers(VOCABULARY * WIDTH, 2.3), WIDTH).to_kind(Kind::Float);
        let head = Head {
            weight: &weight,
            softcap: None,
            temperature: 1.0,
        };
        let one = [Target {
            row: 0,
            token: 3,
            sample: 0,
            offset: 0,
        }];
        let (gradient, scores) = backward(&hidden, head, &one, 4, None, |_, _| Pull {
            by_logprob: -1.0,
            by_entropy: 0.1,
        });
        assert!(scores.logprobs[0].is_finite() && scores.entropies[0].is_finite());
        assert!(to_host(&gradient.view(-1)).iter().all(|g| g.is_finite()));
    }
}
