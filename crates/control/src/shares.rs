//! Shares of a batch of requests by the pace of the workers, so that all end at about the same time.
//!
//! - **SH-1 (all of it).** The shares of a batch add up to it.
//! - **SH-2 (the slowest sets no pace).** A worker that takes longer than others with its share gets a
//!   smaller one of the next batch, and none where even one request is more than its part: whoever ends
//!   first with one more is given it.
//! - **SH-3 (not for ever).** A worker without a share is probed every [`PROBE_EVERY`] batches, with a
//!   request that another one works on too: nobody waits for it.
//!
//! Weights change by the times that shares took, and not by requests per second: an engine works on
//! many requests nearly as fast as on few, so that a larger share would look like a faster worker.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Batches between two probes of a worker without a share.
pub const PROBE_EVERY: u32 = 8;

/// Weights lie between this and its inverse, where the mean is 1.
const LEAST_WEIGHT: f64 = 1e-3;

/// Times that differ by less than this factor are partly chance: the weight follows half-way.
const CHANCE: f64 = 2.0;

#[derive(Debug, Clone, Copy)]
struct Known {
    weight: f64,
    /// Batches in a row without a share.
    rested: u32,
}

/// Division of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dealt {
    /// Requests for each worker, in the order in which they were named.
    pub shares: Vec<usize>,
    /// Workers without a share that are to be probed, by their places in that order.
    pub probes: Vec<usize>,
}

/// The share of a worker, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took<W> {
    /// The worker.
    pub worker: W,
    /// Requests of the share.
    pub requests: usize,
    /// In milliseconds.
    pub ms: u64,
}

/// Weights of the workers. See the module's invariants.
#[derive(Debug)]
pub struct Shares<W> {
    known: BTreeMap<W, Known>,
    /// Shares so far: what is left over goes round.
    turn: usize,
    /// Time of its share of the last batch, in milliseconds; 0 before the first.
    usual_ms: f64,
    /// Requests of the last batch for a weight of 1.
    for_one: f64,
}

impl<W> Default for Shares<W> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            turn: 0,
            usual_ms: 0.0,
            for_one: 1.0,
        }
    }
}

impl<W: Ord + Clone> Shares<W> {
    /// Divides `count` requests among these workers.
    pub fn deal(&mut self, workers: &[W], count: usize) -> Dealt {
        let none = Dealt {
            shares: vec![0; workers.len()],
            probes: Vec::new(),
        };
        if workers.is_empty() || count == 0 {
            return none;
        }
        let weights: Vec<f64> = workers.iter().map(|worker| self.weight(worker)).collect();
        let sum: f64 = weights.iter().sum();
        self.for_one = count as f64 / sum;
        let parts: Vec<f64> = weights.iter().map(|w| w * self.for_one).collect();
        let shares = self.round_off(&parts, count);
        let mut dealt = Dealt { shares, ..none };
        for (place, worker) in workers.iter().enumerate() {
            let known = self.known.entry(worker.clone()).or_insert(Known {
                weight: weights[place],
                rested: 0,
            });
            known.rested = match dealt.shares[place] {
                0 => known.rested + 1,
                _ => 0,
            };
            // One that only had no turn among many is not slow.
            let is_slow = weights[place] * (workers.len() as f64) < sum / 2.0;
            if is_slow && known.rested >= PROBE_EVERY {
                known.rested = 0;
                dealt.probes.push(place);
            }
        }
        dealt
    }

    /// Whole numbers near the parts; what is left goes one by one to whoever ends first with one more, of
    /// equal ones to the next in turn.
    fn round_off(&mut self, parts: &[f64], count: usize) -> Vec<usize> {
        let mut shares: Vec<usize> = parts.iter().map(|part| part.floor() as usize).collect();
        let given: usize = shares.iter().sum();
        let (workers, turn) = (parts.len(), self.turn);
        // Equal parts differ by rounding.
        let end =
            |place: usize, share: usize| ((share + 1) as f64 / parts[place] * 1e6).round() as u64;
        let ends = (0..workers).map(|i| {
            let place = (turn + i) % workers;
            Reverse((end(place, shares[place]), i, place))
        });
        let mut ends: BinaryHeap<_> = ends.collect();
        for _ in given..count {
            let Some(mut first) = ends.peek_mut() else {
                break;
            };
            let (at, _, place) = &mut first.0;
            shares[*place] += 1;
            *at = end(*place, shares[*place]);
        }
        self.turn += shares.iter().filter(|share| **share > 0).count();
        shares
    }

