//! Fresh actions of a batch's states, with rewards.
//!
//! A state whose actions are all rewarded alike has no advantage to learn from. With
//! [`PolicyPlan::refill`] other states are drawn in its place, as dynamic sampling does (DAPO,
//! arXiv 2503.14476, section 3.2); what is still missing after that many draws is filled up with
//! what was drawn first, so that batches are of one size. Draws are numbered, and the states and
//! seeds of a draw follow from its number (TL-1).

use super::TrainingError;
use super::judging::{Judged, judged};
use super::picker::Picker;
use super::policy::{PolicyPlan, State};
use crate::fleet::{Fleet, FleetError};
use crate::seeds;
use control::tolerance::Tolerance;
use proto::{Completion, GenerateRequest, StateGroup, WeightVersion};
use tokio::time::Instant;

/// Groups that steps are made of.
pub(super) struct Batch {
    pub groups: Vec<StateGroup>,
    /// Metrics of how it came about, by name.
    pub once: Vec<(&'static str, f64)>,
}

/// Further draws of states for a batch are numbered above all batches.
const REDRAW: u64 = 1 << 40;

/// Makes batches of fresh actions.
pub(super) struct Maker<'a> {
    pub fleet: &'a Fleet,
    pub plan: &'a PolicyPlan,
    /// The weights that samplers serve.
    pub version: WeightVersion,
}

/// Yield of a batch's draws so far.
#[derive(Default)]
struct Drawn {
    /// Groups whose rewards differ.
    informative: Vec<StateGroup>,
    /// The others.
    alike: Vec<StateGroup>,
    sampling: f64,
    judging: f64,
    readable: f64,
    draws: u32,
    left_out: usize,
}

impl Drawn {
    fn add(&mut self, groups: Vec<StateGroup>) {
        for group in groups {
            match is_informative(&group) {
                true => self.informative.push(group),
                false => self.alike.push(group),
            }
        }
    }

    /// Whether no further draw is wanted. Where every group was left out, others are drawn, which ends:
    /// each uses up the tolerance.
    fn is_enough(&self, plan: &PolicyPlan) -> bool {
        let any = !self.informative.is_empty() || !self.alike.is_empty();
        any && (self.draws > plan.refill || self.informative.len() >= plan.states_per_step)
    }

    fn into_batch(self, size: usize) -> Batch {
        let informative = self.informative.len().min(size);
        let mut groups = self.informative;
        groups.extend(self.alike);
        groups.truncate(size);
        let draws = f64::from(self.draws);
        let once = vec![
            ("sampling_seconds", self.sampling),
            ("judging_seconds", self.judging),
            ("well_formed_share", self.readable / draws),
            ("unjudged_groups", self.left_out as f64),
            ("state_draws", draws),
            ("informative_groups", informative as f64),
        ];
        Batch { groups, once }
    }
}

/// Whether rewards differ within a group, so that some actions are better than others.
fn is_informative(group: &StateGroup) -> bool {
    let mut rewards = group.samples.iter().map(|sample| sample.reward);
    let first = rewards.next();
    rewards.any(|reward| Some(reward) != first)
}

impl Maker<'_> {
    /// The groups of a batch.
    ///
    /// # Errors
    /// When an engine or judge fails for good, or more groups cannot be judged than may be left out.
    pub(super) async fn batch(
        &self,
        picker: &mut Picker<'_>,
        batch: u64,
        tolerance: &mut Tolerance,
    ) -> Result<Batch, TrainingError> {
        let mut drawn = Drawn::default();
        while !drawn.is_enough(self.plan) {
            let number = batch + u64::from(drawn.draws) * REDRAW;
            drawn.draws += 1;
            self.draw(picker, number, &mut drawn, tolerance).await?;
        }
        Ok(drawn.into_batch(self.plan.states_per_step))
    }

    async fn draw(
        &self,
        picker: &mut Picker<'_>,
        number: u64,
        drawn: &mut Drawn,
        tolerance: &mut Tolerance,
    ) -> Result<(), TrainingError> {
        let mut began = Instant::now();
        let mut lap = || {
            let took = std::mem::replace(&mut began, Instant::now()).elapsed();
            took.as_secs_f64()
        };
        let states = picker.of_batch(number);
        let actions = self.actions(number, &states).await?;
        on_policy(&actions, self.version)?; // TL-3
        drawn.sampling += lap();
        let judged = judged(self.fleet, &self.plan.tags, &states, actions).await?;
        drawn.judging += lap();
        let Judged {
            groups,
            well_formed,
            unjudged,
        } = judged;
        drawn.readable += well_formed;
        drawn.left_out += unjudged.len();
        leave_out(unjudged, tolerance)?;
        drawn.add(groups);
        Ok(())
    }

    /// Fresh actions of every state, all asked for at once.
    async fn actions(
        &self,
        number: u64,
        states: &[&State],
    ) -> Result<Vec<Vec<Completion>>, FleetError> {
        let plan = self.plan;
        let requests = states.iter().enumerate().map(|(position, state)| {
            let parts = ["action", &number.to_string(), &position.to_string()];
            GenerateRequest {
                prompt: state.trajectory.prompt(state.step).to_vec(),
                samples: plan.actions_per_state,
                params: plan.params.clone(),
                seed: seeds::derive(plan.seed, &parts),
            }
        });
        self.fleet.sample_all(requests.collect()).await
    }
}

