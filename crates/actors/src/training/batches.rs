//! Which entries belong to which step.

use crate::seeds;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Deals `0..count` out in batches, in a new order each time round. Position *i* depends on the
/// seed and *i* alone (TL-1).
#[derive(Debug)]
pub(crate) struct Batches {
    seed: u64,
    count: u64,
    round: u64,
    order: Vec<usize>,
}

impl Batches {
    /// `count` is at least 1.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut batches = Self {
            seed,
            count: count as u64,
            round: 0,
            order: Vec::new(),
        };
        batches.shuffle(0);
        batches
    }

    fn shuffle(&mut self, round: u64) {
        let seed = seeds::derive(self.seed, &["order", &round.to_string()]);
        self.order = (0..self.count as usize).collect();
        self.order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        self.round = round;
    }

    /// The entries of step `step` when each step takes `size`.
    pub(crate) fn of_step(&mut self, step: u64, size: usize) -> Vec<usize> {
        (0..size as u64)
            .map(|i| self.at(step * size as u64 + i))
            .collect()
    }

    /// The entry at a position of all rounds.
    pub(crate) fn at(&mut self, position: u64) -> usize {
        let round = position / self.count;
        if round != self.round {
            self.shuffle(round);
        }
        self.order[(position % self.count) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_holds_every_entry_once_and_rounds_differ() {
        let mut batches = Batches::new(5, 7);
        let dealt: Vec<usize> = (0..7).flat_map(|step| batches.of_step(step, 3)).collect();
        let rounds: Vec<&[usize]> = dealt.chunks(7).collect();
        for round in &rounds {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(rounds[0], rounds[1]);
    }

    #[test]
    fn tl_1_a_step_does_not_depend_on_the_steps_before() {
        let mut all = Batches::new(9, 10);
        let steps: Vec<Vec<usize>> = (0..12).map(|step| all.of_step(step, 4)).collect();
        for first in [3, 7, 11] {
            let mut resumed = Batches::new(9, 10);
            assert_eq!(resumed.of_step(first, 4), steps[first as usize]);
        }
    }
}
