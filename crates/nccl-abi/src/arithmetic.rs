//! Sums and maxima of host memory, in the order of ranks.

use half::{bf16, f16};
use std::ffi::c_uint;

/// What every rank handed in, as bytes; how they become one. `None` for element types and operations
/// there are none of.
pub fn reduce(parts: &[&[u8]], element: c_uint, operation: c_uint) -> Option<Vec<u8>> {
    match element {
        0 => fold(
            parts,
            operation,
            |b: [u8; 1]| i8::from_le_bytes(b),
            |v| v.to_le_bytes(),
        ),
        1 => fold(parts, operation, |b: [u8; 1]| b[0], |v| [v]),
        2 => fold(parts, operation, i32::from_le_bytes, i32::to_le_bytes),
        4 => fold(parts, operation, i64::from_le_bytes, i64::to_le_bytes),
        6 => fold(parts, operation, f16::from_le_bytes, f16::to_le_bytes),
        7 => fold(parts, operation, f32::from_le_bytes, f32::to_le_bytes),
        8 => fold(parts, operation, f64::from_le_bytes, f64::to_le_bytes),
        9 => fold(parts, operation, bf16::from_le_bytes, bf16::to_le_bytes),
        _ => None,
    }
}

/// Bytes of an element.
pub fn size(element: c_uint) -> Option<usize> {
    match element {
        0 | 1 | 10 | 11 => Some(1),
        6 | 9 => Some(2),
        2 | 3 | 7 => Some(4),
        4 | 5 | 8 => Some(8),
        _ => None,
    }
}

fn fold<T, const N: usize>(
    parts: &[&[u8]],
    operation: c_uint,
    read: impl Fn([u8; N]) -> T,
    write: impl Fn(T) -> [u8; N],
) -> Option<Vec<u8>>
where
    T: Copy + PartialOrd + std::ops::Add<Output = T>,
{
    let combine: fn(T, T) -> T = match operation {
        0 => |a, b| a + b,
        2 => |a, b| if b > a { b } else { a },
        _ => return None,
    };
    let element = |part: &[u8], at: usize| part[at..].first_chunk().map(|bytes| read(*bytes));
    let (first, others) = parts.split_first()?;
    let mut result = Vec::with_capacity(first.len());
    for at in (0..first.len()).step_by(N) {
        let mut value = element(first, at)?;
        for part in others {
            value = combine(value, element(part, at)?);
        }
        result.extend(write(value));
    }
    Some(result)
}
