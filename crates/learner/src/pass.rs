//! Forward and backward over micro-batches.

use crate::layers::{Gradients, Row, Trace};
use crate::metrics::{StepMetrics, timed};
use algo::advantage::RewardError;
use algo::logprob::{self, Drawn, Head, Pull};
use algo::loss::TokenLoss;
use algo::pack::{MicroBatch, PackError, Target};
use model::Decoder;
use tch::{Tensor, no_grad};

/// Why a step was not made. The weights are as before.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// No token of the batch is trained: there is nothing to learn from it.
    #[error("the batch holds no trained token; give at least one")]
    EmptyBatch,
    /// A sample cannot be trained on: leave it out or mend what made it.
    #[error("{sample}: {problem}")]
    Sample {
        /// Which sample.
        sample: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A reward is not finite.
    #[error("{state}: {error}")]
    Reward {
        /// The group's state.
        state: String,
        /// Which reward.
        error: RewardError,
    },
    /// A mask does not fit its tokens.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The reference model of the KL term cannot be loaded.
    #[error("the reference model of the KL term: {0}")]
    Reference(#[from] model::LoadError),
    /// Training has come apart: begin anew, from a checkpoint's folder or the start model, with a
    /// smaller learning rate.
    #[error(
        "the gradient was not finite {0} steps in a row; start a new run with a smaller \
         learning_rate, from the same model or from one of this run's checkpoints"
    )]
    TooManyBadSteps(u32),
}

/// The output matrix of `decoder` and how its logits are read.
pub(crate) fn head(decoder: &Decoder, temperature: f64) -> Head<'_> {
    let output = decoder
        .parameters()
        .iter()
        .find(|p| p.slot.name == output_name(decoder));
    Head {
        weight: &output.expect("every decoder has an embedding").tensor,
        softcap: decoder.spec().logit_softcap,
        temperature,
    }
}

/// Which parameter the output matrix is.
pub(crate) fn output_name(decoder: &Decoder) -> &'static str {
    if decoder.spec().tied_embeddings {
        "embedding"
    } else {
        "output"
    }
}

/// Hidden states where `batch` predicts, `[P, H]`. No gradient.
fn hidden(decoder: &Decoder, batch: &MicroBatch) -> Tensor {
    let mut row = Row::new(decoder, batch);
    let mut x = decoder.embed(&row.ids);
    for index in 0..decoder.spec().layers.len() {
        x = decoder.layer(index, &x, &row.rotations, &mut row.attention);
    }
    row.finish(decoder, &x)
}

/// Log-probability of each target of `batches`, given to `record`. No gradient.
pub(crate) fn score(
    decoder: &Decoder,
    batches: &[MicroBatch],
    temperature: f64,
    chunk_tokens: usize,
    mut record: impl FnMut(&Target, f64),
) {
    for batch in batches {
        let scores = no_grad(|| {
            let hidden = hidden(decoder, batch);
            logprob::score(
                &hidden,
                head(decoder, temperature),
                &batch.targets,
                chunk_tokens as i64,
            )
        });
        batch
            .targets
            .iter()
            .zip(scores.logprobs)
            .for_each(|(target, l)| record(target, l));
    }
}

/// How a pass reads logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassOptions {
    pub temperature: f64,
    pub chunk_tokens: usize,
    /// Keep only what goes into each layer, and run the layer again on the way back.
    pub recompute: bool,
}

/// Runs `batches` and adds their gradients; `loss` gives the weighted loss of each target.
pub(crate) fn backward(
    decoder: &Decoder,
    gradients: &mut Gradients,
    batches: &[MicroBatch],
    options: PassOptions,
    metrics: &mut StepMetrics,
    mut loss: impl FnMut(&Target, Drawn) -> TokenLoss,
) {
    let (mut total, mut entropy, mut rows) = (0.0, 0.0, 0);
    for batch in batches {
        let trace = timed(&mut metrics.seconds.forward, || {
            Trace::forward(decoder, batch, gradients, options.recompute)
        });
        let (pull, scores) = timed(&mut metrics.seconds.loss, || {
            logprob::backward(
                trace.hidden(),
                head(decoder, options.temperature),
                &batch.targets,
                options.chunk_tokens as i64,
                gradients.output.as_mut(),
                |index, drawn| {
                    let loss = loss(&batch.targets[index], drawn);
                    total += loss.value;
                    Pull {
                        by_logprob: loss.derivative,
                        by_entropy: loss.by_entropy,
                    }
                },
            )
        });
        timed(&mut metrics.seconds.backward, || {
            trace.backward(decoder, &pull, gradients);
        });
        entropy += scores.entropies.iter().sum::<f64>();
        rows += scores.entropies.len();
        metrics.packed_tokens += batch.tokens.len();
        metrics.sequence_tokens += batch.sequence_tokens;
    }
    metrics.micro_batches += batches.len();
    metrics.loss += total;
    metrics.entropy = entropy / rows.max(1) as f64;
}
