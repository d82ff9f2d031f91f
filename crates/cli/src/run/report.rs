//! What a run shows: a table per question set, the filters' yields, and what to know of the judge.

use super::generate::{Filtered, stored};
use super::overlap::Overlap;
use super::{Run, arms, evaluate};
use crate::folder::RunFolder;
use crate::judges;
use crate::questions::Skipped;
use anyhow::{Context, Result};
use eval::{Interval, OverSeeds, Scores, StepGroup, Summary, Table};
use eval::{compare, over_seeds, summarise};
use proto::{QuestionId, Trajectory};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Decides the resamples of the intervals of differences.
const BOOTSTRAP_SEED: u64 = 0;

/// A report as it lies in `report.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The run's name.
    pub run: String,
    /// What a reader must know before the figures.
    pub notes: Vec<String>,
    /// One entry per question set.
    pub sets: Vec<SetReport>,
    /// Yields of the filters, as in `filter.json`.
    pub filter: Value,
}

/// The models on one question set.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetReport {
    /// The set's name.
    pub set: String,
    /// The table for terminals.
    pub plain: String,
    /// The table in Markdown.
    pub markdown: String,
    /// Rows and differences as data.
    pub table: Value,
    /// SWiRL's accuracy over all seeds, where there are several.
    #[serde(default)]
    pub seeds: Option<OverSeeds>,
    /// SWiRL's gain, over all seeds, over the model it started from and over imitation.
    #[serde(default)]
    pub gains: Vec<Gain>,
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

impl Report {
    /// The report for a terminal.
    pub fn text(&self) -> String {
        self.render(|set| &set.plain)
    }

    fn markdown(&self) -> String {
        format!("# {}\n\n{}", self.run, self.render(|set| &set.markdown))
    }

    fn render(&self, table: impl Fn(&SetReport) -> &String) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "Note: {note}\n");
        }
        for set in &self.sets {
            let _ = writeln!(text, "{}\n\n{}", set.set, table(set));
            if let Some(seeds) = &set.seeds {
                let _ = writeln!(text, "{}\n", mean_of_seeds(seeds));
            }
            for gain in &set.gains {
                let _ = writeln!(text, "{}\n", gain.sentence());
            }
        }
        text
    }
}

