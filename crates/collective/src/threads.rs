//! A group within one process, a thread for each member.
//!
//! Members hand in their tensors; when the last one has, a thread of the group's own computes while
//! the members go on.

use crate::call::{Call, Operation};
use crate::{Abort, CollectiveError, Communicator, Group, Pending, Reduce, share};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use tch::{Tensor, no_grad};

/// A call that not every member has joined or seen the end of.
#[derive(Debug)]
struct Slot {
    call: Call,
    /// By rank.
    tensors: Vec<Option<Tensor>>,
    is_done: bool,
    /// Members that have not yet waited for it.
    unseen: usize,
}

#[derive(Debug)]
struct State {
    /// Calls in order; those that everyone has seen the end of are gone from the front.
    slots: VecDeque<Slot>,
    /// Number of the first of `slots`.
    first: u64,
    failure: Option<CollectiveError>,
    departed: Vec<bool>,
}

#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

/// Work for the group's thread: call number, what to do, tensors by rank.
type Work = (u64, Operation, Vec<Tensor>);

/// A member; belongs on a thread of its own.
#[derive(Debug)]
pub struct ThreadMember {
    rank: usize,
    world: usize,
    /// Calls made.
    calls: u64,
    group: Arc<Meeting>,
    work: Sender<Work>,
}

