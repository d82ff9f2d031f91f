//! The engines behind the actors: libtorch on one owner thread per device.

use crate::config::ModelSection;
use crate::console;
use crate::gpu;
use crate::usage::UsageError;
use actors::ports::{EngineError, Generator, LearnerFault, StepReport, Trainer, Turns};
use anyhow::{Context, Result};
use async_trait::async_trait;
use learner::{CheckpointError, ComputeType, Learner, StepError, StepMetrics};
use model::{DeviceHandle, DeviceThread, TemplateArguments, Tokenizer, TurnCodec};
use proto::{
    Completion, GenerateRequest, Question, SftSample, SnapshotScope, StateGroup, Thinking,
    WeightSnapshot, WeightVersion,
};
use sampler::{Engine, EngineConfig, SamplerHandle};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind};
use tools::parser::ActionTags;

/// Jobs that wait for the device; callers beyond that wait for room.
const QUEUED_JOBS: usize = 64;

/// The device of a run, its owner thread, and the type to compute in.
#[derive(Clone)]
pub struct Machine {
    /// Where tensors live.
    pub device: Device,
    /// The type the sampler and the reference compute in.
    pub kind: Kind,
    /// Whether samplers compute logits in f32 all the same.
    pub f32_head: bool,
    handle: DeviceHandle,
}

impl Machine {
    /// Takes the device that the configuration names.
    ///
    /// # Errors
    /// When it does not exist on this machine.
    pub fn new(section: &ModelSection) -> Result<Self> {
        let device = device(&section.device)?;
        let threads = match section.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            threads => threads,
        };
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let kind = section.dtype.kind(device);
        let thread = DeviceThread::spawn("device", QUEUED_JOBS)
            .context("the operating system gives no thread for the device")?;
        Ok(Self {
            device,
            kind,
            f32_head: section.f32_head,
            handle: thread.handle(),
        })
    }

    /// The device as it is written in a configuration.
    pub fn name(&self) -> String {
        match self.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        }
    }

    /// Behind an error of an engine: ends the process if its GPU does not work any more.
    async fn look_after(&self, error: &str) {
        let (device, error) = (self.device, error.to_owned());
        if device.is_cuda() {
            // A panic of it says the same again.
            let _ = self.run(move || gpu::end_if_lost(device, &error)).await;
        }
    }

    /// The same device, to compute in another type.
    pub fn computing_in(&self, dtype: ComputeType, f32_head: bool) -> Self {
        Self {
            kind: dtype.kind(self.device),
            f32_head,
            ..self.clone()
        }
    }

    /// `count` samplers, each with a copy of the weights of `dir`; `arguments` are passed to its chat
    /// template, which says what ends a turn.
    ///
    /// # Errors
    /// When the model cannot be loaded, or does not fit.
    pub async fn samplers(
        &self,
        dir: &Path,
        arguments: &TemplateArguments,
        config: EngineConfig,
        count: usize,
    ) -> Result<Vec<Arc<dyn Generator>>> {
        let mut samplers: Vec<Arc<dyn Generator>> = Vec::new();
        for _ in 0..count {
            let sampler = self.sampler(dir, arguments, config).await?;
            samplers.push(Arc::new(SamplerPort {
                machine: self.clone(),
                sampler,
            }));
        }
        Ok(samplers)
    }

    async fn sampler(
        &self,
        dir: &Path,
        arguments: &TemplateArguments,
        config: EngineConfig,
    ) -> Result<SamplerHandle> {
        let (dir, device, kind) = (dir.to_owned(), self.device, self.kind);
        let (arguments, f32_head) = (arguments.clone(), self.f32_head);
        let engine = self
            .handle
            .run(move || -> Result<Engine> {
                let tokenizer = Arc::new(Tokenizer::load_with(&dir, &arguments)?);
                let mut decoder = model::load(&dir, device, kind)?;
                if f32_head {
                    decoder.widen_head();
                }
                Ok(Engine::new(decoder, tokenizer, WeightVersion(0), config)?)
            })
            .await??;
        Ok(SamplerHandle::spawn(engine, self.handle.clone()))
    }

    /// Runs `job` on the device's thread.
    ///
    /// # Errors
    /// When the job panicked.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        Ok(self.handle.run(job).await?)
    }
}

