//! Weights over a network in memory, from controllers and nodes that fail in every way.

use super::super::blobs::Blobs;
use super::super::in_memory::{Bent, SIZE, Ways, flipped, identity, made_up, name};
use super::super::spreading::{SpreadPlan, Version};
use super::*;
use proto::chunks::ChunkSource;
use proto::{WeightManifest, WeightVersion};
use std::sync::Mutex;
use std::time::Duration;
use transport::Lane;
use transport::memory::{Network, Rules};

/// Weights of a version; from one to the next few bytes change, and those of some chunks not at all.
fn weights(version: u64) -> WeightSnapshot {
    let mut bytes = made_up(0);
    let len = bytes.len();
    for step in 1..=version as usize {
        for at in (step..len).step_by(3001) {
            bytes[at] ^= 1;
        }
    }
    let manifest = WeightManifest {
        version: WeightVersion(version),
        tensors: Vec::new(),
        adapter: None,
        base: None,
        checksum: crc32fast::hash(&bytes),
    };
    WeightSnapshot {
        manifest: Arc::new(manifest),
        bytes: Arc::new(bytes),
    }
}

/// A controller, and nodes that it brings weights to.
struct Stage {
    network: Network,
    blobs: Blobs,
    plan: SpreadPlan,
}

impl Stage {
    fn new(rules: Rules) -> Self {
        let stage = Self {
            network: Network::new(1, rules, Duration::from_secs(20)),
            blobs: Blobs::default(),
            plan: SpreadPlan {
                chunk_bytes: SIZE,
                deltas: true,
                ..SpreadPlan::default()
            },
        };
        stage.serve("head", Arc::new(stage.blobs.clone()));
        stage
    }

    /// Those who dial `name` can pull from `source`.
    fn serve(&self, name: &str, source: Arc<dyn bulk::Source>) {
        let mut listener = self.network.listen(identity(name));
        tokio::spawn(async move {
            while let Some(connection) = listener.accept().await {
                tokio::spawn(bulk::serve(connection, source.clone()));
            }
        });
    }

    fn version(&self, number: u64, base: Option<&Version>) -> Version {
        Version::make(self.plan, &self.blobs, weights(number), base).unwrap()
    }

    /// A node, which gives on what it has.
    async fn node(&self, name: &str) -> Node {
        let shelf = Shelf::default();
        self.serve(name, Arc::new(shelf.clone()));
        let head = "head".parse().unwrap();
        let bulk = self.network.dial(identity(name), &head, Lane::Bulk);
        Node {
            shelf,
            bulk: bulk.await.unwrap(),
            ways: Ways(self.network.clone(), identity(name)),
        }
    }
}

struct Node {
    shelf: Shelf,
    bulk: Arc<dyn Connection>,
    ways: Ways,
}

impl Node {
    async fn gather(&self, version: &Version, from: &str) -> Result<Gathered, TransferError> {
        let source = match from {
            "head" => ChunkSource::Controller,
            node => ChunkSource::Node {
                name: name(node),
                address: node.to_owned(),
            },
        };
        let offer = WeightOffer {
            source,
            ..version.offer.clone()
        };
        gather(&self.shelf, offer, &self.bulk, &self.ways).await
    }

    /// Gets the very weights; what it took.
    async fn gets(&self, version: &Version, from: &str) -> Pulled {
        match self.gather(version, from).await {
            Ok(Gathered::Whole(got, pulled)) => {
                let expected = weights(version.offer.manifest.version.0);
                assert_eq!(got.bytes, expected.bytes);
                assert!(*got.manifest == *expected.manifest);
                pulled
            }
            Ok(Gathered::Stuck(fault, reason)) => panic!("{fault:?}: {reason}"),
            Err(error) => panic!("{error}"),
        }
    }

