//! The learner itself: what it owns, and how gradients become weights.

use crate::checkpoint::{self, CheckpointError};
use crate::config::{ConfigError, LearnerConfig};
use crate::files;
use crate::flat::FlatParameters;
use crate::layers::Gradients;
use crate::lora;
use crate::metrics::{StepMetrics, timed};
use crate::optimizer::{AdamW, Update, global_norm};
use crate::pass::{self, PassOptions, StepError};
use crate::rate::matrix_rate;
use crate::schedule::Plan;
use crate::sync::{Buckets, GradientSync, agree};
use algo::advantage::RewardHistory;
use algo::logprob::Drawn;
use algo::loss::TokenLoss;
use algo::pack::{MicroBatch, Target};
use collective::{CollectiveError, Communicator, Reduce, Solo};
use model::{Decoder, DecoderSpec, Parameter, Slot};
use proto::{SftSample, StateGroup, WeightSnapshot, WeightVersion};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Where an exported folder has the adapters by themselves.
const ADAPTER_FOLDER: &str = "adapter";

/// Why a learner could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// A hyperparameter is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] model::LoadError),
    /// The checkpoint to resume from cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An entry of `freeze` names no parameter.
    #[error("learner.freeze: no parameter's name begins with {0:?}; names are like {1}")]
    Freeze(String, String),
    /// Every parameter is frozen.
    #[error("learner.freeze leaves no parameter to train")]
    AllFrozen,
    /// The adapter to start from is not of the configured kind.
    #[error(
        "learner.lora: the adapter in {} has rank = {rank}, alpha = {alpha} and targets {targets}; \
         set the same ones",
        .folder.display()
    )]
    OtherAdapter {
        /// The PEFT folder.
        folder: PathBuf,
        /// Its rank.
        rank: i64,
        /// Its alpha.
        alpha: f64,
        /// Its targets.
        targets: String,
    },
    /// Results cannot be repeated bit for bit on this device.
    #[error(
        "learner.deterministic: results are repeatable on a CPU only; use device cpu or turn it off"
    )]
    NotRepeatable,
}

/// The frozen model that the KL term compares with.
#[derive(Debug)]
enum Reference {
    /// Of the folder, and not needed yet.
    Folder(PathBuf),
    Loaded(Box<Decoder>),
}

/// Trains one decoder on one device. Blocking; belongs on the thread that owns the device.
#[derive(Debug)]
pub struct Learner {
    config: LearnerConfig,
    decoder: Decoder,
    reference: Reference,
    pub(crate) flat: FlatParameters,
    gradients: Gradients,
    pub(crate) optimizer: AdamW,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) cursor: Vec<u8>,
    pub(crate) step: u64,
    pub(crate) bad_steps: u32,
    pub(crate) reward_history: RewardHistory,
    /// The Hugging Face folder whose configuration and tokenizer exports take along.
    source: PathBuf,
    communicator: Box<dyn Communicator>,
    buckets: Buckets,
    /// Operations per second of large matrix products, once it has been measured.
    matrix_rate: Option<f64>,
}

impl Learner {
    /// A learner that starts from the Hugging Face folder `start`, or goes on from the newest
    /// checkpoint below `checkpoints` if there is one. The reference of the KL term is `start` in
    /// both cases; it is loaded when the first policy step needs it.
    ///
    /// # Errors
    /// When the configuration, the model or the checkpoint cannot be used.
    pub fn open(
        start: &Path,
        checkpoints: &Path,
        device: Device,
        config: LearnerConfig,
    ) -> Result<Self, LearnerError> {
        match checkpoint::newest_checkpoint(checkpoints)? {
            Some(folder) => Self::resume(&folder, start, device, config),
            None => Self::new(start, device, config),
        }
    }

    /// A learner that starts from the Hugging Face folder `start`, which is the KL term's reference
    /// too.
    ///
    /// # Errors
    /// When the configuration or the model cannot be used.
    pub fn new(start: &Path, device: Device, config: LearnerConfig) -> Result<Self, LearnerError> {
        Self::load(start, start, device, config)
    }

    /// A learner that goes on exactly where `checkpoint`, written by
    /// [`Learner::save_checkpoint`], left off.
    ///
    /// # Errors
    /// When the checkpoint is damaged, or was made for other parameters than `config` trains.
    pub fn resume(
        checkpoint: &Path,
        reference: &Path,
        device: Device,
        config: LearnerConfig,
    ) -> Result<Self, LearnerError> {
        config.validate()?;
        checkpoint::verify(checkpoint)?;
        // Under LoRA the weights are those of the start model; the checkpoint's folder has the
        // adapters added to them.
        let from = if config.lora.is_some() {
            reference
        } else {
            checkpoint
        };
        // Exports take configuration and tokenizer from the start model: a checkpoint goes once
        // newer ones are there.
        let mut learner = Self::load(from, reference, device, config)?;
        learner.restore(checkpoint)?;
        tracing::info!(step = learner.step, from = %checkpoint.display(), "Training goes on.");
        Ok(learner)
    }

