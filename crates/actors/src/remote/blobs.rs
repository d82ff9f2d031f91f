//! What this node gives out in bulk, and how it gets what others give out.

use super::folders;
use crate::ports::EngineError;
use async_trait::async_trait;
use bytes::Bytes;
use proto::WeightSnapshot;
use proto::cluster::{BlobRef, FileSet};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use transport::{Connection, bulk};

/// Blobs that are lent out. Clones are the same.
#[derive(Clone, Default)]
pub struct Blobs(Arc<Mutex<Lent>>);

#[derive(Default)]
struct Lent {
    next: u64,
    blobs: BTreeMap<u64, Blob>,
    given_bytes: u64,
}

#[derive(Clone)]
enum Blob {
    Memory(Bytes),
    File(Arc<File>),
}

/// Blobs can be pulled as long as it lives.
pub struct Loan {
    blobs: Blobs,
    ids: Vec<u64>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut lent = self.blobs.0.lock().expect("no holder panics");
        for id in &self.ids {
            lent.blobs.remove(id);
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

impl Blobs {
    /// Lends the bytes of a snapshot.
    pub fn lend_weights(&self, weights: &WeightSnapshot) -> (BlobRef, Loan) {
        let (len, crc32) = (weights.bytes.len() as u64, weights.manifest.checksum);
        let (id, loan) = self.lend_memory(weights.bytes.clone());
        (BlobRef { id, len, crc32 }, loan)
    }

    /// Lends bytes; under which number.
    pub(super) fn lend_memory(&self, bytes: Arc<Vec<u8>>) -> (u64, Loan) {
        let id = self.lend(Blob::Memory(Bytes::from_owner(SharedBytes(bytes))));
        (id, self.loan(vec![id]))
    }

    /// Bytes that were given out so far.
    pub fn given_bytes(&self) -> u64 {
        self.0.lock().expect("no holder panics").given_bytes
    }

    /// Lends every file below a folder. Blocks: it reads them all for their checksums.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn lend_folder(&self, folder: &Path) -> io::Result<(FileSet, Loan)> {
        let (mut set, mut ids) = (FileSet::default(), Vec::new());
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(&next)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let blob = self.lend_file(&path)?;
                ids.push(blob.id);
                let relative = path.strip_prefix(folder).map_err(io::Error::other)?;
                let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                set.files.insert(parts.join("/"), blob);
            }
        }
        Ok((set, self.loan(ids)))
    }

    fn lend_file(&self, path: &Path) -> io::Result<BlobRef> {
        let mut file = File::open(path)?;
        let (mut sum, mut len) = (crc32fast::Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sum.update(&buffer[..read]);
            len += read as u64;
        }
        let id = self.lend(Blob::File(Arc::new(file)));
        let crc32 = sum.finalize();
        Ok(BlobRef { id, len, crc32 })
    }

    fn lend(&self, blob: Blob) -> u64 {
        let mut lent = self.0.lock().expect("no holder panics");
        lent.next += 1;
        let id = lent.next;
        lent.blobs.insert(id, blob);
        id
    }

    fn loan(&self, ids: Vec<u64>) -> Loan {
        Loan {
            blobs: self.clone(),
            ids,
        }
    }
}

