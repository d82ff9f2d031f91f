//! The rewards of a batch's fresh actions.

use super::policy::State;
use crate::fleet::{Fleet, FleetError};
use judge::{Obstacle, StepContext};
use proto::{Action, Completion, RlSample, StateGroup, StepView, Verdict};
use std::collections::HashMap;
use tools::parser::{ActionTags, parse_action};

/// Outcome of judging a batch.
pub(super) struct Judged {
    /// For each state its group with rewards; `None` where it is left out.
    pub groups: Vec<Option<StateGroup>>,
    /// The share of actions that could be read.
    pub well_formed: f64,
    /// States whose groups are left out since an action of theirs cannot be judged, with the reason.
    pub unjudged: Vec<(String, String)>,
}

/// Has all actions of all states judged at once: what bounds the verdicts under way is the judge's
/// own. Actions of one state that read alike are judged once.
///
/// # Errors
/// When no more verdicts can be had.
pub(super) async fn judged(
    fleet: &Fleet,
    tags: &ActionTags,
    states: &[&State],
    completions: Vec<Vec<Completion>>,
) -> Result<Judged, FleetError> {
    let views: Vec<Vec<StepView>> = completions
        .iter()
        .map(|group| group.iter().map(|action| view(action, tags)).collect())
        .collect();
    let all = views.iter().flatten();
    let is_readable = |view: &&StepView| !matches!(view.action, Action::Malformed(_));
    let (readable, total) = (all.clone().filter(is_readable).count(), all.count());
    let verdicts = states
        .iter()
        .zip(views)
        .map(|(state, views)| verdicts(fleet, state, views));
    let verdicts = futures::future::try_join_all(verdicts).await?;
    let mut judged = Judged {
        groups: Vec::with_capacity(states.len()),
        well_formed: readable as f64 / total.max(1) as f64,
        unjudged: Vec::new(),
    };
    for ((state, completions), verdicts) in states.iter().zip(completions).zip(verdicts) {
        match verdicts {
            Ok(verdicts) => {
                let group = group(state, completions, &verdicts);
                judged.groups.push(Some(group));
            }
            Err(reason) => {
                judged.groups.push(None);
                judged.unjudged.push((state.id(), reason));
            }
        }
    }
    Ok(judged)
}

/// The verdicts on a state's actions, or why one of them cannot be had although others can.
async fn verdicts(
    fleet: &Fleet,
    state: &State,
    views: Vec<StepView>,
) -> Result<Result<Vec<Verdict>, String>, FleetError> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut distinct = Vec::new();
    let place_of: Vec<usize> = views
        .into_iter()
        .map(|view| {
            *places.entry(view.text.clone()).or_insert_with(|| {
                distinct.push(view);
                distinct.len() - 1
            })
        })
        .collect();
    let asked = distinct
        .into_iter()
        .map(|step| fleet.judge_step(context(state, step)));
    match futures::future::try_join_all(asked).await {
        Ok(verdicts) => Ok(Ok(place_of.iter().map(|&i| verdicts[i].clone()).collect())),
        Err(error) if error.obstacle() == Obstacle::Verdict => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

fn view(completion: &Completion, tags: &ActionTags) -> StepView {
    let parsed = parse_action(&completion.text, completion.finish, tags);
    StepView {
        text: completion.text.clone(),
        thought: parsed.thought,
        action: parsed.action,
        observation: None,
    }
}

fn context(state: &State, step: StepView) -> StepContext {
    let history = state.trajectory.steps[..state.step]
        .iter()
        .map(StepView::from)
        .collect();
    StepContext::new(state.trajectory.question.clone(), history, step)
}

fn group(state: &State, completions: Vec<Completion>, verdicts: &[Verdict]) -> StateGroup {
    let samples = completions
        .into_iter()
        .zip(verdicts)
        .map(|(completion, verdict)| RlSample {
            tokens: completion.tokens,
            logprobs: completion.logprobs,
            reward: verdict.score,
            weight_version: completion.weight_version,
        })
        .collect();
    StateGroup {
        state_id: state.id(),
        trajectory_id: state.trajectory.item.to_string(),
        prompt: state.trajectory.prompt(state.step).to_vec(),
        samples,
    }
}
