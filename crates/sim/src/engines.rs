//! Engines that take virtual time and compute nothing. What they answer follows from what they are
//! asked.

use crate::account::Account;
use actors::Judges;
use actors::ports::{EngineError, Generator, Turns};
use async_trait::async_trait;
use judge::{JudgeError, OutcomeJudge, ProcessJudge, StepContext};
use proto::{
    Completion, FinishReason, GenerateRequest, Label, NodeName, Question, Verdict, WeightSnapshot,
    WeightVersion,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tools::registry::{Limits, Registry, Tool, ToolError};

/// How many times as long a machine takes for everything.
pub(crate) type Slowness = Arc<AtomicU32>;

/// What ails a sampler that stays connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ailment {
    /// It refuses everything at once.
    Refuses,
    /// It never answers.
    Hangs,
    /// It takes ten times as long.
    Slow,
    /// It fails at every nth call.
    Fails(u64),
}

/// What makes it well, beside being mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    /// An engine that is opened later is well.
    NewEngine,
    /// A process that is started later is well.
    NewProcess,
    /// Nothing.
    None,
}

/// A machine whose samplers are sick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sickness {
    pub ailment: Ailment,
    pub cure: Cure,
    /// Engines of the simulation that had been opened when it began.
    pub engines: u64,
}

/// Of a machine, as all of its engines see it.
pub(crate) type Health = Arc<Mutex<Option<Sickness>>>;

/// Where an engine stands. Closed when it is dropped.
pub(crate) struct Place {
    pub account: Arc<Account>,
    pub node: NodeName,
    pub boot: u64,
    pub slowness: Slowness,
    what: String,
    pub number: u64,
    /// Calls that it takes at once.
    credits: u32,
    busy: AtomicU32,
    /// How long a call takes, in milliseconds, if nothing slows it down.
    takes_ms: u64,
    calls: AtomicU64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.closed(self.number);
    }
}

/// A call at an engine.
struct Call<'a>(&'a Place);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    pub(crate) fn new(
        account: Arc<Account>,
        (node, boot): (NodeName, u64),
        slowness: Slowness,
        what: &str,
        credits: u32,
        takes_ms: u64,
    ) -> Self {
        let what = format!("{what} on {node} ({boot:x})");
        Self {
            number: account.opened(what.clone()),
            account,
            node,
            boot,
            slowness,
            what,
            credits,
            busy: AtomicU32::new(0),
            takes_ms,
            calls: AtomicU64::new(0),
        }
    }

    /// SI-4, and the time that a call takes.
    pub(crate) async fn work(&self) {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let _call = Call(self);
        if busy > self.credits {
            // A call that nobody waits for any more takes a moment to end.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let busy = self.busy.load(Ordering::Relaxed);
        if busy > self.credits {
            let (what, credits) = (&self.what, self.credits);
            self.account.breaks(
                "SI-4",
                format_args!("{busy} calls at {what}, which takes {credits}"),
            );
        }
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut rng = ChaCha8Rng::seed_from_u64(self.boot ^ self.number << 32 ^ number);
        let slow = f64::from(self.slowness.load(Ordering::Relaxed));
        let takes = self.takes_ms as f64 * rng.random_range(0.5..1.5) * slow;
        tokio::time::sleep(Duration::from_secs_f64(takes / 1000.0)).await;
    }
}

/// One token per byte.
pub(crate) struct ByteTurns;

