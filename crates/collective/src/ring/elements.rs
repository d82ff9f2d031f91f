//! Arithmetic on elements as they come from the wire.

use super::wire::Wire;
use crate::call::Reduce;

/// Elements that can be reduced.
pub(super) trait Element: Copy + PartialOrd {
    /// Bytes in memory.
    const SIZE: usize;

    fn read(bytes: &[u8]) -> Self;

    fn add(self, other: Self) -> Self;

    /// A number that is none stays none, as in libtorch's `maximum`.
    fn largest(self, other: Self) -> Self;
}

macro_rules! element {
    ($type:ty) => {
        impl Element for $type {
            const SIZE: usize = size_of::<Self>();

            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(*bytes.first_chunk().expect("a whole element"))
            }

            fn add(self, other: Self) -> Self {
                self + other
            }

            fn largest(self, other: Self) -> Self {
                match self > other || self.is_nan() {
                    true => self,
                    false => other,
                }
            }
        }
    };
}

element!(f32);
element!(f64);

/// Reduces elements of a frame into those of a tensor.
pub(super) fn reduce<E: Element>(own: &mut [E], frame: &[u8], reduce: Reduce) {
    let others = frame.chunks_exact(E::SIZE).map(E::read);
    match reduce {
        Reduce::Sum => own.iter_mut().zip(others).for_each(|(a, b)| *a = a.add(b)),
        Reduce::Max => own
            .iter_mut()
            .zip(others)
            .for_each(|(a, b)| *a = a.largest(b)),
    }
}

/// The same for f32 that travels as bf16.
pub(super) fn reduce_bf16(own: &mut [f32], frame: &[u8], reduce: Reduce) {
    let others = frame.as_chunks::<2>().0.iter().map(widen);
    match reduce {
        Reduce::Sum => own.iter_mut().zip(others).for_each(|(a, b)| *a += b),
        Reduce::Max => own
            .iter_mut()
            .zip(others)
            .for_each(|(a, b)| *a = a.largest(b)),
    }
}

pub(super) fn replace_bf16(own: &mut [f32], frame: &[u8]) {
    let others = frame.as_chunks::<2>().0.iter().map(widen);
    own.iter_mut().zip(others).for_each(|(a, b)| *a = b);
}

/// Rounds in place: who completes a sum keeps what the others will get.
pub(super) fn round_bf16(own: &mut [f32]) {
    for value in own {
        *value = widen(&narrow(*value));
    }
}

/// As bf16, for the wire.
pub(super) fn encode_bf16(own: &[f32], frame: &mut Vec<u8>) {
    frame.clear();
    frame.extend(own.iter().flat_map(|value| narrow(*value)));
}

fn widen(bytes: &[u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)
}

/// To the nearest, ties to even.
fn narrow(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = match value.is_nan() {
        true => bits | 0x40_0000,
        false => rounded,
    };
    ((kept >> 16) as u16).to_le_bytes()
}

/// Bytes of an element of f32 on the wire.
pub(super) fn f32_on(wire: Wire) -> usize {
    match wire {
        Wire::F32 => 4,
        Wire::Bf16 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::{Kind, Tensor};

    proptest! {
        #[test]
        fn bf16_is_rounded_as_libtorch_does(bits in prop::collection::vec(any::<u32>(), 1..50)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let expected = Tensor::from_slice(&values).to_kind(Kind::BFloat16).to_kind(Kind::Float);
            let expected = Vec::<f32>::try_from(expected).unwrap();
            let mut found = values.clone();
            round_bf16(&mut found);
            for ((value, found), expected) in values.iter().zip(found).zip(expected) {
                let same = found == expected || (found.is_nan() && expected.is_nan());
                prop_assert!(same, "{value}: {found} and not {expected}");
            }
        }

        #[test]
        fn frames_come_back_as_they_were(values in prop::collection::vec(any::<f32>(), 0..50)) {
            let mut rounded = values.clone();
            round_bf16(&mut rounded);
            let mut frame = Vec::new();
            encode_bf16(&values, &mut frame);
            let mut found = vec![0.0; values.len()];
            replace_bf16(&mut found, &frame);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(&rounded));
        }
    }

    #[test]
    fn the_largest_of_no_number_is_no_number() {
        for pair in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let mut own = [pair[0]];
            reduce(&mut own, &pair[1].to_le_bytes(), Reduce::Max);
            assert!(own[0].is_nan());
        }
        let mut own = [2.0, -3.0f64];
        let frame = [1.0f64.to_le_bytes(), (-2.0f64).to_le_bytes()].concat();
        reduce(&mut own, &frame, Reduce::Max);
        assert_eq!(own, [2.0, -2.0]);
        reduce(&mut own, &frame, Reduce::Sum);
        assert_eq!(own, [3.0, -4.0]);
    }
}
