//! What the replicas of a group do together, besides adding up gradients (`sync`).

use crate::learner::Learner;
use crate::pass::StepError;
use algo::advantage::{Population, RewardHistory};
use algo::loss::GlobalCounts;
use collective::{CollectiveError, Communicator, Reduce};
use tch::Tensor;

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
