//! Who a certificate is for (CE-1).

use proto::node::{BadNodeName, UnknownRole};
use proto::{Identity, NodeName, Role};
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;
use x509_parser::extensions::GeneralName;

const NODE: &str = "swirl:node/";
const ROLE: &str = "swirl:role/";
/// What begins so is ours; URIs of other schemes are not looked at.
const SCHEME: &str = "swirl:";

/// A certificate does not say who its node is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// The node showed no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// It is no X.509 certificate.
    #[error("it is no certificate: {0}")]
    Malformed(String),
    /// It names no node: something else than `swirl certs` made it.
    #[error("it names no node ({NODE}NAME)")]
    NoName,
    /// It names more than one node.
    #[error("it names two nodes, {0} and {1}")]
    TwoNames(NodeName, NodeName),
    /// It names no role.
    #[error("it names no role ({ROLE}ROLE)")]
    NoRole,
    /// What it names is no node's name.
    #[error(transparent)]
    Name(#[from] BadNodeName),
    /// A role that this version does not know.
    #[error(transparent)]
    Role(#[from] UnknownRole),
    /// Something that this version does not know, and that may take rights away.
    #[error("{0:?} is not known: it comes from another version of swirl")]
    Unknown(String),
}

/// The name and roles that a certificate states. Whether somebody trusted signed it is not looked at.
///
/// # Errors
/// When it does not name exactly one node with at least one role, or says more than this version
/// knows.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, BadIdentity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| BadIdentity::Malformed(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| BadIdentity::Malformed(error.to_string()))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    of_uris(names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    }))
}

fn of_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Identity, BadIdentity> {
    let mut name: Option<NodeName> = None;
    let mut roles: BTreeSet<Role> = BTreeSet::new();
    for uri in uris.filter(|uri| uri.starts_with(SCHEME)) {
        if let Some(text) = uri.strip_prefix(NODE) {
            let new = text.parse()?;
            if let Some(old) = name {
                return Err(BadIdentity::TwoNames(old, new));
            }
            name = Some(new);
        } else if let Some(text) = uri.strip_prefix(ROLE) {
            roles.insert(text.parse()?);
        } else {
            return Err(BadIdentity::Unknown(uri.to_owned()));
        }
    }
    let name = name.ok_or(BadIdentity::NoName)?;
    match roles.is_empty() {
        true => Err(BadIdentity::NoRole),
        false => Ok(Identity { name, roles }),
    }
}

/// The subject alternative names that state an identity.
pub(super) fn names_of(identity: &Identity) -> Result<Vec<SanType>, rcgen::Error> {
    let node = format!("{NODE}{}", identity.name);
    let roles = identity.roles.iter().map(|role| format!("{ROLE}{role}"));
    std::iter::once(node)
        .chain(roles)
        .map(|uri| Ok(SanType::URI(uri.try_into()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ce_1_one_name_and_some_roles() {
        let identity = of_uris(["https://a", "swirl:role/tool", "swirl:node/a"].into_iter());
        assert_eq!(identity.unwrap().to_string(), "a (tool)");
        let cases: [(&[&str], &str); 8] = [
            (&[], "names no node"),
            (&["https://swirl:node/a"], "names no node"),
            (&["swirl:node/a"], "names no role"),
            (&["swirl:role/tool"], "names no node"),
            (&["swirl:node/a", "swirl:node/b"], "two nodes, a and b"),
            (&["swirl:node/A", "swirl:role/tool"], "no name for a node"),
            (&["swirl:node/a", "swirl:role/king"], "\"king\" is no role"),
            (&["swirl:node/a", "swirl:only/data"], "is not known"),
        ];
        for (uris, says) in cases {
            let error = of_uris(uris.iter().copied()).unwrap_err().to_string();
            assert!(error.contains(says), "{uris:?}: {error}");
        }
    }
}
