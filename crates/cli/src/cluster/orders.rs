//! What a controller tells its nodes to open. Orders hold everything an engine follows from: a node
//! has no configuration of its own.

use super::head::Elsewhere;
use super::replica::RingOrder;
use crate::config::{ClusterSection, Config, JudgeSection};
use crate::machine_memory::Demand;
use actors::cluster::{Order, Orders};
use actors::ports::EngineError;
use actors::remote::{Blobs, CheckpointHook, Loan};
use anyhow::{Context, Result};
use async_trait::async_trait;
use learner::{ComputeType, LearnerConfig};
use model::TemplateArguments;
use proto::Role;
use proto::files::FileSet;
use sampler::EngineConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tools::registry::Limits;

/// An order as it travels, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ordered {
    /// A sampler.
    Sampler {
        /// A Hugging Face directory.
        model: FileSet,
        /// Variables for its chat template.
        template_arguments: TemplateArguments,
        /// The type to compute in.
        dtype: ComputeType,
        /// Whether logits are computed in f32 all the same.
        f32_head: bool,
        /// Its bounds.
        max_batch: usize,
        /// Tokens of a sequence.
        max_context_tokens: usize,
        /// Finished sequences kept.
        kept_sequences: usize,
    },
    /// Tool executors.
    Tools(ToolOrder),
    /// Judges.
    Judges(JudgeOrder),
    /// A learner.
    Learner {
        /// The Hugging Face directory that training starts from.
        start: FileSet,
        /// The newest checkpoint, by its name.
        checkpoint: Option<(String, FileSet)>,
        /// Adapters that training starts from.
        adapters: Option<FileSet>,
        /// The learner.
        settings: Box<LearnerSettings>,
        /// What it will be asked for.
        demand: Demand,
        /// How many learners there will be, as far as that is known.
        replicas: usize,
        /// How it meets others.
        ring: RingOrder,
        /// Which of the run's learners it is.
        arm: String,
        /// Its number.
        epoch: u32,
    },
}

/// A learner's settings, those included that are no settings of its section in a configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct LearnerSettings {
    config: LearnerConfig,
    seed: u64,
    temperature: f32,
    f32_head: bool,
    base_name: Option<PathBuf>,
}

impl From<LearnerConfig> for LearnerSettings {
    fn from(config: LearnerConfig) -> Self {
        Self {
            seed: config.seed,
            temperature: config.temperature,
            f32_head: config.f32_head,
            base_name: config.lora.as_ref().and_then(|lora| lora.base_name.clone()),
            config,
        }
    }
}

impl From<LearnerSettings> for LearnerConfig {
    fn from(mut settings: LearnerSettings) -> Self {
        if let Some(lora) = &mut settings.config.lora {
            lora.base_name = settings.base_name;
        }
        Self {
            seed: settings.seed,
            temperature: settings.temperature,
            f32_head: settings.f32_head,
            ..settings.config
        }
    }
}

/// A sampler to be opened.
#[derive(Debug, Clone)]
pub struct SamplerOrder {
    /// A Hugging Face directory here.
    pub model: PathBuf,
    /// Variables for its chat template.
    pub template_arguments: TemplateArguments,
    /// The type to compute in.
    pub dtype: ComputeType,
    /// Whether logits are computed in f32 all the same.
    pub f32_head: bool,
    /// Its bounds.
    pub engine: EngineConfig,
}

/// Tools to be offered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolOrder {
    /// Their names.
    pub enabled: Vec<String>,
    /// Limits of one call.
    pub limits: Limits,
    /// How many calls run at once.
    pub executors: u32,
}

impl ToolOrder {
    /// The tools of these names.
    pub fn new(config: &Config, enabled: &[String]) -> Self {
        Self {
            enabled: enabled.to_vec(),
            limits: config.tools.limits.clone(),
            executors: u32::try_from(config.actors.tools).unwrap_or(u32::MAX),
        }
    }
}

