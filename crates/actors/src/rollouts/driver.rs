//! The work on one item: sampling, tools, and what the model is told.

use super::{LOSS_PAUSE, RolloutPlan};
use crate::fleet::{Fleet, FleetError};
use crate::pool::MemberId;
use crate::ports::EngineError;
use crate::seeds;
use control::rollout::{Effect, Rollout};
use proto::{Completion, GenerateRequest, ItemId, Question, SamplingParams, Trajectory};
use tools::parser::{malformed_message, parse_action};

/// Outcome of the work on an item.
pub(crate) type ItemResult = Result<Box<Trajectory>, ItemFailure>;

/// Why there is no trajectory.
pub(crate) enum ItemFailure {
    /// A call failed; where the item is not at its end, another sampler goes on with it.
    Failed(String, ItemId, Option<Box<Begun>>),
    /// The sampler is gone; the item goes on with another.
    Lost(ItemId, Box<Begun>),
}

/// An item under way.
pub(crate) struct Begun {
    rollout: Rollout,
    /// The effect that it waits for.
    effect: Effect,
    /// Actions so far.
    step: u32,
}

/// Performs what one item's rollout asks for, up to its unjudged trajectory.
pub(super) struct Driver<'a> {
    pub plan: &'a RolloutPlan,
    pub fleet: &'a Fleet,
    pub sampler: MemberId,
    pub item: &'a ItemId,
}

impl Driver<'_> {
    pub async fn run(&self, question: Question, begun: Option<Begun>) -> ItemResult {
        let mut begun = begun.unwrap_or_else(|| self.begin(question));
        let failed = |error: &dyn std::fmt::Display, begun| {
            ItemFailure::Failed(error.to_string(), self.item.clone(), begun)
        };
        loop {
            match self.advance(&mut begun).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.is_gone() => {
                    // Others that are lost with it are noticed first.
                    tokio::time::sleep(LOSS_PAUSE).await;
                    return Err(ItemFailure::Lost(self.item.clone(), Box::new(begun)));
                }
                Err(error) => return Err(failed(&error, Some(Box::new(begun)))),
            }
        }
        let run = self.plan.run.clone();
        let trajectory = begun.rollout.into_trajectory(run, self.plan.model.as_str());
        trajectory
            .map(Box::new)
            .map_err(|error| failed(&error, None))
    }

    fn begin(&self, question: Question) -> Begun {
        let prompt = self.plan.turns.prompt(&question);
        let limits = self.plan.limits.clone();
        let (rollout, effect) = Rollout::new(self.item.clone(), question, prompt, limits);
        Begun {
            rollout,
            effect,
            step: 0,
        }
    }

    /// Performs what is asked for next; false when nothing is. After an error nothing has changed.
    async fn advance(&self, begun: &mut Begun) -> Result<bool, FleetError> {
        let (plan, rollout) = (self.plan, &mut begun.rollout);
        begun.effect = match &begun.effect {
            Effect::Sample { prompt, max_tokens } => {
                let (prompt, max_tokens) = (prompt.clone(), *max_tokens);
                let completion = self.sample(prompt, max_tokens, begun.step).await?;
                begun.step += 1;
                let parsed = parse_action(&completion.text, completion.finish, &plan.tags);
                rollout.sampled(completion, parsed.thought, parsed.action)?
            }
            Effect::Execute(call) => {
                let reply = self.fleet.execute(call).await?;
                let text = format!("{} -> {}", call.arguments, reply.text);
                let tokens = plan.turns.observation(&text, rollout.last_sampled());
                rollout.observed(text, tokens, reply.is_error, reply.latency_us)?
            }
            Effect::Tell(kind) => {
                let text = malformed_message(*kind, &plan.tags);
                let tokens = plan.turns.observation(&text, rollout.last_sampled());
                rollout.observed(text, tokens, true, 0)?
            }
            Effect::Finish(_) => return Ok(false),
        };
        Ok(true)
    }

    async fn sample(
        &self,
        prompt: Vec<u32>,
        max_tokens: u32,
        step: u32,
    ) -> Result<Completion, FleetError> {
        let item = self.item.to_string();
        let request = GenerateRequest {
            prompt,
            samples: 1,
            params: SamplingParams {
                max_tokens,
                ..self.plan.params.clone()
            },
            seed: seeds::derive(self.plan.seed, &["rollout", &item, &step.to_string()]),
        };
        let completions = self.fleet.sample(self.sampler, request).await?;
        completions
            .into_iter()
            .next()
            .ok_or_else(|| FleetError::Engine(EngineError("the sampler returned nothing".into())))
    }
}
