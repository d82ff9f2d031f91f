//! Nodes that a launcher keeps running: which is started when, and when too few can be had.
//!
//! - **LA-1 (no node ends the run).** A node that ends is started again, later after each failure in a
//!   row, for as long as the run lasts.
//! - **LA-2 (few words).** Of failures in a row the first, second, fourth, eighth … are told.
//! - **LA-3 (too few).** The run is given up when a role has had fewer nodes than are waited for, without
//!   interruption, for as long as the bound says. A node counts once it has run for a while, or when it
//!   ended by itself because the run is over or does without it.
//! - **LA-4 (dismissed).** A node that ended well is not started again.
//! - **LA-5 (sick).** A node that its controller has end, to be started again, is started after the first
//!   wait, however often it ends so: that is no failure, and it counts as before (LA-3). How rarely it gets
//!   work, and when the run cannot do without it any more, is its controller's affair.

use crate::backoff::Backoff;
use proto::Role;
use std::collections::{BTreeMap, BTreeSet};

/// How patient a launcher is, in milliseconds each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Wait after a first failure.
    pub first_wait_ms: u64,
    /// Longest wait after failures in a row.
    pub longest_wait_ms: u64,
    /// A node that ran for so long has started well.
    pub steady_ms: u64,
    /// Time that a role may have too few nodes (LA-3).
    pub give_up_ms: u64,
}

/// A failure of a node, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Failures in a row, this one included.
    pub in_a_row: u32,
    /// Time until it is started again.
    pub wait_ms: u64,
    /// Whether it is to be told (LA-2).
    pub is_told: bool,
}

/// A role with too few nodes for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The role.
    pub role: Role,
    /// Nodes that have started well.
    pub has: usize,
    /// Nodes that the run waits for.
    pub wanted: usize,
    /// For how long.
    pub for_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is started at this time.
    Waiting(u64),
    /// It runs since this time.
    Running(u64),
    /// It ended well.
    Dismissed,
}

#[derive(Debug)]
struct Node {
    roles: BTreeSet<Role>,
    state: State,
    /// It has joined, as the controller's words for it show, and has not failed since (LA-5).
    is_known: bool,
    in_a_row: u32,
    backoff: Backoff,
}

impl Node {
    fn is_had(&self, config: &LaunchConfig, now_ms: u64) -> bool {
        match self.state {
            _ if self.is_known => true,
            State::Waiting(_) => false,
            State::Running(since) => now_ms.saturating_sub(since) >= config.steady_ms,
            State::Dismissed => true,
        }
    }
}

/// The nodes of a run, by their position in its file of hosts.
#[derive(Debug)]
pub struct Launching {
    config: LaunchConfig,
    nodes: Vec<Node>,
    /// Nodes that the run waits for, and since when there are fewer.
    wanted: BTreeMap<Role, (usize, Option<u64>)>,
}

impl Launching {
    /// Nodes with these roles, all to be started at once, of which `wanted` are needed.
    pub fn new(
        config: LaunchConfig,
        nodes: impl IntoIterator<Item = BTreeSet<Role>>,
        wanted: &BTreeMap<Role, usize>,
    ) -> Self {
        let node = |roles| Node {
            roles,
            state: State::Waiting(0),
            is_known: false,
            in_a_row: 0,
            backoff: Backoff::new(config.first_wait_ms, config.longest_wait_ms),
        };
        Self {
            config,
            nodes: nodes.into_iter().map(node).collect(),
            wanted: wanted
                .iter()
                .map(|(role, count)| (*role, (*count, None)))
                .collect(),
        }
    }

