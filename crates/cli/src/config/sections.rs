//! Every setting, with its unit, its default, and what it does.

use super::span::Span;
use actors::remote::SpreadPlan;
use actors::training::{StateBalance, StateWeighting};
use data::{DialogueOptions, Selection, WordMathConfig};
use judge::LlmJudgeConfig;
use judge::filter::{Filter, StateFilter};
use learner::{ComputeType, LearnerConfig};
use model::TemplateArguments;
use proto::{QuestionId, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tools::parser::MalformedPolicies;
use tools::registry::Limits as ToolLimits;

/// The whole configuration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name, folder and seed.
    pub run: RunSection,
    /// The model to start from, and the device.
    #[serde(default)]
    pub model: ModelSection,
    /// What the model is told.
    #[serde(default)]
    pub prompt: PromptSection,
    /// The questions that trajectories are generated for.
    pub questions: QuestionSource,
    /// Tools and their limits.
    #[serde(default)]
    pub tools: ToolSection,
    /// What becomes of actions that cannot be read: `end` or `observe`, by kind.
    #[serde(default)]
    pub malformed: MalformedPolicies,
    /// How trajectories are generated.
    #[serde(default)]
    pub rollout: RolloutSection,
    /// Who judges steps and answers.
    #[serde(default)]
    pub judge: JudgeSection,
    /// Which trajectories are trained on.
    #[serde(default)]
    pub filter: FilterSection,
    /// How many actors of each role.
    #[serde(default)]
    pub actors: ActorSection,
    /// Supervised start on annotated solutions; absent: none.
    pub warm_start: Option<WarmStartSection>,
    /// Step-wise reinforcement learning; absent: none.
    pub train: Option<TrainSection>,
    /// The paper's baseline: imitation of the same filtered trajectories; absent: none.
    pub imitation: Option<ImitationSection>,
    /// What is measured at the end.
    #[serde(default)]
    pub evaluation: EvaluationSection,
    /// Which of the actors live on other nodes. Results do not depend on it.
    #[serde(default)]
    pub cluster: ClusterSection,
}

impl Config {
    /// Every learner's settings, by the name of its section.
    pub fn learners(&self) -> impl Iterator<Item = (&'static str, &LearnerConfig)> {
        let warm = self.warm_start.as_ref().map(|s| ("warm_start", &s.learner));
        let train = self.train.as_ref().map(|s| ("train", &s.learner));
        let imitation = self.imitation.as_ref().map(|s| ("imitation", &s.learner));
        [warm, train, imitation].into_iter().flatten()
    }

    /// Number of samplers to come, as far as it is known before they are there.
    pub fn expected_samplers(&self) -> usize {
        match self.cluster.is_here(Role::Sampler) {
            true => self.actors.samplers,
            false => self.cluster.wait_for.sampler.max(1),
        }
    }

    /// The same to be changed, with the section's number of steps.
    pub fn learners_mut(
        &mut self,
    ) -> impl Iterator<Item = (&'static str, &mut LearnerConfig, u64)> {
        let warm = self.warm_start.as_mut();
        let warm = warm.map(|s| ("warm_start", &mut s.learner, s.steps));
        let train = self.train.as_mut();
        let train = train.map(|s| ("train", &mut s.learner, s.steps));
        let imitation = self.imitation.as_mut();
        let imitation = imitation.map(|s| ("imitation", &mut s.learner, s.steps));
        [warm, train, imitation].into_iter().flatten()
    }
}

/// Name, folder and seed of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// The run's name, which is the name of its folder.
    pub name: String,
    /// The folder that holds run folders.
    #[serde(default = "default_runs")]
    pub dir: PathBuf,
    /// Every random choice follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Ids of questions that are left out wherever they occur: in generation, training and
    /// evaluations. The list is meant for questions that yield nothing; the report names them.
    #[serde(default)]
    pub skip: Vec<QuestionId>,
    /// Grace period of the run to end in order after SIGTERM, SIGINT or SIGHUP: it finishes the step
    /// in flight and writes a checkpoint. Launchers wait a little longer before they kill it (Slurm as
    /// `--signal=TERM@120` says, Kubernetes as `terminationGracePeriodSeconds`).
    #[serde(default = "default_stop_grace")]
    pub stop_grace: Span,
}

