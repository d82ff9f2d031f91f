//! From logits to sampled tokens.
//!
//! Every draw is inverse-CDF sampling with one uniform number from the host, a function of
//! (seed, sample, position) alone.
//!
//! - **DR-1 (batch-free).** A row's draw depends on its own logits, parameters and uniform number.
//! - **DR-2 (no impossible token).** A token of probability zero is never drawn, whatever the
//!   uniform number; so every log-probability is finite.
//! - **DR-3 (ties).** Among equal logits the lower id comes first: greedy takes it, and top-k and
//!   top-p keep it rather than a higher one.
//!
//! Order of truncation: temperature, top-k, then top-p over what top-k kept, renormalised.

use proto::SamplingParams;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// Tokens per block of the two-level inverse CDF: the host sees the blocks' sums and one block a
/// row, not the vocabulary.
const BLOCK: i64 = 256;
/// How many of the most probable tokens top-p looks at first; it looks at more where they are
/// fewer than it keeps.
const FIRST_CANDIDATES: i64 = 128;
/// Growth of that number.
const MORE_CANDIDATES: i64 = 8;

/// How one row is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw<'a> {
    pub params: &'a SamplingParams,
    /// In [0, 1).
    pub uniform: f64,
}

/// A sampled token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    /// Natural logarithm of the probability it was drawn with; greedy: under the plain softmax.
    pub logprob: f32,
}

/// The logits of a row hold NaN, or an infinity that leaves no distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotFinite;

/// The uniform number, in [0, 1), of a position of a sample: word `position` of ChaCha8's stream
/// `sample` under the seed.
pub(crate) fn uniform(seed: u64, sample: u32, position: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(sample));
    rng.set_word_pos(2 * position as u128);
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Draws one token for each row of `logits` `[B, V]`.
pub(crate) fn draw(logits: &Tensor, draws: &[Draw]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1];
    let mut drawn = vec![Err(NotFinite); draws.len()];
    type Method = fn(&Tensor, &[Draw]) -> Vec<Result<Drawn, NotFinite>>;
    for (which, method) in [
        (Way::Greedy, greedy as Method),
        (Way::Plain, plain as Method),
        (Way::Truncated, truncated as Method),
    ] {
        let rows: Vec<i64> = (0..draws.len() as i64)
            .filter(|&row| way(draws[row as usize].params, vocab) == which)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let own: Vec<Draw> = rows.iter().map(|&row| draws[row as usize]).collect();
        for (row, result) in rows
            .iter()
            .zip(method(&pick(logits, &rows).to_kind(Kind::Float), &own))
        {
            drawn[*row as usize] = result;
        }
    }
    drawn
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Greedy,
    Plain,
    Truncated,
}

fn way(params: &SamplingParams, vocab: i64) -> Way {
    let top_k = params.top_k > 0 && i64::from(params.top_k) < vocab;
    match (params.temperature == 0.0, params.top_p < 1.0 || top_k) {
        (true, _) => Way::Greedy,
        (false, false) => Way::Plain,
        (false, true) => Way::Truncated,
    }
}

/// Rows of a matrix; the matrix itself where it is all of them.
fn pick(matrix: &Tensor, rows: &[i64]) -> Tensor {
    if rows.len() as i64 == matrix.size()[0] {
        return matrix.shallow_clone();
    }
    matrix.index_select(0, &Tensor::from_slice(rows).to_device(matrix.device()))
}

/// The most probable token, the lowest id among equals.
fn greedy(logits: &Tensor, _: &[Draw]) -> Vec<Result<Drawn, NotFinite>> {
    let best = logits.argmax(-1, true); // [R, 1], the first of equals
    let logprobs = logits.gather(1, &best, false) - logits.logsumexp([1i64].as_slice(), true);
    let (best, logprobs) = (host_ids(&best), host(&logprobs));
    best.into_iter()
        .zip(logprobs)
        .map(|(id, logprob)| finite(id, logprob))
        .collect()
}

