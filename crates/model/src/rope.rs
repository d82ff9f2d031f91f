//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864), in the half-split layout of
//! Hugging Face checkpoints.

use crate::spec::{RopeScaling, RopeSpec};
use std::f64::consts::PI;
use tch::{Device, Kind, Tensor};

/// The frequencies of one rotary embedding.
#[derive(Debug)]
pub(crate) struct Rotary {
    frequencies: Tensor, // [D / 2], f32, radians per position
}

/// The angles of the positions of one call.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor, // [B, 1, T, D]
    sin: Tensor, // [B, 1, T, D]
}

impl Rotary {
    pub(crate) fn new(spec: &RopeSpec, head_dim: i64, device: Device) -> Self {
        let frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|i| frequency(spec, 2.0 * i as f64 / head_dim as f64) as f32)
            .collect();
        Self {
            frequencies: Tensor::from_slice(&frequencies).to_device(device),
        }
    }

    /// Angles for positions `[B, T]`.
    pub(crate) fn at(&self, positions: &Tensor, kind: Kind) -> Rotation {
        let angles = positions.to_kind(Kind::Float).unsqueeze(-1) * &self.frequencies; // [B, T, D / 2]
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1); // [B, 1, T, D]
        Rotation {
            cos: angles.cos().to_kind(kind),
            sin: angles.sin().to_kind(kind),
        }
    }
}

impl Rotation {
    /// Rotates `[B, H, T, D]`.
    pub(crate) fn apply(&self, x: &Tensor) -> Tensor {
        let halves = x.chunk(2, -1);
        let turned = Tensor::cat(&[&halves[1].neg(), &halves[0]], -1);
        x * &self.cos + turned * &self.sin
    }
}

/// Frequency in radians per position for exponent `2i / D`.
fn frequency(spec: &RopeSpec, exponent: f64) -> f64 {
    let plain = spec.theta.powf(-exponent);
    match spec.scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let wavelength = 2.0 * PI / plain;
            let ramp = (original_context / wavelength - low_freq_factor)
                / (high_freq_factor - low_freq_factor);
            let keep = ramp.clamp(0.0, 1.0);
            keep * plain + (1.0 - keep) * plain / factor
        }
    }
}
