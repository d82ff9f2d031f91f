//! What the replicas of a group do together, besides adding up gradients (`sync`).

use crate::learner::Learner;
use crate::pass::StepError;
use algo::advantage::{Population, RewardHistory};
use algo::loss::GlobalCounts;
use collective::{CollectiveError, Communicator, Reduce};
use sha2::{Digest, Sha256};
use tch::Tensor;

/// Elements that are hashed at a time.
const DIGEST_PART: i64 = 1 << 16;

impl Learner {
    /// Makes it one replica of a group: from now on every member takes each step, on its own share
    /// of the batch (which may be empty), and all have the same weights after it. The states of a
    /// trajectory belong into one share, as do the actions of a state. All take over weights,
    /// moments, step and reward history of rank 0; random numbers and cursor stay as they are.
    ///
    /// # Errors
    /// When the group cannot be used.
    pub fn join(&mut self, mut communicator: Box<dyn Communicator>) -> Result<(), CollectiveError> {
        let mut numbers = [
            self.step as f64,
            self.optimizer.updates as f64,
            f64::from(self.bad_steps),
            self.reward_history.sum,
            self.reward_history.weight,
        ];
        let host = Tensor::from_slice(&numbers);
        communicator.broadcast(&host, 0)?.wait()?;
        host.copy_data(&mut numbers, 5);
        let [step, updates, bad_steps, sum, weight] = numbers;
        for tensor in [
            &self.flat.master,
            &self.optimizer.exp_avg,
            &self.optimizer.exp_avg_sq,
        ] {
            communicator.broadcast(tensor, 0)?.wait()?;
        }
        self.flat.refresh();
        self.step = step as u64;
        self.optimizer.updates = updates as u64;
        self.bad_steps = bad_steps as u32;
        self.reward_history = RewardHistory { sum, weight };
        self.communicator = communicator;
        Ok(())
    }

    /// Makes it one replica of another group, whose members are at the same step of the same training
    /// already: nothing is taken over.
    ///
    /// # Errors
    /// [`StepError::Apart`], on every replica, when they are not; or when the group cannot be used.
    pub fn regroup(&mut self, communicator: Box<dyn Communicator>) -> Result<(), StepError> {
        self.communicator = communicator;
        let numbers = [
            self.step as f64,
            self.optimizer.updates as f64,
            f64::from(self.bad_steps),
            self.reward_history.sum,
            self.reward_history.weight,
        ];
        let mut both: Vec<f64> = numbers
            .iter()
            .chain(&numbers.map(|n| -n))
            .copied()
            .collect();
        self.communicator
            .all_reduce_numbers(&mut both, Reduce::Max)?;
        let (largest, opposite) = both.split_at(numbers.len());
        match largest.iter().zip(opposite).all(|(a, b)| *a == -b) {
            true => Ok(()),
            false => Err(StepError::Apart { step: self.step }),
        }
    }

    /// A hash of the f32 weights that are trained, the same where they are the same bit for bit.
    pub fn weights_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let flat = &self.flat.master;
        let total = flat.numel() as i64;
        let mut part = vec![0f32; DIGEST_PART as usize];
        for start in (0..total).step_by(DIGEST_PART as usize) {
            let length = DIGEST_PART.min(total - start);
            let part = &mut part[..length as usize];
            flat.narrow(0, start, length).copy_data(part, part.len());
            part.iter()
                .for_each(|value| hash.update(value.to_le_bytes()));
        }
        hash.finalize().into()
    }

    /// Compares the weights of all replicas, by their hashes: costs a hash of the weights and one
    /// small reduction. Every replica has to call it.
    ///
    /// # Errors
    /// [`StepError::Apart`], on every replica, when one has others; or when the group cannot be used.
    pub fn compare_replicas(&mut self) -> Result<(), StepError> {
        let digest = self.weights_digest();
        // f64 holds 32 bits exactly; the largest of all and the smallest, as opposites.
        let mut numbers = [0.0; 16];
        for (index, part) in digest.as_chunks::<4>().0.iter().enumerate() {
            let number = f64::from(u32::from_le_bytes(*part));
            numbers[index] = number;
            numbers[index + 8] = -number;
        }
        self.communicator
            .all_reduce_numbers(&mut numbers, Reduce::Max)?;
        let (largest, opposite) = numbers.split_at(8);
        match largest.iter().zip(opposite).all(|(a, b)| *a == -b) {
            true => Ok(()),
            false => Err(StepError::Apart { step: self.step }),
        }
    }

    /// Replaces numbers by their sums over all replicas.
    pub(crate) fn add_up<const N: usize>(
        &mut self,
        numbers: [&mut f64; N],
    ) -> Result<(), StepError> {
        self.reduce(numbers, Reduce::Sum)
    }

    /// Replaces numbers by their reductions over all replicas.
    pub(crate) fn reduce<const N: usize>(
        &mut self,
        numbers: [&mut f64; N],
        reduce: Reduce,
    ) -> Result<(), StepError> {
        let mut values = numbers.each_ref().map(|number| **number);
        self.communicator.all_reduce_numbers(&mut values, reduce)?;
        for (number, value) in numbers.into_iter().zip(values) {
            *number = value;
        }
        Ok(())
    }

    /// What replicas say of their shares before they go on: an error of one is an error of all, so
    /// that nobody waits for a replica that will not come.
    pub(crate) fn agree<T>(&mut self, local: Result<T, StepError>) -> Result<T, StepError> {
        let mut failed = f64::from(u8::from(local.is_err()));
        self.add_up([&mut failed])?;
        match local {
            Ok(_) if failed > 0.0 => Err(StepError::Replica),
            local => local,
        }
    }

    /// Counts of one replica's share become those of the whole batch.
    pub(crate) fn count_all(&mut self, counts: &mut GlobalCounts) -> Result<(), StepError> {
        let GlobalCounts {
            tokens,
            sequences,
            trajectories,
        } = counts;
        let mut numbers = [*tokens as f64, *sequences as f64, *trajectories as f64];
        self.add_up(numbers.each_mut())?;
        [*tokens, *sequences, *trajectories] = numbers.map(|n| n as usize);
        Ok(())
    }

    /// Of the rewards of all replicas.
    pub(crate) fn population(&mut self, rewards: &[Vec<f64>]) -> Result<Population, StepError> {
        let mut all = Population::of(rewards.iter().flatten().copied());
        self.add_up([&mut all.count, &mut all.sum, &mut all.squares])?;
        let mut opposite = -all.smallest;
        self.reduce([&mut all.largest, &mut opposite], Reduce::Max)?;
        all.smallest = -opposite;
        Ok(all)
    }
}
