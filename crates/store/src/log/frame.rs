//! The bytes of a log file: its header, and frames around records.

use proto::codec::MAX_VALUE_BYTES;
use std::fmt;

const MAGIC: [u8; 8] = *b"SWIRLLOG";
const VERSION: u32 = 1;

/// What a log file begins with: magic and version.
pub(super) const FILE_HEADER: [u8; 12] = {
    let [a, b, c, d] = VERSION.to_le_bytes();
    let [m0, m1, m2, m3, m4, m5, m6, m7] = MAGIC;
    [m0, m1, m2, m3, m4, m5, m6, m7, a, b, c, d]
};

/// What a frame begins with: rare in text and in token ids, so that a search finds frames fast.
const MARK: [u8; 4] = [0xf5, b'S', b'W', 0xfa];

/// Mark, length, batch, checksum.
pub(super) const HEADER_BYTES: usize = 20;

/// What is wrong with a file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// A crash came before it was complete: there is no record.
    Torn,
    Foreign,
    Version(u32),
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn => f.write_str("its header is incomplete, although newer files follow it"),
            Self::Foreign => f.write_str("it does not begin as one; move it out of the folder"),
            Self::Version(found) => write!(
                f,
                "it has format version {found} and this program reads version {VERSION}; use the \
                 program that wrote it"
            ),
        }
    }
}

pub(super) fn check_header(bytes: &[u8]) -> Result<(), HeaderFault> {
    // File systems may give a file its length before its bytes: then it reads as zeros.
    if FILE_HEADER.starts_with(bytes) && bytes.len() < FILE_HEADER.len()
        || bytes.iter().all(|&byte| byte == 0)
    {
        return Err(HeaderFault::Torn);
    }
    if !bytes.starts_with(&MAGIC) {
        return Err(HeaderFault::Foreign);
    }
    match bytes.get(MAGIC.len()..).and_then(u32_at) {
        Some(VERSION) => Ok(()),
        Some(other) => Err(HeaderFault::Version(other)),
        None => Err(HeaderFault::Foreign),
    }
}

/// A frame whose checksum holds.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) payload: &'a [u8],
    /// Position of the first frame of the batch.
    pub(super) batch: u64,
    /// Position behind the frame.
    pub(super) end: usize,
}

/// Appends a frame of a batch that begins at position `batch` of the file.
pub(super) fn write(payload: &[u8], batch: u64, out: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("a record is no larger than the codec's limit");
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&checksum(len, batch, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Reads the frame at a position; says what is wrong with it otherwise.
pub(super) fn read(bytes: &[u8], at: usize) -> Result<Frame<'_>, String> {
    let rest = &bytes[at..];
    let len = payload_len(rest)?;
    let batch = rest
        .get(8..)
        .and_then(u64_at)
        .ok_or("the record is cut off")?;
    let crc = rest
        .get(16..)
        .and_then(u32_at)
        .ok_or("the record is cut off")?;
    let payload = rest
        .get(HEADER_BYTES..HEADER_BYTES + len)
        .ok_or("the record is cut off")?;
    if checksum(len as u32, batch, payload) != crc {
        return Err("its checksum does not match".to_owned());
    }
    Ok(Frame {
        payload,
        batch,
        end: at + HEADER_BYTES + len,
    })
}

/// The length of the payload of the frame that `bytes` begins with.
pub(super) fn payload_len(bytes: &[u8]) -> Result<usize, String> {
    if !bytes.starts_with(&MARK) {
        return Err("no record begins here".to_owned());
    }
    let len = bytes
        .get(4..)
        .and_then(u32_at)
        .ok_or("the record is cut off")? as usize;
    if len > MAX_VALUE_BYTES {
        return Err(format!("a record of {len} bytes is larger than any"));
    }
    Ok(len)
}

/// Whether behind the damaged frame at `at` there is an intact one of a batch that was begun after
/// it: if so, the damaged frame was once flushed to disk whole.
pub(super) fn later_batch_follows(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len())
        .filter(|&position| bytes[position] == MARK[0] && bytes[position..].starts_with(&MARK))
        .filter_map(|position| read(bytes, position).ok())
        .any(|frame| frame.batch > at as u64)
}

fn checksum(len: u32, batch: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(&batch.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn u32_at(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_le_bytes)
}
