//! Rings inside a host and over TCP.

use super::*;
use crate::call::share;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use tch::Device;

type Bind = fn(&'static str) -> io::Result<Listener>;

/// Inside a host, and between hosts.
const WAYS: [Bind; 2] = [Listener::bind, Listener::bind_tcp];

/// Rings inside a host, by rank. `patience` and `options` as given.
fn rings(world: usize, options: Options, patience: Duration) -> Vec<Ring> {
    rings_over(WAYS[0], world, options, patience)
}

fn rings_over(bind: Bind, world: usize, options: Options, patience: Duration) -> Vec<Ring> {
    let listeners: Vec<Listener> = (0..world).map(|_| bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.address().unwrap()).collect();
    thread::scope(|scope| {
        let members: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let group = Group {
                    rank,
                    world,
                    epoch: 3,
                };
                let (own, next) = (addresses[rank], addresses[group.next()]);
                scope.spawn(move || {
                    let meeting = meeting::Meeting {
                        group,
                        run: [7; 16],
                        listener,
                        own,
                        next,
                        limit: Duration::from_secs(20),
                        patience,
                        stop: &AtomicBool::new(false),
                    };
                    let links = meeting::connect(&meeting).unwrap();
                    Ring::new(group, links, options).unwrap()
                })
            })
            .collect();
        members.into_iter().map(|m| m.join().unwrap()).collect()
    })
}

const PATIENCE: Duration = Duration::from_secs(60);

fn small_frames() -> Options {
    Options {
        frame: 4 << 10,
        ..Options::default()
    }
}

