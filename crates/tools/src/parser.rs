//! The reader of actions: a step is free reasoning and then exactly one action between tags.
//!
//! - **PA-1 (exactly one).** Only a text with one complete pair of known tags is an action.
//! - **PA-2 (never a part).** What the length limit cut off is `Truncated`, and its text never runs
//!   as if it were complete (OpenRLHF#1252).
//! - **PA-3 (nothing lost).** The thought is the text before the opening tag, unchanged.
//! - **PA-4 (thinking is no action).** Tags inside a thinking section are ordinary text: a model that
//!   quotes its instructions has neither called nor answered.
//!
//! Tags are known when a tool of the [`ActionTags`] or the answer owns them; any other tag is
//! ordinary text, so a call of a tool that is not enabled is no action. Tags are matched exactly:
//! `<Answer>` and `< answer >` are text.
//!
//! Text after the closing tag is not part of the action and is ignored unless it holds a known tag:
//! sampling stops at closing tags, but a token may carry a few characters past them. The step's own
//! text keeps it.
//!
//! A thinking section ends at the first of its closing tags. One that is closed and was never opened
//! began before the text: chat templates open sections in the prompt. One that is never closed hides
//! all that follows, and the step is malformed, as is an action with a section inside.

mod malformed;
mod thinking;

pub use malformed::{MalformedPolicies, MalformedPolicy, malformed_message};

use proto::{Action, FinishReason, MalformedKind, Thinking, ToolCall};
use thinking::Sections;

/// The tag of the final answer.
pub const ANSWER_TAG: &str = "answer";

/// The tags that make an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionTags {
    /// Pairs of tag and tool.
    tools: Vec<(String, String)>,
    thinking: Option<Thinking>,
}

impl ActionTags {
    /// The tags of these tools, as pairs of tag and tool name, and of the answer.
    pub fn new(tools: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            tools: tools.into_iter().collect(),
            thinking: None,
        }
    }

    /// The same, with sections in which nothing is an action; `None`: there are no such sections.
    #[must_use]
    pub fn with_thinking(self, thinking: Option<Thinking>) -> Self {
        Self { thinking, ..self }
    }

    /// The sections in which nothing is an action.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.thinking.as_ref()
    }

    /// Pairs of tag and tool name.
    pub fn tools(&self) -> &[(String, String)] {
        &self.tools
    }

    /// The tag of the final answer.
    pub fn answer(&self) -> &str {
        ANSWER_TAG
    }

    /// The tool that owns a tag.
    pub fn tool_of(&self, tag: &str) -> Option<&str> {
        self.tools
            .iter()
            .find(|(known, _)| known == tag)
            .map(|(_, tool)| tool.as_str())
    }

    /// The tag of a tool.
    pub fn tag_of(&self, tool: &str) -> Option<&str> {
        self.tools
            .iter()
            .find(|(_, known)| known == tool)
            .map(|(tag, _)| tag.as_str())
    }

    /// Every text that means something here: opening and closing tags of actions and of thinking.
    pub fn texts(&self) -> Vec<String> {
        let actions = self
            .names()
            .flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]);
        let thinking = self.thinking.iter().flat_map(|t| [&t.open, &t.close]);
        actions.chain(thinking.cloned()).collect()
    }

    /// What ends an action, the answer's last: stop strings for a sampler.
    pub fn close_tags(&self) -> Vec<String> {
        self.names().map(|tag| format!("</{tag}>")).collect()
    }

    /// An action as the model writes it; `None` for a malformed one or a tool without a tag.
    /// [`parse_action`] reads it back.
    pub fn write(&self, action: &Action) -> Option<String> {
        let (tag, content) = match action {
            Action::Call(call) => (self.tag_of(&call.tool)?, &call.arguments),
            Action::Answer(answer) => (self.answer(), answer),
            Action::Malformed(_) => return None,
        };
        Some(format!("<{tag}>{content}</{tag}>"))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.tools
            .iter()
            .map(|(tag, _)| tag.as_str())
            .chain([self.answer()])
    }
}

/// A step's text, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The text before the first known tag, unchanged; all of it where there is none.
    pub thought: String,
    /// What the step does. Contents of tags are trimmed.
    pub action: Action,
}

