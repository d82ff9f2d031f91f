//! The engines of a node, and how they answer the controller.

use super::blobs::{Blobs, Loan, TransferError};
use super::files::{FileShelf, Files};
use super::gather::{Gathered, Shelf, gather};
use super::pulling::{KEPT_WAITING, NOT_HELD};
use crate::controller::Controller;
use crate::fleet::{Fleet, FleetError, FleetPlan, Judges};
use crate::node::Dialler;
use crate::ports::{EngineError, Generator, LearnerFault, Replica};
use crate::workers::JudgeMessage;
use async_trait::async_trait;
use bytes::Bytes;
use judge::{JudgeError, StepContext};
use proto::chunks::{WeightAnswer, WeightOffer};
use proto::cluster::{Assignment, BlobRef, EngineOrder, EngineRequest, Occupation, Opened, Unmet};
use proto::files::FileSet;
use proto::{Role, SnapshotScope, WeightManifest, WeightVersion, codec};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tools::registry::{Registry, ToolError};
use transport::bulk;
use transport::{Connection, Link};

/// An engine that a node holds.
pub enum Engine {
    /// Samples; takes so many requests at once.
    Sampler(Arc<dyn Generator>, u32),
    /// Runs tools, with so many executors.
    Tools(Arc<Registry>, u32),
    /// Judges; takes this number of calls at once.
    Judges(Judges, u32),
    /// Trains, alone or in a group.
    Learner(Arc<dyn Replica>),
}

/// Opens engines as a controller orders.
#[async_trait]
pub trait Outfitter: Send + Sync + 'static {
    /// Opens the engine that is ordered. Files that the order names come by `files`.
    ///
    /// # Errors
    /// When it cannot be opened here; the controller is told the reason.
    async fn open(&self, order: &EngineOrder, files: Files) -> Result<Engine, EngineError>;

    /// The node's own folder; without one it exports no model.
    fn folder(&self) -> Option<PathBuf> {
        None
    }
}

/// Where exported models lie in a node's folder until the controller has them. What a process that was
/// ended left there is of no use.
pub const EXPORTS: &str = "exports";

/// Why a request was not performed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It is no request, or its answer cannot be written.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// There is no engine for it.
    #[error("this node has no open {0}")]
    NoEngine(Role),
    /// Nothing can be pulled.
    #[error("the lanes to the controller are not open")]
    NoBulk,
    /// What was to be pulled did not come.
    #[error("{0}")]
    Transfer(String),
    /// Its process is about to end.
    #[error("this node has closed its engines and opens none")]
    Closed,
}

/// The engines of a node.
pub struct Host {
    outfitter: Arc<dyn Outfitter>,
    dialler: Arc<dyn Dialler>,
    hosted: Mutex<BTreeMap<Role, Arc<Hosted>>>,
    /// One assignment at a time.
    assigning: tokio::sync::Mutex<()>,
    /// No engine is opened any more.
    is_closed: AtomicBool,
    bulk: Mutex<Option<Arc<dyn Connection>>>,
    control: Mutex<Option<Link>>,
    blobs: Blobs,
    given_on: GivenOn,
}

/// Bulk that other nodes can pull: weights, and files that orders named.
#[derive(Clone, Default)]
struct GivenOn {
    /// The weights that the sampler serves.
    weights: Shelf,
    files: FileShelf,
}

#[async_trait]
impl bulk::Source for GivenOn {
    async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
        let piece = async {
            tokio::select! {
                biased;
                () = self.weights.knows(id) => self.weights.piece(id, range).await,
                () = self.files.knows(id) => self.files.piece(id, range).await,
            }
        };
        match tokio::time::timeout(KEPT_WAITING, piece).await {
            Ok(piece) => piece,
            Err(_) => Err(NOT_HELD.to_owned()),
        }
    }
}

struct Hosted {
    key: String,
    credits: u32,
    controller: Controller,
    /// The learner, and the epoch of the group it is in; 0 for none.
    replica: Option<(Arc<dyn Replica>, AtomicU32)>,
    /// What the controller may still pull, by kind: each replaces the one before, and with the engine
    /// all go.
    lent: Mutex<BTreeMap<&'static str, (Loan, Option<TempDir>)>>,
}

impl Hosted {
    fn keep(&self, kind: &'static str, loan: Loan, dir: Option<TempDir>) {
        lock(&self.lent).insert(kind, (loan, dir));
    }

    /// What a learner is at ends too: it would hold on to its memory otherwise, and its group to it.
    async fn close(&self) {
        if let Some((replica, _)) = &self.replica {
            replica.abandon(u32::MAX, "the learner is closed");
        }
        self.controller.end().await;
    }
}