/// Draws from the whole vocabulary.
fn plain(logits: &Tensor, draws: &[Draw]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1];
    let probabilities = scaled(logits, draws).softmax(-1, Kind::Float); // [R, V]
    let padded = match vocab % BLOCK {
        0 => probabilities,
        over => probabilities.constant_pad_nd([0, BLOCK - over]),
    };
    let blocks = padded.view([draws.len() as i64, -1, BLOCK]); // [R, N, BLOCK]
    let count = blocks.size()[1];
    let sums = host(&blocks.sum_dim_intlist([2i64].as_slice(), false, Kind::Float)); // [R · N]
    let chosen: Vec<Option<Choice>> = sums
        .chunks(count as usize)
        .zip(draws)
        .map(|(sums, draw)| invert(sums, draw.uniform))
        .collect();
    let places: Vec<i64> = chosen
        .iter()
        .enumerate()
        .map(|(row, choice)| row as i64 * count + choice.map_or(0, |choice| choice.index as i64))
        .collect();
    let places = Tensor::from_slice(&places).to_device(logits.device());
    let inner = host(&blocks.view([-1, BLOCK]).index_select(0, &places)); // [R · BLOCK]
    chosen
        .into_iter()
        .zip(inner.chunks(BLOCK as usize))
        .map(|(choice, block)| within_block(choice.ok_or(NotFinite)?, block))
        .collect()
}

fn within_block(choice: Choice, block: &[f32]) -> Result<Drawn, NotFinite> {
    let token = invert(block, choice.rest).ok_or(NotFinite)?;
    let id = choice.index as i64 * BLOCK + token.index as i64;
    finite(
        id,
        (f64::from(block[token.index]) / choice.total).ln() as f32,
    )
}

/// Draws from what top-k and top-p keep.
fn truncated(logits: &Tensor, draws: &[Draw]) -> Vec<Result<Drawn, NotFinite>> {
    let vocab = logits.size()[1];
    let scaled = scaled(logits, draws);
    let normalisers = host(&scaled.logsumexp([1i64].as_slice(), false));
    let largest_k = draws
        .iter()
        .map(|draw| i64::from(draw.params.top_k))
        .max()
        .unwrap_or(0);
    // One more than top-k keeps, so that a tie at its edge is seen.
    let mut candidates = FIRST_CANDIDATES.max(largest_k.min(vocab) + 1).min(vocab);
    let mut drawn = vec![Err(NotFinite); draws.len()];
    let mut open: Vec<i64> = (0..draws.len() as i64).collect();
    loop {
        let (values, ids) = pick(&scaled, &open).topk(candidates, -1, true, true);
        let (values, ids) = (host(&values), host_ids(&ids));
        let width = candidates as usize;
        let mut unclear = Vec::new();
        for (place, &row) in open.iter().enumerate() {
            let part = place * width..(place + 1) * width;
            let found = Candidates::new(&values[part.clone()], &ids[part], candidates == vocab);
            let index = row as usize;
            match found.keep(draws[index].params, f64::from(normalisers[index])) {
                Some(kept) => drawn[index] = from_kept(&kept, draws[index].uniform),
                None => unclear.push(row),
            }
        }
        if unclear.is_empty() {
            return drawn;
        }
        open = unclear;
        candidates = (candidates * MORE_CANDIDATES).min(vocab);
    }
}

/// The most probable tokens of a row as far as they are certain, most probable first (DR-3).
struct Candidates {
    sorted: Vec<(f32, i64)>,
    complete: bool,
}

impl Candidates {
    /// `complete`: these are the whole vocabulary.
    fn new(values: &[f32], ids: &[i64], complete: bool) -> Self {
        let mut sorted: Vec<(f32, i64)> = values.iter().copied().zip(ids.iter().copied()).collect();
        if let Some(&(lowest, _)) = sorted.last()
            && !complete
        {
            // Equals of the last one may have been left out: which of them were is not defined.
            sorted.retain(|(value, _)| *value > lowest);
        }
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Self { sorted, complete }
    }

