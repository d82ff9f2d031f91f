//! Bytes between two neighbours: frames of a header and what it announces.
//!
//! ```text
//! what u8 | detail u8 | kind u8 | wire u8 | rank u32 | number u64 | length u64, little-endian
//! call:     detail operation, kind and wire types, rank the root, length in elements
//! data:     length in bytes, which follow
//! failure:  detail which, rank whose, length in bytes of the texts that follow, split by NUL
//! ```

use crate::CollectiveError;
use crate::call::{Call, Operation, Reduce};
use std::io::{self, IoSlice, Write};
use std::time::Duration;
use tch::Kind;

/// How f32 travels while it is being reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// As it is.
    #[default]
    F32,
    /// Rounded to bf16, in half of the bytes. Sums are kept in f32 and rounded where they are sent;
    /// every member ends up with the same bits all the same.
    Bf16,
}

pub(crate) const HEADER: usize = 24;

/// Longest texts of a failure, in bytes.
const TEXTS: u64 = 4096;

const KINDS: [Kind; 10] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

/// A frame's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Header {
    /// What a member asks for, and its how-manieth call that is.
    Call { number: u64, call: Call, wire: Wire },
    /// A part of the tensor.
    Data { number: u64, bytes: u64 },
    /// The group is over; so many bytes of texts say why.
    Failure { detail: u8, rank: u32, bytes: u64 },
}

impl Header {
    /// `None` for tensors that have no place on the wire.
    pub(crate) fn encode(&self) -> Option<[u8; HEADER]> {
        let (what, detail, kind, wire, rank, number, length) = match self {
            Self::Call { number, call, wire } => {
                let (detail, root) = match call.operation {
                    Operation::AllReduce(Reduce::Sum) => (0, 0),
                    Operation::AllReduce(Reduce::Max) => (1, 0),
                    Operation::ReduceScatter(Reduce::Sum) => (2, 0),
                    Operation::ReduceScatter(Reduce::Max) => (3, 0),
                    Operation::AllGather => (4, 0),
                    Operation::Broadcast { root } => (5, root as u32),
                };
                let kind = KINDS.iter().position(|kind| *kind == call.kind)? as u8;
                let wire = u8::from(*wire == Wire::Bf16);
                (1, detail, kind, wire, root, *number, call.elements as u64)
            }
            Self::Data { number, bytes } => (2, 0, 0, 0, 0, *number, *bytes),
            Self::Failure {
                detail,
                rank,
                bytes,
            } => (3, *detail, 0, 0, *rank, 0, *bytes),
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&[what, detail, kind, wire]);
        header[4..8].copy_from_slice(&rank.to_le_bytes());
        header[8..16].copy_from_slice(&number.to_le_bytes());
        header[16..].copy_from_slice(&length.to_le_bytes());
        Some(header)
    }

    /// # Errors
    /// The reason why these bytes are no header.
    pub(crate) fn decode(header: &[u8; HEADER]) -> Result<Self, String> {
        let [what, detail, kind, wire, ..] = *header;
        let u64_at = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("fits"));
        let rank = u32::from_le_bytes(*header[4..].first_chunk().expect("fits"));
        let (number, length) = (u64_at(8), u64_at(16));
        match what {
            1 => {
                let operation = match detail {
                    0 => Operation::AllReduce(Reduce::Sum),
                    1 => Operation::AllReduce(Reduce::Max),
                    2 => Operation::ReduceScatter(Reduce::Sum),
                    3 => Operation::ReduceScatter(Reduce::Max),
                    4 => Operation::AllGather,
                    5 => Operation::Broadcast {
                        root: rank as usize,
                    },
                    other => return Err(format!("there is no operation {other}")),
                };
                let kind = KINDS.get(usize::from(kind)).copied();
                let call = Call {
                    operation,
                    elements: usize::try_from(length).map_err(|error| error.to_string())?,
                    kind: kind.ok_or("an element type that does not exist")?,
                };
                let wire = match wire {
                    0 => Wire::F32,
                    _ => Wire::Bf16,
                };
                Ok(Self::Call { number, call, wire })
            }
            2 => Ok(Self::Data {
                number,
                bytes: length,
            }),
            3 if length <= TEXTS => Ok(Self::Failure {
                detail,
                rank,
                bytes: length,
            }),
            3 => Err(format!("{length} bytes of reasons")),
            other => Err(format!("a frame cannot begin with {other}")),
        }
    }
}