    fn weight(&self, worker: &W) -> f64 {
        self.known.get(worker).map_or(1.0, |known| known.weight)
    }

    /// Takes the times of a batch in. Workers whose share went to others are left out.
    pub fn took(&mut self, batch: &[Took<W>]) {
        let requests: usize = batch.iter().map(|took| took.requests).sum();
        if requests == 0 {
            return;
        }
        let each = batch.iter();
        let sum: f64 = each.map(|t| t.requests as f64 * t.ms.max(1) as f64).sum();
        let usual = sum / requests as f64;
        self.usual_ms = usual;
        for took in batch {
            self.adjust(&took.worker, usual / took.ms.max(1) as f64);
        }
        self.balance();
    }

    /// Takes the time of a probe in: one request, beside the last batch.
    pub fn probed(&mut self, worker: &W, ms: u64) {
        // So many requests it does while the others do their shares.
        let part = self.usual_ms / ms.max(1) as f64;
        if let Some(known) = self.known.get_mut(worker) {
            // A short continuation is soon done: no more than the mean before it has had a share.
            known.weight = known.weight.max((part / self.for_one).min(1.0));
        }
        self.balance();
    }

    /// A worker is gone, or is another one now under the same name.
    pub fn forget(&mut self, worker: &W) {
        self.known.remove(worker);
    }

    fn adjust(&mut self, worker: &W, ratio: f64) {
        let is_chance = ratio < CHANCE && ratio > 1.0 / CHANCE;
        let factor = if is_chance { ratio.sqrt() } else { ratio };
        let known = self.known.entry(worker.clone()).or_insert(Known {
            weight: 1.0,
            rested: 0,
        });
        known.weight *= factor;
    }

