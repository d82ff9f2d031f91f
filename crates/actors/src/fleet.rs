//! The handles to all actors of a run, and what they are made of.

use crate::pool::{CallError, Pool};
use crate::ports::{EngineError, Generator, StepReport, Trainer};
use crate::workers::{JudgeMessage, LearnerMessage, SamplerMessage, ToolMessage};
use judge::{JudgeError, OutcomeJudge, ProcessJudge, StepContext};
use proto::{
    Completion, GenerateRequest, Question, SftSample, StateGroup, ToolCall, Verdict,
    WeightSnapshot, WeightVersion,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tools::registry::{Registry, ToolError, ToolReply};

/// How long a sampler may take for one request, a learner for one step. Generous: a CPU is slow,
/// and a limit that is too short would throw work away.
const ENGINE_LIMIT: Duration = Duration::from_secs(3600);

/// How long a call of a tool or a judge may take, waiting for its turn included. Tools and judges
/// have time limits and retries of their own, and theirs end first: a judge model with the default
/// limits gives up after 32 minutes at the latest. This one is for an actor that hangs.
const SERVICE_LIMIT: Duration = Duration::from_secs(7200);

/// The judges of a run: one for steps, one for answers.
#[derive(Clone)]
pub struct Judges {
    /// Rates each step, seeing nothing after it.
    pub process: Arc<dyn ProcessJudge>,
    /// Compares the answer with the key.
    pub outcome: Arc<dyn OutcomeJudge>,
}

/// What a controller starts and keeps alive.
#[derive(Clone)]
pub struct FleetPlan {
    /// One sampler actor per engine.
    pub samplers: Vec<Arc<dyn Generator>>,
    /// The tools.
    pub registry: Arc<Registry>,
    /// Number of tool executors; at least 1.
    pub tool_executors: usize,
    /// The judges.
    pub judges: Judges,
    /// Number of judge actors, which is how many steps are judged at once; at least 1.
    pub judge_actors: usize,
    /// The learner, where the run trains.
    pub learner: Option<Arc<dyn Trainer>>,
}

/// How often actors were started again, by role.
#[derive(Debug, Default)]
pub struct RestartCounts {
    pub(crate) samplers: AtomicU64,
    pub(crate) tools: AtomicU64,
    pub(crate) judges: AtomicU64,
    pub(crate) learner: AtomicU64,
}

impl RestartCounts {
    /// `(role, restarts)` for every role.
    pub fn by_role(&self) -> [(&'static str, u64); 4] {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("sampler", get(&self.samplers)),
            ("tool", get(&self.tools)),
            ("judge", get(&self.judges)),
            ("learner", get(&self.learner)),
        ]
    }
}

/// Why a call through the fleet failed. None of these is ever turned into a reward (AC-3).
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The actor died of it, or gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tool's surroundings failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The judge gave no verdict.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// An engine broke the protocol of a rollout.
    #[error(transparent)]
    Rollout(#[from] control::rollout::RolloutError),
    /// The run has no learner.
    #[error("this run has no learner")]
    NoLearner,
}

/// Handles to every actor. Cheap to clone; stays good across restarts.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) samplers: Pool<SamplerMessage>,
    pub(crate) tools: Pool<ToolMessage>,
    pub(crate) judges: Pool<JudgeMessage>,
    pub(crate) learner: Option<Pool<LearnerMessage>>,
    pub(crate) restarts: Arc<RestartCounts>,
}

impl Fleet {
    /// The number of samplers.
    pub fn sampler_count(&self) -> usize {
        self.samplers.len()
    }

    /// How often actors were started again.
    pub fn restarts(&self) -> &RestartCounts {
        &self.restarts
    }

    /// Continuations from the sampler in `slot`, counted around.
    pub async fn sample(
        &self,
        slot: usize,
        request: GenerateRequest,
    ) -> Result<Vec<Completion>, FleetError> {
        let completions = self.sample_on(slot, vec![request]).await?;
        Ok(completions.into_iter().flatten().collect())
    }