    /// A learner of the weights in `folder`. `source` is the reference of the KL term, and what
    /// exports take configuration and tokenizer from.
    fn load(
        folder: &Path,
        source: &Path,
        device: Device,
        config: LearnerConfig,
    ) -> Result<Self, LearnerError> {
        config.validate()?;
        check_device(&config, device)?;
        let spec = model::spec_of(folder)?;
        check_freeze(&config, &spec)?;
        let kind = config.kind(device);
        let adapters = match &config.lora {
            Some(lora) => Some(lora::start(lora, &spec, config.seed)?),
            None => None,
        };
        let lora = adapters.as_ref().map(|(lora, _)| lora);
        let flat = FlatParameters::new(&spec, lora, kind, device, &config.freeze);
        if flat.layout.entries.is_empty() {
            return Err(LearnerError::AllFrozen);
        }
        let place = |slot: &Slot, tensor| flat.place(slot, tensor);
        // Read as they are stored: a master has digits that the compute type has not.
        let mut decoder = model::load_with(folder, device, read_as(&config, kind), place)?;
        if let Some((lora, tensors)) = adapters {
            let slots = lora.slots(&spec);
            let placed = slots
                .iter()
                .zip(tensors)
                .map(|(slot, t)| flat.place(slot, t));
            let placed = placed.collect();
            decoder.adapt(lora, placed);
        }
        flat.refresh();
        let reference = match &config.lora {
            Some(lora) => Reference::Loaded(Box::new(frozen(&decoder, lora.start.is_some()))),
            None => Reference::Folder(source.to_owned()),
        };
        Ok(Self {
            gradients: Gradients::new(&decoder, &flat),
            optimizer: AdamW::new(&flat),
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            reference,
            source: source.to_owned(),
            communicator: Box::new(Solo),
            buckets: Buckets::new(&flat.layout, decoder.spec().layers.len()),
            matrix_rate: None,
            cursor: Vec::new(),
            step: 0,
            bad_steps: 0,
            reward_history: RewardHistory::default(),
            config,
            decoder,
            flat,
        })
    }

    /// Makes it one replica of a group: from now on every member takes each step, on its own share
    /// of the batch (which may be empty), and all have the same weights after it. The states of a
    /// trajectory belong into one share, as do the actions of a state. All take over weights,
    /// moments, step and reward history of rank 0; random numbers and cursor stay as they are.
    ///
    /// # Errors
    /// When the group cannot be used.
    pub fn join(&mut self, mut communicator: Box<dyn Communicator>) -> Result<(), CollectiveError> {
        let mut numbers = [
            self.step as f64,
            self.optimizer.updates as f64,
            f64::from(self.bad_steps),
            self.reward_history.sum,
            self.reward_history.weight,
        ];
        let host = Tensor::from_slice(&numbers);
        communicator.broadcast(&host, 0)?.wait()?;
        host.copy_data(&mut numbers, 5);
        let [step, updates, bad_steps, sum, weight] = numbers;
        for tensor in [
            &self.flat.master,
            &self.optimizer.exp_avg,
            &self.optimizer.exp_avg_sq,
        ] {
            communicator.broadcast(tensor, 0)?.wait()?;
        }
        self.flat.refresh();
        self.step = step as u64;
        self.optimizer.updates = updates as u64;
        self.bad_steps = bad_steps as u32;
        self.reward_history = RewardHistory { sum, weight };
        self.communicator = communicator;
        Ok(())
    }

    /// The hyperparameters.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// The decoder with its current weights, in the compute type.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Steps made, skipped ones included.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Random numbers that checkpoints carry: what the caller shuffles and picks with.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    /// The caller's place in its data, as last set; empty at first.
    pub fn cursor(&self) -> &[u8] {
        &self.cursor
    }

    /// Sets what checkpoints keep as the caller's place in its data.
    pub fn set_cursor(&mut self, cursor: Vec<u8>) {
        self.cursor = cursor;
    }

    /// The current weights in host memory, in the compute type.
    pub fn snapshot(&self, version: WeightVersion) -> WeightSnapshot {
        model::snapshot(&self.decoder, version)
    }

    /// The gradient that [`Learner::rl_step`] would descend, by checkpoint names, in f32, before
    /// clipping. Weights and moments stay as they are.
    ///
    /// # Errors
    /// As those of the step.
    pub fn policy_gradient(
        &mut self,
        groups: &[StateGroup],
    ) -> Result<(StepMetrics, WeightSnapshot), StepError> {
        let history = self.reward_history;
        let metrics = self.accumulate_policy(groups)?;
        self.reward_history = history;
        Ok((metrics, self.take_gradient()))
    }