impl Host {
    /// A host without an engine.
    pub fn new(outfitter: Arc<dyn Outfitter>, dialler: Arc<dyn Dialler>) -> Self {
        Self {
            outfitter,
            dialler,
            hosted: Mutex::default(),
            assigning: tokio::sync::Mutex::default(),
            is_closed: AtomicBool::new(false),
            bulk: Mutex::default(),
            control: Mutex::default(),
            blobs: Blobs::default(),
            given_on: GivenOn::default(),
        }
    }

    /// The bulk that other nodes can pull from this one.
    pub(crate) fn given_on(&self) -> Arc<dyn bulk::Source> {
        Arc::new(self.given_on.clone())
    }

    /// The bulk that this node gives to its controller.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The connection over which the controller's blobs are pulled from now on.
    pub(crate) fn set_bulk(&self, bulk: Arc<dyn Connection>) {
        *lock(&self.bulk) = Some(bulk);
    }

    /// The link over which the controller is asked from now on.
    pub(crate) fn set_control(&self, control: Link) {
        *lock(&self.control) = Some(control);
    }

    fn files(&self) -> Result<Files, HostError> {
        let bulk = lock(&self.bulk).clone().ok_or(HostError::NoBulk)?;
        let control = lock(&self.control).clone().ok_or(HostError::NoBulk)?;
        let (dialler, shelf) = (self.dialler.clone(), self.given_on.files.clone());
        Ok(Files::new(bulk, control, dialler, shelf))
    }

    /// Closes what is not assigned, opens what is; an engine of the same key is kept.
    pub(crate) async fn assign(&self, assignment: Assignment) -> Vec<Opened> {
        let _one = self.assigning.lock().await;
        let is_kept = |role: &Role, hosted: &Hosted| {
            let mut orders = assignment.engines.iter();
            orders.any(|order| order.role == *role && order.key == hosted.key)
        };
        let closed: Vec<Arc<Hosted>> = {
            let mut hosted = lock(&self.hosted);
            let roles: Vec<Role> = hosted
                .iter()
                .filter(|(role, hosted)| !is_kept(role, hosted))
                .map(|(role, _)| *role)
                .collect();
            roles
                .iter()
                .filter_map(|role| hosted.remove(role))
                .collect()
        };
        // Before others are opened: two models may not fit side by side.
        for hosted in closed {
            hosted.close().await;
        }
        if !lock(&self.hosted).contains_key(&Role::Sampler) {
            self.given_on.weights.clear();
        }
        let mut opened = Vec::new();
        for order in &assignment.engines {
            opened.push(Opened {
                role: order.role,
                credits: self.open(order).await.map_err(|error| error.to_string()),
            });
        }
        opened
    }

