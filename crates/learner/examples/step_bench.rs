//! Times whole steps: supervised on 8 dialogues of about 200 tokens, and policy-gradient on 8 states
//! of about 180 tokens with 8 actions of about 40 tokens each.
//!
//! `step_bench MODEL_DIR [STEPS [MICRO_BATCH_TOKENS [KL_COEFFICIENT]]]`. Prints one JSON line per
//! kind of step, of the fastest step after the first.

use learner::{Learner, LearnerConfig, StepMetrics};
use proto::{RlSample, SftSample, StateGroup, WeightVersion};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::error::Error;
use tch::Device;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .ok_or("usage: step_bench MODEL_DIR [STEPS [TOKENS [KL]]]")?;
    let steps: usize = arguments.next().map_or(Ok(4), |a| a.parse())?;
    let mut config = LearnerConfig::default();
    config.micro_batch_tokens = arguments
        .next()
        .map_or(Ok(config.micro_batch_tokens), |a| a.parse())?;
    config.kl.coefficient = arguments.next().map_or(Ok(0.0), |a| a.parse())?;
    let mut learner = Learner::new(dir.as_ref(), Device::Cpu, config)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let vocabulary = learner.decoder().spec().vocab_size as u32;

    let dialogues = dialogues(&mut rng, vocabulary);
    best("sft", steps, || Ok(learner.sft_step(&dialogues)?))?;
    let groups = groups(&mut rng, vocabulary);
    best("rl", steps, || Ok(learner.rl_step(&groups)?))
}

fn best(
    name: &str,
    steps: usize,
    mut step: impl FnMut() -> Result<StepMetrics, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    step()?; // libtorch chooses its kernels
    let mut found: Vec<StepMetrics> = (0..steps).map(|_| step()).collect::<Result<_, _>>()?;
    found.sort_by(|a, b| a.seconds.total.total_cmp(&b.seconds.total));
    let best = found.first().ok_or("give at least one step")?;
    let mut values = best.values();
    let seconds = best.seconds.total;
    values.insert(
        "packed_tokens_per_second".into(),
        best.packed_tokens as f64 / seconds,
    );
    values.insert(
        "sequence_tokens_per_second".into(),
        best.sequence_tokens as f64 / seconds,
    );
    values.insert("peak_rss_mib".into(), peak_rss_mib());
    println!(
        "{{\"step\":\"{name}\",\"values\":{}}}",
        serde_json::to_string(&values)?
    );
    Ok(())
}

/// As Linux counts it; 0 elsewhere.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn tokens(rng: &mut ChaCha8Rng, length: usize, vocabulary: u32) -> Vec<u32> {
    (0..length)
        .map(|_| rng.random_range(0..vocabulary))
        .collect()
}

/// Turns of 25 tokens, every other one trained.
fn dialogues(rng: &mut ChaCha8Rng, vocabulary: u32) -> Vec<SftSample> {
    (0..8)
        .map(|_| {
            let length = rng.random_range(160..=240);
            let mask = (0..length).map(|i| u8::from(i / 25 % 2 == 1)).collect();
            SftSample {
                tokens: tokens(rng, length, vocabulary),
                mask,
            }
        })
        .collect()
}

/// Actions that share nothing but the state: what packing gains least from.
fn groups(rng: &mut ChaCha8Rng, vocabulary: u32) -> Vec<StateGroup> {
    (0..8)
        .map(|state| {
            let length = rng.random_range(150..=210);
            let prompt = tokens(rng, length, vocabulary);
            let samples = (0..8)
                .map(|_| {
                    let length = rng.random_range(30..=50);
                    RlSample {
                        tokens: tokens(rng, length, vocabulary),
                        logprobs: vec![-2.0; length],
                        reward: rng.random_range(0.0..1.0),
                        weight_version: WeightVersion(0),
                    }
                })
                .collect();
            StateGroup {
                state_id: format!("state {state}"),
                trajectory_id: format!("trajectory {state}"),
                prompt,
                samples,
            }
        })
        .collect()
}