/// Counts the states that are left out, each with its reason.
fn leave_out(
    unjudged: Vec<(String, String)>,
    tolerance: &mut Tolerance,
) -> Result<(), TrainingError> {
    for (state, reason) in unjudged {
        tracing::warn!(
            state,
            reason,
            "An action cannot be judged; its state is left out."
        );
        if !tolerance.leave_out() {
            return Err(TrainingError::Unjudged {
                left_out: tolerance.left_out(),
                allowed: tolerance.allowed(),
                state,
                reason,
            });
        }
    }
    Ok(())
}

/// TL-3: every action was sampled from the weights that its batch begins with.
fn on_policy(groups: &[Vec<Completion>], expected: WeightVersion) -> Result<(), TrainingError> {
    match groups
        .iter()
        .flatten()
        .find(|completion| completion.weight_version != expected)
    {
        Some(stale) => Err(TrainingError::Stale {
            expected,
            found: stale.weight_version,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::RlSample;

    fn group(name: &str, rewards: &[f32]) -> StateGroup {
        let sample = |reward: &f32| RlSample {
            tokens: vec![1],
            logprobs: vec![-1.0],
            reward: *reward,
            weight_version: WeightVersion(0),
        };
        StateGroup {
            state_id: name.to_owned(),
            trajectory_id: name.to_owned(),
            prompt: vec![1],
            samples: rewards.iter().map(sample).collect(),
        }
    }

    fn names(batch: &Batch) -> Vec<&str> {
        batch.groups.iter().map(|g| g.state_id.as_str()).collect()
    }

    fn plan(refill: u32) -> PolicyPlan {
        PolicyPlan {
            refill,
            ..super::super::picker::tests::plan(&[(1, 1)], Default::default())
        }
    }

    #[test]
    fn a_group_is_informative_where_rewards_differ() {
        for (rewards, expected) in [
            (&[][..], false),
            (&[1.0], false),
            (&[1.0, 1.0, 1.0], false),
            (&[0.0, 0.0], false),
            (&[0.0, 1.0], true),
            (&[0.4, 0.4, 0.5], true),
        ] {
            assert_eq!(
                is_informative(&group("g", rewards)),
                expected,
                "{rewards:?}"
            );
        }
    }

    #[test]
    fn draws_go_on_until_a_batch_is_informative_or_all_are_made() {
        // (draws that may follow the first, draws made, informative groups, others, enough)
        for (refill, draws, informative, alike, enough) in [
            (0, 0, 0, 0, false),
            (0, 1, 0, 0, false), // every group was left out
            (0, 1, 1, 3, true),
            (2, 1, 1, 3, false),
            (2, 1, 4, 0, true),
            (2, 2, 5, 3, true),
            (2, 2, 3, 5, false),
            (2, 3, 3, 5, true),
            (2, 3, 0, 0, false),
        ] {
            let mut drawn = Drawn {
                draws,
                ..Drawn::default()
            };
            drawn.add(vec![group("a", &[0.0, 1.0]); informative]);
            drawn.add(vec![group("b", &[1.0, 1.0]); alike]);
            let case = (refill, draws, informative, alike);
            assert_eq!(drawn.is_enough(&plan(refill)), enough, "{case:?}");
        }
    }

    #[test]
    fn informative_groups_come_first_and_others_fill_the_batch_up() {
        let mut drawn = Drawn {
            draws: 2,
            readable: 1.5,
            ..Drawn::default()
        };
        drawn.add(vec![group("a", &[1.0, 1.0]), group("b", &[0.0, 1.0])]);
        drawn.add(vec![group("c", &[0.0, 0.0]), group("d", &[1.0, 0.0])]);
        let batch = drawn.into_batch(3);
        assert_eq!(names(&batch), ["b", "d", "a"]);
        let value = |name: &str| {
            batch
                .once
                .iter()
                .find(|(known, _)| *known == name)
                .map(|m| m.1)
        };
        assert_eq!(value("informative_groups"), Some(2.0));
        assert_eq!(
            (value("state_draws"), value("well_formed_share")),
            (Some(2.0), Some(0.75))
        );
    }
}
