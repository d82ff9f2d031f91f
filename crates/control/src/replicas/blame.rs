//! Members that cannot be met, by what those say who tried.
//!
//! Members stand in a ring: each dials the next one. A way that does not work is named by the one that
//! dials, by the one that waits, or by both, and of the two either may be at fault. So a member is left
//! out when more than one names it, and not all of these are named as often themselves; until then the
//! others stand in another order, which avoids ways that did not work and keeps those that are named
//! apart, so that it shows who is at fault if the same one is named again.

use super::ReplicaId;
use proto::cluster::Unmet;
use std::collections::{BTreeMap, BTreeSet};

/// Members that have to name another one.
const NAMED_BY: usize = 2;

/// Evidence on ways between members.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Ways that did not work: who dials, and who is dialled.
    broken: BTreeSet<(ReplicaId, ReplicaId)>,
    /// Since a group last stood: whom others name, and who.
    named: BTreeMap<ReplicaId, BTreeSet<ReplicaId>>,
}

/// A meeting that came to nothing.
pub(super) struct Failed<'a> {
    pub ranks: &'a [ReplicaId],
    /// Of those that could not meet.
    pub unmet: &'a BTreeMap<ReplicaId, Unmet>,
    /// Those that said nothing.
    pub silent: &'a BTreeSet<ReplicaId>,
    /// Those that were left out before, and have made no step since.
    pub on_trial: &'a BTreeSet<ReplicaId>,
    /// Rank 0 has steps that nobody else has.
    pub is_leader_ahead: bool,
    /// Meetings in a row that came to nothing.
    pub times: u32,
}

impl Evidence {
    /// Takes notice of what a meeting's members say; whether they name anybody.
    pub(super) fn hear(&mut self, failed: &Failed) -> bool {
        let count = failed.ranks.len();
        let mut is_named = false;
        for (rank, id) in failed.ranks.iter().enumerate() {
            let Some(unmet) = failed.unmet.get(id) else {
                continue;
            };
            let next = failed.ranks[(rank + 1) % count];
            let previous = failed.ranks[(rank + count - 1) % count];
            for (misses, other, way) in [
                (unmet.misses_next, next, (*id, next)),
                (unmet.misses_previous, previous, (previous, *id)),
            ] {
                if misses && other != *id {
                    is_named = true;
                    self.broken.insert(way);
                    self.named.entry(other).or_default().insert(*id);
                }
            }
        }
        is_named
    }

    /// A group stands: who was named is met all the same.
    pub(super) fn stands(&mut self) {
        self.named.clear();
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, gone: ReplicaId) {
        self.broken
            .retain(|(from, to)| *from != gone && *to != gone);
        self.named.remove(&gone);
        for by in self.named.values_mut() {
            by.remove(&gone);
        }
    }

    fn naming(&self, id: ReplicaId) -> usize {
        self.named.get(&id).map_or(0, BTreeSet::len)
    }

    /// Those that the next meeting is to do without; none when the members are to try in another order
    /// first. One of them always stays.
    pub(super) fn culprits(&self, failed: &Failed) -> Vec<ReplicaId> {
        let is_culprit = |id: &ReplicaId| {
            let is_broken = failed.unmet.get(id).is_some_and(|u| u.is_own_fault);
            let named = self.naming(*id);
            let is_doubted = failed.silent.contains(id) || failed.on_trial.contains(id);
            is_broken || self.is_outvoted(*id) || (named > 0 && is_doubted)
        };
        let mut out: BTreeSet<ReplicaId> =
            failed.ranks.iter().copied().filter(is_culprit).collect();
        add_silent_neighbours(failed, &mut out);
        if out.len() == failed.ranks.len()
            && let Some(stays) = healthiest(failed)
        {
            out.remove(&stays);
        }
        let mut out: Vec<ReplicaId> = failed
            .ranks
            .iter()
            .copied()
            .filter(|id| out.contains(id))
            .collect();
        if out.is_empty() && self.is_hopeless(failed) {
            out.extend(self.worst(failed));
        }
        out
    }

