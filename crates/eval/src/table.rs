//! Results as a table, for terminals and for Markdown.

use crate::{Interval, Paired, ProcessScore, StepGroup, Summary, holm};
use serde::Serialize;
use std::collections::BTreeMap;

/// The head of each column; all but the first are right-aligned.
const HEADS: [&str; 6] = [
    "model",
    "n",
    "accuracy [95 %]",
    "calls/question",
    "well-formed",
    "process score [95 %] (steps judged)",
];

/// One row's difference to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The model compared with, such as `warm start`.
    pub from: String,
    /// The model under comparison, such as `SWiRL`.
    pub to: String,
    /// The difference, `to` less `from`.
    pub paired: Paired,
    /// The test's p-value adjusted for all tests that were made, and how many these are; `None`
    /// where it is the only one.
    pub adjusted: Option<(f64, usize)>,
}

/// Models in rows, such as base, warm start and SWiRL, and their differences below.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    rows: Vec<(String, Summary)>,
    comparisons: Vec<Comparison>,
}

impl Table {
    /// A table without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    #[must_use]
    pub fn row(mut self, model: &str, summary: Summary) -> Self {
        self.rows.push((model.to_owned(), summary));
        self
    }

    /// Adds a difference below the rows.
    #[must_use]
    pub fn comparison(mut self, from: &str, to: &str, paired: Paired) -> Self {
        self.comparisons.push(Comparison {
            from: from.to_owned(),
            to: to.to_owned(),
            paired,
            adjusted: None,
        });
        self
    }

    /// Adjusts the p-values of all tests of several tables for their number (EV-4).
    pub fn adjust<'a>(tables: impl IntoIterator<Item = &'a mut Self>) {
        let mut tested: Vec<(&mut Comparison, f64)> = tables
            .into_iter()
            .flat_map(|table| &mut table.comparisons)
            .filter_map(|comparison| {
                let p = comparison.paired.mcnemar?.p;
                Some((comparison, p))
            })
            .collect();
        let p: Vec<f64> = tested.iter().map(|(_, p)| *p).collect();
        if p.len() < 2 {
            return;
        }
        for ((comparison, _), adjusted) in tested.iter_mut().zip(holm(&p)) {
            comparison.adjusted = Some((adjusted, p.len()));
        }
    }

    /// The table with columns lined up by blanks.
    pub fn plain(&self) -> String {
        let mut out = plain(&self.cells());
        for comparison in &self.comparisons {
            out += &format!("{}\n", sentence(comparison));
        }
        if let Some(cells) = self.cells_by_steps() {
            out += &format!("\n{BY_STEPS}\n{}", plain(&cells));
        }
        out
    }

    /// The table in Markdown; a bar within a name is escaped.
    pub fn markdown(&self) -> String {
        let mut out = markdown(&self.cells());
        for (index, comparison) in self.comparisons.iter().enumerate() {
            out += if index == 0 { "\n" } else { "" };
            out += &format!("- {}\n", sentence(comparison));
        }
        if let Some(cells) = self.cells_by_steps() {
            out += &format!("\n{BY_STEPS}\n\n{}", markdown(&cells));
        }
        out
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let head = HEADS.map(str::to_owned).to_vec();
        let rows = self.rows.iter().map(|(model, summary)| {
            vec![
                model.clone(),
                summary.questions.to_string(),
                percent_interval(summary.accuracy),
                format!("{:.2}", summary.calls_per_question),
                percent(summary.well_formed),
                process(&summary.process, process_cell),
            ]
        });
        std::iter::once(head).chain(rows).collect()
    }

    /// Models in rows and groups of questions in columns; `None` where no solution is known.
    fn cells_by_steps(&self) -> Option<Vec<Vec<String>>> {
        let groups: BTreeMap<usize, usize> = self
            .rows
            .iter()
            .flat_map(|(_, summary)| &summary.by_steps)
            .map(|group| (group.steps, group.questions))
            .collect();
        if groups.is_empty() {
            return None;
        }
        let heads = groups
            .iter()
            .map(|(steps, questions)| format!("{}, n = {questions}", StepGroup::name(*steps)));
        let head = std::iter::once(HEADS[0].to_owned()).chain(heads).collect();
        let rows = self.rows.iter().map(|(model, summary)| {
            let cell = |steps: &usize| {
                let mut found = summary.by_steps.iter();
                let group = found.find(|group| group.steps == *steps);
                group.map_or_else(|| "–".to_owned(), step_cell)
            };
            let cells = groups.keys().map(cell);
            std::iter::once(model.clone()).chain(cells).collect()
        });
        Some(std::iter::once(head).chain(rows).collect())
    }
}

