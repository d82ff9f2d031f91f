//! The folder of its model that a learner leaves for others.

use crate::checkpoint::CheckpointError;
use crate::files;
use crate::learner::Learner;
use model::{Parameter, Update};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Folder and checksum of the weights that adapters belong to.
#[derive(Debug)]
pub(crate) struct Base {
    folder: PathBuf,
    /// Of its weight files.
    crc32: u32,
}

/// Shares of an update of adapters that are left.
#[derive(Debug, Clone, Copy)]
struct Shares {
    kept: f64,
    merged_bf16: f64,
}

impl Learner {
    /// Writes the weights as a Hugging Face folder, in the compute type; under LoRA as a folder of
    /// adapters in f32 (PEFT's) beside their base, with the share of the update that is left where it
    /// is loaded again, and that would be left if it were merged in bf16. The folder appears when it is
    /// complete; an older one is replaced.
    ///
    /// # Errors
    /// When the folder cannot be written, or the weights are torn.
    pub fn export(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.refuse_torn().map_err(CheckpointError::Torn)?;
        let shares = self.shares();
        if let Some(Shares { kept, merged_bf16 }) = shares {
            tracing::info!(
                update_kept_share = kept,
                merged_bf16_share = merged_bf16,
                "Adapters are saved beside their base."
            );
        }
        let adapters = self.exact_adapters();
        files::write_folder(folder, |part| self.write_model(part, &adapters, shares))
    }

    /// The same for a checkpoint, which has the masters apart: what computes, so that it does not depend
    /// on who keeps which of them (LE-6).
    pub(crate) fn save_model(&self, folder: &Path) -> Result<(), CheckpointError> {
        self.write_model(folder, self.decoder.adapter_parameters(), None)
    }

    fn write_model(
        &self,
        folder: &Path,
        adapters: &[Parameter],
        shares: Option<Shares>,
    ) -> Result<(), CheckpointError> {
        let (decoder, kind, source) = (&self.decoder, self.decoder.kind(), &self.source);
        let failed = |error| CheckpointError::Model(Box::new(error));
        let Some(lora) = decoder.lora() else {
            return model::save(folder, decoder.parameters(), kind, source).map_err(failed);
        };
        let base = self.base()?;
        let named = self.config.lora.as_ref();
        let named = named.and_then(|lora| lora.base_name.as_ref());
        let named = named.unwrap_or(&base.folder);
        let update = Update {
            base_crc32: base.crc32,
            kept_share: shares.map(|shares| shares.kept),
            merged_bf16_share: shares.map(|shares| shares.merged_bf16),
        };
        model::save_adapted(folder, lora, adapters, named, &update, source).map_err(failed)
    }

    fn base(&self) -> Result<&Base, CheckpointError> {
        let failed = |error: model::LoadError| CheckpointError::Model(Box::new(error));
        if self.base.get().is_none() {
            let folder = model::base_of(&self.source).map_err(failed)?;
            let folder = folder.unwrap_or_else(|| self.source.clone());
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            let crc32 = model::weights_crc32(&folder).map_err(failed)?;
            return Ok(self.base.get_or_init(|| Base { folder, crc32 }));
        }
        Ok(self.base.get().expect("it was just there"))
    }

    /// The adapters with all the digits that there are: the master weights, where this learner keeps
    /// all of them.
    fn exact_adapters(&self) -> Vec<Parameter> {
        let exact = |parameter: &Parameter| Parameter {
            slot: parameter.slot.clone(),
            tensor: match self.is_sharded() || self.later.is_some() {
                true => None,
                false => self.flat.master_of(&parameter.slot.name),
            }
            .unwrap_or_else(|| parameter.tensor.shallow_clone()) // frozen, or in shares elsewhere
            .detach(),
        };
        self.decoder
            .adapter_parameters()
            .iter()
            .map(exact)
            .collect()
    }

    /// Shares of the adapters' update that are left; `None` without adapters.
    fn shares(&self) -> Option<Shares> {
        self.decoder.lora()?;
        let tensor = |parameter: &Parameter| parameter.tensor.detach();
        let exact: Vec<Tensor> = self.exact_adapters().iter().map(tensor).collect();
        let seen: Vec<Tensor> = self
            .decoder
            .adapter_parameters()
            .iter()
            .map(tensor)
            .collect();
        Some(Shares {
            kept: model::adapters_share(&exact, &seen),
            merged_bf16: self.decoder.merged_share(Kind::BFloat16),
        })
    }
}
