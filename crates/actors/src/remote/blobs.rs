//! Bytes that this node gives out in bulk: weights, and files of folders.

use super::joined::{Joined, Stamp, paths_below};
use super::on_threads::on_threads;
use crate::ports::EngineError;
use async_trait::async_trait;
use bytes::Bytes;
use proto::chunks::{CHUNK_BYTES, Chunks, Digest};
use proto::cluster::BlobRef;
use proto::files::{FileList, FileSet};
use proto::{WeightSnapshot, codec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime};
use transport::{Connection, bulk};

/// Folders whose hashes are remembered, so that lending one again reads nothing.
const MOST_SURVEYS: usize = 16;

/// Time after which every file system gives a change another time than the one before.
const SETTLED: Duration = Duration::from_millis(50);

/// Blobs that are lent out. Clones are the same.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    chunk_bytes: u32,
    lent: Mutex<Lent>,
}

#[derive(Default)]
struct Lent {
    next: u64,
    blobs: BTreeMap<u64, Blob>,
    given_bytes: u64,
    hashed_bytes: u64,
    /// The one that was of use last is the last.
    surveys: Vec<Survey>,
    /// Files that are lent, by their hash. The same files are lent once at a time, so that the numbers
    /// they have follow from the loans alone, not from whether they had to be read again.
    sets: BTreeMap<Digest, (FileSet, Weak<Lending>)>,
}

/// Files that were read. Their stamps say which they are, wherever they lie.
struct Survey {
    stamps: Stamps,
    /// A file that is changed from now on has another stamp. That is not so just after a change: clocks
    /// of file systems tick coarsely.
    is_settled: bool,
    list: Arc<FileList>,
}

type Stamps = BTreeMap<String, Stamp>;

#[derive(Clone)]
enum Blob {
    Memory(Bytes),
    Files(Arc<OpenFiles>),
}

/// Files that can be read whatever becomes of their names.
struct OpenFiles {
    joined: Joined,
    files: Vec<Arc<File>>,
}

/// Blobs can be pulled as long as it, or a clone of it, lives.
#[derive(Clone)]
pub struct Loan(Arc<Lending>);

struct Lending {
    blobs: Blobs,
    ids: Vec<u64>,
    /// Of the files that are lent.
    hash: Option<Digest>,
}

impl Drop for Lending {
    fn drop(&mut self) {
        let mut lent = self.blobs.lock();
        for id in &self.ids {
            lent.blobs.remove(id);
        }
        // The same files may have been lent again in this moment.
        if let Some(hash) = self.hash
            && let Some((_, lending)) = lent.sets.get(&hash)
            && lending.strong_count() == 0
        {
            lent.sets.remove(&hash);
        }
    }
}

/// Weights without a copy.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Blobs {
    fn default() -> Self {
        Self::new(CHUNK_BYTES)
    }
}

