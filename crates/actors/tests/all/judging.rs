//! Judges that are slow, away, or without a verdict, in virtual time.

use crate::rollouts::{assert_all_right, plan as rollout_plan, stored};
use crate::support::{Recorder, Solver, bytes, fleet, sound_judge};
use crate::training::{many, plan as policy_plan, trajectory};
use actors::ports::{EngineError, Generator, StepReport};
use actors::training::{PolicyPlan, StateWeighting, policy, states_of};
use actors::{Controller, FleetPlan, Judges, RolloutError, RolloutPlan, RolloutReport};
use async_trait::async_trait;
use judge::{AnswerMatch, JudgeError, ProcessJudge, RulesJudge, StepContext};
use proto::{Completion, FinishReason, GenerateRequest, Verdict, WeightSnapshot, WeightVersion};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use store::TrajectoryStore;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(3600);

/// Behaviour of a judge towards a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Rates,
    IsAway,
    CannotRead,
    Refuses,
}

/// Rules that take virtual time, judge a limited number of steps at once, and do as they are told.
struct Played {
    takes: fn(&StepContext) -> Duration,
    does: fn(&StepContext, Duration) -> Does,
    began: Instant,
    at_once: Semaphore,
    under_way: AtomicUsize,
    most: AtomicUsize,
    calls: AtomicU32,
}

fn played(
    at_once: usize,
    takes: fn(&StepContext) -> Duration,
    does: fn(&StepContext, Duration) -> Does,
) -> Arc<Played> {
    Arc::new(Played {
        takes,
        does,
        began: Instant::now(),
        at_once: Semaphore::new(at_once),
        under_way: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        calls: AtomicU32::new(0),
    })
}

fn quick(_: &StepContext) -> Duration {
    Duration::from_millis(100)
}

fn sound(_: &StepContext, _: Duration) -> Does {
    Does::Rates
}

#[async_trait]
impl ProcessJudge for Played {
    fn name(&self) -> &str {
        "rules"
    }

    fn uses_reference(&self) -> bool {
        false
    }

    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        let _turn = self.at_once.acquire().await.unwrap();
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        let does = (self.does)(context, self.began.elapsed());
        sleep((self.takes)(context)).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let url = "http://judge".to_owned();
        match does {
            Does::Rates => RulesJudge::default().judge(context).await,
            Does::IsAway => Err(JudgeError::Unreachable {
                url,
                tries: 4,
                reason: "connection refused".into(),
            }),
            Does::CannotRead => Err(JudgeError::Unreadable {
                model: "m".into(),
                tries: 4,
                ending: "hm".into(),
            }),
            Does::Refuses => Err(JudgeError::Refused {
                url,
                status: 401,
                detail: "no".into(),
                advice: "check [judge.llm] api_key_env".into(),
                is_setup: true,
            }),
        }
    }
}

fn with_judge(sampler: Arc<dyn Generator>, judge: &Arc<Played>, patience: Duration) -> FleetPlan {
    FleetPlan {
        samplers: vec![sampler],
        judges: Some(Judges {
            process: judge.clone(),
            outcome: Arc::new(AnswerMatch::default()),
        }),
        judge_patience: patience,
        ..fleet(Arc::new(Solver::default()), 0, sound_judge())
    }
}

/// Gives another action for each sample of a state.
#[derive(Default)]
struct Varied {
    version: AtomicU64,
    requests: AtomicU32,
    /// Number of distinct actions of a state.
    kinds: u32,
}

#[async_trait]
impl Generator for Varied {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        self.requests
            .fetch_add(requests.len() as u32, Ordering::Relaxed);
        let version = WeightVersion(self.version.load(Ordering::Relaxed));
        let action = |n: u32| {
            let text = format!("<math_exp>{}+1</math_exp>", n % self.kinds);
            let tokens = bytes(&text);
            Completion {
                logprobs: vec![-0.5; tokens.len()],
                tokens,
                finish: FinishReason::StopText,
                text,
                weight_version: version,
            }
        };
        let all = requests.iter();
        Ok(all.map(|r| (0..r.samples).map(action).collect()).collect())
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        let version = weights.manifest.version.0;
        self.version.store(version, Ordering::Relaxed);
        Ok(())
    }
}

struct Trained {
    result: Result<(), String>,
    reports: Vec<StepReport>,
    recorder: Arc<Recorder>,
    took: Duration,
}

