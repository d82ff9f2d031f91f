//! The thinking sections of a text.

use proto::Thinking;
use std::ops::Range;

/// Where a text thinks, in bytes: each section from its opening tag to behind its closing tag.
#[derive(Debug, Default)]
pub(super) struct Sections {
    /// In order, not overlapping.
    ranges: Vec<Range<usize>>,
    /// The last one has no closing tag and reaches to the end of the text.
    open_at_end: bool,
}

impl Sections {
    pub(super) fn of(text: &str, thinking: Option<&Thinking>) -> Self {
        let Some(thinking) = thinking else {
            return Self::default();
        };
        let mut sections = Self::default();
        let mut next = first_begin(text, thinking);
        while let Some((start, inside)) = next {
            let Some(length) = text[inside..].find(&thinking.close) else {
                sections.ranges.push(start..text.len());
                sections.open_at_end = true;
                break;
            };
            let end = inside + length + thinking.close.len();
            sections.ranges.push(start..end);
            next = text[end..]
                .find(&thinking.open)
                .map(|at| (end + at, end + at + thinking.open.len()));
        }
        sections
    }

    /// Whether a position lies inside a section.
    pub(super) fn hold(&self, position: usize) -> bool {
        self.ranges.iter().any(|range| range.contains(&position))
    }

    /// Whether a section begins inside a range of the text.
    pub(super) fn begin_within(&self, within: Range<usize>) -> bool {
        self.ranges
            .iter()
            .any(|range| within.contains(&range.start))
    }

    /// Whether the last section is not closed.
    pub(super) fn open_at_end(&self) -> bool {
        self.open_at_end
    }
}

/// Where the first section begins, and where its text does. A section that is closed before any is
/// opened has begun before the text.
fn first_begin(text: &str, thinking: &Thinking) -> Option<(usize, usize)> {
    let opened = text.find(&thinking.open);
    let closed = text.find(&thinking.close);
    let began_before = match (closed, opened) {
        (Some(closed), Some(opened)) => closed < opened,
        (closed, _) => closed.is_some(),
    };
    if thinking.begins_open || began_before {
        return Some((0, 0));
    }
    opened.map(|at| (at, at + thinking.open.len()))
}