/// Judges to be opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JudgeOrder {
    /// The judges' settings. Paths of rubrics are those of the controller.
    pub section: JudgeSection,
    /// Texts of the rubrics of steps and of answers, where they are not the built-in ones.
    pub rubrics: [Option<String>; 2],
    /// The tools that are offered.
    pub tools: Vec<String>,
    /// Number of calls that a node takes at once.
    pub credits: u32,
}

impl JudgeOrder {
    /// Reads the rubrics.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn new(config: &Config, tools: &[String]) -> Result<Self> {
        let section = &config.judge;
        let read = |path: &Option<PathBuf>| -> Result<Option<String>> {
            let Some(path) = path else { return Ok(None) };
            let text = std::fs::read_to_string(path);
            text.map(Some)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let rubrics = match &section.llm {
            Some(llm) => [read(&llm.rubric)?, read(&llm.outcome_rubric)?],
            None => [None, None],
        };
        Ok(Self {
            section: section.clone(),
            rubrics,
            tools: tools.to_vec(),
            credits: credits(config),
        })
    }
}

/// More than a judge model is asked at once wait at the node, so that it is never idle. Judges that are
/// programs work as many at once as there are actors.
fn credits(config: &Config) -> u32 {
    let model = config.judge.llm.as_ref();
    let asked = model.map_or(0, |llm| llm.max_concurrent.saturating_mul(2));
    u32::try_from(asked.max(config.actors.judges)).unwrap_or(u32::MAX)
}

/// A learner to be opened.
#[derive(Debug, Clone)]
pub struct LearnerOrder {
    /// The Hugging Face directory here that training starts from.
    pub start: PathBuf,
    /// The learner.
    pub config: LearnerConfig,
    /// What it will be asked for.
    pub demand: Demand,
    /// Which of the run's learners it is.
    pub arm: String,
    /// Where its checkpoints are kept here.
    pub checkpoints: PathBuf,
}

/// Numbers the groups of learners of a run: each has a higher one than any before it, whatever
/// happened to the controller meanwhile.
#[derive(Debug)]
pub struct Epochs {
    path: PathBuf,
    newest: Mutex<u32>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct EpochFile {
    learner_epoch: u32,
}

impl Epochs {
    /// Those of the run in a folder.
    ///
    /// # Errors
    /// When the file that holds the newest is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("cluster.json");
        let newest = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let file: EpochFile = serde_json::from_str(&text)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                file.learner_epoch
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            path,
            newest: Mutex::new(newest),
        })
    }

    /// The next one. It is on disk before it is used.
    fn next(&self) -> Result<u32> {
        let mut newest = self.newest.lock().expect("no holder panics");
        let learner_epoch = *newest + 1;
        let text = serde_json::to_string(&EpochFile { learner_epoch })?;
        crate::files::write_atomically(&self.path, text.as_bytes())?;
        *newest = learner_epoch;
        Ok(learner_epoch)
    }
}

/// What the nodes of a fleet are told.
pub struct FleetOrders {
    elsewhere: Elsewhere,
    epochs: Arc<Epochs>,
    section: ClusterSection,
    /// Tells the engines of this fleet from those of others: an engine that served another fleet may
    /// hold other weights than the same order would give.
    fleet: String,
}

/// Lends what one order needs.
struct Lender<'a> {
    blobs: &'a Blobs,
    loans: Vec<Loan>,
}

