//! The handles to all actors of a run, and what they are made of.

use crate::cluster::Engagement;
use crate::newest::Newest;
use crate::patience::{Patience, Sign, Unanswered};
use crate::pool::{CallError, MemberId, Pool, Word};
use crate::ports::{EngineError, Generator, LearnerFault, StepReport, Trainer};
use crate::replicas::GroupMessage;
use crate::stopping::{Saving, Stop};
use crate::vitals::LONGEST_LIMIT;
use crate::workers::{
    Caller, JudgeMessage, LearnerMessage, LearnerPort, RulingPort, SamplerMessage, ToolMessage,
    Waiting,
};
use futures::{FutureExt, TryFutureExt};
use judge::{JudgeError, Obstacle, OutcomeJudge, ProcessJudge, Ruling, StepContext};
use proto::{
    Completion, GenerateRequest, Question, SftSample, SnapshotScope, StateGroup, ToolCall, Verdict,
    WeightSnapshot, WeightVersion,
};
use ractor::ActorRef;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tools::registry::{Registry, ToolError, ToolReply};

/// How long whoever trains waits for a task. Learners on other nodes may be lost with it again and
/// again, and others may be long in coming: that is for whoever watches the run to end.
pub(crate) const LEARNER_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Pause between looks whether there are learners.
const LOOK_FOR_LEARNERS: Duration = Duration::from_secs(1);

/// How long a call of a tool or a judge may take, waiting for its turn included. Tools and judges
/// have time limits and retries of their own, and theirs end first: a judge model with the default
/// limits gives up after 32 minutes at the latest. This one is for an actor that hangs.
pub(crate) const SERVICE_LIMIT: Duration = Duration::from_secs(7200);

/// The judges of a run: one for steps, one for answers.
#[derive(Clone)]
pub struct Judges {
    /// Rates each step, seeing nothing after it.
    pub process: Arc<dyn ProcessJudge>,
    /// Compares the answer with the key.
    pub outcome: Arc<dyn OutcomeJudge>,
}

/// What a controller starts and keeps alive in this process, and what it has nodes do.
#[derive(Clone, Default)]
pub struct FleetPlan {
    /// One sampler actor per engine.
    pub samplers: Vec<Arc<dyn Generator>>,
    /// The tools; none if no tool executor runs here.
    pub registry: Option<Arc<Registry>>,
    /// Number of tool executors; at least 1.
    pub tool_executors: usize,
    /// The judges; none if no judge runs here.
    pub judges: Option<Judges>,
    /// Number of judge actors; at least 1. However many there are, each has as many calls under way as
    /// it is given: what bounds them is the judge's own.
    pub judge_actors: usize,
    /// Time that calls wait for judges that are away before they fail; zero: none, as where the
    /// caller is on another node and waits there.
    pub judge_patience: Duration,
    /// Failures in a row after which a sampler, or the tools or judges of a node, are left out for a
    /// while, and their engine is opened again; 0: never, and whoever asks is told of the first failure.
    pub quarantine_after: u32,
    /// Wait for a role of which nobody works before the run ends; zero: for ever.
    pub patience: Duration,
    /// The learner, where the run trains and the learner lives here.
    pub learner: Option<Arc<dyn Trainer>>,
    /// What other nodes are to do.
    pub elsewhere: Option<Engagement>,
    /// Asked when training is to end in order.
    pub stop: Stop,
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
    /// A judge failed at this again and again, while it answered others.
    #[error("in {0} tries, while others were answered: {1}")]
    Stubborn(u32, Box<FleetError>),
    /// The judges were away for longer than the run has patience. Nothing is lost: mend the cause, or
    /// raise `judge.patience`, and resume.
    #[error(
        "the judge was away for {} and judge.patience is used up: {reason}",
        humantime::format_duration(Duration::from_secs(.away.as_secs()))
    )]
    Away {
        /// For how long.
        away: Duration,
        /// The last error.
        reason: String,
    },
}

impl FleetError {
    /// Whether the actor was lost with its node: the run goes on with another.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Call(CallError::Gone { .. }))
    }

    /// The kind of obstacle that an error of a judge is.
    pub fn obstacle(&self) -> Obstacle {
        match self {
            Self::Judge(error) => error.obstacle(),
            Self::Stubborn(..) => Obstacle::Verdict,
            // Whether it was the call or the nodes that were lost is told by whether others were answered.
            Self::Call(
                CallError::Lost { .. } | CallError::TimedOut { .. } | CallError::Gone { .. },
            ) => Obstacle::Outage,
            Self::Call(CallError::None { .. } | CallError::Away { .. })
            | Self::Engine(_)
            | Self::Tool(_)
            | Self::Rollout(_)
            | Self::Away { .. } => Obstacle::Setup,
        }
    }

    /// Sign that an error of a judge gives of the judge.
    fn sign(&self) -> Sign {
        let away = |is_overload, is_reached, asked_ms| Sign::Away {
            is_overload,
            is_reached,
            asked_ms,
        };
        match (self, self.obstacle()) {
            (Self::Judge(error), Obstacle::Outage) => {
                let is_reached = !matches!(error, JudgeError::Unreachable { .. });
                away(error.is_overload(), is_reached, error.asked_ms())
            }
            (_, Obstacle::Outage) => away(false, true, None),
            (Self::Judge(JudgeError::NoReference { .. }), _) => Sign::Nothing,
            (Self::Judge(_), _) => Sign::There,
            _ => Sign::Nothing,
        }
    }
}

