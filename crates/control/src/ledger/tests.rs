use super::*;
use proptest::prelude::*;

const WORKER: WorkerId = WorkerId(0);

const MAX_LOSSES: u32 = 3;

fn config(lease_ms: u64, max_tries: u32) -> LedgerConfig {
    LedgerConfig {
        lease_ms,
        max_tries,
        max_losses: MAX_LOSSES,
        straggler_factor: 0,
    }
}

fn item(n: u32) -> ItemId {
    ItemId {
        question: format!("q{}", n / 2).as_str().into(),
        sample: n % 2,
    }
}

fn items(n: u32) -> Vec<ItemId> {
    (0..n).map(item).collect()
}

fn ledger(n: u32, max_tries: u32) -> Ledger {
    let mut ledger = Ledger::new(config(100, max_tries), items(n), []);
    ledger.grant_credits(WORKER, 10);
    ledger
}

fn take(ledger: &mut Ledger, now_ms: u64) -> Lease {
    ledger
        .lease(WORKER, now_ms)
        .expect("an item waits and there is credit")
}

/// Recounts everything the ledger keeps account of (RL-1, RL-3).
fn check(ledger: &Ledger) {
    let mut count = Progress {
        total: ledger.slots.len(),
        ..Progress::default()
    };
    let mut held: HashMap<WorkerId, usize> = HashMap::new();
    let mut deadlines = BTreeSet::new();
    for (index, slot) in ledger.slots.iter().enumerate() {
        let queued = ledger
            .queue
            .iter()
            .filter(|&&s| s as usize == index)
            .count();
        match &slot.state {
            State::Unleased => {
                count.unleased += 1;
                assert_eq!(queued, 1, "an unleased item waits once");
            }
            State::Leased { first, second } => {
                count.leased += 1;
                for hold in slot.holds() {
                    *held.entry(hold.worker).or_default() += 1;
                    deadlines.insert((hold.deadline_ms, index as u32, hold.attempt));
                    let worker = &ledger.workers[&hold.worker];
                    assert!(worker.leases.contains(&(index as u32)));
                }
                let single = ledger.single.contains(&(first.since_ms, index as u32));
                assert!(!single || second.is_none());
                // Whether the tries of one that has failed are used up may change while it is leased.
                let is_fresh = slot.failures == 0 && slot.losses == 0;
                assert!(single || second.is_some() || !is_fresh);
                assert_eq!(queued, 0, "a leased item does not wait");
            }
            State::Done => count.done += 1,
            State::Failed { .. } => count.failed += 1,
        }
        // One that is not at its end has a machine left, or one that may be at fault itself.
        let waits = !matches!(slot.state, State::Done | State::Failed { .. });
        let proven = slot.failed_on.iter().filter(|f| f.is_proven).count() as u32;
        let most = ledger.config.max_tries.max(1);
        assert!(!waits || proven <= most + 1);
        // The second of two leases may add one, and so may one that was taken back.
        assert!(slot.losses <= ledger.config.max_losses.max(1) + 2);
    }
    assert_eq!(count, ledger.progress());
    assert_eq!(
        count.total,
        count.unleased + count.leased + count.done + count.failed
    );
    assert_eq!(deadlines, ledger.deadlines);
    let mut free = BTreeSet::new();
    for (id, worker) in &ledger.workers {
        assert_eq!(worker.leases.len(), held.get(id).copied().unwrap_or(0));
        free.extend((worker.credits > 0).then_some(*id));
    }
    assert_eq!(free, ledger.free);
}

#[test]
fn items_are_leased_in_order_and_retries_go_to_the_back() {
    let mut ledger = ledger(3, 5);
    let first = take(&mut ledger, 0);
    assert_eq!(
        (first.item.clone(), first.attempt, first.deadline_ms),
        (item(0), 1, 100)
    );
    assert_eq!(
        ledger.fail(first.token, "x".into()),
        Failure::Retry { attempt: 1 }
    );
    let order: Vec<_> = (0..3)
        .map(|_| take(&mut ledger, 0))
        .map(|l| (l.item, l.attempt))
        .collect();
    assert_eq!(order, [(item(1), 1), (item(2), 1), (item(0), 2)]);
}