    async fn open(&self, order: &EngineOrder) -> Result<u32, EngineError> {
        if let Some(hosted) = lock(&self.hosted).get(&order.role) {
            return Ok(hosted.credits);
        }
        let fault = |error: &dyn std::fmt::Display| EngineError(error.to_string());
        // It may have waited behind one that took longer than the node lasted.
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(fault(&HostError::Closed));
        }
        let files = self.files().map_err(|error| fault(&error))?;
        let engine = self.outfitter.open(order, files).await?;
        let replica = match &engine {
            Engine::Learner(replica) => Some((replica.clone(), AtomicU32::new(0))),
            _ => None,
        };
        let (plan, credits) = plan_of(engine);
        let controller = Controller::start(plan)
            .await
            .map_err(|error| fault(&error))?;
        let hosted = Hosted {
            key: order.key.clone(),
            credits,
            controller,
            replica,
            lent: Mutex::default(),
        };
        {
            let mut all = lock(&self.hosted);
            if !self.is_closed.load(Ordering::SeqCst) {
                all.insert(order.role, Arc::new(hosted));
                return Ok(credits);
            }
        }
        // Nobody else would close it.
        hosted.close().await;
        Err(fault(&HostError::Closed))
    }

    /// No engine is opened from now on, nor kept that is being opened.
    pub(crate) fn shut(&self) {
        let _all = lock(&self.hosted);
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Closes every engine, and opens none any more.
    pub(crate) async fn close(&self) {
        self.shut();
        let all = std::mem::take(&mut *lock(&self.hosted));
        for hosted in all.into_values() {
            hosted.close().await;
        }
    }

    /// Performs a request; the encoded answer.
    pub(crate) async fn serve(&self, request: &[u8]) -> Result<Bytes, HostError> {
        let request: EngineRequest = codec::decode(request)?;
        let role = request.role();
        let hosted = lock(&self.hosted).get(&role).cloned();
        let Some(hosted) = hosted else {
            return without_engine(&request, HostError::NoEngine(role));
        };
        let fleet = hosted.controller.fleet();
        match request {
            EngineRequest::Generate(requests) => {
                encode(fleet.sample_some(requests).await.map_err(engine_error))
            }
            EngineRequest::Publish(offer) => encode(self.publish(fleet, *offer).await?),
            EngineRequest::Execute(call) => {
                encode(fleet.execute(&call).await.map_err(|error| match error {
                    FleetError::Tool(error) => error,
                    error => ToolError::Infrastructure(error.to_string()),
                }))
            }
            EngineRequest::JudgeStep(question, history, step) => {
                let context = Box::new(StepContext::new(*question, history, *step));
                let message = |waiting, port| JudgeMessage::Step(context.clone(), waiting, port);
                encode(fleet.ruling(message).await.map_err(judge_error))
            }
            EngineRequest::JudgeOutcome(question, answer) => {
                let message = |waiting, port| {
                    JudgeMessage::Outcome(question.clone(), answer.clone(), waiting, port)
                };
                encode(fleet.ruling(message).await.map_err(judge_error))
            }
            request => self.train(&hosted, request).await,
        }
    }

    async fn publish(
        &self,
        fleet: &Fleet,
        offer: WeightOffer,
    ) -> Result<Result<WeightAnswer, EngineError>, HostError> {
        let bulk = lock(&self.bulk).clone().ok_or(HostError::NoBulk)?;
        let gathered = gather(&self.given_on.weights, offer, &bulk, self.dialler.as_ref()).await;
        if let Err(error @ TransferError::Broken(_)) = &gathered {
            // The stay ends with this lane: the engine is lost, and not the run.
            bulk.close(&error.to_string());
        }
        match gathered.map_err(|error| HostError::Transfer(error.to_string()))? {
            Gathered::Stuck(fault, reason) => Ok(Ok(WeightAnswer::Stuck(fault, reason))),
            Gathered::Whole(weights, pulled) => {
                let published = fleet.publish(weights).await;
                let served = published.map(|_| WeightAnswer::Served(pulled));
                Ok(served.map_err(engine_error))
            }
        }
    }

    async fn train(&self, hosted: &Hosted, request: EngineRequest) -> Result<Bytes, HostError> {
        let none = || HostError::NoEngine(Role::Learner);
        let (replica, group) = hosted.replica.as_ref().ok_or_else(none)?;
        // What is asked of another group than this is in counts for nothing, nor does what it did.
        let fence = |epoch: u32| match group.load(Ordering::SeqCst) {
            current if current == epoch => Ok(()),
            current => Err(LearnerFault::Apart(format!(
                "the replica is in group {current}, and not in {epoch}"
            ))),
        };
        match request {
            EngineRequest::Standing => {
                let standing = replica.standing().await;
                if standing.is_err() {
                    // It is of no use, and opened anew when the node gets its orders again.
                    lock(&self.hosted).remove(&Role::Learner);
                }
                encode(standing)
            }
            EngineRequest::Meet(place) => {
                group.store(0, Ordering::SeqCst);
                let epoch = place.epoch;
                let met = replica.meet(place).await;
                if met.is_ok() {
                    group.store(epoch, Ordering::SeqCst);
                }
                encode(met)
            }
            EngineRequest::Abandon(epoch, reason) => {
                let is_given_up = |current| (current <= epoch).then_some(0);
                // One that is in a later group stays there.
                let _ = group.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_given_up);
                encode(replica.abandon(epoch, &reason))
            }
            EngineRequest::Supervised(epoch, batch) => encode(match fence(epoch) {
                Ok(()) => replica.supervised_step(batch).await,
                Err(fault) => Err(fault),
            }),
            EngineRequest::Policy(epoch, batch) => encode(match fence(epoch) {
                Ok(()) => replica.policy_step(batch).await,
                Err(fault) => Err(fault),
            }),
            EngineRequest::Snapshot(version, scope) => encode(match fence(version.epoch()) {
                Ok(()) => {
                    let replica = replica.as_ref();
                    self.snapshot(hosted, replica, version, scope).await
                }
                Err(fault) => Err(fault),
            }),
            EngineRequest::Checkpoint(epoch) => encode(match fence(epoch) {
                Ok(()) => self.checkpoint(hosted, replica.as_ref()).await,
                Err(fault) => Err(fault),
            }),
            EngineRequest::Export(epoch) => encode(match fence(epoch) {
                Ok(()) => self.export(hosted, replica.as_ref()).await,
                Err(fault) => Err(fault),
            }),
            EngineRequest::Generate(_)
            | EngineRequest::Publish(..)
            | EngineRequest::Execute(_)
            | EngineRequest::JudgeStep(..)
            | EngineRequest::JudgeOutcome(..) => Err(none()),
        }
    }

    async fn snapshot(
        &self,
        hosted: &Hosted,
        replica: &dyn Replica,
        version: WeightVersion,
        scope: SnapshotScope,
    ) -> Result<(WeightManifest, BlobRef), LearnerFault> {
        let weights = replica.snapshot(version, scope).await?;
        let (blob, loan) = self.blobs.lend_weights(&weights);
        hosted.keep("snapshot", loan, None);
        Ok(((*weights.manifest).clone(), blob))
    }

    async fn checkpoint(
        &self,
        hosted: &Hosted,
        replica: &dyn Replica,
    ) -> Result<Option<(String, FileSet)>, LearnerFault> {
        let Some(folder) = replica.checkpoint_together().await? else {
            return Ok(None);
        };
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (files, loan) = self.lend_folder(folder).await?;
        hosted.keep("checkpoint", loan, None);
        Ok(Some((name, files)))
    }

    async fn export(
        &self,
        hosted: &Hosted,
        replica: &dyn Replica,
    ) -> Result<FileSet, LearnerFault> {
        let fault = |error: &dyn std::fmt::Display| EngineError(error.to_string());
        let root = self.outfitter.folder();
        let root = root.ok_or_else(|| fault(&"this node has no folder for exported models"))?;
        // The one before is pulled, or given up: there is room for one.
        let before = lock(&hosted.lent).remove("export");
        let made = crate::blocking::run(move || {
            drop(before);
            let exports = root.join(EXPORTS);
            std::fs::create_dir_all(&exports)?;
            tempfile::tempdir_in(exports)
        });
        let dir = made.await.map_err(|error| fault(&error))?;
        let dir = dir.map_err(|error| fault(&error))?;
        let folder = dir.path().join("model");
        replica.export(folder.clone()).await?;
        let (files, loan) = self.lend_folder(folder).await?;
        hosted.keep("export", loan, Some(dir));
        Ok(files)
    }

    async fn lend_folder(&self, folder: PathBuf) -> Result<(FileSet, Loan), EngineError> {
        let blobs = self.blobs.clone();
        let lent = crate::blocking::run(move || blobs.lend_folder(&folder)).await;
        let lent = lent.map_err(|error| EngineError(error.to_string()))?;
        lent.map_err(|error| EngineError(error.to_string()))
    }
}

