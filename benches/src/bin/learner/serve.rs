//! The learner behind the same commands that its peers answer.

use crate::Kind;
use crate::program::{Answer, Request};
use crate::work::Work;
use anyhow::{Context, Result};
use learner::{BatchSize, ComputeType, Learner, LearnerConfig, MemoryNeed, StepMetrics};
use proto::{RlSample, SftSample, StateGroup, WeightSnapshot, WeightVersion};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Tensor};

/// Products of square matrices this wide say how fast the machine multiplies.
const RATE_WIDTH: i64 = 2048;

/// How the learner is set up.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The model's folder
    model: PathBuf,
    /// The work file
    work: PathBuf,
    /// What is trained
    #[arg(long, value_enum)]
    kind: Kind,
    /// Threads of libtorch
    #[arg(long)]
    threads: i32,
    /// Compute in f32 instead of bf16
    #[arg(long)]
    f32: bool,
    /// Tokens of a forward and backward pass
    #[arg(long)]
    micro_batch_tokens: usize,
    /// Recompute activations
    #[arg(long)]
    activation_checkpointing: bool,
}

/// Answers until told to quit.
pub fn serve(arguments: &Serve) -> Result<()> {
    tch::set_num_threads(arguments.threads);
    let work: Work = serde_json::from_slice(&std::fs::read(&arguments.work)?)?;
    let mut config = LearnerConfig {
        learning_rate: 1e-6,
        baseline: algo::advantage::Baseline::None, // rewards are advantages already
        micro_batch_tokens: arguments.micro_batch_tokens,
        activation_checkpointing: arguments.activation_checkpointing,
        dtype: if arguments.f32 {
            ComputeType::F32
        } else {
            ComputeType::Bf16
        },
        temperature: work.temperature,
        ..Default::default()
    };
    config.kl.coefficient = 0.0;
    let mut learner = Learner::new(&arguments.model, Device::Cpu, config)?;
    let spec = learner.decoder().spec();
    let batch = BatchSize {
        tokens: work.tokens(arguments.kind) as u64,
        longest: work.longest(arguments.kind) as u64,
    };
    let need = MemoryNeed::of(spec, learner.config(), Device::Cpu, batch, false, 1);
    let ready = Answer {
        ready: true,
        values: [("estimated_bytes".to_owned(), need.total() as f64)].into(),
        ..Default::default()
    };
    say(&ready)?;
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Quit => return Ok(()),
            Request::Rate => rate(learner.decoder().kind()),
            Request::Step { items } => {
                let batch = Batch::of(&work, arguments.kind, &items);
                let start = Instant::now();
                let metrics = batch.step(&mut learner)?;
                answer(&metrics, start.elapsed().as_secs_f64(), batch.sequences())
            }
            Request::Gradient { items, out } => {
                let batch = Batch::of(&work, arguments.kind, &items);
                let (metrics, gradient) = batch.gradient(&mut learner)?;
                write(&gradient, &out)?;
                answer(&metrics, 0.0, batch.sequences())
            }
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

fn answer(metrics: &StepMetrics, seconds: f64, sequences: usize) -> Answer {
    Answer {
        seconds,
        sequences,
        tokens: metrics.packed_tokens,
        loss: metrics.loss,
        values: metrics.values(),
        ..Default::default()
    }
}

fn rate(kind: tch::Kind) -> Answer {
    let square = || Tensor::ones([RATE_WIDTH, RATE_WIDTH], (kind, Device::Cpu));
    let (left, right) = (square(), square());
    let _ = left.matmul(&right);
    let repeats = 5;
    let start = Instant::now();
    for _ in 0..repeats {
        let _ = left.matmul(&right);
    }
    let operations = 2.0 * (RATE_WIDTH as f64).powi(3) * f64::from(repeats);
    Answer {
        flops: operations / start.elapsed().as_secs_f64(),
        ..Default::default()
    }
}

/// One command's items as the learner takes them.
enum Batch {
    Policy(Vec<StateGroup>),
    Supervised(Vec<SftSample>),
}

impl Batch {
    fn of(work: &Work, kind: Kind, items: &[usize]) -> Self {
        match kind {
            Kind::Packed => Self::Policy(items.iter().map(|i| packed(work, *i)).collect()),
            Kind::Unpacked => Self::Policy(items.iter().flat_map(|i| alone(work, *i)).collect()),
            Kind::Sft => Self::Supervised(items.iter().map(|i| dialogue(work, *i)).collect()),
        }
    }

    fn sequences(&self) -> usize {
        match self {
            Self::Policy(groups) => groups.iter().map(|g| g.samples.len()).sum(),
            Self::Supervised(samples) => samples.len(),
        }
    }

    fn step(&self, learner: &mut Learner) -> Result<StepMetrics> {
        Ok(match self {
            Self::Policy(groups) => learner.rl_step(groups)?,
            Self::Supervised(samples) => learner.sft_step(samples)?,
        })
    }

    fn gradient(&self, learner: &mut Learner) -> Result<(StepMetrics, WeightSnapshot)> {
        Ok(match self {
            Self::Policy(groups) => learner.policy_gradient(groups)?,
            Self::Supervised(samples) => learner.supervised_gradient(samples)?,
        })
    }
}

fn packed(work: &Work, item: usize) -> StateGroup {
    let state = &work.states[item];
    let samples = (0..state.actions.len()).map(|action| RlSample {
        tokens: state.actions[action].clone(),
        logprobs: state.logprobs[action].clone(),
        reward: state.advantages[action],
        weight_version: WeightVersion(0),
    });
    StateGroup {
        state_id: format!("state {item}"),
        trajectory_id: state.trajectory.to_string(),
        prompt: state.prompt.clone(),
        samples: samples.collect(),
    }
}

/// Every action as if it were a trajectory of its own: nothing is shared.
fn alone(work: &Work, item: usize) -> Vec<StateGroup> {
    let group = packed(work, item);
    let samples = group.samples.iter().enumerate();
    samples
        .map(|(action, sample)| StateGroup {
            trajectory_id: format!("{item}, {action}"),
            samples: vec![sample.clone()],
            ..group.clone()
        })
        .collect()
}

fn dialogue(work: &Work, item: usize) -> SftSample {
    let tokens = work.dialogues[item].clone();
    let mask = (0..tokens.len()).map(|i| u8::from(i > 0)).collect();
    SftSample { tokens, mask }
}

fn write(gradient: &WeightSnapshot, out: &Path) -> Result<()> {
    let mut views = HashMap::new();
    for entry in &gradient.manifest.tensors {
        let range = entry.offset as usize..(entry.offset + entry.len) as usize;
        let shape = entry.shape.iter().map(|n| *n as usize).collect();
        let view = TensorView::new(Dtype::F32, shape, &gradient.bytes[range])?;
        views.insert(entry.name.clone(), view);
    }
    safetensors::serialize_to_file(views, None, out)
        .with_context(|| format!("cannot write {}", out.display()))
}
