//! Engines for tests: what they do follows from the prompt, so results do not depend on timing.

use actors::ports::{EngineError, Generator, LearnerFault, StepReport, Trainer, Turns};
use actors::{FleetPlan, Judges};
use async_trait::async_trait;
use judge::{AnswerMatch, JudgeError, OutcomeJudge, ProcessJudge, RulesJudge, StepContext};
use proto::{
    Completion, FinishReason, GenerateRequest, Question, ReferenceStep, SftSample, SnapshotScope,
    StateGroup, Verdict, WeightManifest, WeightSnapshot, WeightVersion,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tools::registry::{Limits, Registry, Tool, ToolError};

/// One token per byte: `prompt` and `observation` put the text in as it is.
pub struct ByteTurns;

pub fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

impl Turns for ByteTurns {
    fn prompt(&self, question: &Question) -> Vec<u32> {
        bytes(&format!("Q:{}\nA:", question.question))
    }

    fn observation(&self, text: &str, _: &[u32]) -> Vec<u32> {
        bytes(&format!("\nO:{text}\nA:"))
    }
}

pub fn question(n: u32) -> Question {
    let step = ReferenceStep {
        thought: String::new(),
        tool: "calculator".into(),
        arguments: format!("{n}+1"),
        result: (n + 1).to_string(),
    };
    Question {
        id: format!("q{n:03}").as_str().into(),
        dataset: "test".into(),
        split: "train".into(),
        question: format!("{n}+1"),
        answer: (n + 1).to_string(),
        answer_aliases: vec![],
        reference_steps: vec![step],
    }
}

/// Asks the calculator what the question says, then answers with what it said.
#[derive(Default)]
pub struct Solver {
    pub version: AtomicU64,
    /// Requests so far.
    pub calls: AtomicU32,
    /// Fails this many requests first.
    pub failures: AtomicU32,
    /// Claims to sample from weights that were never published.
    pub stale: bool,
    /// The versions published, in order.
    pub published: Mutex<Vec<u64>>,
}

impl Solver {
    fn solve(&self, request: &GenerateRequest) -> Result<Vec<Completion>, EngineError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let fails = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok();
        if fails {
            return Err(EngineError("the engine is on fire".into()));
        }
        let prompt: String = request.prompt.iter().map(|&b| b as u8 as char).collect();
        let text = match prompt.rsplit_once(" -> ") {
            Some((_, result)) => format!("<answer>{}</answer>", result.trim_end_matches("\nA:")),
            None => {
                let asked = prompt.trim_start_matches("Q:").trim_end_matches("\nA:");
                format!("<math_exp>{asked}</math_exp>")
            }
        };
        let tokens = bytes(&text);
        let completion = Completion {
            logprobs: vec![-0.5; tokens.len()],
            tokens,
            finish: FinishReason::StopText,
            text,
            weight_version: match self.stale {
                true => WeightVersion(77),
                false => WeightVersion(self.version.load(Ordering::Relaxed)),
            },
        };
        Ok(vec![completion; request.samples as usize])
    }
}

#[async_trait]
impl Generator for Solver {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        requests.iter().map(|request| self.solve(request)).collect()
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        let version = weights.manifest.version.0;
        self.version.store(version, Ordering::Relaxed);
        self.published.lock().unwrap().push(version);
        Ok(())
    }
}

/// Counts steps and remembers what it was given.
#[derive(Default)]
pub struct Recorder {
    pub steps: AtomicU64,
    pub groups: Mutex<Vec<Vec<StateGroup>>>,
    pub checkpoints: AtomicU32,
    /// Scopes of the snapshots that were asked for, in order.
    pub scopes: Mutex<Vec<SnapshotScope>>,
    /// What it reports as the difference between its log-probabilities and the sampler's, in nats.
    pub logprob_difference: f64,
    /// Its first steps, which run no token.
    pub idle_steps: u64,
}

