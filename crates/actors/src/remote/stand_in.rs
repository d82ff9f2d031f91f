//! Actors here that stand for engines elsewhere.

use super::blobs::{TransferError, pull_bytes};
use super::files::{bring_folder, is_name};
use super::{RemoteEngine, RemoteFault, engine_fault, method};
use crate::fleet::{LEARNER_LIMIT, SERVICE_LIMIT};
use crate::ports::{EngineError, LearnerFault, StepReport};
use crate::replicas::ReplicaMessage;
use crate::vitals::LONGEST_LIMIT;
use crate::workers::{JudgeMessage, LearnerPort, SamplerMessage, ToolMessage, answer};
use judge::{JudgeError, Ruling};
use proto::cluster::{BlobRef, EngineRequest, Generated, Occupation, Standing, Unmet};
use proto::files::FileSet;
use proto::{WeightManifest, WeightSnapshot, codec};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort};
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tools::registry::{ToolError, ToolReply};

type Engine = Arc<RemoteEngine>;

/// How long a replica may take to hear that its group is given up.
const ABANDON_LIMIT: Duration = Duration::from_secs(30);

/// The actor that stands for an engine elsewhere, whatever it is asked. What a learner leaves behind
/// (checkpoints, exported models) is brought here.
pub(crate) struct StandIn<M>(PhantomData<fn(M)>);

impl<M> StandIn<M> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// What an engine elsewhere can be asked.
pub(crate) trait PassOn: Message {
    /// Has the engine asked, in a task of its own, so that the mailbox goes on. The port of a call
    /// that was lost is dropped: that is how the caller learns of it.
    fn pass_on(self, engine: &Engine);
}

#[ractor::async_trait]
impl<M: PassOn> Actor for StandIn<M> {
    type Msg = M;
    type State = Engine;
    type Arguments = Engine;

    /// It ends when its node is lost.
    async fn pre_start(
        &self,
        myself: ActorRef<M>,
        engine: Engine,
    ) -> Result<Engine, ActorProcessingErr> {
        let (link, known) = (engine.link.clone(), Arc::downgrade(&engine));
        tokio::spawn(async move {
            let reason = link.closed().await;
            // Whoever waits for a credit waits no longer.
            if let Some(engine) = known.upgrade() {
                engine.retire();
            }
            myself.stop(Some(reason));
        });
        Ok(engine)
    }

    async fn handle(
        &self,
        _: ActorRef<M>,
        message: M,
        engine: &mut Engine,
    ) -> Result<(), ActorProcessingErr> {
        message.pass_on(engine);
        Ok(())
    }

    /// What still waits for its turn goes elsewhere: where this ends and its node does not, the engine is
    /// opened again.
    async fn post_stop(
        &self,
        _: ActorRef<M>,
        engine: &mut Engine,
    ) -> Result<(), ActorProcessingErr> {
        engine.retire();
        Ok(())
    }
}

/// Asks, and gives the answer as it comes.
fn ask<T, E>(
    engine: &Engine,
    request: EngineRequest,
    limit: Duration,
    port: RpcReplyPort<Result<T, E>>,
    refused: fn(String) -> E,
) where
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + Serialize + Send + 'static,
{
    let engine = engine.clone();
    tokio::spawn(async move {
        match engine.ask::<Result<T, E>>(&request, limit).await {
            Ok(result) => answer(port, result),
            Err(RemoteFault::Refused(reason) | RemoteFault::Late(reason)) => {
                answer(port, Err(refused(reason)));
            }
            Err(RemoteFault::Lost) => drop(port),
        }
    });
}

impl PassOn for SamplerMessage {
    fn pass_on(self, engine: &Engine) {
        let engine = engine.clone();
        match self {
            Self::Generate(requests, waiting, port) => {
                let request = EngineRequest::Generate(requests);
                tokio::spawn(async move {
                    // Whoever waits for it knows when it is too late.
                    let asked =
                        engine.ask::<Result<Generated, EngineError>>(&request, LONGEST_LIMIT);
                    match waiting.during(asked).await {
                        Some(Ok(result)) => answer(port, result),
                        Some(Err(RemoteFault::Refused(reason) | RemoteFault::Late(reason))) => {
                            answer(port, Err(EngineError(reason)));
                        }
                        Some(Err(RemoteFault::Lost)) | None => drop(port),
                    }
                });
            }
            Self::Publish(weights, port) => {
                tokio::spawn(async move {
                    match engine.publish(weights).await {
                        Ok(result) => answer(port, result),
                        Err(RemoteFault::Late(reason)) => answer(port, Err(EngineError(reason))),
                        // It could not have the weights, which is no fault of the engine.
                        Err(RemoteFault::Refused(reason)) => {
                            engine.give_up(&reason);
                            drop(port);
                        }
                        Err(RemoteFault::Lost) => drop(port),
                    }
                });
            }
        }
    }
}

impl PassOn for ToolMessage {
    fn pass_on(self, engine: &Engine) {
        let request = EngineRequest::Execute(self.call);
        let refused = ToolError::Infrastructure;
        ask::<ToolReply, _>(engine, request, SERVICE_LIMIT, self.reply, refused);
    }
}

