//! A network in memory for tests, with nodes that fail as a test wishes.

use crate::node::{DialFault, Dialler};
use async_trait::async_trait;
use bytes::Bytes;
use proto::{Identity, NodeName, Role};
use std::ops::Range;
use std::sync::Arc;
use transport::memory::Network;
use transport::{Connection, Lane, bulk};

/// Bytes of a chunk.
pub(super) const SIZE: u32 = 1000;

/// Chunks of what travels; the last one is shorter.
pub(super) const CHUNKS: usize = 20;

pub(super) fn name(text: &str) -> NodeName {
    text.parse().expect("tests give good names")
}

pub(super) fn identity(text: &str) -> Identity {
    Identity {
        name: name(text),
        roles: [Role::Sampler, Role::Learner].into(),
    }
}

/// Bytes in no order, [`CHUNKS`] chunks of them.
pub(super) fn made_up(seed: u32) -> Vec<u8> {
    let len = (CHUNKS - 1) as u32 * SIZE + 500;
    (0..len)
        .map(|n| ((n + seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Gives out what another does, as a test wishes.
pub(super) struct Bent<F>(pub Arc<dyn bulk::Source>, pub F);

#[async_trait]
impl<F> bulk::Source for Bent<F>
where
    F: Fn(u64, Bytes) -> Result<Bytes, String> + Send + Sync + 'static,
{
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let start = range.start;
        self.1(start, self.0.piece(id, range).await?)
    }
}

/// A piece with one bit changed.
pub(super) fn flipped(piece: &Bytes) -> Bytes {
    let mut bytes = piece.to_vec();
    bytes[7] ^= 4;
    bytes.into()
}

/// Dials others over the network, in the name of this node.
pub(super) struct Ways(pub Network, pub Identity);

#[async_trait]
impl Dialler for Ways {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        Err(DialFault::Unreachable("not here".to_owned()))
    }

    async fn data(&self, _: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.control().await
    }

    async fn bulk(&self, _: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.control().await
    }

    async fn node(&self, name: &NodeName, _: &str) -> Result<Arc<dyn Connection>, DialFault> {
        let dialled = self.0.dial(self.1.clone(), name, Lane::Bulk).await;
        dialled.map_err(|error| DialFault::Unreachable(error.to_string()))
    }
}
