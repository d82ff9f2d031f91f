//! Groups through the library of `nccl-abi`, which has the binary interface of NCCL and of the CUDA
//! driver and moves host memory; and what the real NCCL does where there is no GPU.
#![allow(unsafe_code)]

use super::library::{Code, Opened, open};
use super::*;
use crate::share;
use proptest::prelude::*;
use std::ffi::{OsStr, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Long enough for any machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where no answer is to come.
const SHORT: Duration = Duration::from_millis(500);

/// `ncclInternalError` and `ncclRemoteError`.
const INTERNAL: Code = 3;
const REMOTE: Code = 6;

/// Which collective `abi_fault` means.
const ALL_REDUCE: usize = 0;
const REDUCE: usize = 1;

/// One test at a time has the library, which counts what is open.
struct Abi {
    path: PathBuf,
    opened: Opened,
    library: Library,
    _alone: MutexGuard<'static, ()>,
}

impl Abi {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let here = std::env::current_exe().unwrap();
        let path = here.with_file_name("libnccl_abi.so");
        Self {
            opened: open(path.as_os_str()).unwrap(),
            library: Library::load(&path).unwrap(),
            path,
            _alone: alone,
        }
    }

    fn id(&self) -> UniqueId {
        UniqueId::from_library(&self.library).unwrap()
    }

    fn gpu(&self, ordinal: usize) -> Arc<Gpu> {
        let gpu = Gpu::through(&self.opened, self.path.as_os_str(), ordinal);
        gpu.unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn site(&self, rank: usize) -> Site {
        let gpu = self.gpu(rank);
        Site {
            library: self.library.clone(),
            compute: Stream::of_libtorch(&gpu),
            gpu,
            device: Device::Cpu,
        }
    }

    /// A function of `nccl_abi::orders`.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn order<F: Copy>(&self, name: &str) -> F {
        // SAFETY: promised above.
        *unsafe { self.opened.get::<F>(name) }.unwrap()
    }

    fn fault(&self, id: &UniqueId, rank: usize, kind: usize, code: Code) {
        type Order = extern "C" fn(&[u8; ID_BYTES], usize, usize, u64, Code);
        // SAFETY: its type.
        let order = unsafe { self.order::<Order>("abi_fault") };
        order(&id.0, rank, kind, 0, code);
    }

    fn refuse(&self, id: &UniqueId, rank: usize, code: Code) {
        type Order = extern "C" fn(&[u8; ID_BYTES], usize, Code);
        // SAFETY: its type.
        let order = unsafe { self.order::<Order>("abi_refuse") };
        order(&id.0, rank, code);
    }

    fn spread(&self, id: &UniqueId) {
        type Order = extern "C" fn(&[u8; ID_BYTES], bool);
        // SAFETY: its type.
        let order = unsafe { self.order::<Order>("abi_spread") };
        order(&id.0, true);
    }

    /// A group of `world`, each member on a thread of its own. Once all are there, the deadline holds.
    fn group(&self, id: &UniqueId, world: usize, deadline: Duration) -> Vec<Nccl> {
        let joined = self.try_group(id, world, PATIENCE);
        let mut members: Vec<Nccl> = joined.into_iter().map(Result::unwrap).collect();
        for member in &mut members {
            Arc::get_mut(&mut member.session).unwrap().deadline = deadline;
        }
        members
    }

    fn try_group(
        &self,
        id: &UniqueId,
        world: usize,
        deadline: Duration,
    ) -> Vec<Result<Nccl, CollectiveError>> {
        thread::scope(|scope| {
            let members: Vec<_> = (0..world)
                .map(|rank| scope.spawn(move || self.join(id, rank, world, deadline)))
                .collect();
            members.into_iter().map(|m| m.join().unwrap()).collect()
        })
    }

    fn join(
        &self,
        id: &UniqueId,
        rank: usize,
        world: usize,
        deadline: Duration,
    ) -> Result<Nccl, CollectiveError> {
        Nccl::at(
            self.site(rank),
            place(rank, world),
            id,
            Options {
                joining: deadline,
                deadline,
            },
            &AtomicBool::new(false),
        )
    }

    /// Nothing is left open, and nothing was done that NCCL or CUDA forbid.
    fn check_all_is_closed(&self) {
        // SAFETY: their types.
        let (open, misuses) = unsafe {
            (
                self.order::<extern "C" fn() -> usize>("abi_open")(),
                self.order::<extern "C" fn() -> u64>("abi_misuses")(),
            )
        };
        assert_eq!((open, misuses), (0, 0), "open handles, and misuses");
    }
}

