//! `cargo run -p benches --bin scaling`: what training takes on 1 to 64 GPUs, as `docs/scaling.md` has
//! it. Computed, not measured; needs neither a GPU nor a model.

mod designed;
mod models;

use anyhow::Result;
use learner::{BatchSize, ComputeType, LearnerConfig, LoraConfig, MemoryNeed, Traffic};
use model::DecoderSpec;
use models::MODELS;
use std::fmt::Write;
use tch::Device;

const GPUS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Bytes of a GPU, and those left for what the estimate knows nothing of: CUDA's context and
/// libraries, NCCL's buffers, an allocator's gaps.
const GPU_BYTES: u64 = 80_000_000_000;
const LEFT_BYTES: u64 = 8_000_000_000;

/// What each GPU is given in a step.
const BATCH: BatchSize = BatchSize {
    tokens: 16_384,
    longest: 2_048,
};
const MICRO_BATCH_TOKENS: usize = 4_096;

fn main() -> Result<()> {
    print!("{}\n{}", tables()?, next_steps()?);
    Ok(())
}

/// The largest model on what is not built yet.
fn next_steps() -> Result<String> {
    let spec = MODELS[MODELS.len() - 1].spec()?;
    let sent = designed::tensor_parallel(&spec, 8);
    Ok(format!(
        "{}\nTensor parallel over 8 GPUs of a host: each sends {:.0} GB a step for activations.\n",
        designed::table(&spec),
        gigabytes(sent)
    ))
}

/// Everything that `docs/scaling.md` quotes.
fn tables() -> Result<String> {
    let mut text = String::new();
    for model in MODELS {
        let spec = model.spec()?;
        let billions = spec.parameter_count() as f64 / 1e9;
        writeln!(text, "**{}**, {billions:.3} B parameters:\n", model.name)?;
        text += &table(&spec);
        text.push('\n');
    }
    Ok(text)
}

/// Full tuning, the same with shares of the optimizer's state, and LoRA.
fn ways() -> [LearnerConfig; 3] {
    let full = LearnerConfig {
        dtype: ComputeType::Bf16,
        activation_checkpointing: true,
        micro_batch_tokens: MICRO_BATCH_TOKENS,
        ..Default::default()
    };
    let sharded = LearnerConfig {
        shard_optimizer: true,
        ..full.clone()
    };
    let lora = LearnerConfig {
        lora: Some(LoraConfig::default()),
        ..full.clone()
    };
    [full, sharded, lora]
}

fn table(spec: &DecoderSpec) -> String {
    let mut text = String::from(
        "| GPUs | full: GB | sharded: GB | LoRA: GB | full: GB sent | sharded: GB sent | LoRA: GB sent |\n\
         |---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for world in GPUS {
        let need = ways().map(|way| memory(need(spec, &way, world).total()));
        let sent = ways().map(|way| {
            let sent = Traffic::of(spec, &way, Device::Cuda(0), world).total();
            format!("{:.2}", gigabytes(sent))
        });
        text += &format!(
            "| {world} | {} | {} |\n",
            need.join(" | "),
            sent.join(" | ")
        );
    }
    text
}

fn need(spec: &DecoderSpec, way: &LearnerConfig, world: usize) -> MemoryNeed {
    MemoryNeed::of(spec, way, Device::Cuda(0), BATCH, false, world)
}

/// In bold where it fits.
fn memory(bytes: u64) -> String {
    let shown = format!("{:.1}", gigabytes(bytes));
    match bytes <= GPU_BYTES - LEFT_BYTES {
        true => format!("**{shown}**"),
        false => shown,
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the doc says is what the code says; `cargo run -p benches --bin scaling` prints it anew.
    #[test]
    fn the_tables_in_the_doc_are_these() {
        let doc = include_str!("../../../../docs/scaling.md");
        for (mark, computed) in [("tables", tables()), ("next steps", next_steps())] {
            let (_, rest) = doc.split_once(&format!("<!-- {mark} -->\n")).unwrap();
            let (quoted, _) = rest.split_once("<!-- end -->").unwrap();
            assert_eq!(quoted.trim(), computed.unwrap().trim());
        }
    }

    #[test]
    fn models_have_the_parameters_they_are_named_for() {
        let counts = MODELS.map(|model| model.spec().unwrap().parameter_count());
        assert_eq!(
            counts,
            [134_515_008, 2_614_341_888, 9_241_705_984, 27_227_128_320]
        );
    }

    /// The doc says it in words.
    #[test]
    fn twenty_seven_billion_do_not_fit_by_sharing_the_optimizer_alone() {
        let spec = MODELS[3].spec().unwrap();
        let [_, sharded, lora] = ways();
        let fits = |way, world| need(&spec, way, world).total() <= GPU_BYTES - LEFT_BYTES;
        assert!(!fits(&sharded, 1 << 20));
        assert!(fits(&lora, 1));
    }
}