#[async_trait]
impl Trainer for Recorder {
    async fn steps_done(&self) -> Result<u64, EngineError> {
        Ok(self.steps.load(Ordering::Relaxed))
    }

    async fn supervised_step(&self, _: Vec<SftSample>) -> Result<StepReport, LearnerFault> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(StepReport {
            step,
            metrics: BTreeMap::new(),
        })
    }

    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault> {
        self.groups.lock().unwrap().push(batch);
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let (tokens, difference) = match step <= self.idle_steps {
            true => (0.0, 0.0),
            false => (8.0, self.logprob_difference),
        };
        let metrics = [
            ("compared_tokens".to_owned(), tokens),
            ("logprob_difference_mean".to_owned(), difference),
        ];
        Ok(StepReport {
            step,
            metrics: metrics.into(),
        })
    }

    async fn snapshot(
        &self,
        version: WeightVersion,
        scope: SnapshotScope,
    ) -> Result<WeightSnapshot, EngineError> {
        self.scopes.lock().unwrap().push(scope);
        let manifest = WeightManifest {
            adapter: None,
            base: None,
            version,
            tensors: vec![],
            checksum: 0,
        };
        Ok(WeightSnapshot {
            manifest: Arc::new(manifest),
            bytes: Arc::new(vec![]),
        })
    }

    async fn checkpoint(&self) -> Result<PathBuf, EngineError> {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(PathBuf::new())
    }

    async fn export(&self, _: PathBuf) -> Result<(), EngineError> {
        Ok(())
    }
}

/// A calculator that panics the first few times.
pub struct Fragile {
    pub panics: AtomicU32,
}

#[async_trait]
impl Tool for Fragile {
    fn name(&self) -> &str {
        "calculator"
    }

    fn tag(&self) -> &str {
        "math_exp"
    }

    fn description(&self) -> &str {
        "adds"
    }

    fn schema(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    async fn call(&self, arguments: &str) -> Result<String, ToolError> {
        let panics = self
            .panics
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok();
        assert!(!panics, "a planned panic of the tool");
        let value = tools::calculator::evaluate(arguments)
            .map_err(|e| ToolError::Rejected(e.to_string()))?;
        Ok(tools::number::format_number(&value))
    }
}

/// Rules that panic the first few times, then fail the next few.
pub struct FragileJudge {
    pub panics: AtomicU32,
    pub down: AtomicU32,
}

#[async_trait]
impl ProcessJudge for FragileJudge {
    fn name(&self) -> &str {
        "rules"
    }

    fn uses_reference(&self) -> bool {
        false
    }

    async fn judge(&self, context: &StepContext) -> Result<Verdict, JudgeError> {
        let take = |n: &AtomicU32| {
            n.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
        };
        assert!(!take(&self.panics), "a planned panic of the judge");
        if take(&self.down) {
            let (url, reason) = ("http://judge".to_owned(), "it is down".to_owned());
            return Err(JudgeError::Unreachable {
                url,
                tries: 1,
                reason,
            });
        }
        RulesJudge::default().judge(context).await
    }
}

/// A fleet of one sampler, two tool executors and two judges.
pub fn fleet(sampler: Arc<Solver>, tool_panics: u32, judge: FragileJudge) -> FleetPlan {
    let mut registry = Registry::empty(Limits::default());
    registry.insert(Arc::new(Fragile {
        panics: AtomicU32::new(tool_panics),
    }));
    let outcome: Arc<dyn OutcomeJudge> = Arc::new(AnswerMatch::default());
    FleetPlan {
        samplers: vec![sampler],
        registry: Some(Arc::new(registry)),
        tool_executors: 2,
        judges: Some(Judges {
            process: Arc::new(judge),
            outcome,
        }),
        judge_actors: 2,
        ..FleetPlan::default()
    }
}

pub fn sound_judge() -> FragileJudge {
    FragileJudge {
        panics: AtomicU32::new(0),
        down: AtomicU32::new(0),
    }
}