/// The frame that tells the next member why the group is over.
pub(super) fn failure_frame(error: &CollectiveError) -> Vec<u8> {
    let (detail, rank, texts) = match error {
        CollectiveError::Gone { rank } => (0, *rank, String::new()),
        CollectiveError::Mismatch {
            rank,
            found,
            expected,
        } => (1, *rank, format!("{found}\0{expected}")),
        CollectiveError::TimedOut { rank, after } => (2, *rank, after.as_millis().to_string()),
        CollectiveError::Protocol { rank, reason } => (3, *rank, reason.clone()),
        CollectiveError::Aborted(reason) => (4, 0, reason.clone()),
        // A ring has none of these.
        CollectiveError::Overdue { .. }
        | CollectiveError::Nccl { .. }
        | CollectiveError::Gpu { .. }
        | CollectiveError::Unavailable(_) => (4, 0, error.to_string()),
        CollectiveError::Unsupported(reason) => (5, 0, reason.clone()),
        CollectiveError::Unlike(what) => (6, 0, what.clone()),
    };
    let texts = &texts.as_bytes()[..texts.len().min(TEXTS as usize)];
    let header = Header::Failure {
        detail,
        rank: rank as u32,
        bytes: texts.len() as u64,
    };
    let header = header.encode().expect("failures have a place on the wire");
    [&header[..], texts].concat()
}

/// The error that a failure frame tells of.
pub(super) fn failure_of(detail: u8, rank: u32, texts: &[u8]) -> CollectiveError {
    let rank = rank as usize;
    let text = String::from_utf8_lossy(texts).into_owned();
    match detail {
        0 => CollectiveError::Gone { rank },
        1 => {
            let (found, expected) = text.split_once('\0').unwrap_or((&text, ""));
            CollectiveError::Mismatch {
                rank,
                found: found.to_owned(),
                expected: expected.to_owned(),
            }
        }
        2 => CollectiveError::TimedOut {
            rank,
            after: Duration::from_millis(text.parse().unwrap_or(0)),
        },
        3 => CollectiveError::Protocol { rank, reason: text },
        5 => CollectiveError::Unsupported(text),
        6 => CollectiveError::Unlike(text),
        _ => CollectiveError::Aborted(text),
    }
}

/// Writes two pieces, in one go where the system takes them.
pub(super) fn write_both(to: &mut dyn Write, first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < first.len() {
        let pieces = [IoSlice::new(&first[written..]), IoSlice::new(second)];
        match to.write_vectored(&pieces) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    to.write_all(&second[written - first.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let operations = [
            Operation::AllReduce(Reduce::Sum),
            Operation::AllReduce(Reduce::Max),
            Operation::ReduceScatter(Reduce::Sum),
            Operation::ReduceScatter(Reduce::Max),
            Operation::AllGather,
            Operation::Broadcast { root: 3 },
        ];
        let calls = operations.into_iter().zip(KINDS).map(|(operation, kind)| {
            let call = Call {
                operation,
                elements: 12,
                kind,
            };
            let wire = Wire::Bf16;
            Header::Call {
                number: 7,
                call,
                wire,
            }
        });
        let others = [
            Header::Data {
                number: 1 << 40,
                bytes: 5,
            },
            Header::Failure {
                detail: 1,
                rank: 2,
                bytes: 3,
            },
        ];
        for header in calls.chain(others) {
            let bytes = header.encode().unwrap();
            assert_eq!(Header::decode(&bytes), Ok(header));
        }
    }

    #[test]
    fn failures_come_back_as_they_were() {
        let errors = [
            CollectiveError::Gone { rank: 4 },
            CollectiveError::Mismatch {
                rank: 1,
                found: "a".into(),
                expected: "b".into(),
            },
            CollectiveError::TimedOut {
                rank: 0,
                after: Duration::from_millis(1500),
            },
            CollectiveError::Protocol {
                rank: 9,
                reason: "what".into(),
            },
            CollectiveError::Aborted("why".into()),
            CollectiveError::Unsupported("how".into()),
            CollectiveError::Unlike("what".into()),
        ];
        for error in errors {
            let frame = failure_frame(&error);
            let header = Header::decode(frame.first_chunk().unwrap()).unwrap();
            let Header::Failure { detail, rank, .. } = header else {
                panic!("{header:?}");
            };
            assert_eq!(failure_of(detail, rank, &frame[HEADER..]), error);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_decoded_or_refused(bytes in any::<[u8; HEADER]>()) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert!(header.encode().is_some());
            }
        }
    }
}