#[async_trait]
impl bulk::Source for Blobs {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let blob = {
            let mut lent = self.0.lock().expect("no holder panics");
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
            Blob::File(file) => {
                let len = range.end.checked_sub(range.start).ok_or_else(ends)? as usize;
                let read = crate::blocking::run(move || {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, range.start)?;
                    io::Result::Ok(bytes)
                });
                let read = read.await.map_err(|error| error.to_string())?;
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

/// Pulls files into a folder, which is there afterwards with all of them or not at all. One that is
/// there already is replaced.
///
/// # Errors
/// When the transfer breaks off, what came is not what was announced, or it cannot be written.
pub async fn pull_folder(
    from: &dyn Connection,
    set: &FileSet,
    folder: &Path,
) -> Result<(), EngineError> {
    Ok(bring_folder(from, set, folder).await?)
}

/// The same, with an error that says where the trouble is.
pub(super) async fn bring_folder(
    from: &dyn Connection,
    set: &FileSet,
    folder: &Path,
) -> Result<(), TransferError> {
    let partial = folders::begin(folder).map_err(|error| fault(&error))?;
    for (relative, blob) in &set.files {
        let path = partial.path().join(inside(relative)?);
        pull_file(from, *blob, &path).await?;
    }
    let folder = folder.to_owned();
    on_disk(move || folders::finish(partial, &folder)).await
}

/// Does what may wait for a disk for seconds, apart from the threads that others need meanwhile.
async fn on_disk(
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), TransferError> {
    let done = crate::blocking::run(work).await;
    done.map_err(|error| fault(&error))?
        .map_err(|error| fault(&error))
}

/// A path that stays within its folder, whatever the peer says.
fn inside(relative: &str) -> Result<PathBuf, TransferError> {
    let path = PathBuf::from(relative);
    let is_plain = |part: Component| matches!(part, Component::Normal(_));
    match !relative.is_empty() && path.components().all(is_plain) {
        true => Ok(path),
        false => Err(fault(&format!("{relative:?} leads out of its folder"))),
    }
}

async fn pull_file(from: &dyn Connection, blob: BlobRef, path: &Path) -> Result<(), TransferError> {
    let open = || {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        File::create_new(path)
    };
    let mut file = open().map_err(|error| fault(&error))?;
    let mut sum = crc32fast::Hasher::new();
    bulk::pull(from, blob.id, 0..blob.len, |piece| {
        sum.update(&piece);
        file.write_all(&piece)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    })
    .await?;
    on_disk(move || file.sync_all()).await?;
    check(sum, blob)
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

fn fault(error: &dyn std::fmt::Display) -> TransferError {
    TransferError::Here(error.to_string())
}

/// Whether a peer's word can be the name of a folder: it leads nowhere, and hides nothing.
pub(super) fn is_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_one = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(part)), None) if part == name
    );
    is_one && !name.starts_with('.') && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Identity, Role};
    use std::time::Duration;
    use transport::Lane;
    use transport::memory::{Network, Rules};

    #[test]
    fn a_name_is_one_folder_and_no_other() {
        for good in ["step_5", "a b", "a..b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "/",
            "a/",
            "a/b",
            "/a",
            "./a",
            ".step_5.old",
            "a\0b",
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_that_breaks_off_leaves_what_was_there() {
        let network = Network::new(1, Rules::default(), Duration::from_secs(1000));
        let identity = |name: &str| Identity {
            name: name.parse().unwrap(),
            roles: [Role::Learner].into(),
        };
        let mut listener = network.listen(identity("node"));
        let to = "node".parse().unwrap();
        let from = network
            .dial(identity("head"), &to, Lane::Bulk)
            .await
            .unwrap();
        let there = listener.accept().await.unwrap();
        let blobs = Blobs::default();
        tokio::spawn(bulk::serve(there, Arc::new(blobs.clone())));

        let dir = tempfile::tempdir().unwrap();
        let [source, root] = ["source", "checkpoints"].map(|name| dir.path().join(name));
        let lent = |text: &str| {
            std::fs::create_dir_all(source.join("sub")).unwrap();
            for file in ["a", "sub/b"] {
                std::fs::write(source.join(file), text).unwrap();
            }
            blobs.lend_folder(&source).unwrap()
        };
        let folder = root.join("step_5");
        let holds = |text: &str| {
            for file in ["a", "sub/b"] {
                assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap(), text);
            }
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        };
        let (files, _loan) = lent("1");
        pull_folder(from.as_ref(), &files, &folder).await.unwrap();
        holds("1");
        let (mut files, _loan) = lent("2");
        let whole = files.clone();
        // One that is not what was announced, and one that is not there.
        for spoil in [
            |blob: &mut BlobRef| blob.crc32 ^= 1,
            |blob: &mut BlobRef| blob.id += 999,
        ] {
            files.clone_from(&whole);
            spoil(files.files.get_mut("sub/b").unwrap());
            assert!(pull_folder(from.as_ref(), &files, &folder).await.is_err());
            holds("1");
        }
        pull_folder(from.as_ref(), &whole, &folder).await.unwrap();
        holds("2");
    }

    #[test]
    fn no_path_leads_out_of_its_folder() {
        for good in ["a", "a/b.safetensors", "a..b"] {
            assert!(inside(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../a", "a/../../b", "./a/..", "."] {
            assert!(inside(bad).is_err(), "{bad}");
        }
    }
}