impl Blobs {
    /// Nothing is lent yet. Files are cut into chunks of so many bytes.
    pub fn new(chunk_bytes: u32) -> Self {
        Self(Arc::new(Inner {
            chunk_bytes: chunk_bytes.max(1),
            lent: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Lent> {
        self.0.lent.lock().expect("no holder panics")
    }

    /// Lends the bytes of a snapshot.
    pub fn lend_weights(&self, weights: &WeightSnapshot) -> (BlobRef, Loan) {
        let (len, crc32) = (weights.bytes.len() as u64, weights.manifest.checksum);
        let (id, loan) = self.lend_memory(weights.bytes.clone());
        (BlobRef { id, len, crc32 }, loan)
    }

    /// Lends bytes; returns their number.
    pub(super) fn lend_memory(&self, bytes: Arc<Vec<u8>>) -> (u64, Loan) {
        let blob = Blob::Memory(Bytes::from_owner(SharedBytes(bytes)));
        let id = self.lock().add(blob);
        (id, self.loan(vec![id], None))
    }

    /// Bytes that were given out so far.
    pub fn given_bytes(&self) -> u64 {
        self.lock().given_bytes
    }

    /// Bytes of files that were read for their hashes so far.
    pub fn hashed_bytes(&self) -> u64 {
        self.lock().hashed_bytes
    }

    /// Whether files of this hash are lent.
    pub(super) fn lends(&self, hash: Digest) -> bool {
        let lent = self.lock();
        let lending = lent.sets.get(&hash);
        lending.is_some_and(|(_, lending)| lending.strong_count() > 0)
    }

    /// Lends every file below a folder. Blocks: it reads them all for their hashes, unless it has done
    /// so before and none has changed since. Files that are lent already have the same numbers, whichever
    /// folder they lie in.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn lend_folder(&self, folder: &Path) -> io::Result<(FileSet, Loan)> {
        self.lend_folders(&[("", folder)])
    }

    /// Lends the files of several folders as one, each below a path of its own, or below none. Blocks as
    /// [`Blobs::lend_folder`] does.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn lend_folders(&self, folders: &[(&str, &Path)]) -> io::Result<(FileSet, Loan)> {
        self.lend_at(folders, SystemTime::now())
    }

    fn lend_at(&self, folders: &[(&str, &Path)], now: SystemTime) -> io::Result<(FileSet, Loan)> {
        let (opened, stamps) = open_all(folders)?;
        let list = match self.known(&stamps) {
            Some(list) => list,
            None => {
                let list = Arc::new(self.read(&opened, &stamps)?);
                let is_settled = stamps.values().all(|stamp| stamp.is_older(SETTLED, now));
                self.remember(Survey {
                    stamps,
                    is_settled,
                    list: list.clone(),
                });
                list
            }
        };
        let encoded = codec::encode(list.as_ref()).map_err(io::Error::other)?;
        Ok(self.lend_files(&list, encoded, opened))
    }

    /// Lends files, unless files of the same hash are lent already.
    fn lend_files(&self, list: &FileList, encoded: Vec<u8>, opened: OpenFiles) -> (FileSet, Loan) {
        let hash = Digest::of(&encoded);
        let mut lent = self.lock();
        if let Some((set, lending)) = lent.sets.get(&hash)
            && let Some(lending) = lending.upgrade()
        {
            return (set.clone(), Loan(lending));
        }
        let (len, crc32) = (encoded.len() as u64, crc32fast::hash(&encoded));
        let id = lent.add(Blob::Memory(encoded.into()));
        let set = FileSet {
            files: list.files.clone(),
            hash,
            list: BlobRef { id, len, crc32 },
            lent: lent.add(Blob::Files(Arc::new(opened))),
        };
        let loan = self.loan(vec![id, set.lent], Some(hash));
        let lending = Arc::downgrade(&loan.0);
        lent.sets.insert(hash, (set.clone(), lending));
        (set, loan)
    }

    /// Spares the reading of a folder whose files have just come, and were checked, by this list.
    pub(super) fn know(&self, folder: &Path, list: Arc<FileList>) -> io::Result<()> {
        if list.chunks.size != self.0.chunk_bytes {
            return Ok(());
        }
        let (_, stamps) = open_all(&[("", folder)])?;
        if lengths(&stamps) == list.files {
            self.remember(Survey {
                // Nobody else knows of it yet.
                is_settled: true,
                stamps,
                list,
            });
        }
        Ok(())
    }

    /// The hashes of a folder that has not changed since it was read.
    fn known(&self, stamps: &Stamps) -> Option<Arc<FileList>> {
        let mut lent = self.lock();
        let is_it = |survey: &Survey| survey.is_settled && survey.stamps == *stamps;
        let found = lent.surveys.iter().position(is_it)?;
        let survey = lent.surveys.remove(found);
        let list = survey.list.clone();
        lent.surveys.push(survey);
        Some(list)
    }

    fn remember(&self, survey: Survey) {
        let surveys = &mut self.lock().surveys;
        surveys.retain(|known| known.stamps != survey.stamps);
        surveys.push(survey);
        let old = surveys.len().saturating_sub(MOST_SURVEYS);
        surveys.drain(..old);
    }

    /// Hashes all files.
    fn read(&self, opened: &OpenFiles, stamps: &Stamps) -> io::Result<FileList> {
        let files = lengths(stamps);
        let (len, size) = (files.values().sum(), self.0.chunk_bytes);
        let mut chunks = Chunks {
            len,
            size,
            hashes: Vec::new(),
        };
        let hash = |index| {
            let bytes = opened.read(chunks.range(index))?;
            io::Result::Ok(Digest::of(&bytes))
        };
        let hashes = on_threads(Chunks::count(len, size), hash);
        chunks.hashes = hashes.into_iter().collect::<io::Result<_>>()?;
        self.lock().hashed_bytes += len;
        Ok(FileList { files, chunks })
    }

    fn loan(&self, ids: Vec<u64>, hash: Option<Digest>) -> Loan {
        let blobs = self.clone();
        Loan(Arc::new(Lending { blobs, ids, hash }))
    }
}

impl Lent {
    fn add(&mut self, blob: Blob) -> u64 {
        self.next += 1;
        self.blobs.insert(self.next, blob);
        self.next
    }
}

fn lengths(stamps: &Stamps) -> BTreeMap<String, u64> {
    let stamps = stamps.iter();
    stamps
        .map(|(path, stamp)| (path.clone(), stamp.len()))
        .collect()
}

fn open_all(folders: &[(&str, &Path)]) -> io::Result<(OpenFiles, Stamps)> {
    let mut opened = BTreeMap::new();
    for (below, folder) in folders {
        for path in paths_below(folder)? {
            let file = File::open(folder.join(&path))?;
            let stamp = Stamp::of(&file.metadata()?);
            let path = match below.is_empty() {
                true => path,
                false => format!("{below}/{path}"),
            };
            opened.insert(path, (stamp, Arc::new(file)));
        }
    }
    let stamps = opened
        .iter()
        .map(|(path, (stamp, _))| (path.clone(), *stamp));
    let stamps: Stamps = stamps.collect();
    let files = opened.into_values().map(|(_, file)| file).collect();
    let joined = Joined::new(&lengths(&stamps));
    Ok((OpenFiles { joined, files }, stamps))
}

impl OpenFiles {
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.joined
            .read(range, |number| Ok(self.files[number].clone()))
    }
}

#[async_trait]
impl bulk::Source for Blobs {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let blob = {
            let mut lent = self.lock();
            lent.given_bytes += range.end.saturating_sub(range.start);
            lent.blobs.get(&id).cloned()
        };
        let ends = || format!("blob {id} ends before byte {}", range.end);
        match blob.ok_or_else(|| format!("there is no blob {id} (any more)"))? {
            Blob::Memory(bytes) => {
                let end = usize::try_from(range.end).map_err(|_| ends())?;
                match end <= bytes.len() && range.start <= range.end {
                    true => Ok(bytes.slice(range.start as usize..end)),
                    false => Err(ends()),
                }
            }
            Blob::Files(files) => {
                if range.end < range.start {
                    return Err(ends());
                }
                let read = crate::blocking::run(move || files.read(range)).await;
                let read = read.map_err(|error| error.to_string())?;
                Ok(read.map_err(|error| error.to_string())?.into())
            }
        }
    }
}

