//! Which replica trains on what: shares of about as many tokens.

use proto::{SftSample, StateGroup};
use std::cmp::Reverse;
use std::collections::HashMap;

/// What a batch is made of.
pub(super) trait Shared: Clone {
    /// Entries of the same name go into one share, where there is a name.
    fn together(&self) -> Option<&str>;

    /// How much there is to compute, about.
    fn tokens(&self) -> usize;
}

impl Shared for SftSample {
    fn together(&self) -> Option<&str> {
        None
    }

    fn tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// States of a trajectory are trained together: they share what they have in common.
impl Shared for StateGroup {
    fn together(&self) -> Option<&str> {
        Some(&self.trajectory_id)
    }

    fn tokens(&self) -> usize {
        let actions = self.samples.iter().map(|sample| sample.tokens.len());
        self.prompt.len() + actions.sum::<usize>()
    }
}

/// Divides a batch into `count` shares, each in the order of the batch. The largest pieces are dealt
/// out first, each to the share that is smallest by then: the same every time. A share may be empty.
pub(super) fn shares<T: Shared>(batch: &[T], count: usize) -> Vec<Vec<T>> {
    let mut pieces: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut named: HashMap<&str, usize> = HashMap::new();
    for (index, entry) in batch.iter().enumerate() {
        let known = entry.together().and_then(|name| named.get(name).copied());
        let piece = known.unwrap_or_else(|| {
            pieces.push((0, Vec::new()));
            pieces.len() - 1
        });
        if let Some(name) = entry.together() {
            named.insert(name, piece);
        }
        pieces[piece].0 += entry.tokens();
        pieces[piece].1.push(index);
    }
    pieces.sort_by_key(|(tokens, _)| Reverse(*tokens)); // stable
    let mut shares: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); count];
    for (tokens, indices) in pieces {
        if let Some(smallest) = shares.iter_mut().min_by_key(|share| share.0) {
            smallest.0 += tokens;
            smallest.1.extend(indices);
        }
    }
    let entries = |(_, mut indices): (usize, Vec<usize>)| {
        indices.sort_unstable();
        indices
            .into_iter()
            .map(|index| batch[index].clone())
            .collect()
    };
    shares.into_iter().map(entries).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(tokens: usize) -> SftSample {
        SftSample {
            tokens: vec![0; tokens],
            mask: vec![1; tokens],
        }
    }

    fn lengths(batch: &[usize], count: usize) -> Vec<Vec<usize>> {
        let batch: Vec<SftSample> = batch.iter().copied().map(dialogue).collect();
        let lengths = |share: &Vec<SftSample>| share.iter().map(Shared::tokens).collect();
        shares(&batch, count).iter().map(lengths).collect()
    }

    #[test]
    fn shares_are_about_as_large_and_in_order() {
        assert_eq!(lengths(&[1, 9, 5, 5], 2), [vec![1, 9], vec![5, 5]]);
        assert_eq!(lengths(&[3, 3, 3], 2), [vec![3, 3], vec![3]]);
        assert_eq!(lengths(&[7], 3), [vec![7], vec![], vec![]]);
        assert_eq!(lengths(&[4, 2], 1), [vec![4, 2]]);
    }

    #[test]
    fn states_of_a_trajectory_stay_together() {
        let state = |trajectory: &str, tokens| StateGroup {
            state_id: String::new(),
            trajectory_id: trajectory.into(),
            prompt: vec![0; tokens],
            samples: vec![],
        };
        let batch = [state("a", 5), state("b", 6), state("a", 5), state("c", 3)];
        let shares = shares(&batch, 2);
        let named = |share: &Vec<StateGroup>| -> Vec<String> {
            share.iter().map(|s| s.trajectory_id.clone()).collect()
        };
        assert_eq!(named(&shares[0]), ["a", "a"]);
        assert_eq!(named(&shares[1]), ["b", "c"]);
    }
}