/// Runs `work` on every member, each on its thread, and returns what they return.
fn on_all<T: Send>(rings: Vec<Ring>, work: impl Fn(&mut Ring) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let handles: Vec<_> = rings
            .into_iter()
            .map(|mut ring| {
                let work = &work;
                scope.spawn(move || work(&mut ring))
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
    Vec::try_from(tensor.view(-1)).unwrap()
}

/// In f64, and the sum of the absolute values.
fn sums(world: usize, call: usize, elements: usize) -> Vec<(f64, f64)> {
    let inputs: Vec<Vec<f32>> = (0..world).map(|r| input(r, call, elements)).collect();
    (0..elements)
        .map(|i| {
            let values = inputs.iter().map(|v| f64::from(v[i]));
            (values.clone().sum(), values.map(f64::abs).sum())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Large and small tensors, several under way at once, of every operation: the right numbers, and
    /// the same bits at all members.
    #[test]
    fn co_1_operations_give_all_members_the_same_right_numbers(
        bind in prop::sample::select(WAYS.to_vec()),
        world in 2usize..5,
        sizes in prop::collection::vec(prop_oneof![0usize..300, 8_000usize..30_000], 1..5),
        root in 0usize..5,
    ) {
        let root = root % world;
        let found = on_all(rings_over(bind, world, small_frames(), PATIENCE), |ring| {
            let tensors: Vec<[Tensor; 4]> = sizes.iter().enumerate().map(|(call, size)| {
                let make = || Tensor::from_slice(&input(ring.rank(), call, *size));
                [make(), make(), make(), make()]
            }).collect();
            let mut pending = Vec::new();
            for [reduced, scattered, gathered, copied] in &tensors {
                pending.push(ring.all_reduce(reduced, Reduce::Sum).unwrap());
                pending.push(ring.reduce_scatter(scattered, Reduce::Sum).unwrap());
                pending.push(ring.all_gather(gathered).unwrap());
                pending.push(ring.broadcast(copied, root).unwrap());
            }
            pending.into_iter().for_each(|p| p.wait().unwrap());
            tensors.iter().map(|four| four.each_ref().map(values)).collect::<Vec<_>>()
        });
        for (call, size) in sizes.iter().copied().enumerate() {
            let expected = sums(world, call, size);
            let [reduced, _, gathered, copied] = &found[0][call];
            for (found, (sum, scale)) in reduced.iter().zip(&expected) {
                prop_assert!((f64::from(*found) - sum).abs() <= 1e-6 * scale);
            }
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for (rank, found) in found.iter().enumerate() {
                prop_assert_eq!(bits(&found[call][0]), bits(reduced));
                let own = share(size, world, rank);
                prop_assert_eq!(bits(&found[call][1][own.clone()]), bits(&reduced[own.clone()]));
                prop_assert_eq!(&gathered[own.clone()], &input(rank, call, size)[own]);
                prop_assert_eq!(&found[call][2], gathered);
                prop_assert_eq!(&found[call][3], &input(root, call, size));
            }
            prop_assert_eq!(copied.len(), size);
        }
    }
}

/// Half the bytes: the same bits everywhere, and within bf16's rounding of the sum.
#[test]
fn co_1_sums_over_bf16_are_the_same_everywhere_and_close() {
    let (world, elements) = (3, 50_000);
    let options = Options {
        wire: Wire::Bf16,
        ..small_frames()
    };
    let found = on_all(rings(world, options, PATIENCE), |ring| {
        let tensor = Tensor::from_slice(&input(ring.rank(), 0, elements));
        let gathered = tensor.copy();
        let sum = ring.all_reduce(&tensor, Reduce::Sum).unwrap();
        let all = ring.all_gather(&gathered).unwrap();
        sum.wait().unwrap();
        all.wait().unwrap();
        (values(&tensor), values(&gathered))
    });
    for (found, (sum, scale)) in found[0].0.iter().zip(sums(world, 0, elements)) {
        assert!((f64::from(*found) - sum).abs() <= scale / 128.0);
    }
    assert!(found.iter().all(|f| f.0 == found[0].0));
    // What is handed on is not rounded.
    for rank in 0..world {
        let own = share(elements, world, rank);
        assert_eq!(found[0].1[own.clone()], input(rank, 0, elements)[own]);
    }
}

#[test]
fn largest_numbers_barriers_and_other_element_types() {
    let found = on_all(rings(3, small_frames(), PATIENCE), |ring| {
        let rank = ring.rank() as f64;
        let mut numbers = [rank, -rank, 5.0];
        ring.all_reduce_numbers(&mut numbers, Reduce::Max).unwrap();
        ring.barrier().unwrap();
        let whole = Tensor::full([40_000], ring.rank() as i64, (Kind::Int64, Device::Cpu));
        ring.broadcast(&whole, 2).unwrap().wait().unwrap();
        let refused = ring.all_reduce(&whole, Reduce::Sum).map(drop);
        (numbers, whole.mean(Kind::Double).double_value(&[]), refused)
    });
    for (numbers, mean, refused) in found {
        assert_eq!((numbers, mean), ([2.0, 0.0, 5.0], 2.0));
        assert!(matches!(refused, Err(CollectiveError::Unsupported(_))));
    }
}

/// Whether in the middle of large tensors or of small ones: all others learn who it was.
#[test]
fn co_2_all_learn_who_left() {
    for (bind, elements) in WAYS
        .into_iter()
        .flat_map(|bind| [(bind, 10), (bind, 1_000_000)])
    {
        let mut members = rings_over(bind, 4, Options::default(), PATIENCE);
        let leaver = members.remove(2);
        drop(leaver);
        let found = on_all(members, |ring| {
            let tensor = Tensor::ones([elements], (Kind::Float, Device::Cpu));
            ring.all_reduce(&tensor, Reduce::Sum)
                .and_then(Pending::wait)
        });
        for result in found {
            assert_eq!(result, Err(CollectiveError::Gone { rank: 2 }), "{elements}");
        }
    }
}

/// What everybody called for is finished; only what comes later fails.
#[test]
fn co_2_a_call_that_all_joined_ends_well() {
    for elements in [4, 100_000] {
        let mut members = rings(2, Options::default(), PATIENCE);
        let tensors: Vec<Tensor> = (0..2)
            .map(|_| Tensor::ones([elements], (Kind::Float, Device::Cpu)))
            .collect();
        let pending: Vec<Pending> = members
            .iter_mut()
            .zip(&tensors)
            .map(|(member, t)| member.all_reduce(t, Reduce::Sum).unwrap())
            .collect();
        drop(members.remove(0));
        let waits: Vec<_> = pending
            .into_iter()
            .map(|p| thread::spawn(move || p.wait()))
            .collect();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Ok(()));
        }
        assert_eq!(values(&tensors[1])[0], 2.0);
        assert_eq!(members[0].barrier(), Err(CollectiveError::Gone { rank: 0 }));
    }
}

/// Other sizes, other operations, another place in the sequence, large and small.
#[test]
fn co_3_calls_that_do_not_fit_fail_everywhere() {
    type Calls = fn(&mut Ring, &Tensor) -> Result<Pending, CollectiveError>;
    let sum: Calls = |ring, tensor| ring.all_reduce(tensor, Reduce::Sum);
    let cases: [(Calls, i64); 4] = [
        (sum, 7),
        (sum, 200_001),
        (|ring, tensor| ring.broadcast(tensor, 1), 200_000),
        (
            |ring, tensor| {
                drop(ring.all_reduce(tensor, Reduce::Sum)?);
                ring.all_gather(tensor)
            },
            3,
        ),
    ];
    for (other, elements) in cases {
        let found = on_all(rings(3, small_frames(), PATIENCE), |ring| {
            let (call, elements) = match ring.rank() {
                1 => (other, elements),
                _ => (sum, 200_000),
            };
            let tensor = Tensor::zeros([elements], (Kind::Float, Device::Cpu));
            call(ring, &tensor).and_then(Pending::wait)
        });
        for result in found {
            let is_mismatch = matches!(result, Err(CollectiveError::Mismatch { .. }));
            assert!(is_mismatch, "{elements}: {result:?}");
        }
    }
}

/// A member that calls for nothing, and reads nothing, is not waited for longer than was said: neither
/// with what fits the buffers of sockets nor with what does not.
#[test]
fn co_2_a_member_that_hangs_is_given_up() {
    let sizes = |bind| [(bind, 10), (bind, 100_000), (bind, 20_000_000)];
    for (bind, elements) in WAYS.into_iter().flat_map(sizes) {
        let after = Duration::from_millis(300);
        let mut members = rings_over(bind, 3, Options::default(), after);
        let hanging = members.remove(1);
        let found = on_all(members, |ring| {
            let tensor = Tensor::ones([elements], (Kind::Float, Device::Cpu));
            ring.all_reduce(&tensor, Reduce::Sum)
                .and_then(Pending::wait)
        });
        for result in found {
            let timed_out =
                matches!(result, Err(CollectiveError::TimedOut { after: a, .. }) if a == after);
            assert!(timed_out, "{elements}: {result:?}");
        }
        drop(hanging);
    }
}

/// Where there is no such member, nobody is asked.
#[test]
fn a_broadcast_needs_a_root() {
    let found = on_all(rings(2, Options::default(), PATIENCE), |ring| {
        let tensor = Tensor::ones([4], (Kind::Float, Device::Cpu));
        let refused = ring.broadcast(&tensor, 2).map(drop);
        (refused, ring.barrier())
    });
    for (refused, after) in found {
        assert!(refused.unwrap_err().to_string().contains("no replica 2"));
        assert_eq!(after, Ok(()));
    }
}

/// Given up by one member, in the middle of a call that will never be complete.
#[test]
fn co_2_a_group_that_is_given_up_ends_at_once() {
    let mut members = rings(3, Options::default(), PATIENCE);
    let absent = members.remove(2);
    let abort = members[0].aborter();
    let found = thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(100));
            abort.abort("a member is lost");
        });
        on_all(members, |ring| {
            let tensor = Tensor::ones([100_000], (Kind::Float, Device::Cpu));
            let first = ring
                .all_reduce(&tensor, Reduce::Sum)
                .and_then(Pending::wait);
            (first, ring.barrier())
        })
    });
    let aborted = CollectiveError::Aborted("a member is lost".to_owned());
    assert_eq!(found[0], (Err(aborted.clone()), Err(aborted)));
    let is_told = |result: &Result<(), CollectiveError>| {
        matches!(
            result,
            Err(CollectiveError::Gone { .. } | CollectiveError::Aborted(_))
        )
    };
    assert!(is_told(&found[1].0) && is_told(&found[1].1), "{found:?}");
    drop(absent);
}

