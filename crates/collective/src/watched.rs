//! Whether somebody waits for a group, seen from another thread.

use crate::{Abort, CollectiveError, Communicator, Group, Pending, Reduce};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::Tensor;

/// Waits that are under way. Clones are the same count.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<AtomicUsize>);

impl Waits {
    /// Whether there are any.
    pub fn are_any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// Counts a wait for as long as it is not dropped.
struct Wait(Waits);

impl Wait {
    fn begin(waits: Waits) -> Self {
        waits.0.fetch_add(1, Ordering::SeqCst);
        Self(waits)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A group whose waits are counted.
#[derive(Debug)]
pub struct Watched {
    group: Box<dyn Communicator>,
    waits: Waits,
}

impl Watched {
    /// Counts the waits of a group in `waits`.
    pub fn new(group: Box<dyn Communicator>, waits: Waits) -> Self {
        Self { group, waits }
    }

    fn counted(&self, pending: Pending) -> Pending {
        let waits = self.waits.clone();
        Pending::new(move || {
            let _wait = Wait::begin(waits);
            pending.wait()
        })
    }
}

impl Communicator for Watched {
    fn group(&self) -> Group {
        self.group.group()
    }

    fn all_reduce(&mut self, tensor: &Tensor, reduce: Reduce) -> Result<Pending, CollectiveError> {
        let pending = self.group.all_reduce(tensor, reduce)?;
        Ok(self.counted(pending))
    }

    fn reduce_scatter(
        &mut self,
        tensor: &Tensor,
        reduce: Reduce,
    ) -> Result<Pending, CollectiveError> {
        let pending = self.group.reduce_scatter(tensor, reduce)?;
        Ok(self.counted(pending))
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Pending, CollectiveError> {
        let pending = self.group.all_gather(tensor)?;
        Ok(self.counted(pending))
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Pending, CollectiveError> {
        let pending = self.group.broadcast(tensor, root)?;
        Ok(self.counted(pending))
    }

    fn aborter(&self) -> Abort {
        self.group.aborter()
    }

    fn is_over(&self) -> bool {
        self.group.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;
    use tch::{Device, Kind};

    #[test]
    fn a_wait_is_seen_while_it_lasts() {
        let mut members = threads(2);
        let other = members.pop().expect("two");
        let waits = Waits::default();
        let mut watched = Watched::new(Box::new(members.remove(0)), waits.clone());
        let tensor = Tensor::ones([3], (Kind::Float, Device::Cpu));
        let pending = watched.all_reduce(&tensor, Reduce::Sum).unwrap();
        assert!(!waits.are_any(), "it has only been started");
        let wait = std::thread::spawn(move || pending.wait());
        while !waits.are_any() {
            std::thread::yield_now();
        }
        drop(other);
        assert_eq!(wait.join().unwrap(), Err(CollectiveError::Gone { rank: 1 }));
        assert!(!waits.are_any());
    }
}
