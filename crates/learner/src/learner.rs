//! The learner itself: what it owns, and how gradients become weights.

use crate::config::LearnerConfig;
use crate::export::Base;
use crate::flat::FlatParameters;
use crate::layers::Gradients;
use crate::metrics::{StepMetrics, timed};
use crate::open::Origin;
use crate::optimizer::{AdamW, Update};
use crate::pass::{self, PassOptions, StepError};
use crate::rate::matrix_rate;
use crate::reuse::LastBatch;
use crate::schedule::Plan;
use crate::sync::{Buckets, GradientSync};
use algo::advantage::RewardHistory;
use algo::logprob::Drawn;
use algo::loss::TokenLoss;
use algo::pack::{MicroBatch, Target};
use collective::{CollectiveError, Communicator};
use model::{Decoder, Parameter};
use proto::{SftSample, SnapshotScope, StateGroup, WeightSnapshot, WeightVersion};
use rand_chacha::ChaCha8Rng;
use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Instant;
use tch::Kind;

/// The frozen model that the KL term compares with.
#[derive(Debug)]
pub(crate) enum Reference {
    /// Of the folder, and not needed yet.
    Folder(PathBuf),
    Loaded(Box<Decoder>),
}

/// Trains one decoder on one device. Blocking; belongs on the thread that owns the device.
#[derive(Debug)]
pub struct Learner {
    pub(crate) config: LearnerConfig,
    pub(crate) decoder: Decoder,
    pub(crate) reference: Reference,
    pub(crate) flat: FlatParameters,
    pub(crate) gradients: Gradients,
    pub(crate) optimizer: AdamW,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) cursor: Vec<u8>,
    pub(crate) step: u64,
    pub(crate) bad_steps: u32,
    pub(crate) reward_history: RewardHistory,
    pub(crate) last_batch: LastBatch,
    /// The Hugging Face folder whose configuration and tokenizer exports take along.
    pub(crate) source: PathBuf,
    /// Under LoRA, once it was asked for.
    pub(crate) base: OnceCell<Base>,
    pub(crate) communicator: Box<dyn Communicator>,
    pub(crate) buckets: Buckets,
    /// Where the optimizer's state is, until it is taken up.
    pub(crate) later: Option<Origin>,
    /// Why some weights are of one step and some of another.
    pub(crate) torn: Option<CollectiveError>,
    /// Operations per second of large matrix products, once it has been measured.
    pub(crate) matrix_rate: Option<f64>,
}

impl Learner {
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

    /// So much of the current weights in host memory, in the compute type: of no use after
    /// [`StepError::Torn`].
    pub fn snapshot(&self, version: WeightVersion, scope: SnapshotScope) -> WeightSnapshot {
        model::snapshot(&self.decoder, version, scope)
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
        let metrics = self.accumulate_policy(groups)?;
        self.gather_gradient()?;
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
        self.gather_gradient()?;
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
            head: self.config.head_options(temperature),
            recompute: self.config.activation_checkpointing,
        };
        let gradient = self.flat.gradient.shallow_clone();
        let is_sharded = self.is_sharded();
        let communicator = &mut *self.communicator;
        let mut sync = GradientSync::new(communicator, &self.buckets, &gradient, is_sharded);
        let mut sums = pass::backward(
            &self.decoder,
            &mut self.gradients,
            batches,
            options,
            &mut metrics.seconds,
            &mut sync,
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
        metrics.compared = self.compare_when_due()?;
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

    /// Turns the summed gradient into new weights, or leaves them if it is not finite (LE-3).
    pub(crate) fn apply(&mut self, metrics: &mut StepMetrics) -> Result<(), StepError> {
        metrics.grad_norm = self.gradient_norm(&mut metrics.seconds)?;
        metrics.learning_rate = self.plan().rate(self.step);
        self.step += 1;
        metrics.step = self.step;
        if metrics.grad_norm.is_finite() {
            self.bad_steps = 0;
            self.update(metrics)?;
        } else {
            self.bad_steps += 1;
            metrics.skipped = true;
            let _ = self.flat.gradient.zero_();
            tracing::warn!(
                step = self.step,
                "The gradient is not finite; the step is left out."
            );
        }
        match self.bad_steps {
            bad if bad >= self.config.max_bad_steps => Err(StepError::TooManyBadSteps(bad)),
            _ => Ok(()),
        }
    }

    fn update(&mut self, metrics: &mut StepMetrics) -> Result<(), StepError> {
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
        self.optimizer.updates += 1;
        if self.is_sharded() {
            return self.update_shares(update, &mut metrics.seconds);
        }
        timed(&mut metrics.seconds.optimizer, || {
            for stretch in self.flat.kept.stretches() {
                self.optimizer.update(&self.flat, *stretch, update);
            }
        });
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn set_micro_batch_tokens(&mut self, tokens: usize) {
        self.config.micro_batch_tokens = tokens;
    }

    #[cfg(test)]
    pub(crate) fn set_bucket(&mut self, size: i64) {
        let layers = self.decoder.spec().layers.len();
        self.buckets = Buckets::of_size(&self.flat.layout, layers, size);
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