async fn train(
    plan: PolicyPlan,
    sampler: Arc<dyn Generator>,
    judge: &Arc<Played>,
    patience: Duration,
) -> Trained {
    let recorder = Arc::new(Recorder::default());
    let fleet = FleetPlan {
        learner: Some(recorder.clone()),
        ..with_judge(sampler, judge, patience)
    };
    let controller = Controller::start(fleet).await.unwrap();
    let start = Instant::now();
    let mut reports = Vec::new();
    let trained = policy(controller.fleet(), &plan, |r| reports.push(r.clone())).await;
    let took = start.elapsed();
    controller.stop().await;
    Trained {
        result: trained.map_err(|error| error.to_string()),
        reports,
        recorder,
        took,
    }
}

async fn roll_out(
    plan: RolloutPlan,
    dir: &Path,
    solver: &Arc<Solver>,
    judge: &Arc<Played>,
    patience: Duration,
) -> Result<RolloutReport, RolloutError> {
    let plan = RolloutPlan {
        unjudged: Some(dir.join("unjudged")),
        ..plan
    };
    let controller = Controller::start(with_judge(solver.clone(), judge, patience));
    let controller = controller.await.unwrap();
    let store = TrajectoryStore::open(dir).unwrap();
    let ended = controller.rollouts(plan, store).await;
    let ended = ended.map(|(report, _)| report);
    controller.stop().await;
    ended
}

/// Trajectories that are kept and have no verdicts.
fn unjudged(dir: &Path) -> usize {
    let judged = TrajectoryStore::open(dir).unwrap().ids();
    let kept = TrajectoryStore::open(dir.join("unjudged")).unwrap().ids();
    kept.difference(&judged).count()
}

/// One batch of `states` states with `actions` actions each.
fn one_batch(states: usize, actions: u32) -> PolicyPlan {
    let all = states_of((0..states as u32).map(|n| trajectory(n, 0)));
    PolicyPlan {
        states_per_step: states,
        actions_per_state: actions,
        ..policy_plan(all, StateWeighting::PerState, 1)
    }
}

#[tokio::test(start_paused = true)]
async fn all_verdicts_of_a_batch_are_asked_for_at_once() {
    let judge = played(16, quick, sound);
    let sampler = Arc::new(Varied {
        kinds: 4,
        ..Varied::default()
    });
    let trained = train(one_batch(16, 4), sampler, &judge, HOUR).await;
    trained.result.unwrap();
    assert_eq!(judge.calls.load(Ordering::Relaxed), 64);
    assert_eq!(judge.most.load(Ordering::Relaxed), 16);
    let took = trained.reports[0].metrics["judging_seconds"];
    assert!(took <= 0.5, "{took} s for 64 verdicts of 0.1 s, 16 at once");
}

