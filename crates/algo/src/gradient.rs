//! Sums of gradients over micro-batches.

use tch::{Tensor, no_grad};

/// Elements of a gradient that are widened at once.
const PIECE: i64 = 1 << 22;

/// A sum of gradients, f32 or wider. What it held before the first one is of no account: writing
/// instead of adding saves clearing it, and reading it.
#[derive(Debug)]
pub struct GradientSum {
    /// The sum; as it was made while `is_empty`.
    pub tensor: Tensor,
    /// Whether nothing was added yet.
    pub is_empty: bool,
}

impl GradientSum {
    /// A sum in `tensor`, with nothing in it yet.
    pub fn new(tensor: Tensor) -> Self {
        Self {
            tensor,
            is_empty: true,
        }
    }

    /// Adds a gradient of the same shape; it is widened first.
    pub fn add(&mut self, gradient: &Tensor) {
        no_grad(|| {
            if self.is_empty {
                self.tensor.copy_(gradient);
                return;
            }
            // libtorch widens what it adds into a buffer of its own: not all of it at once.
            let pieces = |t: &Tensor| t.reshape(-1).split(PIECE, 0);
            for (mut sum, gradient) in pieces(&self.tensor).into_iter().zip(pieces(gradient)) {
                sum += gradient;
            }
        });
        self.is_empty = false;
    }

    /// Adds `gradients` (`[n, H]`) to the rows `rows` (`[n]`, i64).
    pub fn add_rows(&mut self, rows: &Tensor, gradients: &Tensor) {
        no_grad(|| {
            if self.is_empty {
                let _ = self.tensor.zero_();
            }
            let wide = gradients.to_kind(self.tensor.kind());
            let _ = self.tensor.index_add_(0, rows, &wide);
        });
        self.is_empty = false;
    }

    /// Makes it zero if nothing was added.
    pub fn settle(&mut self) {
        if self.is_empty {
            let _ = no_grad(|| self.tensor.zero_());
        }
    }
}