fn place(rank: usize, world: usize) -> Group {
    Group {
        rank,
        world,
        epoch: 7,
    }
}

/// Runs `work` on every member, each on its thread, and returns what they return.
fn on_all<T: Send>(members: Vec<Nccl>, work: impl Fn(&mut Nccl) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let handles: Vec<_> = members
            .into_iter()
            .map(|mut member| {
                let work = &work;
                scope.spawn(move || work(&mut member))
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

fn input(rank: usize, call: usize, elements: usize) -> Vec<f32> {
    (0..elements)
        .map(|i| ((31 * rank + 17 * call + i) as f32).sin())
        .collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).view(-1)).unwrap()
}

fn ones(elements: i64) -> Tensor {
    Tensor::ones([elements], (Kind::Float, Device::Cpu))
}

fn sum(member: &mut Nccl, tensor: &Tensor) -> Result<(), CollectiveError> {
    member
        .all_reduce(tensor, Reduce::Sum)
        .and_then(Pending::wait)
}

/// In the order of ranks, as the library adds.
fn sum_of(inputs: &[Vec<f32>]) -> Vec<f32> {
    let (first, others) = inputs.split_first().unwrap();
    let mut sum = first.clone();
    for other in others {
        sum.iter_mut().zip(other).for_each(|(a, b)| *a += b);
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Every operation, several under way at once, shares of the same size and of others: the right
    /// numbers, and the same bits at all members.
    #[test]
    fn co_1_operations_give_all_members_the_same_right_numbers(
        world in 1usize..5,
        sizes in prop::collection::vec(prop_oneof![0usize..300, Just(768), 8_000usize..9_000], 1..4),
        root in 0usize..5,
    ) {
        let (abi, root) = (Abi::new(), root % world);
        let found = on_all(abi.group(&abi.id(), world, PATIENCE), |member| {
            let tensors: Vec<[Tensor; 4]> = sizes.iter().enumerate().map(|(call, size)| {
                let make = || Tensor::from_slice(&input(member.rank(), call, *size));
                [make(), make(), make(), make()]
            }).collect();
            let mut pending = Vec::new();
            for [reduced, scattered, gathered, copied] in &tensors {
                pending.push(member.all_reduce(reduced, Reduce::Sum).unwrap());
                pending.push(member.reduce_scatter(scattered, Reduce::Sum).unwrap());
                pending.push(member.all_gather(gathered).unwrap());
                pending.push(member.broadcast(copied, root).unwrap());
            }
            pending.into_iter().for_each(|p| p.wait().unwrap());
            tensors.iter().map(|four| four.each_ref().map(values)).collect::<Vec<_>>()
        });
        for (call, size) in sizes.iter().copied().enumerate() {
            let inputs: Vec<Vec<f32>> = (0..world).map(|r| input(r, call, size)).collect();
            let expected = sum_of(&inputs);
            for (rank, found) in found.iter().enumerate() {
                let [reduced, scattered, gathered, copied] = &found[call];
                let own = share(size, world, rank);
                prop_assert_eq!(reduced, &expected);
                prop_assert_eq!(&scattered[own.clone()], &expected[own]);
                for (other, input) in inputs.iter().enumerate() {
                    let theirs = share(size, world, other);
                    prop_assert_eq!(&gathered[theirs.clone()], &input[theirs]);
                }
                prop_assert_eq!(copied, &inputs[root]);
            }
        }
        abi.check_all_is_closed();
    }
}

#[test]
fn element_types_are_reduced_and_moved() {
    let abi = Abi::new();
    let reduced = [
        Kind::Float,
        Kind::Double,
        Kind::BFloat16,
        Kind::Half,
        Kind::Int64,
        Kind::Int,
    ];
    let found = on_all(abi.group(&abi.id(), 3, PATIENCE), |member| {
        let rank = member.rank() as i64;
        let make = |kind| Tensor::arange(130, (kind, Device::Cpu)) * (rank + 1);
        let sums = reduced.map(|kind| {
            let tensor = make(kind);
            sum(member, &tensor).unwrap();
            values(&tensor)
        });
        let flags = Tensor::from_slice(&[rank == 2; 70]);
        member.broadcast(&flags, 2).unwrap().wait().unwrap();
        let refused = member.all_reduce(&flags, Reduce::Sum).map(drop);
        (sums, values(&flags), refused)
    });
    // Whole numbers of bf16's precision and below: nothing is rounded.
    let expected: Vec<f32> = (0..130).map(|i| 6.0 * i as f32).collect();
    for (sums, flags, refused) in found {
        for (kind, sum) in reduced.iter().zip(sums) {
            let exact = |i: &usize| *kind != Kind::BFloat16 || expected[*i] <= 256.0;
            let places: Vec<usize> = (0..130).filter(exact).collect();
            assert!(
                places.iter().all(|i| sum[*i] == expected[*i]),
                "{kind:?} {sum:?}"
            );
        }
        assert_eq!(flags, [1.0; 70]);
        assert!(matches!(refused, Err(CollectiveError::Unsupported(_))));
    }
    abi.check_all_is_closed();
}

#[test]
fn largest_numbers_barriers_and_refusals_that_leave_the_group_whole() {
    let abi = Abi::new();
    let found = on_all(abi.group(&abi.id(), 3, PATIENCE), |member| {
        let rank = member.rank() as f64;
        let mut numbers = [rank, -rank, 5.0];
        member
            .all_reduce_numbers(&mut numbers, Reduce::Max)
            .unwrap();
        let scattered = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).transpose(0, 1);
        let strided = member.all_reduce(&scattered, Reduce::Sum).map(drop);
        let rootless = member.broadcast(&ones(4), 3).map(drop);
        (numbers, strided, rootless, member.barrier())
    });
    for (numbers, strided, rootless, after) in found {
        assert_eq!(numbers, [2.0, 0.0, 5.0]);
        assert!(strided.unwrap_err().to_string().contains("contiguous"));
        assert!(rootless.unwrap_err().to_string().contains("no replica 3"));
        assert_eq!(after, Ok(()));
    }
    abi.check_all_is_closed();
}

/// NC-2: the operation waits for the stream in which the tensor is made, though the host is ahead.
#[test]
fn nc_2_an_operation_begins_when_its_tensor_is_ready() {
    type Hold = extern "C" fn(usize) -> u64;
    type Fill = extern "C" fn(usize, *mut c_void, usize, f32);
    let abi = Abi::new();
    // SAFETY: their types.
    let (hold, release, fill) = unsafe {
        (
            abi.order::<Hold>("abi_hold"),
            abi.order::<extern "C" fn(u64)>("abi_release"),
            abi.order::<Fill>("abi_fill"),
        )
    };
    let found = thread::scope(|scope| {
        let (id, abi) = (abi.id(), &abi);
        let prompt = scope.spawn(move || {
            let mut member = abi.join(&id, 1, 2, PATIENCE).unwrap();
            let tensor = ones(100);
            sum(&mut member, &tensor).unwrap();
            values(&tensor)
        });
        let (mut member, raw) = with_a_stream_of_its_own(abi, &id);
        let tensor = ones(100);
        let gate = hold(raw);
        fill(raw, tensor.data_ptr(), 100, 3.0);
        // The host does not wait for the gate.
        let reduced = member.all_reduce(&tensor, Reduce::Sum).unwrap();
        // Time for the stream to do what it must not.
        for _ in 0..10_000 {
            assert_eq!(values(&tensor), [1.0; 100], "the gate is closed");
            thread::yield_now();
        }
        release(gate);
        reduced.wait().unwrap();
        [values(&tensor), prompt.join().unwrap()]
    });
    assert_eq!(found, [[4.0; 100]; 2]);
    abi.check_all_is_closed();
}

/// The first of two members, whose tensors are made in a stream that works in the background; the
/// stream's handle.
fn with_a_stream_of_its_own(abi: &Abi, id: &UniqueId) -> (Nccl, usize) {
    let gpu = abi.gpu(0);
    let current = gpu.enter().unwrap();
    let compute = Stream::new(&gpu).unwrap();
    drop(current);
    let raw = compute.raw() as usize;
    let site = Site {
        compute,
        ..abi.site(0)
    };
    let options = Options {
        joining: PATIENCE,
        deadline: PATIENCE,
    };
    let go_on = AtomicBool::new(false);
    let member = Nccl::at(site, place(0, 2), id, options, &go_on);
    (member.unwrap(), raw)
}

/// NC-2: a tensor that nobody holds any more is kept until the operation is over.
#[test]
fn nc_2_a_tensor_is_kept_while_it_is_used() {
    let abi = Abi::new();
    let found = on_all(abi.group(&abi.id(), 2, PATIENCE), |member| {
        for _ in 0..50 {
            drop(member.all_reduce(&ones(10_000), Reduce::Sum).unwrap());
        }
        let last = ones(3);
        sum(member, &last).unwrap();
        values(&last)
    });
    assert_eq!(found, [[2.0; 3]; 2]);
    abi.check_all_is_closed();
}

fn is_failure(error: &CollectiveError, rank: usize, code: Code) -> bool {
    matches!(error, CollectiveError::Nccl { rank: r, epoch: 7, code: c, .. } if (*r, *c) == (rank, code))
}

/// The whole sequence up to an error that NCCL reports later: whoever it tells says so, all others end
/// by what NCCL tells them.
#[test]
fn nc_1_an_error_at_one_member_ends_all_where_nccl_notices() {
    let (abi, broken) = (Abi::new(), 1);
    let id = abi.id();
    abi.spread(&id);
    let members = abi.group(&id, 3, PATIENCE);
    abi.fault(&id, broken, REDUCE, INTERNAL);
    let found = on_all(members, |member| {
        let fine = sum(member, &ones(100));
        // Uneven shares: a group of reductions, of which one fails.
        let failed = member
            .reduce_scatter(&ones(100), Reduce::Sum)
            .and_then(Pending::wait);
        (fine, failed, member.barrier())
    });
    for (rank, (fine, failed, later)) in found.into_iter().enumerate() {
        assert_eq!(fine, Ok(()));
        let error = failed.unwrap_err();
        let code = if rank == broken { INTERNAL } else { REMOTE };
        assert!(is_failure(&error, rank, code), "{error:?}");
        assert_eq!(later, Err(error));
    }
    abi.check_all_is_closed();
}

/// The same where the others are not told: they end by the deadline.
#[test]
fn nc_1_an_error_at_one_member_ends_all_by_the_deadline() {
    let (abi, broken) = (Abi::new(), 2);
    let id = abi.id();
    let members = abi.group(&id, 3, SHORT);
    abi.fault(&id, broken, ALL_REDUCE, INTERNAL);
    let found = on_all(members, |member| sum(member, &ones(100)).unwrap_err());
    for (rank, error) in found.iter().enumerate() {
        let is_expected = match rank == broken {
            true => is_failure(error, rank, INTERNAL),
            false => is_overdue(error, rank),
        };
        assert!(is_expected, "{error:?}");
    }
    let text = found[broken].to_string();
    for part in [
        "replica 2 of group 7",
        "all-reduce",
        "internal error",
        "a fault that a test",
    ] {
        assert!(text.contains(part), "{text}");
    }
    abi.check_all_is_closed();
}

fn is_overdue(error: &CollectiveError, rank: usize) -> bool {
    matches!(error, CollectiveError::Overdue { rank: r, epoch: 7, after: SHORT, .. } if *r == rank)
}

#[test]
fn nc_1_a_member_that_hangs_is_given_up() {
    let abi = Abi::new();
    let id = abi.id();
    let members = abi.group(&id, 3, SHORT);
    abi.fault(&id, 0, ALL_REDUCE, 0);
    let found = on_all(members, |member| {
        (sum(member, &ones(10)).unwrap_err(), member.barrier())
    });
    for (rank, (error, later)) in found.into_iter().enumerate() {
        assert!(is_overdue(&error, rank), "{error:?}");
        assert_eq!(later, Err(error));
    }
    abi.check_all_is_closed();
}

/// CO-2 by the deadline: the member has left for good, and says nothing more.
#[test]
fn co_2_a_member_that_left_is_not_waited_for_longer_than_said() {
    let abi = Abi::new();
    let mut members = abi.group(&abi.id(), 3, SHORT);
    drop(members.remove(1));
    let found = on_all(members, |member| {
        (member.rank(), sum(member, &ones(10)).unwrap_err())
    });
    for (rank, error) in found {
        assert!(is_overdue(&error, rank), "{error:?}");
    }
    abi.check_all_is_closed();
}

/// Other sizes, types and operations; the deadline is too long to be what ends it.
#[test]
fn co_3_calls_that_do_not_fit_fail_everywhere() {
    type Calls = fn(&mut Nccl) -> Result<Pending, CollectiveError>;
    let cases: [(Calls, &str); 5] = [
        (
            |m| m.all_reduce(&ones(7), Reduce::Sum),
            "of 7 elements of Float",
        ),
        (|m| m.all_reduce(&ones(10), Reduce::Max), "all-reduce (Max)"),
        (|m| m.broadcast(&ones(10), 1), "broadcast from 1"),
        (
            |m| m.reduce_scatter(&ones(10), Reduce::Sum),
            "reduce-scatter",
        ),
        (
            |m| m.all_reduce(&ones(10).to_kind(Kind::Double), Reduce::Sum),
            "elements of Double",
        ),
    ];
    for (other, what) in cases {
        let abi = Abi::new();
        let found = on_all(abi.group(&abi.id(), 3, PATIENCE), |member| {
            let pending = match member.rank() {
                1 => other(member),
                _ => member.all_reduce(&ones(10), Reduce::Sum),
            };
            pending.and_then(Pending::wait).unwrap_err()
        });
        for error in &found {
            let CollectiveError::Mismatch {
                rank: 1,
                found: text,
                expected,
            } = error
            else {
                panic!("{what}: {error:?}");
            };
            assert!(text.contains(what), "{what}: {text}");
            assert!(expected.contains("all-reduce (Sum) of 10 elements of Float as call 1"));
        }
        abi.check_all_is_closed();
    }
}

/// CO-3: a member that makes one call more than the others is not the only one to learn of it.
#[test]
fn co_3_one_call_more_than_the_others_ends_by_the_deadline() {
    let abi = Abi::new();
    let found = on_all(abi.group(&abi.id(), 2, SHORT), |member| {
        let first = sum(member, &ones(10));
        let more = (member.rank() == 0).then(|| sum(member, &ones(10)));
        (first, more)
    });
    assert!(found.iter().all(|(first, _)| *first == Ok(())));
    let error = found[0].1.clone().unwrap().unwrap_err();
    assert!(is_overdue(&error, 0), "{error:?}");
    abi.check_all_is_closed();
}

/// The deadline is far away; what ends the wait is the other thread.
#[test]
fn nc_1_a_group_that_is_given_up_ends_at_once() {
    let abi = Abi::new();
    let mut members = abi.group(&abi.id(), 2, PATIENCE);
    let absent = members.remove(1);
    let mut member = members.remove(0);
    let abort = member.aborter();
    let tensor = ones(100);
    let since = Instant::now();
    let found = thread::scope(|scope| {
        let (sender, waits) = std::sync::mpsc::channel();
        let waiting = scope.spawn(move || {
            let pending = member.all_reduce(&tensor, Reduce::Sum).unwrap();
            sender.send(()).unwrap();
            (pending.wait(), member.barrier(), member)
        });
        waits.recv().unwrap();
        abort.abort("a member is lost");
        abort.abort("and once more");
        waiting.join().unwrap()
    });
    assert!(since.elapsed() < PATIENCE / 2);
    let aborted = CollectiveError::Aborted("a member is lost".to_owned());
    assert_eq!((found.0, found.1), (Err(aborted.clone()), Err(aborted)));
    drop((found.2, absent));
    // Nothing is left that it could end.
    abort.abort("after the end");
    abi.check_all_is_closed();
}

/// CO-4: after the wait has ended nothing writes to the tensor, whatever the others still do.
#[test]
fn co_4_what_was_given_up_is_left_alone() {
    let abi = Abi::new();
    let mut members = abi.group(&abi.id(), 2, PATIENCE);
    let (mut late, mut early) = (members.remove(1), members.remove(0));
    let tensor = ones(1000);
    let pending = early.all_reduce(&tensor, Reduce::Sum).unwrap();
    early.aborter().abort("enough");
    assert!(matches!(pending.wait(), Err(CollectiveError::Aborted(_))));
    // The other one's part now finds nobody.
    let other = late.all_reduce(&ones(1000), Reduce::Sum).unwrap();
    late.aborter().abort("enough");
    assert!(other.wait().is_err());
    assert_eq!(values(&tensor), [1.0; 1000]);
    drop((early, late));
    abi.check_all_is_closed();
}

/// Pending operations outlive their member, and end well where all have joined.
#[test]
fn co_2_a_call_that_all_joined_ends_well() {
    let abi = Abi::new();
    let tensors = [ones(500), ones(500)];
    let mut members = abi.group(&abi.id(), 2, PATIENCE);
    let pending: Vec<Pending> = thread::scope(|scope| {
        let starts: Vec<_> = members
            .iter_mut()
            .zip(tensors.each_ref().map(Tensor::shallow_clone))
            .map(|(m, tensor)| scope.spawn(move || m.all_reduce(&tensor, Reduce::Sum).unwrap()))
            .collect();
        starts.into_iter().map(|s| s.join().unwrap()).collect()
    });
    drop(members);
    for pending in pending {
        assert_eq!(pending.wait(), Ok(()));
    }
    assert!(tensors.iter().all(|tensor| values(tensor) == [2.0; 500]));
    abi.check_all_is_closed();
}

/// A member that is dropped while its operation cannot end takes no longer than the deadline.
#[test]
fn nc_1_dropping_a_member_at_work_ends() {
    let abi = Abi::new();
    let mut members = abi.group(&abi.id(), 2, SHORT);
    let absent = members.remove(1);
    let tensor = ones(100);
    let pending = members[0].all_reduce(&tensor, Reduce::Sum).unwrap();
    drop(pending);
    drop(members);
    assert_eq!(values(&tensor), [1.0; 100]);
    drop(absent);
    abi.check_all_is_closed();
}

#[test]
fn nc_1_joining_ends_when_a_member_does_not_come() {
    let abi = Abi::new();
    let error = abi.join(&abi.id(), 1, 2, SHORT).map(drop).unwrap_err();
    assert!(
        is_overdue(&error, 1) && error.to_string().contains("joining"),
        "{error}"
    );
    abi.check_all_is_closed();
}

/// Whether the other member has not come yet, or has and makes no call.
#[test]
fn nc_1_joining_ends_when_the_group_is_given_up() {
    for other_comes in [false, true] {
        let abi = Abi::new();
        let id = abi.id();
        let (stop, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
        let options = Options {
            joining: PATIENCE,
            deadline: PATIENCE,
        };
        let since = Instant::now();
        thread::scope(|scope| {
            let joining =
                scope.spawn(|| Nccl::at(abi.site(0), place(0, 2), &id, options, &stop).map(drop));
            let other = other_comes
                .then(|| Session::join(abi.site(1), place(1, 2), &id, PATIENCE, &go_on).unwrap());
            thread::sleep(SHORT / 4);
            stop.store(true, Ordering::Relaxed);
            let given_up = CollectiveError::Aborted(GIVEN_UP.to_owned());
            assert_eq!(joining.join().unwrap(), Err(given_up), "{other_comes}");
            drop(other);
        });
        assert!(since.elapsed() < PATIENCE / 2);
        abi.check_all_is_closed();
    }
}

#[test]
fn joining_ends_when_nccl_refuses() {
    let abi = Abi::new();
    let id = abi.id();
    abi.refuse(&id, 1, INTERNAL);
    let found = abi.try_group(&id, 2, SHORT);
    let errors: Vec<_> = found
        .into_iter()
        .map(|r| r.map(drop).unwrap_err())
        .collect();
    assert!(is_overdue(&errors[0], 0), "{errors:?}");
    assert!(is_failure(&errors[1], 1, INTERNAL), "{errors:?}");
    abi.check_all_is_closed();
}

#[test]
fn a_gpu_that_is_not_there_is_refused() {
    let abi = Abi::new();
    let refused = Gpu::through(&abi.opened, abi.path.as_os_str(), 99).map(drop);
    let Err(OpenError::Fault(fault)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (fault.call, &*fault.name),
        ("cuDeviceGet", "CUDA_ERROR_INVALID_DEVICE")
    );
    let id = abi.id();
    let on_cpu = Nccl::join(
        place(0, 1),
        &id,
        Device::Cpu,
        Options::default(),
        &AtomicBool::new(false),
    )
    .map(drop);
    assert!(on_cpu.unwrap_err().to_string().contains("take a ring"));
    abi.check_all_is_closed();
}

#[test]
fn a_machine_without_a_driver_gets_one_error_that_says_what_to_install() {
    match Gpu::open(0).map(drop) {
        Err(OpenError::Load(error)) => {
            let text = error.to_string();
            assert!(
                text.contains("libcuda.so.1") && text.contains("install NVIDIA's driver"),
                "{text}"
            );
        }
        other => println!("skipped: there is a driver here ({other:?})"),
    }
}

#[test]
fn a_library_without_the_driver_s_functions_is_told_from_it() {
    let opened = open(OsStr::new("libm.so.6")).unwrap();
    let refused = Gpu::through(&opened, OsStr::new("libm.so.6"), 0).map(drop);
    let symbol = "cuInit";
    assert!(
        matches!(refused, Err(OpenError::Load(LoadError::Foreign { symbol: s, .. })) if s == symbol)
    );
}

#[test]
fn ids_travel_as_bytes() {
    let abi = Abi::new();
    let (one, two) = (abi.id(), abi.id());
    assert_ne!(one, two);
    assert_eq!(UniqueId::from_bytes(&one.to_bytes()), Ok(one));
    for wrong in [0, 127, 129] {
        let error = UniqueId::from_bytes(&vec![0; wrong]).unwrap_err();
        assert!(error.to_string().contains("128 bytes"), "{error}");
    }
}

/// NVIDIA's own library, where `cargo xtask setup --nccl` has brought it or [`VARIABLE`] names it.
fn real() -> Option<Library> {
    let provisioned =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/nccl/lib/libnccl.so.2");
    let path = std::env::var_os(VARIABLE).map_or(provisioned, PathBuf::from);
    if !path.exists() {
        println!(
            "skipped: {} is not there (`cargo xtask setup --nccl`)",
            path.display()
        );
        return None;
    }
    Some(Library::load(&path).unwrap())
}

#[test]
fn the_real_nccl_says_its_version_and_makes_ids() {
    let Some(library) = real() else { return };
    let version = library.version().to_string();
    assert!(version.starts_with("2."), "{library:?}");
    assert!(library.path().ends_with("libnccl.so.2"), "{library:?}");
    let ids = [0, 1].map(|_| UniqueId::from_library(&library).unwrap());
    assert_ne!(ids[0], ids[1]);
}

/// Our streams, the real NCCL: it takes the configuration and the id, and says that there is no GPU.
#[test]
fn the_real_nccl_without_a_gpu_refuses_to_join_with_a_reason() {
    let Some(library) = real() else { return };
    if tch::Cuda::device_count() > 0 {
        println!("skipped: there is a GPU here");
        return;
    }
    let abi = Abi::new();
    let id = UniqueId::from_library(&library).unwrap();
    let site = Site {
        library,
        ..abi.site(0)
    };
    let options = Options {
        joining: PATIENCE,
        deadline: PATIENCE,
    };
    let error = Nccl::at(site, place(0, 1), &id, options, &AtomicBool::new(false))
        .map(drop)
        .unwrap_err();
    let CollectiveError::Nccl {
        rank: 0,
        epoch: 7,
        code,
        reason,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(*code > 0 && !reason.is_empty(), "{error}");
    println!("{error}");
    abi.check_all_is_closed();
}

/// Links of a ring whose streams are sockets, by rank.
fn links(world: usize) -> Vec<Links> {
    use std::os::unix::net::UnixStream;
    let (mut writers, mut readers): (Vec<_>, Vec<_>) =
        (0..world).map(|_| UnixStream::pair().unwrap()).unzip();
    readers.rotate_right(1);
    let both = writers.drain(..).zip(readers);
    both.map(|(next, previous)| Links {
        next: Box::new(next),
        previous: Box::new(previous),
        breaker: Arc::new(|| {}),
        patience: PATIENCE,
    })
    .collect()
}

#[test]
fn all_members_agree_on_the_id_that_the_first_one_makes() {
    let found = thread::scope(|scope| {
        let members = links(3).into_iter().enumerate().map(|(rank, mut links)| {
            scope.spawn(move || {
                let group = Group {
                    rank,
                    world: 3,
                    epoch: 1,
                };
                UniqueId::agree_on(group, &mut links, || Ok(UniqueId([7; ID_BYTES])))
            })
        });
        let members: Vec<_> = members.collect();
        members
            .into_iter()
            .map(|member| member.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(found, vec![Ok(UniqueId([7; ID_BYTES])); 3]);
}

#[test]
fn without_the_first_one_there_is_no_id() {
    let mut all = links(2);
    drop(all.remove(0));
    let group = Group {
        rank: 1,
        world: 2,
        epoch: 1,
    };
    let found = UniqueId::agree_on(group, &mut all[0], || unreachable!("it is not the first"));
    assert_eq!(found, Err(CollectiveError::Gone { rank: 0 }));
}
