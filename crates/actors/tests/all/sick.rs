//! Samplers that stay and do not work: they refuse, hang, are slow, or fail now and then.

use crate::rollouts::{assert_all_right, plan as rollout_plan, stored};
use crate::support::{Recorder, Solver, fleet, sound_judge};
use crate::training::{many, plan as policy_plan};
use actors::ports::{EngineError, Generator, StepReport};
use actors::training::{PolicyPlan, StateWeighting, policy};
use actors::{Controller, FleetPlan, RolloutError, RolloutReport};
use async_trait::async_trait;
use proto::{Completion, GenerateRequest, WeightSnapshot};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use store::TrajectoryStore;
use tokio::time::{Instant, sleep};

/// What a sampler does with the nth call, from 1.
#[derive(Clone, Copy)]
enum Does {
    Works,
    Refuses,
    /// Takes no new weights after the first ones.
    RefusesWeights,
    Hangs,
    /// Takes so many times as long.
    Slow(u32),
    FailsEvery(u32),
    /// Refuses this one request.
    Poison,
    /// Refuses so many calls, and then works.
    RefusesFirst(u32),
}

/// A sampler that takes a second for each request.
struct Ailing {
    inner: Solver,
    does: Does,
    calls: AtomicU32,
    weights: AtomicU32,
}

impl Ailing {
    fn new(does: Does) -> Arc<Self> {
        Arc::new(Self {
            inner: Solver::default(),
            does,
            calls: AtomicU32::new(0),
            weights: AtomicU32::new(0),
        })
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn fault() -> EngineError {
    EngineError("the GPU has fallen off the bus".into())
}

/// The request that is refused wherever it is tried.
fn is_poison(request: &GenerateRequest) -> bool {
    let prompt: String = request.prompt.iter().map(|&b| b as u8 as char).collect();
    prompt.starts_with("Q:7+1\n")
}

#[async_trait]
impl Generator for Ailing {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let mut takes = Duration::from_secs(requests.len() as u64);
        match self.does {
            Does::Refuses => return Err(fault()),
            Does::Hangs => std::future::pending().await,
            Does::Slow(times) => takes *= times,
            Does::FailsEvery(nth) if call.is_multiple_of(nth) => return Err(fault()),
            Does::RefusesFirst(calls) if call <= calls => return Err(fault()),
            Does::Poison if requests.iter().any(is_poison) => return Err(fault()),
            _ => {}
        }
        sleep(takes).await;
        self.inner.generate(requests).await
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        let published = self.weights.fetch_add(1, Ordering::Relaxed);
        match self.does {
            Does::RefusesWeights if published > 0 => Err(fault()),
            _ => self.inner.publish(weights).await,
        }
    }
}

fn samplers(does: &[Does]) -> Vec<Arc<Ailing>> {
    does.iter().map(|does| Ailing::new(*does)).collect()
}

fn fleet_of(samplers: &[Arc<Ailing>]) -> FleetPlan {
    FleetPlan {
        samplers: samplers.iter().map(|s| s.clone() as _).collect(),
        quarantine_after: 3,
        patience: Duration::from_secs(3600),
        ..fleet(Arc::new(Solver::default()), 0, sound_judge())
    }
}

async fn generate(
    dir: &Path,
    samplers: &[Arc<Ailing>],
    questions: u32,
) -> Result<RolloutReport, RolloutError> {
    let controller = Controller::start(fleet_of(samplers)).await.unwrap();
    let store = TrajectoryStore::open(dir).unwrap();
    let done = controller
        .rollouts(rollout_plan(questions, 1, 3), store)
        .await;
    controller.stop().await;
    done.map(|(report, _)| report)
}

/// Seven that work, and one that does this.
fn one_of_eight(does: Does) -> Vec<Arc<Ailing>> {
    let mut all = [Does::Works; 8];
    all[3] = does;
    samplers(&all)
}

#[tokio::test(start_paused = true)]
async fn ac_6_a_sampler_that_refuses_at_once_swallows_no_items() {
    let dir = tempfile::tempdir().unwrap();
    let samplers = one_of_eight(Does::Refuses);
    let report = generate(dir.path(), &samplers, 400).await.unwrap();
    assert_eq!((report.stored, report.failed.len()), (400, 0));
    assert_all_right(&stored(dir.path()), 400);
    // Three in a row, and a trial after its quarantine.
    let asked = samplers[3].calls();
    assert!((3..=7 + 4).contains(&asked), "{asked} calls");
}

#[tokio::test(start_paused = true)]
async fn ac_6_a_sampler_that_hangs_holds_no_items_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let samplers = one_of_eight(Does::Hangs);
    let report = generate(dir.path(), &samplers, 100).await.unwrap();
    assert_eq!((report.stored, report.failed.len()), (100, 0));
    // The work of the others takes half a minute; a time-out by their pace beside it, twice.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn ac_6_a_sampler_that_fails_now_and_then_is_used_and_no_item_is_given_up() {
    for nth in [2, 3, 5] {
        let dir = tempfile::tempdir().unwrap();
        let samplers = one_of_eight(Does::FailsEvery(nth));
        let report = generate(dir.path(), &samplers, 200).await.unwrap();
        assert_eq!((report.stored, report.failed.len()), (200, 0), "{nth}");
        // An eighth of what there is, and a call more for each that fails.
        let calls = samplers[3].calls();
        assert!(calls >= 400 / 8, "{calls} calls, where each {nth}th fails");
    }
}