#[test]
fn resume_skips_what_is_done_and_collapses_duplicates() {
    let config = config(1, 1);
    let given = [item(0), item(1), item(0), item(2)];
    let mut ledger = Ledger::new(config, given, [item(1), item(1), item(9)]);
    ledger.grant_credits(WORKER, 9);
    let progress = Progress {
        unleased: 2,
        done: 1,
        total: 3,
        ..Progress::default()
    };
    assert_eq!((ledger.progress(), ledger.unknown_done()), (progress, 1));
    assert_eq!(take(&mut ledger, 0).item, item(0));
    assert_eq!(take(&mut ledger, 0).item, item(2));
    assert_eq!(ledger.lease(WORKER, 0), None);
    check(&ledger);
}

#[test]
fn an_empty_job_is_finished() {
    assert!(Ledger::new(config(1, 1), [], []).is_finished());
}

#[test]
fn rl_1_every_item_is_in_one_state_along_its_way() {
    let mut ledger = ledger(3, 2);
    check(&ledger);
    let (a, b) = (take(&mut ledger, 0), take(&mut ledger, 5));
    check(&ledger);
    assert!(matches!(
        ledger.complete(a.token, 0),
        Completion::Accepted(_)
    ));
    check(&ledger);
    ledger.fail(b.token, "engine died".into());
    check(&ledger);
    let c = take(&mut ledger, 6);
    assert_eq!(ledger.next_deadline_ms(), Some(106));
    assert_eq!(ledger.expire(105), []);
    assert_eq!(ledger.expire(106), [c.item]);
    check(&ledger);
    let progress = Progress {
        unleased: 2,
        done: 1,
        total: 3,
        ..Progress::default()
    };
    assert_eq!(ledger.progress(), progress);
}

#[test]
fn rl_2_each_item_is_done_at_most_once() {
    let mut ledger = ledger(1, 9);
    let old = take(&mut ledger, 0);
    assert_eq!(ledger.expire(100), [item(0)]);
    let new = take(&mut ledger, 100);
    assert_eq!(
        ledger.complete(old.token, 0),
        Completion::Stale,
        "leased to somebody else"
    );
    assert_eq!(ledger.complete(new.token, 0), Completion::Accepted(item(0)));
    assert_eq!(ledger.complete(new.token, 0), Completion::Stale);
    assert_eq!(ledger.fail(new.token, "late".into()), Failure::Stale);
    assert_eq!(
        ledger.complete(LeaseToken::new(7, 1), 0),
        Completion::Stale,
        "of another ledger"
    );
    assert!(ledger.is_finished());
    check(&ledger);
}

#[test]
fn rl_2_a_late_result_is_kept_while_nobody_else_has_the_item() {
    let mut ledger = ledger(2, 9);
    let late = take(&mut ledger, 0);
    ledger.expire(100);
    assert_eq!(
        ledger.fail(late.token, "late failure".into()),
        Failure::Stale
    );
    assert_eq!(
        ledger.complete(late.token, 0),
        Completion::Accepted(item(0))
    );
    assert_eq!(take(&mut ledger, 100).item, item(1));
    assert_eq!(
        ledger.lease(WORKER, 100),
        None,
        "the done item is not leased again"
    );
    assert_eq!(
        ledger.credits(WORKER),
        9,
        "the credit of the late lease came back once"
    );
}

#[test]
fn rl_3_no_lease_without_credit_and_every_ending_gives_it_back() {
    type Ending = fn(&mut Ledger, LeaseToken);
    let endings: [Ending; 3] = [
        |l, t| assert_ne!(l.complete(t, 0), Completion::Stale),
        |l, t| assert_ne!(l.fail(t, "x".into()), Failure::Stale),
        |l, _| assert_eq!(l.expire(u64::MAX).len(), 1),
    ];
    for ending in endings {
        let mut ledger = Ledger::new(config(1, 2), items(4), []);
        assert_eq!(ledger.lease(WORKER, 0), None, "nothing was granted");
        ledger.grant_credits(WORKER, 1);
        let lease = take(&mut ledger, 0);
        assert_eq!((ledger.lease(WORKER, 0), ledger.credits(WORKER)), (None, 0));
        ending(&mut ledger, lease.token);
        assert_eq!(ledger.credits(WORKER), 1);
        check(&ledger);
    }
}