    /// What top-k and then top-p keep; `None` when more candidates are needed to tell.
    fn keep(&self, params: &SamplingParams, normaliser: f64) -> Option<Vec<(f32, i64)>> {
        let mut kept = self.sorted.as_slice();
        let mut certain = self.complete;
        let mut normaliser = normaliser;
        if params.top_k > 0 {
            let top_k = params.top_k as usize;
            if kept.len() < top_k && !self.complete {
                return None;
            }
            kept = &kept[..top_k.min(kept.len())];
            certain = true;
            normaliser = log_sum_exp(kept);
        }
        if params.top_p < 1.0 {
            let mut sum = 0.0;
            let enough = kept.iter().position(|(value, _)| {
                sum += (f64::from(*value) - normaliser).exp();
                sum >= f64::from(params.top_p)
            });
            match enough {
                Some(last) => kept = &kept[..=last],
                None if !certain => return None,
                None => {} // rounding kept the sum just below top-p: all are kept
            }
        } else if !certain {
            return None;
        }
        Some(kept.to_vec())
    }
}

fn log_sum_exp(kept: &[(f32, i64)]) -> f64 {
    let highest = kept.first().map_or(0.0, |(value, _)| f64::from(*value));
    highest
        + kept
            .iter()
            .map(|(value, _)| (f64::from(*value) - highest).exp())
            .sum::<f64>()
            .ln()
}

fn from_kept(kept: &[(f32, i64)], uniform: f64) -> Result<Drawn, NotFinite> {
    let highest = kept.first().map_or(0.0, |(value, _)| *value);
    let weights: Vec<f32> = kept
        .iter()
        .map(|(value, _)| (value - highest).exp())
        .collect();
    let choice = invert(&weights, uniform).ok_or(NotFinite)?;
    let probability = f64::from(weights[choice.index]) / choice.total;
    finite(kept[choice.index].1, probability.ln() as f32)
}

/// Where a uniform number falls within weights that need not sum to one.
#[derive(Debug, Clone, Copy)]
struct Choice {
    index: usize,
    /// The uniform number's place within the chosen weight, again in [0, 1).
    rest: f64,
    /// Sum of all weights.
    total: f64,
}

/// The first index whose cumulated weight exceeds `uniform · total`; `None` when there is no
/// distribution. Its weight is positive (DR-2): a weight of zero adds nothing, so that its
/// cumulated weight exceeds nothing its predecessor's did not.
fn invert(weights: &[f32], uniform: f64) -> Option<Choice> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let target = uniform * total;
    let mut below = 0.0;
    let mut last = None;
    for (index, weight) in weights.iter().copied().map(f64::from).enumerate() {
        if weight > 0.0 {
            let rest = ((target - below) / weight).clamp(0.0, 1.0 - f64::EPSILON);
            last = Some(Choice { index, rest, total });
            if below + weight > target {
                return last;
            }
        }
        below += weight;
    }
    last // rounding only: the target is at the very end
}

/// Logits over temperature.
fn scaled(logits: &Tensor, draws: &[Draw]) -> Tensor {
    if draws.iter().all(|draw| draw.params.temperature == 1.0) {
        return logits.shallow_clone();
    }
    let temperatures: Vec<f32> = draws.iter().map(|draw| draw.params.temperature).collect();
    logits
        / Tensor::from_slice(&temperatures)
            .to_device(logits.device())
            .unsqueeze(1)
}

fn finite(id: i64, logprob: f32) -> Result<Drawn, NotFinite> {
    match logprob.is_finite() {
        true => Ok(Drawn {
            token: u32::try_from(id).map_err(|_| NotFinite)?,
            logprob,
        }),
        false => Err(NotFinite),
    }
}

/// The values of a float tensor, in row-major order.
fn host(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view([-1]);
    Vec::try_from(&flat).expect("a flat f32 tensor is a vector")
}

fn host_ids(tensor: &Tensor) -> Vec<i64> {
    let flat = tensor.contiguous().view([-1]);
    Vec::try_from(&flat).expect("a flat i64 tensor is a vector")
}

#[cfg(test)]
mod tests;
