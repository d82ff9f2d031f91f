//! What a run shows: a table per question set, the filters' yields, and what to know of the judge.

use super::gains::{Evaluated, Gain, gain_over, mean_of_seeds};
use super::generate::{Filtered, stored};
use super::overlap::Overlap;
use super::{Run, arms, evaluate, unjudged};
use crate::folder::RunFolder;
use crate::judges;
use crate::questions::Skipped;
use anyhow::{Context, Result};
use eval::{OverSeeds, Scores, Summary, Table};
use eval::{compare, over_seeds, summarise};
use proto::{QuestionId, Trajectory};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Decides the resamples of the intervals of differences.
pub(super) const BOOTSTRAP_SEED: u64 = 0;

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
    notes.extend(skipped_note(&run.config.run.skip, &run.skipped));
    notes.extend(run.overlaps.iter().map(overlap_note));
    if filtered.unjudged > 0 {
        notes.push(format!(
            "{} trajectories are left out of training, for the judge gave no verdict on them.",
            filtered.unjudged
        ));
    }
    for arm in arms::names(&run.config) {
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

/// Notes on the share that is left of the updates of arms that trained adapters.
fn adapter_notes(run: &Run) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for arm in arms::names(&run.config) {
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

fn sets(run: &Run, notes: &mut Vec<String>) -> Result<Vec<SetReport>> {
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

#[cfg(test)]
mod tests {
    use super::super::overlap::Shared;
    use super::*;

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
