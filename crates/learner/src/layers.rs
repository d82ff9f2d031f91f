//! A micro-batch forward and backward, layer by layer.
//!
//! Each layer has an autograd graph of its own, cut at what goes into it. The chain rule between
//! layers is applied here: that lets a layer's gradient be added to its sum, and its activations be
//! freed, before the layer below begins, and lets a layer run a second time instead of keeping its
//! activations. What lies below the lowest trained parameter gets no graph at all.

use crate::attention::ForestAttention;
use crate::flat::FlatParameters;
use crate::sync::Passed;
use algo::gradient::GradientSum;
use algo::pack::MicroBatch;
use model::{Decoder, Rotations};
use tch::{Tensor, no_grad};

/// A trained parameter as backward needs it.
#[derive(Debug)]
struct Trained {
    /// What the decoder computes with.
    leaf: Tensor,
    /// Where its gradient is summed, in f32.
    sum: GradientSum,
}

/// What backward passes add to.
#[derive(Debug)]
pub(crate) struct Gradients {
    /// The embedding, unless it is frozen; where it is the output matrix too, the sum of both.
    embedding: Option<GradientSum>,
    /// The trained parameters of each layer.
    layers: Vec<Vec<Trained>>,
    /// The last norm, unless it is frozen.
    norm: Vec<Trained>,
    /// The output matrix, if it is not the embedding, unless it is frozen.
    output: Option<GradientSum>,
    has_tied_output: bool,
}

impl Gradients {
    pub(crate) fn new(decoder: &Decoder, flat: &FlatParameters) -> Self {
        let trained = |belongs: &dyn Fn(&str) -> bool| -> Vec<Trained> {
            let parameters = decoder.parameters().iter();
            parameters
                .chain(decoder.adapter_parameters())
                .filter(|parameter| belongs(&parameter.slot.name))
                .filter_map(|parameter| {
                    Some(Trained {
                        leaf: parameter.tensor.shallow_clone(),
                        sum: GradientSum::new(flat.gradient_of(&parameter.slot.name)?),
                    })
                })
                .collect()
        };
        let of_layer = |index| {
            let prefix = format!("layers.{index}.");
            trained(&|name| name.starts_with(&prefix))
        };
        Self {
            embedding: flat.gradient_of("embedding").map(GradientSum::new),
            layers: (0..decoder.spec().layers.len()).map(of_layer).collect(),
            norm: trained(&|name| name == "norm"),
            output: flat.gradient_of("output").map(GradientSum::new),
            has_tied_output: decoder.spec().tied_embeddings,
        }
    }

    /// That of the output matrix, unless it is frozen.
    pub(crate) fn output(&mut self) -> Option<&mut GradientSum> {
        if self.has_tied_output {
            self.embedding.as_mut()
        } else {
            self.output.as_mut()
        }
    }

    /// Begins new sums.
    pub(crate) fn clear(&mut self) {
        self.sums().for_each(|sum| sum.is_empty = true);
    }

    /// What nothing was added to becomes zero.
    pub(crate) fn settle(&mut self) {
        self.sums().for_each(GradientSum::settle);
    }

    fn sums(&mut self) -> impl Iterator<Item = &mut GradientSum> {
        let layers = self.layers.iter_mut().flatten();
        let trained = layers.chain(&mut self.norm).map(|trained| &mut trained.sum);
        trained.chain(&mut self.embedding).chain(&mut self.output)
    }

    /// The lowest layer with anything to train in it or below it; `None` if only what is above the
    /// layers is trained.
    fn lowest(&self) -> Option<usize> {
        match self.embedding {
            Some(_) => Some(0),
            None => self.layers.iter().position(|layer| !layer.is_empty()),
        }
    }
}

/// A micro-batch as the decoder takes it.
pub(crate) struct Row {
    pub ids: Tensor, // [1, T]
    pub rotations: Rotations,
    pub attention: ForestAttention,
    predictors: Tensor, // [P]
}

impl Row {
    pub(crate) fn new(decoder: &Decoder, batch: &MicroBatch) -> Self {
        let device = decoder.device();
        let row = |values: &[i64]| Tensor::from_slice(values).unsqueeze(0).to_device(device);
        Self {
            ids: row(&batch.tokens),
            rotations: decoder.rotations(&row(&batch.positions)),
            attention: ForestAttention::new(batch, device),
            predictors: Tensor::from_slice(&batch.predictors).to_device(device),
        }
    }

