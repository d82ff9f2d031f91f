//! State that several updates on one batch of actions have in common.
//!
//! - **RU-1 (taken in once).** A batch's mean reward goes into the running baseline once, whatever
//!   the number of updates made of it, and all of them are compared with the same baseline.
//! - **RU-2 (one old policy).** The old log-probabilities of an action are the learner's own at its
//!   first update, to the bit; they cost no pass of their own.
//!
//! A batch is known by a sum of hashes over its states, which does not depend on how replicas share
//! it; so all of them agree on whether it is a new one, after a group has met again, too. A replica
//! that is given an action only at a later update takes what it says then for old: its ratio begins
//! with 1.

use algo::advantage::RewardHistory;
use proto::{RlSample, StateGroup};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Which batch it is; zeros before the first. Each number is a sum of 32 bits, exact in f64 for two
/// million states.
pub(crate) type BatchKey = [f64; 2];

/// The share of a batch's key that some of its states make up.
pub(crate) fn key_of(groups: &[StateGroup]) -> BatchKey {
    groups.iter().map(hash_of).fold([0.0; 2], |[a, b], hash| {
        [
            a + f64::from((hash >> 32) as u32),
            b + f64::from(hash as u32),
        ]
    })
}

fn hash_of(group: &StateGroup) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&group.state_id, &group.prompt).hash(&mut hasher);
    for sample in &group.samples {
        sample.tokens.hash(&mut hasher);
        let numbers = sample.logprobs.iter().chain([&sample.reward]);
        numbers.for_each(|number| number.to_bits().hash(&mut hasher));
        sample.weight_version.0.hash(&mut hasher);
    }
    hasher.finish()
}

/// Tells an action from all others of a batch that have other log-probabilities.
fn action_key(prompt: &[u32], sample: &RlSample) -> u64 {
    let mut hasher = DefaultHasher::new();
    (prompt, &sample.tokens).hash(&mut hasher);
    hasher.finish()
}

/// The batch that the last update was made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastBatch {
    pub key: BatchKey,
    /// The running baseline before it.
    pub before: RewardHistory,
    /// Log-probabilities of its actions, at their first update.
    old: HashMap<u64, Vec<f64>>,
}

impl LastBatch {
    /// The batch of this key, with `now` as the running baseline: this one, or one that is new.
    pub(crate) fn or_new(&self, key: BatchKey, now: RewardHistory) -> Self {
        match self.key == key {
            true => self.clone(),
            false => Self {
                key,
                before: now,
                old: HashMap::new(),
            },
        }
    }

    /// Known old log-probabilities of the actions of `groups`, by their numbers.
    pub(crate) fn old_logprobs(&self, groups: &[StateGroup]) -> Vec<OldLogprobs> {
        let of_group = |group: &StateGroup| {
            let of_sample = |sample: &RlSample| OldLogprobs {
                key: action_key(&group.prompt, sample),
                known: self.old.get(&action_key(&group.prompt, sample)).cloned(),
                seen: Vec::new(),
            };
            group.samples.iter().map(of_sample).collect::<Vec<_>>()
        };
        groups.iter().flat_map(of_group).collect()
    }

    /// Keeps what was seen of actions for later updates.
    pub(crate) fn keep(&mut self, actions: Vec<OldLogprobs>) {
        for action in actions {
            if action.known.is_none() && !action.seen.is_empty() {
                self.old.insert(action.key, action.seen);
            }
        }
    }
}

/// Log-probabilities of one action's tokens under the weights that its batch began with, in nats.
#[derive(Debug)]
pub(crate) struct OldLogprobs {
    key: u64,
    known: Option<Vec<f64>>,
    /// At the first update: what was found, token by token.
    seen: Vec<f64>,
}

impl OldLogprobs {
    /// That of token `index`, which has `logprob` now.
    pub(crate) fn at(&mut self, index: usize, logprob: f64) -> f64 {
        if let Some(known) = &self.known {
            return known[index];
        }
        if self.seen.len() <= index {
            self.seen.resize(index + 1, f64::NAN);
        }
        self.seen[index] = logprob;
        logprob
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::group;
    use proto::WeightVersion;

    #[test]
    fn a_batch_is_known_however_it_is_shared_and_by_all_it_holds() {
        let a = group(&[3, 4], &[(&[6, 7], 1.0), (&[8], 0.0)]);
        let b = group(&[9], &[(&[6, 7], 1.0)]);
        let both = key_of(&[a.clone(), b.clone()]);
        let [of_a, of_b] = [&a, &b].map(|group| key_of(std::slice::from_ref(group)));
        assert_eq!(both, [of_a[0] + of_b[0], of_a[1] + of_b[1]]);
        assert_eq!(both, key_of(&[b.clone(), a.clone()]));
        let changed = |change: fn(&mut StateGroup)| {
            let mut other = a.clone();
            change(&mut other);
            key_of(&[other, b.clone()])
        };
        for other in [
            changed(|group| group.samples[0].reward = 0.5),
            changed(|group| group.samples[1].tokens[0] = 9),
            changed(|group| group.samples[1].weight_version = WeightVersion(1)),
            changed(|group| group.samples[0].logprobs[1] = -2.0),
            changed(|group| group.prompt[0] = 5),
        ] {
            assert_ne!(both, other);
        }
    }

    #[test]
    fn ru_2_the_first_update_says_what_is_old() {
        let groups = [group(&[3, 4], &[(&[6, 7], 1.0), (&[8], 0.0)])];
        let key = key_of(&groups);
        let mut batch = LastBatch::default().or_new(key, RewardHistory::default());
        let mut actions = batch.old_logprobs(&groups);
        assert_eq!(actions[0].at(1, -0.5), -0.5); // tokens come in any order
        assert_eq!(actions[0].at(0, -0.25), -0.25);
        batch.keep(actions); // the second action did not run
        let mut again = batch.or_new(key, RewardHistory::default());
        let mut actions = again.old_logprobs(&groups);
        let later = [(0, 0), (0, 1), (1, 0)].map(|(a, index)| actions[a].at(index, -9.0));
        assert_eq!(later, [-0.25, -0.5, -9.0]);
        again.keep(actions);
        assert_eq!(again.old_logprobs(&groups)[1].at(0, -1.0), -9.0);
        let other = again.or_new([1.0, 2.0], RewardHistory::default());
        assert_eq!(other.old_logprobs(&groups)[0].at(0, -1.0), -1.0);
    }
}
