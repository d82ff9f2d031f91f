//! AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over flat buffers.

use crate::flat::FlatParameters;
use tch::{Device, Kind, Tensor, no_grad};

/// Elements that are updated together on a CPU: the four f32 pieces of one chunk are 1 MiB and stay
/// in the second-level cache from the first operation to the last.
const CPU_CHUNK: i64 = 1 << 16;

/// Elements whose norm is taken at once: small enough for f32 to sum them well.
const NORM_CHUNK: i64 = 1 << 20;

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

/// The moments.
#[derive(Debug)]
pub(crate) struct AdamW {
    /// f32, `[total]`.
    pub exp_avg: Tensor,
    /// f32, `[total]`.
    pub exp_avg_sq: Tensor,
    /// Updates made: steps that were skipped do not count for the bias correction.
    pub updates: u64,
}

impl AdamW {
    pub(crate) fn new(flat: &FlatParameters) -> Self {
        let zeros = || flat.master.zeros_like();
        Self {
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            updates: 0,
        }
    }

    /// Updates master and compute weights; the gradient may be scaled.
    pub(crate) fn update(&mut self, flat: &FlatParameters, update: Update) {
        self.updates += 1;
        let (decayed, total) = (flat.layout.decayed, flat.layout.total);
        let size = if flat.master.device() == Device::Cpu {
            CPU_CHUNK
        } else {
            total.max(1)
        };
        no_grad(|| {
            for (from, to, weight_decay) in
                [(0, decayed, update.weight_decay), (decayed, total, 0.0)]
            {
                for start in (from..to).step_by(size as usize) {
                    let length = size.min(to - start);
                    self.update_chunk(
                        flat,
                        start,
                        length,
                        Update {
                            weight_decay,
                            ..update
                        },
                    );
                }
            }
        });
    }

    fn update_chunk(&self, flat: &FlatParameters, start: i64, length: i64, update: Update) {
        let part = |flat: &Tensor| flat.narrow(0, start, length);
        let (mut weights, mut gradient) = (part(&flat.master), part(&flat.gradient));
        let (mut m, mut v) = (part(&self.exp_avg), part(&self.exp_avg_sq));
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
        if flat.compute.kind() != Kind::Float {
            part(&flat.compute).copy_(&weights);
        }
    }
}

/// Euclidean norm of a flat tensor; not finite if an element is not.
pub(crate) fn global_norm(flat: &Tensor) -> f64 {
    let norms: Vec<Tensor> = flat
        .split(NORM_CHUNK, 0)
        .iter()
        .map(|part| part.norm())
        .collect();
    if norms.is_empty() {
        return 0.0;
    }
    let squares = Tensor::stack(&norms, 0).to_kind(Kind::Double).square();
    squares.sum(Kind::Double).double_value(&[]).sqrt()
}