#[tokio::test(start_paused = true)]
async fn a_slow_verdict_delays_nothing_behind_it() {
    let slow_first: fn(&StepContext) -> Duration =
        |context| match context.question.question.as_str() {
            "0+1" => Duration::from_secs(100),
            _ => Duration::from_millis(100),
        };
    let judge = played(64, slow_first, sound);
    let plan = FleetPlan {
        judge_actors: 1,
        ..with_judge(Arc::new(Solver::default()), &judge, HOUR)
    };
    let controller = Controller::start(plan).await.unwrap();
    let fleet = controller.fleet().clone();
    let context = |n: u32| StepContext::of(&trajectory(n, 0), 0);
    let slow = tokio::spawn({
        let (fleet, context) = (fleet.clone(), context(0));
        async move { fleet.judge_step(context).await }
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    let others = (1..20).map(|n| fleet.judge_step(context(n)));
    futures::future::try_join_all(others).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    slow.await.unwrap().unwrap();
    controller.stop().await;
}

#[tokio::test(start_paused = true)]
async fn actions_that_read_alike_are_judged_once() {
    let judge = played(16, quick, sound);
    let sampler = Arc::new(Varied {
        kinds: 2,
        ..Varied::default()
    });
    let trained = train(one_batch(3, 8), sampler, &judge, HOUR).await;
    trained.result.unwrap();
    assert_eq!(
        judge.calls.load(Ordering::Relaxed),
        6,
        "two kinds in three states"
    );
    let groups = trained.recorder.groups.lock().unwrap();
    assert!(groups[0].iter().all(|group| group.samples.len() == 8));
}

/// Away for the second to the eleventh minute.
fn away_for_ten_minutes(_: &StepContext, now: Duration) -> Does {
    match (60..660).contains(&now.as_secs()) {
        true => Does::IsAway,
        false => Does::Rates,
    }
}

fn three_seconds(_: &StepContext) -> Duration {
    Duration::from_secs(3)
}

#[tokio::test(start_paused = true)]
async fn ac_4_generation_waits_for_a_judge_and_samples_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    let judge = played(4, three_seconds, away_for_ten_minutes);
    let mut plan = rollout_plan(200, 1, 1);
    plan.ledger.lease_ms = 30_000; // shorter than the outage
    let start = Instant::now();
    let report = roll_out(plan, dir.path(), &solver, &judge, HOUR)
        .await
        .unwrap();
    assert_eq!((report.stored, report.failed.len()), (200, 0));
    assert!(report.unjudged.is_empty());
    assert_eq!(
        solver.calls.load(Ordering::Relaxed),
        400,
        "two actions of each item, once"
    );
    assert_all_right(&stored(dir.path()), 200);
    assert!(
        start.elapsed() > Duration::from_secs(600),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn ac_4_training_waits_for_a_judge_and_samples_nothing_twice() {
    let judge = played(8, three_seconds, away_for_ten_minutes);
    let sampler = Arc::new(Varied {
        kinds: 2,
        ..Varied::default()
    });
    let plan = PolicyPlan {
        checkpoint_every: 0,
        ..policy_plan(many(), StateWeighting::PerState, 40)
    };
    let trained = train(plan, sampler.clone(), &judge, HOUR).await;
    trained.result.unwrap();
    assert_eq!(trained.reports.len(), 40);
    assert_eq!(
        sampler.requests.load(Ordering::Relaxed),
        160,
        "four states a step, once"
    );
    assert!(
        trained.took > Duration::from_secs(600),
        "{:?}",
        trained.took
    );
    assert!(
        trained.took < Duration::from_secs(900),
        "{:?}",
        trained.took
    );
}

fn away_from_then_on(_: &StepContext, now: Duration) -> Does {
    match now.as_secs() >= 60 {
        true => Does::IsAway,
        false => Does::Rates,
    }
}

#[tokio::test(start_paused = true)]
async fn ac_4_what_was_sampled_is_kept_when_the_patience_ends() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    let judge = played(4, three_seconds, away_from_then_on);
    let ended = roll_out(rollout_plan(200, 1, 1), dir.path(), &solver, &judge, HOUR).await;
    let error = ended.unwrap_err();
    assert!(matches!(error, RolloutError::Judge(_)), "{error:?}");
    assert!(error.to_string().contains("judge.patience"), "{error}");
    assert!(error.to_string().contains("connection refused"), "{error}");
    let (done, kept) = (stored(dir.path()).len(), unjudged(dir.path()));
    assert!(done > 0 && kept > 0 && done + kept < 200, "{done} {kept}");
    assert_eq!(
        solver.calls.load(Ordering::Relaxed) as usize,
        2 * (done + kept)
    );
    // Resumed: they are judged, and only the others sampled.
    let judge = played(4, quick, sound);
    let report = roll_out(rollout_plan(200, 1, 1), dir.path(), &solver, &judge, HOUR).await;
    assert_eq!(report.unwrap().stored, 200);
    assert_eq!(solver.calls.load(Ordering::Relaxed), 400);
    assert_all_right(&stored(dir.path()), 200);
}

#[tokio::test(start_paused = true)]
async fn tl_7_training_writes_a_checkpoint_before_it_gives_up() {
    let runs_out: fn(&StepContext, Duration) -> Does = away_from_then_on;
    let refuses: fn(&StepContext, Duration) -> Does = |_, now| match now.as_secs() >= 60 {
        true => Does::Refuses,
        false => Does::Rates,
    };
    for (does, says) in [(runs_out, "judge.patience"), (refuses, "api_key_env")] {
        let judge = played(8, three_seconds, does);
        let sampler = Arc::new(Varied {
            kinds: 2,
            ..Varied::default()
        });
        let plan = PolicyPlan {
            checkpoint_every: 1000,
            ..policy_plan(many(), StateWeighting::PerState, 400)
        };
        let trained = train(plan, sampler, &judge, HOUR).await;
        let error = trained.result.unwrap_err();
        assert!(error.contains(says), "{error}");
        assert!(!trained.reports.is_empty() && trained.reports.len() < 400);
        assert_eq!(trained.recorder.checkpoints.load(Ordering::Relaxed), 1);
    }
}

/// Gives no verdict on the steps of question 7.
fn cannot_read_one(context: &StepContext, _: Duration) -> Does {
    match context.question.question == "7+1" {
        true => Does::CannotRead,
        false => Does::Rates,
    }
}

/// Gives no verdict on the steps of ten questions.
fn cannot_read_ten(context: &StepContext, _: Duration) -> Does {
    match context.question.question.ends_with("7+1") {
        true => Does::CannotRead,
        false => Does::Rates,
    }
}

#[tokio::test(start_paused = true)]
async fn ac_5_a_trajectory_that_cannot_be_judged_is_left_out_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    let judge = played(4, quick, cannot_read_one);
    let report = roll_out(rollout_plan(100, 1, 1), dir.path(), &solver, &judge, HOUR).await;
    let report = report.unwrap();
    assert_eq!((report.stored, report.failed.len()), (99, 0));
    let (item, reason) = &report.unjudged[0];
    assert_eq!(
        (report.unjudged.len(), item.question.0.as_str()),
        (1, "q007")
    );
    assert!(reason.contains("no verdict in 4 replies"), "{reason}");
    assert_eq!(unjudged(dir.path()), 1);
    assert_all_right(&stored(dir.path()), 99);
    assert_eq!(solver.calls.load(Ordering::Relaxed), 200);
}

#[tokio::test(start_paused = true)]
async fn ac_5_more_than_the_share_ends_generation_and_nothing_is_sampled_again() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    let judge = played(4, quick, cannot_read_ten);
    let ended = roll_out(rollout_plan(100, 1, 1), dir.path(), &solver, &judge, HOUR).await;
    let error = ended.unwrap_err().to_string();
    assert!(
        error.starts_with("2 of 100 trajectories cannot be judged"),
        "{error}"
    );
    assert!(
        error.contains("judge.max_unjudged_share allows 1"),
        "{error}"
    );
    let sampled = stored(dir.path()).len() + unjudged(dir.path());
    assert_eq!(solver.calls.load(Ordering::Relaxed) as usize, 2 * sampled);
    // A larger share, or a judge that can.
    let mut generous = rollout_plan(100, 1, 1);
    generous.max_unjudged_share = 0.1;
    let report = roll_out(generous, dir.path(), &solver, &judge, HOUR)
        .await
        .unwrap();
    assert_eq!((report.stored, report.unjudged.len()), (90, 10));
    let judge = played(4, quick, sound);
    let report = roll_out(rollout_plan(100, 1, 1), dir.path(), &solver, &judge, HOUR).await;
    assert_eq!(report.unwrap().stored, 100);
    assert_eq!(solver.calls.load(Ordering::Relaxed), 200);
}