/// Bytes that are no frames, and frames that have no place.
#[test]
fn a_neighbour_that_sends_nonsense_ends_the_group_and_nothing_else() {
    let data = wire::Header::Data {
        number: 0,
        bytes: u64::MAX,
    };
    for bytes in [vec![0xff; 100], data.encode().unwrap().to_vec(), vec![1]] {
        let group = Group {
            rank: 0,
            world: 2,
            epoch: 0,
        };
        let links = Links {
            next: Box::new(io::sink()),
            previous: Box::new(io::Cursor::new(bytes)),
            breaker: Arc::new(|| {}),
            patience: PATIENCE,
        };
        let mut ring = Ring::new(group, links, Options::default()).unwrap();
        let tensor = Tensor::ones([100_000], (Kind::Float, Device::Cpu));
        let result = ring
            .all_reduce(&tensor, Reduce::Sum)
            .and_then(Pending::wait);
        assert!(matches!(
            result,
            Err(CollectiveError::Protocol { rank: 1, .. } | CollectiveError::Gone { rank: 1 })
        ));
    }
}

/// Members of an epoch that is over are turned away, and do not disturb the present one.
#[test]
fn strangers_do_not_disturb_a_meeting() {
    use std::io::Write as _;
    use std::net::TcpStream;
    let listeners: Vec<Listener> = (0..2)
        .map(|_| Listener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.address().unwrap()).collect();
    let mut silent_end = TcpStream::connect(addresses[0]).unwrap();
    let nonsense = b"GET / HTTP/1.1\r\n\r\n and more than forty bytes of it";
    silent_end.write_all(nonsense).unwrap();
    let _silent = TcpStream::connect(addresses[0]).unwrap();
    let meet = |rank: usize, epoch: u64, limit: u64| {
        let group = Group {
            rank,
            world: 2,
            epoch,
        };
        meeting::connect(&meeting::Meeting {
            group,
            run: [1; 16],
            listener: &listeners[rank],
            own: addresses[rank],
            next: addresses[group.next()],
            limit: Duration::from_millis(limit),
            patience: PATIENCE,
            stop: &AtomicBool::new(false),
        })
        .map(|links| Ring::new(group, links, Options::default()).unwrap())
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| meet(0, 2, 20_000));
        let stale = meet(1, 1, 300).map(drop).unwrap_err();
        assert!(stale.to_string().contains("group 1"), "{stale}");
        let second = meet(1, 2, 20_000).unwrap();
        let first = first.join().unwrap().unwrap();
        let found = on_all(vec![first, second], |ring| ring.barrier());
        assert_eq!(found, [Ok(()), Ok(())]);
    });
}