impl Lender<'_> {
    /// A folder, and another one below it if there is one.
    async fn lend(&mut self, folder: &Path, base: Option<&Path>) -> Result<FileSet> {
        let (blobs, folder) = (self.blobs.clone(), folder.to_owned());
        let base = base.map(Path::to_owned);
        let lending = tokio::task::spawn_blocking(move || {
            let mut folders = vec![("", folder.as_path())];
            folders.extend(base.as_deref().map(|base| (model::BASE_FOLDER, base)));
            let lent = blobs.lend_folders(&folders);
            lent.with_context(|| format!("cannot read {}", folder.display()))
        });
        let (files, loan) = lending.await??;
        self.loans.push(loan);
        Ok(files)
    }

    /// A model's folder, with the weights that its adapters belong to if it holds adapters.
    async fn lend_model(&mut self, folder: &Path) -> Result<FileSet> {
        let base = model::base_of(folder)?.filter(|base| !base.starts_with(folder));
        self.lend(folder, base.as_deref()).await
    }
}

/// Fleets of this process so far.
static FLEETS: AtomicU64 = AtomicU64::new(0);

impl FleetOrders {
    /// Orders of a new fleet. `process` tells this process from one before it.
    pub fn new(
        process: u64,
        epochs: Arc<Epochs>,
        section: ClusterSection,
        elsewhere: Elsewhere,
    ) -> Self {
        let number = FLEETS.fetch_add(1, Ordering::Relaxed);
        Self {
            elsewhere,
            epochs,
            section,
            fleet: format!("{process:016x}-{number}"),
        }
    }

    /// What tells the rings of this fleet from all others.
    fn ring_run(&self) -> [u8; 16] {
        let hash: [u8; 32] = Sha256::digest(&self.fleet).into();
        let (run, _) = hash.split_at(16);
        run.try_into().expect("16 bytes")
    }

    async fn ordered(&self, role: Role, lender: &mut Lender<'_>) -> Result<(Ordered, u32)> {
        let none = || format!("this fleet has no {role} on other nodes");
        Ok(match role {
            Role::Sampler => {
                let order = self.elsewhere.sampler.as_ref().with_context(none)?;
                let ordered = Ordered::Sampler {
                    model: lender.lend_model(&order.model).await?,
                    template_arguments: order.template_arguments.clone(),
                    dtype: order.dtype,
                    f32_head: order.f32_head,
                    max_batch: order.engine.max_batch,
                    max_context_tokens: order.engine.max_context_tokens,
                    kept_sequences: order.engine.kept_sequences,
                };
                (ordered, 0)
            }
            Role::Tool => (
                Ordered::Tools(self.elsewhere.tools.clone().with_context(none)?),
                0,
            ),
            Role::Judge => (
                Ordered::Judges(self.elsewhere.judges.clone().with_context(none)?),
                0,
            ),
            Role::Learner => {
                let order = self.elsewhere.learner.as_ref().with_context(none)?;
                let newest = learner::newest_checkpoint(&order.checkpoints)?;
                let checkpoint = match newest {
                    Some(folder) => {
                        let name = folder.file_name().unwrap_or_default().to_string_lossy();
                        Some((name.into_owned(), lender.lend(&folder, None).await?))
                    }
                    None => None,
                };
                let lora = order.config.lora.as_ref();
                let adapters = match lora.and_then(|lora| lora.start.as_ref()) {
                    Some(folder) => Some(lender.lend(folder, None).await?),
                    None => None,
                };
                let epoch = self.epochs.next()?;
                let ordered = Ordered::Learner {
                    start: lender.lend_model(&order.start).await?,
                    checkpoint,
                    adapters,
                    settings: Box::new(order.config.clone().into()),
                    demand: order.demand,
                    replicas: self.section.expected_replicas(),
                    ring: RingOrder {
                        run: self.ring_run(),
                        tls: self.section.ring_tls,
                    },
                    arm: order.arm.clone(),
                    epoch,
                };
                (ordered, epoch)
            }
            Role::Controller => anyhow::bail!(none()),
        })
    }
}

#[async_trait]
impl Orders for FleetOrders {
    fn roles(&self) -> BTreeSet<Role> {
        let roles = [
            (Role::Sampler, self.elsewhere.sampler.is_some()),
            (Role::Tool, self.elsewhere.tools.is_some()),
            (Role::Judge, self.elsewhere.judges.is_some()),
            (Role::Learner, self.elsewhere.learner.is_some()),
        ];
        let asked = roles.into_iter().filter(|(_, is_asked)| *is_asked);
        asked.map(|(role, _)| role).collect()
    }