/// Why nothing was brought.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// The transfer broke off, or what came is damaged. The lane it came over is of no use any more.
    #[error("a transfer failed: {0}")]
    Broken(String),
    /// The trouble is here, or the owner gives nothing: it would be the same over another lane.
    #[error("a transfer failed: {0}")]
    Here(String),
}

impl From<TransferError> for EngineError {
    fn from(error: TransferError) -> Self {
        Self(error.to_string())
    }
}

impl From<bulk::PullError> for TransferError {
    fn from(error: bulk::PullError) -> Self {
        match error {
            bulk::PullError::Broken(_) => Self::Broken(error.to_string()),
            bulk::PullError::Refused(_) | bulk::PullError::Sink(_) => Self::Here(error.to_string()),
        }
    }
}

/// Pulls a blob into memory.
///
/// # Errors
/// When the transfer breaks off, or what came is not what was announced.
pub(super) async fn pull_bytes(
    from: &dyn Connection,
    blob: BlobRef,
) -> Result<Vec<u8>, TransferError> {
    let mut bytes = Vec::new();
    // As much as is announced, and no more than arrives, where it is a lie.
    let announced = usize::try_from(blob.len).map_err(|_| fault(&"it is too large"))?;
    bytes
        .try_reserve_exact(announced)
        .map_err(|error| fault(&error))?;
    let mut sum = crc32fast::Hasher::new();
    bulk::pull(from, blob.id, 0..blob.len, |piece| {
        sum.update(&piece);
        bytes.extend_from_slice(&piece);
        Ok(())
    })
    .await?;
    check(sum, blob)?;
    Ok(bytes)
}

fn check(sum: crc32fast::Hasher, blob: BlobRef) -> Result<(), TransferError> {
    match sum.finalize() == blob.crc32 {
        true => Ok(()),
        false => {
            let reason = "what came is not what was announced (checksum)";
            Err(TransferError::Broken(reason.to_owned()))
        }
    }
}