/// Heading of the second table.
const BY_STEPS: &str = "By steps of the known solution: accuracy [95 %], calls, process score";

fn step_cell(group: &StepGroup) -> String {
    let process = process(&group.process, |score| format!("{:.3}", score.score));
    format!(
        "{}, {:.2}, {process}",
        percent_interval(group.accuracy),
        group.calls_per_question
    )
}

fn plain(cells: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let mut out = String::new();
    for row in cells {
        let padded: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| match column {
                0 => format!("{cell:<0$}", width(0)),
                _ => format!("{cell:>0$}", width(column)),
            })
            .collect();
        out += padded.join("  ").trim_end();
        out.push('\n');
    }
    out
}

fn markdown(cells: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (index, row) in cells.iter().enumerate() {
        let escaped: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        out += &format!("| {} |\n", escaped.join(" | "));
        if index == 0 {
            out += &format!("| --- |{}\n", " ---: |".repeat(row.len() - 1));
        }
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn percent_interval(interval: Interval) -> String {
    let Interval {
        estimate,
        low,
        high,
    } = interval;
    format!(
        "{} [{:.1}, {:.1}]",
        percent(estimate),
        100.0 * low,
        100.0 * high
    )
}

/// One judge's score alone; several with their names; a dash where nothing was judged.
fn process(
    scores: &BTreeMap<String, ProcessScore>,
    cell: impl Fn(&ProcessScore) -> String,
) -> String {
    let mut all = scores.iter();
    match (all.len(), all.next()) {
        (1, Some((_, only))) => cell(only),
        (0, _) | (_, None) => "–".to_owned(),
        _ => {
            let named = scores
                .iter()
                .map(|(judge, s)| format!("{judge} {}", cell(s)));
            named.collect::<Vec<_>>().join(", ")
        }
    }
}

fn process_cell(score: &ProcessScore) -> String {
    let Interval { low, high, .. } = score.interval;
    let share = (100.0 * score.judged_share).round();
    format!("{:.3} [{low:.3}, {high:.3}] ({share:.0} %)", score.score)
}

fn sentence(comparison: &Comparison) -> String {
    let Paired {
        questions,
        difference: Interval {
            estimate,
            low,
            high,
        },
        mcnemar,
    } = comparison.paired;
    let points = |value: f64| format!("{:+.1}", 100.0 * value);
    let test = match mcnemar {
        Some(test) => format!(
            "McNemar exact p {}{}, {} won and {} lost",
            p_value(test.p),
            adjusted(comparison.adjusted),
            test.only_second,
            test.only_first
        ),
        None => "several samples a question, so no McNemar test".to_owned(),
    };
    format!(
        "{} − {}: {} points [{}, {}] on the same {questions} questions ({test})",
        comparison.to,
        comparison.from,
        points(estimate),
        points(low),
        points(high)
    )
}

fn adjusted(adjusted: Option<(f64, usize)>) -> String {
    match adjusted {
        Some((p, tests)) => format!(" (adjusted for {tests} tests after Holm p {})", p_value(p)),
        None => String::new(),
    }
}

fn p_value(p: f64) -> String {
    if p < 0.0001 {
        "< 0.0001".to_owned()
    } else {
        format!("= {p:.4}")
    }
}
