//! One item's way from its prompt to its trajectory.
//!
//! - **RO-1 (prefix).** The prompt of each step is the last step's prompt, the ids that were sampled,
//!   and the observation's ids, unchanged and in this order. Text is never encoded again.
//! - **RO-2 (mask).** The `sampled` spans cover the sampled ids and nothing else.
//! - **RO-3 (no half calls).** Only an action that was read as one complete call is executed.
//! - **RO-4 (bounds).** There are at most `max_steps` steps, no step samples more than
//!   `max_action_tokens`, and no prompt with its action is longer than `max_context_tokens`.
//! - **RO-5 (valid).** The trajectory passes [`Trajectory::validate`]: a completion that would break
//!   it is refused as a fault of the engine and changes nothing.
//!
//! The last observation may run past `max_context_tokens`: it is kept as evidence for judges, and no
//! action follows it. A call in the last step is not executed, since nobody would see the result.

use proto::{
    Action, Completion, ItemId, MalformedKind, Observation, Question, RunId, Span, Step, ToolCall,
    Trajectory, TrajectoryEnd,
};
use std::collections::BTreeSet;

#[cfg(test)]
mod tests;

/// What bounds a trajectory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Actions, the answer included.
    pub max_steps: u32,
    /// Tokens of a prompt with its action.
    pub max_context_tokens: u32,
    /// Tokens of one action.
    pub max_action_tokens: u32,
    /// Kinds of unreadable action that end the trajectory. Of the others the model is told, and it
    /// goes on.
    pub ends_on: BTreeSet<MalformedKind>,
}

/// What a rollout wants done. Each but `Finish` is answered by one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a rollout stands still until its effect is performed"]
pub enum Effect {
    /// Sample an action; answered by [`Rollout::sampled`].
    Sample {
        /// Every token so far.
        prompt: Vec<u32>,
        /// At most this many new tokens; at least 1.
        max_tokens: u32,
    },
    /// Run a tool; answered by [`Rollout::observed`].
    Execute(ToolCall),
    /// Tell the model why its action cannot be read; answered by [`Rollout::observed`].
    Tell(MalformedKind),
    /// The trajectory is complete: call [`Rollout::into_trajectory`].
    Finish(TrajectoryEnd),
}

/// Why an event was refused. The rollout stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// The engine returned what no sampler may return. Try the item again; if it happens again, the
    /// engine is at fault.
    #[error("the sampler returned a broken completion: {0}")]
    BrokenCompletion(String),
    /// The event does not answer the last effect: a bug in whoever drives the rollout.
    #[error("{event} was reported while the rollout {state}")]
    Unexpected {
        /// What was reported.
        event: &'static str,
        /// What the rollout does instead.
        state: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sampling { max_tokens: u32 },
    Observing,
    Ended(TrajectoryEnd),
}

impl State {
    fn refuse(self, event: &'static str) -> RolloutError {
        let state = match self {
            Self::Sampling { .. } => "waits for an action",
            Self::Observing => "waits for an observation",
            Self::Ended(_) => "has ended",
        };
        RolloutError::Unexpected { event, state }
    }
}

/// A trajectory in the making.
#[derive(Debug, Clone)]
pub struct Rollout {
    item: ItemId,
    question: Question,
    limits: Limits,
    tokens: Vec<u32>,
    steps: Vec<Step>,
    state: State,
}

impl Rollout {
    /// Begins with the ids of the prompt, up to where the model's first turn begins. The effect is
    /// the first to perform; a prompt that leaves no room ends the rollout at once.
    pub fn new(
        item: ItemId,
        question: Question,
        prompt_tokens: Vec<u32>,
        limits: Limits,
    ) -> (Self, Effect) {
        let mut rollout = Self {
            item,
            question,
            limits,
            tokens: prompt_tokens,
            steps: Vec::new(),
            state: State::Observing,
        };
        let effect = rollout.next_step();
        (rollout, effect)
    }

    /// Takes the action that [`Effect::Sample`] asked for, and what a parser made of its text.
    ///
    /// # Errors
    /// [`RolloutError::BrokenCompletion`] without tokens, with more than were asked for, or with
    /// log-probabilities missing or not finite (RO-5); [`RolloutError::Unexpected`] if no action is
    /// asked for.
    pub fn sampled(
        &mut self,
        completion: Completion,
        thought: String,
        action: Action,
    ) -> Result<Effect, RolloutError> {
        let State::Sampling { max_tokens } = self.state else {
            return Err(self.state.refuse("an action"));
        };
        check(&completion, max_tokens).map_err(RolloutError::BrokenCompletion)?;
        let sampled = self.push(&completion.tokens);
        self.steps.push(Step {
            sampled,
            logprobs: completion.logprobs,
            weight_version: completion.weight_version,
            finish: completion.finish,
            text: completion.text,
            thought,
            action: action.clone(),
            observation: None,
            verdicts: Vec::new(),
        });
        Ok(self.after(action))
    }

