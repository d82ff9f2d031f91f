//! Files that come to a folder of this node, and go from there to other nodes.
//!
//! - **FI-1 (checked).** Every chunk is checked as it arrives, as those of weights are (GA-1).
//! - **FI-2 (nothing twice).** Another source goes on with the chunks that are there.
//! - **FI-3 (given on at once).** Chunks are given to other nodes as soon as they are on disk, and those
//!   of a folder that an earlier process brought are given on, too.
//! - **FI-4 (whole or not at all).** The folder has its name once every file is on disk.

use super::blobs::{TransferError, fault, pull_bytes};
use super::folders;
use super::joined::{Joined, Stamp};
use super::method;
use super::pulling::{ChunkFault, Giver, KEPT_WAITING, NOT_HELD, STREAMS, TRIES, aside};
use crate::node::Dialler;
use crate::ports::EngineError;
use crate::told::Told;
use async_trait::async_trait;
use bytes::Bytes;
use control::spread::MOST_SOURCES;
use futures::StreamExt;
use proto::chunks::{ChunkSource, Digest, Pulled, SourceFault};
use proto::codec;
use proto::files::{FileList, FileSet, SourceNeed, SourceRequest};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;
use transport::{Connection, Link, bulk};

/// Folders that are given on at most; those that came last.
const MOST_HELD: usize = 8;

/// Time limit for the controller to name a source.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// The files that an order names: how a node gets them, and gives them on.
#[derive(Clone)]
pub struct Files {
    owner: Arc<dyn Connection>,
    control: Link,
    dialler: Arc<dyn Dialler>,
    shelf: FileShelf,
}

impl Files {
    /// Files that the controller lends; `owner` is the bulk lane to it.
    pub(super) fn new(
        owner: Arc<dyn Connection>,
        control: Link,
        dialler: Arc<dyn Dialler>,
        shelf: FileShelf,
    ) -> Self {
        Self {
            owner,
            control,
            dialler,
            shelf,
        }
    }

    /// Brings files into a folder, which is there afterwards with all of them or not at all, and gives
    /// them on. One that is there already is replaced.
    ///
    /// # Errors
    /// When the controller does not give them, or they cannot be written.
    pub async fn bring(&self, set: &FileSet, folder: &Path) -> Result<Pulled, EngineError> {
        let pulled = self.brought(set, folder).await?;
        let (bytes, from_nodes) = (pulled.bytes, pulled.from_nodes_bytes);
        tracing::info!(bytes, from_nodes, folder = %folder.display(), "Files have come.");
        Ok(pulled)
    }

    async fn brought(&self, set: &FileSet, folder: &Path) -> Result<Pulled, TransferError> {
        let list = list_of(self.owner.as_ref(), set).await?;
        let mut coming = Coming::begin(set, list, folder).await?;
        self.shelf.put(coming.held.clone());
        let mut need = SourceNeed::First;
        for _ in 0..=MOST_SOURCES {
            let source = self.ask(set.hash, need).await?;
            let at_fault = match Giver::reach(&source, &self.owner, self.dialler.as_ref()).await {
                Ok(giver) => match coming.pull(set, &giver).await {
                    Ok(()) => {
                        coming.finish(folder).await?;
                        return Ok(coming.pulled.clone());
                    }
                    Err(fault) if giver.is_node => fault.of_node(),
                    Err(fault) => return Err(fault.of_controller()),
                },
                Err(reason) => (SourceFault::Lost, reason),
            };
            let (fault, reason) = at_fault;
            tracing::info!(?source, ?fault, reason, "Files come from elsewhere.");
            need = SourceNeed::Other(fault);
        }
        let reason = "the controller names nodes alone that do not give the files";
        Err(TransferError::Here(reason.to_owned()))
    }

    /// Gives on files that lie in a folder already (FI-3). Where that fails, nobody misses anything.
    pub async fn hold(&self, set: &FileSet, folder: &Path) {
        let held = async {
            let list = list_of(self.owner.as_ref(), set).await?;
            let held = Held::found(set.hash, list, folder);
            let held = held.map_err(|error| fault(&error))?;
            self.shelf.put(Arc::new(held));
            self.ask(set.hash, SourceNeed::Nothing).await.map(drop)
        };
        if let Err(error) = held.await {
            tracing::debug!(%error, folder = %folder.display(), "A folder is not given on.");
        }
    }

    /// Asks the controller whom to pull from.
    async fn ask(&self, hash: Digest, need: SourceNeed) -> Result<ChunkSource, TransferError> {
        let request = codec::encode(&SourceRequest { hash, need });
        let body = request.map_err(|error| fault(&error))?;
        let asked = self.control.call(method::SOURCE, &body, ASK_LIMIT).await;
        codec::decode(&asked.map_err(|error| fault(&error))?).map_err(|error| fault(&error))
    }
}

