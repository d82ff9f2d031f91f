//! Nodes of a cluster: what they are called and what they do.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A node's name: at most 63 lower-case letters, digits and hyphens, as in a host name. Unique within
/// a run; it stands in the node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// This cannot be a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name for a node: take 1 to 63 lower-case letters, digits and hyphens, with a letter \
     or digit at both ends"
)]
pub struct BadNodeName(pub String);

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(text: &str) -> Result<Self, BadNodeName> {
        let is_edge =
            |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let fits = bytes.len() <= 63
            && is_edge(bytes.first().copied())
            && is_edge(bytes.last().copied())
            && bytes.iter().all(|&b| is_edge(Some(b)) || b == b'-');
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(BadNodeName(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;

    fn try_from(text: String) -> Result<Self, BadNodeName> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node does in a run. A node may have several roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Leads the run: every other node joins it.
    Controller,
    /// Samples actions.
    Sampler,
    /// Runs tool calls.
    Tool,
    /// Rates steps and answers.
    Judge,
    /// Trains.
    Learner,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Controller,
        Self::Sampler,
        Self::Tool,
        Self::Judge,
        Self::Learner,
    ];

    /// The role's name on the command line, in certificates and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Sampler => "sampler",
            Self::Tool => "tool",
            Self::Judge => "judge",
            Self::Learner => "learner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: take controller, sampler, tool, judge or learner")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let role = Self::ALL.into_iter().find(|role| role.name() == text);
        role.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// Who a node is, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: NodeName,
    /// What it may do.
    pub roles: BTreeSet<Role>,
}

impl fmt::Display for Identity {
    /// `name (role, role)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        write!(f, "{} ({})", self.name, roles.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hosts() {
        for good in ["a", "gpu-07", "0", &"n".repeat(63)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "é",
            "a b",
            &"n".repeat(64),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_bad_name_does_not_come_in_over_the_wire() {
        let bytes = crate::codec::encode(&"../etc".to_owned()).unwrap();
        assert!(crate::codec::decode::<NodeName>(&bytes).is_err());
    }

    #[test]
    fn roles_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert!("trainer".parse::<Role>().is_err());
    }
}
