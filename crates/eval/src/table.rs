//! Results as a table, for terminals and for Markdown.

use crate::{Interval, Paired, Summary};
use serde::Serialize;

/// The head of each column; all but the first are right-aligned.
const HEADS: [&str; 6] = [
    "model",
    "n",
    "accuracy [95 %]",
    "calls/question",
    "well-formed",
    "process score",
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
        });
        self
    }

    /// The table with columns lined up by blanks.
    pub fn plain(&self) -> String {
        let cells = self.cells();
        let width = |column: usize| {
            cells
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let mut out = String::new();
        for row in &cells {
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
        for comparison in &self.comparisons {
            out += &format!("{}\n", sentence(comparison));
        }
        out
    }

    /// The table in Markdown; a bar within a name is escaped.
    pub fn markdown(&self) -> String {
        let cells = self.cells();
        let mut out = String::new();
        for (index, row) in cells.iter().enumerate() {
            let escaped: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            out += &format!("| {} |\n", escaped.join(" | "));
            if index == 0 {
                out += &format!("| --- |{}\n", " ---: |".repeat(HEADS.len() - 1));
            }
        }
        for (index, comparison) in self.comparisons.iter().enumerate() {
            out += if index == 0 { "\n" } else { "" };
            out += &format!("- {}\n", sentence(comparison));
        }
        out
    }

    fn cells(&self) -> Vec<[String; 6]> {
        let head = HEADS.map(str::to_owned);
        let rows = self.rows.iter().map(|(model, summary)| {
            [
                model.clone(),
                summary.questions.to_string(),
                percent_interval(summary.accuracy),
                format!("{:.2}", summary.calls_per_question),
                percent(summary.well_formed),
                process(summary),
            ]
        });
        std::iter::once(head).chain(rows).collect()
    }
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
fn process(summary: &Summary) -> String {
    let mut scores = summary.process.iter();
    match (scores.len(), scores.next()) {
        (1, Some((_, only))) => format!("{:.3}", only.score),
        (0, _) | (_, None) => "–".to_owned(),
        _ => {
            let named = summary
                .process
                .iter()
                .map(|(judge, s)| format!("{judge} {:.3}", s.score));
            named.collect::<Vec<_>>().join(", ")
        }
    }
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
            "McNemar exact p {}, {} won and {} lost",
            p_value(test.p),
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

fn p_value(p: f64) -> String {
    if p < 0.0001 {
        "< 0.0001".to_owned()
    } else {
        format!("= {p:.4}")
    }
}
