//! Forward and backward over micro-batches.

use crate::checkpoint::CheckpointError;
use crate::layers::{Gradients, Row, Trace};
use crate::metrics::{PhaseSeconds, timed};
use crate::sync::{GradientSync, Passed};
use algo::advantage::RewardError;
use algo::logprob::{self, Drawn, Head, Pull};
use algo::loss::TokenLoss;
use algo::pack::{MicroBatch, PackError, Target};
use collective::CollectiveError;
use model::Decoder;
use tch::{Kind, Tensor, no_grad};

/// Why a step was not made. The weights are as before, unless it is [`StepError::Torn`].
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
    /// Another replica could not use its share of the batch, and says why itself.
    #[error("another replica could not use its share of the batch; see what it reports")]
    Replica,
    /// The replicas can no longer work together.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The group failed while replicas that keep shares of the optimizer's state sent each other new
    /// weights: some are of this step and some of the one before. Open the learner anew from a
    /// checkpoint; this one makes no more steps.
    #[error(
        "new weights of other replicas did not come ({0}), so this replica's weights are of two \
         steps; open all replicas anew from a checkpoint"
    )]
    Torn(CollectiveError),
    /// Where the learner was opened from, the optimizer's state can no longer be read.
    #[error("the optimizer's state: {0}")]
    State(CheckpointError),
    /// Replicas have different weights: a fault of this program or of the machines. Begin anew from a
    /// checkpoint.
    #[error(
        "the replicas' weights are not the same after step {step}; go on from a checkpoint, and          check the machines' memory if it happens again"
    )]
    Apart {
        /// Steps made.
        step: u64,
    },
    /// Training has come apart: begin anew, from a checkpoint's folder or the start model, with a
    /// smaller learning rate.
    #[error(
        "the gradient was not finite {0} steps in a row; start a new run with a smaller \
         learning_rate, from the same model or from one of this run's checkpoints"
    )]
    TooManyBadSteps(u32),
}

/// Settings for reading logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadOptions {
    pub temperature: f64,
    /// Predicted positions whose logits exist at once.
    pub chunk_tokens: usize,
    /// Whether logits are computed in f32 whatever the compute type.
    pub in_f32: bool,
}

/// The output matrix of `decoder`, in the type that logits are computed in.
pub(crate) fn output(decoder: &Decoder, in_f32: bool) -> Tensor {
    let output = decoder
        .parameters()
        .iter()
        .find(|p| p.slot.name == output_name(decoder));
    let output = &output.expect("every decoder has an embedding").tensor;
    match in_f32 {
        true => no_grad(|| output.to_kind(Kind::Float)), // itself where it is f32
        false => output.shallow_clone(),
    }
}

/// The head that reads the logits of the output matrix `weight`.
fn head<'a>(decoder: &Decoder, weight: &'a Tensor, options: HeadOptions) -> Head<'a> {
    Head {
        weight,
        softcap: decoder.spec().logit_softcap,
        temperature: options.temperature,
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
    options: HeadOptions,
    mut record: impl FnMut(&Target, f64),
) {
    let weight = output(decoder, options.in_f32);
    for batch in batches {
        let scores = no_grad(|| {
            let hidden = hidden(decoder, batch);
            logprob::score(
                &hidden,
                head(decoder, &weight, options),
                &batch.targets,
                options.chunk_tokens as i64,
            )
        });
        batch
            .targets
            .iter()
            .zip(scores.logprobs)
            .for_each(|(target, l)| record(target, l));
    }
}

/// Settings of a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassOptions {
    pub head: HeadOptions,
    /// Keep only what goes into each layer, and run the layer again on the way back.
    pub recompute: bool,
}

/// Sums over the trained tokens of the micro-batches that ran.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PassSums {
    pub loss: f64,
    pub entropy: f64,
    /// Trained tokens that ran.
    pub targets: f64,
    pub packed_tokens: f64,
    pub sequence_tokens: f64,
    pub micro_batches: f64,
}

impl PassSums {
    pub(crate) fn numbers(&mut self) -> [&mut f64; 6] {
        [
            &mut self.loss,
            &mut self.entropy,
            &mut self.targets,
            &mut self.packed_tokens,
            &mut self.sequence_tokens,
            &mut self.micro_batches,
        ]
    }
}

/// Runs `batches` and sums their gradients up anew; `loss` gives the weighted loss of each target, and
/// `sync` is told how far the last micro-batch has come. Ends early when the group is over.
pub(crate) fn backward(
    decoder: &Decoder,
    gradients: &mut Gradients,
    batches: &[MicroBatch],
    options: PassOptions,
    seconds: &mut PhaseSeconds,
    sync: &mut GradientSync<'_>,
    mut loss: impl FnMut(&Target, Drawn) -> TokenLoss,
) -> PassSums {
    let mut sums = PassSums::default();
    let weight = output(decoder, options.head.in_f32);
    gradients.clear();
    if batches.is_empty() {
        gradients.settle();
    }
    for (number, batch) in batches.iter().enumerate() {
        if sync.is_over() {
            break;
        }
        let is_last = number + 1 == batches.len();
        let mut passed = |stage| {
            if is_last {
                sync.passed(stage);
            }
        };
        let trace = timed(&mut seconds.forward, || {
            Trace::forward(decoder, batch, gradients, options.recompute)
        });
        let (pull, _) = timed(&mut seconds.loss, || {
            logprob::backward(
                trace.hidden(),
                head(decoder, &weight, options.head),
                &batch.targets,
                options.head.chunk_tokens as i64,
                gradients.output(),
                |index, drawn| {
                    let loss = loss(&batch.targets[index], drawn);
                    sums.loss += loss.value;
                    sums.entropy += drawn.entropy;
                    sums.targets += 1.0;
                    Pull {
                        by_logprob: loss.derivative,
                        by_entropy: loss.by_entropy,
                    }
                },
            )
        });
        passed(Passed::Output);
        timed(&mut seconds.backward, || {
            trace.backward(decoder, &pull, gradients, passed);
        });
        sums.packed_tokens += batch.tokens.len() as f64;
        sums.sequence_tokens += batch.sequence_tokens as f64;
        sums.micro_batches += 1.0;
    }
    sums
}
