//! A group of one: every operation is over before it begins.

use crate::{CollectiveError, Communicator, Pending, Reduce};
use tch::Tensor;

/// The only member of its group.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _: &Tensor, _: Reduce) -> Result<Pending, CollectiveError> {
        Ok(Pending::done())
    }

    fn broadcast(&mut self, _: &Tensor, _: usize) -> Result<Pending, CollectiveError> {
        Ok(Pending::done())
    }
}
