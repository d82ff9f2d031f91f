//! How a learner is made: from a model's folder, or from a checkpoint.

use crate::checkpoint::{self, CheckpointError};
use crate::config::{ConfigError, LearnerConfig};
use crate::flat::{FlatParameters, Layout};
use crate::layers::Gradients;
use crate::learner::{Learner, Reference};
use crate::lora;
use crate::optimizer::AdamW;
use crate::reuse::LastBatch;
use crate::shards::Kept;
use crate::sync::Buckets;
use algo::advantage::RewardHistory;
use collective::Solo;
use model::{Decoder, DecoderSpec, Slot};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

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
         set these, or a larger rank and more targets, or merge it first (`swirl model merge`)",
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
    /// There are two adapters to start from.
    #[error(
        "learner.lora.start: the start model {} has adapters of its own, which training goes on with; \
         leave {} out, or merge the model first (`swirl model merge`)",
        .model.display(),
        .named.display()
    )]
    TwoAdapters {
        /// The model that training starts from.
        model: PathBuf,
        /// The folder that the configuration names.
        named: PathBuf,
    },
    /// Results cannot be repeated bit for bit on this device.
    #[error(
        "learner.deterministic: results are repeatable on a CPU only; use device cpu or turn it off"
    )]
    NotRepeatable,
}

impl Learner {
    /// Whether a learner could be made of the model in `start`, of `spec`, as far as that can be told before any
    /// weight is loaded: ranges, names of frozen parameters, and the adapter to start from.
    ///
    /// # Errors
    /// What [`Learner::new`] would say.
    pub fn check(
        config: &LearnerConfig,
        start: &Path,
        spec: &DecoderSpec,
        device: Device,
    ) -> Result<(), LearnerError> {
        config.validate()?;
        check_device(config, device)?;
        check_freeze(config, spec)?;
        if Layout::of(spec, config.lora_spec().as_ref(), &config.freeze).total == 0 {
            return Err(LearnerError::AllFrozen);
        }
        match &config.lora {
            Some(lora) => lora::start(lora, spec, config.seed, start).map(|_| ()),
            None => Ok(()),
        }
    }

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
        // Under LoRA the weights are those of the start model, and the adapters it starts from are
        // the reference.
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
        let spec = model::spec_of(folder)?;
        Self::check(&config, folder, &spec, device)?;
        let kind = config.kind(device);
        let adapters = match &config.lora {
            Some(lora) => Some(lora::start(lora, &spec, config.seed, folder)?),
            None => None,
        };
        let lora = adapters.as_ref().map(|(lora, _)| lora);
        let layout = Layout::of(&spec, lora, &config.freeze);
        let mut flat = FlatParameters::new(layout, kind, device);
        // Where shares are kept, whose they are is known in a group.
        let later = config
            .shard_optimizer
            .then(|| Origin::Start(folder.to_owned()));
        if later.is_none() {
            flat.keep(Kept::all(flat.layout.total));
        }
        let place = |slot: &Slot, tensor| flat.place(slot, tensor);
        // Read as they are stored: a master has digits that the compute type has not.
        let mut decoder = match config.lora {
            Some(_) => {
                let base = model::base_of(folder)?;
                let base = base.as_deref().unwrap_or(folder);
                model::load_base_with(base, device, kind, place)?
            }
            None => model::load_with(folder, device, Kind::Float, place)?,
        };
        if let Some((lora, tensors)) = adapters {
            let slots = lora.slots(&spec);
            let placed = slots
                .iter()
                .zip(tensors)
                .map(|(slot, t)| flat.place(slot, t));
            let placed = placed.collect();
            decoder.adapt(lora, placed);
        }
        let reference = match &config.lora {
            Some(lora) => {
                let is_adapted = lora::starts_adapted(lora, folder)?;
                Reference::Loaded(Box::new(frozen(&decoder, is_adapted)))
            }
            None => Reference::Folder(source.to_owned()),
        };
        Ok(Self {
            gradients: Gradients::new(&decoder, &flat),
            optimizer: AdamW::new(&flat),
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            reference,
            source: source.to_owned(),
            base: OnceCell::new(),
            communicator: Box::new(Solo),
            later,
            torn: None,
            buckets: Buckets::new(&flat.layout, decoder.spec().layers.len()),
            matrix_rate: None,
            cursor: Vec::new(),
            step: 0,
            bad_steps: 0,
            reward_history: RewardHistory::default(),
            last_batch: LastBatch::default(),
            config,
            decoder,
            flat,
        })
    }
}

/// Where the state of the optimizer begins that a learner has not taken up yet.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// With the weights in a Hugging Face folder, no moments, and the adapters that the configuration
    /// names.
    Start(PathBuf),
    /// Where a checkpoint left off.
    Checkpoint(PathBuf),
}

impl Learner {
    /// Takes up all of the optimizer's state, if it was left for later.
    pub(crate) fn settle(&mut self) -> Result<(), CheckpointError> {
        match self.later {
            Some(_) => self.keep(Kept::all(self.flat.layout.total)),
            None => Ok(()),
        }
    }

    /// Keeps this much of the optimizer's state, of which nothing or everything was kept before.
    pub(crate) fn keep(&mut self, kept: Kept) -> Result<(), CheckpointError> {
        let Some(origin) = self.later.clone() else {
            self.cut_out(kept);
            return Ok(());
        };
        self.flat.keep(kept);
        self.optimizer.keep(&self.flat);
        match &origin {
            Origin::Start(folder) => self.read_start(folder)?,
            Origin::Checkpoint(folder) => self.read_kept(folder)?,
        }
        self.later = None;
        Ok(())
    }

    fn cut_out(&mut self, kept: Kept) {
        if !self.flat.computes_in_f32() {
            self.flat.master = kept.cut_out(&self.flat.master);
        }
        self.optimizer.exp_avg = kept.cut_out(&self.optimizer.exp_avg);
        self.optimizer.exp_avg_sq = kept.cut_out(&self.optimizer.exp_avg_sq);
        self.flat.kept = kept;
    }

    /// Reads the master weights that are kept, which have digits that the compute weights have not.
    fn read_start(&self, folder: &Path) -> Result<(), CheckpointError> {
        let failed = |error: LearnerError| CheckpointError::Model(Box::new(error));
        if self.flat.computes_in_f32() {
            return Ok(());
        }
        if let Some(lora) = &self.config.lora {
            let spec = self.decoder.spec();
            let seed = self.config.seed;
            let (lora, tensors) = lora::start(lora, spec, seed, folder).map_err(failed)?;
            let slots = lora.slots(spec);
            let slots = slots.iter().zip(&tensors);
            slots.for_each(|(slot, tensor)| self.flat.place_master(slot, tensor));
            return Ok(());
        }
        // In the place of what was read, the decoder gets the tensors that compute already.
        let mut own = self.decoder.parameters().iter();
        let place = |slot: &Slot, tensor: Tensor| {
            self.flat.place_master(slot, &tensor);
            own.next().map_or(tensor, |own| own.tensor.shallow_clone())
        };
        let read = model::load_with(folder, self.decoder.device(), Kind::Float, place);
        read.map(|_| ()).map_err(|error| failed(error.into()))
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
