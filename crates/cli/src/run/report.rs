//! What a run shows: a table per question set, the filters' yields, and what to know of the judge.

use super::generate::{Filtered, stored};
use super::{Run, arms, evaluate, unjudged};
use crate::folder::RunFolder;
use crate::judges;
use anyhow::{Context, Result};
use eval::{Scores, Summary, Table, compare, summarise};
use proto::Trajectory;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;

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
    /// SWiRL's gain, over all seeds, over the model it started from and over imitation.
    #[serde(default)]
    pub gains: Vec<Gain>,
}

/// Accuracy gained, over all seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gain {
    /// The model it is compared with.
    pub over: String,
    /// Seeds trained.
    pub seeds: usize,
    /// Mean difference in accuracy.
    pub mean: f64,
    /// Smallest and largest difference of a seed.
    pub range: [f64; 2],
    /// 95 % interval of the mean difference: bootstrap over questions, each question's answers
    /// averaged over the seeds.
    pub interval: [f64; 2],
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
            for gain in &set.gains {
                let _ = writeln!(text, "{}\n", gain.sentence());
            }
        }
        text
    }
}

impl Gain {
    fn sentence(&self) -> String {
        let points = |share: f64| format!("{:+.1}", 100.0 * share);
        let seeds = match self.seeds {
            1 => "one seed".to_owned(),
            seeds => format!(
                "mean of {seeds} seeds, from {} to {}",
                points(self.range[0]),
                points(self.range[1])
            ),
        };
        format!(
            "SWiRL over {}: {} points [{}, {}] ({seeds})",
            self.over,
            points(self.mean),
            points(self.interval[0]),
            points(self.interval[1]),
        )
    }
}

/// Writes `report.json` and `report.md`.
pub fn write(run: &Run) -> Result<()> {
    let text = std::fs::read_to_string(run.folder.yields())?;
    let filtered: Filtered = serde_json::from_str(&text)?;
    let mut notes = notes(run, &filtered)?;
    let sets = sets(run, &mut notes)?;
    let report = Report {
        run: run.config.run.name.clone(),
        notes,
        sets,
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

fn notes(run: &Run, filtered: &Filtered) -> Result<Vec<String>> {
    let judges = judges::build(&run.config.judge, &run.config.tools.enabled)?;
    let mut notes = Vec::new();
    if judges.process.uses_reference() {
        notes.push(format!(
            "steps were judged by `{}`, which knows the annotated intermediate values and the \
             answer key; no judge model took part.",
            judges.process.name()
        ));
    }
    if filtered.unjudged > 0 {
        notes.push(format!(
            "{} trajectories are left out of training, for the judge gave no verdict on them.",
            filtered.unjudged
        ));
    }
    for arm in arms::names(run) {
        let states = run.metrics().sum(&arm, arms::UNJUDGED_GROUPS)?;
        if states > 0.0 {
            notes.push(format!(
                "{states} states were left out of the batches of {arm}, for the judge gave no verdict \
                 on an action of theirs."
            ));
        }
    }
    notes.extend(adapter_notes(run)?);
    Ok(notes)
}

/// What is left of the updates of arms that trained adapters.
fn adapter_notes(run: &Run) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for arm in arms::names(run) {
        let Some(update) = model::update_of(&run.folder.model(&arm))? else {
            continue;
        };
        if let (Some(kept), Some(merged)) = (update.kept_share, update.merged_bf16_share) {
            notes.push(format!(
                "`{arm}` is adapters beside their base: {:.1} % of the trained update is in the model \
                 that was evaluated. Merged in bf16, {:.1} % would be; `swirl model merge` stores f32.",
                100.0 * kept,
                100.0 * merged
            ));
        }
    }
    Ok(notes)
}

struct Evaluated {
    arm: String,
    trajectories: Vec<Trajectory>,
}

fn sets(run: &Run, notes: &mut Vec<String>) -> Result<Vec<SetReport>> {
    let mut sets: Vec<(String, Vec<Evaluated>)> = Vec::new();
    for evaluation in evaluate::plan(run) {
        let trajectories = stored(&run.folder.evaluation(&evaluation.arm, &evaluation.set))?;
        let evaluated = Evaluated {
            arm: evaluation.arm,
            trajectories,
        };
        match sets.iter_mut().find(|(name, _)| *name == evaluation.set) {
            Some((_, arms)) => arms.push(evaluated),
            None => sets.push((evaluation.set, vec![evaluated])),
        }
    }
    for (set, arms) in &mut sets {
        let mut all: Vec<_> = arms.iter_mut().map(|arm| &mut arm.trajectories).collect();
        let dropped = unjudged::keep_common(&mut all);
        if dropped > 0 {
            notes.push(format!(
                "{dropped} questions of {set} are left out, for every model, since the judge gave no \
                 verdict on an answer or a step to them."
            ));
        }
    }
    sets.into_iter()
        .map(|(set, arms)| set_report(run, set, &arms))
        .collect()
}

fn set_report(run: &Run, set: String, arms: &[Evaluated]) -> Result<SetReport> {
    let mut table = Table::new();
    for arm in arms {
        table = table.row(&arm.arm, summarise(&arm.trajectories)?);
    }
    let from = match run.config.warm_start {
        Some(_) => arms::WARM_START,
        None => evaluate::BASE,
    };
    if let Some(start) = arms.iter().find(|arm| arm.arm == from) {
        let before = Scores::of(&start.trajectories)?;
        let later = |arm: &&Evaluated| arm.arm != from && arm.arm != evaluate::BASE;
        for arm in arms.iter().filter(later) {
            let paired = compare(&before, &Scores::of(&arm.trajectories)?, BOOTSTRAP_SEED)?;
            table = table.comparison(from, &arm.arm, paired);
        }
    }
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
            if other.arm == from || other.arm == arms::IMITATION {
                gains.push(gain_over(other, &swirl)?);
            }
        }
    }
    Ok(SetReport {
        set,
        plain: table.plain(),
        markdown: table.markdown(),
        table: serde_json::to_value(&table)?,
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
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let by_question: Vec<f64> = (0..before.questions())
        .map(|i| differences.iter().map(|d| d[i]).sum::<f64>() / differences.len() as f64)
        .collect();
    let by_seed: Vec<f64> = differences.iter().map(|d| mean_of(d)).collect();
    let interval = eval::bootstrap_mean(&by_question, BOOTSTRAP_SEED)
        .context("an evaluation without a question")?;
    let least = by_seed.iter().copied().fold(f64::INFINITY, f64::min);
    let most = by_seed.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(Gain {
        over: other.arm.clone(),
        seeds: by_seed.len(),
        mean: interval.estimate,
        range: [least, most],
        interval: [interval.low, interval.high],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_tells_how_many_seeds_it_comes_from() {
        let gain = |seeds, range| Gain {
            over: "imitation".into(),
            seeds,
            mean: 0.014,
            range,
            interval: [-0.004, 0.032],
        };
        assert_eq!(
            gain(1, [0.014; 2]).sentence(),
            "SWiRL over imitation: +1.4 points [-0.4, +3.2] (one seed)"
        );
        assert_eq!(
            gain(3, [0.01, 0.02]).sentence(),
            "SWiRL over imitation: +1.4 points [-0.4, +3.2] (mean of 3 seeds, from +1.0 to +2.0)"
        );
    }
}
