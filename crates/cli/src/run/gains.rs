//! Gains of SWiRL: over all its seeds, over the model that it started from and over imitation.

use super::report::BOOTSTRAP_SEED;
use anyhow::{Context, Result};
use eval::{Interval, OverSeeds, Scores, StepGroup, over_seeds};
use proto::Trajectory;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A model's trajectories on one set of questions.
pub struct Evaluated {
    /// The model's arm.
    pub arm: String,
    /// Every trajectory.
    pub trajectories: Vec<Trajectory>,
}

/// Accuracy gained, over all seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gain {
    /// The model it is compared with.
    pub over: String,
    /// Mean difference in accuracy, its 95 % interval, and the seeds it is over.
    #[serde(flatten)]
    pub gain: OverSeeds,
    /// The same by steps of the known solution; empty where none is known.
    #[serde(default)]
    pub by_steps: Vec<StepGain>,
}

/// A gain on the questions whose known solutions take equally many steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepGain {
    /// Steps, as in `eval::StepGroup`.
    pub steps: usize,
    /// Questions.
    pub questions: usize,
    /// The gain.
    pub gain: OverSeeds,
}

impl Gain {
    /// In words.
    pub fn sentence(&self) -> String {
        let seeds = match self.gain.seeds {
            1 => "one seed: how much another would differ is not in the interval".to_owned(),
            seeds => format!(
                "mean of {seeds} seeds, from {} to {}; the interval is for other seeds and \
                 questions, from the same warm start and trajectories",
                points(self.gain.range[0]),
                points(self.gain.range[1])
            ),
        };
        let mut text = format!(
            "SWiRL over {}: {} ({seeds})",
            self.over,
            with_interval(&self.gain)
        );
        if !self.by_steps.is_empty() {
            let each = self.by_steps.iter().map(|group| {
                let (name, gain) = (StepGroup::name(group.steps), with_interval(&group.gain));
                format!("{name} {gain}")
            });
            let each = each.collect::<Vec<_>>().join("; ");
            let _ = write!(text, "\nBy steps of the known solution: {each}");
        }
        text
    }
}

/// SWiRL's accuracy in words.
pub fn mean_of_seeds(accuracy: &OverSeeds) -> String {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let OverSeeds {
        interval,
        seeds,
        range,
        ..
    } = accuracy;
    // Shares end at 0 and 1, whatever the method.
    format!(
        "SWiRL: accuracy {} % [{}, {}], mean of {seeds} seeds, from {} to {}",
        percent(interval.estimate),
        percent(interval.low.max(0.0)),
        percent(interval.high.min(1.0)),
        percent(range[0]),
        percent(range[1])
    )
}

fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

fn with_interval(gain: &OverSeeds) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = gain.interval;
    format!(
        "{} points [{}, {}]",
        points(estimate),
        points(low),
        points(high)
    )
}

