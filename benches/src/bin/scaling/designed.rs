//! What the next steps that `docs/scaling.md` designs would take. None of it is built: these are the
//! formulas of the design, on a model's real shapes.

use crate::{BATCH, GPUS, gigabytes, memory, ways};
use learner::MemoryNeed;
use model::{DecoderSpec, slots};
use tch::Device;

/// Parameters by where they are.
struct Sizes {
    all: u64,
    /// Of one layer; all have as many.
    layer: u64,
    /// What is above and below the layers.
    ends: u64,
}

impl Sizes {
    fn of(spec: &DecoderSpec) -> Self {
        let sum = |belongs: &dyn Fn(&str) -> bool| -> u64 {
            let slots = slots(spec);
            let chosen = slots.iter().filter(|slot| belongs(&slot.name));
            chosen
                .map(|slot| slot.shape.iter().product::<i64>() as u64)
                .sum()
        };
        Self {
            all: sum(&|_| true),
            layer: sum(&|name| name.starts_with("layers.0.")),
            ends: sum(&|name| !name.starts_with("layers.")),
        }
    }
}

/// Bytes per parameter: of gradient sums, of weights that compute, of master weights and moments.
const GRADIENT: u64 = 4;
const COMPUTE: u64 = 2;
const OPTIMIZER: u64 = 12;

/// Gradient sums in shares, too: of two layers and of the ends they are there whole while they travel.
fn gradient_shares(sizes: &Sizes, world: u64) -> u64 {
    let whole = GRADIENT * (2 * sizes.layer + sizes.ends);
    COMPUTE * sizes.all + whole + (GRADIENT + OPTIMIZER) * sizes.all / world
}

/// Weights that compute in shares as well: two layers and the ends are there whole at a time.
fn weight_shares(sizes: &Sizes, world: u64) -> u64 {
    let whole = (COMPUTE + GRADIENT) * (2 * sizes.layer + sizes.ends);
    whole + (COMPUTE + GRADIENT + OPTIMIZER) * sizes.all / world
}

/// Bytes sent for one tensor of all parameters that goes round once.
fn once(bytes: u64, sizes: &Sizes, world: u64) -> u64 {
    bytes * sizes.all * (world - 1) / world
}

/// Both steps on 1 to 64 GPUs, with a batch in micro-batches, and in one.
pub fn table(spec: &DecoderSpec) -> String {
    let mut text = String::from(
        "| GPUs | micro-batches | gradient shares: GB | GB sent | weight shares: GB | GB sent |\n\
         |---:|---:|---:|---:|---:|---:|\n",
    );
    let sizes = Sizes::of(spec);
    let [_, sharded, _] = ways();
    for gpus in GPUS {
        for micro_batches in [4, 1] {
            let mut way = sharded.clone();
            way.micro_batch_tokens = BATCH.tokens as usize / micro_batches;
            let need = MemoryNeed::of(spec, &way, Device::Cuda(0), BATCH, false, gpus);
            let rest = need.activations + need.logits + need.program;
            let (world, passes) = (gpus as u64, micro_batches as u64);
            let scattered = passes * once(GRADIENT, &sizes, world);
            // Gathered anew after each update; or for each way through the layers.
            let updated = once(COMPUTE, &sizes, world);
            let fetched = 2 * passes * once(COMPUTE, &sizes, world);
            text += &format!(
                "| {gpus} | {micro_batches} | {} | {:.0} | {} | {:.0} |\n",
                memory(gradient_shares(&sizes, world) + rest),
                gigabytes(scattered + updated),
                memory(weight_shares(&sizes, world) + rest),
                gigabytes(scattered + fetched),
            );
        }
    }
    text
}

/// Tensor parallel over `width` GPUs of a host: bytes that a GPU sends in a step for the sums of what its
/// part of attention and of the feed-forward layer gives.
pub fn tensor_parallel(spec: &DecoderSpec, width: u64) -> u64 {
    // Two of them on the way up, on the way up again, and on the way down.
    let sums = 6 * spec.layers.len() as u64;
    let bytes = BATCH.tokens * spec.hidden_size as u64 * COMPUTE;
    2 * sums * bytes * (width - 1) / width
}