fn default_stop_grace() -> Span {
    Span(actors::node::GRACE)
}

fn default_runs() -> PathBuf {
    "runs".into()
}

impl RunSection {
    /// `dir/name`.
    pub fn folder(&self) -> PathBuf {
        self.dir.join(&self.name)
    }
}

/// The model to start from, and the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A Hugging Face directory.
    pub path: PathBuf,
    /// The type to compute in, for samplers and for learners that name none of their own.
    pub dtype: ComputeType,
    /// Logits in f32 whatever `dtype` is, in samplers and learners: hidden states and output matrix are
    /// converted, so that the two agree on probabilities to more digits. This costs time and, in
    /// each, a copy of the output matrix of 4 bytes an element (docs/losses.md).
    pub f32_head: bool,
    /// `auto` (the first GPU if there is one), `cpu`, or `cuda:N`.
    pub device: String,
    /// Threads of libtorch on a CPU, at most 1024; 0 takes one per core.
    pub threads: usize,
    /// Variables for the chat template, such as `enable_thinking = false`, of any type. A template
    /// may leave them unread.
    #[serde(skip_serializing_if = "TemplateArguments::is_empty")]
    pub template_arguments: TemplateArguments,
    /// The tags around a section in which the model thinks: nothing in it is an action, and nothing
    /// in it ends sampling. `[]`: the model has no such sections.
    pub thinking_tags: Vec<String>,
}

impl ModelSection {
    /// The opening and the closing tag of thinking sections.
    pub fn thinking_tags(&self) -> Option<(&str, &str)> {
        match self.thinking_tags.as_slice() {
            [open, close] => Some((open, close)),
            _ => None,
        }
    }
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            path: ".deps/models/SmolLM2-135M-Instruct".into(),
            dtype: ComputeType::Auto,
            f32_head: false,
            device: "auto".into(),
            threads: 0,
            template_arguments: TemplateArguments::default(),
            thinking_tags: vec!["<think>".into(), "</think>".into()],
        }
    }
}

/// The messages to the model before the question. Both are minijinja templates in which `tools` are
/// the tools that are offered: `{{ tools }}` describes them, and `{% for tool in tools %}` has
/// `tool.name`, `tag`, `description`, `purpose`, `example` and `arguments` of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSection {
    /// The system message.
    pub system: String,
    /// The system message where no tool is offered: in evaluations without tools, and everywhere
    /// where `tools.enabled` is empty.
    pub system_without_tools: String,
}

impl Default for PromptSection {
    fn default() -> Self {
        Self {
            system: "Solve the problem one step at a time. In each turn do exactly one thing. \
                     Either {% for tool in tools %}{{ tool.purpose }}, like this: \
                     {{ tool.example }}, {% if not loop.last %}or {% endif %}{% endfor %}and you \
                     will be told the result. Or, once you know it, give the final number, like \
                     this: <answer>36</answer>"
                .into(),
            system_without_tools: "Solve the problem. Think step by step, then give the final \
                                   number, like this: <answer>36</answer>"
                .into(),
        }
    }
}

/// Where questions come from: exactly one of `path` and `wordmath`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionSource {
    /// A JSONL file: the project's layout, or GSM8K as published. `$NAME/` at its start is replaced
    /// by an environment variable.
    pub path: Option<PathBuf>,
    /// Made questions: arithmetic word problems.
    pub wordmath: Option<WordMathConfig>,
    /// Which of them.
    #[serde(default)]
    pub selection: Selection,
}

/// Tools and their limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSection {
    /// Names of the tools that are offered.
    pub enabled: Vec<String>,
    /// Limits of one call.
    pub limits: ToolLimits,
}

impl Default for ToolSection {
    fn default() -> Self {
        Self {
            enabled: vec!["calculator".into()],
            limits: ToolLimits::default(),
        }
    }
}

