//! What happens after a step that cannot be read as one action.

use super::ActionTags;
use proto::MalformedKind;
use serde::{Deserialize, Serialize};

/// What happens to a trajectory whose step cannot be read as one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MalformedPolicy {
    /// The trajectory ends there.
    End,
    /// The model is told what was wrong ([`malformed_message`]) and goes on.
    Observe,
}

/// One policy per kind of malformed step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MalformedPolicies {
    /// Neither a call nor an answer. Default: observe.
    pub no_action: MalformedPolicy,
    /// More than one call, or more than one answer. Default: observe.
    pub several_actions: MalformedPolicy,
    /// A call and an answer. Default: observe.
    pub call_and_answer: MalformedPolicy,
    /// A tag without its counterpart. Default: observe.
    pub unclosed_tag: MalformedPolicy,
    /// Cut off by the length limit. Default: end, since going on would most likely meet the limit
    /// again.
    pub truncated: MalformedPolicy,
}

impl Default for MalformedPolicies {
    fn default() -> Self {
        Self {
            no_action: MalformedPolicy::Observe,
            several_actions: MalformedPolicy::Observe,
            call_and_answer: MalformedPolicy::Observe,
            unclosed_tag: MalformedPolicy::Observe,
            truncated: MalformedPolicy::End,
        }
    }
}

impl MalformedPolicies {
    /// The policy for a kind.
    pub fn of(&self, kind: MalformedKind) -> MalformedPolicy {
        match kind {
            MalformedKind::NoAction => self.no_action,
            MalformedKind::SeveralActions => self.several_actions,
            MalformedKind::CallAndAnswer => self.call_and_answer,
            MalformedKind::UnclosedTag => self.unclosed_tag,
            MalformedKind::Truncated => self.truncated,
        }
    }
}

/// The observation that tells the model what was wrong with its step and how a step ends.
pub fn malformed_message(kind: MalformedKind, tags: &ActionTags) -> String {
    let wrong = match kind {
        MalformedKind::NoAction => "the message has no action",
        MalformedKind::SeveralActions => "the message has more than one action, and none was run",
        MalformedKind::CallAndAnswer => {
            "the message has both a tool call and an answer, and neither was used"
        }
        MalformedKind::UnclosedTag => "a tag of the message has no counterpart",
        MalformedKind::Truncated => "the message was cut off before its action was complete",
    };
    let forms: Vec<String> = tags
        .names()
        .map(|tag| format!("<{tag}>...</{tag}>"))
        .collect();
    format!(
        "Error: {wrong}. End each message with exactly one of {}.",
        forms.join(" or ")
    )
}