    async fn sticks(&self, version: &Version, from: &str) -> SourceFault {
        match self.gather(version, from).await {
            Ok(Gathered::Stuck(fault, _)) => fault,
            Ok(Gathered::Whole(..)) => panic!("it came"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn len() -> u64 {
    weights(1).bytes.len() as u64
}

#[tokio::test(start_paused = true)]
async fn ga_1_what_a_node_damages_comes_from_elsewhere() {
    let stage = Stage::new(Rules::default());
    let version = stage.version(1, None);
    let good = stage.node("good").await;
    good.gets(&version, "head").await;
    let bend = |start, piece| match start {
        7000 => Ok(flipped(&piece)),
        _ => Ok(piece),
    };
    stage.serve("liar", Arc::new(Bent(Arc::new(good.shelf.clone()), bend)));
    let node = stage.node("node").await;
    assert_eq!(node.sticks(&version, "liar").await, SourceFault::Damaged);
    assert!(node.shelf.0.value().whole.is_none());
    let pulled = node.gets(&version, "good").await;
    assert_eq!(pulled.repaired, 1);
    // GA-2: what was under way is pulled again, and the damaged chunk.
    let again = (STREAMS as u64 + 1) * u64::from(SIZE);
    assert!(pulled.bytes <= len() + again, "{pulled:?}");
    assert_eq!(pulled.from_nodes_bytes, pulled.bytes);
}

#[tokio::test(start_paused = true)]
async fn ga_1_what_the_controller_damages_is_pulled_again_so_often() {
    for (times, comes) in [(1, true), (2, true), (3, false)] {
        let stage = Stage::new(Rules::default());
        let version = stage.version(1, None);
        let left = Mutex::new(times);
        let bend = move |start, piece| {
            let mut left = left.lock().unwrap();
            match *left > 0 && start == 19_000 {
                true => {
                    *left -= 1;
                    Ok(flipped(&piece))
                }
                false => Ok(piece),
            }
        };
        stage.serve("head", Arc::new(Bent(Arc::new(stage.blobs.clone()), bend)));
        let node = stage.node("node").await;
        if comes {
            assert_eq!(node.gets(&version, "head").await.repaired, times);
        } else {
            let failed = node.gather(&version, "head").await;
            assert!(matches!(failed, Err(TransferError::Broken(_))));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ga_2_what_a_node_does_not_have_comes_from_elsewhere() {
    let stage = Stage::new(Rules::default());
    let version = stage.version(1, None);
    let good = stage.node("good").await;
    good.gets(&version, "head").await;
    let bend = |start, piece| match start {
        9000 => Err("gone".to_owned()),
        _ => Ok(piece),
    };
    stage.serve("poor", Arc::new(Bent(Arc::new(good.shelf.clone()), bend)));
    let node = stage.node("node").await;
    assert_eq!(node.sticks(&version, "poor").await, SourceFault::Slow);
    let before = stage.blobs.given_bytes();
    let pulled = node.gets(&version, "head").await;
    assert!(pulled.from_nodes_bytes >= 5 * u64::from(SIZE), "{pulled:?}");
    assert!(stage.blobs.given_bytes() - before < len());
    // Who knows nothing of a version says so after a while.
    let next = stage.version(2, None);
    assert_eq!(node.sticks(&next, "good").await, SourceFault::Slow);
    assert_eq!(node.sticks(&next, "nobody").await, SourceFault::Lost);
}

#[tokio::test(start_paused = true)]
async fn ga_3_nodes_in_a_row_give_on_what_they_do_not_have_yet() {
    let delay = Duration::from_millis(50);
    let stage = Stage::new(Rules {
        delay,
        ..Rules::default()
    });
    let version = stage.version(1, None);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        nodes.push(stage.node(name).await);
    }
    let began = tokio::time::Instant::now();
    nodes[0].gets(&version, "head").await;
    let alone = began.elapsed();
    assert_eq!(stage.blobs.given_bytes(), len());
    let next = stage.version(2, None);
    let began = tokio::time::Instant::now();
    let pulled = tokio::join!(
        nodes[3].gets(&next, "c"),
        nodes[2].gets(&next, "b"),
        nodes[1].gets(&next, "a"),
        nodes[0].gets(&next, "head"),
    );
    assert_eq!(stage.blobs.given_bytes(), 2 * len());
    assert_eq!(pulled.0.from_nodes_bytes, len());
    // One after the other it would be four times as long.
    assert!(
        began.elapsed() < 3 * alone,
        "{:?} {alone:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn ga_2_a_node_that_is_lost_in_the_middle_costs_what_had_not_come() {
    let stage = Stage::new(Rules {
        delay: Duration::from_millis(50),
        ..Rules::default()
    });
    let version = stage.version(1, None);
    let (above, below) = (stage.node("above").await, stage.node("below").await);
    above.gets(&version, "head").await;
    let network = stage.network.clone();
    let (fault, ()) = tokio::join!(below.sticks(&version, "above"), async {
        // The dialling takes 100 ms, and four chunks 100 more.
        tokio::time::sleep(Duration::from_millis(450)).await;
        network.vanish(&name("above"));
    });
    assert_eq!(fault, SourceFault::Slow, "nobody says that it is gone");
    let before = stage.blobs.given_bytes();
    let pulled = below.gets(&version, "head").await;
    let rest = stage.blobs.given_bytes() - before;
    assert!(pulled.from_nodes_bytes > 0 && rest < len(), "{pulled:?}");
}

#[tokio::test(start_paused = true)]
async fn ga_4_a_delta_brings_what_has_changed() {
    let stage = Stage::new(Rules::default());
    let first = stage.version(1, None);
    let second = stage.version(2, Some(&first));
    let node = stage.node("node").await;
    assert_eq!(node.gets(&first, "head").await.saved_bytes, 0);
    let before = stage.blobs.given_bytes();
    let pulled = node.gets(&second, "head").await;
    assert_eq!(pulled.refused, None);
    assert_eq!(pulled.bytes + pulled.saved_bytes, len());
    assert!(pulled.bytes < len() / 10, "{pulled:?}");
    assert_eq!(stage.blobs.given_bytes() - before, pulled.bytes);
    let parts = &second.offer.delta.as_ref().unwrap().parts;
    assert!(parts.contains(&DeltaPart::Same));
}

#[tokio::test(start_paused = true)]
async fn ga_4_a_delta_out_of_order_is_refused_and_everything_is_pulled() {
    let stage = Stage::new(Rules::default());
    let first = stage.version(1, None);
    let second = stage.version(2, Some(&first));
    let third = stage.version(3, Some(&second));
    let node = stage.node("node").await;
    let pulled = node.gets(&second, "head").await;
    assert_eq!(pulled.refused, Some(DeltaRefusal::NoBase));
    assert_eq!(pulled.bytes, len());
    let late = stage.node("late").await;
    late.gets(&first, "head").await;
    let pulled = late.gets(&third, "head").await;
    let refusal = DeltaRefusal::OtherBase {
        holds: WeightVersion(1),
        needs: WeightVersion(2),
    };
    assert_eq!(pulled.refused, Some(refusal));
    assert_eq!((pulled.bytes, pulled.saved_bytes), (len(), 0));
    // And the next one fits again.
    let fourth = stage.version(4, Some(&third));
    assert!(late.gets(&fourth, "head").await.saved_bytes > 0);
}

#[tokio::test(start_paused = true)]
async fn ga_4_a_damaged_delta_is_as_good_as_none() {
    let stage = Stage::new(Rules::default());
    let first = stage.version(1, None);
    let second = stage.version(2, Some(&first));
    let bend = |_, piece: Bytes| match piece.len() < 100 {
        true => Ok(flipped(&piece)),
        false => Ok(piece),
    };
    stage.serve("head", Arc::new(Bent(Arc::new(stage.blobs.clone()), bend)));
    let node = stage.node("node").await;
    node.gets(&first, "head").await;
    let pulled = node.gets(&second, "head").await;
    assert!(pulled.repaired > 0 && pulled.bytes > pulled.repaired * u64::from(SIZE) / 2);
}

#[tokio::test(start_paused = true)]
async fn deltas_are_given_on_and_who_has_none_gives_all() {
    let stage = Stage::new(Rules::default());
    let first = stage.version(1, None);
    let second = stage.version(2, Some(&first));
    let (a, b) = (stage.node("a").await, stage.node("b").await);
    let (new, c) = (stage.node("new").await, stage.node("c").await);
    for node in [&a, &b, &c] {
        node.gets(&first, "head").await;
    }
    let (_, from_a) = tokio::join!(a.gets(&second, "head"), b.gets(&second, "a"));
    assert!(from_a.bytes < len() / 10 && from_a.from_nodes_bytes == from_a.bytes);
    let (_, from_new) = tokio::join!(new.gets(&second, "head"), c.gets(&second, "new"));
    assert!(from_new.from_nodes_bytes > len() / 4, "{from_new:?}");
}

#[tokio::test]
async fn an_offer_that_does_not_fit_is_not_begun() {
    let stage = Stage::new(Rules::default());
    let mut version = stage.version(1, None);
    version.offer.chunks.hashes.pop();
    let node = stage.node("node").await;
    let failed = node.gather(&version, "head").await;
    assert!(matches!(failed, Err(TransferError::Here(_))));
    assert_eq!(stage.blobs.given_bytes(), 0);
}