/// A device as it is written in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Reads `auto`, `cpu` or `cuda:N`; whether there is such a device is not asked.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            _ => {
                let index = name.strip_prefix("cuda:")?;
                let is_number = index.bytes().all(|b| b.is_ascii_digit());
                is_number.then(|| index.parse().ok().map(Self::Cuda))?
            }
        }
    }
}

fn device(name: &str) -> Result<Device, UsageError> {
    let gpus = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    match DeviceChoice::parse(name) {
        Some(DeviceChoice::Cpu) => Ok(Device::Cpu),
        Some(DeviceChoice::Auto) if gpus == 0 => {
            if let Some(warning) = gpu::warn_of_cpu(Path::new("/")) {
                console::remark(warning);
            }
            Ok(Device::Cpu)
        }
        Some(DeviceChoice::Auto) => Ok(Device::Cuda(0)),
        Some(DeviceChoice::Cuda(index)) if index < gpus => Ok(Device::Cuda(index)),
        Some(DeviceChoice::Cuda(_)) => Err(UsageError::new(format!(
            "model.device = {name:?}, but libtorch finds {gpus} GPUs: run `swirl doctor`"
        ))),
        None => Err(UsageError::new(format!(
            "model.device = {name:?}: write auto, cpu or cuda:N"
        ))),
    }
}

/// A sampler as the actors see it.
struct SamplerPort {
    machine: Machine,
    sampler: SamplerHandle,
}

impl SamplerPort {
    async fn checked<T, E: std::fmt::Display>(&self, done: Result<T, E>) -> Result<T, EngineError> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                let error = error.to_string();
                self.machine.look_after(&error).await;
                Err(EngineError(error))
            }
        }
    }
}

#[async_trait]
impl Generator for SamplerPort {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let done = self.sampler.generate_all(requests).await;
        self.checked(done).await
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        let done = self.sampler.publish(weights).await;
        self.checked(done).await
    }
}

/// A learner as the actors see it.
pub struct LearnerPort {
    machine: Machine,
    learner: Arc<Mutex<Learner>>,
    checkpoints: PathBuf,
}

impl LearnerPort {
    /// A learner that writes its checkpoints below `checkpoints`.
    pub fn new(machine: Machine, learner: Learner, checkpoints: PathBuf) -> Self {
        Self {
            machine,
            learner: Arc::new(Mutex::new(learner)),
            checkpoints,
        }
    }

    /// Has something done with the learner, on its device's thread.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn with<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Learner) -> Result<R> + Send + 'static,
    ) -> Result<R, EngineError> {
        let result = self.run(job).await.and_then(|result| result);
        match result {
            Ok(done) => Ok(done),
            Err(error) => {
                let error = format!("{error:#}");
                self.machine.look_after(&error).await;
                Err(EngineError(error))
            }
        }
    }

    async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Learner) -> R + Send + 'static,
    ) -> Result<R> {
        let learner = self.learner.clone();
        let run = move || {
            let mut learner = learner
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            job(&mut learner)
        };
        self.machine.run(run).await
    }

    /// Writes a checkpoint, as one of the replicas that keep shares of the optimizer's state; `None`
    /// where another one wrote it.
    pub async fn checkpoint_together(&self) -> Result<Option<PathBuf>, LearnerFault> {
        let root = self.checkpoints.clone();
        let saved = self.run(move |learner| learner.save_checkpoint(&root));
        let saved = saved
            .await
            .map_err(|error| engine_fault(&format!("{error:#}")))?;
        saved.map_err(|error| match error {
            CheckpointError::Collective(_)
            | CheckpointError::Replica
            | CheckpointError::Torn(_) => LearnerFault::Apart(error.to_string()),
            error => engine_fault(&error.to_string()),
        })
    }

    async fn step(
        &self,
        step: impl FnOnce(&mut Learner) -> Result<StepMetrics, StepError> + Send + 'static,
    ) -> Result<StepReport, LearnerFault> {
        let made = self.run(move |learner| {
            let metrics = step(learner)?;
            Ok(StepReport {
                step: learner.step(),
                metrics: metrics.values(),
            })
        });
        let made: Result<Result<StepReport, StepError>> = made.await;
        let failure = match &made {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = failure {
            self.machine.look_after(&error).await;
        }
        let made = made.map_err(|error| engine_fault(&format!("{error:#}")))?;
        made.map_err(|error: StepError| match error {
            StepError::Collective(_) | StepError::Replica | StepError::Torn(_) => {
                LearnerFault::Apart(error.to_string())
            }
            error => engine_fault(&error.to_string()),
        })
    }
}

