//! Which node pulls a version of the weights, or the files of a model, from which: a tree below the
//! controller, so that what the controller uploads does not grow with the number of nodes.
//!
//! - **SP-1 (a tree).** Following sources from any node leads to the controller, or to a node that is
//!   lost, and never round in a circle.
//! - **SP-2 (bounded).** A node gives a version to at most `fan_out` others.
//! - **SP-3 (none stranded).** Whatever becomes of others, a node that says its source fails gets
//!   another, after [`MOST_SOURCES`] of them the controller, which always is one.
//! - **SP-4 (few).** Up to `fan_out` nodes all pull from the controller.
//! - **SP-5 (the controller's share).** As long as no source fails and all nodes can be reached, the
//!   controller gives a version to `fan_out` nodes at most.
//! - **SP-6 (holders).** A node that holds the whole already gives it on and takes nobody's place.
//!
//! Nodes that others cannot reach give nothing on. They do not take the places of those that can: the
//! controller serves them beside its `fan_out` where no node has a place for them. So it does with
//! nodes whose sources failed.

use crate::membership::NodeId;
use proto::chunks::SourceFault;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes that another one tries before it takes the controller.
pub const MOST_SOURCES: usize = 2;

/// Whom a node pulls from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The controller.
    Controller,
    /// Another node.
    Node(NodeId),
}

/// What a node is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can be reached by others and gives on.
    Gives,
    /// It pulls from others and gives nothing.
    Takes,
    /// It pulls from the controller and gives nothing.
    Alone,
}

/// The way of one version, or of one folder's files.
#[derive(Debug, Clone)]
pub struct Spread {
    fan_out: usize,
    places: BTreeMap<NodeId, Place>,
    /// Nodes that failed somebody: nobody else is sent to them.
    failing: BTreeSet<NodeId>,
}

/// A node's place in the tree.
#[derive(Debug, Clone)]
struct Place {
    source: Source,
    gives: bool,
    /// It held the whole before it asked: the controller gave it nothing.
    holds: bool,
    /// The nodes it tried in vain.
    tried: BTreeSet<NodeId>,
}

impl Spread {
    /// No node has asked yet. Each gives to `fan_out` others at most, and may give to one at least.
    pub fn new(fan_out: usize) -> Self {
        Self {
            fan_out: fan_out.max(1),
            places: BTreeMap::new(),
            failing: BTreeSet::new(),
        }
    }

    /// A node begins: its source. One that has asked before keeps it.
    pub fn ask(&mut self, node: NodeId, standing: Standing) -> Source {
        if let Some(place) = self.places.get(&node) {
            return place.source;
        }
        let (gives, tried) = (standing == Standing::Gives, BTreeSet::new());
        let source = match standing {
            Standing::Alone => Source::Controller,
            _ if self.served(gives) < self.fan_out => Source::Controller,
            Standing::Gives | Standing::Takes => self.best(node, &tried),
        };
        let place = Place {
            source,
            gives,
            holds: false,
            tried,
        };
        self.places.insert(node, place);
        source
    }

    /// A node holds the whole already (SP-6). One that has asked before keeps its place.
    pub fn hold(&mut self, node: NodeId, standing: Standing) {
        let place = Place {
            source: Source::Controller,
            gives: standing == Standing::Gives,
            holds: true,
            tried: BTreeSet::new(),
        };
        self.places.entry(node).or_insert(place);
    }

    /// A node's source fails: another one. Nobody is sent to the old one any more; those that pull
    /// from it without trouble go on.
    pub fn failed(&mut self, node: NodeId) -> Source {
        let Some(place) = self.places.get(&node) else {
            return self.ask(node, Standing::Alone);
        };
        let Source::Node(old) = place.source else {
            return Source::Controller;
        };
        self.failing.insert(old);
        let mut tried = place.tried.clone();
        tried.insert(old);
        let source = match tried.len() < MOST_SOURCES {
            true => self.best(node, &tried),
            false => Source::Controller,
        };
        if let Some(place) = self.places.get_mut(&node) {
            *place = Place {
                source,
                tried,
                ..*place
            };
        }
        source
    }

    /// A node is lost. Those that pull from it will notice.
    pub fn lost(&mut self, node: NodeId) {
        self.places.remove(&node);
        self.failing.insert(node);
    }

    /// The source of a node that has asked.
    pub fn source(&self, node: NodeId) -> Option<Source> {
        self.places.get(&node).map(|place| place.source)
    }

    /// How many the controller serves, or has served; all, or those that give on.
    fn served(&self, only_giving: bool) -> usize {
        let places = self.places.values();
        let is_served =
            |p: &&Place| p.source == Source::Controller && !p.holds && (p.gives || !only_giving);
        places.filter(is_served).count()
    }

