//! Fresh actions of a batch's states, with rewards.
//!
//! A state whose actions are all rewarded alike has no advantage to learn from. With
//! [`PolicyPlan::refill`] another state is drawn in its place, as dynamic sampling does (DAPO,
//! arXiv 2503.14476, section 3.2), but place by place and of a question as long ([`Picker::at`]):
//! short questions, of which more states teach, do not crowd out the others. A place that stays without after that many draws keeps its first group,
//! so that batches are of one size. States and seeds of a draw follow from its number and the place
//! (TL-1).

use super::TrainingError;
use super::judging::{Judged, judged};
use super::picker::{Picker, numbered};
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

/// Makes batches of fresh actions.
pub(super) struct Maker<'a> {
    pub fleet: &'a Fleet,
    pub plan: &'a PolicyPlan,
    /// The weights that samplers serve.
    pub version: WeightVersion,
}

/// Yield of a batch's draws so far.
struct Drawn {
    /// For each place of the batch the group that it has.
    places: Vec<Option<StateGroup>>,
    sampling: f64,
    judging: f64,
    /// Share of readable actions, summed up over states.
    readable: f64,
    draws: u32,
    states: usize,
    left_out: usize,
}

impl Drawn {
    fn new(places: usize) -> Self {
        Self {
            places: vec![None; places],
            sampling: 0.0,
            judging: 0.0,
            readable: 0.0,
            draws: 0,
            states: 0,
            left_out: 0,
        }
    }

    /// Gives a place its first group, or an informative one.
    fn add(&mut self, place: usize, group: StateGroup) {
        let has = &mut self.places[place];
        if has.is_none() || is_informative(&group) {
            *has = Some(group);
        }
    }

    /// Places without a group to learn from.
    fn open(&self) -> Vec<usize> {
        let is_open = |group: &Option<StateGroup>| !group.as_ref().is_some_and(is_informative);
        let places = self.places.iter().enumerate();
        places
            .filter(|(_, group)| is_open(group))
            .map(|(place, _)| place)
            .collect()
    }

    /// Whether no further draw is wanted. Where every group was left out, others are drawn, which ends:
    /// each uses up the tolerance.
    fn is_enough(&self, plan: &PolicyPlan) -> bool {
        let any = self.places.iter().any(Option::is_some);
        any && (self.draws > plan.refill || self.open().is_empty())
    }

    fn into_batch(self) -> Batch {
        let informative = self.places.len() - self.open().len();
        let once = vec![
            ("sampling_seconds", self.sampling),
            ("judging_seconds", self.judging),
            (
                "well_formed_share",
                self.readable / self.states.max(1) as f64,
            ),
            ("unjudged_groups", self.left_out as f64),
            ("state_draws", f64::from(self.draws)),
            ("sampled_states", self.states as f64),
            ("informative_groups", informative as f64),
        ];
        let groups = self.places.into_iter().flatten().collect();
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
        let mut drawn = Drawn::new(self.plan.states_per_step);
        while !drawn.is_enough(self.plan) {
            self.draw(picker, batch, &mut drawn, tolerance).await?;
        }
        Ok(drawn.into_batch())
    }

    /// Fresh actions for every place that is open.
    async fn draw(
        &self,
        picker: &mut Picker<'_>,
        batch: u64,
        drawn: &mut Drawn,
        tolerance: &mut Tolerance,
    ) -> Result<(), TrainingError> {
        let mut began = Instant::now();
        let mut lap = || {
            let took = std::mem::replace(&mut began, Instant::now()).elapsed();
            took.as_secs_f64()
        };
        let (places, draw) = (drawn.open(), drawn.draws);
        drawn.draws += 1;
        drawn.states += places.len();
        let states: Vec<&State> = places
            .iter()
            .map(|&place| picker.at(batch, place, draw))
            .collect();
        let actions = self
            .actions(&numbered(batch, draw), &places, &states)
            .await?;
        on_policy(&actions, self.version)?; // TL-3
        drawn.sampling += lap();
        let judged = judged(self.fleet, &self.plan.tags, &states, actions).await?;
        drawn.judging += lap();
        let Judged {
            groups,
            well_formed,
            unjudged,
        } = judged;
        drawn.readable += well_formed * places.len() as f64;
        drawn.left_out += unjudged.len();
        leave_out(unjudged, tolerance)?;
        for (place, group) in places.into_iter().zip(groups) {
            if let Some(group) = group {
                drawn.add(place, group);
            }
        }
        Ok(())
    }

    /// Fresh actions of every state, all asked for at once.
    async fn actions(
        &self,
        draw: &str,
        places: &[usize],
        states: &[&State],
    ) -> Result<Vec<Vec<Completion>>, FleetError> {
        let plan = self.plan;
        let requests = places.iter().zip(states).map(|(place, state)| {
            let parts = ["action", draw, &place.to_string()];
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

    /// A batch of which each place was given these groups, in this order.
    fn drawn(draws: u32, places: &[&[&StateGroup]]) -> Drawn {
        let mut drawn = Drawn {
            draws,
            ..Drawn::new(places.len())
        };
        for (place, groups) in places.iter().enumerate() {
            for group in *groups {
                drawn.add(place, (*group).clone());
            }
        }
        drawn
    }

    #[test]
    fn draws_go_on_until_a_batch_is_informative_or_all_are_made() {
        let (a, b) = (&group("a", &[0.0, 1.0]), &group("b", &[1.0, 1.0]));
        // (draws that may follow the first, draws made, the groups of each place, enough)
        let cases: [(u32, u32, &[&[&StateGroup]], bool); 8] = [
            (0, 0, &[&[], &[]], false),
            (0, 1, &[&[], &[]], false), // every group was left out
            (0, 1, &[&[a], &[b]], true),
            (0, 1, &[&[a], &[]], true),
            (2, 1, &[&[a], &[b]], false),
            (2, 1, &[&[a], &[a]], true),
            (2, 3, &[&[a], &[b]], true),
            (2, 3, &[&[], &[]], false),
        ];
        for (refill, draws, places, enough) in cases {
            let drawn = drawn(draws, places);
            assert_eq!(drawn.is_enough(&plan(refill)), enough, "{places:?}");
        }
    }

    #[test]
    fn a_place_keeps_its_first_group_until_it_has_an_informative_one() {
        let alike = |name| group(name, &[1.0, 1.0]);
        let differ = |name| group(name, &[0.0, 1.0]);
        let mut drawn = drawn(
            3,
            &[
                &[&alike("a"), &alike("b")],
                &[&alike("c"), &differ("d")],
                &[&differ("e")],
                &[],
            ],
        );
        (drawn.states, drawn.readable) = (8, 6.0);
        assert_eq!(drawn.open(), [0, 3]);
        let batch = drawn.into_batch();
        assert_eq!(names(&batch), ["a", "d", "e"]);
        let value = |name: &str| {
            let found = batch.once.iter().find(|(known, _)| *known == name);
            found.map(|metric| metric.1)
        };
        assert_eq!(value("informative_groups"), Some(2.0));
        assert_eq!(value("state_draws"), Some(3.0));
        assert_eq!(value("sampled_states"), Some(8.0));
        assert_eq!(value("well_formed_share"), Some(0.75));
    }
}
