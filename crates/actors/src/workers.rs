//! The actors that do the work: sampler, tool executor, judge, learner. Each is a mailbox in front
//! of an engine. Tool executors work inside their handler, so that a panic in a tool ends that actor
//! and nothing else; the controller starts another. Judges have as many calls under way as they are
//! given, since a judge bounds by itself what it asks of others: a slow reply delays nothing behind
//! it, and a panic ends its call alone.

use crate::fleet::Judges;
use crate::ports::{EngineError, Generator, LearnerFault, StepReport, Trainer};
use judge::{JudgeError, Ruling, StepContext};
use proto::chunks::Pulled;
use proto::{
    Completion, GenerateRequest, Question, SftSample, SnapshotScope, StateGroup, ToolCall,
    WeightSnapshot, WeightVersion,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tools::registry::{Registry, ToolError, ToolReply};

/// Answers when somebody still waits; a caller that gave up is no error.
pub(crate) fn answer<T: Send + 'static>(port: RpcReplyPort<T>, value: T) {
    if port.send(value).is_err() {
        tracing::debug!("the caller no longer waits for this answer");
    }
}

pub(crate) enum SamplerMessage {
    Generate(
        Vec<GenerateRequest>,
        Waiting,
        RpcReplyPort<Result<Vec<Vec<Completion>>, EngineError>>,
    ),
    Publish(WeightSnapshot, RpcReplyPort<Result<Pulled, EngineError>>),
}

/// Tells whether a caller still waits.
#[derive(Clone)]
pub(crate) struct Waiting(watch::Receiver<()>);

/// Kept by the caller for as long as it waits.
pub(crate) struct Caller(watch::Sender<()>);

impl Caller {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(crate) fn waiting(&self) -> Waiting {
        Waiting(self.0.subscribe())
    }
}

impl Waiting {
    /// Works as long as the caller waits: an engine has better things to do than what nobody wants.
    pub(crate) async fn during<T>(mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = self.0.changed() => None,
        }
    }
}

/// Requests run side by side: the engine behind the port batches whatever it is given.
pub(crate) struct Sampler;

#[ractor::async_trait]
impl Actor for Sampler {
    type Msg = SamplerMessage;
    type State = Arc<dyn Generator>;
    type Arguments = Arc<dyn Generator>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        engine: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(engine)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        engine: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SamplerMessage::Generate(requests, waiting, port) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    if let Some(done) = waiting.during(engine.generate(requests)).await {
                        answer(port, done);
                    }
                });
            }
            SamplerMessage::Publish(weights, port) => {
                let published = engine.publish(weights).await;
                answer(port, published.map(|()| Pulled::default()));
            }
        }
        Ok(())
    }
}

pub(crate) struct ToolMessage {
    pub call: ToolCall,
    pub reply: RpcReplyPort<Result<ToolReply, ToolError>>,
}

pub(crate) struct ToolExecutor;

#[ractor::async_trait]
impl Actor for ToolExecutor {
    type Msg = ToolMessage;
    type State = Arc<Registry>;
    type Arguments = Arc<Registry>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        registry: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(registry)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        registry: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let result = registry.call(&message.call).await;
        answer(message.reply, result);
        Ok(())
    }
}

/// Port for a judge's answer.
pub(crate) type RulingPort = RpcReplyPort<Result<Ruling, JudgeError>>;

pub(crate) enum JudgeMessage {
    Step(Box<StepContext>, Waiting, RulingPort),
    Outcome(Box<Question>, Option<String>, Waiting, RulingPort),
}

pub(crate) struct Judge;

#[ractor::async_trait]
impl Actor for Judge {
    type Msg = JudgeMessage;
    type State = Judges;
    type Arguments = Judges;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        judges: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(judges)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        judges: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let judges = judges.clone();
        tokio::spawn(async move {
            // For a caller that gave up a judge model would be asked for what nobody reads.
            let (ruling, port) = match message {
                JudgeMessage::Step(context, waiting, port) => {
                    (waiting.during(judges.process.rule(&context)).await, port)
                }
                JudgeMessage::Outcome(question, text, waiting, port) => {
                    let ruling = judges.outcome.rule(&question, text.as_deref());
                    (waiting.during(ruling).await, port)
                }
            };
            if let Some(ruling) = ruling {
                answer(port, ruling);
            }
        });
        Ok(())
    }
}

/// What whoever asks a learner waits for.
pub(crate) type LearnerPort<T> = RpcReplyPort<Result<T, LearnerFault>>;

pub(crate) enum LearnerMessage {
    StepsDone(LearnerPort<u64>),
    Supervised(Vec<SftSample>, LearnerPort<StepReport>),
    Policy(Vec<StateGroup>, LearnerPort<StepReport>),
    Snapshot(WeightVersion, SnapshotScope, LearnerPort<WeightSnapshot>),
    Checkpoint(LearnerPort<PathBuf>),
    Export(PathBuf, LearnerPort<()>),
}

fn said<T>(result: Result<T, EngineError>) -> Result<T, LearnerFault> {
    result.map_err(LearnerFault::Engine)
}

/// One request at a time, in order: each step starts from the weights of the one before.
pub(crate) struct Learner;

#[ractor::async_trait]
impl Actor for Learner {
    type Msg = LearnerMessage;
    type State = Arc<dyn Trainer>;
    type Arguments = Arc<dyn Trainer>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        engine: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(engine)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        engine: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LearnerMessage::StepsDone(port) => answer(port, said(engine.steps_done().await)),
            LearnerMessage::Supervised(batch, port) => {
                answer(port, engine.supervised_step(batch).await);
            }
            LearnerMessage::Policy(batch, port) => answer(port, engine.policy_step(batch).await),
            LearnerMessage::Snapshot(version, scope, port) => {
                answer(port, said(engine.snapshot(version, scope).await));
            }
            LearnerMessage::Checkpoint(port) => answer(port, said(engine.checkpoint().await)),
            LearnerMessage::Export(folder, port) => {
                answer(port, said(engine.export(folder).await));
            }
        }
        Ok(())
    }
}
