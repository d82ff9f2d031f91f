//! What the replicas of a group do together, besides adding up gradients (`sync`).

use crate::learner::Learner;
use crate::metrics::{PhaseSeconds, timed};
use crate::optimizer::{Update, sum_of_squares};
use crate::pass::StepError;
use crate::reuse::LastBatch;
use crate::shards::Kept;
use crate::sync::Started;
use algo::advantage::{Population, RewardHistory};
use algo::loss::GlobalCounts;
use collective::{CollectiveError, Communicator, Reduce};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

/// Elements that are hashed at a time.
const DIGEST_PART: i64 = 1 << 16;

impl Learner {
    /// Makes it one replica of a group: from now on every member takes each step, on its own share
    /// of the batch (which may be empty), and all have the same weights after it. The states of a
    /// trajectory belong into one share, as do the actions of a state. All take over weights,
    /// moments, step and reward history of rank 0; random numbers and cursor stay as they are.
    ///
    /// With `shard_optimizer` in a group of several, each member takes up the state of its own shares
    /// instead, from where it was opened: the same checkpoint, or all of them the start model. A
    /// learner that keeps shares joins no other group; whenever the group changes, all members are
    /// opened anew.
    ///
    /// # Errors
    /// When the group cannot be used; [`CollectiveError::Unlike`], on all members, when they do not
    /// begin from the same state; [`CollectiveError::Aborted`] when one cannot read its state any more.
    pub fn join(&mut self, mut communicator: Box<dyn Communicator>) -> Result<(), CollectiveError> {
        match communicator.world() {
            1 if self.may_join() => {}
            1 => return Err(unlike("this replica keeps what it kept in another group")),
            _ if self.config.shard_optimizer => self.join_sharded(&mut *communicator)?,
            _ => self.join_whole(&mut *communicator)?,
        }
        self.communicator = communicator;
        Ok(())
    }

    /// Whether what it keeps is all that there is.
    fn may_join(&self) -> bool {
        !self.is_sharded() && self.torn.is_none()
    }

    fn join_whole(&mut self, communicator: &mut dyn Communicator) -> Result<(), CollectiveError> {
        let mut numbers = self.progress();
        let host = Tensor::from_slice(&numbers);
        communicator.broadcast(&host, 0)?.wait()?;
        let count = numbers.len();
        host.copy_data(&mut numbers, count);
        let [step, updates, bad_steps, sum, weight, ..] = numbers;
        let [.., before_sum, before_weight, key_high, key_low] = numbers;
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
        let before = RewardHistory {
            sum: before_sum,
            weight: before_weight,
        };
        self.last_batch = self.last_batch.or_new([key_high, key_low], before);
        Ok(())
    }

    /// Makes it one replica of another group, whose members are at the same step of the same training
    /// already: nothing is taken over. They keep all of the optimizer's state.
    ///
    /// # Errors
    /// [`CollectiveError::Unlike`], on all members, when they are not; or when the group cannot be
    /// used.
    pub fn regroup(
        &mut self,
        mut communicator: Box<dyn Communicator>,
    ) -> Result<(), CollectiveError> {
        let is_odd = self.config.shard_optimizer || !self.may_join();
        let numbers: Vec<f64> = [f64::from(u8::from(is_odd))]
            .into_iter()
            .chain(self.progress())
            .collect();
        let (least, most) = extremes(&mut *communicator, &numbers)?;
        if most[0] > 0.0 || least != most {
            return Err(unlike("they are not at the same step"));
        }
        self.communicator = communicator;
        Ok(())
    }

    /// What members that are alike have alike, weights and moments aside.
    fn progress(&self) -> [f64; 9] {
        let LastBatch { key, before, .. } = &self.last_batch;
        [
            self.step as f64,
            self.optimizer.updates as f64,
            f64::from(self.bad_steps),
            self.reward_history.sum,
            self.reward_history.weight,
            before.sum,
            before.weight,
            key[0],
            key[1],
        ]
    }

    fn join_sharded(&mut self, communicator: &mut dyn Communicator) -> Result<(), CollectiveError> {
        let numbers = [f64::from(u8::from(!self.may_join()))].into_iter();
        let numbers: Vec<f64> = numbers
            .chain(self.progress())
            .chain(words(self.weights_digest()))
            .collect();
        let (least, most) = extremes(communicator, &numbers)?;
        if most[0] > 0.0 {
            return Err(unlike("a member keeps what it kept in another group"));
        }
        if least[1] != most[1] {
            let (least, most) = (least[1], most[1]);
            return Err(unlike(&format!("their steps are {least} to {most}")));
        }
        if least != most {
            return Err(unlike("their weights differ"));
        }
        let kept = Kept::shares(&self.buckets, communicator.world(), communicator.rank());
        if let Err(error) = self.keep(kept) {
            let reason = error.to_string();
            communicator.aborter().abort(&reason);
            return Err(CollectiveError::Aborted(reason));
        }
        communicator.barrier()
    }