impl PassOn for JudgeMessage {
    fn pass_on(self, engine: &Engine) {
        let engine = engine.clone();
        let (request, waiting, port) = match self {
            Self::Step(context, waiting, port) => {
                let question = Box::new(context.question);
                let step = Box::new(context.step);
                let request = EngineRequest::JudgeStep(question, context.history, step);
                (request, waiting, port)
            }
            Self::Outcome(question, answer, waiting, port) => {
                (EngineRequest::JudgeOutcome(question, answer), waiting, port)
            }
        };
        tokio::spawn(async move {
            let asked = engine.ask::<Result<Ruling, JudgeError>>(&request, SERVICE_LIMIT);
            match waiting.during(asked).await {
                Some(Ok(result)) => answer(port, result),
                Some(Err(RemoteFault::Refused(reason) | RemoteFault::Late(reason))) => {
                    answer(port, Err(JudgeError::Elsewhere(reason)));
                }
                Some(Err(RemoteFault::Lost)) | None => drop(port),
            }
        });
    }
}

impl PassOn for ReplicaMessage {
    /// Time limits are for the group to say, which knows its pace.
    fn pass_on(self, engine: &Engine) {
        let limit = LEARNER_LIMIT;
        match self {
            Self::Standing(port) => {
                ask::<Standing, _>(engine, EngineRequest::Standing, limit, port, EngineError);
            }
            Self::Meet(place, port) => {
                let refused = |reason| Unmet {
                    reason,
                    ..Unmet::default()
                };
                ask::<u64, _>(engine, EngineRequest::Meet(place), limit, port, refused);
            }
            Self::Supervised(epoch, batch, port) => {
                let request = EngineRequest::Supervised(epoch, batch);
                ask::<StepReport, _>(engine, request, limit, port, refused);
            }
            Self::Policy(epoch, batch, port) => {
                let request = EngineRequest::Policy(epoch, batch);
                ask::<StepReport, _>(engine, request, limit, port, refused);
            }
            Self::Snapshot(version, scope, port) => {
                let request = EngineRequest::Snapshot(version, scope);
                bring(engine, request, port, snapshot);
            }
            Self::Checkpoint(epoch, port) => {
                bring(engine, EngineRequest::Checkpoint(epoch), port, checkpoint);
            }
            Self::Export(epoch, folder, port) => {
                let export = |engine, files| export(engine, files, folder);
                bring(engine, EngineRequest::Export(epoch), port, export);
            }
        }
    }
}

fn refused(reason: String) -> LearnerFault {
    LearnerFault::Engine(EngineError(reason))
}

/// Tells a replica that its group is given up, whatever it is at: this waits for no credit, and for no
/// actor. Returns what it was at, if it says so; one that does not hear it is lost soon.
pub(crate) async fn abandon(engine: &RemoteEngine, epoch: u32, reason: &str) -> Option<Occupation> {
    let request = EngineRequest::Abandon(epoch, reason.to_owned());
    let body = codec::encode(&request).ok()?;
    let told = engine.link.call(method::ENGINE, &body, ABANDON_LIMIT).await;
    let told = told.inspect_err(|error| {
        tracing::debug!(node = %engine.node, %error, "A replica did not hear of its group's end.");
    });
    codec::decode(&told.ok()?).ok()
}

/// Asks for something that lies at the node then, and brings it here.
fn bring<A, T, F>(
    engine: &Engine,
    request: EngineRequest,
    port: LearnerPort<T>,
    fetch: impl FnOnce(Engine, A) -> F + Send + 'static,
) where
    A: DeserializeOwned + Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<T, TransferError>> + Send,
{
    let engine = engine.clone();
    tokio::spawn(async move {
        let asked = engine.ask::<Result<A, LearnerFault>>(&request, LEARNER_LIMIT);
        let result = match asked.await {
            Ok(Ok(there)) => fetch(engine.clone(), there).await,
            Ok(Err(fault)) => return answer(port, Err(fault)),
            Err(RemoteFault::Refused(reason) | RemoteFault::Late(reason)) => {
                return answer(port, Err(refused(reason)));
            }
            Err(RemoteFault::Lost) => return drop(port),
        };
        match result {
            Ok(value) => answer(port, Ok(value)),
            // A transfer that breaks off is the loss of the node, whichever lane is noticed first.
            Err(TransferError::Broken(reason)) => {
                engine.give_up(&reason);
                drop(port);
            }
            Err(error) if engine.link.close_reason().is_some() => {
                tracing::debug!(%error, "A transfer ended with its node.");
                drop(port);
            }
            Err(error) => {
                let fault = engine_fault(engine.role, &engine.node, error);
                answer(port, Err(LearnerFault::Engine(fault)));
            }
        }
    });
}

async fn snapshot(
    engine: Engine,
    (manifest, blob): (WeightManifest, BlobRef),
) -> Result<WeightSnapshot, TransferError> {
    let weights = WeightSnapshot {
        manifest: Arc::new(manifest),
        bytes: Arc::new(pull_bytes(engine.bulk.as_ref(), blob).await?),
    };
    let torn = || TransferError::Here("its weights are damaged".to_owned());
    weights.is_intact().then_some(weights).ok_or_else(torn)
}

async fn checkpoint(
    engine: Engine,
    there: Option<(String, FileSet)>,
) -> Result<Option<PathBuf>, TransferError> {
    let Some((name, files)) = there else {
        return Ok(None);
    };
    let fault = |error: &str| TransferError::Here(error.to_owned());
    let root = engine.checkpoints.as_ref();
    let root = root.ok_or_else(|| fault("nothing is known of where checkpoints go"))?;
    if !is_name(&name) {
        return Err(fault("that is no name for a checkpoint"));
    }
    let folder = root.join(name);
    let list = bring_folder(&engine.bulk, &files, &folder).await?;
    engine.spreading.know(&folder, list).await;
    if let Some(hook) = &engine.on_checkpoint {
        hook(&folder);
    }
    Ok(Some(folder))
}

async fn export(engine: Engine, files: FileSet, folder: PathBuf) -> Result<(), TransferError> {
    bring_folder(&engine.bulk, &files, &folder).await?;
    Ok(())
}