#[tokio::test(start_paused = true)]
async fn ac_6_an_engine_that_works_again_takes_part_again() {
    let dir = tempfile::tempdir().unwrap();
    let samplers = one_of_eight(Does::RefusesFirst(7));
    let report = generate(dir.path(), &samplers, 1000).await.unwrap();
    assert_eq!((report.stored, report.failed.len()), (1000, 0));
    // 2000 calls, 49 in a second by the others, and 7 more by this one once its quarantine of 10 s and
    // its trial of 1 s are over: 26 s later all are done.
    let asked = samplers[3].calls();
    assert!((170..=200).contains(&asked), "{asked} calls");
}

/// An item that fails wherever it is tried is given up, and the samplers stay.
#[tokio::test(start_paused = true)]
async fn ac_6_an_item_that_no_sampler_can_do_is_the_items_fault() {
    let dir = tempfile::tempdir().unwrap();
    let samplers = samplers(&[Does::Poison; 4]);
    let report = generate(dir.path(), &samplers, 60).await.unwrap();
    assert_eq!((report.stored, report.failed.len()), (59, 1));
    let (item, reason) = &report.failed[0];
    assert_eq!(item.question.to_string(), "q007");
    assert!(reason.contains("fallen off"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn ac_6_a_run_ends_with_the_reason_when_no_sampler_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let error = generate(dir.path(), &samplers(&[Does::Refuses; 2]), 60).await;
    let error = error.unwrap_err().to_string();
    for word in ["no sampler has worked", "fallen off the bus", "resume"] {
        assert!(error.contains(word), "{error}");
    }
    // Engines of this process are tried again once.
    assert!(began.elapsed() < Duration::from_secs(300));
}

/// The reports of a training, what ended it, and the virtual time that it took.
async fn train(
    samplers: &[Arc<Ailing>],
    plan: &PolicyPlan,
) -> (Vec<StepReport>, Result<(), String>, Duration) {
    let fleet = FleetPlan {
        learner: Some(Arc::new(Recorder::default())),
        ..fleet_of(samplers)
    };
    let controller = Controller::start(fleet).await.unwrap();
    let (mut reports, began) = (Vec::new(), Instant::now());
    let trained = policy(controller.fleet(), plan, |report| {
        reports.push(report.clone())
    });
    let trained = trained.await.map_err(|error| error.to_string());
    let took = began.elapsed();
    controller.stop().await;
    (reports, trained, took)
}

fn steps(steps: u64) -> PolicyPlan {
    PolicyPlan {
        states_per_step: 16,
        ..policy_plan(many(), StateWeighting::PerState, steps)
    }
}

fn sampling(report: &StepReport) -> f64 {
    report.metrics["sampling_seconds"]
}

#[tokio::test(start_paused = true)]
async fn ac_6_one_sampler_that_refuses_ends_no_training() {
    for does in [Does::Refuses, Does::RefusesWeights] {
        let samplers = one_of_eight(does);
        let (reports, trained, took) = train(&samplers, &steps(20)).await;
        assert_eq!((trained, reports.len()), (Ok(()), 20));
        // Two or three requests each, and once more where a share was refused.
        assert!(took < Duration::from_secs(20 * 6), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ac_6_one_sampler_that_hangs_costs_one_time_limit() {
    let samplers = one_of_eight(Does::Hangs);
    let (reports, trained, _) = train(&samplers, &steps(30)).await;
    assert_eq!((trained, reports.len()), (Ok(()), 30));
    let long: Vec<f64> = reports.iter().map(sampling).filter(|s| *s > 10.0).collect();
    assert!(long.len() <= 2, "{long:?}");
    // 3 times 2 s for 20 of 64 tokens, two minutes, and what looking now and then adds.
    assert!(long.iter().all(|seconds| *seconds < 170.0), "{long:?}");
}

#[tokio::test(start_paused = true)]
async fn ac_6_a_slow_sampler_does_not_set_the_pace() {
    let alike = train(&samplers(&[Does::Works; 4]), &steps(40)).await;
    let mut does = [Does::Works; 4];
    does[1] = Does::Slow(10);
    let slow = train(&samplers(&does), &steps(40)).await;
    let last = |reports: &[StepReport]| -> f64 {
        let last = reports.iter().rev().take(20);
        last.map(sampling).sum::<f64>() / 20.0
    };
    let (alike, slow) = (last(&alike.0), last(&slow.0));
    // 16 requests by four: 4 s; by three: 6 s. The slow one takes 10 s for one.
    assert!((3.9..4.1).contains(&alike), "{alike}");
    assert!((5.9..6.1).contains(&slow), "{slow}");
}

/// Whoever samples it: the same actions are trained on.
#[tokio::test(start_paused = true)]
async fn sa_1_results_do_not_depend_on_who_gets_what() {
    let mut all = Vec::new();
    for does in [
        vec![Does::Works],
        vec![Does::Works; 5],
        vec![Does::Works, Does::Slow(7), Does::FailsEvery(2), Does::Hangs],
    ] {
        let recorder = Arc::new(Recorder::default());
        let fleet = FleetPlan {
            learner: Some(recorder.clone()),
            ..fleet_of(&samplers(&does))
        };
        let controller = Controller::start(fleet).await.unwrap();
        policy(controller.fleet(), &steps(6), |_| {}).await.unwrap();
        controller.stop().await;
        all.push(std::mem::take(&mut *recorder.groups.lock().unwrap()));
    }
    assert_eq!(all[0].len(), 6);
    assert!(all.iter().all(|groups| *groups == all[0]));
}

#[tokio::test(start_paused = true)]
async fn sa_3_a_request_that_no_sampler_can_do_ends_training_and_samplers_that_cannot_are_waited_for()
 {
    let (_, trained, took) = train(&samplers(&[Does::Poison; 4]), &steps(40)).await;
    let error = trained.unwrap_err();
    assert!(error.contains("fallen off the bus"), "{error}");
    assert!(took < Duration::from_secs(600), "{took:?}");
    let (_, trained, took) = train(&samplers(&[Does::Refuses; 4]), &steps(40)).await;
    let error = trained.unwrap_err();
    assert!(error.contains("no sampler has worked"), "{error}");
    assert!(took < Duration::from_secs(300), "{took:?}");
}