/// Of four, one cannot be dialled, one dials nobody, or one is not there at all: each member says whom
/// it misses, and those that miss nobody say nothing against anybody.
#[test]
fn members_say_whom_they_miss() {
    /// By rank: misses the next one, and the one before.
    type Missed = [Option<(bool, bool)>; 4];
    /// Which rank's listener and which rank's dialling do not work, and who is absent.
    type Case = (Option<usize>, Option<usize>, Option<usize>, Missed);
    let (well, next, previous) = (None, Some((true, false)), Some((false, true)));
    let cases: [Case; 3] = [
        (Some(1), None, None, [next, previous, well, well]),
        (None, Some(1), None, [well, next, previous, well]),
        (None, None, Some(1), [next, well, previous, well]),
    ];
    for (deaf, mute, absent, missed) in cases {
        let bind = || Listener::bind_tcp("127.0.0.1:0").unwrap();
        let listeners: Vec<Listener> = (0..4).map(|_| bind()).collect();
        let nowhere = bind().address().unwrap();
        let address = |rank: usize| match deaf {
            Some(deaf) if deaf == rank => nowhere,
            _ => listeners[rank].address().unwrap(),
        };
        let found = thread::scope(|scope| {
            let members = (0..4).map(|rank| {
                let group = Group {
                    rank,
                    world: 4,
                    epoch: 1,
                };
                let next = match mute == Some(rank) {
                    true => nowhere,
                    false => address(group.next()),
                };
                let (listener, own) = (&listeners[rank], address(rank));
                scope.spawn(move || {
                    if absent == Some(rank) {
                        return None;
                    }
                    let met = meeting::connect(&meeting::Meeting {
                        group,
                        run: [1; 16],
                        listener,
                        own,
                        next,
                        limit: Duration::from_millis(1500),
                        patience: PATIENCE,
                        stop: &AtomicBool::new(false),
                    });
                    met.err()
                        .map(|error| (error.misses_next(), error.misses_previous()))
                })
            });
            let members: Vec<_> = members.collect();
            members
                .into_iter()
                .map(|member| member.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(found, missed, "{deaf:?} {mute:?} {absent:?}");
    }
}

/// Whoever listens at the port alone is met there, and so is one that is of another host.
#[test]
fn members_meet_whichever_way_both_know() {
    let two_ways = || Listener::bind("127.0.0.1:0").unwrap();
    let by_port = || Listener::bind_tcp("127.0.0.1:0").unwrap();
    let elsewhere = "127.0.0.2".parse().unwrap();
    for (listeners, own) in [
        ([two_ways(), by_port()], None),
        ([two_ways(), two_ways()], Some(elsewhere)),
    ] {
        let addresses = listeners.each_ref().map(|l| l.address().unwrap());
        let meet = |rank: usize| {
            let group = Group {
                rank,
                world: 2,
                epoch: 1,
            };
            let mut own_address = addresses[rank];
            own_address.set_ip(own.unwrap_or(own_address.ip()));
            let links = meeting::connect(&meeting::Meeting {
                group,
                run: [1; 16],
                listener: &listeners[rank],
                own: own_address,
                next: addresses[group.next()],
                limit: Duration::from_secs(20),
                patience: PATIENCE,
                stop: &AtomicBool::new(false),
            });
            Ring::new(group, links.unwrap(), Options::default()).unwrap()
        };
        let met = thread::scope(|scope| {
            let first = scope.spawn(|| meet(0));
            let second = meet(1);
            vec![first.join().unwrap(), second]
        });
        let found = on_all(met, |ring| ring.barrier());
        assert_eq!(found, [Ok(()), Ok(())]);
    }
}

/// Without a word over TCP.
#[cfg(target_os = "linux")]
#[test]
fn members_of_one_host_meet_inside_it() {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let port = listener.address().unwrap().port();
    let _dialled = local::dial(port, PATIENCE).unwrap();
    let accepted = listener.accept().unwrap();
    assert!(matches!(accepted, Some(socket::Socket::Local(_))));
    assert!(listener.accept().unwrap().is_none());
    drop(listener);
    assert!(local::dial(port, PATIENCE).is_err());
}
