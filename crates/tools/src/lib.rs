//! What a model can do besides talk: exact numbers, the calculator, the reader of actions, and the
//! registry that runs tools under limits.
//!
//! Knows nothing about models or actors.

pub mod calculator;
mod nearest;
pub mod number;
pub mod parser;
pub mod registry;
pub mod text;
pub mod units;

pub use calculator::{CalcError, Calculator};
pub use number::Rational;
pub use parser::{
    ActionTags, MalformedPolicies, MalformedPolicy, Parsed, malformed_message, parse_action,
};
pub use registry::{Limits, Registry, Tool, ToolError, ToolReply, UnknownTool};