#[test]
fn rl_3_a_worker_that_is_dismissed_gets_no_more_and_keeps_what_it_has() {
    let mut ledger = ledger(4, 2);
    let (a, b) = (take(&mut ledger, 0), take(&mut ledger, 0));
    assert_eq!(ledger.free_workers().collect::<Vec<_>>(), [WORKER]);
    ledger.dismiss(WORKER);
    check(&ledger);
    assert_eq!(ledger.free_workers().count(), 0);
    assert_eq!(ledger.lease(WORKER, 0), None);
    assert!(matches!(
        ledger.complete(a.token, 0),
        Completion::Accepted(_)
    ));
    assert_eq!(
        ledger.lose(b.token, "x".into()),
        Failure::Retry { attempt: 1 }
    );
    check(&ledger);
    assert_eq!(
        (ledger.credits(WORKER), ledger.free_workers().count()),
        (0, 0)
    );
    // What it lost is another's.
    ledger.grant_credits(WorkerId(1), 1);
    let lease = ledger.lease(WorkerId(1), 0).expect("an item waits");
    assert_eq!(lease.item, b.item);
}

#[test]
fn rl_3_a_lost_worker_loses_its_leases_and_its_credits() {
    let mut ledger = ledger(3, 2);
    let (a, b) = (take(&mut ledger, 0), take(&mut ledger, 0));
    assert_eq!(ledger.worker_lost(WORKER), [a.item, b.item]);
    assert_eq!((ledger.credits(WORKER), ledger.lease(WORKER, 0)), (0, None));
    assert_eq!(ledger.worker_lost(WorkerId(5)), []);
    check(&ledger);
}

#[test]
fn rl_4_an_item_that_never_returns_is_given_up_after_its_tries() {
    for (max_tries, leases) in [(0, 1), (1, 1), (3, 3)] {
        let mut ledger = ledger(1, max_tries);
        let mut count = 0;
        while let Some(lease) = ledger.lease(WORKER, count * 100) {
            count += 1;
            assert_eq!(u64::from(lease.attempt), count);
            ledger.expire(count * 100);
        }
        assert_eq!(count, leases);
        assert!(ledger.is_finished());
        assert_eq!(
            ledger.failed_items(),
            [(item(0), "no result within 100 ms".to_owned())]
        );
    }
}

/// Fails the next item on each of these workers in turn, with proof that the worker works where that is
/// said; what becomes of the item. Other items are done at once.
fn fail_on(ledger: &mut Ledger, tries: &[(u32, bool)]) -> Failure {
    let mut last = Failure::Stale;
    for &(worker, is_proven) in tries {
        let lease = ledger
            .lease(WorkerId(worker), 0)
            .expect("it waits for this one");
        assert_eq!(lease.item, item(0));
        last = ledger.fail(lease.token, "fault".into());
        check(ledger);
        if is_proven {
            // The failed one waits behind the others, and not for this machine.
            let other = ledger.lease(WorkerId(worker), 0).expect("another item");
            assert_ne!(other.item, item(0));
            assert_ne!(ledger.complete(other.token, 0), Completion::Stale);
        }
        // It is the first again.
        ledger.queue.retain(|slot| *slot != 0);
        ledger.queue.push_front(0);
    }
    last
}

