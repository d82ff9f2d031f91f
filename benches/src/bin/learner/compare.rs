//! How far two gradients are from each other.

use anyhow::{Context, Result, bail};
use safetensors::{SafeTensors, tensor::Dtype};
use std::path::Path;

/// |a − b| / |b| over all tensors of two files.
pub fn relative_difference(a: &Path, b: &Path) -> Result<f64> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (a, b) = (read(a)?, read(b)?);
    let (a, b) = (SafeTensors::deserialize(&a)?, SafeTensors::deserialize(&b)?);
    if a.len() != b.len() {
        bail!(
            "one gradient has {} tensors, the other {}",
            a.len(),
            b.len()
        );
    }
    let (mut apart, mut size) = (0.0, 0.0);
    for (name, of_b) in b.tensors() {
        let of_a = a
            .tensor(&name)
            .with_context(|| format!("no gradient of {name}"))?;
        if of_a.shape() != of_b.shape() || of_a.dtype() != Dtype::F32 || of_b.dtype() != Dtype::F32
        {
            bail!("the gradients of {name} differ in shape or type");
        }
        let values = |bytes: &[u8]| -> Vec<f64> {
            let of = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("chunks of four"));
            bytes.chunks_exact(4).map(|b| f64::from(of(b))).collect()
        };
        for (a, b) in values(of_a.data()).iter().zip(values(of_b.data())) {
            apart += (a - b).powi(2);
            size += b * b;
        }
    }
    Ok((apart / size).sqrt())
}