    /// The mean is 1 again.
    fn balance(&mut self) {
        let sum: f64 = self.known.values().map(|known| known.weight).sum();
        let mean = sum / self.known.len().max(1) as f64;
        for known in self.known.values_mut() {
            known.weight = (known.weight / mean).clamp(LEAST_WEIGHT, 1.0 / LEAST_WEIGHT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Batches of `count` requests; a worker takes `at_all + each` times its requests. The shares of the
    /// last batch and the longest time of the last ones, probes aside.
    fn settle(
        shares: &mut Shares<usize>,
        speeds: &[(u64, u64)],
        count: usize,
    ) -> (Vec<usize>, u64) {
        let workers: Vec<usize> = (0..speeds.len()).collect();
        let (mut last, mut longest) = (Vec::new(), 0);
        for batch in 0..60 {
            let dealt = shares.deal(&workers, count);
            assert_eq!(dealt.shares.iter().sum::<usize>(), count, "SH-1");
            let time = |worker: usize, requests: usize| {
                let (at_all, each) = speeds[worker];
                at_all + each * requests as u64
            };
            let given = dealt
                .shares
                .iter()
                .enumerate()
                .filter(|(_, share)| **share > 0);
            let took: Vec<Took<usize>> = given
                .map(|(worker, &requests)| Took {
                    worker,
                    requests,
                    ms: time(worker, requests),
                })
                .collect();
            shares.took(&took);
            let most = took.iter().map(|took| took.ms).max().unwrap_or(0);
            for &place in &dealt.probes {
                shares.probed(&place, time(place, 1));
            }
            if batch >= 30 {
                longest = longest.max(most);
            }
            last = dealt.shares;
        }
        (last, longest)
    }

    #[test]
    fn sh_2_the_slowest_sets_no_pace() {
        for (name, speeds, count, at_most) in [
            ("alike", vec![(0, 100); 4], 16, 400),
            (
                "one takes twice as long",
                vec![(0, 100), (0, 100), (0, 200)],
                40,
                1700,
            ),
            ("ten times", vec![(0, 100), (0, 100), (0, 1000)], 42, 2200),
            ("few requests", vec![(0, 100), (0, 100), (0, 1000)], 4, 200),
            (
                "one request is more than its part",
                vec![(0, 100), (0, 1000), (0, 100), (0, 100)],
                16,
                600,
            ),
            (
                "one request is its part",
                vec![(0, 100), (0, 500), (0, 100), (0, 100)],
                16,
                600,
            ),
            (
                "a batch costs as one",
                vec![(1000, 1), (1000, 1), (10_000, 10)],
                12,
                1020,
            ),
            ("one against many", vec![(0, 1000), (0, 10)], 100, 1000),
        ] {
            let (last, longest) = settle(&mut Shares::default(), &speeds, count);
            assert!(longest <= at_most, "{name}: {longest} ms with {last:?}");
        }
    }

    /// Engines that work on many as fast as on few keep equal shares: nothing draws all to one.
    #[test]
    fn equal_workers_keep_equal_shares_whatever_a_batch_costs() {
        for speed in [(1000, 0), (0, 100), (500, 50)] {
            let (last, _) = settle(&mut Shares::default(), &[speed; 4], 16);
            assert_eq!(last, [4; 4], "{speed:?}");
        }
    }

    #[test]
    fn sh_3_a_worker_that_is_well_again_gets_its_share_back() {
        let mut shares = Shares::default();
        let (last, _) = settle(&mut shares, &[(0, 100), (0, 100), (0, 3000)], 6);
        assert_eq!(last, [3, 3, 0]);
        let (last, _) = settle(&mut shares, &[(0, 100); 3], 6);
        assert_eq!(last, [2, 2, 2]);
    }

    /// A probe is one request: what it takes says nothing of a share of several.
    #[test]
    fn sh_3_a_probe_gives_no_larger_share_than_fits() {
        let mut shares = Shares::default();
        let speeds = [(0, 100), (0, 100), (0, 3000)];
        settle(&mut shares, &speeds, 12);
        // No more than the mean, which is 3 for as long as this one's weight is small.
        for (probe_ms, expected) in [(3000, 0), (700, 0), (300, 2), (100, 3), (1, 3)] {
            let mut shares = Shares {
                known: shares.known.clone(),
                ..Shares::default()
            };
            let dealt = shares.deal(&[0, 1, 2], 12);
            assert_eq!(dealt.shares, [6, 6, 0]);
            let took = |worker| Took {
                worker,
                requests: 6,
                ms: 600,
            };
            shares.took(&[took(0), took(1)]);
            shares.probed(&2, probe_ms);
            let dealt = shares.deal(&[0, 1, 2], 12);
            assert_eq!(dealt.shares[2], expected, "{probe_ms} ms");
        }
    }

    #[test]
    fn what_is_left_over_goes_round() {
        let mut shares = Shares::default();
        assert_eq!(shares.deal(&[0, 1, 2], 0).shares, [0, 0, 0]);
        assert_eq!(shares.deal(&[0, 1, 2], 2).shares, [1, 1, 0]);
        assert_eq!(shares.deal(&[0, 1, 2], 8).shares, [3, 2, 3]);
        assert!(shares.deal(&[], 8).shares.is_empty());
    }

    proptest! {
        #[test]
        fn sh_1_shares_add_up_whatever_was_seen(
            batches in proptest::collection::vec(
                (0..60usize, proptest::collection::vec(1..100_000u64, 0..6)),
                1..40,
            ),
        ) {
            let mut shares = Shares::default();
            for (count, times) in batches {
                let workers: Vec<usize> = (0..times.len()).collect();
                let dealt = shares.deal(&workers, count);
                let expected = if workers.is_empty() { 0 } else { count };
                prop_assert_eq!(dealt.shares.iter().sum::<usize>(), expected);
                prop_assert!(dealt.probes.iter().all(|place| dealt.shares[*place] == 0));
                let took = workers.iter().map(|&worker| Took {
                    worker,
                    requests: dealt.shares[worker],
                    ms: times[worker],
                });
                let took: Vec<_> = took.filter(|took| took.requests > 0).collect();
                shares.took(&took);
            }
        }
    }
}