    /// The node nearest to the controller that has room, or the controller.
    fn best(&self, node: NodeId, tried: &BTreeSet<NodeId>) -> Source {
        let gives = |(id, place): &(&NodeId, &Place)| {
            place.gives && !tried.contains(id) && !self.failing.contains(id)
        };
        let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
        for place in self.places.values() {
            *counts.entry(place.source).or_default() += 1;
        }
        let free = self.places.iter().filter(gives).filter_map(|(id, _)| {
            let depth = self.depth(*id, node)?;
            let children = counts.get(&Source::Node(*id)).copied().unwrap_or(0);
            (children < self.fan_out).then_some((depth, children, *id))
        });
        free.min()
            .map_or(Source::Controller, |(_, _, id)| Source::Node(id))
    }

    /// Steps from a node up to the controller; none if the way leads through `avoided`, or ends at a
    /// node that is lost.
    fn depth(&self, from: NodeId, avoided: NodeId) -> Option<usize> {
        let (mut at, mut depth) = (Source::Node(from), 0);
        while let Source::Node(id) = at {
            if id == avoided {
                return None;
            }
            at = self.places.get(&id)?.source;
            depth += 1;
        }
        Some(depth)
    }
}

/// How many nodes have to say that another cannot be reached, until nobody is sent there; and how many
/// others one says it of, until it is itself that reaches nobody.
const SAID_BY: usize = 2;

/// What nodes have said of each other, from version to version.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// By node: those that could not pull from it.
    lost_to: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// They gave what was not announced.
    damaging: BTreeSet<NodeId>,
}

impl Trust {
    /// A node could not pull from another. Whether that one gives nothing on any more, of late.
    pub fn failed(&mut self, node: NodeId, source: NodeId, fault: SourceFault) -> bool {
        let before = self.is_shunned(source);
        match fault {
            SourceFault::Damaged => drop(self.damaging.insert(source)),
            SourceFault::Lost => drop(self.lost_to.entry(source).or_default().insert(node)),
            // Of this version it may know nothing, or be behind itself.
            SourceFault::Slow => {}
        }
        !before && self.is_shunned(source)
    }

    /// A node has left: its number is not given again.
    pub fn left(&mut self, node: NodeId) {
        self.lost_to.remove(&node);
        self.damaging.remove(&node);
        for by in self.lost_to.values_mut() {
            by.remove(&node);
        }
    }

    /// What a node is good for, that has an address or not.
    pub fn standing(&self, node: NodeId, has_address: bool) -> Standing {
        let complaints = self.lost_to.values().filter(|by| by.contains(&node));
        match complaints.count() >= SAID_BY {
            true => Standing::Alone,
            false if has_address && !self.is_shunned(node) => Standing::Gives,
            false => Standing::Takes,
        }
    }