    /// Of two that name each other, the one that others name, too. Where all that name one are named as
    /// often, as three that name each other, any of them may be well.
    fn is_outvoted(&self, id: ReplicaId) -> bool {
        let named = self.naming(id);
        let by = || self.named.get(&id).into_iter().flatten();
        named >= NAMED_BY
            && by().all(|by| self.naming(*by) <= named)
            && by().any(|by| self.naming(*by) < named)
    }

    /// Whether no order of the ring is likely to help.
    fn is_hopeless(&self, failed: &Failed) -> bool {
        let named = |id: &ReplicaId| self.naming(*id) > 0;
        if !failed.ranks.iter().any(named) {
            return false;
        }
        let order = self.order(failed.ranks.to_vec());
        failed.times >= super::MEETINGS || self.broken_in(&order) > 0
    }

    /// Of those that are named equally: the one that is dialled in vain, for a closed port is the usual
    /// reason, and of equals the last.
    fn worst(&self, failed: &Failed) -> Option<ReplicaId> {
        let dialled = |id: ReplicaId| self.broken.iter().filter(|(_, to)| *to == id).count();
        let ranks = failed.ranks.iter().copied().enumerate();
        let able = ranks.filter(|(rank, _)| *rank > 0 || !failed.is_leader_ahead);
        let worst = able.max_by_key(|(rank, id)| (self.naming(*id), dialled(*id), *rank));
        worst.map(|(_, id)| id)
    }

    /// The ranks in an order whose ways are not known to be broken, as far as there is one, and in which
    /// those that are named are not neighbours; rank 0 stays where it is.
    pub(super) fn order(&self, mut ranks: Vec<ReplicaId>) -> Vec<ReplicaId> {
        let mut cost = self.cost(&ranks);
        'better: while cost > (0, 0) {
            for one in 1..ranks.len() {
                for other in one + 1..ranks.len() {
                    ranks.swap(one, other);
                    let now = self.cost(&ranks);
                    if now < cost {
                        cost = now;
                        continue 'better;
                    }
                    ranks.swap(one, other);
                }
            }
            break;
        }
        ranks
    }

    /// Ways of a ring that are known to be broken, and those between two that are named: what fails there
    /// says nothing of either.
    fn cost(&self, ranks: &[ReplicaId]) -> (usize, usize) {
        let is_between_named =
            |(from, to): &(ReplicaId, ReplicaId)| self.naming(*from) > 0 && self.naming(*to) > 0;
        let between_named = ways(ranks).filter(is_between_named).count();
        (self.broken_in(ranks), between_named)
    }

    fn broken_in(&self, ranks: &[ReplicaId]) -> usize {
        ways(ranks).filter(|way| self.broken.contains(way)).count()
    }
}

/// Who dials and who is dialled, in a ring.
fn ways(ranks: &[ReplicaId]) -> impl Iterator<Item = (ReplicaId, ReplicaId)> {
    let next = ranks.iter().cycle().skip(1);
    ranks.iter().copied().zip(next.copied())
}

/// Of several side by side that say nothing only the outer ones can be named: those between them go, too.
fn add_silent_neighbours(failed: &Failed, culprits: &mut BTreeSet<ReplicaId>) {
    let both = |id: &ReplicaId| failed.silent.contains(id);
    let pairs: Vec<_> = ways(failed.ranks)
        .filter(|(one, other)| both(one) && both(other))
        .collect();
    let mut before = 0;
    while before < culprits.len() {
        before = culprits.len();
        for (one, other) in &pairs {
            if culprits.contains(one) || culprits.contains(other) {
                culprits.extend([*one, *other]);
            }
        }
    }
}

/// The first one that may be of use.
fn healthiest(failed: &Failed) -> Option<ReplicaId> {
    let is_broken = |id: &ReplicaId| failed.unmet.get(id).is_some_and(|u| u.is_own_fault);
    let ranks = failed.ranks.iter().copied();
    ranks.min_by_key(|id| (failed.silent.contains(id), is_broken(id)))
}