/// Brings files from whoever lends them, and nobody else, into a folder, which is there afterwards with
/// all of them or not at all. One that is there already is replaced.
pub(super) async fn bring_folder(
    owner: &Arc<dyn Connection>,
    set: &FileSet,
    folder: &Path,
) -> Result<Arc<FileList>, TransferError> {
    let list = list_of(owner.as_ref(), set).await?;
    let mut coming = Coming::begin(set, list.clone(), folder).await?;
    let giver = Giver::owner(owner.clone());
    let pulled = coming.pull(set, &giver).await;
    pulled.map_err(ChunkFault::of_controller)?;
    coming.finish(folder).await?;
    Ok(list)
}

async fn list_of(owner: &dyn Connection, set: &FileSet) -> Result<Arc<FileList>, TransferError> {
    let encoded = pull_bytes(owner, set.list).await?;
    let list: FileList = codec::decode(&encoded).map_err(|error| fault(&error))?;
    list.check(set).map_err(|error| fault(&error))?;
    for path in list.files.keys() {
        inside(path)?;
    }
    Ok(Arc::new(list))
}

/// Files that other nodes can pull from here. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct FileShelf(Told<Vec<Arc<Held>>>);

impl FileShelf {
    fn put(&self, held: Arc<Held>) {
        self.0.change(|all| {
            all.retain(|known| known.hash != held.hash);
            all.push(held);
            let old = all.len().saturating_sub(MOST_HELD);
            all.drain(..old);
        });
    }

    /// Returns once something is given out under this number.
    pub(super) async fn knows(&self, id: u64) {
        drop(self.find(id).await);
    }

    async fn find(&self, id: u64) -> Arc<Held> {
        let is_it = |held: &&Arc<Held>| held.hash.key() == id;
        self.0.find(|all| all.iter().find(is_it).cloned()).await
    }
}

#[async_trait]
impl bulk::Source for FileShelf {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let piece = async { self.find(id).await.piece(range).await };
        match timeout(KEPT_WAITING, piece).await {
            Ok(piece) => piece,
            Err(_) => Err(NOT_HELD.to_owned()),
        }
    }
}

/// Files on this node's disk.
struct Held {
    hash: Digest,
    list: Arc<FileList>,
    joined: Joined,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// By chunk: whether it is on disk.
    is_there: Vec<bool>,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// In a folder without a name yet.
    Coming(Vec<Arc<File>>),
    /// In this folder, as long as its files have these stamps.
    Whole(PathBuf, Arc<Vec<Stamp>>),
    /// It did not come.
    Gone,
}

impl Held {
    fn new(hash: Digest, list: Arc<FileList>, is_there: bool, place: Place) -> Self {
        Self {
            hash,
            joined: Joined::new(&list.files),
            state: Mutex::new(State {
                is_there: vec![is_there; list.chunks.hashes.len()],
                place,
            }),
            list,
            changed: Notify::new(),
        }
    }