impl Gain {
    fn sentence(&self) -> String {
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

fn mean_of_seeds(accuracy: &OverSeeds) -> String {
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

/// Writes `report.json` and `report.md`.
pub fn write(run: &Run) -> Result<()> {
    let text = std::fs::read_to_string(run.folder.yields())?;
    let filtered: Filtered = serde_json::from_str(&text)?;
    let report = Report {
        run: run.config.run.name.clone(),
        notes: notes(run)?,
        sets: sets(run)?,
        filter: serde_json::to_value(&filtered)?,
    };
    let folder = run.folder.path();
    let json = serde_json::to_string_pretty(&report)?;
    crate::files::write_atomically(&folder.join("report.md"), report.markdown().as_bytes())?;
    crate::files::write_atomically(&folder.join("report.json"), json.as_bytes())
}

/// Reads the report of a finished run.
pub fn read(folder: &RunFolder) -> Result<Report> {
    let path = folder.path().join("report.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Tables of models outside of a run.
pub fn summary_table(rows: &[(String, Summary)]) -> String {
    let table = rows.iter().fold(Table::new(), |table, (name, summary)| {
        table.row(name, summary.clone())
    });
    table.plain()
}

fn notes(run: &Run) -> Result<Vec<String>> {
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    let mut notes = Vec::new();
    if judges.process.uses_reference() {
        notes.push(format!(
            "steps were judged by `{}`, which knows the annotated intermediate values and the \
             answer key; no judge model took part.",
            judges.process.name()
        ));
    }
    notes.extend(skipped_note(&run.config.run.skip, &run.skipped));
    notes.extend(run.overlaps.iter().map(overlap_note));
    Ok(notes)
}

fn skipped_note(skip: &[QuestionId], skipped: &[Skipped]) -> Option<String> {
    if skipped.is_empty() {
        return None;
    }
    let from = skipped
        .iter()
        .map(|s| format!("{} of {} in {}", s.left_out, s.questions, s.source));
    let names = skip.iter().map(|id| format!("`{id}`"));
    Some(format!(
        "run.skip left questions out ({}): {}.",
        names.collect::<Vec<_>>().join(", "),
        from.collect::<Vec<_>>().join(", ")
    ))
}

fn overlap_note(overlap: &Overlap) -> String {
    let same_text = overlap.shared.iter().filter(|s| s.same_text).count();
    let same_id = overlap.shared.len() - same_text;
    let mut what = Vec::new();
    if same_text > 0 {
        what.push(format!(
            "{same_text} of {} questions of {:?} were trained on, too",
            overlap.questions, overlap.set
        ));
    }
    if same_id > 0 {
        what.push(format!(
            "{same_id} of {} questions of {:?} share their id, not their text, with one that was \
             trained on",
            overlap.questions, overlap.set
        ));
    }
    format!("{} (evaluation.overlap allows it).", what.join("; "))
}

struct Evaluated {
    arm: String,
    trajectories: Vec<Trajectory>,
}

fn sets(run: &Run) -> Result<Vec<SetReport>> {
    let mut sets: Vec<(String, Vec<Evaluated>)> = Vec::new();
    for evaluation in evaluate::plan(&run.config) {
        let trajectories = kept(
            run,
            &run.folder.evaluation(&evaluation.arm, &evaluation.set),
        )?;
        let evaluated = Evaluated {
            arm: evaluation.arm,
            trajectories,
        };
        match sets.iter_mut().find(|(name, _)| *name == evaluation.set) {
            Some((_, arms)) => arms.push(evaluated),
            None => sets.push((evaluation.set, vec![evaluated])),
        }
    }
    let compared = sets.iter().map(|(_, arms)| compared(run, arms));
    let mut tables = compared.collect::<Result<Vec<Table>>>()?;
    // All tests of the report are one family.
    Table::adjust(&mut tables);
    let both = sets.into_iter().zip(tables);
    both.map(|((set, arms), table)| set_report(run, set, &arms, &table))
        .collect()
}

/// The trajectories of a store without those of questions that are left out.
fn kept(run: &Run, folder: &Path) -> Result<Vec<Trajectory>> {
    let mut all = stored(folder)?;
    all.retain(|trajectory| !run.config.run.skip.contains(&trajectory.item.question));
    Ok(all)
}

/// The model that training started from.
fn start(run: &Run) -> &'static str {
    match run.config.warm_start {
        Some(_) => arms::WARM_START,
        None => evaluate::BASE,
    }
}

/// Every model, and what those that came later gained over the one that training started from.
fn compared(run: &Run, arms: &[Evaluated]) -> Result<Table> {
    let mut table = Table::new();
    for arm in arms {
        table = table.row(&arm.arm, summarise(&arm.trajectories)?);
    }
    let from = start(run);
    if let Some(start) = arms.iter().find(|arm| arm.arm == from) {
        let before = Scores::of(&start.trajectories)?;
        let later = |arm: &&Evaluated| arm.arm != from && arm.arm != evaluate::BASE;
        for arm in arms.iter().filter(later) {
            let paired = compare(&before, &Scores::of(&arm.trajectories)?, BOOTSTRAP_SEED)?;
            table = table.comparison(from, &arm.arm, paired);
        }
    }
    Ok(table)
}

fn set_report(run: &Run, set: String, arms: &[Evaluated], table: &Table) -> Result<SetReport> {
    let seeds = run.config.train.as_ref().map(|train| &train.seeds);
    let trained: Vec<String> = seeds
        .into_iter()
        .flatten()
        .map(|s| arms::swirl(*s))
        .collect();
    let (swirl, others): (Vec<&Evaluated>, Vec<&Evaluated>) =
        arms.iter().partition(|arm| trained.contains(&arm.arm));
    let mut gains = Vec::new();
    if !swirl.is_empty() {
        for other in others {
            if other.arm == start(run) || other.arm == arms::IMITATION {
                gains.push(gain_over(other, &swirl)?);
            }
        }
    }
    let seeds = match swirl.len() {
        0 | 1 => None,
        _ => {
            let shares = swirl
                .iter()
                .map(|arm| Ok(Scores::of(&arm.trajectories)?.shares()));
            over_seeds(&shares.collect::<Result<Vec<_>>>()?, BOOTSTRAP_SEED)
        }
    };
    Ok(SetReport {
        set,
        plain: table.plain(),
        markdown: table.markdown(),
        table: serde_json::to_value(table)?,
        seeds,
        gains,
    })
}

/// What the models of all seeds, one or more, gained over `other`.
fn gain_over(other: &Evaluated, seeds: &[&Evaluated]) -> Result<Gain> {
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
    use super::super::overlap::Shared;
    use super::*;
    use proto::{
        Action, FinishReason, ItemId, Label, Question, ReferenceStep, Span, Step, TrajectoryEnd,
        Verdict, WeightVersion,
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

    /// A question of so many known steps with its answer.
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

    #[test]
    fn notes_tell_what_was_left_out_and_what_is_on_both_sides() {
        let skipped = Skipped {
            source: "questions".into(),
            questions: 220,
            left_out: 2,
        };
        assert_eq!(
            skipped_note(&["q1".into(), "q2".into()], &[skipped]).unwrap(),
            "run.skip left questions out (`q1`, `q2`): 2 of 220 in questions."
        );
        assert_eq!(skipped_note(&[], &[]), None);
        let shared = |same_text| Shared {
            id: "q".into(),
            source: "questions",
            id_there: "q".into(),
            same_text,
        };
        let overlap = Overlap {
            set: "held out".into(),
            questions: 10,
            shared: vec![shared(true), shared(true), shared(false)],
        };
        assert_eq!(
            overlap_note(&overlap),
            "2 of 10 questions of \"held out\" were trained on, too; 1 of 10 questions of \"held \
             out\" share their id, not their text, with one that was trained on \
             (evaluation.overlap allows it)."
        );
    }
}
