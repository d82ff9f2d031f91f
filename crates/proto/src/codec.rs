//! The one wire codec: bincode in its legacy layout (fixed-width little-endian integers), with a
//! limit on what a decoder will read. Messages, log records and checkpoints all pass through here.

use serde::{Serialize, de::DeserializeOwned};

/// Largest encoded value, in bytes. A trajectory of 32,768 tokens with its log-probabilities takes
/// well under 1 MiB; anything near this limit is damage or an attack.
pub const MAX_VALUE_BYTES: usize = 64 << 20;

fn layout() -> impl bincode::config::Config {
    bincode::config::legacy().with_limit::<MAX_VALUE_BYTES>()
}

/// Why a value could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be written, or is larger than [`MAX_VALUE_BYTES`]: split it.
    #[error("cannot encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not a value of this type: damaged, or written by another version.
    #[error("cannot decode: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// The bytes hold a value and then something else.
    #[error("cannot decode: {0} bytes are left over behind the value")]
    Trailing(usize),
}

/// Encodes a value.
///
/// # Errors
/// When the value's type cannot be written, which is a bug, or the value is too large.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::serde::encode_to_vec(value, layout())?)
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// When the bytes are not exactly one value of this type. Never panics and never allocates more
/// than [`MAX_VALUE_BYTES`], whatever the bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, layout())?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;
    use proptest::prelude::*;

    fn sample() -> Trajectory {
        Trajectory {
            run: "r".into(),
            item: ItemId {
                question: "q".into(),
                sample: 3,
            },
            question: Question {
                id: "q".into(),
                dataset: "d".into(),
                split: "train".into(),
                question: "1+1?".into(),
                answer: "2".into(),
                answer_aliases: vec!["two".into()],
                reference_steps: vec![],
            },
            model: "m".into(),
            tokens: vec![1, 2, 3, 4],
            steps: vec![Step {
                sampled: Span { start: 2, end: 4 },
                logprobs: vec![-0.5, -0.25],
                weight_version: WeightVersion(1),
                finish: FinishReason::StopText,
                text: "<answer>2</answer>".into(),
                thought: String::new(),
                action: Action::Answer("2".into()),
                observation: None,
                verdicts: vec![],
            }],
            end: TrajectoryEnd::Answered,
            outcome: None,
        }
    }

    #[test]
    fn a_trajectory_comes_back_as_it_was() {
        let trajectory = sample();
        trajectory.validate().unwrap();
        let bytes = encode(&trajectory).unwrap();
        assert_eq!(decode::<Trajectory>(&bytes).unwrap(), trajectory);
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let bytes = encode(&sample()).unwrap();
        for end in 0..bytes.len() {
            assert!(
                decode::<Trajectory>(&bytes[..end]).is_err(),
                "{end} bytes were accepted"
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(
            decode::<Trajectory>(&longer),
            Err(CodecError::Trailing(1))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Trajectory>(&bytes);
        }
    }

    #[test]
    fn the_mask_is_one_on_sampled_tokens_only() {
        assert_eq!(sample().loss_mask(), [0, 0, 1, 1]);
    }

    #[test]
    fn a_missing_or_infinite_logprob_is_refused() {
        let mut missing = sample();
        missing.steps[0].logprobs.pop();
        assert!(missing.validate().is_err());
        let mut infinite = sample();
        infinite.steps[0].logprobs[0] = f32::NEG_INFINITY;
        assert!(infinite.validate().is_err());
    }
}
