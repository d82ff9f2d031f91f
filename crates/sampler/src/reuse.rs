//! Keys and values of finished sequences, for prompts that begin like them: the next step of a
//! trajectory begins with the whole last one, and all prompts of a run begin with the same system
//! message. What stands for the keys is the caller's: nothing is decided by it.

use std::collections::VecDeque;

/// Beginnings shorter than this are not worth a copy.
const MIN_TOKENS: usize = 16;

/// Scores per head that extending a beginning may compute: it holds them all at once, unlike a
/// prefill. A prompt beyond it is prefilled whole.
const MAX_SCORES: usize = 1 << 21;

#[derive(Debug)]
struct Entry<K> {
    /// What the keys are of.
    tokens: Vec<u32>,
    keys: K,
}

/// The latest sequences, each with the keys of its tokens. All are of the weights that are served.
#[derive(Debug)]
pub(crate) struct Reuse<K> {
    entries: VecDeque<Entry<K>>,
    limit: usize,
}

/// Where the beginning of a prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    entry: usize,
    /// Leading tokens of the prompt that are there.
    pub tokens: usize,
}

impl<K> Reuse<K> {
    /// Keeps the latest `limit` sequences.
    pub fn new(limit: usize) -> Self {
        let entries = VecDeque::new();
        Self { entries, limit }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Keeps a sequence in the place of the oldest, and of those that are its beginnings.
    pub fn keep(&mut self, tokens: Vec<u32>, keys: K) {
        self.entries
            .retain(|entry| !tokens.starts_with(&entry.tokens));
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { tokens, keys });
    }

    /// The longest beginning of `prompt` that is worth taking over. The prompt's last token is never
    /// part of it: its hidden state is what sampling begins with.
    pub fn find(&self, prompt: &[u32]) -> Option<Found> {
        let (entry, tokens) = self
            .entries
            .iter()
            .map(|entry| taken_over(&entry.tokens, prompt))
            .enumerate()
            .max_by_key(|&(_, tokens)| tokens)?;
        (tokens > 0).then_some(Found { entry, tokens })
    }

    /// The keys of what was found, as long as nothing is kept or cleared in between.
    pub fn keys(&self, found: Found) -> &K {
        &self.entries[found.entry].keys
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// Number of first tokens of `prompt` that are taken over from a sequence: all that both begin with but
/// the prompt's last, or none where that is not worth it.
pub(crate) fn taken_over(sequence: &[u32], prompt: &[u32]) -> usize {
    let most = prompt.len().saturating_sub(1);
    let tokens = common(sequence, &prompt[..most]);
    let new = prompt.len() - tokens;
    match tokens >= MIN_TOKENS && new * prompt.len() <= MAX_SCORES {
        true => tokens,
        false => 0,
    }
}

/// Tokens that both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(reuse: &mut Reuse<()>, tokens: std::ops::Range<u32>) {
        reuse.keep(tokens.collect(), ());
    }

    #[test]
    fn the_longest_beginning_is_found_and_leaves_one_token() {
        let mut reuse = Reuse::new(3);
        kept(&mut reuse, 0..20);
        kept(&mut reuse, 0..40);
        kept(&mut reuse, 100..130);
        assert_eq!(
            reuse.entries.len(),
            2,
            "the first is a beginning of the second"
        );
        let prompt = |range: std::ops::Range<u32>| range.collect::<Vec<u32>>();
        let tokens = |prompt: &[u32]| reuse.find(prompt).map(|found| found.tokens);
        assert_eq!(tokens(&prompt(0..60)), Some(40));
        assert_eq!(tokens(&prompt(0..40)), Some(39));
        assert_eq!(tokens(&prompt(100..117)), Some(16));
        assert_eq!(tokens(&prompt(100..116)), None, "15 are too few");
        assert_eq!(tokens(&prompt(7..60)), None);
        assert_eq!(tokens(&[]), None);
        let mut other = prompt(0..30);
        other.extend(500..510);
        assert_eq!(tokens(&other), Some(30));
        other.extend(0..4000);
        assert_eq!(tokens(&other), None, "too many scores at once");
    }

    #[test]
    fn the_oldest_goes_first_and_weights_take_all() {
        let mut reuse = Reuse::new(2);
        for first in [0, 100, 200] {
            kept(&mut reuse, first..first + 20);
        }
        let found = |reuse: &Reuse<()>, first: u32| {
            let prompt: Vec<u32> = (first..first + 30).collect();
            reuse.find(&prompt).is_some()
        };
        assert_eq!([0, 100, 200].map(|f| found(&reuse, f)), [false, true, true]);
        reuse.clear();
        assert!(!found(&reuse, 200));
    }
}
