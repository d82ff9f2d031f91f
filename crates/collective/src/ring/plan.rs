//! Who sends and receives what in which order. Pure.
//!
//! Members stand in a ring; each receives from the one before and sends to the one after. A tensor is
//! cut into one share for each member. In round `t` member `r` sends share `r - 1 - t` and receives
//! share `r - 2 - t` (modulo the world): in the first `world - 1` rounds received shares are reduced
//! into its own, after which share `r` is complete at member `r`; in as many more rounds complete
//! shares go round. So whatever is sent in a round was received in the round before, and the rounds of
//! an all-reduce are those of a reduce-scatter and then those of an all-gather.

use crate::call::{Call, Operation, share};
use std::ops::Range;

/// What becomes of elements that are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// They are reduced into those that are there.
    Reduce,
    /// The same, and it was the last of the contributions.
    Complete,
    /// They take their place.
    Replace,
}

/// One member's part in an operation. Send `i` may go out once receipt `i - head` is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// Elements to send, a frame each.
    pub sends: Vec<Range<usize>>,
    /// Elements to receive, a frame each.
    pub receives: Vec<(Range<usize>, Into)>,
    /// Sends that wait for nothing.
    pub head: usize,
}

/// The part of member `rank` of `world` in a call, in frames of at most `segment` elements.
pub(super) fn plan(call: &Call, rank: usize, world: usize, segment: usize) -> Plan {
    let last_reducing = world - 1;
    match call.operation {
        Operation::AllReduce(_) => rounds(call, rank, world, segment, 0..2 * last_reducing),
        Operation::ReduceScatter(_) => rounds(call, rank, world, segment, 0..last_reducing),
        Operation::AllGather => {
            let all = last_reducing..2 * last_reducing;
            rounds(call, rank, world, segment, all)
        }
        Operation::Broadcast { root } => broadcast(call, rank, world, segment, root),
    }
}

fn rounds(call: &Call, rank: usize, world: usize, segment: usize, rounds: Range<usize>) -> Plan {
    // `behind` is less than three worlds.
    let before = |behind: usize| (rank + 3 * world - behind) % world;
    let shared = |rank| segments(share(call.elements, world, rank), segment);
    let mut plan = Plan::default();
    for round in rounds.clone() {
        plan.sends.extend(shared(before(1 + round)));
        if round == rounds.start {
            plan.head = plan.sends.len();
        }
        let into = match round + 1 {
            next if next < world - 1 => Into::Reduce,
            next if next == world - 1 => Into::Complete,
            _ => Into::Replace,
        };
        let received = shared(before(2 + round)).map(|range| (range, into));
        plan.receives.extend(received);
    }
    plan
}

fn broadcast(call: &Call, rank: usize, world: usize, segment: usize, root: usize) -> Plan {
    let all = || segments(0..call.elements, segment);
    let mut plan = Plan::default();
    if rank == root {
        plan.sends = all().collect();
        plan.head = plan.sends.len();
    } else {
        plan.receives = all().map(|range| (range, Into::Replace)).collect();
        if (rank + 1) % world != root {
            plan.sends = all().collect();
        }
    }
    plan
}

fn segments(range: Range<usize>, segment: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(segment)
        .map(move |start| start..(start + segment).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Reduce;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use tch::Kind;

    /// Carries plans out on numbers, members taking turns in the order that `turns` says.
    fn carry_out(
        call: &Call,
        segment: usize,
        mut all: Vec<Vec<u64>>,
        turns: &[usize],
    ) -> Vec<Vec<u64>> {
        let world = all.len();
        let plans: Vec<Plan> = (0..world).map(|r| plan(call, r, world, segment)).collect();
        let mut wires: Vec<VecDeque<Vec<u64>>> = vec![VecDeque::new(); world];
        let (mut sent, mut received) = (vec![0; world], vec![0; world]);
        let mut turn = turns.iter().cycle();
        let mut idle = 0;
        while idle < 100 * world {
            let rank = turn.next().unwrap() % world;
            let (plan, before) = (&plans[rank], (rank + world - 1) % world);
            idle += 1;
            let may_send = plan.head + received[rank];
            if sent[rank] < plan.sends.len().min(may_send) {
                let range = plan.sends[sent[rank]].clone();
                wires[rank].push_back(all[rank][range].to_vec());
                sent[rank] += 1;
                idle = 0;
            } else if let Some((range, into)) = plan.receives.get(received[rank])
                && let Some(frame) = wires[before].pop_front()
            {
                let own = &mut all[rank][range.clone()];
                assert_eq!(own.len(), frame.len());
                match into {
                    Into::Replace => own.copy_from_slice(&frame),
                    _ => own.iter_mut().zip(frame).for_each(|(a, b)| *a += b),
                }
                received[rank] += 1;
                idle = 0;
            }
        }
        for (rank, plan) in plans.iter().enumerate() {
            assert_eq!(sent[rank], plan.sends.len());
            assert_eq!(received[rank], plan.receives.len());
            assert!(wires[rank].is_empty());
        }
        all
    }

    proptest! {
        /// Whatever the sizes, and whoever is faster.
        #[test]
        fn plans_do_what_they_are_for(
            world in 2usize..6,
            elements in 0usize..700,
            segment in 1usize..300,
            root in 0usize..6,
            mut turns in prop::collection::vec(0usize..6, 1..40),
        ) {
            turns.extend(0..world);
            let input: Vec<Vec<u64>> = (0..world)
                .map(|r| (0..elements).map(|i| 1000 * (r as u64 + 1) + i as u64).collect())
                .collect();
            let sums: Vec<u64> = (0..elements).map(|i| input.iter().map(|v| v[i]).sum()).collect();
            let call = |operation| Call { operation, elements, kind: Kind::Float };
            let root = root % world;

            let found = carry_out(&call(Operation::AllReduce(Reduce::Sum)), segment, input.clone(), &turns);
            prop_assert!(found.iter().all(|v| *v == sums));

            let found = carry_out(&call(Operation::Broadcast { root }), segment, input.clone(), &turns);
            prop_assert!(found.iter().all(|v| *v == input[root]));

            let scattered =
                carry_out(&call(Operation::ReduceScatter(Reduce::Sum)), segment, input.clone(), &turns);
            for (rank, found) in scattered.iter().enumerate() {
                let own = share(elements, world, rank);
                prop_assert_eq!(&found[own.clone()], &sums[own]);
            }
            let gathered = carry_out(&call(Operation::AllGather), segment, scattered, &turns);
            prop_assert!(gathered.iter().all(|v| *v == sums));
        }
    }

    /// In every round of an all-reduce, and once: its last contribution is what completes a share.
    #[test]
    fn a_share_is_completed_once_by_its_owner() {
        let call = Call {
            operation: Operation::AllReduce(Reduce::Sum),
            elements: 300,
            kind: Kind::Float,
        };
        for rank in 0..3 {
            let plan = plan(&call, rank, 3, 1000);
            let completed: Vec<_> = plan
                .receives
                .iter()
                .filter(|(_, into)| *into == Into::Complete)
                .collect();
            assert_eq!(completed.len(), 1);
            assert_eq!(completed[0].0, share(300, 3, rank));
        }
    }
}