/// Handles to every actor. Cheap to clone; stays good across restarts.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) samplers: Pool<SamplerMessage>,
    pub(crate) tools: Pool<ToolMessage>,
    pub(crate) judges: Pool<JudgeMessage>,
    /// For judges that are away.
    pub(crate) judge_patience: Arc<Patience>,
    pub(crate) learner: Pool<LearnerMessage>,
    pub(crate) restarts: Arc<RestartCounts>,
    /// The weights that every sampler serves that is asked for anything; none before the first
    /// publication. Held while they change and while a sampler is taken in, so that none misses any.
    pub(crate) published: Arc<tokio::sync::Mutex<Newest>>,
    /// The epoch of the group of learners that stands, or stood last.
    pub(crate) epoch: Arc<AtomicU32>,
    /// What is told of learners on other nodes, where there may be some.
    pub(crate) group: Option<ActorRef<GroupMessage>>,
    /// Asked when training is to end in order.
    pub(crate) stop: Stop,
    /// Checkpoints that nodes want before they leave.
    pub(crate) saving: Saving,
    /// Says how many of these there are.
    pub(crate) trainers: Option<Engagement>,
}

impl Fleet {
    /// Whether the learner may hold steps that no checkpoint here has: it outlives this process.
    pub(crate) fn may_be_ahead(&self) -> bool {
        self.group.is_some()
    }

    /// The number of samplers.
    pub fn sampler_count(&self) -> usize {
        self.samplers.ids().len()
    }

    /// How often actors were started again.
    pub fn restarts(&self) -> &RestartCounts {
        &self.restarts
    }

    /// Names of samplers that are left out since they are sick, or on trial.
    pub fn left_out(&self) -> Vec<String> {
        let left_out = self.samplers.vitals.left_out().into_iter();
        left_out.map(|who| who.to_string()).collect()
    }

    /// Continuations of requests that one sampler, whichever, works on together. Whoever asks knows when
    /// it is too late.
    pub(crate) async fn sample_some(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, FleetError> {
        let caller = Caller::new();
        let message = |port| SamplerMessage::Generate(requests.clone(), caller.waiting(), port);
        let nothing = |_: &_| Word::Nothing;
        let asked = self.samplers.call(message, LONGEST_LIMIT, nothing, false);
        Ok(asked.await??)
    }

    /// The tool's reply.
    pub async fn execute(&self, call: &ToolCall) -> Result<ToolReply, FleetError> {
        let message = |reply| ToolMessage {
            call: call.clone(),
            reply,
        };
        let word = |reply: &Result<ToolReply, ToolError>| match reply {
            Err(ToolError::Infrastructure(reason)) => Word::Sick(reason.clone()),
            _ => Word::Well,
        };
        Ok(self
            .tools
            .call(message, SERVICE_LIMIT, word, true)
            .await??)
    }

    /// The verdict on a step. Waits for judges that are away.
    ///
    /// # Errors
    /// When there is none; [`FleetError::obstacle`] says whether others can be had.
    pub async fn judge_step(&self, context: StepContext) -> Result<Verdict, FleetError> {
        self.verdict(|waiting, port| JudgeMessage::Step(Box::new(context.clone()), waiting, port))
            .await
    }

    /// The verdict on an answer. Waits for judges that are away.
    ///
    /// # Errors
    /// As [`Fleet::judge_step`].
    pub async fn judge_outcome(
        &self,
        question: &Question,
        answer: Option<&str>,
    ) -> Result<Verdict, FleetError> {
        self.verdict(|waiting, port| {
            let (question, answer) = (Box::new(question.clone()), answer.map(str::to_owned));
            JudgeMessage::Outcome(question, answer, waiting, port)
        })
        .await
    }

    async fn verdict(
        &self,
        message: impl Fn(Waiting, RulingPort) -> JudgeMessage + Send + Sync,
    ) -> Result<Verdict, FleetError> {
        let call = || {
            let ruling = self.ruling(&message);
            let both = ruling.map_ok(|ruling| (ruling.verdict, ruling.is_fresh));
            both.boxed()
        };
        let answer = self.judge_patience.ask(call, FleetError::sign).await;
        answer.map_err(|unanswered| match unanswered {
            Unanswered::Error(error) => error,
            Unanswered::Stubborn(tries, error) => FleetError::Stubborn(tries, Box::new(error)),
            Unanswered::GaveUp(away, reason) => FleetError::Away { away, reason },
        })
    }

    /// Ruling of a judge that is asked once.
    pub(crate) async fn ruling(
        &self,
        message: impl Fn(Waiting, RulingPort) -> JudgeMessage,
    ) -> Result<Ruling, FleetError> {
        let caller = Caller::new();
        let message = |port| message(caller.waiting(), port);
        let word = |ruling: &Result<Ruling, JudgeError>| match ruling {
            Ok(ruling) if ruling.is_fresh => Word::Well,
            Ok(_) => Word::Nothing,
            Err(error) if error.obstacle() == Obstacle::Outage && !error.is_overload() => {
                Word::Sick(error.to_string())
            }
            Err(_) => Word::Nothing,
        };
        let asked = self.judges.call(message, SERVICE_LIMIT, word, false);
        Ok(asked.await??)
    }

    /// The learner there is, or the next to come.
    ///
    /// # Errors
    /// When the run has none.
    pub async fn learner(&self) -> Result<LearnerHandle, FleetError> {
        loop {
            self.learner.wait().await?;
            if let Some(&id) = self.learner.ids().last() {
                return Ok(LearnerHandle {
                    pool: self.learner.clone(),
                    id,
                    epoch: self.epoch.clone(),
                    trainers: self.trainers.clone(),
                });
            }
        }
    }
}

/// The learner, or the group of learners on other nodes. When these are lost and those that come next
/// have other steps behind them, a call says so ([`FleetError::is_gone`]).
#[derive(Clone)]
pub struct LearnerHandle {
    pool: Pool<LearnerMessage>,
    id: MemberId,
    epoch: Arc<AtomicU32>,
    trainers: Option<Engagement>,
}

impl LearnerHandle {
    /// How the weights after `step` steps are called; a group that meets anew before they are given
    /// out gives them a higher version.
    fn version(&self, step: u64) -> WeightVersion {
        WeightVersion::of(self.epoch.load(Ordering::SeqCst), step)
    }