#[test]
fn rl_4_tries_count_by_machines_that_work() {
    const RETRY: bool = false;
    const GAVE_UP: bool = true;
    // (workers, tries on them with proof, what becomes of the item), three tries.
    type Case = (u32, &'static [(u32, bool)], bool);
    let cases: [Case; 7] = [
        // Three that work otherwise.
        (9, &[(0, true), (1, true), (2, true), (3, true)], GAVE_UP),
        // Without proof it may be the machines.
        (9, &[(0, false), (1, false), (2, false), (3, false)], RETRY),
        (9, &[(0, true), (1, true), (2, false)], RETRY),
        // Every machine there is.
        (3, &[(0, false), (1, false), (2, false)], GAVE_UP),
        (1, &[(0, false), (0, false)], RETRY),
        (1, &[(0, false), (0, false), (0, false)], GAVE_UP),
        (2, &[(0, false), (1, false), (0, false)], GAVE_UP),
    ];
    for (workers, tries, expected) in cases {
        let mut ledger = Ledger::new(config(1000, 3), items(20), []);
        for worker in 0..workers {
            ledger.grant_credits(WorkerId(worker), 3);
        }
        let is_given_up = fail_on(&mut ledger, tries) == Failure::GaveUp;
        assert_eq!(is_given_up, expected, "{workers} workers, {tries:?}");
    }
}

#[test]
fn rl_7_an_item_goes_to_a_machine_that_has_not_failed_it() {
    let mut ledger = ledger(1, 3);
    ledger.grant_credits(WorkerId(1), 1);
    let lease = take(&mut ledger, 0);
    assert_ne!(ledger.fail(lease.token, "fault".into()), Failure::Stale);
    assert_eq!(ledger.lease(WORKER, 0), None, "there is another one");
    // One that comes later under another number, on the same machine.
    ledger.enter(WorkerId(2), MachineId(0));
    ledger.grant_credits(WorkerId(2), 1);
    assert_eq!(ledger.lease(WorkerId(2), 0), None);
    let other = ledger.lease(WorkerId(1), 0).expect("it has not failed it");
    assert_ne!(ledger.fail(other.token, "fault".into()), Failure::Stale);
    let _again = ledger.lease(WORKER, 0).expect("all have failed it");
    check(&ledger);
}

#[test]
fn rl_7_what_a_worker_fails_at_before_it_is_left_out_counts_against_no_item() {
    let mut ledger = Ledger::new(config(1000, 1), items(8), []);
    for worker in 0..3 {
        ledger.grant_credits(WorkerId(worker), 4);
    }
    // The first one works, and then it is broken.
    let proof = take(&mut ledger, 0);
    let lost = take(&mut ledger, 0);
    assert_ne!(ledger.fail(lost.token, "its own".into()), Failure::Stale);
    assert_ne!(ledger.complete(proof.token, 0), Completion::Stale);
    assert_eq!(ledger.slots[1].failures, 1, "that one is proven");
    let leases: Vec<Lease> = (0..4).map(|_| take(&mut ledger, 0)).collect();
    for lease in &leases[..3] {
        assert_ne!(ledger.fail(lease.token, "broken".into()), Failure::Stale);
    }
    assert!(ledger.is_engaged(WORKER));
    ledger.dismiss(WORKER);
    assert!(!ledger.is_engaged(WORKER));
    assert_eq!(ledger.worker_of(leases[3].token), Some(WORKER));
    let taken = ledger.take_back(leases[3].token);
    assert_eq!(taken, Failure::Retry { attempt: 1 });
    assert_eq!(ledger.worker_of(leases[3].token), None);
    check(&ledger);
    let failures: Vec<u32> = ledger.slots.iter().map(|slot| slot.failures).collect();
    assert_eq!(failures, [0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(ledger.slots[2].failed_on.is_empty());
    // The taken one goes first.
    let next = ledger.lease(WorkerId(1), 0).expect("items wait");
    assert_eq!(next.item, leases[3].item);
}

#[test]
fn rl_4_a_lost_worker_costs_its_items_no_try_and_they_go_first() {
    let mut ledger = ledger(4, 1);
    let lost: Vec<Lease> = (0..2).map(|_| take(&mut ledger, 0)).collect();
    assert_eq!(ledger.worker_lost(WORKER), [item(0), item(1)]);
    ledger.grant_credits(WORKER, 9);
    let order: Vec<_> = (0..4).map(|_| take(&mut ledger, 0).item).collect();
    assert_eq!(order, items(4));
    assert_eq!(ledger.complete(lost[0].token, 0), Completion::Stale);
    check(&ledger);
}

/// A ledger whose average is 10 ms, with one item that worker 1 has held since then.
fn with_a_straggler() -> (Ledger, Lease) {
    let config = LedgerConfig {
        straggler_factor: 3,
        ..config(1_000_000, 1)
    };
    let mut ledger = Ledger::new(config, items(9), []);
    ledger.grant_credits(WorkerId(1), 1);
    ledger.grant_credits(WORKER, 1);
    let straggler = ledger.lease(WorkerId(1), 0).unwrap();
    for n in 0..8 {
        let lease = take(&mut ledger, 10 * n);
        assert_ne!(ledger.complete(lease.token, 10 * n + 10), Completion::Stale);
    }
    (ledger, straggler)
}

#[test]
fn rl_6_a_straggler_is_leased_once_more_and_the_first_result_counts() {
    for second_wins in [false, true] {
        let (mut ledger, straggler) = with_a_straggler();
        assert_eq!(ledger.lease(WORKER, 30), None, "not long enough");
        assert!(!ledger.has_work(30) && ledger.has_work(81));
        let second = ledger.lease(WORKER, 81).unwrap();
        assert_eq!((&second.item, second.attempt), (&straggler.item, 2));
        check(&ledger);
        ledger.grant_credits(WorkerId(2), 1);
        assert_eq!(ledger.lease(WorkerId(2), 999), None, "no third");
        assert_eq!(
            ledger.leases_of(second.token),
            [straggler.token, second.token]
        );
        let (winner, other) = match second_wins {
            true => (second.token, straggler.token),
            false => (straggler.token, second.token),
        };
        assert_ne!(ledger.complete(winner, 99), Completion::Stale);
        assert_eq!(ledger.complete(other, 99), Completion::Stale);
        assert!(ledger.is_finished());
        check(&ledger);
    }
}

#[test]
fn rl_6_one_of_two_leases_may_fail() {
    let (mut ledger, straggler) = with_a_straggler();
    let second = ledger.lease(WORKER, 81).unwrap();
    assert_ne!(ledger.fail(second.token, "fault".into()), Failure::Stale);
    check(&ledger);
    assert_eq!(ledger.progress().leased, 1, "the other goes on");
    assert_eq!(
        ledger.lease(WORKER, 999),
        None,
        "it failed here: failing beside a lease that hangs must not go on for ever"
    );
    ledger.grant_credits(WorkerId(2), 1);
    let third = ledger.lease(WorkerId(2), 999).expect("another machine may");
    assert_ne!(ledger.fail(third.token, "fault".into()), Failure::Stale);
    check(&ledger);
    assert_eq!(ledger.worker_lost(WorkerId(7)), []);
    assert_ne!(ledger.complete(straggler.token, 99), Completion::Stale);
    check(&ledger);
}

#[test]
fn rl_5_no_failure_makes_an_item_done() {
    let mut ledger = ledger(3, 1);
    let lease = take(&mut ledger, 0);
    assert_eq!(
        ledger.fail(lease.token, "judge is down".into()),
        Failure::GaveUp
    );
    let _expired = take(&mut ledger, 0);
    ledger.expire(100);
    for _ in 0..MAX_LOSSES {
        ledger.grant_credits(WORKER, 1);
        let _lost = take(&mut ledger, 100);
        ledger.worker_lost(WORKER);
    }
    let progress = Progress {
        failed: 3,
        total: 3,
        ..Progress::default()
    };
    assert_eq!(ledger.progress(), progress);
    let reasons: Vec<_> = ledger
        .failed_items()
        .into_iter()
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "judge is down",
            "no result within 100 ms",
            "worker 0 was lost"
        ]
    );
    assert_eq!(
        ledger.complete(lease.token, 0),
        Completion::Stale,
        "failed is final"
    );
}

#[test]
fn two_hundred_thousand_items_with_failures_all_end() {
    const ITEMS: u32 = 200_000;
    let config = config(10, 3);
    let mut ledger = Ledger::new(config, items(ITEMS), (0..ITEMS).step_by(10).map(item));
    for worker in 0..4 {
        ledger.grant_credits(WorkerId(worker), 5_000);
    }
    let (mut now, mut done) = (0, 0);
    while !ledger.is_finished() {
        now += 1;
        let leases: Vec<Lease> = (0..4)
            .filter_map(|worker| ledger.lease(WorkerId(worker), now))
            .collect();
        for (n, lease) in leases.into_iter().enumerate() {
            match (now + n as u64) % 7 {
                0 => assert_ne!(ledger.fail(lease.token, "fault".into()), Failure::Stale),
                1 => {}
                _ => done += usize::from(ledger.complete(lease.token, now) != Completion::Stale),
            }
        }
        ledger.expire(now);
    }
    let progress = ledger.progress();
    assert_eq!(progress.done, done + (ITEMS / 10) as usize);
    assert_eq!(progress.done + progress.failed, ITEMS as usize);
    assert_eq!(ledger.failed_items().len(), progress.failed);
}

/// What may happen to a ledger, in any order.
#[derive(Debug, Clone)]
enum Event {
    Grant(u32, u32),
    Lease(u32),
    Complete(usize),
    Fail(usize),
    Wait(u64),
    Expire,
    Lose(u32),
    Quarantine(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..3u32, 0..3u32).prop_map(|(worker, n)| Event::Grant(worker, n)),
        6 => (0..3u32).prop_map(Event::Lease),
        3 => any::<usize>().prop_map(Event::Complete),
        2 => any::<usize>().prop_map(Event::Fail),
        2 => (0..80u64).prop_map(Event::Wait),
        2 => Just(Event::Expire),
        1 => (0..3u32).prop_map(Event::Lose),
        1 => (0..3u32).prop_map(Event::Quarantine),
    ]
}

