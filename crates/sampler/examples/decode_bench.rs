//! Tokens per second of decoding and prefill, for several batch sizes.
//!
//! `cargo run --release -p sampler --example decode_bench -- [--threads N] [--model DIR]
//! [--kind bf16|f32] [--context N] [--rounds N] [--batches 1,8,32,64] [--temperature T]
//! [--top-p P]`: without a model folder, random weights in the shape of SmolLM2-135M. The batch sizes take turns
//! within each round, so that a busy machine slows all of them alike; the median is printed. The
//! rates per CPU second of the calling thread are comparable on a busy machine too, with one thread.

use model::{Activation, Decoder, DecoderSpec, LayerSpec, RopeScaling, RopeSpec, Tokenizer, slots};
use proto::{GenerateRequest, SamplingParams, WeightVersion};
use sampler::{Engine, EngineConfig, RequestId};
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Decode steps measured per round and batch size.
const STEPS: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let get = |name: &str, default: &str| options.get(name).cloned().unwrap_or(default.to_owned());
    tch::set_num_threads(get("threads", "2").parse()?);
    let kind = match get("kind", "bf16").as_str() {
        "bf16" => Kind::BFloat16,
        "f32" => Kind::Float,
        other => return Err(format!("--kind is bf16 or f32, not {other}").into()),
    };
    let decoder = match options.get("model") {
        Some(dir) => model::load(Path::new(dir), Device::Cpu, kind)?,
        None => random(smollm2(), kind),
    };
    let batches = get("batches", "1,8,32,64");
    let batches = batches
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<usize>, _>>()?;
    let max_batch = batches.iter().copied().max().unwrap_or(1);
    let config = EngineConfig {
        max_batch,
        kept_sequences: 0, // each round measures the prefill of the same prompts
        ..EngineConfig::default()
    };
    let vocab_size = decoder.spec().vocab_size as u32;
    let mut engine = Engine::new(decoder, Arc::new(tokenizer()?), WeightVersion(0), config)?;
    let context: usize = get("context", "200").parse()?;
    let params = SamplingParams {
        temperature: get("temperature", "1").parse()?,
        top_p: get("top-p", "1").parse()?,
        ..SamplingParams::greedy(STEPS + 2, Vec::new())
    };
    let request = |seed: u64| GenerateRequest {
        prompt: (0..context as u32)
            .map(|i| (i * 7919 + seed as u32 * 104_729) % vocab_size)
            .collect(),
        samples: 1,
        params: params.clone(),
        seed,
    };
    let mut rates = vec![(Vec::new(), Vec::new(), Vec::new()); batches.len()];
    for _ in 0..get("rounds", "5").parse::<usize>()? {
        for (batch, (decode, cpu, prefill)) in batches.iter().zip(&mut rates) {
            let (d, c, p) = measure(&mut engine, *batch, &request)?;
            cpu.push(c);
            decode.push(d);
            prefill.push(p);
        }
    }
    for (batch, (decode, cpu, prefill)) in batches.iter().zip(rates) {
        let [decode, cpu, prefill] = [decode, cpu, prefill].map(median);
        println!(
            "batch {batch:3}: decode {decode:7.1} tok/s ({cpu:7.1} per CPU second), \
             prefill {prefill:7.1} tok/s"
        );
    }
    Ok(())
}

/// Rates in tokens per second: decode, decode per CPU second, prefill.
fn measure(
    engine: &mut Engine,
    batch: usize,
    request: &dyn Fn(u64) -> GenerateRequest,
) -> Result<(f64, f64, f64), Box<dyn Error>> {
    for row in 0..batch as u64 {
        engine.submit(RequestId(row), request(row))?;
    }
    let before = engine.stats();
    engine.step();
    let after = engine.stats();
    let prefill = (after.prompt_tokens - before.prompt_tokens) as f64
        / (after.prefill_seconds - before.prefill_seconds);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut steps = 0;
    while !engine.is_idle() {
        engine.step();
        steps += 1;
    }
    let tokens = (steps * batch) as f64;
    Ok((
        tokens / start.elapsed().as_secs_f64(),
        tokens / (cpu_seconds() - cpu),
        prefill,
    ))
}

/// Time that the calling thread ran, where the system says.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) * 1e-9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn options() -> Result<HashMap<String, String>, String> {
    let known = [
        "threads",
        "model",
        "kind",
        "context",
        "rounds",
        "batches",
        "temperature",
        "top-p",
    ];
    let mut options = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let name = name.trim_start_matches("--").to_owned();
        if !known.contains(&name.as_str()) {
            return Err(format!("--{name} is unknown: the options are {known:?}"));
        }
        let value = arguments.next().ok_or(format!("--{name} needs a value"))?;
        options.insert(name, value);
    }
    Ok(options)
}

fn smollm2() -> DecoderSpec {
    DecoderSpec {
        model_type: "llama".into(),
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        max_context: 8192,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        embedding_scale: None,
        attention_scale: 0.125,
        attention_softcap: None,
        logit_softcap: None,
        activation: Activation::Silu,
        ropes: vec![RopeSpec {
            theta: 100_000.0,
            scaling: RopeScaling::None,
        }],
        layers: vec![
            LayerSpec {
                window: None,
                rope: 0
            };
            30
        ],
    }
}

fn random(spec: DecoderSpec, kind: Kind) -> Decoder {
    let tensors = slots(&spec)
        .iter()
        .map(|slot| {
            let options = (Kind::Float, Device::Cpu);
            let tensor = match slot.shape.len() {
                1 => Tensor::ones(&slot.shape, options),
                _ => Tensor::randn(&slot.shape, options) * 0.03,
            };
            tensor.to_kind(kind)
        })
        .collect();
    Decoder::new(spec, tensors)
}

/// A tokenizer whose ids end no turn, so that every sequence runs its full length.
fn tokenizer() -> Result<Tokenizer, Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("decode-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let text = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,
        "post_processor":null,"decoder":null,"truncation":null,"padding":null,
        "model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
    std::fs::write(dir.join("tokenizer.json"), text)?;
    let tokenizer = Tokenizer::load(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(tokenizer)
}