    fn is_shunned(&self, node: NodeId) -> bool {
        let by = self.lost_to.get(&node).map_or(0, BTreeSet::len);
        self.damaging.contains(&node) || by >= SAID_BY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use Standing::{Alone, Gives, Takes};

    fn below(spread: &Spread, source: Source) -> usize {
        let places = spread.places.values();
        places.filter(|place| place.source == source).count()
    }

    #[test]
    fn sp_4_few_nodes_pull_from_the_controller() {
        for standing in [Gives, Takes, Alone] {
            let mut spread = Spread::new(4);
            for node in 1..=4 {
                assert_eq!(spread.ask(NodeId(node), standing), Source::Controller);
            }
        }
    }

    #[test]
    fn sp_5_the_controller_uploads_no_more_with_more_nodes() {
        for count in [5, 16, 100, 1000] {
            let mut spread = Spread::new(4);
            for node in 1..=count {
                spread.ask(NodeId(node), Gives);
            }
            assert_eq!(below(&spread, Source::Controller), 4, "{count}");
            let deepest = (1..=count).filter_map(|n| spread.depth(NodeId(n), NodeId(0)));
            // 4 + 16 + 64 + 256 + 1024.
            assert!(deepest.max() <= Some(5), "{count}");
        }
    }

    #[test]
    fn who_cannot_be_reached_takes_nobodys_place() {
        let mut spread = Spread::new(2);
        for node in 1..=3 {
            assert_eq!(spread.ask(NodeId(node), Takes), Source::Controller);
        }
        assert_eq!(spread.ask(NodeId(4), Gives), Source::Controller);
        assert_eq!(spread.ask(NodeId(5), Takes), Source::Node(NodeId(4)));
        assert_eq!(spread.ask(NodeId(6), Gives), Source::Controller);
        assert_eq!(spread.ask(NodeId(7), Gives), Source::Node(NodeId(6)));
    }

    #[test]
    fn sp_3_two_nodes_are_tried_and_then_the_controller() {
        let mut spread = Spread::new(1);
        for (node, source) in [(1, None), (2, Some(1)), (3, Some(2))] {
            let source = source.map_or(Source::Controller, |id| Source::Node(NodeId(id)));
            assert_eq!(spread.ask(NodeId(node), Gives), source);
        }
        // The first has no room, and who pulls from the third cannot be its source.
        assert_eq!(spread.failed(NodeId(3)), Source::Controller);
        spread.lost(NodeId(1));
        assert_eq!(spread.failed(NodeId(2)), Source::Node(NodeId(3)));
        assert_eq!(spread.failed(NodeId(2)), Source::Controller);
        assert_eq!(spread.failed(NodeId(2)), Source::Controller);
    }

    #[test]
    fn sp_6_holders_give_on_and_take_no_place() {
        let mut spread = Spread::new(2);
        for node in 1..=3 {
            spread.hold(NodeId(node), Gives);
        }
        spread.hold(NodeId(4), Takes);
        // The controller's own two, and then those that hold it.
        for node in 10..=11 {
            assert_eq!(spread.ask(NodeId(node), Gives), Source::Controller);
        }
        let mut given = [0; 12];
        for node in 20..26 {
            match spread.ask(NodeId(node), Takes) {
                Source::Node(NodeId(from)) => given[from as usize] += 1,
                Source::Controller => panic!("it has given its share"),
            }
        }
        assert_eq!(given[4], 0, "nobody reaches it");
        assert!(given[1..=3].iter().all(|times| *times >= 1), "{given:?}");
        assert_eq!(given.iter().sum::<i32>(), 6);
        // One that pulls stays where it is, whatever it says.
        spread.hold(NodeId(20), Gives);
        assert!(spread.source(NodeId(20)) != Some(Source::Controller));
    }

    #[test]
    fn who_reaches_nobody_is_served_by_the_controller() {
        let mut spread = Spread::new(1);
        assert_eq!(spread.ask(NodeId(1), Gives), Source::Controller);
        assert_eq!(spread.ask(NodeId(2), Alone), Source::Controller);
        assert_eq!(spread.ask(NodeId(3), Takes), Source::Node(NodeId(1)));
    }

    #[test]
    fn one_word_is_not_enough_to_shun_a_node() {
        use SourceFault::{Damaged, Lost, Slow};
        let [a, b, c, d] = [1, 2, 3, 4].map(NodeId);
        let mut trust = Trust::default();
        assert_eq!(trust.standing(a, false), Takes);
        // The same node, again and again.
        assert!(
            !trust.failed(b, a, Lost) && !trust.failed(b, a, Lost) && !trust.failed(c, a, Slow)
        );
        assert_eq!(trust.standing(a, true), Gives);
        assert!(trust.failed(c, a, Lost), "of late");
        assert!(!trust.failed(d, a, Lost), "that was known");
        assert_eq!(trust.standing(a, true), Takes);
        // Who reaches neither of two is not believed to reach a third.
        assert!(!trust.failed(b, d, Lost));
        assert_eq!(trust.standing(b, true), Alone);
        assert_eq!(trust.standing(d, true), Gives);
        assert!(trust.failed(b, c, Damaged), "a hash needs no witness");
        trust.left(a);
        assert_eq!(trust.standing(b, true), Gives);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Ask(u64, Standing),
        Failed(u64),
        Lost(u64),
        Hold(u64, Standing),
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![8 => Just(Gives), 2 => Just(Takes), 1 => Just(Alone)]
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (1..30u64, standing()).prop_map(|(n, standing)| Event::Ask(n, standing)),
            2 => (1..30u64).prop_map(Event::Failed),
            1 => (1..30u64).prop_map(Event::Lost),
            1 => (1..30u64, standing()).prop_map(|(n, standing)| Event::Hold(n, standing)),
        ]
    }

    proptest! {
        #[test]
        fn sp_1_2_3_whatever_happens(
            fan_out in 1..5usize,
            events in proptest::collection::vec(event(), 1..120),
        ) {
            let mut spread = Spread::new(fan_out);
            for event in events {
                match event {
                    Event::Ask(node, standing) => drop(spread.ask(NodeId(node), standing)),
                    Event::Failed(node) => drop(spread.failed(NodeId(node))),
                    Event::Lost(node) => spread.lost(NodeId(node)),
                    Event::Hold(node, standing) => spread.hold(NodeId(node), standing),
                }
                for (id, place) in &spread.places {
                    prop_assert!(below(&spread, Source::Node(*id)) <= fan_out, "SP-2");
                    let (mut at, mut steps) = (place.source, 0);
                    while let Source::Node(above) = at {
                        steps += 1;
                        prop_assert!(steps <= spread.places.len(), "SP-1: {:?}", spread);
                        match spread.places.get(&above) {
                            Some(place) => at = place.source,
                            None => break,
                        }
                    }
                }
            }
            let all: Vec<NodeId> = spread.places.keys().copied().collect();
            for node in all {
                for _ in 0..MOST_SOURCES {
                    if let Source::Node(source) = spread.failed(node) {
                        prop_assert!(spread.places.contains_key(&source), "SP-3: a lost one");
                    }
                }
                prop_assert_eq!(spread.source(node), Some(Source::Controller), "SP-3");
            }
        }

        /// SP-4, SP-5, in whatever order they come.
        #[test]
        fn sp_5_no_more_than_its_share(fan_out in 1..6usize, count in 1..80u64) {
            let mut spread = Spread::new(fan_out);
            for node in 1..=count {
                spread.ask(NodeId(node), Gives);
            }
            let expected = fan_out.min(count as usize);
            prop_assert_eq!(below(&spread, Source::Controller), expected);
        }
    }
}