/// A ledger, and what a bystander knows of it.
struct World {
    ledger: Ledger,
    now_ms: u64,
    /// Every token ever given out, so that stale ones are tried too.
    tokens: Vec<LeaseToken>,
    granted: HashMap<u32, u32>,
    accepted: BTreeSet<ItemId>,
}

impl World {
    fn token(&self, pick: usize) -> Option<LeaseToken> {
        (!self.tokens.is_empty()).then(|| self.tokens[pick % self.tokens.len()])
    }

    fn happens(&mut self, event: Event) {
        let before = self.ledger.progress().done;
        match event {
            Event::Grant(worker, n) => {
                self.ledger.grant_credits(WorkerId(worker), n);
                *self.granted.entry(worker).or_default() += n;
            }
            Event::Lease(worker) => {
                let has_work = self.ledger.has_work(self.now_ms);
                if let Some(lease) = self.ledger.lease(WorkerId(worker), self.now_ms) {
                    assert!(has_work, "work came from nowhere");
                    assert!(
                        !self.accepted.contains(&lease.item),
                        "a done item was leased"
                    );
                    assert!(
                        !self.tokens.contains(&lease.token),
                        "a token was used twice"
                    );
                    self.tokens.push(lease.token);
                }
            }
            Event::Complete(pick) => {
                if let Some(token) = self.token(pick)
                    && let Completion::Accepted(item) = self.ledger.complete(token, self.now_ms)
                {
                    assert!(self.accepted.insert(item), "RL-2: done twice");
                }
            }
            Event::Fail(pick) => {
                if let Some(token) = self.token(pick) {
                    self.ledger.fail(token, "fault".into());
                }
            }
            Event::Wait(ms) => self.now_ms += ms,
            Event::Expire => drop(self.ledger.expire(self.now_ms)),
            Event::Lose(worker) => {
                self.ledger.worker_lost(WorkerId(worker));
                self.granted.remove(&worker);
            }
            Event::Quarantine(worker) => {
                let failed = self.ledger.progress().failed;
                let worker = WorkerId(worker);
                self.ledger.dismiss(worker);
                for token in self.tokens.clone() {
                    if self.ledger.worker_of(token) == Some(worker) {
                        self.ledger.take_back(token);
                    }
                }
                self.ledger.worker_lost(worker);
                self.granted.remove(&worker.0);
                let is_fault = self.ledger.progress().failed > failed;
                assert!(!is_fault, "RL-7: an item was given up for a sick worker");
            }
        }
        assert!(self.ledger.progress().done >= before, "RL-2: done is final");
        self.check();
    }