#[tokio::test(start_paused = true)]
async fn tl_8_a_state_that_cannot_be_judged_is_left_out_and_counted() {
    let judge = played(16, quick, cannot_read_one);
    let sampler = Arc::new(Varied {
        kinds: 4,
        ..Varied::default()
    });
    let trained = train(one_batch(16, 4), sampler.clone(), &judge, HOUR).await;
    trained.result.unwrap();
    assert_eq!(trained.reports[0].metrics["unjudged_groups"], 1.0);
    let groups = trained.recorder.groups.lock().unwrap();
    assert_eq!(groups[0].len(), 15);
    assert!(
        groups[0]
            .iter()
            .all(|group| !group.state_id.starts_with("q007"))
    );
}

#[tokio::test(start_paused = true)]
async fn tl_8_more_than_the_share_ends_training_behind_a_checkpoint() {
    let judge = played(16, quick, |context, now| match now.as_millis() > 250 {
        true => cannot_read_ten(context, now),
        false => Does::Rates,
    });
    let sampler = Arc::new(Varied {
        kinds: 4,
        ..Varied::default()
    });
    let plan = PolicyPlan {
        steps: 60,
        checkpoint_every: 1000,
        ..one_batch(8, 2)
    };
    let trained = train(plan, sampler, &judge, HOUR).await;
    let error = trained.result.unwrap_err();
    assert!(
        error.contains("judge.max_unjudged_share allows 2"),
        "{error}"
    );
    assert!(error.contains("q007"), "{error}");
    assert_eq!(trained.recorder.checkpoints.load(Ordering::Relaxed), 1);
    let groups = trained.recorder.groups.lock().unwrap();
    assert!(
        groups
            .iter()
            .flatten()
            .all(|group| group.samples.len() == 2)
    );
}

/// Where a batch has nothing left, other states take its place.
#[tokio::test(start_paused = true)]
async fn tl_8_a_batch_is_never_empty() {
    let judge = played(16, quick, cannot_read_one);
    let sampler = Arc::new(Varied {
        kinds: 4,
        ..Varied::default()
    });
    let plan = PolicyPlan {
        states: states_of((6..8).map(|n| trajectory(n, 0))),
        states_per_step: 1,
        steps: 20,
        max_unjudged_share: 1.0,
        ..one_batch(1, 2)
    };
    let trained = train(plan, sampler, &judge, HOUR).await;
    let groups = trained.recorder.groups.lock().unwrap();
    match trained.result {
        Ok(()) => assert_eq!(groups.len(), 20),
        Err(error) => assert!(error.contains("max_unjudged_share"), "{error}"),
    }
    assert!(
        groups
            .iter()
            .flatten()
            .all(|group| group.state_id.starts_with("q006"))
    );
    assert!(groups.len() > 3, "{}", groups.len());
}
