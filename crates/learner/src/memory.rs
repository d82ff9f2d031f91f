//! How much memory training takes, and how much replicas say to each other, before anything is loaded.
//!
//! What stays from step to step is counted exactly; what a forward pass keeps for the backward pass
//! is counted tensor by tensor, as the decoder's operations keep it. The learner's benchmark prints
//! the estimate beside the peak that was measured.

use crate::config::LearnerConfig;
use crate::flat::Layout;
use crate::shards::Kept;
use crate::sync::Buckets;
use model::DecoderSpec;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

/// What libtorch, its buffers for matrix products, and the program itself take.
const PROGRAM: u64 = 150 << 20;

/// Keys that a query's block scores beyond those that the query sees, on average.
const BLOCK_EXCESS: u64 = 96;

/// How much a step is given, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSize {
    /// Tokens of all sequences.
    pub tokens: u64,
    /// Tokens of the longest one.
    pub longest: u64,
}

/// Bytes that a learner takes at its peak, by what takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights in the compute type; in f32 those that are trained are the master's.
    pub weights: u64,
    /// Of what is trained, in f32: the summed gradient, and master weights and both moments as far as
    /// the replica keeps them.
    pub training: u64,
    /// The frozen start model of a KL term, or of preferences; none under LoRA.
    pub reference: u64,
    /// What a micro-batch's forward pass keeps for its backward pass.
    pub activations: u64,
    /// A chunk of logits, the gradient by the output matrix, and its copy where logits are f32.
    pub logits: u64,
    /// The program itself.
    pub program: u64,
}

