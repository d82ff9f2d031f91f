//! Training that is asked to end (TL-9).

use crate::support::{Recorder, Solver, fleet, sound_judge};
use crate::training::{many, plan};
use actors::ports::{EngineError, Generator};
use actors::training::{PolicyPlan, StateWeighting, SupervisedPlan, policy, supervised};
use actors::{Controller, FleetPlan, Stop};
use async_trait::async_trait;
use proto::{Completion, GenerateRequest, SftSample, WeightSnapshot};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Steps made, checkpoints written, and what training ended with.
async fn train(plan: &PolicyPlan, stop_behind: u64) -> (u64, u32, Result<(), String>) {
    let (recorder, stop) = (Arc::new(Recorder::default()), Stop::default());
    let fleet = FleetPlan {
        learner: Some(recorder.clone()),
        stop: stop.clone(),
        ..fleet(Arc::new(Solver::default()), 0, sound_judge())
    };
    let controller = Controller::start(fleet).await.unwrap();
    let trained = policy(controller.fleet(), plan, |report| {
        if report.step == stop_behind {
            stop.ask();
        }
    });
    let trained = tokio::time::timeout(LIMIT, trained).await.expect("it ends");
    controller.stop().await;
    (
        recorder.steps.load(Ordering::Relaxed),
        recorder.checkpoints.load(Ordering::Relaxed),
        trained.map_err(|error| {
            assert!(error.is_stop(), "{error}");
            error.to_string()
        }),
    )
}

#[tokio::test]
async fn tl_9_training_ends_behind_a_batch_with_a_checkpoint_of_all_steps() {
    // Updates per batch; checkpoint_every; asked to stop behind this step; steps made, checkpoints.
    for (updates, every, behind, steps, checkpoints) in [
        (1, 0, 3, 3, 1),
        (1, 100, 3, 3, 1),
        (1, 2, 4, 4, 2), // the last of them is there already
        (1, 2, 5, 5, 3),
        (1, 0, 12, 12, 1), // all steps, and not exported yet
        (4, 0, 1, 4, 1),
        (4, 0, 5, 8, 1),
        (4, 8, 8, 8, 1),
    ] {
        let case = (updates, every, behind);
        let plan = PolicyPlan {
            updates_per_batch: updates,
            checkpoint_every: every,
            ..plan(many(), StateWeighting::PerState, 12)
        };
        let (made, written, ended) = train(&plan, behind).await;
        assert_eq!((made, written), (steps, checkpoints), "{case:?}");
        let said = ended.unwrap_err();
        assert!(said.contains(&format!("step {steps}")), "{case:?}: {said}");
    }
    // Nobody asked.
    let plan = PolicyPlan {
        checkpoint_every: 0,
        ..plan(many(), StateWeighting::PerState, 12)
    };
    assert_eq!(train(&plan, 99).await, (12, 0, Ok(())));
}

#[tokio::test]
async fn tl_9_imitation_ends_with_a_checkpoint_of_all_steps() {
    for (every, behind, checkpoints) in [(0, 3, 1), (3, 3, 1), (2, 3, 2), (0, 6, 1)] {
        let (recorder, stop) = (Arc::new(Recorder::default()), Stop::default());
        let controller = Controller::start(FleetPlan {
            learner: Some(recorder.clone()),
            stop: stop.clone(),
            ..FleetPlan::default()
        });
        let controller = controller.await.unwrap();
        let plan = SupervisedPlan {
            samples: vec![SftSample {
                tokens: vec![1, 2],
                mask: vec![0, 1],
            }],
            steps: 6,
            batch: 1,
            seed: 0,
            checkpoint_every: every,
        };
        let trained = supervised(controller.fleet(), &plan, |report| {
            if report.step == behind {
                stop.ask();
            }
        });
        let ended = tokio::time::timeout(LIMIT, trained).await.expect("it ends");
        assert!(ended.unwrap_err().is_stop());
        assert_eq!(recorder.steps.load(Ordering::Relaxed), behind);
        assert_eq!(recorder.checkpoints.load(Ordering::Relaxed), checkpoints);
        controller.stop().await;
    }
}

/// Answers for so many versions of the weights, and then never; says when.
struct Hanging {
    inner: Solver,
    published: AtomicU64,
    answers: u64,
    hangs: Stop,
}

#[async_trait]
impl Generator for Hanging {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        if self.published.load(Ordering::Relaxed) > self.answers {
            self.hangs.ask();
            std::future::pending::<()>().await;
        }
        self.inner.generate(requests).await
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        self.published.fetch_add(1, Ordering::Relaxed);
        self.inner.publish(weights).await
    }
}

#[tokio::test]
async fn tl_9_a_batch_that_is_being_sampled_is_left_undone() {
    for (answers, steps, checkpoints) in [(0, 0, 0), (2, 2, 1)] {
        let (recorder, stop) = (Arc::new(Recorder::default()), Stop::default());
        let hangs = Stop::default();
        let sampler = Hanging {
            inner: Solver::default(),
            published: AtomicU64::new(0),
            answers,
            hangs: hangs.clone(),
        };
        let controller = Controller::start(FleetPlan {
            samplers: vec![Arc::new(sampler)],
            learner: Some(recorder.clone()),
            stop: stop.clone(),
            ..fleet(Arc::new(Solver::default()), 0, sound_judge())
        });
        let controller = controller.await.unwrap();
        let plan = PolicyPlan {
            checkpoint_every: 0,
            ..plan(many(), StateWeighting::PerState, 12)
        };
        let asking = async {
            hangs.asked().await;
            stop.ask();
        };
        let trained = policy(controller.fleet(), &plan, |_| ());
        let both = async { tokio::join!(trained, asking).0 };
        let ended = tokio::time::timeout(LIMIT, both).await.expect("it ends");
        assert!(ended.unwrap_err().is_stop());
        assert_eq!(recorder.steps.load(Ordering::Relaxed), steps);
        assert_eq!(recorder.checkpoints.load(Ordering::Relaxed), checkpoints);
        drop(controller);
    }
}
