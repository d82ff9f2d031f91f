//! Rollouts through real actors, with engines that panic, fail and are resumed.

use crate::support::{ByteTurns, FragileJudge, Solver, fleet, question, sound_judge};
use actors::{Controller, Progress, RolloutPlan, RolloutReport};
use control::ledger::LedgerConfig;
use control::rollout::Limits;
use proto::{SamplingParams, Trajectory};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use store::TrajectoryStore;
use tools::parser::ActionTags;

pub fn plan(questions: u32, samples: u32, max_tries: u32) -> RolloutPlan {
    let tags = ActionTags::new([("math_exp".to_owned(), "calculator".to_owned())]);
    RolloutPlan {
        run: "test".into(),
        model: "solver".into(),
        questions: (0..questions).map(question).collect(),
        samples,
        params: SamplingParams::greedy(64, tags.close_tags()),
        seed: 1,
        limits: Limits {
            max_steps: 5,
            max_context_tokens: 4096,
            max_action_tokens: 64,
            ends_on: Default::default(),
        },
        tags,
        turns: Arc::new(ByteTurns),
        items_per_sampler: 7,
        ledger: LedgerConfig {
            lease_ms: 600_000,
            max_tries,
            max_losses: 9,
            straggler_factor: 3,
        },
        max_unjudged_share: 0.005,
        unjudged: None,
        progress: tokio::sync::watch::channel(Progress::default()).0,
    }
}

async fn run(
    dir: &Path,
    solver: Arc<Solver>,
    tool_panics: u32,
    judge: FragileJudge,
    plan: RolloutPlan,
) -> (RolloutReport, [(&'static str, u64); 4]) {
    let work = async {
        let controller = Controller::start(fleet(solver, tool_panics, judge))
            .await
            .unwrap();
        let store = TrajectoryStore::open(dir).unwrap();
        let (report, store) = controller.rollouts(plan, store).await.unwrap();
        drop(store);
        TrajectoryStore::open(dir).expect("nobody else holds the store by now");
        let restarts = controller.fleet().restarts().by_role();
        controller.stop().await;
        (report, restarts)
    };
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("the job ends")
}

pub fn stored(dir: &Path) -> Vec<Trajectory> {
    let store = TrajectoryStore::open(dir).unwrap();
    let mut all: Vec<Trajectory> = store.iter().map(Result::unwrap).collect();
    all.sort_by(|a, b| a.item.cmp(&b.item));
    all
}

pub fn assert_all_right(all: &[Trajectory], expected: usize) {
    assert_eq!(all.len(), expected);
    for trajectory in all {
        trajectory.validate().unwrap();
        assert_eq!(
            trajectory.answer(),
            Some(trajectory.question.answer.as_str())
        );
        assert_eq!(trajectory.steps.len(), 2);
        assert!(
            trajectory
                .steps
                .iter()
                .all(|s| s.verdicts.len() == 1 && s.verdicts[0].score == 1.0)
        );
        assert_eq!(trajectory.outcome.as_ref().unwrap().score, 1.0);
    }
}

#[tokio::test]
async fn every_item_is_stored_once_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    let (report, _) = run(dir.path(), solver, 0, sound_judge(), plan(20, 3, 3)).await;
    assert_eq!(
        (report.stored, report.resumed, report.failed.len()),
        (60, 0, 0)
    );
    assert_all_right(&stored(dir.path()), 60);
}

#[tokio::test]
async fn ac_1_panics_of_tools_and_judges_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let judge = FragileJudge {
        panics: AtomicU32::new(3),
        down: AtomicU32::new(0),
    };
    let solver = Arc::new(Solver::default());
    let (report, restarts) = run(dir.path(), solver, 4, judge, plan(20, 1, 9)).await;
    assert_eq!((report.stored, report.failed.len()), (20, 0));
    assert_all_right(&stored(dir.path()), 20);
    assert_eq!(restarts[1], ("tool", 4));
    // A judge's panic ends its call alone.
    assert_eq!(restarts[2], ("judge", 0));
}

#[tokio::test]
async fn ac_3_an_item_that_keeps_failing_is_reported_and_never_stored() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver {
        failures: AtomicU32::new(u32::MAX),
        ..Solver::default()
    });
    let (report, _) = run(dir.path(), solver, 0, sound_judge(), plan(3, 1, 2)).await;
    assert_eq!((report.stored, report.failed.len()), (0, 3));
    assert!(
        report.failed[0].1.contains("on fire"),
        "{:?}",
        report.failed
    );
    assert!(stored(dir.path()).is_empty());
}

#[tokio::test]
async fn a_failing_engine_costs_a_try_and_not_the_item() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver {
        failures: AtomicU32::new(5),
        ..Solver::default()
    });
    let (report, _) = run(dir.path(), solver, 0, sound_judge(), plan(10, 1, 9)).await;
    assert_eq!((report.stored, report.failed.len()), (10, 0));
    assert_all_right(&stored(dir.path()), 10);
}

#[tokio::test]
async fn a_resumed_job_generates_only_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let solver = Arc::new(Solver::default());
    run(dir.path(), solver.clone(), 0, sound_judge(), plan(6, 2, 3)).await;
    let before = solver.calls.swap(0, Ordering::Relaxed);
    assert_eq!(before, 24, "twelve items of two actions");
    let (report, _) = run(dir.path(), solver.clone(), 0, sound_judge(), plan(10, 2, 3)).await;
    assert_eq!((report.stored, report.resumed), (20, 12));
    assert_eq!(
        solver.calls.load(Ordering::Relaxed),
        16,
        "eight items of two actions"
    );
    assert_all_right(&stored(dir.path()), 20);
}