impl MemoryNeed {
    /// That of training a decoder of `spec` on `device`, on each of `world` replicas (the first keeps
    /// most, if they keep shares), with batches like `batch`. `has_reference` says whether a frozen
    /// model is compared with.
    pub fn of(
        spec: &DecoderSpec,
        config: &LearnerConfig,
        device: Device,
        batch: BatchSize,
        has_reference: bool,
        world: usize,
    ) -> Self {
        let kind = config.kind(device);
        let element = kind.elt_size_in_bytes() as u64;
        let all = unsigned(spec.parameter_count());
        let lora = config.lora_spec();
        let layout = Layout::of(spec, lora.as_ref(), &config.freeze);
        let trained = unsigned(layout.total);
        let kept = match config.shard_optimizer {
            true => Kept::shares(&Buckets::new(&layout, spec.layers.len()), world, 0).len(),
            false => layout.total,
        };
        let kept = unsigned(kept);
        let masters = if kind == Kind::Float { trained } else { kept };
        let untrained = match lora {
            Some(_) => all,
            None => all.saturating_sub(trained),
        };
        let copies = if kind == Kind::Float {
            untrained
        } else {
            untrained + trained
        };
        // A sequence longer than a micro-batch runs alone.
        let BatchSize { tokens, longest } = batch;
        let row = longest.max(tokens.min(config.micro_batch_tokens as u64));
        let reference = if has_reference && config.lora.is_none() {
            all
        } else {
            0
        };
        Self {
            weights: copies.saturating_mul(element),
            training: (trained + masters + 2 * kept).saturating_mul(4),
            reference: reference.saturating_mul(element),
            activations: activations(spec, config, element, row, longest),
            logits: logits(spec, config, element, trained > 0),
            program: PROGRAM,
        }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        [
            self.weights,
            self.training,
            self.reference,
            self.activations,
            self.logits,
            self.program,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// Bytes that a replica sends in a step, and receives as many of: on average over the replicas of a
/// group, for what is handed around in shares, as rings and NCCL do it. Numbers that they agree on, and
/// checkpoints, come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Gradients, in f32: a ring may be told to round them to bf16 on the way, which halves it.
    pub gradients: u64,
    /// New weights, in the compute type, where replicas keep shares of the optimizer's state.
    pub weights: u64,
}

impl Traffic {
    /// That of training a decoder of `spec` on `device`, on each of `world` replicas.
    pub fn of(spec: &DecoderSpec, config: &LearnerConfig, device: Device, world: usize) -> Self {
        let layout = Layout::of(spec, config.lora_spec().as_ref(), &config.freeze);
        let (trained, world) = (unsigned(layout.total), world as u64);
        let element = config.kind(device).elt_size_in_bytes() as u64;
        // All shares but one go round once, to be summed up or handed out.
        let once = |bytes: u64| bytes * (world - 1) / world;
        match config.shard_optimizer {
            true => Self {
                gradients: once(4 * trained),
                weights: once(element * trained),
            },
            false => Self {
                gradients: once(2 * 4 * trained),
                weights: 0,
            },
        }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.gradients + self.weights
    }
}

fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn activations(
    spec: &DecoderSpec,
    config: &LearnerConfig,
    element: u64,
    row: u64,
    longest: u64,
) -> u64 {
    let layers = spec.layers.len() as u64;
    let input = element * unsigned(spec.hidden_size);
    let kept = layer_bytes(spec, element, longest);
    let per_token = if config.activation_checkpointing {
        // The inputs of all layers; of one layer everything, and as much again on the way back.
        layers * input + 2 * kept
    } else {
        layers * kept + kept
    };
    row.saturating_mul(per_token)
}

/// What a layer keeps per token.
fn layer_bytes(spec: &DecoderSpec, element: u64, longest: u64) -> u64 {
    let [hidden, inner, head] =
        [spec.hidden_size, spec.intermediate_size, spec.head_dim].map(unsigned);
    let (heads, queries) = (unsigned(spec.heads), unsigned(spec.heads) * head);
    let keys = unsigned(spec.kv_heads) * head;
    let norms = if spec.post_norms { 4 } else { 2 };
    // A norm keeps its input in f32, and what it is multiplied by the weight in the compute type
    // (in f32 for weights that count from 1), and its result is kept by what follows.
    let wide = if spec.norm_plus_one { 8 } else { 4 + element };
    let norm = hidden * (wide + element);
    let head_norms = if spec.qk_norm {
        (queries + keys) * (4 + element)
    } else {
        0
    };
    // Both residuals; q, k and v as they come out of one product, and rotated; scaled queries; what
    // attention gives.
    let stream = element * (2 * hidden + 4 * queries + 3 * keys);
    // Probabilities, and the keys and values that a block of queries gathers.
    let seen = longest / 2 + BLOCK_EXCESS;
    let capped = if spec.attention_softcap.is_some() {
        2
    } else {
        1
    };
    let attention = element * (capped * heads * seen + 2 * keys * seen / 128);
    // Gate and up, the activated gate, and their product.
    norms * norm + head_norms + stream + attention + element * 4 * inner
}

fn logits(spec: &DecoderSpec, config: &LearnerConfig, element: u64, is_trained: bool) -> u64 {
    let vocabulary = unsigned(spec.vocab_size);
    let matrix = vocabulary * unsigned(spec.hidden_size);
    let (element, copy) = match config.f32_head {
        true => (4, if element == 4 { 0 } else { 4 * matrix }),
        false => (element, 0),
    };
    let chunk = (config.loss_chunk_tokens as u64).saturating_mul(vocabulary * element);
    // Six f32 tensors of a few rows on the way to the chunk's gradient.
    let rows = 6 * 8 * vocabulary * 4;
    let output = matrix * element;
    chunk + rows + copy + if is_trained { output } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoraConfig;
    use crate::tests::{ARCHITECTURES, config, folder};

    fn need(change: impl Fn(&mut LearnerConfig)) -> MemoryNeed {
        let home = folder(ARCHITECTURES[0].1);
        let spec = model::spec_of(&home.path().join("model")).unwrap();
        let mut config = config();
        config.deterministic = false;
        config.dtype = crate::ComputeType::Bf16;
        change(&mut config);
        let batch = BatchSize {
            tokens: 10_000,
            longest: 64,
        };
        MemoryNeed::of(&spec, &config, Device::Cpu, batch, true, 1)
    }

    #[test]
    fn every_knob_turns_what_it_is_for() {
        let home = folder(ARCHITECTURES[0].1);
        let spec = model::spec_of(&home.path().join("model")).unwrap();
        let parameters = spec.parameter_count() as u64;
        let plain = need(|_| ());
        // Buffers are padded to whole cache lines, parameter by parameter.
        assert!((16 * parameters..16 * parameters + 20 * 64 * 16).contains(&plain.training));
        assert_eq!(plain.reference, 2 * parameters);

        let f32 = need(|config| config.dtype = crate::ComputeType::F32);
        assert_eq!(f32.weights, 0, "the master computes");
        assert!(f32.activations > plain.activations);
        let smaller = need(|config| config.micro_batch_tokens /= 2);
        assert_eq!(2 * smaller.activations, plain.activations);
        let checkpointed = need(|config| config.activation_checkpointing = true);
        assert!(checkpointed.activations < plain.activations);
        let wide = need(|config| config.f32_head = true);
        assert!(wide.logits > plain.logits);
        let chunked = need(|config| config.loss_chunk_tokens = 16);
        assert!(chunked.logits < plain.logits);
        let frozen = need(|config| config.freeze = vec!["embedding".into()]);
        assert!(frozen.training < plain.training && frozen.weights >= 2 * parameters);
        let lora = need(|config| {
            config.lora = Some(LoraConfig {
                rank: 1,
                ..Default::default()
            });
        });
        assert_eq!(lora.reference, 0);
        assert!(lora.training < plain.training / 2);
        assert!(lora.total() < plain.total());
        let [roomy, roomier] = [20_000, 40_000]
            .map(|tokens| need(|config| config.micro_batch_tokens = tokens).activations);
        assert_eq!(roomy, roomier, "a batch does not fill them");
        let longer = need(|config| config.micro_batch_tokens = 1);
        assert!(
            longer.activations > 0,
            "a sequence longer than the budget runs alone"
        );
    }
}