/// How trajectories are generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutSection {
    /// Trajectories per question.
    pub samples: u32,
    /// Actions per trajectory at most.
    pub max_steps: u32,
    /// Tokens per action at most.
    pub max_action_tokens: u32,
    /// Tokens per trajectory at most.
    pub max_context_tokens: u32,
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Most probable tokens kept; 0 is off.
    pub top_k: u32,
    /// Items a sampler works on at a time.
    pub items_per_sampler: u32,
    /// Finished sequences whose keys a sampler keeps for prompts that begin like them, as the next
    /// step of a trajectory does; 0 turns it off. Best as many as `items_per_sampler`.
    pub kept_sequences: u32,
    /// A lease that is older is given out again, in milliseconds.
    pub lease_ms: u64,
    /// Tries of an item before it is reported as failed.
    pub max_tries: u32,
    /// Samplers that may be lost with an item before it is reported as failed.
    pub max_losses: u32,
    /// Once no item waits, one that takes this many times as long as items took on average is given
    /// to a second sampler too, and the first result counts; 0 turns it off.
    pub straggler_factor: u32,
}

impl Default for RolloutSection {
    fn default() -> Self {
        Self {
            samples: 1,
            max_steps: 10,
            max_action_tokens: 96,
            max_context_tokens: 1024,
            temperature: 0.7,
            top_p: 1.0,
            top_k: 0,
            items_per_sampler: 64,
            kept_sequences: 64,
            lease_ms: 1_800_000,
            max_tries: 3,
            max_losses: 8,
            straggler_factor: 3,
        }
    }
}

/// Who judges steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessJudgeKind {
    /// Label-free rules.
    Rules,
    /// The annotated intermediate values: for machines without a judge model.
    Reference,
    /// A language model behind an OpenAI-compatible endpoint.
    Llm,
}

/// Who judges answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeJudgeKind {
    /// Equality after the usual normalisations.
    Match,
    /// A language model behind an OpenAI-compatible endpoint.
    Llm,
}

/// Who judges steps and answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSection {
    /// Who judges steps.
    pub process: ProcessJudgeKind,
    /// Who judges answers.
    pub outcome: OutcomeJudgeKind,
    /// Time that a phase waits for a judge that is away, such as `"2h"`; `"0s"` does not wait.
    /// Samples taken meanwhile are kept, also when that time is over.
    pub patience: Span,
    /// The share of a phase's trajectories, and of the states that are trained on, that may be left out
    /// because the judge gives no verdict on them (a prompt that is refused, a reply that cannot be
    /// read). One may always be left out, unless the share is 0.
    pub max_unjudged_share: f64,
    /// The endpoint, needed by `llm`.
    pub llm: Option<LlmJudgeConfig>,
}

impl Default for JudgeSection {
    fn default() -> Self {
        Self {
            process: ProcessJudgeKind::Rules,
            outcome: OutcomeJudgeKind::Match,
            patience: Span(Duration::from_secs(7200)),
            max_unjudged_share: 0.005,
            llm: None,
        }
    }
}

/// Which trajectories are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterSection {
    /// `none`, `process`, `outcome` or `process_and_outcome`.
    pub keep: Filter,
    /// Which states of the kept trajectories reinforcement learning starts from: `all`, or
    /// `on_track`, those with nothing but GOOD steps before them.
    pub states: StateFilter,
    /// Keep this many of those that pass, drawn by the run's seed: makes filters comparable.
    pub limit: Option<usize>,
}

impl Default for FilterSection {
    fn default() -> Self {
        Self {
            keep: Filter::None,
            states: StateFilter::All,
            limit: None,
        }
    }
}

/// Numbers of actors of each role, and the treatment of those that do not work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActorSection {
    /// Samplers, each with its own copy of the weights.
    pub samplers: usize,
    /// Tool executors.
    pub tools: usize,
    /// Judges. A judge model is asked for at most `judge.llm.max_concurrent` verdicts at once,
    /// whatever the number of judges.
    pub judges: usize,
    /// Failures in a row after which a sampler, or the tools or judges of a node, are left out for a
    /// while. Their engine is opened again meanwhile, from the second time on their node's process ends,
    /// to be started again.
    pub quarantine_after: u32,
    /// Wait for a role without a worker that works before the run ends, with its state
    /// saved.
    pub patience: Span,
}

impl Default for ActorSection {
    fn default() -> Self {
        Self {
            samplers: 1,
            tools: 2,
            judges: 4,
            quarantine_after: 3,
            patience: Span(Duration::from_secs(7200)),
        }
    }
}

