//! Weights of a real learner, step after step.

use crate::Job;
use crate::controller::Stage;
use actors::remote::SpreadPlan;
use anyhow::{Context, Result, ensure};
use benches::figures::shown;
use data::{Split, WordMathConfig, wordmath};
use learner::{Learner, LearnerConfig};
use model::{Tokenizer, TurnCodec};
use proto::{GenerateRequest, RlSample, SamplingParams, StateGroup, WeightSnapshot, WeightVersion};
use sampler::{Engine, EngineConfig, RequestId};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind};

const SYSTEM: &str = "Solve the problem one step at a time with <math_exp>calculation</math_exp>, then \
    give the final answer with <answer>number</answer>.";

/// States of a step, and fresh actions of each.
const STATES: usize = 4;
const ACTIONS: u32 = 4;

/// Tokens of an action at most.
const TOKENS: u32 = 32;

/// The steps of one learning rate.
#[derive(Debug, Default, Serialize)]
pub struct Steps {
    learning_rate: f64,
    /// Of all parameters, those that have other bits in bf16 than before.
    changed: Vec<f64>,
    /// Bytes that were pulled instead of all of the weights'.
    bytes: Vec<f64>,
    /// Until the node served them.
    seconds: Vec<f64>,
    /// How long the engine stood still.
    flip_ms: Vec<f64>,
}

/// Trains at each learning rate and publishes every step.
pub fn run(job: &Job) -> Result<Vec<Steps>> {
    println!("\nPolicy steps, weights in bf16\n");
    println!(
        "| learning rate | parameters with other bits, % | delta, MB | of all bytes, % | until the \
         node served it, s | the engine stood still, ms |"
    );
    println!("|---|---|---|---|---|---|");
    let rates = job.learning_rates.iter();
    rates.map(|rate| at(job, *rate)).collect()
}

fn at(job: &Job, learning_rate: f64) -> Result<Steps> {
    let plan = SpreadPlan {
        deltas: true,
        ..SpreadPlan::default()
    };
    let mut stage = Stage::set(1, plan)?;
    let mut config = LearnerConfig {
        learning_rate,
        ..LearnerConfig::default()
    };
    config.kl.coefficient = 0.0;
    let mut learner = Learner::new(&job.model, Device::Cpu, config)?;
    let mut actor = Actor::open(&job.model, learner.decoder().kind())?;
    let mut before = in_bf16(&learner, 0);
    let whole = before.bytes.len() as f64;
    stage.publish(before.clone())?;
    let mut steps = Steps {
        learning_rate,
        ..Steps::default()
    };
    for step in 1..=job.steps as u64 {
        let groups = actor.act(step)?;
        let loss = learner.rl_step(&groups)?.loss;
        ensure!(loss.is_finite(), "the learner's loss is {loss}");
        let now = in_bf16(&learner, step);
        let told = stage.publish(now.clone())?;
        let refused = told.published.pulled.refused;
        ensure!(refused.is_none(), "a delta was refused: {refused:?}");
        steps.changed.push(100.0 * changed(&before, &now));
        steps.bytes.push(told.published.pulled.bytes as f64);
        steps.seconds.push(told.seconds);
        steps.flip_ms.push(actor.take(&now)?);
        before = now;
    }
    let scaled = |factor: f64| -> Vec<f64> { steps.bytes.iter().map(|b| b * factor).collect() };
    println!(
        "| {learning_rate:e} | {} | {} | {} | {} | {} |",
        shown(&steps.changed),
        shown(&scaled(1e-6)),
        shown(&scaled(100.0 / whole)),
        shown(&steps.seconds),
        shown(&steps.flip_ms),
    );
    Ok(steps)
}

/// The weights as a learner that computes in bf16 gives them out: rounded from those that the optimizer
/// keeps in f32. What is computed in is what the processor is quick at.
fn in_bf16(learner: &Learner, step: u64) -> WeightSnapshot {
    let parameters = learner.decoder().parameters();
    model::snapshot_of(parameters, Kind::BFloat16, WeightVersion(step))
}

/// Of all parameters, those whose two bytes differ.
fn changed(before: &WeightSnapshot, now: &WeightSnapshot) -> f64 {
    let pairs = before.bytes.chunks_exact(2).zip(now.bytes.chunks_exact(2));
    pairs.clone().filter(|(a, b)| a != b).count() as f64 / pairs.len() as f64
}

/// A real engine, which samples from the learner's newest weights.
struct Actor {
    engine: Engine,
    prompts: Vec<Vec<u32>>,
}

impl Actor {
    fn open(model: &Path, kind: Kind) -> Result<Self> {
        let decoder = model::load(model, Device::Cpu, kind)?;
        let tokenizer = Arc::new(Tokenizer::load(model)?);
        let config = EngineConfig::default();
        let engine = Engine::new(decoder, tokenizer, WeightVersion(0), config)?;
        let questions = wordmath(&WordMathConfig {
            count: 64,
            split: Split::Train,
            ..Default::default()
        })?;
        let codec = TurnCodec::load(model)?;
        let prompt = |q: &proto::Question| codec.prompt(Some(SYSTEM), &q.question);
        let prompts = questions.iter().map(prompt).collect();
        Ok(Self { engine, prompts })
    }

    /// Takes weights over; for how long nothing is decoded, in milliseconds.
    fn take(&mut self, weights: &WeightSnapshot) -> Result<f64> {
        let began = Instant::now();
        self.engine.apply_weights(weights)?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Fresh actions, with rewards by lot: how far a step goes does not depend on them.
    fn act(&mut self, step: u64) -> Result<Vec<StateGroup>> {
        let first = step as usize * STATES;
        let mut groups = Vec::new();
        for state in first..first + STATES {
            let prompt = self.prompts[state % self.prompts.len()].clone();
            let request = GenerateRequest {
                prompt: prompt.clone(),
                samples: ACTIONS,
                params: SamplingParams {
                    temperature: 1.0,
                    ..SamplingParams::greedy(TOKENS, Vec::new())
                },
                seed: state as u64,
            };
            self.engine.submit(RequestId(state as u64), request)?;
            groups.push(StateGroup {
                state_id: state.to_string(),
                trajectory_id: state.to_string(),
                prompt,
                samples: Vec::new(),
            });
        }
        while !self.engine.is_idle() {
            for (id, outcome) in self.engine.step() {
                let group = groups.get_mut(id.0 as usize - first);
                let group = group.context("the engine answers what it was asked")?;
                group.samples = outcome?.into_iter().map(rewarded).collect();
            }
        }
        Ok(groups)
    }
}

fn rewarded(action: proto::Completion) -> RlSample {
    let lot = action.tokens.iter().sum::<u32>() % 2;
    RlSample {
        tokens: action.tokens,
        logprobs: action.logprobs,
        reward: f64::from(lot) as _,
        weight_version: action.weight_version,
    }
}
