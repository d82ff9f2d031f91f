//! Which waiting prompts are prefilled together.

/// Padding may add this share of the real tokens to a call.
const PADDING_SHARE: f64 = 0.25;

/// A prompt that waits, as far as planning is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Rows its samples ask for.
    pub samples: usize,
}

/// Picks indices into `queue` (oldest first) for one prefill call: the oldest always, so that none
/// starves, then those nearest to it in length while `free_rows` last for their samples, the
/// padded call stays within `max_tokens`, and padding stays a small share. Ascending.
pub(crate) fn group(queue: &[Waiting], free_rows: usize, max_tokens: usize) -> Vec<usize> {
    let Some(oldest) = queue.first() else {
        return Vec::new();
    };
    let mut by_distance: Vec<usize> = (1..queue.len()).collect();
    by_distance.sort_by_key(|&index| queue[index].tokens.abs_diff(oldest.tokens));
    let mut picked = vec![0];
    let (mut rows, mut longest, mut real) = (oldest.samples, oldest.tokens, oldest.tokens);
    for index in by_distance {
        let next = queue[index];
        let padded = longest.max(next.tokens) * (picked.len() + 1);
        let allowed = (real + next.tokens) as f64 * (1.0 + PADDING_SHARE);
        if rows >= free_rows || padded > max_tokens || padded as f64 > allowed {
            break;
        }
        picked.push(index);
        rows += next.samples;
        longest = longest.max(next.tokens);
        real += next.tokens;
    }
    picked.sort_unstable();
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(tokens, samples)` of what waits, free rows, tokens per call, and the chosen places.
    type Case = (&'static [(usize, usize)], usize, usize, &'static [usize]);

    #[test]
    fn groups_are_near_in_length_and_bounded() {
        let cases: [Case; 7] = [
            (&[], 4, 100, &[]),
            (&[(500, 1)], 4, 100, &[0]), // a long prompt goes alone, it is not refused
            (&[(10, 1), (10, 1), (11, 1)], 4, 100, &[0, 1, 2]),
            (&[(10, 1), (90, 1), (11, 1)], 4, 1000, &[0, 2]), // the long one would be mostly padding
            (&[(10, 1), (10, 1), (10, 1)], 2, 100, &[0, 1]),  // rows
            (&[(10, 1), (10, 1), (10, 1)], 4, 20, &[0, 1]),   // tokens
            (&[(10, 8), (10, 1)], 4, 100, &[0]),              // its samples take all rows
        ];
        for (queue, rows, tokens, expected) in cases {
            let queue: Vec<_> = queue
                .iter()
                .map(|&(tokens, samples)| Waiting { tokens, samples })
                .collect();
            assert_eq!(
                group(&queue, rows, tokens),
                expected,
                "{queue:?} {rows} {tokens}"
            );
        }
    }
}