/// Gain of the models of all seeds, one or more, over `other`.
pub fn gain_over(other: &Evaluated, seeds: &[&Evaluated]) -> Result<Gain> {
    let before = Scores::of(&other.trajectories)?;
    let mut differences: Vec<Vec<f64>> = Vec::new();
    for seed in seeds {
        let after = Scores::of(&seed.trajectories)?;
        before.check_same_ids(&after)?;
        let pairs = after.shares().into_iter().zip(before.shares());
        differences.push(pairs.map(|(a, b)| a - b).collect());
    }
    let gain = |differences: &[Vec<f64>]| {
        over_seeds(differences, BOOTSTRAP_SEED).context("an evaluation without a question")
    };
    let groups = eval::steps::groups(&other.trajectories);
    let is_known = groups.keys().any(|steps| *steps > 0);
    let mut by_steps = Vec::new();
    for (steps, ids) in groups.into_iter().filter(|_| is_known) {
        let of_group = |all: &Vec<f64>| -> Vec<f64> {
            let questions = before.iter().zip(all);
            let inside = questions.filter(|((id, _), _)| ids.contains(id));
            inside.map(|(_, difference)| *difference).collect()
        };
        let inside: Vec<Vec<f64>> = differences.iter().map(of_group).collect();
        by_steps.push(StepGain {
            steps,
            questions: ids.len(),
            gain: gain(&inside)?,
        });
    }
    Ok(Gain {
        over: other.arm.clone(),
        gain: gain(&differences)?,
        by_steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{
        Action, FinishReason, ItemId, Label, Question, QuestionId, ReferenceStep, Span, Step,
        TrajectoryEnd, Verdict, WeightVersion,
    };

    fn over(seeds: usize, estimate: f64, range: [f64; 2]) -> OverSeeds {
        OverSeeds {
            interval: Interval {
                estimate,
                low: -0.004,
                high: 0.032,
            },
            seeds,
            range,
            has_seed_variance: seeds > 1,
        }
    }

    #[test]
    fn a_gain_tells_how_many_seeds_it_comes_from_and_on_which_questions_it_is() {
        let gain = |gain, by_steps| Gain {
            over: "imitation".into(),
            gain,
            by_steps,
        };
        assert_eq!(
            gain(over(1, 0.014, [0.014; 2]), Vec::new()).sentence(),
            "SWiRL over imitation: +1.4 points [-0.4, +3.2] (one seed: how much another would \
             differ is not in the interval)"
        );
        let by_steps = [(1, 0.2), (2, -0.005)].map(|(steps, mean)| StepGain {
            steps,
            questions: 100,
            gain: over(3, mean, [0.0; 2]),
        });
        assert_eq!(
            gain(over(3, 0.014, [0.01, 0.02]), by_steps.to_vec()).sentence(),
            "SWiRL over imitation: +1.4 points [-0.4, +3.2] (mean of 3 seeds, from +1.0 to +2.0; \
             the interval is for other seeds and questions, from the same warm start and \
             trajectories)\nBy steps of the known solution: 1 step +20.0 points [-0.4, +3.2]; 2 \
             steps -0.5 points [-0.4, +3.2]"
        );
    }

    #[test]
    fn the_mean_of_seeds_is_a_share() {
        let mut accuracy = over(2, 0.02, [0.01, 0.03]);
        accuracy.interval.low = -0.05;
        assert_eq!(
            mean_of_seeds(&accuracy),
            "SWiRL: accuracy 2.0 % [0.0, 3.2], mean of 2 seeds, from 1.0 to 3.0"
        );
    }

    #[test]
    fn a_gain_is_told_by_steps() {
        let evaluated = |arm: &str, right: [bool; 4]| Evaluated {
            arm: arm.into(),
            trajectories: (0..4).map(|n| answered(n, 1 + n % 2, right[n])).collect(),
        };
        let before = evaluated("warm_start", [false; 4]);
        let seeds = [
            evaluated("swirl-seed1", [true, false, true, false]),
            evaluated("swirl-seed2", [true, false, false, false]),
        ];
        let found = gain_over(&before, &[&seeds[0], &seeds[1]]).unwrap();
        assert!((found.gain.interval.estimate - 0.375).abs() < 1e-12);
        assert_eq!(found.gain.range, [0.25, 0.5]);
        let by_steps: Vec<_> = found
            .by_steps
            .iter()
            .map(|g| (g.steps, g.questions, g.gain.interval.estimate))
            .collect();
        assert_eq!(by_steps, [(1, 2, 0.75), (2, 2, 0.0)]);
        let text = serde_json::to_string(&found).unwrap();
        let again: Gain = serde_json::from_str(&text).unwrap();
        assert_eq!(again.gain, found.gain);
    }

    /// A question of `steps` known steps with its answer.
    fn answered(n: usize, steps: usize, right: bool) -> Trajectory {
        let step = ReferenceStep {
            thought: String::new(),
            tool: "calculator".into(),
            arguments: "1+1".into(),
            result: "2".into(),
        };
        let id = QuestionId(format!("q{n}"));
        let label = if right { Label::Good } else { Label::Bad };
        Trajectory {
            run: "r".into(),
            item: ItemId {
                question: id.clone(),
                sample: 0,
            },
            question: Question {
                id,
                dataset: "d".into(),
                split: "s".into(),
                question: "?".into(),
                answer: "1".into(),
                answer_aliases: Vec::new(),
                reference_steps: vec![step; steps],
            },
            model: "m".into(),
            tokens: vec![0, 1],
            steps: vec![Step {
                sampled: Span { start: 1, end: 2 },
                logprobs: vec![0.0],
                weight_version: WeightVersion(0),
                finish: FinishReason::StopText,
                text: String::new(),
                thought: String::new(),
                action: Action::Answer("1".into()),
                observation: None,
                verdicts: Vec::new(),
            }],
            end: TrajectoryEnd::Answered,
            outcome: Some(Verdict {
                judge: "match".into(),
                model: "1".into(),
                prompt_hash: String::new(),
                label,
                score: 0.0,
                rationale: String::new(),
            }),
        }
    }
}
