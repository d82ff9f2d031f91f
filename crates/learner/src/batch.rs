//! Batches from outside, checked and turned into sequences.

use crate::pass::StepError;
use algo::loss::{GlobalCounts, OwnCounts};
use algo::pack::{MicroBatch, PackError, Sequence, Tree, join, pack};
use model::DecoderSpec;
use proto::{SftSample, StateGroup};
use std::collections::HashMap;

/// What the model cannot be given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub vocabulary: i64,
    pub context: i64,
}

impl Limits {
    pub(crate) fn of(spec: &DecoderSpec) -> Self {
        Self {
            vocabulary: spec.vocab_size,
            context: spec.max_context,
        }
    }

    fn check(self, name: &str, tokens: &[u32]) -> Result<(), StepError> {
        let refuse = |problem| {
            Err(StepError::Sample {
                sample: name.to_owned(),
                problem,
            })
        };
        if tokens.len() as i64 > self.context {
            let (length, context) = (tokens.len(), self.context);
            return refuse(format!(
                "{length} tokens do not fit into the context of {context}"
            ));
        }
        match tokens.iter().find(|id| i64::from(**id) >= self.vocabulary) {
            Some(id) => {
                let size = self.vocabulary;
                refuse(format!("token id {id} is not in the vocabulary of {size}"))
            }
            None => Ok(()),
        }
    }
}

/// One sequence per dialogue, numbered in order.
pub(crate) fn dialogues(samples: &[SftSample], limits: Limits) -> Result<Vec<Sequence>, StepError> {
    let mut sequences = Vec::with_capacity(samples.len());
    for (index, sample) in samples.iter().enumerate() {
        let name = format!("dialogue {index}");
        limits.check(&name, &sample.tokens)?;
        if let Some(odd) = sample.mask.iter().find(|m| **m > 1) {
            let problem = format!("a mask entry is {odd}; it must be 0 or 1");
            return Err(StepError::Sample {
                sample: name,
                problem,
            });
        }
        let trained = sample.mask.iter().map(|m| *m == 1).collect();
        sequences.push(Sequence {
            sample: index,
            tokens: sample.tokens.clone(),
            trained,
        });
    }
    Ok(sequences)
}

/// One sequence per action, numbered through all groups, those of one trajectory together.
pub(crate) fn actions(
    groups: &[StateGroup],
    limits: Limits,
) -> Result<Vec<Vec<Sequence>>, StepError> {
    let mut trajectories: Vec<Vec<Sequence>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut number = 0;
    for group in groups {
        let place = *places.entry(&group.trajectory_id).or_insert_with(|| {
            trajectories.push(Vec::new());
            trajectories.len() - 1
        });
        for (index, sample) in group.samples.iter().enumerate() {
            let name = format!("{}, action {index}", group.state_id);
            if let Some(problem) = odd_action(&group.prompt, &sample.tokens, &sample.logprobs) {
                return Err(StepError::Sample {
                    sample: name,
                    problem,
                });
            }
            let sequence = Sequence::action(number, &group.prompt, &sample.tokens);
            limits.check(&name, &sequence.tokens)?;
            trajectories[place].push(sequence);
            number += 1;
        }
    }
    Ok(trajectories)
}

fn odd_action(prompt: &[u32], tokens: &[u32], logprobs: &[f32]) -> Option<String> {
    if prompt.is_empty() {
        return Some("the state has no tokens to act upon".to_owned());
    }
    if tokens.is_empty() {
        return Some("the action has no tokens".to_owned());
    }
    if logprobs.len() != tokens.len() {
        let (given, needed) = (logprobs.len(), tokens.len());
        return Some(format!(
            "{given} log-probabilities for {needed} tokens; send one for each"
        ));
    }
    let bad = logprobs.iter().find(|l| !l.is_finite())?;
    Some(format!(
        "a log-probability is {bad}; the sampler must send finite ones"
    ))
}

/// Tokens of a tree of several groups, at most: with longer ones attention costs more than sharing
/// saves.
const JOINED_TOKENS: usize = 1024;

/// Packs groups of sequences; those of one group share what they have in common, and so do groups
/// that begin alike.
pub(crate) fn packed(
    groups: &[Vec<Sequence>],
    budget: usize,
) -> Result<Vec<MicroBatch>, PackError> {
    let mut trees = Vec::new();
    for group in groups {
        trees.extend(Tree::build(group, budget)?);
    }
    Ok(pack(&join(trees, budget.min(JOINED_TOKENS)), budget))
}

/// What a batch holds, as normalisations count it.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Of each sequence, by its number.
    pub own: Vec<OwnCounts>,
    /// Of all.
    pub global: GlobalCounts,
}

/// Counts sequences grouped by trajectory, which are numbered from 0 without gaps.
pub(crate) fn counts(trajectories: &[Vec<Sequence>]) -> Counts {
    let none = OwnCounts {
        tokens: 0,
        siblings: 0,
    };
    let mut own = vec![none; trajectories.iter().map(Vec::len).sum()];
    let mut global = GlobalCounts {
        tokens: 0,
        sequences: 0,
        trajectories: 0,
    };
    for sequences in trajectories {
        let siblings = sequences.iter().filter(|s| s.trained_tokens() > 0);
        let siblings = siblings.count();
        for sequence in sequences {
            let tokens = sequence.trained_tokens();
            own[sequence.sample] = OwnCounts { tokens, siblings };
            global.tokens += tokens;
        }
        global.sequences += siblings;
        global.trajectories += usize::from(siblings > 0);
    }
    Counts { own, global }
}