    /// Whether this replica keeps shares of the optimizer's state only.
    pub(crate) fn is_sharded(&self) -> bool {
        self.config.shard_optimizer && self.communicator.world() > 1
    }

    /// LE-7.
    pub(crate) fn refuse_torn(&self) -> Result<(), CollectiveError> {
        self.torn.clone().map_or(Ok(()), Err)
    }

    /// What every step begins with.
    pub(crate) fn ready(&mut self) -> Result<(), StepError> {
        self.refuse_torn().map_err(StepError::Torn)?;
        self.settle().map_err(StepError::State)
    }

    /// Norm of the summed gradient, the same on every replica. On an error the gradient is zero.
    pub(crate) fn gradient_norm(&mut self, seconds: &mut PhaseSeconds) -> Result<f64, StepError> {
        let mut squares = timed(&mut seconds.optimizer, || {
            let stretches = self.flat.kept.stretches().iter();
            let parts = stretches.map(|stretch| stretch.of_all(&self.flat.gradient));
            parts.map(|part| sum_of_squares(&part)).sum::<f64>()
        });
        if self.is_sharded()
            && let Err(error) = timed(&mut seconds.reduce, || self.add_up([&mut squares]))
        {
            let _ = self.flat.gradient.zero_();
            return Err(error);
        }
        Ok(squares.sqrt())
    }

    /// Updates what is kept here, and takes over what is kept elsewhere: a bucket travels while the
    /// next one is updated.
    pub(crate) fn update_shares(
        &mut self,
        update: Update,
        seconds: &mut PhaseSeconds,
    ) -> Result<(), StepError> {
        let (flat, communicator) = (&self.flat, &mut self.communicator);
        let mut gathers = Started::default();
        for (bucket, stretch) in self.buckets.iter().zip(flat.kept.stretches()) {
            timed(&mut seconds.optimizer, || {
                self.optimizer.update(flat, *stretch, update);
            });
            gathers.start(|| communicator.all_gather(&bucket.of(&flat.compute)));
        }
        timed(&mut seconds.reduce, || gathers.finish()).map_err(|error| {
            self.torn = Some(error.clone());
            StepError::Torn(error)
        })
    }

    /// Makes the summed gradient whole on every replica. On an error it is zero.
    pub(crate) fn gather_gradient(&mut self) -> Result<(), StepError> {
        if !self.is_sharded() {
            return Ok(());
        }
        let gradient = self.flat.gradient.shallow_clone();
        let mut gathers = Started::default();
        for bucket in self.buckets.iter() {
            gathers.start(|| self.communicator.all_gather(&bucket.of(&gradient)));
        }
        gathers.finish().map_err(|error| {
            let _ = self.flat.gradient.zero_();
            error.into()
        })
    }

    /// A hash of the weights that are trained, the same where they are the same bit for bit: of the
    /// f32 masters, or, with `shard_optimizer`, of those that compute.
    pub fn weights_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let flat = match self.config.shard_optimizer {
            true => &self.flat.compute,
            false => &self.flat.master,
        };
        let total = flat.numel() as i64;
        let mut part = vec![0f32; DIGEST_PART as usize];
        for start in (0..total).step_by(DIGEST_PART as usize) {
            let length = DIGEST_PART.min(total - start);
            let part = &mut part[..length as usize];
            let values = flat.narrow(0, start, length).to_kind(Kind::Float);
            values.copy_data(part, part.len());
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
        let (least, most) = extremes(&mut *self.communicator, &words(digest))?;
        match least == most {
            true => Ok(()),
            false => Err(StepError::Apart { step: self.step }),
        }
    }

    /// Compares the weights of all replicas where it is time to; whether it was.
    pub(crate) fn compare_when_due(&mut self) -> Result<bool, StepError> {
        let every = self.config.compare_replicas_every;
        let is_due = every > 0 && self.step.is_multiple_of(every) && self.communicator.world() > 1;
        if is_due {
            self.compare_replicas()?;
        }
        Ok(is_due)
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

/// A digest as numbers: f64 holds 32 bits exactly.
fn words(digest: [u8; 32]) -> [f64; 8] {
    let words = digest.as_chunks::<4>().0;
    std::array::from_fn(|index| f64::from(u32::from_le_bytes(words[index])))
}

/// The least and the most that any replica has of each number.
fn extremes(
    communicator: &mut dyn Communicator,
    numbers: &[f64],
) -> Result<(Vec<f64>, Vec<f64>), CollectiveError> {
    let opposites = numbers.iter().map(|number| -number);
    let mut all: Vec<f64> = numbers.iter().copied().chain(opposites).collect();
    communicator.all_reduce_numbers(&mut all, Reduce::Max)?;
    let (most, opposites) = all.split_at(numbers.len());
    let least = opposites.iter().map(|number| -number).collect();
    Ok((least, most.to_vec()))
}

fn unlike(what: &str) -> CollectiveError {
    CollectiveError::Unlike(what.to_owned())
}