    /// Nodes that are to be started now. They count as running from now on.
    pub fn due(&mut self, now_ms: u64) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if matches!(node.state, State::Waiting(at) if at <= now_ms) {
                node.state = State::Running(now_ms);
                due.push(index);
            }
        }
        due
    }

    /// A node ended well: it is not wanted any more (LA-4).
    pub fn dismissed(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.state = State::Dismissed;
        }
    }

    /// A node ended otherwise, or could not be started. `share`, in [0, 1), is drawn by the caller.
    pub fn failed(&mut self, index: usize, now_ms: u64, share: f64) -> Option<Failure> {
        let node = self.nodes.get_mut(index)?;
        if node.is_had(&self.config, now_ms) {
            node.in_a_row = 0;
            node.backoff.worked();
        }
        node.is_known = false;
        node.in_a_row = node.in_a_row.saturating_add(1);
        let wait_ms = node.backoff.failed(share);
        node.state = State::Waiting(now_ms.saturating_add(wait_ms));
        Some(Failure {
            in_a_row: node.in_a_row,
            wait_ms,
            is_told: node.in_a_row.is_power_of_two(),
        })
    }

    /// A node ended as its controller had told it to, to be started again (LA-5). `share` as in
    /// [`Launching::failed`]; the time until it is started, in milliseconds.
    pub fn sick(&mut self, index: usize, now_ms: u64, share: f64) -> Option<u64> {
        let node = self.nodes.get_mut(index)?;
        node.in_a_row = 0;
        node.is_known = true;
        node.backoff.worked();
        let wait_ms = node.backoff.failed(share);
        node.state = State::Waiting(now_ms.saturating_add(wait_ms));
        Some(wait_ms)
    }

    /// The role for whose want the run is to be given up (LA-3). To be asked at least as often as
    /// [`Launching::next_ms`] says: a shortage counts from when it was seen.
    pub fn shortage(&mut self, now_ms: u64) -> Option<Shortage> {
        let mut found = None;
        for (&role, (wanted, since)) in &mut self.wanted {
            let is_had =
                |node: &&Node| node.roles.contains(&role) && node.is_had(&self.config, now_ms);
            let has = self.nodes.iter().filter(is_had).count();
            if has >= *wanted {
                *since = None;
                continue;
            }
            let for_ms = now_ms.saturating_sub(*since.get_or_insert(now_ms));
            if for_ms >= self.config.give_up_ms {
                found = found.or(Some(Shortage {
                    role,
                    has,
                    wanted: *wanted,
                    for_ms,
                }));
            }
        }
        found
    }

    /// When something may have changed by itself, from `now_ms` on.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let of_nodes = self.nodes.iter().filter_map(|node| match node.state {
            State::Waiting(at) => Some(at),
            State::Running(since) => {
                let steady = since.saturating_add(self.config.steady_ms);
                (steady > now_ms).then_some(steady)
            }
            State::Dismissed => None,
        });
        let shortages = self.wanted.values().filter_map(|(_, since)| *since);
        let bounds = shortages.map(|since| since.saturating_add(self.config.give_up_ms));
        of_nodes.chain(bounds).map(|at| at.max(now_ms)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: LaunchConfig = LaunchConfig {
        first_wait_ms: 1_000,
        longest_wait_ms: 60_000,
        steady_ms: 60_000,
        give_up_ms: 3_600_000,
    };

    fn roles(text: &str) -> BTreeSet<Role> {
        text.split(',').map(|role| role.parse().unwrap()).collect()
    }

    fn launching(nodes: &[&str], wanted: &[(Role, usize)]) -> Launching {
        let wanted = wanted.iter().copied().collect();
        Launching::new(CONFIG, nodes.iter().map(|text| roles(text)), &wanted)
    }

    #[test]
    fn la_1_and_la_2_a_node_is_started_ever_again_and_told_of_ever_more_rarely() {
        let mut launching = launching(&["sampler"], &[]);
        let (mut now, mut told, mut waits) = (0, Vec::new(), Vec::new());
        for _ in 0..100 {
            assert_eq!(launching.due(now), [0], "at {now} ms");
            assert_eq!(launching.due(now), [0; 0], "it runs already");
            now += 10;
            let failure = launching.failed(0, now, 0.0).unwrap();
            if failure.is_told {
                told.push(failure.in_a_row);
            }
            waits.push(failure.wait_ms);
            assert_eq!(launching.next_ms(now), Some(now + failure.wait_ms));
            assert_eq!(launching.due(now + failure.wait_ms - 1), [0; 0]);
            now += failure.wait_ms;
        }
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(
            waits[..8],
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        // 100 failures and nobody was given up: nobody is waited for.
        assert_eq!(launching.shortage(now), None);
        // One that has run well begins anew.
        launching.due(now);
        let failure = launching.failed(0, now + CONFIG.steady_ms, 0.0).unwrap();
        assert_eq!((failure.in_a_row, failure.wait_ms), (1, 500));
    }

    #[test]
    fn la_3_a_role_with_too_few_nodes_for_too_long_ends_the_run() {
        // Nodes; wanted; those that run from the start on, the rest fails; the role that is short.
        type Hosts = [&'static str];
        type Wanted = [(Role, usize)];
        let cases: [(&Hosts, &Wanted, &[usize], Option<Role>); 7] = [
            (&["sampler", "sampler"], &[(Role::Sampler, 1)], &[1], None),
            (
                &["sampler", "sampler"],
                &[(Role::Sampler, 2)],
                &[1],
                Some(Role::Sampler),
            ),
            (&["sampler,judge"], &[(Role::Judge, 1)], &[0], None),
            (
                &["sampler", "learner"],
                &[(Role::Sampler, 1), (Role::Learner, 1)],
                &[0],
                Some(Role::Learner),
            ),
            (&["sampler"], &[(Role::Sampler, 0)], &[], None),
            (&["sampler"], &[], &[], None),
            (&["tool"], &[(Role::Tool, 1)], &[], Some(Role::Tool)),
        ];
        for (nodes, wanted, well, short) in cases {
            let mut launching = launching(nodes, wanted);
            let mut now = 0;
            let found = loop {
                for index in launching.due(now) {
                    if !well.contains(&index) {
                        launching.failed(index, now, 0.5);
                    }
                }
                if let Some(shortage) = launching.shortage(now) {
                    assert!(shortage.for_ms >= CONFIG.give_up_ms && shortage.has < shortage.wanted);
                    break Some(shortage.role);
                }
                match launching.next_ms(now) {
                    Some(next) if next <= 2 * CONFIG.give_up_ms => now = next.max(now + 1),
                    _ => break None,
                }
            };
            assert_eq!(found, short, "{nodes:?} {wanted:?} {well:?}");
        }
    }

    #[test]
    fn la_3_a_host_that_is_away_for_15_minutes_ends_nothing() {
        let mut launching = launching(
            &["sampler", "learner"],
            &[(Role::Sampler, 1), (Role::Learner, 1)],
        );
        let (down, up) = (600_000, 600_000 + 15 * 60_000);
        let mut now = 0;
        let mut restarted = None;
        while now < 4 * CONFIG.give_up_ms {
            for index in launching.due(now) {
                let is_away = index == 1 && (down..up).contains(&now);
                match is_away {
                    true => drop(launching.failed(index, now, 0.9)),
                    false if index == 1 && now >= up => restarted = restarted.or(Some(now)),
                    false => {}
                }
            }
            if now == down {
                launching.failed(1, now, 0.9);
            }
            assert_eq!(launching.shortage(now), None, "at {now} ms");
            now += 1_000;
        }
        let late = restarted.unwrap() - up;
        assert!(
            late <= CONFIG.longest_wait_ms,
            "{late} ms after the host came back"
        );
    }

    #[test]
    fn la_3_a_node_that_ends_again_and_again_is_not_had() {
        let mut launching = launching(&["sampler"], &[(Role::Sampler, 1)]);
        let mut now = 0;
        while launching.shortage(now).is_none() {
            assert!(
                now <= 2 * CONFIG.give_up_ms,
                "it was taken for a node that works"
            );
            match launching.due(now).is_empty() {
                true => now = launching.next_ms(now).unwrap().max(now + 1),
                false => {
                    now += CONFIG.steady_ms - 1;
                    launching.failed(0, now, 0.5);
                }
            }
        }
        assert!(now >= CONFIG.give_up_ms);
    }

    #[test]
    fn la_4_a_node_that_was_dismissed_stays_away_and_is_no_shortage() {
        let mut launching = launching(&["judge"], &[(Role::Judge, 1)]);
        assert_eq!(launching.due(0), [0]);
        launching.dismissed(0);
        assert_eq!(launching.next_ms(0), None);
        assert_eq!(launching.due(u64::MAX), [0; 0]);
        assert_eq!(launching.shortage(u64::MAX), None);
    }

    #[test]
    fn la_5_a_node_that_stays_sick_is_started_without_end_and_is_no_shortage() {
        let mut launching = launching(&["sampler"], &[(Role::Sampler, 1)]);
        let mut now = 0;
        // It fails before it has joined.
        for _ in 0..3 {
            launching.due(now);
            now += launching.failed(0, now, 0.0).unwrap().wait_ms;
        }
        while now < 3 * CONFIG.give_up_ms {
            assert_eq!(launching.due(now), [0]);
            now += 10_000;
            let wait_ms = launching.sick(0, now, 0.0).unwrap();
            assert_eq!(wait_ms, CONFIG.first_wait_ms / 2);
            assert_eq!(launching.shortage(now), None, "at {now} ms");
            now += wait_ms;
        }
        // One that does not come back after all is a failure, and then a shortage.
        launching.due(now);
        let failure = launching.failed(0, now, 0.0).unwrap();
        assert_eq!((failure.in_a_row, failure.is_told), (1, true));
        launching.shortage(now);
        let short = launching.shortage(now + CONFIG.give_up_ms);
        assert_eq!(short.map(|short| short.role), Some(Role::Sampler));
    }

    proptest! {
        #[test]
        fn la_1_whoever_is_not_dismissed_runs_or_is_started_within_the_longest_wait(
            events in proptest::collection::vec((0..3usize, 0..3u8, 0..120_000u64, 0.0..1.0f64), 0..80),
        ) {
            let mut launching = launching(&["sampler", "tool", "learner"], &[(Role::Learner, 1)]);
            let (mut now, mut dismissed) = (0, BTreeSet::new());
            launching.due(now);
            for (index, event, wait, share) in events {
                now += wait;
                match event {
                    0 if !dismissed.contains(&index) => {
                        let failure = launching.failed(index, now, share).unwrap();
                        prop_assert!(failure.wait_ms <= CONFIG.longest_wait_ms);
                    }
                    1 if index == 1 => {
                        launching.dismissed(index);
                        dismissed.insert(index);
                    }
                    _ => {}
                }
                let due = launching.due(now + CONFIG.longest_wait_ms);
                prop_assert!(due.iter().all(|index| !dismissed.contains(index)));
                now += CONFIG.longest_wait_ms;
                for node in &launching.nodes {
                    prop_assert!(!matches!(node.state, State::Waiting(_)));
                }
            }
        }
    }
}
