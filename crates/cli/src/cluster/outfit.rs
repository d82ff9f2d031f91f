//! How a node opens the engines it is told to.

use super::orders::{JudgeOrder, Ordered};
use super::replica::{Berth, ReplicaPort, RingOrder};
use crate::engine::{LearnerPort, Machine};
use crate::files::empty_folder;
use crate::judges;
use crate::machine_memory::{self, Demand, Learning, Load, Sampling};
use actors::ports::EngineError;
use actors::remote::{Engine, Files, Outfitter};
use anyhow::{Context, Result};
use async_trait::async_trait;
use learner::{Learner, LearnerConfig};
use proto::cluster::EngineOrder;
use proto::files::FileSet;
use sampler::EngineConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tch::Device;
use tools::registry::Registry;

/// Where models lie in a node's folder.
pub const MODELS: &str = "models";

/// Models that are kept there.
const MOST_MODELS: usize = 4;

/// A node's device and folder.
pub struct Outfit {
    /// The device.
    pub machine: Machine,
    /// Where models, checkpoints and rubrics are kept.
    pub folder: PathBuf,
    /// Where other learners meet this node's; none where it does not train.
    pub berth: Option<Arc<Berth>>,
}

#[async_trait]
impl Outfitter for Outfit {
    async fn open(&self, order: &EngineOrder, files: Files) -> Result<Engine, EngineError> {
        let opened = self.opened(&order.order, &files).await;
        opened.map_err(|error| EngineError(format!("{error:#}")))
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.folder.clone())
    }
}

impl Outfit {
    async fn opened(&self, order: &[u8], files: &Files) -> Result<Engine> {
        match serde_json::from_slice(order)? {
            Ordered::Sampler {
                model,
                template_arguments,
                dtype,
                f32_head,
                max_batch,
                max_context_tokens,
                kept_sequences,
            } => {
                let dir = self.model(&model, files).await?;
                let machine = self.machine.computing_in(dtype, f32_head);
                let sampling = Sampling {
                    samplers: 1,
                    sequences: max_batch.saturating_add(kept_sequences) as u64,
                    context_tokens: max_context_tokens as u64,
                    kind: machine.kind,
                    f32_head,
                };
                let load = Load {
                    sampling: Some(sampling),
                    learning: None,
                };
                machine_memory::check("sampler", &dir, machine.device, load)?;
                let engine = EngineConfig {
                    max_batch,
                    max_context_tokens,
                    kept_sequences,
                    ..EngineConfig::default()
                };
                let samplers = machine
                    .samplers(&dir, &template_arguments, engine, 1)
                    .await?;
                let sampler = samplers
                    .into_iter()
                    .next()
                    .context("no sampler was opened")?;
                // More than it decodes together wait in its queue, so that it is never idle.
                let credits = u32::try_from(2 * max_batch).unwrap_or(u32::MAX);
                Ok(Engine::Sampler(sampler, credits))
            }
            Ordered::Tools(order) => {
                let registry = Registry::builtin(&order.enabled, order.limits)?;
                Ok(Engine::Tools(Arc::new(registry), order.executors.max(1)))
            }
            Ordered::Judges(order) => self.judges(order),
            Ordered::Learner {
                start,
                checkpoint,
                adapters,
                settings,
                demand,
                replicas,
                ring,
                arm,
                epoch,
            } => {
                let start = self.model(&start, files).await?;
                let mut config = LearnerConfig::from(*settings);
                fits(&start, self.machine.device, &config, demand, replicas)?;
                let root = self.folder.join("learner").join(format!("{arm}-{epoch}"));
                // What earlier epochs left is of no use any more: the controller has the checkpoints.
                empty_folder(&self.folder.join("learner"))?;
                if let Some((name, set)) = checkpoint {
                    files.bring(&set, &root.join(name)).await?;
                }
                if let (Some(lora), Some(set)) = (&mut config.lora, adapters) {
                    lora.start = Some(self.model(&set, files).await?);
                }
                self.learner(start, root, config, ring).await
            }
        }
    }

    async fn learner(
        &self,
        start: PathBuf,
        root: PathBuf,
        config: LearnerConfig,
        ring: RingOrder,
    ) -> Result<Engine> {
        let berth = self.berth.clone().context("this node does not train")?;
        let (device, checkpoints) = (self.machine.device, root.clone());
        let open = move || Learner::open(&start, &root, device, config);
        let learner = self.machine.run(open).await??;
        let port = LearnerPort::new(self.machine.clone(), learner, checkpoints);
        Ok(Engine::Learner(Arc::new(ReplicaPort::new(
            port, berth, ring,
        ))))
    }

    fn judges(&self, order: JudgeOrder) -> Result<Engine> {
        let mut section = order.section;
        if let Some(llm) = &mut section.llm {
            let [process, outcome] = order.rubrics;
            llm.rubric = self.rubric("process.md", process)?;
            llm.outcome_rubric = self.rubric("outcome.md", outcome)?;
        }
        let judges = judges::build(&section, &order.tools)?;
        Ok(Engine::Judges(judges, order.credits.max(1)))
    }

    fn rubric(&self, name: &str, text: Option<String>) -> Result<Option<PathBuf>> {
        let Some(text) = text else { return Ok(None) };
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(name);
        crate::files::write_atomically(&path, text.as_bytes())?;
        Ok(Some(path))
    }

    /// A folder with these files: one that was pulled before, which is given on, or pulled now.
    async fn model(&self, set: &FileSet, files: &Files) -> Result<PathBuf> {
        let models = self.folder.join(MODELS);
        let folder = models.join(set.hash.to_string());
        match folder.exists() {
            true => files.hold(set, &folder).await,
            false => {
                tracing::info!(bytes = set.bytes(), "Files are pulled.");
                make_room(&models)?;
                files.bring(set, &folder).await?;
            }
        }
        Ok(folder)
    }
}

/// Refuses a learner that this machine has no memory for, before its checkpoint is pulled: one that
/// the system kills in mid step takes the node's other engines with it.
fn fits(
    start: &Path,
    device: Device,
    config: &LearnerConfig,
    demand: Demand,
    replicas: usize,
) -> Result<()> {
    let spec = model::spec_of(start)?;
    let load = Load {
        sampling: None,
        learning: Some(Learning::of(&spec, config, device, demand, replicas)),
    };
    machine_memory::check("learner", start, device, load)
}

/// Removes all but the newest models.
fn make_room(models: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(models) else {
        return Ok(());
    };
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            // It is being pulled.
            continue;
        }
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort();
    let old = found.len().saturating_sub(MOST_MODELS - 1);
    for (_, path) in found.into_iter().take(old) {
        std::fs::remove_dir_all(&path)
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use learner::BatchSize;

    #[test]
    fn a_learner_that_does_not_fit_is_refused_before_it_is_loaded() {
        let start = machine_memory::tests::smollm2_folder();
        let config = LearnerConfig::default();
        let fits_with = |longest: u64| {
            let demand = Demand {
                batch: BatchSize {
                    tokens: longest,
                    longest,
                },
                has_reference: false,
            };
            fits(start.path(), Device::Cpu, &config, demand, 2)
        };
        fits_with(64).unwrap();
        let error = fits_with(1 << 40).unwrap_err().to_string();
        assert!(error.contains("the learner needs about"), "{error}");
        assert!(error.contains("shard_optimizer"), "{error}");
    }

    #[test]
    fn the_oldest_models_make_room() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..6u64 {
            let path = dir.path().join(n.to_string());
            std::fs::create_dir(&path).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 * n);
            std::fs::File::open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        make_room(dir.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["3", "4", "5"]);
    }
}