    fn check(&self) {
        check(&self.ledger);
        assert_eq!(
            self.ledger.progress().done,
            self.accepted.len(),
            "RL-5: done by a result only"
        );
        for worker in 0..3 {
            let granted = self.granted.get(&worker).copied().unwrap_or(0) as usize;
            let leases = self
                .ledger
                .workers
                .get(&WorkerId(worker))
                .map_or(0, |w| w.leases.len());
            let free = self.ledger.credits(WorkerId(worker)) as usize;
            assert_eq!(leases + free, granted, "RL-3: a credit was lost or made");
        }
    }
}

proptest! {
    #[test]
    fn rl_invariants_hold_under_any_events_and_every_job_ends(
        count in 0..12u32,
        max_tries in 1..4u32,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let config = LedgerConfig { straggler_factor: 1, ..config(100, max_tries) };
        let mut world = World {
            ledger: Ledger::new(config, items(count), []),
            now_ms: 0,
            tokens: Vec::new(),
            granted: HashMap::new(),
            accepted: BTreeSet::new(),
        };
        for event in events {
            world.happens(event);
        }
        // RL-4: from wherever that led, workers that never answer still bring every item to an end,
        // within the tries of all items.
        for worker in 0..3 {
            world.happens(Event::Grant(worker, 1));
        }
        for _ in 0..=count * (max_tries + 4) {
            world.happens(Event::Wait(100));
            world.happens(Event::Expire);
            for worker in 0..3 {
                world.happens(Event::Lease(worker));
            }
        }
        world.happens(Event::Wait(100));
        world.happens(Event::Expire);
        prop_assert!(world.ledger.is_finished());
        let progress = world.ledger.progress();
        prop_assert_eq!(progress.done + progress.failed, count as usize);
    }
}