/// Supervised start on annotated solutions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmStartSection {
    /// Questions with known solutions.
    pub questions: QuestionSource,
    /// How solutions become dialogues.
    #[serde(default)]
    pub dialogue: DialogueOptions,
    /// Optimisation steps.
    pub steps: u64,
    /// Dialogues per step.
    pub batch: usize,
    /// Dialogues longer than this many tokens are left out.
    #[serde(default = "default_dialogue_tokens")]
    pub max_tokens: usize,
    /// Steps between checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// The optimizer.
    #[serde(default)]
    pub learner: LearnerConfig,
}

fn default_dialogue_tokens() -> usize {
    512
}

fn default_checkpoint_every() -> u64 {
    50
}

/// Step-wise reinforcement learning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// One learner is trained per seed, from the same start on the same trajectories.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Optimisation steps.
    pub steps: u64,
    /// Steps that are made of the same states and actions before fresh ones are sampled. Above 1 the
    /// later ones are off policy: `learner.loss.kind = "ppo_clip"` is made for that, and `reinforce`
    /// needs `learner.importance`.
    #[serde(default = "default_updates")]
    pub updates_per_batch: u64,
    /// States per step.
    pub states_per_step: usize,
    /// Fresh actions per state.
    pub actions_per_state: u32,
    /// States whose actions are all rewarded alike teach nothing: others are drawn in their place, up
    /// to this many times a batch (dynamic sampling). 0: they stay.
    #[serde(default)]
    pub refill: u32,
    /// Temperature of fresh actions. Top-p and top-k are off here: the learner's log-probabilities
    /// are those of the full distribution.
    #[serde(default = "default_temperature")]
    pub temperature: f32,
    /// Tokens per action at most.
    #[serde(default = "default_action_tokens")]
    pub max_action_tokens: u32,
    /// Whether long trajectories count for more.
    #[serde(default = "default_weighting")]
    pub weighting: StateWeighting,
    /// Kinds of states that are drawn equally often: `off`, `solution_steps` (by the number of
    /// steps of the annotated solution), `position` (by the number of steps before the state), or
    /// `solution_steps_and_position`.
    #[serde(default)]
    pub balance: StateBalance,
    /// Steps between checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// Largest disagreement of sampler and learner, in nats: the mean of |log π − log μ| over the
    /// tokens of the first step after a start or a resume that runs any. A step with more is refused:
    /// the two then hold different weights or divide by different temperatures. Later steps with more
    /// are warned about.
    #[serde(default = "default_logprob_difference")]
    pub max_logprob_difference: f64,
    /// The optimizer, the baseline and the KL term. Its `dtype`, if `auto`, is `model.dtype`.
    #[serde(default)]
    pub learner: LearnerConfig,
}

fn default_updates() -> u64 {
    1
}

fn default_logprob_difference() -> f64 {
    0.1
}

fn default_seeds() -> Vec<u64> {
    vec![1]
}

fn default_temperature() -> f32 {
    0.8
}

fn default_action_tokens() -> u32 {
    96
}

fn default_weighting() -> StateWeighting {
    StateWeighting::PerTrajectory
}

/// Imitation of the filtered trajectories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImitationSection {
    /// Which trajectories are imitated; absent: those that reinforcement learning trains on.
    pub keep: Option<Filter>,
    /// Optimisation steps.
    pub steps: u64,
    /// Trajectories per step.
    pub batch: usize,
    /// Steps between checkpoints.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// The optimizer.
    #[serde(default)]
    pub learner: LearnerConfig,
}

/// What is measured at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSection {
    /// The question sets.
    pub sets: Vec<EvaluationSet>,
    /// Samples per question.
    pub samples: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Actions per trajectory at most.
    pub max_steps: u32,
    /// Tokens per action at most.
    pub max_action_tokens: u32,
    /// Also measure the model the run started from.
    pub base: bool,
    /// Also measure every model with no tool.
    pub without_tools: bool,
    /// Treatment of a run whose evaluation sets have questions that its training or warm start has,
    /// too.
    pub overlap: OverlapPolicy,
}

