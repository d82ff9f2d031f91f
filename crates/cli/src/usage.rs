//! Mistakes that the user can mend on the command line, in the configuration or in the environment,
//! and the exit codes that tell them from failures.

use crate::config::ConfigError;
use crate::ending;
use std::error::Error;

/// What was asked for cannot be done as asked; the message says what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// With a message for the user.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// 3 where it was asked to end, 2 where the user can mend it in the configuration or on the command
/// line, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match () {
        () if ending::is_stop(error) => ending::STOPPED,
        () if error.chain().any(is_usage) => 2,
        () => 1,
    }
}

/// The error with its causes. One that a message before it quotes is not said twice.
pub fn message(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.contains(&cause) {
            _ if said.is_empty() => cause,
            true => said,
            false => format!("{said}: {cause}"),
        }
    })
}

fn is_usage(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<UsageError>()
        || cause.is::<ConfigError>()
        || cause.is::<data::DataError>()
        || cause.is::<data::SelectError>()
        || cause.is::<data::GenerateError>()
        || cause.is::<judge::LlmSetupError>()
        || cause.is::<tools::registry::UnknownTool>()
        || cause.is::<control::phases::PhaseError>()
        || cause
            .downcast_ref::<learner::LearnerError>()
            .is_some_and(is_learner_setting)
        || cause
            .downcast_ref::<transport::certs::CertError>()
            .is_some_and(is_certs_request)
}

/// What a learner refuses of its settings; the rest are files that cannot be read.
fn is_learner_setting(error: &learner::LearnerError) -> bool {
    use learner::LearnerError as E;
    matches!(
        error,
        E::Config(_) | E::Freeze(..) | E::AllFrozen | E::NotRepeatable
    )
}

/// Another `swirl certs` command is what helps; the rest are files that are not as they should be.
fn is_certs_request(error: &transport::certs::CertError) -> bool {
    use transport::certs::CertError as E;
    matches!(
        error,
        E::AuthorityExists { .. }
            | E::NoAuthority { .. }
            | E::NodeExists { .. }
            | E::NoNode { .. }
            | E::Unknown { .. }
            | E::NoRoles
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let path = "none.toml".into();
        let source = std::io::Error::other("it is gone");
        let error = anyhow::Error::new(ConfigError::Read { path, source }).context("no run");
        assert_eq!(
            message(&error),
            "no run: cannot read the configuration none.toml: it is gone"
        );
        let plain = Err::<(), _>(std::io::Error::other("b")).context("a");
        assert_eq!(message(&plain.unwrap_err()), "a: b");
    }
}