    /// How many steps the learner has made.
    pub async fn steps_done(&self) -> Result<u64, FleetError> {
        self.ask(LearnerMessage::StepsDone).await
    }

    /// One supervised step.
    pub async fn supervised_step(&self, batch: Vec<SftSample>) -> Result<StepReport, FleetError> {
        self.ask(|port| LearnerMessage::Supervised(batch.clone(), port))
            .await
    }

    /// One policy-gradient step.
    pub async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, FleetError> {
        self.ask(|port| LearnerMessage::Policy(batch.clone(), port))
            .await
    }

    /// So much of the learner's weights after its `step` steps. Their version says of which group they
    /// are.
    pub async fn snapshot(
        &self,
        step: u64,
        scope: SnapshotScope,
    ) -> Result<WeightSnapshot, FleetError> {
        let version = self.version(step);
        self.ask(|port| LearnerMessage::Snapshot(version, scope, port))
            .await
    }

    /// Writes a checkpoint to resume from.
    pub async fn checkpoint(&self) -> Result<PathBuf, FleetError> {
        self.ask(LearnerMessage::Checkpoint).await
    }

    /// Writes the learner's weights as a Hugging Face directory.
    pub async fn export(&self, folder: PathBuf) -> Result<(), FleetError> {
        self.ask(|port| LearnerMessage::Export(folder.clone(), port))
            .await
    }

    async fn ask<R: Send + 'static>(
        &self,
        message: impl Fn(LearnerPort<R>) -> LearnerMessage,
    ) -> Result<R, FleetError> {
        let limit = || LEARNER_LIMIT;
        let asked = self
            .pool
            .call_on(self.id, message, limit, |_| Word::Nothing);
        let answer = tokio::select! {
            biased;
            answer = asked => answer?,
            error = self.missing() => return Err(error.into()),
        };
        answer.map_err(|fault| match fault {
            LearnerFault::Engine(error) => FleetError::Engine(error),
            LearnerFault::Apart(reason) => FleetError::Engine(EngineError(reason)),
            LearnerFault::Behind => FleetError::Call(CallError::Gone { role: "learner" }),
        })
    }

    /// Says now and then that there is no learner, where they are on other nodes; ends when there was none
    /// for longer than the run has patience.
    async fn missing(&self) -> CallError {
        let Some(trainers) = &self.trainers else {
            return std::future::pending().await;
        };
        loop {
            self.pool.vitals.set_works(trainers.learners() > 0);
            if let Err(error) = self.pool.look() {
                return error;
            }
            tokio::time::sleep(LOOK_FOR_LEARNERS).await;
        }
    }
}
