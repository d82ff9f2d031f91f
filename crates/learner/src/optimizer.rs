//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over flat buffers.

use crate::flat::FlatParameters;
use crate::shards::Stretch;
use tch::{Device, Kind, Tensor, no_grad};

/// Elements that are updated together on a CPU: the four f32 pieces of one chunk are 1 MiB and stay
/// in the second-level cache from the first operation to the last.
const CPU_CHUNK: i64 = 1 << 16;

/// Elements whose norm is taken in f32, the alignment of parameters and of shares: where a buffer is
/// cut changes no such norm, and they are added up in f64.
const NORM_CELL: i64 = 64;

/// One update's numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// The gradient is multiplied by it first: 1, or less to clip.
    pub gradient_scale: f64,
}

/// The moments of what is kept here.
#[derive(Debug)]
pub(crate) struct AdamW {
    /// f32, `[kept]`.
    pub exp_avg: Tensor,
    /// f32, `[kept]`.
    pub exp_avg_sq: Tensor,
    /// Updates made: steps that were skipped do not count for the bias correction.
    pub updates: u64,
}

impl AdamW {
    pub(crate) fn new(flat: &FlatParameters) -> Self {
        let moments = [flat.kept.len()];
        let zeros = || Tensor::zeros(moments, (Kind::Float, flat.compute.device()));
        Self {
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            updates: 0,
        }
    }

    /// Makes room for the moments of what `flat` keeps, all zero.
    pub(crate) fn keep(&mut self, flat: &FlatParameters) {
        let nothing = || Tensor::zeros([0], (Kind::Float, flat.compute.device()));
        (self.exp_avg, self.exp_avg_sq) = (nothing(), nothing()); // what there was goes first
        *self = Self {
            updates: self.updates,
            ..Self::new(flat)
        };
    }

    /// Updates master and compute weights of one stretch that is kept, as the update numbered
    /// `updates`; the gradient may be scaled.
    pub(crate) fn update(&self, flat: &FlatParameters, stretch: Stretch, update: Update) {
        let decayed = flat.layout.decayed.clamp(stretch.start, stretch.end());
        let size = if flat.master.device() == Device::Cpu {
            CPU_CHUNK
        } else {
            stretch.length.max(1)
        };
        no_grad(|| {
            for (from, to, weight_decay) in [
                (stretch.start, decayed, update.weight_decay),
                (decayed, stretch.end(), 0.0),
            ] {
                for start in (from..to).step_by(size as usize) {
                    let chunk = stretch.part(start, size.min(to - start));
                    self.update_chunk(
                        flat,
                        chunk,
                        Update {
                            weight_decay,
                            ..update
                        },
                    );
                }
            }
        });
    }

    fn update_chunk(&self, flat: &FlatParameters, chunk: Stretch, update: Update) {
        let mut weights = match flat.computes_in_f32() {
            true => chunk.of_all(&flat.master),
            false => chunk.of_kept(&flat.master),
        };
        let mut gradient = chunk.of_all(&flat.gradient);
        let (mut m, mut v) = (
            chunk.of_kept(&self.exp_avg),
            chunk.of_kept(&self.exp_avg_sq),
        );
        if update.gradient_scale != 1.0 {
            gradient *= update.gradient_scale;
        }
        let _ = m.lerp_(&gradient, 1.0 - update.beta1);
        let _ = v.lerp_(&gradient.square(), 1.0 - update.beta2);
        let correction = |beta: f64| 1.0 - beta.powi(self.updates.min(i32::MAX as u64) as i32);
        let mut divisor = v.sqrt();
        divisor /= correction(update.beta2).sqrt();
        divisor += update.eps;
        divisor *= -correction(update.beta1) / update.learning_rate;
        if update.weight_decay != 0.0 {
            weights *= 1.0 - update.learning_rate * update.weight_decay;
        }
        let _ = weights.addcdiv_(&m, &divisor);
        if !flat.computes_in_f32() {
            chunk.of_all(&flat.compute).copy_(&weights);
        }
    }
}

/// Sum of the squares of a stretch of a flat buffer that begins and ends where parameters or shares
/// do; not finite if an element is not. However a buffer is cut into stretches, the sum over them is
/// the same up to the rounding of f64.
pub(crate) fn sum_of_squares(stretch: &Tensor) -> f64 {
    let cells = stretch.view([-1, NORM_CELL]);
    let norms = cells.norm_scalaropt_dim(2, [1i64].as_slice(), false);
    let squares = norms.to_kind(Kind::Double).square();
    squares.sum(Kind::Double).double_value(&[])
}
