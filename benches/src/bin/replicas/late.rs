//! A communicator that holds back what is called for until somebody waits, while it is told to: what a
//! step would be whose sums do not run beside its backward pass.

use collective::{Abort, CollectiveError, Communicator, Group, Pending, Reduce};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tch::Tensor;

#[derive(Debug)]
pub struct Late {
    group: Group,
    aborter: Abort,
    is_late: Arc<AtomicBool>,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Debug)]
struct Calls {
    inner: Box<dyn Communicator>,
    /// Calls made.
    made: u64,
    held: Vec<(u64, Operation, Tensor)>,
    started: BTreeMap<u64, Result<Pending, CollectiveError>>,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    AllReduce(Reduce),
    ReduceScatter(Reduce),
    AllGather,
    Broadcast(usize),
}

impl Late {
    pub fn new(inner: Box<dyn Communicator>, is_late: Arc<AtomicBool>) -> Self {
        Self {
            group: inner.group(),
            aborter: inner.aborter(),
            is_late,
            calls: Arc::new(Mutex::new(Calls {
                inner,
                made: 0,
                held: Vec::new(),
                started: BTreeMap::new(),
            })),
        }
    }

    fn call(&self, operation: Operation, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        let mut calls = lock(&self.calls);
        if !self.is_late.load(Ordering::Relaxed) {
            calls.start_held();
            return calls.start(operation, tensor);
        }
        let number = calls.made;
        calls.made += 1;
        calls.held.push((number, operation, tensor.shallow_clone()));
        let all = self.calls.clone();
        Ok(Pending::new(move || {
            let mut calls = lock(&all);
            calls.start_held();
            let started = calls.started.remove(&number);
            drop(calls);
            started
                .expect("whatever was held has just been started")?
                .wait()
        }))
    }
}

impl Calls {
    fn start_held(&mut self) {
        for (number, operation, tensor) in std::mem::take(&mut self.held) {
            let started = self.start(operation, &tensor);
            self.started.insert(number, started);
        }
    }

    fn start(&mut self, operation: Operation, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        match operation {
            Operation::AllReduce(reduce) => self.inner.all_reduce(tensor, reduce),
            Operation::ReduceScatter(reduce) => self.inner.reduce_scatter(tensor, reduce),
            Operation::AllGather => self.inner.all_gather(tensor),
            Operation::Broadcast(root) => self.inner.broadcast(tensor, root),
        }
    }
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Communicator for Late {
    fn group(&self) -> Group {
        self.group
    }

    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError> {
        self.call(Operation::AllReduce(reduce), tensor)
    }

    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError> {
        self.call(Operation::ReduceScatter(reduce), tensor)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        self.call(Operation::AllGather, tensor)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError> {
        self.call(Operation::Broadcast(root), tensor)
    }

    fn aborter(&self) -> Abort {
        self.aborter.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collective::threads;
    use std::thread;

    /// Late or not, a sum is the sum; and nothing is summed up before somebody waits.
    #[test]
    fn sums_are_the_same_and_late_ones_begin_when_they_are_waited_for() {
        let is_late = Arc::new(AtomicBool::new(true));
        let members = threads(2);
        thread::scope(|scope| {
            for member in members {
                let is_late = is_late.clone();
                scope.spawn(move || {
                    let mut late = Late::new(Box::new(member), is_late);
                    let tensors = [1.0, 2.0].map(|value| Tensor::from_slice(&[value; 3]));
                    let pending = tensors
                        .each_ref()
                        .map(|tensor| late.all_reduce(tensor, Reduce::Sum).unwrap());
                    assert_eq!(lock(&late.calls).held.len(), 2);
                    for (pending, tensor) in pending.into_iter().zip(&tensors) {
                        pending.wait().unwrap();
                        assert!(lock(&late.calls).held.is_empty());
                        let first = tensor.double_value(&[0]);
                        assert!(first == 2.0 || first == 4.0);
                    }
                    let sums = tensors.map(|tensor| tensor.double_value(&[2]));
                    assert_eq!(sums, [2.0, 4.0]);
                });
            }
        });
    }
}