    /// The gradient that [`Learner::sft_step`] would descend, as [`Learner::policy_gradient`].
    ///
    /// # Errors
    /// As those of the step.
    pub fn supervised_gradient(
        &mut self,
        samples: &[SftSample],
    ) -> Result<(StepMetrics, WeightSnapshot), StepError> {
        let metrics = self.accumulate_supervised(samples)?;
        Ok((metrics, self.take_gradient()))
    }

    fn take_gradient(&mut self) -> WeightSnapshot {
        let of = |parameter: &Parameter| {
            Some(Parameter {
                slot: parameter.slot.clone(),
                tensor: self.flat.gradient_of(&parameter.slot.name)?,
            })
        };
        let parameters = self.decoder.parameters().iter();
        let parameters = parameters.chain(self.decoder.adapter_parameters());
        let gradients: Vec<Parameter> = parameters.filter_map(of).collect();
        let snapshot = model::snapshot_of(&gradients, Kind::Float, WeightVersion(self.step));
        let _ = self.flat.gradient.zero_();
        snapshot
    }

    /// Writes the weights as a Hugging Face folder, in the compute type; under LoRA with the
    /// adapters added, and in `adapter/` the adapters by themselves, as PEFT loads them. The folder appears when it
    /// is complete; an older one is replaced.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn export(&self, folder: &Path) -> Result<(), CheckpointError> {
        files::write_folder(folder, |part| self.save_model(part))
    }

    pub(crate) fn save_model(&self, folder: &Path) -> Result<(), CheckpointError> {
        let (decoder, kind) = (&self.decoder, self.decoder.kind());
        let failed = |error| CheckpointError::Model(Box::new(error));
        model::save(folder, &decoder.merged_parameters(), kind, &self.source).map_err(failed)?;
        if let Some(lora) = decoder.lora() {
            let (adapters, base) = (decoder.adapter_parameters(), &self.source);
            let folder = folder.join(ADAPTER_FOLDER);
            model::save_adapter(&folder, lora, adapters, Kind::Float, base).map_err(failed)?;
        }
        Ok(())
    }

    /// The reference model, loaded on first use.
    pub(crate) fn reference(&mut self) -> Result<&Decoder, StepError> {
        if let Reference::Folder(folder) = &self.reference {
            let decoder = model::load(folder, self.decoder.device(), self.decoder.kind())?;
            self.reference = Reference::Loaded(Box::new(decoder));
        }
        match &self.reference {
            Reference::Loaded(decoder) => Ok(decoder),
            Reference::Folder(_) => unreachable!("it was just loaded"),
        }
    }

    /// Makes the gradient that of `batches` and of those of all replicas. On an error it is zero.
    pub(crate) fn backward(
        &mut self,
        batches: &[MicroBatch],
        temperature: f64,
        metrics: &mut StepMetrics,
        loss: impl FnMut(&Target, Drawn) -> TokenLoss,
    ) -> Result<(), StepError> {
        let options = PassOptions {
            temperature,
            chunk_tokens: self.config.loss_chunk_tokens,
            recompute: self.config.activation_checkpointing,
        };
        let gradient = self.flat.gradient.shallow_clone();
        let mut sync = GradientSync::new(&mut *self.communicator, &self.buckets, &gradient);
        let mut sums = pass::backward(
            &self.decoder,
            &mut self.gradients,
            batches,
            options,
            &mut metrics.seconds,
            |passed| sync.passed(passed),
            loss,
        );
        let summed = timed(&mut metrics.seconds.reduce, || sync.finish())
            .and_then(|()| self.add_up(sums.numbers()));
        if let Err(error) = summed {
            let _ = self.flat.gradient.zero_();
            return Err(error);
        }
        metrics.add(&sums);
        Ok(())
    }

    /// Runs a whole step and says how long it took and how well it used the device.
    pub(crate) fn measured(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<StepMetrics, StepError>,
    ) -> Result<StepMetrics, StepError> {
        let (kind, device) = (self.decoder.kind(), self.decoder.device());
        let rate = *self
            .matrix_rate
            .get_or_insert_with(|| matrix_rate(kind, device));
        let start = Instant::now();
        let mut metrics = step(self)?;
        metrics.seconds.total = start.elapsed().as_secs_f64();
        let per_parameter = if self.decoder.lora().is_some() {
            4.0
        } else {
            6.0
        };
        let parameters = self.decoder.spec().parameter_count() as f64;
        metrics.model_flops = per_parameter * parameters * metrics.packed_tokens as f64;
        let share = metrics.model_flops / self.communicator.world() as f64;
        metrics.flop_share = share / metrics.seconds.total / rate;
        Ok(metrics)
    }

    /// Replaces numbers by their sums over all replicas.
    pub(crate) fn add_up<const N: usize>(
        &mut self,
        numbers: [&mut f64; N],
    ) -> Result<(), StepError> {
        self.reduce(numbers, Reduce::Sum)
    }

    /// Replaces numbers by their reductions over all replicas.
    pub(crate) fn reduce<const N: usize>(
        &mut self,
        numbers: [&mut f64; N],
        reduce: Reduce,
    ) -> Result<(), StepError> {
        let mut values = numbers.each_ref().map(|number| **number);
        self.communicator.all_reduce_numbers(&mut values, reduce)?;
        for (number, value) in numbers.into_iter().zip(values) {
            *number = value;
        }
        Ok(())
    }

    /// An error of one replica is one of all.
    pub(crate) fn agree<T>(&mut self, local: Result<T, StepError>) -> Result<T, StepError> {
        agree(&mut *self.communicator, local)
    }

    /// Turns the summed gradient into new weights, or leaves them if it is not finite (LE-3).
    pub(crate) fn apply(&mut self, metrics: &mut StepMetrics) -> Result<(), StepError> {
        let mut seconds = 0.0;
        metrics.learning_rate = self.plan().rate(self.step);
        self.step += 1;
        metrics.step = self.step;
        metrics.grad_norm = timed(&mut seconds, || global_norm(&self.flat.gradient));
        if metrics.grad_norm.is_finite() {
            self.bad_steps = 0;
            timed(&mut seconds, || self.update(metrics));
        } else {
            self.bad_steps += 1;
            metrics.skipped = true;
            let _ = self.flat.gradient.zero_();
            tracing::warn!(
                step = self.step,
                "The gradient is not finite; the step is left out."
            );
        }
        metrics.seconds.optimizer += seconds;
        match self.bad_steps {
            bad if bad >= self.config.max_bad_steps => Err(StepError::TooManyBadSteps(bad)),
            _ => Ok(()),
        }
    }

    fn update(&mut self, metrics: &mut StepMetrics) {
        let limit = self.config.clip_grad_norm;
        metrics.clipped = limit > 0.0 && metrics.grad_norm > limit;
        let update = Update {
            learning_rate: metrics.learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            gradient_scale: if metrics.clipped {
                limit / metrics.grad_norm
            } else {
                1.0
            },
        };
        self.optimizer.update(&self.flat, update);
    }

    #[cfg(test)]
    pub(crate) fn set_micro_batch_tokens(&mut self, tokens: usize) {
        self.config.micro_batch_tokens = tokens;
    }

    #[cfg(test)]
    pub(crate) fn set_activation_checkpointing(&mut self, on: bool) {
        self.config.activation_checkpointing = on;
    }

    fn plan(&self) -> Plan {
        Plan {
            peak: self.config.learning_rate,
            schedule: self.config.schedule,
            warmup_steps: self.config.warmup_steps,
            total_steps: self.config.total_steps,
            min_ratio: self.config.min_lr_ratio,
        }
    }
}