/// Treatment of a run that measures on questions which it trains on. Texts are compared without
/// case, punctuation and the width of blanks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// The run is refused for a question with the same text or the same id.
    #[default]
    Refuse,
    /// The run is refused for a question with the same text; ids of different files may coincide.
    SameIds,
    /// The run goes on, and the report says how many such questions there are.
    Allow,
}

impl Default for EvaluationSection {
    fn default() -> Self {
        Self {
            sets: Vec::new(),
            samples: 1,
            temperature: 0.0,
            max_steps: 10,
            max_action_tokens: 96,
            base: true,
            without_tools: false,
            overlap: OverlapPolicy::default(),
        }
    }
}

/// What marks the name of a set that was measured with no tool.
pub const WITHOUT_TOOLS: &str = " without tools";

/// A named set of questions to measure on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSet {
    /// Name in the report and of a folder, each once.
    pub name: String,
    /// The questions.
    pub questions: QuestionSource,
}

/// Which of the actors live on other nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Where nodes join, `ADDRESS:PORT` of UDP; the port after it is for data. Absent: there are
    /// no nodes, and every actor lives in this process.
    pub listen: Option<String>,
    /// The folder of the controller's certificate.
    pub certs: PathBuf,
    /// The run starts once so many nodes have joined.
    pub wait_for: WaitFor,
    /// Time that the run waits for them before it ends; absent: without end.
    pub wait_at_most: Option<Span>,
    /// Roles that this process takes on itself although there are nodes.
    pub here: Vec<Role>,
    /// Whether a node that samples or trains must compute on a GPU; one on a CPU is refused.
    pub require_gpu: bool,
    /// Learners that train side by side at most, each on its share of every batch; others stand by.
    /// 0: every learner node trains.
    pub replicas: usize,
    /// Whether learners encrypt what they exchange between hosts. Without, gradients are added up about
    /// twice as fast, and the network between them has to be trusted. Inside a host nothing is.
    pub ring_tls: bool,
    /// Number of nodes that the controller gives new weights, or a model's files, to at most, and each
    /// node to others; up to that number all pull from the controller.
    pub weight_fan_out: usize,
    /// Samplers pull what has changed in the weights, compressed, instead of all. Worth it where the
    /// network is slow; the controller then holds the weights twice.
    pub weight_deltas: bool,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            listen: None,
            certs: "certs/controller".into(),
            wait_for: WaitFor::default(),
            wait_at_most: None,
            here: Vec::new(),
            require_gpu: false,
            replicas: 0,
            ring_tls: true,
            weight_fan_out: SpreadPlan::default().fan_out,
            weight_deltas: SpreadPlan::default().deltas,
        }
    }
}

impl ClusterSection {
    /// How many learners train side by side, as far as that is known before they are there.
    pub fn expected_replicas(&self) -> usize {
        match self.replicas {
            0 => self.wait_for.learner.max(1),
            replicas => replicas,
        }
    }

    /// How weights are brought to nodes.
    pub fn weights(&self) -> SpreadPlan {
        SpreadPlan {
            fan_out: self.weight_fan_out,
            deltas: self.weight_deltas,
            ..SpreadPlan::default()
        }
    }

    /// Nodes that a run with nodes waits for, by role, without the roles that this process takes on.
    pub fn wanted(&self) -> BTreeMap<Role, usize> {
        let wanted = [
            (Role::Sampler, self.wait_for.sampler),
            (Role::Tool, self.wait_for.tool),
            (Role::Judge, self.wait_for.judge),
            (Role::Learner, self.wait_for.learner),
        ];
        let wanted = wanted.into_iter();
        wanted
            .filter(|(role, _)| !self.here.contains(role))
            .collect()
    }

    /// Whether the actors of a role live in this process.
    pub fn is_here(&self, role: Role) -> bool {
        self.listen.is_none() || self.here.contains(&role)
    }
}

/// How many nodes of each role a run waits for; roles that the controller has itself do not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaitFor {
    /// Samplers.
    pub sampler: usize,
    /// Tool executors.
    pub tool: usize,
    /// Judges.
    pub judge: usize,
    /// Learners.
    pub learner: usize,
}

impl Default for WaitFor {
    fn default() -> Self {
        Self {
            sampler: 1,
            tool: 1,
            judge: 1,
            learner: 1,
        }
    }
}
