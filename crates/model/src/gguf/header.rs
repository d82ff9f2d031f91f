//! The beginning of a GGUF file, as far as it decides whether the rest can be read: candle reads
//! headers too, but says of a tensor type that it does not know neither its name nor its tensor.

use super::ImportError;
use std::io::{self, Read};
use std::path::Path;

/// Tensor types of ggml by number that are not read here.
const UNREAD: [(u32, &str); 20] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The types that are read.
fn is_read(kind: u32) -> bool {
    matches!(kind, 0..=3 | 6..=15 | 30)
}

/// Refuses one of several files and tensors of types that are not read, by name. A header that does
/// not hold together is left to the reader behind.
///
/// # Errors
/// [`ImportError::Unsupported`].
pub(super) fn check(path: &Path, file: &mut impl Read) -> Result<(), ImportError> {
    let Ok(header) = Header::read(file) else {
        return Ok(());
    };
    let unsupported = |key: &str, problem: String| ImportError::Unsupported {
        path: path.to_owned(),
        key: key.to_owned(),
        problem,
    };
    if header.splits > 1 {
        let problem = format!(
            "is {}: this is one file of a model in several; join them with llama.cpp's \
             `llama-gguf-split --merge FIRST OUT` and import OUT",
            header.splits
        );
        return Err(unsupported("split.count", problem));
    }
    match header.tensors.iter().find(|(_, kind)| !is_read(*kind)) {
        Some((name, kind)) => {
            let known = UNREAD.iter().find(|(number, _)| number == kind);
            let called =
                known.map_or_else(|| format!("type {kind}"), |(_, name)| (*name).to_owned());
            let problem = format!(
                "is stored as {called}, which is not read (F32, F16, BF16, Q4_0 to Q8_1 and Q2_K to \
                 Q8_K are)"
            );
            Err(unsupported(name, problem))
        }
        None => Ok(()),
    }
}

struct Header {
    /// `split.count`, 0 where it is absent.
    splits: u64,
    /// Names and types.
    tensors: Vec<(String, u32)>,
}

impl Header {
    fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut magic = [0; 4];
        file.read_exact(&mut magic)?;
        let version = u32_of(file)?;
        if &magic != b"GGUF" || !(2..=3).contains(&version) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (tensors, pairs) = (u64_of(file)?, u64_of(file)?);
        let mut splits = 0;
        for _ in 0..pairs {
            let key = text_of(file)?;
            let kind = u32_of(file)?;
            let value = value_of(file, kind)?;
            if key == "split.count" {
                splits = value.unwrap_or_default();
            }
        }
        let tensor = |_| {
            let name = text_of(file)?;
            let dimensions = u32_of(file)?;
            for _ in 0..dimensions {
                u64_of(file)?;
            }
            let kind = u32_of(file)?;
            u64_of(file)?; // where it lies
            Ok((name, kind))
        };
        let tensors = (0..tensors).map(tensor).collect::<io::Result<_>>()?;
        Ok(Self { splits, tensors })
    }
}

/// Reads over a value; whole numbers are returned.
fn value_of(file: &mut impl Read, kind: u32) -> io::Result<Option<u64>> {
    let mut whole = [0; 8];
    match kind {
        8 => {
            let length = u64_of(file)?;
            skip(file, length)?;
        }
        9 => {
            let (kind, count) = (u32_of(file)?, u64_of(file)?);
            for _ in 0..count {
                value_of(file, kind)?;
            }
        }
        _ => {
            let width = width(kind).ok_or(io::ErrorKind::InvalidData)?;
            file.read_exact(&mut whole[..width])?;
            let is_whole = ![6, 7, 12].contains(&kind);
            return Ok(is_whole.then(|| u64::from_le_bytes(whole)));
        }
    }
    Ok(None)
}

/// Bytes of a value of fixed size.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn skip(file: &mut impl Read, bytes: u64) -> io::Result<()> {
    match io::copy(&mut file.by_ref().take(bytes), &mut io::sink())? == bytes {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A text of at most 64 KiB, as keys and names are.
fn text_of(file: &mut impl Read) -> io::Result<String> {
    let length = u64_of(file)?;
    if length > 1 << 16 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn u32_of(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn u64_of(file: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