/// The type to read weights in: without a master copy there is no use for more digits than are
/// computed with.
fn read_as(config: &LearnerConfig, compute: Kind) -> Kind {
    if config.lora.is_some() {
        compute
    } else {
        Kind::Float
    }
}

/// The policy as it starts under LoRA, on the same weights; only adapters that it starts from are
/// copied.
fn frozen(decoder: &Decoder, with_adapters: bool) -> Decoder {
    let mut frozen = decoder.without_adapters();
    if let (true, Some(lora)) = (with_adapters, decoder.lora()) {
        let adapters = decoder.adapter_parameters().iter();
        let copies = adapters.map(|p| p.tensor.detach().copy()).collect();
        frozen.adapt(lora.clone(), copies);
    }
    frozen
}

fn check_device(config: &LearnerConfig, device: Device) -> Result<(), LearnerError> {
    if config.deterministic && device != Device::Cpu {
        return Err(LearnerError::NotRepeatable);
    }
    Ok(())
}

fn check_freeze(config: &LearnerConfig, spec: &DecoderSpec) -> Result<(), LearnerError> {
    let slots = model::slots(spec);
    let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    let unknown = |prefix: &&String| !names.iter().any(|name| name.starts_with(prefix.as_str()));
    match config.freeze.iter().find(unknown) {
        Some(prefix) => Err(LearnerError::Freeze(
            prefix.clone(),
            names[..names.len().min(3)].join(", "),
        )),
        None => Ok(()),
    }
}