/// Reads the action of one step.
///
/// Where several things are wrong, the first of these is reported: `Truncated` (the length limit
/// struck, and a tag or a thinking section is open or no action is complete), `UnclosedTag` (a tag or
/// a section is not closed, a tag is closed without being open, or holds another or a section),
/// `CallAndAnswer`, `SeveralActions`, `NoAction` (no known tag outside thinking, or nothing but
/// blanks between the tags).
pub fn parse_action(text: &str, finish: FinishReason, tags: &ActionTags) -> Parsed {
    let scan = Scan::of(text, tags);
    let thought = text[..scan.first_tag.unwrap_or(text.len())].to_owned();
    let action = match scan.fault(finish) {
        Some(kind) => Action::Malformed(kind),
        None => scan.only_action(tags),
    };
    Parsed { thought, action }
}

/// One opening or closing tag.
struct Marker<'a> {
    tag: &'a str,
    opens: bool,
    start: usize,
    end: usize,
}

fn markers<'a>(text: &'a str, tags: &'a ActionTags) -> impl Iterator<Item = Marker<'a>> {
    text.match_indices('<').filter_map(|(start, _)| {
        let inner = &text[start + 1..];
        let (opens, name) = inner
            .strip_prefix('/')
            .map_or((true, inner), |name| (false, name));
        let tag = tags.names().find(|tag| {
            name.strip_prefix(tag)
                .is_some_and(|rest| rest.starts_with('>'))
        })?;
        let end = text.len() - name.len() + tag.len() + 1;
        Some(Marker {
            tag,
            opens,
            start,
            end,
        })
    })
}

/// What the tags of a text amount to.
struct Scan<'a> {
    first_tag: Option<usize>,
    /// Tag and content of each complete pair.
    complete: Vec<(&'a str, &'a str)>,
    /// A tag or a thinking section is open at the end.
    open: bool,
    /// A tag was closed without being open, or holds another tag or a thinking section.
    broken: bool,
}

impl<'a> Scan<'a> {
    fn of(text: &'a str, tags: &'a ActionTags) -> Self {
        let mut scan = Self {
            first_tag: None,
            complete: Vec::new(),
            open: false,
            broken: false,
        };
        let sections = Sections::of(text, tags.thinking());
        let outside = markers(text, tags).filter(|marker| !sections.hold(marker.start));
        let mut open: Option<Marker<'a>> = None;
        for marker in outside {
            scan.first_tag.get_or_insert(marker.start);
            match (open.take(), marker.opens) {
                (None, true) => open = Some(marker),
                (Some(opened), false) if opened.tag == marker.tag => {
                    scan.broken |= sections.begin_within(opened.end..marker.start);
                    scan.complete
                        .push((opened.tag, &text[opened.end..marker.start]));
                }
                (Some(_), true) => {
                    scan.broken = true;
                    open = Some(marker);
                }
                (None, false) | (Some(_), false) => scan.broken = true,
            }
        }
        scan.open = open.is_some() || sections.open_at_end();
        scan
    }

    fn fault(&self, finish: FinishReason) -> Option<MalformedKind> {
        let cut_off = finish == FinishReason::Length;
        let answers = self
            .complete
            .iter()
            .filter(|(tag, _)| *tag == ANSWER_TAG)
            .count();
        let calls = self.complete.len() - answers;
        if cut_off && (self.open || self.complete.is_empty()) {
            Some(MalformedKind::Truncated)
        } else if self.open || self.broken {
            Some(MalformedKind::UnclosedTag)
        } else if calls > 0 && answers > 0 {
            Some(MalformedKind::CallAndAnswer)
        } else if calls + answers > 1 {
            Some(MalformedKind::SeveralActions)
        } else {
            None
        }
    }

    /// The action of a scan without a fault.
    fn only_action(&self, tags: &ActionTags) -> Action {
        let Some((tag, content)) = self.complete.first() else {
            return Action::Malformed(MalformedKind::NoAction);
        };
        let content = content.trim().to_owned();
        match tags.tool_of(tag) {
            _ if content.is_empty() => Action::Malformed(MalformedKind::NoAction),
            Some(tool) => Action::Call(ToolCall {
                tool: tool.to_owned(),
                arguments: content,
            }),
            None => Action::Answer(content),
        }
    }
}

#[cfg(test)]
mod tests;