    /// Normed hidden states at the predicting positions, `[P, H]`, from `[1, T, H]`.
    pub(crate) fn finish(&self, decoder: &Decoder, x: &Tensor) -> Tensor {
        decoder.finish(&x.squeeze_dim(0).index_select(0, &self.predictors))
    }
}

/// Something computed from an input that it remembers.
struct Stage {
    input: Tensor,
    /// `None`: to be computed again.
    output: Option<Tensor>,
}

/// What a forward pass leaves for the backward pass.
pub(crate) struct Trace {
    row: Row,
    /// The layers from the lowest trained one up.
    stages: Vec<Stage>,
    /// Number of the first of them.
    lowest: usize,
    last: Stage,
}

impl Trace {
    /// Runs `batch` up to its predictors' hidden states.
    pub(crate) fn forward(
        decoder: &Decoder,
        batch: &MicroBatch,
        gradients: &Gradients,
        recompute: bool,
    ) -> Self {
        let mut row = Row::new(decoder, batch);
        let depth = decoder.spec().layers.len();
        let lowest = gradients.lowest().unwrap_or(depth);
        let mut x = no_grad(|| decoder.embed(&row.ids));
        let mut stages = Vec::with_capacity(depth - lowest);
        for index in 0..depth {
            if index < lowest || recompute {
                let input = x;
                x = no_grad(|| decoder.layer(index, &input, &row.rotations, &mut row.attention));
                if index >= lowest {
                    stages.push(Stage {
                        input,
                        output: None,
                    });
                }
                continue;
            }
            let input = x.set_requires_grad(true);
            let output = decoder.layer(index, &input, &row.rotations, &mut row.attention);
            x = output.detach();
            stages.push(Stage {
                input,
                output: Some(output),
            });
        }
        let input = x.set_requires_grad(lowest < depth);
        let output = row.finish(decoder, &input);
        Self {
            row,
            stages,
            lowest,
            last: Stage {
                input,
                output: Some(output),
            },
        }
    }

    /// Hidden states behind the last norm where the batch predicts, `[P, H]`.
    pub(crate) fn hidden(&self) -> &Tensor {
        let output = self.last.output.as_ref();
        output.expect("it is never left to be computed again")
    }

    /// Carries the gradient by [`Trace::hidden`] back into the sums; says how far it has come.
    pub(crate) fn backward(
        self,
        decoder: &Decoder,
        pull: &Tensor,
        gradients: &mut Gradients,
        mut passed: impl FnMut(Passed),
    ) {
        let Self {
            mut row,
            stages,
            lowest,
            last,
        } = self;
        let mut pull = carry_back(last, |_| unreachable!(), pull, &mut gradients.norm);
        passed(Passed::Norm);
        for (number, stage) in stages.into_iter().enumerate().rev() {
            let index = lowest + number;
            let again = |x: &Tensor| decoder.layer(index, x, &row.rotations, &mut row.attention);
            let Some(above) = pull else {
                unreachable!("there is a gradient down to the lowest trained layer")
            };
            pull = carry_back(stage, again, &above, &mut gradients.layers[index]);
            passed(Passed::Layer(decoder.spec().layers.len() - 1 - index));
        }
        if let (Some(sum), Some(pull)) = (&mut gradients.embedding, pull) {
            let rows = match decoder.embedding_scale() {
                Some(scale) => no_grad(|| pull * scale),
                None => pull,
            };
            sum.add_rows(&row.ids.squeeze_dim(0), &rows.squeeze_dim(0));
        }
    }
}

/// From the gradient by a stage's output to that by its input, if that is asked for; adds the
/// gradients of `trained`.
fn carry_back(
    stage: Stage,
    again: impl FnOnce(&Tensor) -> Tensor,
    pull: &Tensor,
    trained: &mut [Trained],
) -> Option<Tensor> {
    let Stage { input, output } = stage;
    let (input, output) = match output {
        Some(output) => (input, output),
        None => {
            let input = input.set_requires_grad(true);
            let output = again(&input);
            (input, output)
        }
    };
    let through = input.requires_grad();
    if !through && trained.is_empty() {
        return None;
    }
    // The derivative of this sum by `output` is `pull`; its value is of no account. (As a dot product
    // it would run on one thread of a CPU.)
    let carrier = (&output * pull).sum(output.kind());
    let mut leaves: Vec<&Tensor> = trained.iter().map(|trained| &trained.leaf).collect();
    if through {
        leaves.push(&input);
    }
    let mut found = Tensor::run_backward(&[carrier], &leaves, false, false);
    let below = if through { found.pop() } else { None };
    for (trained, gradient) in trained.iter_mut().zip(found) {
        trained.sum.add(&gradient);
    }
    below
}