    async fn order(&self, role: Role, blobs: &Blobs) -> Result<Order, EngineError> {
        let fault = |error: anyhow::Error| EngineError(format!("{error:#}"));
        let mut lender = Lender {
            blobs,
            loans: Vec::new(),
        };
        let (ordered, epoch) = self.ordered(role, &mut lender).await.map_err(fault)?;
        let order = serde_json::to_vec(&ordered).map_err(|error| fault(error.into()))?;
        Ok(Order {
            key: format!("{}-{role}-{epoch}", self.fleet),
            order,
            epoch,
            loans: Arc::new(lender.loans),
        })
    }

    fn replicas(&self) -> usize {
        match self.section.replicas {
            0 => usize::MAX,
            replicas => replicas,
        }
    }

    fn keep_shares(&self) -> bool {
        let learner = self.elsewhere.learner.as_ref();
        learner.is_some_and(|order| order.config.shard_optimizer)
    }

    async fn next_epoch(&self) -> Result<u32, EngineError> {
        let epochs = self.epochs.clone();
        let next = tokio::task::spawn_blocking(move || epochs.next()).await;
        let next = next.map_err(anyhow::Error::from).and_then(|next| next);
        next.map_err(|error| EngineError(format!("{error:#}")))
    }

    fn checkpoints(&self) -> Option<(PathBuf, CheckpointHook)> {
        let order = self.elsewhere.learner.as_ref()?;
        let (last, every) = (order.config.keep_last, order.config.keep_every);
        let root = order.checkpoints.clone();
        let hook = move |_: &Path| {
            if let Err(error) = learner::prune_checkpoints(&root, last, every) {
                tracing::warn!(%error, "Old checkpoints were not removed.");
            }
        };
        Some((order.checkpoints.clone(), Arc::new(hook)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_elsewhere_has_every_setting_of_one_here() {
        let here = LearnerConfig {
            seed: 7,
            temperature: 0.8,
            f32_head: true,
            learning_rate: 3e-6,
            lora: Some(learner::LoraConfig {
                base_name: Some("base".into()),
                ..Default::default()
            }),
            ..LearnerConfig::default()
        };
        let travels = serde_json::to_vec(&LearnerSettings::from(here.clone())).unwrap();
        let there: LearnerSettings = serde_json::from_slice(&travels).unwrap();
        assert_eq!(LearnerConfig::from(there), here);
    }

    #[test]
    fn a_sampler_elsewhere_writes_dialogues_as_one_here() {
        let arguments = serde_json::json!({"enable_thinking": false, "style": {"tone": "dry"}});
        let arguments: TemplateArguments = serde_json::from_value(arguments).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (model, _loan) = Blobs::default().lend_folder(folder.path()).unwrap();
        let ordered = Ordered::Sampler {
            model,
            template_arguments: arguments.clone(),
            dtype: ComputeType::F32,
            f32_head: true,
            max_batch: 1,
            max_context_tokens: 1,
            kept_sequences: 0,
        };
        let travels = serde_json::to_vec(&ordered).unwrap();
        match serde_json::from_slice(&travels).unwrap() {
            Ordered::Sampler {
                template_arguments,
                f32_head,
                ..
            } => assert_eq!((template_arguments, f32_head), (arguments, true)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn epochs_only_rise_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = Epochs::open(dir.path()).unwrap();
        assert_eq!([first.next().unwrap(), first.next().unwrap()], [1, 2]);
        drop(first);
        assert_eq!(Epochs::open(dir.path()).unwrap().next().unwrap(), 3);
        std::fs::write(dir.path().join("cluster.json"), "{").unwrap();
        assert!(Epochs::open(dir.path()).is_err());
    }
}