    /// Continuations of every request, in order: request *i* goes to sampler *i*, counted around,
    /// and each sampler gets its share at once.
    pub async fn sample_all(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, FleetError> {
        let (count, samplers) = (requests.len(), self.sampler_count().max(1));
        let mut shares: Vec<Vec<GenerateRequest>> = vec![Vec::new(); samplers.min(count)];
        for (i, request) in requests.into_iter().enumerate() {
            shares[i % samplers].push(request);
        }
        let calls = shares.into_iter().enumerate();
        let calls = calls.map(|(slot, share)| self.sample_on(slot, share));
        let shares = futures::future::try_join_all(calls).await?;
        let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
        Ok((0..count)
            .filter_map(|i| shares[i % samplers].next())
            .collect())
    }

    async fn sample_on(
        &self,
        slot: usize,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, FleetError> {
        let asked = requests.len();
        let message = |port| SamplerMessage::Generate(requests.clone(), port);
        let completions = self
            .samplers
            .call_from(slot, message, ENGINE_LIMIT)
            .await??;
        if completions.len() != asked {
            let answered = completions.len();
            let error = format!("the sampler answered {answered} of {asked} requests");
            return Err(EngineError(error).into());
        }
        Ok(completions)
    }

    /// Gives every sampler these weights; returns once all of them serve them.
    pub async fn publish(&self, weights: WeightSnapshot) -> Result<(), FleetError> {
        let message = |port| SamplerMessage::Publish(weights.clone(), port);
        for served in self.samplers.call_each(message, ENGINE_LIMIT).await? {
            served?;
        }
        Ok(())
    }

    /// The tool's reply.
    pub async fn execute(&self, call: &ToolCall) -> Result<ToolReply, FleetError> {
        let message = |reply| ToolMessage {
            call: call.clone(),
            reply,
        };
        Ok(self.tools.call(message, SERVICE_LIMIT).await??)
    }

    /// The verdict on a step.
    pub async fn judge_step(&self, context: StepContext) -> Result<Verdict, FleetError> {
        let message = |port| JudgeMessage::Step(Box::new(context.clone()), port);
        Ok(self.judges.call(message, SERVICE_LIMIT).await??)
    }

    /// The verdict on an answer.
    pub async fn judge_outcome(
        &self,
        question: &Question,
        answer: Option<&str>,
    ) -> Result<Verdict, FleetError> {
        let message = |port| {
            JudgeMessage::Outcome(Box::new(question.clone()), answer.map(str::to_owned), port)
        };
        Ok(self.judges.call(message, SERVICE_LIMIT).await??)
    }

    /// How many steps the learner has made.
    pub async fn learner_steps(&self) -> Result<u64, FleetError> {
        self.ask_learner(LearnerMessage::StepsDone).await
    }

    /// One supervised step.
    pub async fn supervised_step(&self, batch: Vec<SftSample>) -> Result<StepReport, FleetError> {
        self.ask_learner(|port| LearnerMessage::Supervised(batch.clone(), port))
            .await
    }

    /// One policy-gradient step.
    pub async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, FleetError> {
        self.ask_learner(|port| LearnerMessage::Policy(batch.clone(), port))
            .await
    }

    /// The learner's weights.
    pub async fn snapshot(&self, version: WeightVersion) -> Result<WeightSnapshot, FleetError> {
        self.ask_learner(|port| LearnerMessage::Snapshot(version, port))
            .await
    }

    /// Writes a checkpoint to resume from.
    pub async fn checkpoint(&self) -> Result<PathBuf, FleetError> {
        self.ask_learner(LearnerMessage::Checkpoint).await
    }

    /// Writes the learner's weights as a Hugging Face directory.
    pub async fn export(&self, folder: PathBuf) -> Result<(), FleetError> {
        self.ask_learner(|port| LearnerMessage::Export(folder.clone(), port))
            .await
    }

    async fn ask_learner<R: Send + 'static>(
        &self,
        message: impl Fn(ractor::RpcReplyPort<Result<R, EngineError>>) -> LearnerMessage,
    ) -> Result<R, FleetError> {
        let learner = self.learner.as_ref().ok_or(FleetError::NoLearner)?;
        Ok(learner.call(message, ENGINE_LIMIT).await??)
    }
}