/// The members of a new group of `world`, at least 1, by rank.
pub fn threads(world: usize) -> Vec<ThreadMember> {
    let state = State {
        slots: VecDeque::new(),
        first: 0,
        failure: None,
        departed: vec![false; world],
    };
    let group = Arc::new(Meeting {
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    let (work, jobs) = channel();
    let of_group = group.clone();
    // Ends when the last member is gone.
    thread::spawn(move || compute(&of_group, &jobs));
    (0..world)
        .map(|rank| ThreadMember {
            rank,
            world,
            calls: 0,
            group: group.clone(),
            work: work.clone(),
        })
        .collect()
}

fn compute(group: &Meeting, jobs: &Receiver<Work>) {
    for (number, operation, tensors) in jobs {
        no_grad(|| run(operation, &tensors));
        let mut state = group.lock();
        if let Some(slot) = state.slot(number) {
            slot.is_done = true;
        }
        group.changed.notify_all();
    }
}

fn run(operation: Operation, tensors: &[Tensor]) {
    let flat: Vec<Tensor> = tensors.iter().map(|tensor| tensor.view(-1)).collect();
    let part = |tensor: &Tensor, rank: usize| {
        let share = share(tensor.numel(), tensors.len(), rank);
        tensor.narrow(0, share.start as i64, share.len() as i64)
    };
    match operation {
        Operation::AllReduce(reduce) => {
            into_first(reduce, &flat);
            spread(&flat, 0);
        }
        Operation::ReduceScatter(reduce) => {
            for rank in 0..flat.len() {
                let mut parts: Vec<Tensor> = flat.iter().map(|t| part(t, rank)).collect();
                // CO-1: summed up apart, so that the order does not depend on whose share it is
                let own = parts[rank].shallow_clone();
                parts[0] = parts[0].copy();
                into_first(reduce, &parts);
                own.shallow_clone().copy_(&parts[0]);
            }
        }
        Operation::AllGather => {
            for rank in 0..flat.len() {
                let parts: Vec<Tensor> = flat.iter().map(|t| part(t, rank)).collect();
                spread(&parts, rank);
            }
        }
        Operation::Broadcast { root } => spread(&flat, root),
    }
}

fn into_first(reduce: Reduce, tensors: &[Tensor]) {
    let mut result = tensors[0].shallow_clone();
    for tensor in &tensors[1..] {
        // CO-1: in the order of ranks
        match reduce {
            Reduce::Sum => result += tensor,
            Reduce::Max => result.copy_(&result.maximum(tensor)),
        }
    }
}

fn spread(tensors: &[Tensor], root: usize) {
    for (rank, tensor) in tensors.iter().enumerate() {
        if rank != root {
            tensor.shallow_clone().copy_(&tensors[root]);
        }
    }
}

impl Meeting {
    /// A panic while the lock is held leaves the state as it was: nothing here is changed halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Blocks until call `number` is over.
    fn wait(&self, number: u64) -> Result<(), CollectiveError> {
        let mut state = self.lock();
        loop {
            let failure = state.failure.clone();
            let Some(slot) = state.slot(number) else {
                unreachable!("a call stays until every member has waited for it")
            };
            if slot.is_done {
                slot.unseen -= 1;
                state.forget_seen();
                return Ok(());
            }
            // CO-2: a call that everyone has joined still ends well.
            let complete = slot.tensors.is_empty();
            if let (Some(failure), false) = (failure, complete) {
                return Err(failure);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl State {
    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let place = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(place).ok()?)
    }

    fn forget_seen(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.unseen == 0) {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// Hands in a member's tensor; all of them once it was the last.
    fn join(
        &mut self,
        number: u64,
        rank: usize,
        call: Call,
        tensor: Tensor,
    ) -> Result<Option<Vec<Tensor>>, CollectiveError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let world = self.departed.len();
        if self.slot(number).is_none() {
            self.slots.push_back(Slot {
                call,
                tensors: (0..world).map(|_| None).collect(),
                is_done: false,
                unseen: world,
            });
        }
        let slot = self.slot(number).expect("it was just made");
        if slot.call != call {
            let failure = CollectiveError::Mismatch {
                rank,
                found: call.to_string(),
                expected: slot.call.to_string(),
            };
            self.failure = Some(failure.clone());
            return Err(failure);
        }
        slot.tensors[rank] = Some(tensor);
        if slot.tensors.iter().all(Option::is_some) {
            return Ok(Some(slot.tensors.drain(..).flatten().collect()));
        }
        // CO-2: somebody left without joining.
        let absent: Vec<bool> = slot.tensors.iter().map(Option::is_none).collect();
        match (0..world).find(|rank| absent[*rank] && self.departed[*rank]) {
            Some(rank) => {
                let failure = CollectiveError::Gone { rank };
                self.failure = Some(failure.clone());
                Err(failure)
            }
            None => Ok(None),
        }
    }
}

impl ThreadMember {
    fn start(&mut self, operation: Operation, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        operation.check(self.world)?;
        let call = Call::on(operation, tensor);
        let number = self.calls;
        let joined = self
            .group
            .lock()
            .join(number, self.rank, call, tensor.shallow_clone());
        self.group.changed.notify_all();
        self.calls += 1;
        if let Some(tensors) = joined? {
            let sent = self.work.send((number, operation, tensors));
            debug_assert!(sent.is_ok(), "the group's thread outlives its members");
        }
        let group = self.group.clone();
        Ok(Pending::new(move || group.wait(number)))
    }
}

impl Communicator for ThreadMember {
    fn group(&self) -> Group {
        Group {
            rank: self.rank,
            world: self.world,
            epoch: 0,
        }
    }

    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError> {
        self.start(Operation::AllReduce(reduce), tensor)
    }

    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError> {
        self.start(Operation::ReduceScatter(reduce), tensor)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        self.start(Operation::AllGather, tensor)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError> {
        self.start(Operation::Broadcast { root }, tensor)
    }

    fn is_over(&self) -> bool {
        self.group.lock().failure.is_some()
    }

    fn aborter(&self) -> Abort {
        let group = self.group.clone();
        Abort::new(move |reason| {
            let aborted = CollectiveError::Aborted(reason.to_owned());
            group.lock().failure.get_or_insert(aborted);
            group.changed.notify_all();
        })
    }
}

impl Drop for ThreadMember {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        state.departed[self.rank] = true;
        let awaited = state
            .slots
            .iter()
            .any(|slot| slot.tensors.get(self.rank).is_some_and(Option::is_none));
        if awaited && state.failure.is_none() {
            state.failure = Some(CollectiveError::Gone { rank: self.rank });
        }
        self.group.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::{Device, Kind};

    /// Runs `work` on every member of a group, each on its thread, and returns what they return.
    fn run_all<T: Send>(world: usize, work: impl Fn(&mut ThreadMember) -> T + Sync) -> Vec<T> {
        let members = threads(world);
        thread::scope(|scope| {
            let handles: Vec<_> = members
                .into_iter()
                .map(|mut member| {
                    scope.spawn({
                        let work = &work;
                        move || work(&mut member)
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect()
        })
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

        /// CO-1: the same bits everywhere, whoever comes first, several operations under way at once.
        #[test]
        fn sums_run_in_the_order_of_ranks(world in 1usize..6, length in 1usize..40, seed in any::<u32>()) {
            let input = |rank: usize, call: usize| -> Vec<f32> {
                (0..length).map(|i| ((seed as usize % 1000 + 7 * rank + 3 * call + i) as f32).sin()).collect()
            };
            let found = run_all(world, |member| {
                let tensors: Vec<Tensor> =
                    (0..3).map(|call| Tensor::from_slice(&input(member.rank(), call))).collect();
                let pending: Vec<Pending> = tensors
                    .iter()
                    .map(|t| member.all_reduce(t, Reduce::Sum).unwrap())
                    .collect();
                pending.into_iter().for_each(|p| p.wait().unwrap());
                tensors.iter().map(values).collect::<Vec<_>>()
            });
            for sums in found {
                for (call, sum) in sums.iter().enumerate() {
                    let mut expected = input(0, call);
                    for rank in 1..world {
                        expected.iter_mut().zip(input(rank, call)).for_each(|(a, b)| *a += b);
                    }
                    prop_assert_eq!(sum, &expected);
                }
            }
        }
    }

    #[test]
    fn largest_numbers_and_broadcasts() {
        let found = run_all(3, |member| {
            let rank = member.rank() as f64;
            let mut numbers = [rank, -rank, 5.0];
            member
                .all_reduce_numbers(&mut numbers, Reduce::Max)
                .unwrap();
            let tensor = Tensor::from_slice(&[rank as f32; 2]);
            member.broadcast(&tensor, 1).unwrap().wait().unwrap();
            member.barrier().unwrap();
            (numbers, values(&tensor))
        });
        assert!(
            found
                .iter()
                .all(|f| *f == ([2.0, 0.0, 5.0], vec![1.0, 1.0]))
        );
    }

    #[test]
    fn co_2_whoever_waits_for_a_member_that_left_is_told() {
        let mut members = threads(3);
        let leaver = members.remove(1);
        let waiting: Vec<_> = members
            .into_iter()
            .map(|mut member| thread::spawn(move || member.barrier()))
            .collect();
        drop(leaver);
        for handle in waiting {
            assert_eq!(
                handle.join().unwrap(),
                Err(CollectiveError::Gone { rank: 1 })
            );
        }
    }

    /// What everybody joined is finished; only what comes later fails.
    #[test]
    fn co_2_a_call_that_all_joined_ends_well() {
        let mut members = threads(2);
        let tensors: Vec<Tensor> = (0..2)
            .map(|_| Tensor::ones([4], (Kind::Float, Device::Cpu)))
            .collect();
        let pending: Vec<Pending> = members
            .iter_mut()
            .zip(&tensors)
            .map(|(member, t)| member.all_reduce(t, Reduce::Sum).unwrap())
            .collect();
        let leaver = members.remove(0);
        drop(leaver);
        pending.into_iter().for_each(|p| p.wait().unwrap());
        assert_eq!(values(&tensors[1]), [2.0; 4]);
        assert_eq!(members[0].barrier(), Err(CollectiveError::Gone { rank: 0 }));
    }

    #[test]
    fn co_3_calls_that_do_not_fit_fail_everywhere() {
        let found = run_all(2, |member| {
            let length = 3 + member.rank() as i64;
            let tensor = Tensor::zeros([length], (Kind::Float, Device::Cpu));
            member
                .all_reduce(&tensor, Reduce::Sum)
                .and_then(Pending::wait)
        });
        for result in found {
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains("of 3 elements of Float")
                    && error.contains("of 4 elements of Float")
            );
        }
    }
}