    /// One that lies in its folder.
    fn found(hash: Digest, list: Arc<FileList>, folder: &Path) -> io::Result<Self> {
        let mut stamps = Vec::new();
        for (path, len) in &list.files {
            let stamp = Stamp::of(&std::fs::metadata(folder.join(path))?);
            if stamp.len() != *len {
                return Err(io::Error::other(format!("{path} has another length")));
            }
            stamps.push(stamp);
        }
        let place = Place::Whole(folder.to_owned(), Arc::new(stamps));
        Ok(Self::new(hash, list, true, place))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn missing(&self) -> Vec<usize> {
        let state = self.lock();
        let chunks = state.is_there.iter().enumerate();
        let missing = chunks.filter(|(_, is_there)| !**is_there);
        missing.map(|(index, _)| index).collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Bytes of one chunk, once it is on disk.
    async fn piece(self: Arc<Self>, range: Range<u64>) -> Result<Bytes, String> {
        let chunks = &self.list.chunks;
        let index = (range.start / u64::from(chunks.size)) as usize;
        let chunk = chunks.range(index);
        let is_within =
            index < chunks.hashes.len() && range.start <= range.end && range.end <= chunk.end;
        if !is_within {
            return Err("there is no such chunk".to_owned());
        }
        let place = loop {
            let changed = self.changed.notified();
            let place = {
                let state = self.lock();
                let is_told = state.is_there[index] || matches!(state.place, Place::Gone);
                is_told.then(|| state.place.clone())
            };
            match place {
                Some(place) => break place,
                None => changed.await,
            }
        };
        let held = self.clone();
        let read = crate::blocking::run(move || held.read(&place, range)).await;
        let read = read.map_err(|error| error.to_string())?;
        read.map(Bytes::from).map_err(|error| error.to_string())
    }

    fn read(&self, place: &Place, range: Range<u64>) -> io::Result<Vec<u8>> {
        match place {
            Place::Coming(files) => self.joined.read(range, |n| Ok(files[n].clone())),
            Place::Whole(folder, stamps) => self.joined.read(range, |number| {
                let file = File::open(folder.join(self.joined.path(number)))?;
                // What was put in its place would be taken for damage.
                match Stamp::of(&file.metadata()?) == stamps[number] {
                    true => Ok(file),
                    false => Err(io::Error::other("this node holds it no longer")),
                }
            }),
            Place::Gone => Err(io::Error::other("it did not come to this node")),
        }
    }
}

/// Files while they come. What is dropped before it is whole is gone.
struct Coming {
    held: Arc<Held>,
    files: Vec<Arc<File>>,
    partial: Option<TempDir>,
    pulled: Pulled,
}

impl Coming {
    async fn begin(
        set: &FileSet,
        list: Arc<FileList>,
        folder: &Path,
    ) -> Result<Self, TransferError> {
        let (hash, folder) = (set.hash, folder.to_owned());
        let begun = crate::blocking::run(move || {
            let partial = folders::begin(&folder)?;
            let mut files = Vec::new();
            for (path, len) in &list.files {
                let path = partial.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
                let mut options = File::options();
                let file = options.read(true).write(true).create_new(true).open(path)?;
                file.set_len(*len)?;
                files.push(Arc::new(file));
            }
            let place = Place::Coming(files.clone());
            io::Result::Ok(Self {
                held: Arc::new(Held::new(hash, list, false, place)),
                files,
                partial: Some(partial),
                pulled: Pulled::default(),
            })
        });
        let begun = begun.await.map_err(|error| fault(&error))?;
        begun.map_err(|error| fault(&error))
    }

    /// Pulls what is missing.
    async fn pull(&mut self, set: &FileSet, giver: &Giver) -> Result<(), ChunkFault> {
        let taken = Mutex::new(std::mem::take(&mut self.pulled));
        let work = async {
            let id = giver.id(set.hash, set.lent);
            let missing = self.held.missing().into_iter();
            let pulls = missing.map(|index| self.chunk(index, giver, id, &taken));
            let mut pulls = futures::stream::iter(pulls).buffer_unordered(STREAMS);
            while let Some(done) = pulls.next().await {
                done?;
            }
            Ok(())
        };
        let done = giver.while_it_gives(work).await;
        self.pulled = taken.into_inner().expect("no holder panics");
        done
    }

    /// FI-1.
    async fn chunk(
        &self,
        index: usize,
        giver: &Giver,
        id: u64,
        pulled: &Mutex<Pulled>,
    ) -> Result<(), ChunkFault> {
        let count = |add: &dyn Fn(&mut Pulled)| add(&mut pulled.lock().expect("no holder panics"));
        let range = self.held.list.chunks.range(index);
        let expected = self.held.list.chunks.hashes[index];
        for _ in 0..TRIES {
            let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
            let came = giver.pull(id, range.clone(), |piece| {
                let len = piece.len() as u64;
                count(&|pulled| {
                    pulled.bytes += len;
                    pulled.from_nodes_bytes += if giver.is_node { len } else { 0 };
                });
                bytes.extend_from_slice(&piece);
                Ok(())
            });
            came.await?;
            let (held, files, start) = (self.held.clone(), self.files.clone(), range.start);
            let written = aside(move || {
                if Digest::of(&bytes) != expected {
                    return Ok(false);
                }
                held.joined.write(&files, start, &bytes).map(|()| true)
            });
            let written = written.await?;
            match written.map_err(|error| ChunkFault::Here(format!("cannot write: {error}")))? {
                true => {
                    self.held.change(|state| state.is_there[index] = true);
                    return Ok(());
                }
                false => count(&|pulled| pulled.repaired += 1),
            }
            if giver.is_node {
                return Err(ChunkFault::Damaged(format!("chunk {index} is damaged")));
            }
            tracing::warn!(chunk = index, "A chunk of a file is pulled again.");
        }
        let reason = format!("chunk {index} came damaged {TRIES} times");
        Err(ChunkFault::Damaged(reason))
    }

    /// FI-4.
    async fn finish(&mut self, folder: &Path) -> Result<(), TransferError> {
        let (files, folder) = (self.files.clone(), folder.to_owned());
        let Some(partial) = self.partial.take() else {
            return Ok(());
        };
        let held = self.held.clone();
        let finished = crate::blocking::run(move || {
            for file in &files {
                file.sync_all()?;
            }
            folders::finish(partial, &folder)?;
            let stamps = files.iter().map(|file| Ok(Stamp::of(&file.metadata()?)));
            let stamps = stamps.collect::<io::Result<Vec<_>>>()?;
            held.change(|state| state.place = Place::Whole(folder, Arc::new(stamps)));
            io::Result::Ok(())
        });
        let finished = finished.await.map_err(|error| fault(&error))?;
        finished.map_err(|error| fault(&error))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.held.change(|state| {
            if matches!(state.place, Place::Coming(_)) {
                state.place = Place::Gone;
            }
        });
    }
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
mod tests;
