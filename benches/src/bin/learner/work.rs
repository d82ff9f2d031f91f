//! What every program trains on: states of multi-step trajectories with fresh actions, and
//! dialogues, as token ids in one file.

use crate::Kind;
use anyhow::{Context, Result};
use data::{DialogueOptions, Split, Turn, WordMathConfig, dialogues, wordmath};
use model::TurnCodec;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

const SYSTEM: &str = "Solve the problem one step at a time. In each turn, do exactly one thing: \
    either work out one calculation with <math_exp>calculation</math_exp>, or give the final \
    answer with <answer>number</answer>. The result of a calculation comes back to you in the \
    next turn.";

/// A state of a trajectory and the actions sampled in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Which trajectory it is of.
    pub trajectory: usize,
    /// Everything before the action.
    pub prompt: Vec<u32>,
    /// The actions.
    pub actions: Vec<Vec<u32>>,
    /// Log-probabilities that the sampler is taken to have given.
    pub logprobs: Vec<Vec<f32>>,
    /// Advantage of each action.
    pub advantages: Vec<f32>,
}

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// Of the sampler.
    pub temperature: f32,
    /// States in the order of their trajectories.
    pub states: Vec<State>,
    /// Whole trajectories as dialogues; all tokens but the first are trained.
    pub dialogues: Vec<Vec<u32>>,
}

/// How much to make.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Trajectories.
    pub trajectories: usize,
    /// Actions per state.
    pub actions: usize,
    /// Decides everything drawn.
    pub seed: u64,
}

impl Work {
    /// Word problems of three to six model turns, played out; the actions of a state have lengths
    /// like the recorded one's. They are random tokens, which share nothing with each other: the
    /// least that a real policy's actions would share.
    pub fn make(model: &Path, size: Size) -> Result<Self> {
        let codec = TurnCodec::load(model)?;
        let questions = wordmath(&WordMathConfig {
            count: size.trajectories,
            seed: size.seed,
            min_steps: 2,
            max_steps: 5,
            distractors: 1,
            split: Split::Train,
            ..Default::default()
        })?;
        let options = DialogueOptions::default();
        let played = dialogues(&questions, &options).kept;
        let mut rng = ChaCha8Rng::seed_from_u64(size.seed);
        // A tokenizer may have more tokens than the model (Gemma 3's has one for images).
        let rows = model::spec_of(model)?.vocab_size as u32;
        let vocabulary = rows.min(codec.tokenizer().vocab_size() as u32);
        let mut work = Self {
            temperature: 1.0,
            states: Vec::new(),
            dialogues: Vec::new(),
        };
        for (trajectory, (id, turns)) in played.iter().enumerate() {
            let question = questions
                .iter()
                .find(|question| question.id == *id)
                .context("a dialogue is of one of the questions")?;
            let mut tokens = codec.prompt(Some(SYSTEM), &question.question);
            for turn in turns {
                match turn {
                    Turn::Assistant(text) => {
                        let action = codec.action(text);
                        let state = state(
                            trajectory,
                            &tokens,
                            action.len(),
                            vocabulary,
                            size,
                            &mut rng,
                        );
                        work.states.push(state);
                        tokens.extend(action);
                    }
                    Turn::Observation(text) => tokens.extend(codec.observation(text, true)),
                }
            }
            work.dialogues.push(tokens);
        }
        Ok(work)
    }

    /// The numbers of the states of some trajectories.
    pub fn states_of(&self, trajectories: std::ops::Range<usize>) -> Vec<usize> {
        (0..self.states.len())
            .filter(|i| trajectories.contains(&self.states[*i].trajectory))
            .collect()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self, kind: Kind) -> usize {
        let of_state = |state: &State| {
            let longest = state.actions.iter().map(Vec::len).max();
            state.prompt.len() + longest.unwrap_or(0)
        };
        match kind {
            Kind::Packed | Kind::Unpacked => self.states.iter().map(of_state).max(),
            Kind::Sft => self.dialogues.iter().map(Vec::len).max(),
        }
        .unwrap_or(0)
    }

    /// Tokens of all sequences one by one.
    pub fn tokens(&self, kind: Kind) -> usize {
        let of_state = |s: &State| -> usize {
            let actions = s.actions.iter();
            actions.map(|a| s.prompt.len() + a.len()).sum()
        };
        match kind {
            Kind::Packed | Kind::Unpacked => self.states.iter().map(of_state).sum(),
            Kind::Sft => self.dialogues.iter().map(Vec::len).sum(),
        }
    }
}

fn state(
    trajectory: usize,
    prompt: &[u32],
    recorded: usize,
    vocabulary: u32,
    size: Size,
    rng: &mut ChaCha8Rng,
) -> State {
    let actions: Vec<Vec<u32>> = (0..size.actions)
        .map(|_| {
            let length = (recorded as f64 * rng.random_range(0.7..1.3))
                .round()
                .max(1.0) as usize;
            (0..length)
                .map(|_| rng.random_range(0..vocabulary))
                .collect()
        })
        .collect();
    State {
        trajectory,
        prompt: prompt.to_vec(),
        logprobs: actions.iter().map(|a| vec![-1.0; a.len()]).collect(),
        advantages: actions
            .iter()
            .map(|_| rng.random_range(-1.0..1.0))
            .collect(),
        actions,
    }
}