fn bytes(text: &str) -> Vec<u32> {
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

/// Asks the tool what the question says, then answers with what it said.
pub(crate) struct Sampler {
    pub place: Place,
    version: AtomicU64,
    health: Health,
    /// The engine that its process opened first.
    first: u64,
}

impl Sampler {
    pub(crate) fn new(place: Place, health: Health, first: u64) -> Self {
        place.account.serves_anew(&place.node, place.boot);
        Self {
            place,
            version: AtomicU64::new(0),
            health,
            first,
        }
    }

    /// What ails it at the moment.
    fn ailment(&self) -> Option<Ailment> {
        let sickness = (*self.health.lock().expect("no holder panics"))?;
        let is_well = match sickness.cure {
            Cure::NewEngine => self.place.number > sickness.engines,
            Cure::NewProcess => self.first > sickness.engines,
            Cure::None => false,
        };
        (!is_well).then_some(sickness.ailment)
    }

    /// The time that a call takes, and its failure.
    async fn suffer(&self) -> Result<(), EngineError> {
        let fault = || EngineError("the GPU has fallen off the bus".to_owned());
        match self.ailment() {
            Some(Ailment::Refuses) => return Err(fault()),
            Some(Ailment::Hangs) => std::future::pending().await,
            Some(Ailment::Slow) => {
                for _ in 0..9 {
                    self.place.work().await;
                }
            }
            Some(Ailment::Fails(nth)) => {
                let calls = self.place.calls.load(Ordering::Relaxed);
                if calls.is_multiple_of(nth) {
                    self.place.work().await;
                    return Err(fault());
                }
            }
            None => {}
        }
        self.place.work().await;
        // A device that is gone takes what it was at with it.
        match self.ailment() {
            Some(Ailment::Refuses) => Err(fault()),
            Some(Ailment::Hangs) => std::future::pending().await,
            Some(Ailment::Slow | Ailment::Fails(_)) | None => Ok(()),
        }
    }
}

/// Of the chunks in which weights travel.
pub(crate) const CHUNK_BYTES: u32 = 128;

/// The weights of a version: some chunks, of which the first stays as it is and the others change.
pub(crate) fn bytes_of(version: WeightVersion) -> Vec<u8> {
    let mut bytes = vec![7; CHUNK_BYTES as usize];
    for _ in 0..75 {
        bytes.extend(version.0.to_le_bytes());
    }
    bytes
}

fn continuations(request: &GenerateRequest, version: WeightVersion) -> Vec<Completion> {
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
        weight_version: version,
    };
    vec![completion; request.samples as usize]
}

#[async_trait]
impl Generator for Sampler {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let version = WeightVersion(self.version.load(Ordering::Relaxed));
        self.suffer().await?;
        let all = requests
            .iter()
            .map(|request| continuations(request, version));
        Ok(all.collect())
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        match self.ailment() {
            Some(Ailment::Refuses) => {
                return Err(EngineError("the GPU takes no weights".to_owned()));
            }
            Some(Ailment::Hangs) => std::future::pending().await,
            Some(Ailment::Slow | Ailment::Fails(_)) | None => {}
        }
        let version = weights.manifest.version;
        let Place {
            account,
            node,
            boot,
            ..
        } = &self.place;
        if !weights.is_intact() || *weights.bytes != bytes_of(version) {
            account.breaks("SI-5", format_args!("{node} got damaged weights {version}"));
        }
        account.serves(node, *boot, version);
        self.version.store(version.0, Ordering::Relaxed);
        Ok(())
    }
}

/// Adds.
struct Adder(Place);

#[async_trait]
impl Tool for Adder {
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
        self.0.work().await;
        let value = tools::calculator::evaluate(arguments)
            .map_err(|error| ToolError::Rejected(error.to_string()))?;
        Ok(tools::number::format_number(&value))
    }
}

pub(crate) fn registry(place: Place) -> Arc<Registry> {
    let limits = Limits {
        timeout_ms: 3_600_000,
        ..Limits::default()
    };
    let mut registry = Registry::empty(limits);
    registry.insert(Arc::new(Adder(place)));
    Arc::new(registry)
}

/// Finds everything good.
struct Kind {
    place: Place,
    /// Calls that it takes on at once: a judge bounds its calls itself.
    bound: Semaphore,
}

impl Kind {
    async fn verdict(&self) -> Result<Verdict, JudgeError> {
        let _turn = self.bound.acquire().await.expect("it is never closed");
        self.place.work().await;
        Ok(Verdict {
            judge: "kind".into(),
            model: "kind/1".into(),
            prompt_hash: String::new(),
            label: Label::Good,
            score: 1.0,
            rationale: String::new(),
        })
    }
}

#[async_trait]
impl ProcessJudge for Kind {
    fn name(&self) -> &str {
        "kind"
    }

    fn uses_reference(&self) -> bool {
        false
    }

    async fn judge(&self, _: &StepContext) -> Result<Verdict, JudgeError> {
        self.verdict().await
    }
}

#[async_trait]
impl OutcomeJudge for Kind {
    fn name(&self) -> &str {
        "kind"
    }

    async fn judge(&self, _: &Question, _: Option<&str>) -> Result<Verdict, JudgeError> {
        self.verdict().await
    }
}

/// Judges that take whatever they are given: others keep to their credits.
pub(crate) fn judges(place: Place) -> Judges {
    bounded(place, Semaphore::MAX_PERMITS)
}

/// Judges of the controller's own process.
pub(crate) fn own_judges(place: Place) -> Judges {
    let credits = place.credits as usize;
    bounded(place, credits)
}

fn bounded(place: Place, calls: usize) -> Judges {
    let bound = Semaphore::new(calls);
    let kind = Arc::new(Kind { place, bound });
    Judges {
        process: kind.clone(),
        outcome: kind,
    }
}
