//! The async front of an engine: callers await their own request, the engine batches them all.

use crate::engine::{Engine, EngineStats, Outcome};
use crate::error::{GenerateError, PublishError};
use crate::request::RequestId;
use model::{DeviceGone, DeviceHandle};
use proto::{Completion, GenerateRequest, WeightSnapshot};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the driver; callers beyond that wait for room.
const QUEUED_COMMANDS: usize = 256;

/// A running sampler; cheap to clone. It ends, and its engine with it, when the last handle is
/// dropped.
#[derive(Debug, Clone)]
pub struct SamplerHandle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Generate(Vec<(GenerateRequest, oneshot::Sender<Outcome>)>),
    Publish {
        snapshot: WeightSnapshot,
        reply: oneshot::Sender<Result<(), PublishError>>,
    },
    Stats {
        reply: oneshot::Sender<EngineStats>,
    },
}

impl SamplerHandle {
    /// Drives `engine` on `device`'s thread, one job a step, so that other users of the device get
    /// their turn between steps.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(engine: Engine, device: DeviceHandle) -> Self {
        let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
        tokio::spawn(drive(engine, device, queue));
        Self { commands }
    }

    /// Completions of a request, in the order of its samples. Dropping the future aborts the
    /// request.
    ///
    /// # Errors
    /// The request is refused, the weights are broken, or the sampler is gone.
    pub async fn generate(
        &self,
        request: GenerateRequest,
    ) -> Result<Vec<Completion>, GenerateError> {
        let completions = self.generate_all(vec![request]).await?;
        Ok(completions.into_iter().flatten().collect())
    }

    /// Completions of each request, in order. The engine gets all of them at once and in order: on
    /// an engine without other work, what is batched with what follows from the requests alone.
    ///
    /// # Errors
    /// As [`SamplerHandle::generate`], for the first request that fails; the others are aborted.
    pub async fn generate_all(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let (asked, outcomes): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .map(|request| {
                let (reply, outcome) = oneshot::channel();
                ((request, reply), outcome)
            })
            .unzip();
        self.commands
            .send(Command::Generate(asked))
            .await
            .map_err(|_| GenerateError::Stopped)?;
        let mut completions = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            completions.push(outcome.await.map_err(|_| GenerateError::Stopped)??);
        }
        Ok(completions)
    }

    /// Serves other weights: requests from before are finished with the old ones, requests from
    /// after wait and get the new ones only.
    ///
    /// # Errors
    /// The snapshot is refused, and the old weights are served on; or the sampler is gone.
    pub async fn publish(&self, snapshot: WeightSnapshot) -> Result<(), PublishError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Publish { snapshot, reply };
        self.commands
            .send(command)
            .await
            .map_err(|_| PublishError::Stopped)?;
        outcome.await.map_err(|_| PublishError::Stopped)?
    }

    /// What the engine did so far; `None` when the sampler is gone.
    pub async fn stats(&self) -> Option<EngineStats> {
        let (reply, stats) = oneshot::channel();
        self.commands.send(Command::Stats { reply }).await.ok()?;
        stats.await.ok()
    }
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Desk {
    next_id: u64,
    waiting: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    /// Commands that are not taken in: a publication and what came after it.
    held: VecDeque<Command>,
}

async fn drive(engine: Engine, device: DeviceHandle, mut commands: mpsc::Receiver<Command>) {
    let mut engine = engine;
    let mut desk = Desk::default();
    loop {
        if engine.is_idle() && desk.held.is_empty() {
            match commands.recv().await {
                Some(command) => desk.held.push_back(command),
                None => break,
            }
        }
        while let Ok(command) = commands.try_recv() {
            desk.held.push_back(command);
        }
        let turn = match desk.take_in(&mut engine) {
            Some(Publication { snapshot, reply }) => {
                publish(engine, &device, snapshot, reply).await
            }
            None if engine.is_idle() => Ok(engine),
            None => desk.step(engine, &device).await,
        };
        match turn {
            Ok(same) => engine = same,
            Err(error) => return desk.give_up(&error),
        }
    }
    // Its memory is the device's, so it is freed there; a device that is gone frees it anyway.
    let _ = device.run(move || drop(engine)).await;
}

struct Publication {
    snapshot: WeightSnapshot,
    reply: oneshot::Sender<Result<(), PublishError>>,
}

impl Desk {
    /// Takes in commands in their order, up to a publication, which is returned once the engine has
    /// finished what came before it.
    fn take_in(&mut self, engine: &mut Engine) -> Option<Publication> {
        while let Some(command) = self.held.pop_front() {
            match command {
                Command::Generate(requests) => {
                    for (request, reply) in requests {
                        self.submit(engine, request, reply);
                    }
                }
                Command::Stats { reply } => {
                    let _ = reply.send(engine.stats()); // a caller that left wants no answer
                }
                Command::Publish { snapshot, reply } if engine.is_idle() => {
                    return Some(Publication { snapshot, reply });
                }
                publish @ Command::Publish { .. } => {
                    self.held.push_front(publish);
                    return None;
                }
            }
        }
        None
    }

    fn submit(
        &mut self,
        engine: &mut Engine,
        request: GenerateRequest,
        reply: oneshot::Sender<Outcome>,
    ) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        match engine.submit(id, request) {
            Ok(()) => {
                self.waiting.insert(id, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(error.into())); // a caller that left wants no answer
            }
        }
    }

    /// One step of the engine, and before it the end of requests whose callers left.
    async fn step(&mut self, engine: Engine, device: &DeviceHandle) -> Result<Engine, DeviceGone> {
        let left: Vec<RequestId> = self
            .waiting
            .iter()
            .filter(|(_, reply)| reply.is_closed())
            .map(|(id, _)| *id)
            .collect();
        self.waiting.retain(|_, reply| !reply.is_closed());
        let mut engine = engine;
        let (engine, finished) = device
            .run(move || {
                left.into_iter().for_each(|id| engine.abort(id));
                let finished = engine.step();
                (engine, finished)
            })
            .await?;
        for (id, outcome) in finished {
            if let Some(reply) = self.waiting.remove(&id) {
                let _ = reply.send(outcome); // a caller that left wants no answer
            }
        }
        Ok(engine)
    }

    /// The engine is lost: everyone who waits is told why.
    fn give_up(self, error: &DeviceGone) {
        tracing::error!(%error, "the sampler lost its engine");
        for reply in self.waiting.into_values() {
            let _ = reply.send(Err(error.clone().into()));
        }
    }
}

async fn publish(
    engine: Engine,
    device: &DeviceHandle,
    snapshot: WeightSnapshot,
    reply: oneshot::Sender<Result<(), PublishError>>,
) -> Result<Engine, DeviceGone> {
    let mut engine = engine;
    let applied = device
        .run(move || {
            let outcome = engine.apply_weights(&snapshot);
            (engine, outcome)
        })
        .await;
    let (outcome, turn) = match applied {
        Ok((engine, outcome)) => (outcome.map_err(PublishError::from), Ok(engine)),
        Err(error) => (Err(error.clone().into()), Err(error)),
    };
    let _ = reply.send(outcome); // a caller that left wants no answer
    turn
}