    /// Takes what [`Effect::Execute`] or [`Effect::Tell`] asked for: the observation's text, and the
    /// ids that go between the action and the model's next turn, template tokens included.
    ///
    /// # Errors
    /// [`RolloutError::Unexpected`] if no observation is asked for.
    pub fn observed(
        &mut self,
        text: String,
        tokens: Vec<u32>,
        is_error: bool,
        latency_us: u64,
    ) -> Result<Effect, RolloutError> {
        let State::Observing = self.state else {
            return Err(self.state.refuse("an observation"));
        };
        let span = self.push(&tokens);
        let step = self
            .steps
            .last_mut()
            .expect("a rollout observes only after an action");
        step.observation = Some(Observation {
            text,
            span,
            is_error,
            latency_us,
        });
        Ok(self.next_step())
    }

    /// The ids of the last action; empty before the first.
    pub fn last_sampled(&self) -> &[u32] {
        self.steps
            .last()
            .map_or(&[], |step| &self.tokens[step.sampled.range()])
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The complete trajectory, not yet judged.
    ///
    /// # Errors
    /// [`RolloutError::Unexpected`] before [`Effect::Finish`].
    pub fn into_trajectory(
        self,
        run: RunId,
        model: impl Into<String>,
    ) -> Result<Trajectory, RolloutError> {
        let State::Ended(end) = self.state else {
            return Err(self.state.refuse("the end"));
        };
        Ok(Trajectory {
            run,
            item: self.item,
            question: self.question,
            model: model.into(),
            tokens: self.tokens,
            steps: self.steps,
            end,
            outcome: None,
        })
    }

    fn after(&mut self, action: Action) -> Effect {
        let goes_on = self.room() > 0 && !self.is_last_step();
        let effect = match action {
            Action::Answer(_) => return self.end(TrajectoryEnd::Answered),
            // The context cut the action off, so that is why it cannot be read.
            Action::Malformed(_) if self.room() == 0 => {
                return self.end(TrajectoryEnd::ContextLimit);
            }
            Action::Malformed(kind) if self.limits.ends_on.contains(&kind) => {
                return self.end(TrajectoryEnd::Malformed);
            }
            Action::Malformed(_) | Action::Call(_) if !goes_on => return self.next_step(),
            Action::Malformed(kind) => Effect::Tell(kind),
            Action::Call(call) => Effect::Execute(call),
        };
        self.state = State::Observing;
        effect
    }

    /// Asks for the next action, or ends where there is no room for one.
    fn next_step(&mut self) -> Effect {
        if self.is_last_step() {
            return self.end(TrajectoryEnd::StepLimit);
        }
        let max_tokens = self.room().min(self.limits.max_action_tokens);
        if max_tokens == 0 {
            return self.end(TrajectoryEnd::ContextLimit);
        }
        self.state = State::Sampling { max_tokens };
        Effect::Sample {
            prompt: self.tokens.clone(),
            max_tokens,
        }
    }

    fn end(&mut self, end: TrajectoryEnd) -> Effect {
        self.state = State::Ended(end);
        Effect::Finish(end)
    }

    fn is_last_step(&self) -> bool {
        self.steps.len() >= self.limits.max_steps as usize
    }

    /// How many more tokens the context takes.
    fn room(&self) -> u32 {
        self.limits
            .max_context_tokens
            .saturating_sub(self.position())
    }

    fn position(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("a context has fewer than 2^32 tokens")
    }

    fn push(&mut self, tokens: &[u32]) -> Span {
        let start = self.position();
        self.tokens.extend_from_slice(tokens);
        Span {
            start,
            end: self.position(),
        }
    }
}

/// Says what is wrong with a completion.
fn check(completion: &Completion, max_tokens: u32) -> Result<(), String> {
    let (tokens, logprobs) = (completion.tokens.len(), completion.logprobs.len());
    if tokens == 0 {
        return Err("it has no token, not even the end of the turn".to_owned());
    }
    if tokens > max_tokens as usize {
        return Err(format!(
            "it has {tokens} tokens where at most {max_tokens} were asked for"
        ));
    }
    if tokens != logprobs {
        return Err(format!(
            "it has {logprobs} log-probabilities for {tokens} tokens"
        ));
    }
    match completion.logprobs.iter().find(|p| !p.is_finite()) {
        Some(bad) => Err(format!("log-probability {bad} is not finite")),
        None => Ok(()),
    }
}
