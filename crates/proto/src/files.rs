//! Folders on their way: all files of one, one behind the other, are cut into chunks as weights are.

use crate::chunks::{Chunks, Digest, SourceFault};
use crate::cluster::BlobRef;
use crate::codec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The files of a folder, to be pulled from their owner or from any node that holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// Length in bytes of each file, by its path within the folder, with forward slashes.
    pub files: BTreeMap<String, u64>,
    /// [`FileList::hash`]. It names what the files hold, wherever they lie.
    pub hash: Digest,
    /// The encoded [`FileList`], at the owner.
    pub list: BlobRef,
    /// The number under which the owner lends the bytes of all files, in the order of their paths.
    pub lent: u64,
}

/// The hashes of a folder's chunks. It is as long as 32 bytes for every chunk, so orders name it only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// As [`FileSet::files`].
    pub files: BTreeMap<String, u64>,
    /// Chunks of all files, one behind the other in the order of their paths.
    pub chunks: Chunks,
}

/// A list that contradicts what was said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// It is not the list that the order names.
    #[error("the list of the files is damaged: its hash is another")]
    Hash,
    /// Lengths and counts do not fit each other.
    #[error("the list of the files is wrong: its lengths do not fit")]
    Lengths,
}

impl FileSet {
    /// Length of all files in bytes.
    pub fn bytes(&self) -> u64 {
        let lengths = self.files.values();
        lengths.fold(0, |sum, len| sum.saturating_add(*len))
    }
}

impl FileList {
    /// Hash of the encoded list.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn hash(&self) -> Result<Digest, codec::CodecError> {
        Ok(Digest::of(&codec::encode(self)?))
    }

    /// Checks that it is the list of `set`, and that its numbers fit each other.
    ///
    /// # Errors
    /// When that is not so.
    pub fn check(&self, set: &FileSet) -> Result<(), BadList> {
        if self.hash().ok() != Some(set.hash) {
            return Err(BadList::Hash);
        }
        let mut lengths = self.files.values();
        let sum = lengths.try_fold(0u64, |sum, len| sum.checked_add(*len));
        let fits = self.files == set.files && sum == Some(self.chunks.len) && self.chunks.fits();
        fits.then_some(()).ok_or(BadList::Lengths)
    }
}

/// A node asks the controller whom to pull the files of this hash from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRequest {
    /// [`FileSet::hash`].
    pub hash: Digest,
    /// The question.
    pub need: SourceNeed,
}

/// A node's question about the way of some files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceNeed {
    /// Its source.
    First,
    /// Another source, for the one that it has fails.
    Other(SourceFault),
    /// Nothing: it holds the files, and gives them on.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> FileList {
        let chunks = Chunks {
            len: 10,
            size: 4,
            hashes: ["abcd", "efgh", "ij"]
                .map(|text| Digest::of(text.as_bytes()))
                .into(),
        };
        let files = [("a".to_owned(), 3), ("b".to_owned(), 7)].into();
        FileList { files, chunks }
    }

    fn set_of(list: &FileList) -> FileSet {
        let list_ref = BlobRef {
            id: 1,
            len: 1,
            crc32: 1,
        };
        FileSet {
            files: list.files.clone(),
            hash: list.hash().unwrap(),
            list: list_ref,
            lent: 2,
        }
    }

    #[test]
    fn a_list_that_was_changed_or_does_not_fit_is_seen_through() {
        let whole = list();
        let set = set_of(&whole);
        assert_eq!(set.bytes(), 10);
        assert_eq!(whole.check(&set), Ok(()));
        let mut other = whole.clone();
        other.chunks.hashes.swap(0, 1);
        assert_eq!(other.check(&set), Err(BadList::Hash));
        let lengths: [fn(&mut FileList); 4] = [
            |list| list.chunks.hashes.truncate(2),
            |list| list.chunks.size = 0,
            |list| list.chunks.len += 1,
            |list| list.files.extend([("c".to_owned(), u64::MAX)]),
        ];
        for change in lengths {
            let mut wrong = whole.clone();
            change(&mut wrong);
            let named = set_of(&wrong);
            assert_eq!(wrong.check(&named), Err(BadList::Lengths), "{wrong:?}");
        }
        let mut other = set.clone();
        other.files.insert("a".to_owned(), 4);
        assert_eq!(whole.check(&other), Err(BadList::Lengths));
    }
}
