//! The step-wise loop through real actors.

use crate::support::{FragileJudge, Recorder, Solver, bytes, fleet, question, sound_judge};
use actors::ports::StepReport;
use actors::training::{PolicyPlan, State, StateBalance, StateWeighting, policy, states_of};
use actors::{Controller, FleetPlan};
use proto::{
    Action, FinishReason, GenerateRequest, ItemId, Observation, SamplingParams, Span, StateGroup,
    Step, ToolCall, Trajectory, TrajectoryEnd, WeightVersion,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tools::parser::ActionTags;

/// A recorded trajectory of question `n`: `calls` calls, then an answer.
pub fn trajectory(n: u32, calls: u32) -> Trajectory {
    let question = question(n);
    let mut tokens = bytes(&format!("Q:{}\nA:", question.question));
    let mut steps = Vec::new();
    let mut push = |text: String, action: Action, seen: Option<String>| {
        let start = tokens.len() as u32;
        tokens.extend(bytes(&text));
        let sampled = Span {
            start,
            end: tokens.len() as u32,
        };
        let observation = seen.map(|text| {
            tokens.extend(bytes(&format!("\nO:{text}\nA:")));
            let span = Span {
                start: sampled.end,
                end: tokens.len() as u32,
            };
            Observation {
                text,
                span,
                is_error: false,
                latency_us: 1,
            }
        });
        steps.push(Step {
            sampled,
            logprobs: vec![-1.0; sampled.len()],
            weight_version: WeightVersion(0),
            finish: FinishReason::StopText,
            text,
            thought: String::new(),
            action,
            observation,
            verdicts: vec![],
        });
    };
    let sum = format!("{n}+1");
    for _ in 0..calls {
        let call = ToolCall {
            tool: "calculator".into(),
            arguments: sum.clone(),
        };
        let seen = Some(format!("{sum} -> {}", n + 1));
        push(
            format!("<math_exp>{sum}</math_exp>"),
            Action::Call(call),
            seen,
        );
    }
    let answer = (n + 1).to_string();
    push(
        format!("<answer>{answer}</answer>"),
        Action::Answer(answer),
        None,
    );
    let trajectory = Trajectory {
        run: "test".into(),
        item: ItemId {
            question: question.id.clone(),
            sample: 0,
        },
        question,
        model: "m".into(),
        tokens,
        steps,
        end: TrajectoryEnd::Answered,
        outcome: None,
    };
    trajectory.validate().unwrap();
    trajectory
}

pub fn plan(states: Vec<Vec<State>>, weighting: StateWeighting, steps: u64) -> PolicyPlan {
    let tags = ActionTags::new([("math_exp".to_owned(), "calculator".to_owned())]);
    PolicyPlan {
        states,
        weighting,
        balance: StateBalance::Off,
        steps,
        updates_per_batch: 1,
        states_per_step: 4,
        actions_per_state: 2,
        refill: 0,
        params: SamplingParams {
            temperature: 1.0,
            ..SamplingParams::greedy(64, tags.close_tags())
        },
        tags,
        seed: 3,
        checkpoint_every: 2,
        max_logprob_difference: 0.1,
        max_unjudged_share: 0.005,
        unjudged_before: 0,
    }
}

struct Outcome {
    groups: Vec<Vec<StateGroup>>,
    published: Vec<u64>,
    checkpoints: u32,
    /// What each step said.
    reports: Vec<StepReport>,
    result: Result<(), String>,
}

async fn train(plan: PolicyPlan, done: u64, judge: FragileJudge) -> Outcome {
    let recorder = Recorder {
        steps: AtomicU64::new(done),
        ..Recorder::default()
    };
    train_with(plan, Solver::default(), recorder, judge).await
}

async fn train_with(
    plan: PolicyPlan,
    solver: Solver,
    recorder: Recorder,
    judge: FragileJudge,
) -> Outcome {
    let (solver, recorder) = (Arc::new(solver), Arc::new(recorder));
    let fleet = FleetPlan {
        learner: Some(recorder.clone()),
        ..fleet(solver.clone(), 0, judge)
    };
    let work = async {
        let controller = Controller::start(fleet).await.unwrap();
        let mut reports = Vec::new();
        let result = policy(controller.fleet(), &plan, |report| {
            reports.push(report.clone());
        });
        let result = result.await.map_err(|e| e.to_string());
        controller.stop().await;
        (result, reports)
    };
    let (result, reports) = tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it ends");
    Outcome {
        groups: std::mem::take(&mut recorder.groups.lock().unwrap()),
        published: std::mem::take(&mut solver.published.lock().unwrap()),
        checkpoints: recorder.checkpoints.load(Ordering::Relaxed),
        reports,
        result,
    }
}

pub fn many() -> Vec<Vec<State>> {
    states_of((0..9).map(|n| trajectory(n, 1 + n % 3)))
}

#[tokio::test]
async fn tl_1_a_resumed_loop_trains_on_what_the_whole_one_would_have() {
    let whole = train(
        plan(many(), StateWeighting::PerTrajectory, 6),
        0,
        sound_judge(),
    )
    .await;
    let rest = train(
        plan(many(), StateWeighting::PerTrajectory, 6),
        4,
        sound_judge(),
    )
    .await;
    assert_eq!(whole.groups.len(), 6);
    let ids = |groups: &[Vec<StateGroup>]| -> Vec<Vec<String>> {
        groups
            .iter()
            .map(|g| g.iter().map(|s| s.state_id.clone()).collect())
            .collect()
    };
    assert_eq!(ids(&rest.groups), ids(&whole.groups[4..]));
}

#[tokio::test]
async fn tl_2_weights_are_published_before_actions_are_asked_for_and_after_each_step() {
    let whole = train(plan(many(), StateWeighting::PerState, 3), 0, sound_judge()).await;
    assert_eq!(whole.published, [0, 1, 2, 3]);
    let resumed = train(plan(many(), StateWeighting::PerState, 3), 2, sound_judge()).await;
    assert_eq!(resumed.published, [2, 3]);
    let versions: Vec<u64> = whole
        .groups
        .iter()
        .flat_map(|step| {
            step.iter()
                .flat_map(|g| g.samples.iter().map(|s| s.weight_version.0))
        })
        .collect();
    assert_eq!(
        versions,
        [[0; 8], [1; 8], [2; 8]].concat(),
        "on policy at every step"
    );
    assert_eq!(whole.checkpoints, 1);
}

/// Several steps on the same actions: they are sampled, judged and published for once.
#[tokio::test]
async fn tl_2_updates_of_one_batch_share_its_actions() {
    let several = |steps| PolicyPlan {
        updates_per_batch: 2,
        ..plan(many(), StateWeighting::PerState, steps)
    };
    let whole = train(several(6), 0, sound_judge()).await;
    whole.result.unwrap();
    assert_eq!(whole.published, [0, 2, 4, 6]);
    assert_eq!(whole.groups.len(), 6);
    for (batch, pair) in whole.groups.chunks(2).enumerate() {
        assert_eq!(pair[0], pair[1]);
        let sampled_from = pair[0].iter().flat_map(|g| &g.samples);
        let versions: Vec<u64> = sampled_from.map(|s| s.weight_version.0).collect();
        assert_eq!(versions, [2 * batch as u64; 8]);
    }
    assert_ne!(whole.groups[0], whole.groups[2]);
    assert_eq!(whole.checkpoints, 3);
    let rest = train(several(6), 4, sound_judge()).await;
    assert_eq!(rest.groups, whole.groups[4..], "TL-1 holds, too");
}

/// The bound is a setting, and each step says how near it came.
#[tokio::test]
async fn tl_6_no_action_is_older_than_the_updates_of_a_batch_allow() {
    for updates in [1, 3] {
        let plan = PolicyPlan {
            updates_per_batch: updates,
            ..plan(many(), StateWeighting::PerState, 6)
        };
        let reports = train(plan, 0, sound_judge()).await.reports;
        for name in ["weight_age_steps_max", "weight_age_steps_mean"] {
            let ages: Vec<f64> = reports.iter().map(|report| report.metrics[name]).collect();
            let expected: Vec<f64> = (0..6).map(|step| (step % updates) as f64).collect();
            assert_eq!(ages, expected, "{name}");
        }
        // Once for each batch: how its weights came.
        let says = |report: &&StepReport| report.metrics.contains_key("publication_seconds");
        assert_eq!(reports.iter().filter(says).count() as u64, 6 / updates);
        assert_eq!(reports[0].metrics["samplers_behind"], 0.0);
    }
}

/// A learner that found back has made a step whose report was lost with the connection.
#[tokio::test]
async fn tl_5_a_learner_in_the_middle_of_a_batch_ends_it_where_it_would_have_ended() {
    let plan = PolicyPlan {
        updates_per_batch: 2,
        ..plan(many(), StateWeighting::PerState, 6)
    };
    let rest = train(plan, 3, sound_judge()).await;
    rest.result.unwrap();
    assert_eq!(rest.published, [3, 4, 6]);
    assert_eq!(rest.groups.len(), 3);
}

#[tokio::test]
async fn tl_3_an_action_of_other_weights_ends_training() {
    let solver = Solver {
        stale: true,
        ..Solver::default()
    };
    let plan = plan(many(), StateWeighting::PerState, 3);
    let out = train_with(plan, solver, Recorder::default(), sound_judge()).await;
    assert!(out.result.unwrap_err().contains("v77 where v0"));
    assert!(out.groups.is_empty(), "no step was made");
}

#[tokio::test]
async fn tl_4_a_sampler_that_disagrees_with_the_learner_ends_training_unsaved() {
    for (difference, steps, is_fine) in [(0.099, 4, true), (0.11, 1, false)] {
        let recorder = Recorder {
            steps: AtomicU64::new(1), // resumed: the check is made anew
            logprob_difference: difference,
            ..Recorder::default()
        };
        let plan = plan(many(), StateWeighting::PerState, 5);
        let out = train_with(plan, Solver::default(), recorder, sound_judge()).await;
        assert_eq!(out.result.is_ok(), is_fine, "{:?}", out.result);
        assert_eq!((out.groups.len(), out.checkpoints > 0), (steps, is_fine));
    }
}

/// All rewards alike and no KL term: such a step compares nothing, and vouches for nothing.
#[tokio::test]
async fn tl_4_the_check_waits_for_a_step_that_runs_tokens() {
    for (idle_steps, steps) in [(0, 1), (3, 4), (5, 5)] {
        let recorder = Recorder {
            idle_steps,
            logprob_difference: 0.11,
            ..Recorder::default()
        };
        let plan = plan(many(), StateWeighting::PerState, 5);
        let out = train_with(plan, Solver::default(), recorder, sound_judge()).await;
        assert_eq!(
            (out.groups.len() as u64, out.result.is_ok()),
            (steps, steps <= idle_steps)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_sampler_gets_its_share_and_results_come_in_order() {
    let samplers: Vec<Arc<Solver>> = (0..3).map(|_| Arc::new(Solver::default())).collect();
    let plan = FleetPlan {
        samplers: samplers.iter().map(|s| s.clone() as _).collect(),
        ..fleet(Arc::new(Solver::default()), 0, sound_judge())
    };
    let controller = Controller::start(plan).await.unwrap();
    let request = |n: u32| GenerateRequest {
        prompt: bytes(&format!("Q:{n}+1\nA:")),
        samples: 1,
        params: SamplingParams::greedy(64, vec![]),
        seed: 0,
    };
    let mut before = [0; 3];
    // While no pace is known, a sampler without a share works on a copy: another one may hang.
    for (count, shares) in [
        (0, [0, 0, 0]),
        (2, [1, 1, 1]),
        (8, [3, 2, 3]),
        (2, [1, 0, 1]),
    ] {
        let work = controller
            .fleet()
            .sample_all((0..count).map(request).collect());
        let found: Vec<String> = work
            .await
            .unwrap()
            .into_iter()
            .map(|c| c[0].text.clone())
            .collect();
        let expected: Vec<String> = (0..count)
            .map(|n| format!("<math_exp>{n}+1</math_exp>"))
            .collect();
        assert_eq!(found, expected);
        // The copy is not waited for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let calls = [0, 1, 2].map(|n: usize| samplers[n].calls.load(Ordering::Relaxed));
        let given = [0, 1, 2].map(|n: usize| calls[n] - before[n]);
        assert_eq!(given, shares, "{count} requests");
        before = calls;
    }
    controller.stop().await;
}

#[tokio::test]
async fn rewards_are_the_judges_scores_and_the_prompt_is_the_recorded_state() {
    let states = states_of([trajectory(5, 2)]);
    let out = train(
        plan(states.clone(), StateWeighting::PerState, 4),
        0,
        sound_judge(),
    )
    .await;
    out.result.unwrap();
    for group in out.groups.iter().flatten() {
        let step: usize = group.state_id.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(group.prompt, states[0][step].trajectory.prompt(step));
        // The solver calls from the first state and answers from the others, which is right.
        assert!(group.samples.iter().all(|s| s.reward == 1.0), "{group:?}");
        assert_eq!(
            group.samples[0].tokens.len(),
            group.samples[0].logprobs.len()
        );
    }
}

#[tokio::test]
async fn long_trajectories_do_not_dominate_unless_asked_to() {
    let states = || states_of([trajectory(1, 1), trajectory(2, 9)]);
    let share_of_long = |out: &Outcome| {
        let all: Vec<&StateGroup> = out.groups.iter().flatten().collect();
        let long = all
            .iter()
            .filter(|g| g.state_id.starts_with("q002"))
            .count();
        long as f64 / all.len() as f64
    };
    let alike = train(
        plan(states(), StateWeighting::PerTrajectory, 12),
        0,
        sound_judge(),
    )
    .await;
    assert_eq!(share_of_long(&alike), 0.5);
    let by_state = train(
        plan(states(), StateWeighting::PerState, 12),
        0,
        sound_judge(),
    )
    .await;
    assert!(share_of_long(&by_state) > 0.8, "10 of 12 states");
}

#[tokio::test]
async fn ac_3_a_judge_that_is_down_stops_training_and_gives_no_reward() {
    let judge = FragileJudge {
        panics: AtomicU32::new(0),
        down: AtomicU32::new(u32::MAX),
    };
    let out = train(plan(many(), StateWeighting::PerState, 3), 0, judge).await;
    assert!(out.result.unwrap_err().contains("down"));
    assert!(out.groups.is_empty(), "no step was made");
}

#[tokio::test]
async fn nothing_to_train_on_is_an_error() {
    let out = train(plan(vec![], StateWeighting::PerState, 3), 0, sound_judge()).await;
    assert!(
        out.result
            .unwrap_err()
            .contains("no trajectory passed the filter")
    );
}