/// A learner that is closed, or about to be opened anew, is lost to its group, which goes on without it.
fn without_engine(request: &EngineRequest, error: HostError) -> Result<Bytes, HostError> {
    match request {
        EngineRequest::Abandon(..) => encode(Occupation::Idle),
        EngineRequest::Standing => encode(Err::<(), _>(EngineError(error.to_string()))),
        EngineRequest::Meet(_) => encode(Err::<(), _>(Unmet {
            reason: error.to_string(),
            is_own_fault: true,
            is_whole: true,
            ..Unmet::default()
        })),
        request if request.role() == Role::Learner => {
            encode(Err::<(), _>(LearnerFault::Apart(error.to_string())))
        }
        _ => Err(error),
    }
}

fn plan_of(engine: Engine) -> (FleetPlan, u32) {
    let plan = FleetPlan::default();
    match engine {
        Engine::Sampler(engine, credits) => {
            let samplers = vec![engine];
            (FleetPlan { samplers, ..plan }, credits)
        }
        Engine::Tools(registry, executors) => {
            let plan = FleetPlan {
                registry: Some(registry),
                tool_executors: executors as usize,
                ..plan
            };
            (plan, executors)
        }
        Engine::Judges(judges, credits) => {
            let plan = FleetPlan {
                judges: Some(judges),
                judge_actors: 1,
                ..plan
            };
            (plan, credits)
        }
        // It is asked directly: by one who asks one thing at a time, and gives it up at any time.
        Engine::Learner(_) => (plan, 1),
    }
}

fn encode<T: Serialize>(answer: T) -> Result<Bytes, HostError> {
    Ok(codec::encode(&answer)?.into())
}

fn engine_error(error: FleetError) -> EngineError {
    match error {
        FleetError::Engine(error) => error,
        error => EngineError(error.to_string()),
    }
}

fn judge_error(error: FleetError) -> JudgeError {
    match error {
        FleetError::Judge(error) => error,
        error => JudgeError::Elsewhere(error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
