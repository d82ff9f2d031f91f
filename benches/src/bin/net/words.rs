//! What programs are asked, and answer.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::time::Instant;

/// A measurement.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Ask {
    /// Whether it is there.
    Ready,
    /// Round trips, one after the other.
    Sequential {
        /// Bytes of a message, both ways.
        size: usize,
        /// Round trips.
        count: u64,
    },
    /// Round trips, so many under way at any time.
    Pipelined {
        size: usize,
        count: u64,
        window: usize,
    },
    /// Messages that nobody answers, and one call behind them.
    Oneway { size: usize, count: u64 },
    /// An object to one or more processes.
    Bulk { bytes: u64, receivers: usize },
    /// Calls as small as heartbeats, every 2 ms; while an object is sent over and over, or alone.
    Beats {
        count: u64,
        lane: BeatLane,
        beside_bulk: bool,
    },
    /// It may end.
    Quit,
}

/// Where small calls go.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum BeatLane {
    /// Its own socket and thread; heartbeats, answered where they are read.
    Control,
    /// Beside bulk, on the same socket; worked on elsewhere, as what engines are asked.
    Data,
}

/// What a measurement came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// Messages that arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The sum of their numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u64>,
    /// The sums of the words that each receiver got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checksums: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Ask {
    /// Checks that everything arrived, and nothing else.
    pub fn check(&self, answer: &Answer) -> Result<()> {
        let sum = |n: u64| (n.wrapping_mul(n.wrapping_sub(1))) / 2;
        match *self {
            Self::Sequential { count, .. }
            | Self::Pipelined { count, .. }
            | Self::Oneway { count, .. }
            | Self::Beats { count, .. } => {
                if (answer.count, answer.checksum) != (Some(count), Some(sum(count))) {
                    bail!("{self:?}: not what was sent arrived: {answer:?}");
                }
            }
            Self::Bulk { bytes, receivers } => {
                let words = bytes / 8;
                if answer.checksums != vec![sum(words); receivers] {
                    bail!("{self:?}: not what was sent arrived: {answer:?}");
                }
            }
            Self::Ready | Self::Quit => {}
        }
        Ok(())
    }
}

/// A message: its number, then zeros.
pub fn message(number: u64, size: usize, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&number.to_le_bytes());
    buffer.resize(size.max(8), 0);
}

/// The number of a message.
pub fn number(message: &[u8]) -> u64 {
    message
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The answer of calls that were made one after the other.
pub fn timed(began: Instant, mut times: Vec<f64>, sum: u64) -> Answer {
    let seconds = began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((share * times.len() as f64) as usize).copied();
    Answer {
        seconds: Some(seconds),
        p50_us: at(0.5),
        p99_us: at(0.99),
        count: Some(times.len() as u64),
        checksum: Some(sum),
        ..Answer::default()
    }
}

/// The words 0, 1, 2 …
pub fn object(bytes: u64) -> Vec<u8> {
    (0..bytes / 8).flat_map(u64::to_le_bytes).collect()
}

/// The sum of all words.
pub fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0.iter();
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// Answers questions until there are no more.
pub fn serve(mut answer: impl FnMut(&Ask) -> Result<Answer>) -> Result<()> {
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let said = match ask {
            Ask::Quit => Answer::default(),
            ref ask => answer(ask).unwrap_or_else(|error| Answer {
                error: Some(format!("{error:#}")),
                ..Answer::default()
            }),
        };
        writeln!(output, "{}", serde_json::to_string(&said)?)?;
        output.flush()?;
        if ask == Ask::Quit {
            break;
        }
    }
    Ok(())
}