fn engine_fault(reason: &str) -> LearnerFault {
    LearnerFault::Engine(EngineError(reason.to_owned()))
}

#[async_trait]
impl Trainer for LearnerPort {
    async fn steps_done(&self) -> Result<u64, EngineError> {
        self.with(|learner| Ok(learner.step())).await
    }

    async fn supervised_step(&self, batch: Vec<SftSample>) -> Result<StepReport, LearnerFault> {
        self.step(move |learner| learner.sft_step(&batch)).await
    }

    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault> {
        self.step(move |learner| learner.rl_step(&batch)).await
    }

    async fn snapshot(
        &self,
        version: WeightVersion,
        scope: SnapshotScope,
    ) -> Result<WeightSnapshot, EngineError> {
        self.with(move |learner| Ok(learner.snapshot(version, scope)))
            .await
    }

    async fn checkpoint(&self) -> Result<PathBuf, EngineError> {
        let root = self.checkpoints.clone();
        self.with(move |learner| {
            let saved = learner.save_checkpoint(&root)?;
            saved.context("another replica of the group wrote the checkpoint")
        })
        .await
    }

    async fn export(&self, folder: PathBuf) -> Result<(), EngineError> {
        self.with(move |learner| Ok(learner.export(&folder)?)).await
    }
}

/// Dialogues in the model's own chat template.
pub struct ChatTurns {
    codec: TurnCodec,
    system: String,
}

impl ChatTurns {
    /// The template and tokenizer of `dir`, opened by `system`; `section` has the
    /// template's variables and the tags of thinking.
    ///
    /// # Errors
    /// When the directory has no usable tokenizer or template.
    pub fn load(dir: &Path, section: &ModelSection, system: &str) -> Result<Self> {
        let mut codec = TurnCodec::load_with(dir, &section.template_arguments)?;
        if let Some((open, close)) = section.thinking_tags() {
            codec = codec.with_thinking(open, close);
        }
        Ok(Self {
            codec,
            system: system.to_owned(),
        })
    }

    /// The sections in which the model thinks.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.codec.thinking()
    }

    /// Refuses a tokenizer that has one of the tags for a special token: texts leave those out, so that
    /// no action could be read, or what was thought would be taken for said.
    ///
    /// # Errors
    /// Names the tag.
    pub fn shows(&self, tags: &ActionTags) -> Result<(), UsageError> {
        let tokenizer = self.codec.tokenizer();
        match tags
            .texts()
            .into_iter()
            .find(|text| tokenizer.is_special_text(text))
        {
            Some(tag) => Err(UsageError::new(format!(
                "`{tag}` is a special token of the model's tokenizer, and texts leave special tokens \
                 out: set \"special\": false for it in tokenizer.json, or choose another tag"
            ))),
            None => Ok(()),
        }
    }

    /// A dialogue to imitate: prompt, then actions (trained on, each with its end of turn) and
    /// observations (not).
    pub fn dialogue(&self, question: &Question, turns: &[data::Turn]) -> SftSample {
        let mut tokens = self.prompt(question);
        let mut mask = vec![0; tokens.len()];
        let mut action: Vec<u32> = Vec::new();
        for turn in turns {
            let (ids, trained) = match turn {
                data::Turn::Assistant(text) => {
                    action = self.codec.action(text);
                    (action.clone(), 1)
                }
                data::Turn::Observation(text) => (self.observation(text, &action), 0),
            };
            mask.resize(mask.len() + ids.len(), trained);
            tokens.extend(ids);
        }
        SftSample { tokens, mask }
    }
}

impl Turns for ChatTurns {
    fn prompt(&self, question: &Question) -> Vec<u32> {
        self.codec.prompt(Some(&self.system), &question.question)
    }

    fn observation(&self, text: &str, sampled: &[u32]) -> Vec<u32> {
        let closed = sampled.last() == Some(&self.codec.end_of_turn());
        self.codec.observation(text, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        let cases = [
            ("auto", Some(DeviceChoice::Auto)),
            ("cpu", Some(DeviceChoice::Cpu)),
            ("cuda:0", Some(DeviceChoice::Cuda(0))),
            ("cuda:12", Some(DeviceChoice::Cuda(12))),
            ("cuda:", None),
            ("cuda:+1", None),
            ("cuda", None),
            ("CPU", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(DeviceChoice::parse(name), expected, "{name:?}");
        }
    }
}