pub(super) fn fault(error: &dyn std::fmt::Display) -> TransferError {
    TransferError::Here(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::bulk::Source;

    /// Long after every change.
    fn later() -> SystemTime {
        SystemTime::now() + 2 * SETTLED
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_that_has_not_changed_is_read_and_opened_once() {
        let blobs = Blobs::new(4);
        let dir = folder(&[("a", "some"), ("sub/b", "weights")]);
        let lend = |now| blobs.lend_at(&[("", dir.path())], now).unwrap();
        let (first, loan) = lend(later());
        assert_eq!(blobs.hashed_bytes(), 11);
        let (second, again) = lend(later());
        assert_eq!(blobs.hashed_bytes(), 11, "it is read again");
        assert_eq!(first, second, "it is opened twice");
        drop(loan);
        assert!(blobs.lends(first.hash), "a loan is left");
        drop(again);
        assert!(!blobs.lends(first.hash));
        // Opened again, and not read.
        let (third, _loan) = lend(later());
        assert_eq!((third.hash, blobs.hashed_bytes()), (first.hash, 11));
        assert_ne!(third.lent, first.lent);
        // Of the same length, in the same moment, for all that its stamp says.
        std::fs::write(dir.path().join("a"), "same").unwrap();
        let (changed, _loan) = lend(SystemTime::now());
        assert_eq!(blobs.hashed_bytes(), 22);
        assert_ne!(changed.hash, first.hash);
        let (_, _loan) = lend(later());
        assert_eq!(blobs.hashed_bytes(), 33, "a change could have gone unseen");
        let (_, _loan) = lend(later());
        assert_eq!(blobs.hashed_bytes(), 33);
    }

    /// Whether files have to be read again depends on the clock; what they are lent as does not.
    #[test]
    fn files_that_hold_the_same_are_lent_as_the_same() {
        let blobs = Blobs::new(4);
        let [one, other] = [(); 2].map(|()| folder(&[("a", "some"), ("b", "weights")]));
        let lend = |dir: &tempfile::TempDir, now| blobs.lend_at(&[("", dir.path())], now).unwrap();
        let (first, loan) = lend(&one, SystemTime::UNIX_EPOCH);
        let (second, again) = lend(&one, SystemTime::UNIX_EPOCH);
        let (third, elsewhere) = lend(&other, later());
        assert_eq!((&second, &third), (&first, &first));
        drop((loan, again));
        assert!(blobs.lends(first.hash));
        drop(elsewhere);
        assert!(!blobs.lends(first.hash));
        let (fourth, _loan) = lend(&one, later());
        assert_eq!(fourth.hash, first.hash);
        assert_ne!(fourth.lent, first.lent);
    }

    #[tokio::test]
    async fn folders_are_lent_as_one_and_outlive_their_names() {
        let blobs = Blobs::new(4);
        let adapters = folder(&[("adapter", "12"), ("config", "345")]);
        let base = folder(&[("weights", "6789")]);
        let both = [("", adapters.path()), ("base", base.path())];
        let (set, loan) = blobs.lend_folders(&both).unwrap();
        let paths: Vec<_> = set.files.iter().collect();
        let expected = [("adapter", 2), ("base/weights", 4), ("config", 3)];
        assert!(
            paths
                .into_iter()
                .map(|(p, n)| (p.as_str(), *n))
                .eq(expected)
        );
        drop((adapters, base));
        assert_eq!(blobs.piece(set.lent, 1..8).await.unwrap(), "2678934");
        assert!(blobs.piece(set.lent, 1..10).await.is_err());
        assert!(
            blobs
                .piece(set.lent, Range { start: 2, end: 1 })
                .await
                .is_err()
        );
        drop(loan);
        assert!(blobs.piece(set.lent, 1..8).await.is_err());
    }

    #[test]
    fn files_that_have_come_are_not_read() {
        let blobs = Blobs::new(4);
        let dir = folder(&[("a", "some weights")]);
        let elsewhere = Blobs::new(4);
        let (set, _loan) = elsewhere.lend_folder(dir.path()).unwrap();
        let (opened, stamps) = open_all(&[("", dir.path())]).unwrap();
        let list = Arc::new(elsewhere.read(&opened, &stamps).unwrap());
        blobs.know(dir.path(), list.clone()).unwrap();
        let (lent, _loan) = blobs.lend_folder(dir.path()).unwrap();
        assert_eq!((lent.hash, blobs.hashed_bytes()), (set.hash, 0));
        // Cut otherwise, or another: it has to be read.
        let other = Blobs::new(5);
        other.know(dir.path(), list).unwrap();
        drop(other.lend_folder(dir.path()).unwrap());
        assert_eq!(other.hashed_bytes(), 12);
    }
}
