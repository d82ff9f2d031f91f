//! Lanes: separate connections between the same two nodes, one for each kind of traffic, so that no
//! kind waits behind another.

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Joining, heartbeats, small orders.
    Control,
    /// Rollout data: prompts, completions, tool calls, verdicts, batches.
    Data,
    /// Weights and files.
    Bulk,
    /// Gradients between learner replicas.
    Gradients,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 4] = [Self::Control, Self::Data, Self::Bulk, Self::Gradients];

    /// The lane's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Bulk => "bulk",
            Self::Gradients => "gradients",
        }
    }

    /// The protocol that TLS agrees on (ALPN, RFC 7301). The number is the version of the wire
    /// protocol: two versions do not agree on any.
    pub fn alpn(self) -> Vec<u8> {
        format!("swirl/1/{}", self.name()).into_bytes()
    }

    /// The lane of a protocol that was agreed on.
    pub fn of_alpn(protocol: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.alpn() == protocol)
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
