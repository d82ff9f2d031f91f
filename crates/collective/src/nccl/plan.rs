//! Which of NCCL's collectives an operation is made of. Pure.
//!
//! [Shares](share) may differ in size, which NCCL's reduce-scatter and all-gather do not know: then a
//! group of one reduction, or one broadcast, for each share stands for them.

use crate::CollectiveError;
use crate::call::{Call, Operation, Reduce, share};
use cudarc::nccl::sys::ncclDataType_t;
use tch::Kind;

/// One of NCCL's collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collective {
    AllReduce(Reduce),
    Reduce { reduce: Reduce, root: usize },
    ReduceScatter(Reduce),
    AllGather,
    Broadcast { root: usize },
}

/// A collective on parts of one buffer, in units of its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub collective: Collective,
    /// Where what is sent begins.
    pub from: usize,
    /// Where what is received begins.
    pub to: usize,
    /// As NCCL counts: of a share, where the collective has to do with shares.
    pub count: usize,
}

/// How elements are seen by NCCL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub element: ncclDataType_t,
    /// Of one.
    pub bytes: usize,
    /// Of which an element of the tensor is made.
    pub per_element: usize,
}

/// The steps of an operation for one member; they are started as one group.
pub(super) fn plan(call: &Call, rank: usize, world: usize) -> Vec<Step> {
    let whole = |collective| Step {
        collective,
        from: 0,
        to: 0,
        count: call.elements,
    };
    match call.operation {
        _ if call.elements == 0 => Vec::new(),
        Operation::AllReduce(reduce) => vec![whole(Collective::AllReduce(reduce))],
        Operation::Broadcast { root } => vec![whole(Collective::Broadcast { root })],
        Operation::ReduceScatter(reduce) => {
            let even = Collective::ReduceScatter(reduce);
            shared(
                call,
                world,
                (even, 0, share(call.elements, world, rank).start),
                |root| Collective::Reduce { reduce, root },
            )
        }
        Operation::AllGather => {
            let own = share(call.elements, world, rank).start;
            shared(call, world, (Collective::AllGather, own, 0), |root| {
                Collective::Broadcast { root }
            })
        }
    }
}

/// One step where all shares have the same size (`even`, from and to), else one for each.
fn shared(
    call: &Call,
    world: usize,
    even: (Collective, usize, usize),
    each: impl Fn(usize) -> Collective,
) -> Vec<Step> {
    let shares: Vec<_> = (0..world)
        .map(|rank| share(call.elements, world, rank))
        .collect();
    if shares.iter().all(|share| share.len() == shares[0].len()) {
        let (collective, from, to) = even;
        return vec![Step {
            collective,
            from,
            to,
            count: shares[0].len(),
        }];
    }
    let filled = shares
        .iter()
        .enumerate()
        .filter(|(_, share)| !share.is_empty());
    let step = |(root, share): (usize, &std::ops::Range<usize>)| Step {
        collective: each(root),
        from: share.start,
        to: share.start,
        count: share.len(),
    };
    filled.map(step).collect()
}

/// How NCCL sees the call's elements; what is only moved are bytes to it.
///
/// # Errors
/// For element types that NCCL cannot reduce.
pub(super) fn unit(call: &Call) -> Result<Unit, CollectiveError> {
    let bytes = call.kind.elt_size_in_bytes();
    if matches!(
        call.operation,
        Operation::AllGather | Operation::Broadcast { .. }
    ) {
        return Ok(Unit {
            element: ncclDataType_t::ncclInt8,
            bytes: 1,
            per_element: bytes,
        });
    }
    let element = match call.kind {
        Kind::Float => ncclDataType_t::ncclFloat32,
        Kind::Double => ncclDataType_t::ncclFloat64,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        Kind::Half => ncclDataType_t::ncclFloat16,
        Kind::Int64 => ncclDataType_t::ncclInt64,
        Kind::Int => ncclDataType_t::ncclInt32,
        other => {
            return Err(CollectiveError::Unsupported(format!(
                "NCCL reduces f32, f64, bf16, f16, i64 and i32 here, and not {other:?}"
            )));
        }
    };
    Ok(Unit {
        element,
        bytes,
        per_element: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(operation: Operation, elements: usize) -> Call {
        Call {
            operation,
            elements,
            kind: Kind::Float,
        }
    }

    proptest! {
        /// All members start the same collectives, and every share comes to its member once.
        #[test]
        fn members_plans_fit_each_other(elements in 0usize..2000, world in 1usize..6) {
            for operation in [Operation::ReduceScatter(Reduce::Sum), Operation::AllGather] {
                let plans: Vec<Vec<Step>> =
                    (0..world).map(|rank| plan(&call(operation, elements), rank, world)).collect();
                for (rank, steps) in plans.iter().enumerate() {
                    let same = |step: &Step| (step.collective, step.count);
                    prop_assert!(steps.iter().map(same).eq(plans[0].iter().map(same)));
                    let own = share(elements, world, rank);
                    let covered: usize = steps.iter().map(|step| match step.collective {
                        Collective::ReduceScatter(_) => { assert_eq!(step.to, own.start); step.count * world }
                        Collective::AllGather => { assert_eq!(step.from, own.start); step.count * world }
                        _ => { assert_eq!(step.from, step.to); step.count }
                    }).sum();
                    prop_assert_eq!(covered, elements);
                }
            }
        }
    }

    #[test]
    fn even_shares_take_one_collective_and_uneven_ones_a_group() {
        let scatter = Operation::ReduceScatter(Reduce::Sum);
        let cases = [
            (scatter, 128, 1),
            (scatter, 100, 2),
            (Operation::AllGather, 192, 2),
            (scatter, 30, 1),
        ];
        for (operation, elements, steps) in cases {
            assert_eq!(
                plan(&call(operation, elements), 1, 2).len(),
                steps,
                "{operation:?} {elements}"
            );
        }
        let alone = plan(&call(scatter, 30), 1, 2)[0].collective;
        assert!(
            matches!(alone, Collective::Reduce { root: 0, .. }),
            "{alone:?}"
        );
    }
}
