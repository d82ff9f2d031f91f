//! How fast a device multiplies matrices: what a step's speed is measured against.

use std::time::Instant;
use tch::{Device, Kind, Tensor, no_grad};

/// Width of the square matrices.
const WIDTH: i64 = 1024;
/// The best of so many: the first ones choose kernels and fill caches.
const TRIES: usize = 5;

/// Floating-point operations per second of a product of large square matrices.
pub(crate) fn matrix_rate(kind: Kind, device: Device) -> f64 {
    let square = || Tensor::ones([WIDTH, WIDTH], (kind, device));
    let (left, right) = (square(), square());
    let time = |_| {
        let start = Instant::now();
        let product = left.matmul(&right);
        let _ = product.double_value(&[0, 0]); // a GPU is asked to finish
        start.elapsed().as_secs_f64()
    };
    let best = no_grad(|| (0..TRIES).map(time).fold(f64::INFINITY, f64::min));
    2.0 * (WIDTH as f64).powi(3) / best
}
