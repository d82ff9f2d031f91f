//! Greedy continuations of given prompts, for comparison with other programs.
//!
//! `cargo run -p sampler --example greedy -- MODEL_DIR < prompts.json`: reads
//! `{"max_tokens": N, "prompts": [[ids], …]}` and writes `[[ids], …]`, computed in f32 on the CPU. A
//! continuation ends with the end-of-turn token, which is its last id, or at the limit.

use model::Tokenizer;
use proto::{GenerateRequest, SamplingParams, WeightVersion};
use sampler::{Engine, EngineConfig, RequestId};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use tch::{Device, Kind};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("give the model's folder")?);
    let asked: serde_json::Value = serde_json::from_reader(std::io::stdin())?;
    let max_tokens = serde_json::from_value(asked["max_tokens"].clone())?;
    let prompts: Vec<Vec<u32>> = serde_json::from_value(asked["prompts"].clone())?;
    let decoder = model::load(&dir, Device::Cpu, Kind::Float)?;
    let tokenizer = Arc::new(Tokenizer::load(&dir)?);
    let config = EngineConfig::default();
    let mut engine = Engine::new(decoder, tokenizer, WeightVersion(0), config)?;
    for (id, prompt) in (0..).zip(prompts) {
        let request = GenerateRequest {
            prompt,
            samples: 1,
            params: SamplingParams::greedy(max_tokens, Vec::new()),
            seed: 0,
        };
        engine.submit(RequestId(id), request)?;
    }
    let mut continuations = BTreeMap::new();
    while !engine.is_idle() {
        for (RequestId(id), outcome) in engine.step() {
            continuations.insert(id, outcome?[0].tokens.clone());
        }
    }
    let continuations: Vec<Vec<u32>> = continuations.into_values().collect();
    println!("{}", serde_json::to_string(&continuations)?);
    Ok(())
}
